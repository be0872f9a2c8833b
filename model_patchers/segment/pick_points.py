"""Points and boxes that the user picked on a picture: the text of Pick Points' input `picks`."""

import json
from math import floor
from typing import NamedTuple

from ..comfyui.points import TooLong, read_json
from ..pixels.boxes import Box

EXAMPLE = '{"width": 640, "height": 480, "positive": [{"x": 120, "y": 80}], "negative": [], "boxes": []}'


class Picks(NamedTuple):
    """Points and boxes in whole pixels of a width x height picture. A size of None fits every picture."""

    width: int | None
    height: int | None
    positive: list[tuple[int, int]]
    negative: list[tuple[int, int]]
    boxes: list[Box]


def parse_picks(text: str) -> Picks:
    """The picks in `{"width", "height", "positive": [{"x", "y"}, ...], "negative": [...], "boxes": [...]}`.

    A box is {"x", "y", "width", "height"}. Blank text means no picks. Each list is optional. The size is optional too:
    without it, the pixels are those of the connected picture. Fractions are cut off: x = 3.9 is the fourth pixel.

    Raises:
        ValueError: The text is no such JSON or too long, a box is empty, or a pick lies outside the size in the text.
    """
    try:
        fields = read_json(text, "picks") if text.strip() else {}
        sized = "width" in fields or "height" in fields
        picks = Picks(
            floor(fields["width"]) if sized else None,
            floor(fields["height"]) if sized else None,
            _points(fields.get("positive", [])),
            _points(fields.get("negative", [])),
            [Box(*(floor(box[side]) for side in Box._fields)) for box in fields.get("boxes", [])],
        )
        if sized and min(picks.width, picks.height) < 1:
            raise ValueError
    except TooLong:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise ValueError(f"picks is {text[:80]!r}, need JSON such as {EXAMPLE}, or blank text for no picks.") from error
    for box in picks.boxes:
        if box.width < 1 or box.height < 1:
            raise ValueError(
                f"picks has a box of {box.width} x {box.height} pixels at ({box.x}, {box.y}), which holds no pixel. "
                "Draw it again, or give it a width and a height of at least 1."
            )
    if sized:
        _check_inside(picks, picks.width, picks.height)
    return picks


def _points(items: list[dict[str, float]]) -> list[tuple[int, int]]:
    return [(floor(item["x"]), floor(item["y"])) for item in items]


def _check_inside(picks: Picks, width: int, height: int) -> None:
    areas = [(f"the point ({x}, {y})", Box(x, y, 1, 1)) for x, y in picks.positive + picks.negative]
    areas += [(f"the box of {box.width} x {box.height} pixels at ({box.x}, {box.y})", box) for box in picks.boxes]
    for name, (x, y, w, h) in areas:
        if x < 0 or y < 0 or x + w > width or y + h > height:
            raise ValueError(
                f"picks has {name}, which does not lie in the {width} x {height} picture. "
                "Pick it again on this picture."
            )


def fit(picks: Picks, width: int, height: int) -> Picks:
    """The picks on a width x height picture, rescaled if they were made on a picture of another size.

    A point follows the centre of its pixel, a box follows its edges. Every box holds at least one pixel.

    Raises:
        ValueError: The picks have no size, and one lies outside this picture.
    """
    if picks.width is None:
        _check_inside(picks, width, height)
        return picks._replace(width=width, height=height)

    def point(x: int, y: int) -> tuple[int, int]:
        return (2 * x + 1) * width // (2 * picks.width), (2 * y + 1) * height // (2 * picks.height)

    def box(box: Box) -> Box:
        x, right = _stretch(box.x, box.x + box.width, width, picks.width)
        y, bottom = _stretch(box.y, box.y + box.height, height, picks.height)
        return Box(x, y, right - x, bottom - y)

    return Picks(
        width,
        height,
        [point(x, y) for x, y in picks.positive],
        [point(x, y) for x, y in picks.negative],
        [box(item) for item in picks.boxes],
    )


def _stretch(start: int, stop: int, size: int, old: int) -> tuple[int, int]:
    """[start, stop) of `old` pixels rescaled to `size` pixels, with rounded edges; at least the pixel in the middle."""
    first, end = ((2 * edge * size + old) // (2 * old) for edge in (start, stop))
    middle = (start + stop) * size // (2 * old)
    return (first, end) if first < end else (middle, middle + 1)


def prompts(picks: Picks) -> tuple[str, str, list[dict[str, int]]]:
    """The positive points and the negative points as JSON lists, the boxes as a list of core's BOUNDING_BOX."""
    return _to_json(picks.positive), _to_json(picks.negative), [box._asdict() for box in picks.boxes]


def _to_json(points: list[tuple[int, int]]) -> str:
    return json.dumps([{"x": x, "y": y} for x, y in points])
