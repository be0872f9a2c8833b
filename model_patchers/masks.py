"""Masks as the host passes them: float tensors (B, H, W), 1 = selected. A hole is a mask made bool: all above 0."""

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


def pair(image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Brings pictures and masks together: one mask for each picture, of its size.

    Args:
        image: (B, H, W, C). One picture goes with any number of masks.
        mask: (N, h, w) or (h, w). One mask goes with any number of pictures. Another size is resized when its
            proportions are the picture's (to a pixel); a blank mask, such as Load Image's 64 x 64 one, always fits.

    Returns:
        The pictures (M, H, W, C) and the masks (M, H, W), M = max(B, N).

    Raises:
        ValueError: The numbers do not match, or the mask has other proportions.
    """
    mask = mask.reshape(-1, *mask.shape[-2:])
    (b, height, width), (n, h, w) = image.shape[:3], mask.shape
    if b != n and 1 not in (b, n):
        raise ValueError(
            f"mask is a batch of {n} but image is a batch of {b}. Connect one mask for all pictures, or one for each."
        )
    if (h, w) != (height, width):
        if abs(w * height - h * width) <= height + width:
            mask = resize_mask(mask, height, width)
        elif not mask.any():
            mask = mask.new_zeros(n, height, width)
        else:
            raise ValueError(
                f"mask is {w} x {h} but image is {width} x {height}: the proportions differ, so the mask belongs to "
                "another picture. Connect the mask of this picture, or crop and resize both alike."
            )
    m = max(b, n)
    return image.expand(m, -1, -1, -1), mask.to(image.device).expand(m, -1, -1)


def hole_boxes(hole: Tensor, context: int) -> list[Box]:
    """Rectangles that cover a hole, each with `context` pixels of its surroundings, as few as stay small.

    Holes closer than `context` share a rectangle, and no rectangle cuts through a hole, so each can be filled alone
    and pasted back alone, in any order.

    Args:
        hole: bool (H, W).
        context: Pixels around each hole, cut at the picture's borders.
    """
    height, width = hole.shape
    pixels = hole.cpu().numpy()
    near = ndimage.maximum_filter(pixels, size=context + 1) if context else pixels
    labels, _ = ndimage.label(near, structure=EIGHT)
    labels[~pixels] = 0
    holes = [
        Box(columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start)
        for rows, columns in filter(None, ndimage.find_objects(labels))
    ]
    return [box.expand(context, width, height) for box in _merge(holes, context, width, height)]


def _merge(holes: list[Box], context: int, width: int, height: int) -> list[Box]:
    """Joins holes until the surroundings of none reach into another."""
    done: list[Box] = []
    waiting = list(holes)
    while waiting:
        box = waiting.pop()
        reach = box.expand(context, width, height)
        for other in done:
            if reach.overlaps(other):
                done.remove(other)
                waiting.append(box.union(other))
                break
        else:
            done.append(box)
    return sorted(done, key=lambda box: (box.y, box.x))


def grow(hole: Tensor, pixels: int) -> Tensor:
    """A bool mask (H, W) grown by a disc of that radius: every pixel no further than `pixels` from the hole."""
    if not pixels or not hole.any():
        return hole
    distance = ndimage.distance_transform_edt(~hole.cpu().numpy())
    return torch.from_numpy(distance <= pixels).to(hole.device)
