"""Colours of pictures: RGB, brightness, 8-bit levels."""

import numpy as np
import torch
from torch import Tensor

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def to_rgb(image: Tensor) -> Tensor:
    """The colours of a grey, RGB or RGBA picture: (B, H, W, C) -> (B, H, W, 3)."""
    return image.expand(*image.shape[:-1], 3) if image.shape[-1] == 1 else image[..., :3]


def luma(image: Tensor) -> Tensor:
    """The luma of a grey, RGB or RGBA picture, 0.299 R + 0.587 G + 0.114 B: (..., C) -> (...).

    Computed as G + 0.299 (R - G) + 0.114 (B - G): the luma of equal channels is their value, to the bit.
    """
    red, green, blue = to_rgb(image).unbind(-1)
    return green + LUMA[0] * (red - green) + LUMA[2] * (blue - green)


def luma_sum(image: Tensor) -> Tensor:
    """`luma` as the plain weighted sum: (..., C) -> (...). Equal channels keep their value up to rounding alone.

    Fills and depth channels keep their bits from release to release by this order of operations: PatchMatch compares,
    and another rounding would choose other patches.
    """
    rgb = to_rgb(image)
    return (rgb * rgb.new_tensor(LUMA)).sum(-1)


def to_levels(image: Tensor) -> np.ndarray:
    """(H, W, C) in [0, 1], C = 1, 3 or 4 -> uint8 (H, W, 3) on the CPU, the levels of an 8-bit file."""
    return (to_rgb(image).float() * 255).round().clamp(0, 255).to("cpu", torch.uint8).contiguous().numpy()


def put_rgb(image: Tensor, rgb: Tensor, hole: Tensor) -> Tensor:
    """A copy of `image` with the colours `rgb` inside `hole`; everything else keeps its bits.

    Args:
        image: (B, H, W, C). An alpha channel does not change; a grey picture takes the luma of the colours.
        rgb: (B, H, W, 3).
        hole: bool (B, H, W), True where the colours replace those of `image`.
    """
    if image.shape[-1] == 1:
        rgb = luma(rgb)[..., None]
    colours = torch.where(hole[..., None], rgb.to(image), image[..., : rgb.shape[-1]])
    return torch.cat((colours, image[..., rgb.shape[-1] :]), dim=-1)
