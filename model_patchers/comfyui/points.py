"""Points as text: a JSON list of {"x", "y"} in pixels, the form that core's SAM3 nodes and KJNodes use."""

import json
from typing import Any

Point = tuple[float, float]
LONGEST = 1_000_000  # characters


def read_json(text: str, name: str) -> Any:
    """What a JSON text holds.

    Args:
        name: The input's name, for messages.

    Raises:
        ValueError: The text is no JSON, is nested too deep, or has more than LONGEST characters.
    """
    if len(text) > LONGEST:
        raise TooLong(
            f"{name} has {len(text):,} characters, and at most {LONGEST:,} are read. Connect or write fewer points."
        )
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deep") from error


class TooLong(ValueError):
    """Its text is a sentence for the user."""


def read_points(text: str, name: str) -> list[Point]:
    """Reads `[{"x": 10, "y": 20}, ...]`; blank text is no points.

    Args:
        text: The JSON.
        name: The input's name, for messages.

    Raises:
        ValueError: The text is no such list, or has more than LONGEST characters.
    """
    if not text.strip():
        return []
    try:
        items = read_json(text, name)
        if not isinstance(items, list):
            raise TypeError
        return [(float(item["x"]), float(item["y"])) for item in items]
    except TooLong:
        raise
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        example = '[{"x": 120, "y": 80}]'
        raise ValueError(f"{name} is not a list of points: got {text[:80]!r}, need JSON such as {example}.") from error


def parse_points(text: str, name: str, width: int, height: int) -> list[Point]:
    """As `read_points`, for a picture of that size: a point lies in [0, width) x [0, height).

    Raises:
        ValueError: The text is no list of points, or a point lies outside the picture.
    """
    points = read_points(text, name)
    for x, y in points:
        if not (0 <= x < width and 0 <= y < height):
            raise ValueError(
                f"{name} has the point ({x:g}, {y:g}), which lies outside the {width} x {height} picture. "
                "Pick it again on this picture."
            )
    return points
