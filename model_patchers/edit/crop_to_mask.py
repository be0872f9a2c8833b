"""Crops of the regions around a mask, all resized to one size, as diffusers' padding_mask_crop makes them.

`region` equals get_crop_region of diffusers' VaeImageProcessor, and `letterbox` its resize mode "fill" (Apache-2.0;
written afresh). Here pictures stay in float32, while diffusers rounds them to 8 bits.
"""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..comfyui.progress import Progress
from ..pixels.boxes import Box
from ..pixels.images import to_rgb
from ..pixels.masks import pair, selected
from ..pixels.regions import around, bounds, join
from ..pixels.resample import resize

REGIONS = ["one", "each hole"]
MAX_REGIONS = 256  # crops of 1024 x 1024 then take 4 GB


class Crops(NamedTuple):
    """Crops, and what Paste Back needs to put them back. Crop i * len(boxes) + j shows region j of picture i.

    Attributes:
        image: (M, H, W, C), the whole pictures.
        mask: (M, H, W).
        boxes: The regions, the same for all pictures; none overlaps another.
        crop: (M * len(boxes), height, width, 3), before they are edited.
        crop_mask: (M * len(boxes), height, width).
    """

    image: Tensor
    mask: Tensor
    boxes: list[Box]
    crop: Tensor
    crop_mask: Tensor


def region(box: Box, size: tuple[int, int], padding: int, width: int, height: int) -> Box:
    """A box with padding, lengthened along one axis to the proportions width : height.

    The padding is cut at the picture's borders. A region that crosses a border is moved inside; one that is longer than
    the picture is as long as the picture.

    Args:
        box: Around the mask.
        size: (H, W) of the picture.
        padding: Pixels of the picture, on every side.
        width, height: Of the crops.
    """
    box = box.expand(padding, size)
    if box.width / box.height > width / height:
        y, region_height = _lengthen(box.y, box.height, box.width / (width / height), size[0])
        return Box(box.x, y, box.width, region_height)
    x, region_width = _lengthen(box.x, box.width, box.height * (width / height), size[1])
    return Box(x, box.y, region_width, box.height)


