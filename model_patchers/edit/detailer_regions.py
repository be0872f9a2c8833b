"""The regions that Detailer edits: from boxes and masks, filtered, ordered, and followed through a video.

The rules for which regions, in which order, are ADetailer's (its `filter_k_largest`, then `sort_bboxes`).
"""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from ..comfyui.boxes import boxes_per_picture
from ..pixels.boxes import Box
from ..pixels.masks import pair, selected
from ..pixels.regions import EIGHT
from .crop_to_mask import MAX_REGIONS, region

BATCHES = ["pictures", "video"]
GAP = 8  # frames in which a tracked region may be missing
OVERLAP = 0.1  # of two boxes of one region in neighbouring frames: intersection over union, at least
SMOOTH = 2.0  # frames: the spread of the Gaussian that steadies a tracked region's centre


class Part(NamedTuple):
    """What is edited of a picture.

    Attributes:
        box: In whole pixels, within the picture.
        mask: (box.height, box.width): how opaque the edit is.
    """

    box: Box
    mask: Tensor


class Region(NamedTuple):
    """A part of a picture with its surroundings.

    Attributes:
        picture: Its number in the batch.
        box: What the crop shows; the part lies in it.
    """

    picture: int
    part: Part
    box: Box


class Job(NamedTuple):
    """What is sampled as one: a region, or the frames of a tracked region.

    Attributes:
        number: Of the region, from 0: which prompt it gets.
        seed: What is added to the noise seed.
    """

    number: int
    seed: int
    regions: list[Region]


class Choice(NamedTuple):
    """Which regions are edited and how they are cut: the inputs of Detailer with the same names.

    Attributes:
        edge: The side of a crop.
    """

    edge: int
    padding: float = 0.5
    order: str = "as given"
    top: int = 0
    min_side: int = 16
    labels: str = ""
    batch: str = "pictures"


Parts = list[tuple[int, Part]]  # of one region: (number of the picture, part)


def _area(parts: Parts) -> int:
    return max(part.box.width * part.box.height for _, part in parts)


def _centre(parts: Parts) -> float:
    return parts[0][1].box.x + parts[0][1].box.width / 2


ORDERS: dict[str, Callable[[Parts], float]] = {
    "as given": lambda parts: 0,
    "largest first": lambda parts: -_area(parts),
    "left to right": _centre,
}


def jobs(image: Tensor, boxes: Any, mask: Tensor | None, choice: Choice, clips: bool) -> list[Job]:
    """What is sampled, in this order.

    Args:
        image: (B, H, W, C).
        boxes: Core's BOUNDING_BOX, or None: every connected part of the mask is a region.
        mask: (N, h, w) or None. With boxes, the part of a box that the mask selects is edited. Several masks for one
            picture are the masks of several regions.
        clips: The model samples the frames of a tracked region as one video.

    Raises:
        ValueError: As `labelled`, `boxes_per_picture` and `masks.pair`; there are too many regions.
    """
    per_picture = [
        [part for part in parts if min(part.box.width, part.box.height) >= choice.min_side]
        for parts in _parts(image, boxes, mask, choice.labels)
    ]
    size = tuple(image.shape[1:3])
    if choice.batch == "video":
        tracks = _chosen(follow(per_picture), choice)
        runs = [(number, run) for number, track in enumerate(tracks) for run in _runs(steady(track, size, choice))]
        return [
            Job(number, number, piece)
            for number, run in runs
            for piece in ([run] if clips else [[each] for each in run])
        ]
    planned = []
    for i, parts in enumerate(per_picture):
        for number, [(_, part)] in enumerate(_chosen([[(i, part)] for part in parts], choice)):
            margin = round(choice.padding * max(part.box.width, part.box.height))
            around = region(part.box, size, margin, choice.edge, choice.edge)
            planned.append(Job(number, i + number, [Region(i, part, around)]))
    return planned


def _chosen(regions: list[Parts], choice: Choice) -> list[Parts]:
    """The largest regions, in order."""
    if choice.top:
        largest = sorted(range(len(regions)), key=lambda i: -_area(regions[i]))[: choice.top]
        regions = [regions[i] for i in sorted(largest)]
    if len(regions) > MAX_REGIONS:
        raise ValueError(
            f"There are {len(regions)} regions in one picture, and {MAX_REGIONS} is the most. Set top to the number of "
            "regions to edit, raise min_side, or drop specks of the mask with Tune Mask."
        )
    return sorted(regions, key=ORDERS[choice.order])


# Parts


def _parts(image: Tensor, boxes: Any, mask: Tensor | None, labels: str) -> list[Iterable[Part]]:
    """The parts of each picture."""
    b, height, width = image.shape[:3]
    layers: list[Tensor | None] = [None] * b
    if mask is not None:
        masks = pair(image, mask)[1]
        layers = [masks] if b == 1 else [each[None] for each in masks]
    if boxes is None:
        return [of_masks(masks) for masks in layers]
    per_picture = boxes_per_picture(labelled(boxes, labels), "bboxes", b, width, height)
    return [of_boxes(each, masks, image.device) for each, masks in zip(per_picture, layers, strict=True)]


