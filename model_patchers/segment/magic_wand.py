"""Regions of similar colour around points."""

from collections.abc import Callable

import torch
from scipy import ndimage
from torch import Tensor

from ..comfyui.points import Point
from ..comfyui.progress import ignore
from ..pixels import checks
from ..pixels.regions import EIGHT

ROUNDING = 1e-6  # above the rounding errors of 8-bit colours in float32, below a step of 16-bit colours, 1.5e-5


def channels(image: Tensor) -> Tensor:
    """The channels to compare, (..., C) -> (..., C): RGBA colours are multiplied by alpha, so hidden ones are equal."""
    if image.shape[-1] < 4:
        return image
    alpha = image[..., 3:]
    shown = torch.where(alpha == 0, 0, image[..., :3] * alpha)  # a product with 0 would keep NaN
    return torch.cat((shown, alpha), dim=-1)


def region(picture: Tensor, point: Point, tolerance: float, contiguous: bool) -> Tensor:
    """The pixels of the point's colour, bool (H, W).

    Two colours are alike if no channel differs by more than `tolerance`: the rule of GIMP's fuzzy select (select by
    composite) and of OpenCV's floodFill with a fixed range. The values are compared as sRGB, without conversion.

    Args:
        picture: (H, W, C) in [0, 1], from `channels`.
        point: x, y in pixels; its pixel gives the colour.
        tolerance: In [0, 1], inclusive.
        contiguous: Only the area connected to the point by edges or corners of pixels (scikit-image's flood with its
            default connectivity).
    """
    x, y = int(point[0]), int(point[1])
    alike = ((picture - picture[y, x]).abs() <= tolerance + ROUNDING).all(-1)
    if not contiguous:
        return alike
    labels, _ = ndimage.label(alike.cpu().numpy(), structure=EIGHT)
    return torch.from_numpy(labels == labels[y, x]).to(picture.device)


def select(
    image: Tensor,
    positive: list[Point],
    negative: list[Point],
    tolerance: float,
    contiguous: bool,
    progress: Callable[[], None] = ignore,
    region: Callable[[Tensor, Point, float, bool], Tensor] = region,
) -> Tensor:
    """The regions of all positive points, without the regions of the negative points.

    Args:
        image: (B, H, W, C), C = 1, 3 or 4. The points are the same for every picture, the colours are its own.
        positive, negative: Points inside the picture.
        tolerance, contiguous: As for `region`.
        progress: Called after each point of each picture.
        region: `region`, or a function that equals it and remembers what it returned.

    Returns:
        The mask, float32 (B, H, W) of 0 and 1, on the image's device.

    Raises:
        ValueError: A pixel is not finite, and alpha does not hide it.
    """
    shown = channels(image)
    checks.finite(shown, "image")
    mask = image.new_zeros(image.shape[:3], dtype=torch.bool)
    for picture, selected in zip(shown, mask, strict=True):
        for points, value in ((positive, True), (negative, False)):
            for point in points:
                selected[region(picture, point, tolerance, contiguous)] = value
                progress()
    return mask.float()
