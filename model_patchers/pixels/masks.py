"""Masks as the host passes them: float tensors (B, H, W), 1 = selected. A hole is a mask made bool: all above 0."""

from math import isqrt
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

EIGHT = np.ones((3, 3), dtype=bool)  # neighbours that touch by an edge or a corner


class Box(NamedTuple):
    """A rectangle in pixels, with the fields of core's BOUNDING_BOX."""

    x: int
    y: int
    width: int
    height: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns, to index (..., H, W)."""
        return slice(self.y, self.y + self.height), slice(self.x, self.x + self.width)

    def expand(self, margin: int, width: int, height: int) -> "Box":
        """Grown by `margin` on every side and cut at the borders of a width x height picture."""
        x, y = max(self.x - margin, 0), max(self.y - margin, 0)
        right, bottom = min(self.x + self.width + margin, width), min(self.y + self.height + margin, height)
        return Box(x, y, right - x, bottom - y)

    def overlaps(self, other: "Box") -> bool:
        return (
            self.x < other.x + other.width
            and other.x < self.x + self.width
            and self.y < other.y + other.height
            and other.y < self.y + self.height
        )

    def union(self, other: "Box") -> "Box":
        x, y = min(self.x, other.x), min(self.y, other.y)
        right = max(self.x + self.width, other.x + other.width)
        bottom = max(self.y + self.height, other.y + other.height)
        return Box(x, y, right - x, bottom - y)


def resize_mask(mask: Tensor, height: int, width: int) -> Tensor:
    """(B, h, w) -> (B, height, width), the strongest value of each cell, so that no thin stroke is lost."""
    return F.adaptive_max_pool2d(mask[:, None], (height, width))[:, 0]


def pair(image: Tensor, mask: Tensor, names: tuple[str, str] = ("image", "mask")) -> tuple[Tensor, Tensor]:
    """Brings pictures and masks together: one mask for each picture, of its size.

    Args:
        image: (B, H, W, C). One picture goes with any number of masks.
        mask: (N, h, w) or (h, w). One mask goes with any number of pictures. Another size is resized when its
            proportions are the picture's (to a pixel); a blank mask, such as Load Image's 64 x 64 one, always fits.
        names: The inputs', for messages.

    Returns:
        The pictures (M, H, W, C) and the masks (M, H, W), M = max(B, N).

    Raises:
        ValueError: The numbers do not match, or the mask has other proportions.
    """
    mask = mask.reshape(-1, *mask.shape[-2:])
    (b, height, width), (n, h, w) = image.shape[:3], mask.shape
    if b != n and 1 not in (b, n):
        raise ValueError(
            f"{names[1]} is a batch of {n} but {names[0]} is a batch of {b}. "
            "Connect one mask for all pictures, or one for each."
        )
    if (h, w) != (height, width):
        if abs(w * height - h * width) <= height + width:
            mask = resize_mask(mask, height, width)
        elif not mask.any():
            mask = mask.new_zeros(n, height, width)
        else:
            raise ValueError(
                f"{names[1]} is {w} x {h} but {names[0]} is {width} x {height}: the proportions differ, so the mask "
                "belongs to another picture. Connect the mask of this picture, or crop and resize both alike."
            )
    m = max(b, n)
    return image.expand(m, -1, -1, -1), mask.to(image.device).expand(m, -1, -1)


def hole_boxes(hole: Tensor, context: int) -> list[Box]:
    """Rectangles that cover a hole, each with `context` pixels of its surroundings, as few as stay small.

    Holes closer than `context` share a rectangle, and no rectangle reaches into another's hole, so each can be filled
    alone and pasted back alone, in any order.

    Args:
        hole: bool (H, W).
        context: Pixels around each hole, cut at the picture's borders.
    """
    height, width = hole.shape
    boxes = bounds(hole)
    while True:  # until the surroundings of none touch another
        joined = join(boxes, (boxes + (0, 0, context, context)).clip(max=(width, height) * 2))
        if len(joined) == len(boxes):
            break
        boxes = joined
    found = [Box(left, top, right - left, bottom - top) for left, top, right, bottom in boxes.tolist()]
    return sorted((box.expand(context, width, height) for box in found), key=lambda box: (box.y, box.x))


def bounds(hole: Tensor) -> np.ndarray:
    """The tight rectangle around each connected part of a hole, bool (H, W): (N, 4) of left, top, right, bottom."""
    labels, _ = ndimage.label(hole.cpu().numpy(), structure=EIGHT)
    found = [(c.start, r.start, c.stop, r.stop) for r, c in ndimage.find_objects(labels)]
    return np.array(found, dtype=np.int64).reshape(-1, 4)


def join(boxes: np.ndarray, reaches: np.ndarray) -> np.ndarray:
    """Joins boxes (N, 4) of left, top, right, bottom whose reaches, (N, 4) like them, touch or overlap: (M, 4).

    Reaches are painted and the connected patches of paint are the new boxes: a hundred thousand cost as little as ten.
    """
    left, top, right, bottom = reaches.T
    paint = np.zeros((bottom.max(initial=0) + 1, right.max(initial=0) + 1), dtype=np.int32)
    for x, y, sign in ((left, top, 1), (right, top, -1), (left, bottom, -1), (right, bottom, 1)):
        np.add.at(paint, (y, x), sign)  # +1 where a reach begins, -1 where it ends
    labels, count = ndimage.label(paint.cumsum(0).cumsum(1)[:-1, :-1], structure=EIGHT)
    group = labels[top, left] - 1
    joined = np.full((count, 4), max(paint.shape))
    joined[:, 2:] = 0
    for side, stronger in enumerate((np.minimum, np.minimum, np.maximum, np.maximum)):
        stronger.at(joined[:, side], group, boxes[:, side])
    return joined


def grow(mask: Tensor, pixels: int) -> Tensor:
    """Grows a mask by a disc; shrinks it when `pixels` is negative.

    Each pixel takes the largest (when shrinking the smallest) value no further than `pixels` from it in a straight
    line: grey-scale dilation and erosion by a flat disc. What lies outside the picture has no say, so a mask that
    touches the picture's border still does when it has shrunk, as if it went on beyond.

    The disc is a stack of rows. The largest value of a row of n comes from two overlapping rows of a power of two,
    and those by doubling (the sparse table of Bender and Farach-Colton, The LCA Problem Revisited, 2000), so the
    work is in proportion to the radius and not to the disc's area.

    Args:
        mask: (..., H, W), bool or float. It comes back itself when `pixels` is 0.
        pixels: The disc's radius.
    """
    if not pixels:
        return mask
    stronger = torch.maximum if pixels > 0 else torch.minimum
    radius, (height, width) = abs(pixels), mask.shape[-2:]
    binary = mask.dtype == torch.bool or bool(((mask == 0) | (mask == 1)).all())
    value = mask.to(torch.uint8) if binary else mask  # bytes take a tenth of the time
    margin = min(radius, width - 1)
    edges = value[..., :1].expand(*value.shape[:-1], margin), value[..., -1:].expand(*value.shape[:-1], margin)
    row, length = torch.cat((edges[0], value, edges[1]), dim=-1), 1  # row[x]: strongest of x ... x + length - 1
    out, run = value.clone(), torch.empty_like(value)
    for dy in range(min(radius, height - 1), -1, -1):
        half = min(isqrt(radius**2 - dy**2), margin)
        while 2 * length <= 2 * half + 1:
            row, length = stronger(row[..., :-length], row[..., length:]), 2 * length
        first, last = margin - half, margin + half + 1 - length
        stronger(row[..., first : first + width], row[..., last : last + width], out=run)
        above, below = out[..., : height - dy, :], out[..., dy:, :]
        stronger(above, run[..., dy:, :], out=above)
        stronger(below, run[..., : height - dy, :], out=below)
    return out.to(mask.dtype)


def blur(values: Tensor, pixels: int) -> Tensor:
    """Gaussian blur of masks, or of a line of one, as OpenCV's GaussianBlur does it with a kernel of 2 `pixels` + 1.

    The standard deviation is OpenCV's own for such a kernel, 0.3 (pixels - 1) + 0.8, and nothing further away than
    `pixels` counts. The picture is mirrored about its outermost pixels, as often as the kernel needs it (OpenCV's
    BORDER_REFLECT_101). The weights sum to 1 in float64: flat parts stay exactly as they are. (Up to a kernel of 9,
    OpenCV has weights ready-made, which differ from these by 0.022 at most.)

    Args:
        values: (N,) or (H, W).
        pixels: The kernel's radius; 0 changes nothing.

    Returns:
        New values of the same shape, dtype and device.
    """
    array = values.double().cpu().numpy()
    return torch.from_numpy(ndimage.gaussian_filter(array, 0.3 * pixels + 0.5, mode="mirror", radius=pixels)).to(values)
