"""Boxes as nodes pass them: core's BOUNDING_BOX, {"x", "y", "width", "height"} in pixels, alone or in lists."""

import reprlib
from typing import Any

from ..pixels.boxes import Box

EXAMPLE = '{"x": 10, "y": 20, "width": 100, "height": 50}'


def boxes_per_picture(
    boxes: Any, name: str, pictures: int, width: int, height: int, batch: str = "image"
) -> list[list[Box]]:
    """The boxes of each picture, cut at its borders.

    Args:
        boxes: Core's three forms: one box, for every picture; a list of boxes, all for every picture; or a list with
            a list of boxes for each picture. A list for a single picture serves every picture. None is no boxes.
        name: The input's name, for messages.
        pictures, width, height: Of the batch.
        batch: The batch's name, for messages.

    Raises:
        ValueError: `boxes` has none of these forms; there are boxes for more or fewer pictures than there are; a box is
            empty or lies outside the picture.
    """
    if no_box(boxes):
        return [[]] * pictures
    if isinstance(boxes, dict):
        boxes = [boxes]
    if not isinstance(boxes, list | tuple):
        raise ValueError(
            f"{name} is no box: got {reprlib.repr(boxes)}, need a box such as {EXAMPLE}, or a list of them."
        )
    lists = boxes if boxes and all(isinstance(entry, list | tuple) for entry in boxes) else [boxes]
    if len(lists) not in (1, pictures):
        raise ValueError(
            f"{name} has boxes for {len(lists)} pictures but {batch} is a batch of {pictures}. Connect the boxes of "
            "these pictures, or one list for all."
        )
    per_picture = [[_box(entry, name, width, height) for entry in entries] for entries in lists]
    return per_picture * pictures if len(per_picture) == 1 else per_picture


def no_box(boxes: Any) -> bool:
    """Whether there is no box, as from a detector that detected nothing: None, an empty list, or a list of those."""
    return boxes is None or (isinstance(boxes, list | tuple) and all(entry in ([], ()) for entry in boxes))


def _box(entry: Any, name: str, width: int, height: int) -> Box:
    try:
        box = Box(*(entry[side] for side in Box._fields))
        if any(isinstance(side, str) for side in box):
            raise TypeError
        right, bottom = float(box.x + box.width), float(box.y + box.height)
    except (TypeError, KeyError, ValueError, OverflowError) as error:
        raise ValueError(
            f"{name} has {reprlib.repr(entry)}, which is no box. A box is written as {EXAMPLE}: with numbers, and "
            "without quotation marks around them."
        ) from error
    size = f"({box.x:g}, {box.y:g}), {box.width:g} x {box.height:g},"
    if not (box.width > 0 and box.height > 0):
        raise ValueError(f"{name} has the box {size} which is empty. Drag it larger, or delete it.")
    if not (box.x < width and box.y < height and right > 0 and bottom > 0):
        raise ValueError(
            f"{name} has the box {size} which lies outside the {width} x {height} picture. Drag it on this picture."
        )
    x, y = max(box.x, 0), max(box.y, 0)
    return Box(x, y, min(right, width) - x, min(bottom, height) - y)