def _lengthen(start: int, length: int, target: float, limit: int) -> tuple[int, int]:
    """The start and the length of an interval that is lengthened at both ends and moved into 0 ... limit."""
    more = int(target - length)
    length += more
    return max(min(start - more // 2, limit - length), 0), min(length, limit)


def regions(hole: Tensor, choice: str, padding: int, width: int, height: int) -> list[Box]:
    """The regions around a hole, bool (H, W), from top to bottom and left to right; none overlaps another.

    Args:
        choice: "one" region for the whole hole, or one for "each hole": each connected part. Parts whose regions
            overlap share one.
        padding, width, height: As in `region`.

    Returns:
        At least one. The region of an empty hole is the whole picture.

    Raises:
        ValueError: There are more than MAX_REGIONS.
    """
    size = tuple(hole.shape)
    if not hole.any():
        return [Box(0, 0, size[1], size[0])]
    boxes = bounds(hole) if choice == "each hole" else _around(hole)
    while True:
        parts = [Box(left, top, right - left, bottom - top) for left, top, right, bottom in boxes.tolist()]
        around = [region(part, size, padding, width, height) for part in parts]
        if len(around) == 1:
            break
        joined = join(boxes, _shrunk_by_one(around))
        if len(joined) == len(boxes):
            break
        boxes = joined
    if len(around) > MAX_REGIONS:
        raise ValueError(
            f"mask has holes for {len(around)} crops of each picture, which would fill the memory; {MAX_REGIONS} is "
            "the most. Drop specks with Tune Mask's remove_specks, raise padding so that neighbours share a crop, or "
            "set regions to 'one'."
        )
    return sorted(around, key=lambda box: (box.y, box.x))


def _shrunk_by_one(boxes: list[Box]) -> np.ndarray:
    """(N, 4) of left, top, right, bottom: boxes without the last row and column, for `join`.

    `join` joins boxes that touch. A shrunk box touches the boxes that it overlaps, and no longer its neighbours.
    """
    corners, sizes = np.hsplit(np.array(boxes), 2)  # (N, 2) each
    return np.hstack((corners, corners + (sizes - 1).clip(1)))


def _around(hole: Tensor) -> np.ndarray:
    """The box around the whole hole: (1, 4) of left, top, right, bottom."""
    box = around(hole)
    return np.array([[box.x, box.y, box.x + box.width, box.y + box.height]])


def placement(region: Box, width: int, height: int) -> Box:
    """The place of a region in its crop of width x height: as large as fits in its proportions, in the middle."""
    inner_width, inner_height = width, height
    if width / height < region.width / region.height:
        inner_height = max(region.height * width // region.width, 1)
    else:
        inner_width = max(region.width * height // region.height, 1)
    return Box(width // 2 - inner_width // 2, height // 2 - inner_height // 2, inner_width, inner_height)


def letterbox(picture: Tensor, at: Box, width: int, height: int) -> Tensor:
    """A picture in a larger one, its edges stretched to the borders: (h, w, C) -> (height, width, C) in [0, 1].

    Args:
        at: The picture's place in the larger one.
    """
    if picture.shape[:2] == (height, width):
        return picture
    rows = _stretch(picture, at.y, height - at.y - at.height)
    columns = _stretch(rows.transpose(0, 1), at.x, width - at.x - at.width)
    return columns.transpose(0, 1).clamp(0, 1)


def _stretch(x: Tensor, before: int, after: int) -> Tensor:
    """Repeats the edges of an axis: (n, ...) -> (before + n + after, ...)."""
    first = _edge(x[0], x[min(1, len(x) - 1)])
    last = _edge(x[-1], x[max(len(x) - 2, 0)])
    return torch.cat((first.expand(before, *x.shape[1:]), x, last.expand(after, *x.shape[1:])))


def _edge(outer: Tensor, inner: Tensor) -> Tensor:
    """The value on the outer edge of the outermost row: Pillow's bicubic resize of a box without height.

    The two outermost rows are 1/2 and 3/2 away. The cubic kernel (a = -1/2) weights them by 9/16 and -1/16, and
    their weights are divided by the sum: 9/8 outer - 1/8 inner.
    """
    return outer + (outer - inner) / 8


def crop(image: Tensor, mask: Tensor, width: int, height: int, padding: int, choice: str) -> Crops:
    """Crops of the regions around a mask, resized to width x height.

    The regions are those of all masks together, so that every frame of a video is cut alike.

    Args:
        image: (B, H, W, C), C = 1, 3 or 4.
        mask: (N, H, W). What it selects (masks.selected) is inside.
        width, height: Of the crops.
        padding: Pixels of the picture around the mask.
        choice: One of REGIONS.

    Raises:
        ValueError: As masks.pair and `regions`.
    """
    image, mask = pair(image, mask)
    boxes = regions(selected(mask).any(0), choice, padding, width, height)
    number = len(image) * len(boxes)
    crops = torch.empty(number, height, width, 3, device=image.device)
    crop_masks = torch.empty(number, height, width, device=image.device)
    progress = Progress(number)
    for k in range(number):
        i, j = divmod(k, len(boxes))
        crops[k] = cut(to_rgb(image[i]), boxes[j], width, height)
        crop_masks[k] = cut_mask(mask[i], boxes[j], width, height)
        progress()
    return Crops(image, mask, boxes, crops, crop_masks)


def cut(picture: Tensor, box: Box, width: int, height: int) -> Tensor:
    """What a region shows, as a crop: (H, W, C) -> (height, width, C) in [0, 1]."""
    place = placement(box, width, height)
    resized = resize(picture[box.slices].float(), place.height, place.width)
    return letterbox(resized, place, width, height)


def cut_mask(mask: Tensor, box: Box, width: int, height: int) -> Tensor:
    """A region's part of a mask, as the mask of its crop: (H, W) -> (height, width)."""
    place = placement(box, width, height)
    return letterbox(_resize_mask(mask[box.slices], place), place, width, height)[..., 0]


def _resize_mask(mask: Tensor, place: Box) -> Tensor:
    """Resizes a mask linearly, so that no value leaves 0 ... 1: (h, w) -> (place.height, place.width, 1)."""
    size = place.height, place.width
    resized = F.interpolate(mask.float()[None, None], size, mode="bilinear", antialias=True)[0, 0, ..., None]
    return torch.where(resized > 1 - 1e-6, 1, resized)  # the weights' sum is rounded; samplers compare with 1
