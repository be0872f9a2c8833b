"""Regions of similar colour around points."""

from collections.abc import Callable

import torch
from scipy import ndimage
from torch import Tensor

from ..comfyui.points import Point
from ..comfyui.progress import ignore
from ..pixels.regions import EIGHT

ROUNDING = 1e-6  # float32 colours that stand for 8-bit ones lie this close to them; a step of 16 bits is 1.5e-5


def channels(image: Tensor) -> Tensor:
    """What is compared: (..., C) -> (..., C). RGBA is weighted by its alpha, as hidden colours cannot be clicked."""
    if image.shape[-1] < 4:
        return image
    alpha = image[..., 3:]
    return torch.cat((image[..., :3] * alpha, alpha), dim=-1)


def region(picture: Tensor, point: Point, tolerance: float, contiguous: bool) -> Tensor:
    """The pixels whose colour is like the point's: bool (H, W).

    Colours are alike when no channel differs by more than `tolerance`: the rule of GIMP's fuzzy select (select by
    composite) and of OpenCV's floodFill with a fixed range, on the sRGB values as they are.

    Args:
        picture: (H, W, C) in [0, 1], from `channels`.
        point: x, y in pixels; the pixel that it lies in gives the colour.
        tolerance: In [0, 1]; the limit itself still belongs.
        contiguous: Only the part that hangs together with the point over edges or corners of pixels
            (scikit-image's flood with its default connectivity).
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
) -> Tensor:
    """The regions of the positive points together, less those of the negative points.

    Args:
        image: (B, H, W, C), C = 1, 3 or 4. Every picture is searched from the same points, by its own colours.
        positive, negative: Inside the picture.
        tolerance, contiguous: As for `region`.
        progress: Called after each point of each picture.

    Returns:
        The mask, float32 (B, H, W) of 0 and 1, on the image's device.
    """
    mask = image.new_zeros(image.shape[:3], dtype=torch.bool)
    for picture, selected in zip(channels(image), mask, strict=True):
        for points, value in ((positive, True), (negative, False)):
            for point in points:
                selected[region(picture, point, tolerance, contiguous)] = value
                progress()
    return mask.float()
