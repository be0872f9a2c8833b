"""LPIPS with the seeded weights of its golden tensors."""

import numpy as np
import torch

from pentimento.model_patchers.score import lpips

from .golden import GOLDEN, maker

make_lpips = maker("lpips")
FILE = "lpips.safetensors"


def golden():
    with np.load(GOLDEN / "lpips.npz") as file:
        return dict(file)


def tensors(part, net):
    """One of the maker's parts: features, linear or whole."""
    return {name: torch.from_numpy(value) for name, value in getattr(make_lpips, part)(net).items()}


def load(net):
    return lpips.LPIPS(lpips.lpips_weights(tensors("whole", net), FILE), FILE)


def pairs(case):
    """(B, H, W, 3) twice."""
    return tuple(map(torch.from_numpy, make_lpips.pairs(case)))
