"""Change maps (1 = change most) from depth pictures, gradients and masks."""

from collections.abc import Callable

import torch
from torch import Tensor

from ..comfyui.progress import ignore
from ..pixels import blur
from ..pixels.images import luma


def check_levels(black: float, white: float) -> None:
    """Checks that 0 <= black < white <= 1.

    Raises:
        ValueError: They are not.
    """
    if not 0 <= black < white <= 1:
        raise ValueError(
            f"black is {black:g} and white is {white:g}, but black must be below white and both between 0 and 1. "
            "To swap dark and light, use invert."
        )


def levels(value: Tensor, black: float, white: float, gamma: float) -> Tensor:
    """The Levels of image editors: ((v - black) / (white - black))^(1 / gamma), v clamped to black ... white.

    It is computed in float64 on the CPU, as some devices have no float64.
    """
    share = ((value.cpu().double() - black) / (white - black)).clamp(0, 1)
    return (share ** (1 / gamma)).float()


def change_map(
    source: Tensor,
    black: float,
    white: float,
    gamma: float,
    blur_by: int,
    invert: bool,
    progress: Callable[[], None] = ignore,
) -> Tensor:
    """Levels, blur and inversion, in this order.

    Args:
        source: Pictures (B, H, W, C), whose luma is read and whose alpha is ignored, or masks (B, H, W) or (H, W).
        black, white: Values up to black become 0, values from white on 1.
        gamma: Above 1 brightens the values between black and white, below 1 darkens them.
        blur_by: Radius of `blur.opencv` in pixels.
        invert: Swaps 0 and 1 at the end.
        progress: Called after each map.

    Returns:
        float32 (B, H, W) in [0, 1], 1 = change most.

    Raises:
        ValueError: black and white are not in order, gamma is not positive or blur is negative.
    """
    check_levels(black, white)
    if gamma <= 0:
        raise ValueError(f"gamma is {gamma:g} but must be above 0. 1 changes nothing.")
    if blur_by < 0:
        raise ValueError(f"blur is {blur_by} px. Give 0 or more.")
    pictures = source if source.ndim == 4 else source.reshape(-1, *source.shape[-2:])
    maps = []
    for picture in pictures:
        value = luma(picture) if source.ndim == 4 else picture
        value = blur.opencv(levels(value, black, white, gamma), blur_by)
        maps.append(1 - value if invert else value)
        progress()
    return torch.stack(maps)
