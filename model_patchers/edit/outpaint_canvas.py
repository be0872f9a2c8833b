"""A picture on a larger canvas, with the maps for painting the new area.

The change map follows OzzyGT, "Outpainting II - Differential Diffusion", 2024: a map that is 255 on the picture (keep),
and 50 on the new area and the 50 px of the picture beside it, blurred by OpenCV's GaussianBlur with a kernel of 501.
The mask of the new area is that of core's ImagePadForOutpaint.
"""

import contextlib
import math
import mmap
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..fill.fill_without_model import fill
from ..pixels import blur

PREFILLS = ["harmonic", "patchmatch", "edge", "grey"]
GREY = 0.5
SEED = 0  # for patchmatch


class Sides(NamedTuple):
    """The pixels that the canvas adds on each side of the picture."""

    left: int
    top: int
    right: int
    bottom: int


def outpaint_canvas(
    image: Tensor, sides: Sides, overlap: int, blur_by: int, change: float, prefill: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures on a larger canvas, the change map there and the mask of the new area.

    Args:
        image: (B, H, W, C), C = 1, 3 or 4.
        sides: Pixels to add on each side.
        overlap: Pixels of the picture beside each new side that may change too.
        blur_by: Radius of the change map's blur, in pixels.
        change: The change map's value in the new area, 0 ... 1.
        prefill: The content of the new area, one of PREFILLS. See `place`.

    Returns:
        The canvases (B, H', W', C), in which the pictures keep their bits, then `canvas_change_map` and `new_area`,
        both (1, H', W').

    Raises:
        ValueError: A number of pixels is negative, or `change` is out of its range.
    """
    for name, pixels in {**sides._asdict(), "overlap": overlap, "blur": blur_by}.items():
        if pixels < 0:
            raise ValueError(f"{name} is {pixels} px but must be 0 or more. To make a picture smaller, crop it.")
    if not 0 <= change <= 1:
        raise ValueError(f"change is {change:g} but must be between 0 (keep) and 1 (repaint from noise).")
    size = image.shape[1:3]
    canvas = place(image, sides, prefill)
    return canvas, canvas_change_map(*size, sides, overlap, blur_by, change), new_area(*size, sides, overlap)


def place(image: Tensor, sides: Sides, prefill: str) -> Tensor:
    """The pictures on their canvas: (B, H, W, C) -> (B, H', W', C).

    The new area is opaque. Its colours come from a fill without a model (harmonic, patchmatch) or from the picture's
    nearest pixel (edge), or are mid grey (grey).
    """
    batch, height, width, channels = image.shape
    canvas = empty(batch, sides.top + height + sides.bottom, sides.left + width + sides.right, channels)
    canvas[..., :3] = GREY
    canvas[..., 3:] = 1
    canvas[:, sides.top : sides.top + height, sides.left : sides.left + width] = image
    if prefill == "edge":
        colours = image[..., :3].movedim(-1, 1)
        around = (sides.left, sides.right, sides.top, sides.bottom)
        canvas[..., :3] = F.pad(colours, around, mode="replicate").movedim(1, -1)
    elif prefill != "grey":
        return fill(canvas, new_area(height, width, sides, 0), prefill, SEED)
    return canvas


def canvas_change_map(height: int, width: int, sides: Sides, overlap: int, blur_by: int, change: float) -> Tensor:
    """The canvas's change map: (1, H', W'), from 0 (keep) to `change`.

    It is change (1 - y x): the part to keep is a rectangle, and a Gaussian blurs rows and columns separately. So the
    blurred rectangle is the product of the blurred lines y and x.
    """
    y = keep_line(sides.top, height, sides.bottom, overlap, blur_by)[:, None]
    x = keep_line(sides.left, width, sides.right, overlap, blur_by)
    return torch.mul(y * -change, x, out=empty(len(y), len(x))).add_(change)[None]


def keep_line(before: int, length: int, after: int, overlap: int, blur_by: int) -> Tensor:
    """What to keep along one axis of the canvas: 0 in the new parts and `overlap` px beside them, 1 between; blurred.

    Args:
        before, length, after: The picture's length, and the new parts before and after it.
    """
    line = torch.zeros(before + length + after)
    first, end = before + overlap * (before > 0), before + length - overlap * (after > 0)
    line[first : max(first, end)] = 1
    return blur.opencv(line, blur_by)


def new_area(height: int, width: int, sides: Sides, overlap: int) -> Tensor:
    """Core's mask for inpainting models: (1, H', W'), 1 in the new area, and a feather that falls to 0 beside it.

    Core drops the feather where twice the overlap reaches the picture's height or width. Here the feather is always
    there, and falls with the distance to the nearest new side.
    """
    y = feather_line(sides.top, height, sides.bottom, overlap)
    x = feather_line(sides.left, width, sides.right, overlap)
    return torch.maximum(y[:, None], x, out=empty(len(y), len(x)))[None]


def feather_line(before: int, length: int, after: int, overlap: int) -> Tensor:
    """The mask of the new area along one axis: 1 in the new parts, ((overlap - d) / overlap)^2 at distance d from them.

    As in core, d is 0 for the pixel next to the new part before the picture, and 1 for the pixel next to the new part
    after it. Float64 makes core's bits.

    Args:
        before, length, after: As in `keep_line`.
    """
    x = torch.arange(length, dtype=torch.double)
    d = torch.full_like(x, overlap)
    if before:
        d = torch.minimum(d, x)
    if after:
        d = torch.minimum(d, length - x)
    v = (overlap - d) / max(overlap, 1)
    return F.pad((v * v).float(), (before, after), value=1)


def empty(*shape: int) -> Tensor:
    """An uninitialised float32 tensor for a large picture or mask, in huge pages where the system has them.

    The canvas of a 2048 px picture takes 130 MB. With pages of 4 kB, the first write to them is two thirds of the
    node's time.
    """
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.empty(shape)
    memory = mmap.mmap(-1, math.prod(shape) * torch.float32.itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without huge pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.float32).view(shape)
