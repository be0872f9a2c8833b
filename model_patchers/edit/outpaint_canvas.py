"""A picture on a larger canvas, and the maps for painting what is new there.

The change map is that of OzzyGT, "Outpainting II - Differential Diffusion", 2024. There a map of what to keep is 255 on
the picture and 50 on the new area and the 50 px of the picture beside it, then blurred by OpenCV's GaussianBlur with a
kernel of 501. The mask of the new area is that of core's ImagePadForOutpaint.
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
SEED = 0  # of patchmatch


class Sides(NamedTuple):
    """By how many pixels the canvas is larger than the picture."""

    left: int
    top: int
    right: int
    bottom: int


def outpaint_canvas(
    image: Tensor, sides: Sides, overlap: int, blur_by: int, change: float, prefill: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures on a larger canvas, the map of how much to change there and the mask of what is new.

    Args:
        image: (B, H, W, C), C = 1, 3 or 4.
        sides: Pixels to add on each side.
        overlap: Pixels of the picture beside each new side that may change too.
        blur_by: Radius of the change map's blur, in pixels.
        change: The change map's value where all may change, 0 ... 1.
        prefill: What the new area holds, one of PREFILLS. See `place`.

    Returns:
        The canvases (B, H', W', C) with the picture's own bits in them, `change_map` and `new_area`, both (1, H', W').

    Raises:
        ValueError: A number of pixels is negative, or `change` is out of its range.
    """
    for name, pixels in {**sides._asdict(), "overlap": overlap, "blur": blur_by}.items():
        if pixels < 0:
            raise ValueError(f"{name} is {pixels} px but must be 0 or more. To make a picture smaller, crop it.")
    if not 0 <= change <= 1:
        raise ValueError(f"change is {change:g} but must be between 0, as it is, and 1, anew.")
    size = image.shape[1:3]
    canvas = place(image, sides, prefill)
    return canvas, change_map(*size, sides, overlap, blur_by, change), new_area(*size, sides, overlap)


def place(image: Tensor, sides: Sides, prefill: str) -> Tensor:
    """The pictures on their canvas: (B, H, W, C) -> (B, H', W', C).

    The new area is opaque. Its colours come from a fill without a model (harmonic, patchmatch), or are those of the
    picture's nearest pixel (edge) or mid grey (grey).
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


def change_map(height: int, width: int, sides: Sides, overlap: int, blur_by: int, change: float) -> Tensor:
    """How much each pixel of the canvas may change: (1, H', W'), from 0, as it is, to `change`.

    What is kept is a rectangle, and a Gaussian blurs rows and columns in turn: so the blurred rectangle is the product
    of its blurred sides.
    """
    y = kept(sides.top, height, sides.bottom, overlap, blur_by)[:, None]
    x = kept(sides.left, width, sides.right, overlap, blur_by)
    return torch.mul(y * -change, x, out=empty(len(y), len(x))).add_(change)[None]


def kept(before: int, length: int, after: int, overlap: int, blur_by: int) -> Tensor:
    """A line of the canvas: 0 in its new parts and `overlap` px beside them, 1 between, blurred."""
    line = torch.zeros(before + length + after)
    first, end = before + overlap * (before > 0), before + length - overlap * (after > 0)
    line[first : max(first, end)] = 1
    return blur.opencv(line, blur_by)


def new_area(height: int, width: int, sides: Sides, overlap: int) -> Tensor:
    """Core's mask for inpainting models: (1, H', W'), 1 in the new area and falling to 0 beside it.

    Core leaves the fall out altogether where twice the overlap reaches the picture's height or width; here it is always
    there, and only the distance to new sides counts.
    """
    y, x = feather(sides.top, height, sides.bottom, overlap), feather(sides.left, width, sides.right, overlap)
    return torch.maximum(y[:, None], x, out=empty(len(y), len(x)))[None]


def feather(before: int, length: int, after: int, overlap: int) -> Tensor:
    """A line of the canvas: 1 in its new parts, ((overlap - d) / overlap)^2 at a distance d from them.

    As in core, d counts from 0 beside the new part before and from 1 beside the one after. In float64, for core's bits.
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
    """Room for a large picture or mask, float32 with any values, in huge pages where the system has them.

    The canvas of a 2048 px picture takes 130 MB. In pages of 4 kB their first touch is two thirds of the node's time.
    """
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.empty(shape)
    memory = mmap.mmap(-1, math.prod(shape) * torch.float32.itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without huge pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.float32).view(shape)
