"""A stand-in of GFPGAN."""

from pathlib import Path

import torch
from torch import Tensor

from .layers import Shapes, layer
from .weights import overlapped, save_pickle

LEVELS = 4, 8, 16, 32, 64, 128, 256, 512  # sides of GFPGAN's feature maps
WIDTHS = dict(zip(LEVELS, (512, 512, 512, 512, 512, 256, 128, 64), strict=True))
STYLE = 512


def gfpgan(path: Path) -> None:
    """GFPGANv1.4.pth: {"params_ema": state dict} with GFPGAN's keys and shapes, as loaders know no other."""
    generator = torch.Generator().manual_seed(0)
    save_pickle({"params_ema": {name: _weight(name, shape, generator) for name, shape in _gfpgan_shapes()}}, path)


def _weight(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    if "modulated_conv.weight" in name:  # (1, out, in, k, k)
        return overlapped(name, shape[1:], generator)[None]
    return overlapped(name, shape, generator)


def _gfpgan_shapes() -> Shapes:
    half = {side: width // 2 for side, width in WIDTHS.items()}  # outside the decoder
    yield from layer("conv_body_first", half[512], 3, 1, 1)
    for i, side in enumerate(LEVELS[:0:-1]):
        yield from _block(f"conv_body_down.{i}", half[side], half[side // 2])
    yield from layer("final_conv", half[4], half[4], 3, 3)
    for i, side in enumerate(LEVELS[1:]):
        yield from _block(f"conv_body_up.{i}", half[side // 2], half[side])
        yield from layer(f"toRGB.{i}", 3, half[side], 1, 1)
        for part in ("condition_scale", "condition_shift"):
            yield from layer(f"{part}.{i}.0", half[side], half[side], 3, 3)
            yield from layer(f"{part}.{i}.2", half[side], half[side], 3, 3)
    yield from layer("final_linear", 2 * len(LEVELS) * STYLE, half[4] * 4 * 4)
    yield from _decoder("stylegan_decoder")


def _block(name: str, into: int, out: int) -> Shapes:
    yield from layer(f"{name}.conv1", into, into, 3, 3)
    yield from layer(f"{name}.conv2", out, into, 3, 3)
    yield f"{name}.skip.weight", (out, into, 1, 1)


def _decoder(name: str) -> Shapes:
    for i in range(1, 16, 2):
        yield from layer(f"{name}.style_mlp.{i}", STYLE, STYLE)
    yield f"{name}.constant_input.weight", (1, WIDTHS[4], 4, 4)
    yield from _styled(f"{name}.style_conv1", WIDTHS[4], WIDTHS[4])
    yield from _modulated(f"{name}.to_rgb1", WIDTHS[4], 3, 1)
    yield f"{name}.noises.noise0", (1, 1, 4, 4)
    for i, side in enumerate(LEVELS[1:]):
        into, out = WIDTHS[side // 2], WIDTHS[side]
        yield from _styled(f"{name}.style_convs.{2 * i}", into, out)
        yield from _styled(f"{name}.style_convs.{2 * i + 1}", out, out)
        yield from _modulated(f"{name}.to_rgbs.{i}", out, 3, 1)
        yield f"{name}.noises.noise{2 * i + 1}", (1, 1, side, side)
        yield f"{name}.noises.noise{2 * i + 2}", (1, 1, side, side)


def _styled(name: str, into: int, out: int) -> Shapes:
    yield f"{name}.weight", (1,)
    yield from _modulated(name, into, out, 3)


def _modulated(name: str, into: int, out: int, kernel: int) -> Shapes:
    yield f"{name}.bias", (1, out, 1, 1)
    yield f"{name}.modulated_conv.weight", (1, out, into, kernel, kernel)
    yield from layer(f"{name}.modulated_conv.modulation", into, STYLE)
