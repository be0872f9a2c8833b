"""STTN's thin network with seeded weights, and the clip of its golden tensors."""

import json

import numpy as np
import torch

from pentimento.model_patchers.video import sttn as ours

from .golden import GOLDEN, maker

make_sttn = maker("sttn")


def golden():
    with np.load(GOLDEN / "sttn.npz") as file:
        return dict(file)


def weights():
    """Under the names of the published file."""
    shapes = json.loads(str(golden()["shapes"]))
    return {f"netG.{name}": value for name, value in make_sttn.weights(shapes).items()}


def load():
    return ours.STTN(ours.sttn_weights(weights(), "sttn.pth"), "sttn.pth")


def clip():
    """IMAGE (23, 66, 110, 3) and MASK of the same frames."""
    frames, masks = make_sttn.clip()
    return torch.from_numpy(frames).float() / 255, torch.from_numpy(masks).float()
