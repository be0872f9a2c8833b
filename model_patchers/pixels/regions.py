"""Connected regions of masks, their boxes, and distances to them."""

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from .boxes import Box

EIGHT = np.ones((3, 3), dtype=bool)  # neighbours that touch by an edge or a corner
FOUR = ndimage.generate_binary_structure(2, 1)  # neighbours that touch by an edge


def small_regions(mask: np.ndarray, area: int, structure: np.ndarray = EIGHT) -> tuple[np.ndarray, np.ndarray]:
    """The connected regions of a mask, bool (H, W), and which of them have at most `area` pixels.

    Args:
        structure: EIGHT or FOUR: the neighbours that connect.

    Returns:
        Labels (H, W), 0 outside the mask; and for each label whether its region is small, False for 0.
    """
    labels, _ = ndimage.label(mask, structure=structure)
    small = np.bincount(labels.ravel()) <= area
    small[0] = False
    return labels, small


def depths(hole: Tensor) -> Tensor:
    """(H, W): how far each pixel of a hole is from the nearest known one; there must be one."""
    return torch.from_numpy(ndimage.distance_transform_edt(hole.cpu().numpy())).float().to(hole.device)


def nearest(chosen: Tensor) -> Tensor:
    """(H, W): the number of the chosen pixel nearest to each pixel."""
    y, x = ndimage.distance_transform_edt(~chosen.cpu().numpy(), return_distances=False, return_indices=True)
    return torch.from_numpy(y.astype("int64") * chosen.shape[1] + x).to(chosen.device)


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