def labelled(boxes: Any, labels: str) -> Any:
    """The boxes with one of the labels, in the form in which they came.

    Args:
        labels: Separated by commas; upper and lower case are the same. Empty: all boxes.

    Raises:
        ValueError: No box has any label.
    """
    names = {name.strip().casefold() for name in labels.split(",")} - {""}
    if not names:
        return boxes
    entries = list(_entries(boxes))
    if entries and not any(entry.get("label") for entry in entries):
        raise ValueError(
            f"labels is {labels!r}, but no box of bboxes has a label. Clear labels, or connect a detector that names "
            "what it detects."
        )
    return _labelled(boxes, names)


def _entries(boxes: Any) -> Iterator[dict]:
    if isinstance(boxes, dict):
        yield boxes
    elif isinstance(boxes, list | tuple):
        for entry in boxes:
            yield from _entries(entry)


def _labelled(boxes: Any, names: set[str]) -> Any:
    if isinstance(boxes, dict):
        return boxes if str(boxes.get("label", "")).strip().casefold() in names else []
    if not isinstance(boxes, list | tuple):
        return boxes
    return [_labelled(entry, names) for entry in boxes if not isinstance(entry, dict) or _labelled(entry, names)]


def of_boxes(boxes: list[Box], masks: Tensor | None, device: torch.device) -> Iterator[Part]:
    """A part for each box: the whole box, or what the masks (N, H, W) select in it. Boxes without any are left out."""
    for box in boxes:
        x, y = math.floor(box.x), math.floor(box.y)
        box = Box(x, y, math.ceil(box.x + box.width) - x, math.ceil(box.y + box.height) - y)
        if masks is None:
            yield Part(box, torch.ones(box.height, box.width, device=device))
            continue
        values = masks[(slice(None), *box.slices)].amax(0)
        if selected(values).any():
            yield Part(box, values)


def of_masks(masks: Tensor) -> Iterator[Part]:
    """A part for each connected region of each mask (N, H, W), from top to bottom."""
    for mask in masks:
        labels, _ = ndimage.label(selected(mask).cpu().numpy(), structure=EIGHT)
        for number, (rows, columns) in enumerate(ndimage.find_objects(labels), 1):
            inside = torch.from_numpy(labels[rows, columns] == number).to(mask.device)
            box = Box(columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start)
            yield Part(box, mask[rows, columns] * inside)


# Regions of a video


def follow(per_picture: list[list[Part]]) -> list[Parts]:
    """The parts of all frames as tracked regions, in the order of their first frames.

    A part continues the region whose last box it overlaps most (intersection over union). A region may be missing in
    GAP frames.
    """
    tracks: list[Parts] = []
    for i, parts in enumerate(per_picture):
        live = [track for track in tracks if i - track[-1][0] <= GAP + 1]
        pairs = (
            (_overlap(track[-1][1].box, part.box), -a, -b)
            for a, track in enumerate(live)
            for b, part in enumerate(parts)
        )
        ends: dict[int, int] = {}  # {part: the region that it continues}
        for overlap, a, b in sorted(pairs, reverse=True):
            if overlap >= OVERLAP and -a not in ends.values() and -b not in ends:
                ends[-b] = -a
        for b, part in enumerate(parts):
            if b in ends:
                live[ends[b]].append((i, part))
            else:
                tracks.append([(i, part)])
    return tracks


def _overlap(a: Box, b: Box) -> float:
    width = min(a.x + a.width, b.x + b.width) - max(a.x, b.x)
    height = min(a.y + a.height, b.y + b.height) - max(a.y, b.y)
    common = max(width, 0) * max(height, 0)
    return common / (a.width * a.height + b.width * b.height - common)


def steady(track: Parts, size: tuple[int, int], choice: Choice) -> list[Region]:
    """The regions of a tracked part: all of one size, with a smoothed path.

    Args:
        size: (H, W) of the frames.
    """
    boxes = np.array([part.box for _, part in track])  # (n, 4) of x, y, width, height
    margin = round(choice.padding * boxes[:, 2:].max())
    sides = np.minimum(boxes[:, 2:].max(0) + 2 * margin, size[::-1])  # (width, height)
    centres = ndimage.gaussian_filter1d(boxes[:, :2] + boxes[:, 2:] / 2, SMOOTH, axis=0, mode="nearest")
    corners = (centres - sides / 2).round().astype(int)
    corners = corners.clip(boxes[:, :2] + boxes[:, 2:] - sides, boxes[:, :2])  # the box stays inside
    corners = corners.clip(0, np.array(size[::-1]) - sides)
    return [
        Region(i, part, region(Box(*corner, *sides.tolist()), size, 0, choice.edge, choice.edge))
        for (i, part), corner in zip(track, corners.tolist(), strict=True)
    ]


def _runs(regions: list[Region]) -> Iterator[list[Region]]:
    """The regions in runs of frames without a gap."""
    start = 0
    for end in range(1, len(regions) + 1):
        if end == len(regions) or regions[end].picture != regions[end - 1].picture + 1:
            yield regions[start:end]
            start = end
