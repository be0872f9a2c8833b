"""Sizes of networks, read off the shapes of their tensors."""

import re
from collections.abc import Iterable, Mapping

from torch import Tensor


def shape_of(weights: Mapping[str, Tensor], key: str, dimensions: int) -> tuple[int, ...]:
    """The shape of a tensor that has `dimensions` dimensions.

    Raises:
        ValueError: There is no such tensor, or its shape is another, or empty. The message is a clause, without the
            name of the file.
    """
    if key not in weights:
        raise ValueError(f"it lacks '{key}'")
    shape = tuple(weights[key].shape)
    if len(shape) != dimensions or 0 in shape:
        raise ValueError(f"its '{key}' is {shape}, and needs {dimensions} dimensions, none of them 0")
    return shape


def count(weights: Iterable[str], pattern: str) -> int:
    """How many numbers stand in the only group of a regular expression, among the names that begin with it.

    Counted, not taken from the largest number: one damaged name must not make a network of a million layers.
    """
    matches = (re.match(pattern, key) for key in weights)
    return len({match[1] for match in matches if match})
