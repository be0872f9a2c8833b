"""Points as text: a JSON list of {"x", "y"} in pixels, the form that core's SAM3 nodes and KJNodes use."""

import json

Point = tuple[float, float]


def parse_points(text: str, name: str, width: int, height: int) -> list[Point]:
    """Reads `[{"x": 10, "y": 20}, ...]`; blank text is no points.

    Args:
        text: The JSON.
        name: The input's name, for messages.
        width, height: Of the picture, in pixels. A point lies in [0, width) x [0, height).

    Raises:
        ValueError: The text is no such list, or a point lies outside the picture.
    """
    if not text.strip():
        return []
    example = '[{"x": 120, "y": 80}]'
    try:
        items = json.loads(text)
        points = [(float(item["x"]), float(item["y"])) for item in items]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{name} is not a list of points: got {text[:80]!r}, need JSON such as {example}.") from error
    for x, y in points:
        if not (0 <= x < width and 0 <= y < height):
            raise ValueError(
                f"{name} has the point ({x:g}, {y:g}), which lies outside the {width} x {height} picture. "
                "Pick it again on this picture."
            )
    return points
