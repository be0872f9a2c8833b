"""Names and shapes of weights, as stand-ins are described."""

from collections.abc import Iterator

Shapes = Iterator[tuple[str, tuple[int, ...]]]


def layer(name: str, *shape: int) -> Shapes:
    """The weight and the bias of a layer whose weight has this shape."""
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]
