"""A stand-in of Real-ESRGAN."""

from pathlib import Path

import torch

from .layers import Shapes, layer
from .weights import random, save_pickle

WIDTH, GROWTH = 16, 32  # Real-ESRGAN is 64 wide and 23 blocks deep


def esrgan(path: Path) -> None:
    """RealESRGAN_x4plus.pth: a pickle with the keys of an RRDBNet of factor 4, one block deep."""
    generator = torch.Generator().manual_seed(0)
    weights = {name: random(name, shape, generator) for name, shape in _shapes()}
    save_pickle({"params_ema": weights}, path)


def _shapes() -> Shapes:
    yield from layer("conv_first", WIDTH, 3, 3, 3)
    for dense in (1, 2, 3):
        for i in range(1, 6):
            out = WIDTH if i == 5 else GROWTH
            yield from layer(f"body.0.rdb{dense}.conv{i}", out, WIDTH + (i - 1) * GROWTH, 3, 3)
    for name in ("conv_body", "conv_up1", "conv_up2", "conv_hr"):
        yield from layer(name, WIDTH, WIDTH, 3, 3)
    yield from layer("conv_last", 3, WIDTH, 3, 3)
