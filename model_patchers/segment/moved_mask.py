"""A mask that moves from key frame to key frame.

In between, the box round the mask goes straight from one place to the other. Both shapes are stretched to it, and their
signed distances are mixed: Raya and Udupa, "Shape-based interpolation of multidimensional objects", IEEE Transactions
on Medical Imaging 9, 1990.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor


@dataclass(frozen=True)
class Shape:
    """What a mask selects: a box, and inside it the distance to the border.

    Attributes:
        low, high: (y, x) of the box, half-open.
        distances: float64 (h + 2, w + 2), of the box and a pixel round it: to the nearest pixel of the other kind,
            less the half pixel to its edge; positive inside.
    """

    low: np.ndarray
    high: np.ndarray
    distances: np.ndarray

    @classmethod
    def of(cls, mask: Tensor) -> "Shape":
        """
        Args:
            mask: bool (H, W), with at least one pixel.
        """
        places = np.argwhere(mask.cpu().numpy())
        low, high = places.min(0), places.max(0) + 1
        inside = np.pad(mask.cpu().numpy()[low[0] : high[0], low[1] : high[1]], 1)
        away = ndimage.distance_transform_edt(~inside) - 0.5
        return cls(low, high, np.where(inside, ndimage.distance_transform_edt(inside) - 0.5, -away))

    def stretched(self, low: np.ndarray, high: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """The distances with the box stretched from `low` to `high`, at pixels (rows, columns)."""
        scale = (high - low) / (self.high - self.low)
        y, x = ((at + 0.5 - start) / s + 0.5 for at, start, s in zip((rows, columns), low, scale, strict=True))
        values = ndimage.map_coordinates(self.distances, np.meshgrid(y, x, indexing="ij"), order=1, mode="nearest")
        return values * np.sqrt(scale.prod())


def between(a: Shape, b: Shape, part: float, size: tuple[int, int]) -> Tensor:
    """Signed distances float32 (H, W) of the shape at `part` of the way from a (0) to b (1): above 0 inside.

    Args:
        size: (H, W).
    """
    sizes = (shape.high - shape.low for shape in (a, b))
    # Whole pixels: a shape that only moves keeps every pixel.
    low, length = (((1 - part) * x + part * y + 0.5).astype(int) for x, y in ((a.low, b.low), sizes))
    high = low + length
    rows, columns = (np.arange(*ends) for ends in zip(low, high, strict=True))
    mixed = sum(share * shape.stretched(low, high, rows, columns) for share, shape in ((1 - part, a), (part, b)))
    distances = torch.full(size, -float(sum(size)))
    distances[low[0] : high[0], low[1] : high[1]] = torch.from_numpy(mixed)
    return distances


class MovedMask(Sequence):
    """For each of n frames the signed distances float32 (H, W), made when they are read.

    Before the first key frame and after the last one the mask stays where it is.
    """

    def __init__(self, masks: dict[int, Tensor], n: int) -> None:
        """
        Args:
            masks: bool (H, W) with at least one pixel, by the key frames' numbers, at least one.
        """
        self.size = tuple(next(iter(masks.values())).shape)
        self.shapes = {frame: Shape.of(masks[frame]) for frame in sorted(masks)}
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, frame: int) -> Tensor:
        keys, frame = list(self.shapes), range(self.n)[frame]
        after = bisect_right(keys, frame)
        start, end = keys[max(after - 1, 0)], keys[min(after, len(keys) - 1)]
        part = (frame - start) / (end - start) if start < frame < end else 0.0
        return between(self.shapes[start], self.shapes[end], part, self.size)
