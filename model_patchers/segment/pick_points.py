"""Points and boxes that the user picked on a picture, as the text of Pick Points' `picks`."""

import json
from math import floor
from typing import NamedTuple

from ..pixels.boxes import Box

EXAMPLE = '{"width": 640, "height": 480, "positive": [{"x": 120, "y": 80}], "negative": [], "boxes": []}'


class Picks(NamedTuple):
    """What was picked, in whole pixels of a width x height picture; None means whatever picture it is used on."""

    width: int | None
    height: int | None
    positive: list[tuple[int, int]]
    negative: list[tuple[int, int]]
    boxes: list[Box]


def parse_picks(text: str) -> Picks:
    """Reads `{"width", "height", "positive": [{"x", "y"}, ...], "negative": [...], "boxes": [...]}`.

    A box is {"x", "y", "width", "height"}. Blank text is no picks. Every list may be left out, and so may the size: the
    pixels are then those of whatever picture it is. Fractions are cut off: (3.9, 0) lies in the row's fourth pixel.

    Raises:
        ValueError: The text is no such JSON, a box is empty, or something lies outside the size that the text names.
    """
    try:
        found = json.loads(text) if text.strip() else {}
        sized = "width" in found or "height" in found
        picks = Picks(
            *(floor(found[side]) if sized else None for side in ("width", "height")),
            *(_points(found.get(kind, [])) for kind in ("positive", "negative")),
            [Box(*(floor(box[side]) for side in Box._fields)) for box in found.get("boxes", [])],
        )
        if sized and min(picks.width, picks.height) < 1:
            raise ValueError
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"picks is {text[:80]!r}, need JSON such as {EXAMPLE}, or nothing for no picks.") from error
    for box in picks.boxes:
        if box.width < 1 or box.height < 1:
            raise ValueError(
                f"picks has a box of {box.width} x {box.height} pixels at ({box.x}, {box.y}), which holds no pixel. "
                "Draw it anew, or give it a width and a height of at least 1."
            )
    if sized:
        _check(picks, picks.width, picks.height)
    return picks


def _points(found: list[dict[str, float]]) -> list[tuple[int, int]]:
    return [(floor(point["x"]), floor(point["y"])) for point in found]


def _check(picks: Picks, width: int, height: int) -> None:
    spots = [(f"the point ({x}, {y})", x, y, x, y) for x, y in picks.positive + picks.negative]
    spots += [(f"the box of {w} x {h} pixels at ({x}, {y})", x, y, x + w - 1, y + h - 1) for x, y, w, h in picks.boxes]
    for what, left, top, right, bottom in spots:
        if left < 0 or top < 0 or right >= width or bottom >= height:
            raise ValueError(
                f"picks has {what}, which does not lie in the {width} x {height} picture. "
                "Pick it again on this picture."
            )


def fit(picks: Picks, width: int, height: int) -> Picks:
    """The picks on a width x height picture; those made on a picture of another size are stretched to this one.

    A point goes where the centre of its pixel goes, a box where its edges go; no box shrinks to nothing.

    Raises:
        ValueError: The picks name no size, and something lies outside this picture.
    """
    if picks.width is None:
        _check(picks, width, height)
        return picks._replace(width=width, height=height)

    def point(x: int, y: int) -> tuple[int, int]:
        return (2 * x + 1) * width // (2 * picks.width), (2 * y + 1) * height // (2 * picks.height)

    def box(box: Box) -> Box:
        x, right = _stretch(box.x, box.x + box.width, width, picks.width)
        y, bottom = _stretch(box.y, box.y + box.height, height, picks.height)
        return Box(x, y, right - x, bottom - y)

    positive, negative = ([point(*spot) for spot in spots] for spots in (picks.positive, picks.negative))
    return Picks(width, height, positive, negative, [box(item) for item in picks.boxes])


def _stretch(start: int, stop: int, size: int, old: int) -> tuple[int, int]:
    """[start, stop) of `old` pixels on `size` pixels: its edges rounded, or where none is left the middle's pixel."""
    first, end = ((2 * edge * size + old) // (2 * old) for edge in (start, stop))
    middle = (start + stop) * size // (2 * old)
    return (first, end) if first < end else (middle, middle + 1)


def prompts(picks: Picks) -> tuple[str, str, list[dict[str, int]]]:
    """Positive points and negative points as JSON lists, boxes as core's BOUNDING_BOX list."""
    positive, negative = (
        json.dumps([{"x": x, "y": y} for x, y in points]) for points in (picks.positive, picks.negative)
    )
    return positive, negative, [box._asdict() for box in picks.boxes]
