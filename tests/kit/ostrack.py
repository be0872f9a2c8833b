"""OSTrack's thin networks with seeded weights, and the clip of their golden tensors."""

import json

import numpy as np
import torch

from pentimento.model_patchers.video import ostrack as ours

from .golden import GOLDEN, maker

make_ostrack = maker("ostrack")
SIZES = list(make_ostrack.SIZES)


def golden():
    with np.load(GOLDEN / "ostrack.npz") as file:
        return dict(file)


def weights(size="256"):
    """Under the names of the published file."""
    shapes = json.loads(str(golden()[f"{size} shapes"]))
    weights = make_ostrack.weights(shapes, make_ostrack.SIZES[size][0])
    return {f"net.{name}": value for name, value in weights.items()}


def load(size="256"):
    return ours.OSTrack(ours.ostrack_weights(weights(size), "ostrack.pth"), "ostrack.pth")


def clip():
    """IMAGE (10, 120, 160, 3)"""
    return torch.from_numpy(make_ostrack.clip()).float() / 255


def start():
    """The box of the first frame, as BOUNDING_BOX."""
    return dict(zip(("x", "y", "width", "height"), map(int, make_ostrack.START), strict=True))
