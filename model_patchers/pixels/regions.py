"""Connected regions of masks: small ones, their boxes, distances to them."""

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from .boxes import Box

EIGHT = np.ones((3, 3), dtype=bool)  # neighbours that touch by an edge or a corner
FOUR = ndimage.generate_binary_structure(2, 1)  # neighbours that touch by an edge


def small_regions(mask: np.ndarray, area: int, structure: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The connected regions of a mask, bool (H, W), and which of them have at most `area` pixels.

    Args:
        structure: EIGHT or FOUR: the neighbours that connect.

    Returns:
        Labels (H, W), 0 outside the mask; bool (labels,): whether the region of each label is small, False for 0.
    """
    labels, _ = ndimage.label(mask, structure=structure)
    small = np.bincount(labels.ravel()) <= area
    small[0] = False
    return labels, small


def depths(hole: Tensor) -> Tensor:
    """(H, W): the distance of each pixel of a hole, bool (H, W), to the nearest pixel outside; there must be one."""
    return torch.from_numpy(ndimage.distance_transform_edt(hole.cpu().numpy())).float().to(hole.device)


def nearest(chosen: Tensor) -> Tensor:
    """(H, W): for each pixel the nearest of the chosen pixels, bool (H, W), as its number y W + x."""
    y, x = ndimage.distance_transform_edt(~chosen.cpu().numpy(), return_distances=False, return_indices=True)
    return torch.from_numpy(y.astype("int64") * chosen.shape[1] + x).to(chosen.device)


def hole_boxes(hole: Tensor, context: int) -> list[Box]:
    """Boxes that cover all regions of a hole, each box with `context` pixels of surroundings, from top to bottom.

    Regions whose boxes are no further than `context` apart share a box. So no box reaches into a region of another
    box, and each can be filled and pasted back alone, in any order.

    Args:
        hole: bool (H, W).
        context: Pixels around the regions, cut at the borders of the picture.
    """
    height, width = hole.shape
    edges = bounds(hole)
    while True:  # a joined box may come close to another one
        reaches = (edges + (0, 0, context, context)).clip(max=(width, height) * 2)
        joined = join(edges, reaches)
        if len(joined) == len(edges):
            break
        edges = joined
    boxes = [Box(left, top, right - left, bottom - top) for left, top, right, bottom in edges.tolist()]
    return sorted((box.expand(context, (height, width)) for box in boxes), key=lambda box: (box.y, box.x))


def around(hole: Tensor) -> Box:
    """The tight box around all pixels of a hole, bool (H, W); there must be one."""
    pixels = hole.cpu().numpy()
    (left, right), (top, bottom) = (np.flatnonzero(pixels.any(axis))[[0, -1]].tolist() for axis in (0, 1))
    return Box(left, top, right + 1 - left, bottom + 1 - top)


def bounds(hole: Tensor) -> np.ndarray:
    """The tight box around each connected region of a hole, bool (H, W): (N, 4) of left, top, right, bottom."""
    labels, _ = ndimage.label(hole.cpu().numpy(), structure=EIGHT)
    slices = ndimage.find_objects(labels)
    edges = [(columns.start, rows.start, columns.stop, rows.stop) for rows, columns in slices]
    return np.array(edges, dtype=np.int64).reshape(-1, 4)


def join(boxes: np.ndarray, reaches: np.ndarray) -> np.ndarray:
    """Boxes joined where their reaches touch or overlap.

    The reaches are painted, and each connected region of paint is one box. Painting a hundred thousand reaches takes
    little longer than painting ten: each writes its four corners, and running sums down and across fill it.

        corners          down             across
        +1  0  0 -1      +1  0  0 -1       1  1  1  0
         0  0  0  0  ->  +1  0  0 -1  ->   1  1  1  0
        -1  0  0 +1       0  0  0  0       0  0  0  0

    Args:
        boxes: (N, 4) of left, top, right, bottom.
        reaches: (N, 4) likewise: each box and as much beside it as joins it to another.

    Returns:
        (M, 4) of left, top, right, bottom.
    """
    left, top, right, bottom = reaches.T
    corners = np.zeros((bottom.max(initial=0) + 1, right.max(initial=0) + 1), dtype=np.int32)
    for x, y, sign in ((left, top, 1), (right, top, -1), (left, bottom, -1), (right, bottom, 1)):
        np.add.at(corners, (y, x), sign)
    paint = corners.cumsum(0).cumsum(1)[:-1, :-1]
    labels, count = ndimage.label(paint, structure=EIGHT)
    group = labels[top, left] - 1  # of each box
    joined = np.full((count, 4), max(corners.shape))
    joined[:, 2:] = 0
    for side, outermost in enumerate((np.minimum, np.minimum, np.maximum, np.maximum)):
        outermost.at(joined[:, side], group, boxes[:, side])
    return joined
