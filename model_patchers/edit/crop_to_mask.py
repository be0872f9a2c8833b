"""Regions around what is masked, cut out and brought to one size, as by diffusers' padding_mask_crop.

`region` and `fill` give what VaeImageProcessor's get_crop_region and its resize mode "fill" give (diffusers,
Apache-2.0; written afresh), but in float32, where diffusers goes through 8-bit pictures.
"""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..comfyui.progress import Progress
from ..pixels.boxes import Box
from ..pixels.images import to_rgb
from ..pixels.masks import pair
from ..pixels.regions import bounds, join
from ..pixels.resample import resize

REGIONS = ["one", "each hole"]
MOST = 256  # regions; as crops of 1024 x 1024 they take 4 GB


class Crops(NamedTuple):
    """What Paste Back needs to know. The crop of region j of picture i is number i * len(boxes) + j."""

    image: Tensor  # (M, H, W, C), the pictures themselves
    mask: Tensor  # (M, H, W)
    boxes: list[Box]  # the regions, the same for all pictures; none overlaps another
    crop: Tensor  # (M * len(boxes), height, width, 3), as given out
    crop_mask: Tensor  # (M * len(boxes), height, width)


def region(box: Box, size: tuple[int, int], padding: int, width: int, height: int) -> Box:
    """The box around what is masked, padded, then made longer in one direction to be as width to height.

    Padding ends at the picture's borders. A region that is too long for one side goes on at the other, and one that is
    too long for the picture is as long as the picture.

    Args:
        box: Around what is masked.
        size: Width and height of the picture.
        padding: Pixels of the picture, on every side.
    """
    box = box.expand(padding, *size)
    if box.width / box.height > width / height:
        y, tall = _lengthen(box.y, box.height, box.width / (width / height), size[1])
        return Box(box.x, y, box.width, tall)
    x, wide = _lengthen(box.x, box.width, box.height * (width / height), size[0])
    return Box(x, box.y, wide, box.height)


def _lengthen(start: int, length: int, wanted: float, limit: int) -> tuple[int, int]:
    """Start and length of an interval that is longer at both ends, and within 0 ... limit."""
    more = int(wanted - length)
    length += more
    return max(min(start - more // 2, limit - length), 0), min(length, limit)


def regions(hole: Tensor, choice: str, padding: int, width: int, height: int) -> list[Box]:
    """The regions around a hole, bool (H, W), from top to bottom and left to right; none overlaps another.

    Args:
        choice: One of REGIONS: one for the whole hole; or one for each connected part, and for parts whose regions
            overlap, one for them together.
        padding, width, height: As in `region`.

    Returns:
        At least one: the whole picture where the hole is empty.

    Raises:
        ValueError: There are more than MOST.
    """
    size = hole.shape[1], hole.shape[0]
    if not hole.any():
        return [Box(0, 0, *size)]
    boxes = bounds(hole) if choice == "each hole" else _around(hole)
    while True:
        sides = ((x, y, right - x, bottom - y) for x, y, right, bottom in boxes.tolist())
        found = np.array([region(Box(*side), size, padding, width, height) for side in sides])  # (N, 4)
        if len(boxes) == 1:
            break
        # `join` joins what touches, and what overlaps still touches without its last row and column
        joined = join(boxes, np.hstack((found[:, :2], found[:, :2] + (found[:, 2:] - 1).clip(1))))
        if len(joined) == len(boxes):
            break
        boxes = joined
    if len(boxes) > MOST:
        raise ValueError(
            f"mask has holes for {len(boxes)} crops of each picture, which would fill the memory; {MOST} is the most. "
            "Drop specks with Tune Mask's remove_specks, raise padding so that neighbours share a crop, or set regions "
            "to 'one'."
        )
    return sorted((Box(*sides) for sides in found.tolist()), key=lambda box: (box.y, box.x))


def _around(hole: Tensor) -> np.ndarray:
    """(1, 4): left, top, right, bottom of all that is True."""
    columns, rows = (hole.any(dim).nonzero().flatten().tolist() for dim in (0, 1))
    return np.array([[columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]])


def placement(region: Box, width: int, height: int) -> Box:
    """Where in a crop of width x height a region lies: as big as fits with its proportions, in the middle."""
    wide, tall = width, height
    if width / height < region.width / region.height:
        tall = max(region.height * width // region.width, 1)
    else:
        wide = max(region.width * height // region.height, 1)
    return Box(width // 2 - wide // 2, height // 2 - tall // 2, wide, tall)


def fill(picture: Tensor, at: Box, width: int, height: int) -> Tensor:
    """Puts a picture into a larger one, its edges stretched to the borders: (h, w, C) -> (height, width, C) in [0, 1].

    Args:
        at: Where, as big as the picture.
    """
    if picture.shape[:2] == (height, width):
        return picture
    rows = _stretch(picture, at.y, height - at.y - at.height)
    columns = _stretch(rows.transpose(0, 1), at.x, width - at.x - at.width)
    return columns.transpose(0, 1).clamp(0, 1)


def _stretch(x: Tensor, before: int, after: int) -> Tensor:
    """(n, ...) -> (before + n + after, ...). What is added is cubic interpolation (a = -1/2) on the very edge: Pillow's
    answer when asked to resize a rectangle of no height."""
    first, last = (edge + (edge - inner) / 8 for edge, inner in ((x[:1], x[:2][-1:]), (x[-1:], x[-2:][:1])))
    return torch.cat((first.expand(before, *x.shape[1:]), x, last.expand(after, *x.shape[1:])))


def crop(image: Tensor, mask: Tensor, width: int, height: int, padding: int, choice: str) -> Crops:
    """Cuts out what is masked with its surroundings, and brings every piece to width x height.

    The regions are those of all masks together, so that every frame of a video is cut alike.

    Args:
        image: (B, H, W, C), C = 1, 3 or 4.
        mask: (N, H, W). Everything above 0 is inside.
        width, height, padding: Of the crops, and pixels of the picture around what is masked.
        choice: One of REGIONS.

    Raises:
        ValueError: Pictures and masks do not go together (masks.pair), or there are too many regions.
    """
    image, mask = pair(image, mask)
    boxes = regions((mask > 0).any(0), choice, padding, width, height)
    number = len(image) * len(boxes)
    crops = torch.empty(number, height, width, 3, device=image.device)
    crop_masks = torch.empty(number, height, width, device=image.device)
    progress = Progress(number)
    for k in range(number):
        i, j = divmod(k, len(boxes))
        at, place = (i, *boxes[j].slices), placement(boxes[j], width, height)
        crops[k] = fill(resize(to_rgb(image[at]).float(), place.height, place.width), place, width, height)
        crop_masks[k] = fill(_resize_mask(mask[at], place), place, width, height)[..., 0]
        progress()
    return Crops(image, mask, boxes, crops, crop_masks)


def _resize_mask(mask: Tensor, place: Box) -> Tensor:
    """Linear, so that no value leaves 0 ... 1: (h, w) -> (place.height, place.width, 1)."""
    size = place.height, place.width
    resized = F.interpolate(mask.float()[None, None], size, mode="bilinear", antialias=True)[0, 0, ..., None]
    return torch.where(resized > 1 - 1e-6, 1, resized)  # a sum of weights: samplers may ask for 1 itself
