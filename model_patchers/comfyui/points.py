"""Points as text: a JSON list of {"x", "y"} in pixels, the form that core's SAM3 nodes and KJNodes use."""

import json

Point = tuple[float, float]


def read_points(text: str, name: str) -> list[Point]:
    """Reads `[{"x": 10, "y": 20}, ...]`; blank text is no points.

    Args:
        text: The JSON.
        name: The input's name, for messages.

    Raises:
        ValueError: The text is no such list.
    """
    if not text.strip():
        return []
    try:
        items = json.loads(text)
        if not isinstance(items, list):
            raise TypeError
        return [(float(item["x"]), float(item["y"])) for item in items]
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
