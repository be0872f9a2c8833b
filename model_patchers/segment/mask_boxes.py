"""Boxes made into masks, and masks made into boxes."""

from collections.abc import Callable

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from ..comfyui.progress import ignore
from ..pixels.boxes import Box
from ..pixels.masks import selected
from ..pixels.regions import EIGHT, small_regions


def masks_of(boxes: list[list[Box]], height: int, width: int, each: bool) -> Tensor:
    """The masks of boxes, which are 1 inside a box and 0 elsewhere.

    Args:
        boxes: Of each picture, inside its borders; of a box with fractions the pixels of `Box.whole`.
        height, width: Of the pictures.
        each: A mask for each box, picture by picture, not one for each picture.

    Returns:
        float32 (N, height, width). Where there is no box at all, `each` gives a single blank mask, because most nodes
        fail on an empty batch.
    """
    groups = [[box] for entries in boxes for box in entries] or [[]] if each else boxes
    # The system provides the zeros of np.zeros, which take no memory until they are written to.
    masks = np.zeros((len(groups), height, width), dtype=np.float32)
    for mask, group in zip(masks, groups, strict=True):
        for box in group:
            mask[box.whole.slices] = 1
    return torch.from_numpy(masks)


def boxes_of(
    masks: Tensor, min_area: int = 0, padding: int = 0, progress: Callable[[int], None] = ignore
) -> list[list[Box]]:
    """The tight box around each connected region of each mask, from top to bottom, then from left to right.

    Pixels that touch by an edge or a corner are connected.

    Args:
        masks: (B, H, W) in [0, 1]; what they select is `masks.selected`.
        min_area: Regions with fewer pixels have no box.
        padding: Pixels that each box grows on every side, cut at the borders of the mask.
        progress: Called after each mask.
    """
    boxes = []
    for mask in masks:
        labels, small = small_regions(selected(mask).cpu().numpy(), min_area - 1, EIGHT)
        tight = [
            Box(columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start)
            for (rows, columns), dropped in zip(ndimage.find_objects(labels), small[1:], strict=True)
            if not dropped
        ]
        tight.sort(key=lambda box: (box.y, box.x))
        boxes.append([box.expand(padding, labels.shape) for box in tight])
        progress(1)
    return boxes
