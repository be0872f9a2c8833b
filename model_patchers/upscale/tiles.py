"""Windows on a picture or latent: where they lie, how much each counts, and how their results become one again.

Grids and their averages: Bar-Tal et al. 2023, "MultiDiffusion: Fusing Diffusion Paths for Controlled Image Generation".
Gaussian weights: Jimenez 2023, "Mixture of Diffusers for scene composition and high resolution image generation".
Windows that roll: Frolov et al. 2024, "SpotDiffusion: A Fast Approach for Seamless Panorama Generation Over Time".
Jitter and dilated views: Du et al. 2023, "DemoFusion: Democratising High-Resolution Image Generation With No $$$".
"""

import math
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

VARIANCE = 0.01  # of the gaussian weights, for a window one wide: the value of Mixture of Diffusers


class Line(NamedTuple):
    """A window's positions along one axis.

    Attributes:
        at: (n,), whole numbers.
        step: From one position to the next: 1, or more in a dilated view.
        valid: How many positions are the window's own. Others repeat the last, so that windows are equal in size.
    """

    at: Tensor
    step: int
    valid: int

    def scaled(self, scale: int) -> Tensor:
        """The positions in something `scale` times as long: (scale n,). Those of a dilated view are as far apart."""
        return (self.at[:, None] * scale + self.step * torch.arange(scale)).flatten()

    def runs(self, first: int, count: int) -> list[tuple[int, int]]:
        """Where the positions `first` ... `first + count - 1` of the axis lie in the window: (start, length) of each
        unbroken run. There are two where a rolled window holds both ends.
        """
        inside = ((self.at >= first) & (self.at < first + count)).nonzero().flatten().tolist()
        runs = [[place for _, place in run] for _, run in groupby(enumerate(inside), lambda pair: pair[1] - pair[0])]
        return [(run[0], len(run)) for run in runs]


class Window(NamedTuple):
    y: Line
    x: Line

    @property
    def size(self) -> tuple[int, int]:
        return len(self.y.at), len(self.x.at)

    @property
    def origin(self) -> tuple[int, int]:
        """Where a window's first row and column lie; a dilated view sees all of the picture, from 0."""
        return tuple(0 if line.step > 1 else int(line.at[0]) for line in self)


def gather(x: Tensor, window: Window, scale: int = 1) -> Tensor:
    """What a window shows: (..., scale H, scale W) -> (..., scale h, scale w).

    Args:
        scale: Of something finer than the latent, such as the picture beside it. There a dilated view takes the mean of
            the pixels from one of its positions to the next, so that none is lost.
    """
    if scale == 1 or window.y.step == window.x.step == 1:
        return _take(x, window.y.scaled(scale), window.x.scaled(scale))
    shifts = [(dy, dx) for dy in range(window.y.step) for dx in range(window.x.step)]
    return sum(_take(x, window.y.scaled(scale) + dy, window.x.scaled(scale) + dx) for dy, dx in shifts) / len(shifts)


def _take(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    rows, columns = rows.clamp(max=x.shape[-2] - 1), columns.clamp(max=x.shape[-1] - 1)
    return x[..., rows.to(x.device)[:, None], columns.to(x.device)]


class Fusion:
    """The weighted mean of windows, pixel by pixel, updated with each: where all agree it is what they say, to the bit.

    Attributes:
        value: As `like`: what the windows so far come to.
    """

    def __init__(self, like: Tensor) -> None:
        self.value = torch.zeros_like(like)
        self.total = like.new_zeros(like.shape[-2:])

    def add(self, window: Window, part: Tensor, weight: Tensor) -> None:
        """
        Args:
            part: (..., h, w), the window's result.
            weight: (h, w), above 0.
        """
        y, x = (line.at[: line.valid].to(part.device) for line in window)
        part, weight = part[..., : len(y), : len(x)], weight.to(part)[: len(y), : len(x)]
        place = y[:, None], x
        self.total[place] += weight
        mean = self.value[(..., *place)]
        self.value[(..., *place)] = mean + (part - mean) * (weight / self.total[place])


# Plans


def grid(
    height: int, width: int, size: tuple[int, int], overlap: int, generator: torch.Generator | None = None
) -> list[Window]:
    """Windows that overlap by `overlap` or more, the last ones moved in to end at the border.

    Args:
        size: (h, w) of a window; along a shorter axis, the windows are as long as the axis.
        overlap: Less than h and w.
        generator: Moves each window by up to a quarter of the overlap, and none across the border.
    """
    h, w = min(size[0], height), min(size[1], width)
    jitter = overlap // 4
    rows, columns = starts(height, h, size[0] - overlap), starts(width, w, size[1] - overlap)
    return [
        Window(_line(_moved(y, jitter, height - h, generator), h), _line(_moved(x, jitter, width - w, generator), w))
        for y in rows
        for x in columns
    ]


def starts(length: int, size: int, stride: int) -> list[int]:
    """Where windows begin along an axis."""
    number = math.ceil((length - size) / stride) + 1
    return [min(i * stride, length - size) for i in range(number)]


def _moved(start: int, jitter: int, last: int, generator: torch.Generator | None) -> int:
    """A start moved at random. Windows at the border only move out of it, that is not at all, lest they uncover it."""
    if generator is None or start in (0, last):
        return start
    shift = int(torch.randint(-jitter, jitter + 1, (), generator=generator))
    return min(max(start + shift, 0), last)


def _line(start: int, size: int) -> Line:
    return Line(torch.arange(start, start + size), 1, size)


def rolled(height: int, width: int, size: tuple[int, int], generator: torch.Generator) -> list[Window]:
    """Windows side by side on a picture that is rolled at random, along axes longer than a window. Those that cross
    the border hold both ends.
    """
    lines = [_rolled(length, min(part, length), generator) for length, part in zip((height, width), size, strict=True)]
    return [Window(y, x) for y in lines[0] for x in lines[1]]


def _rolled(length: int, size: int, generator: torch.Generator) -> list[Line]:
    shift = int(torch.randint(length, (), generator=generator)) if length > size else 0
    begins = starts(length, size, size)
    return [Line((torch.arange(start, start + size) + shift) % length, 1, size) for start in begins]


def dilated(height: int, width: int, s: int) -> list[Window]:
    """The s x s views x[..., i::s, j::s], made equal in size by repeating the last row or column."""
    rows, columns = _dilated(height, s), _dilated(width, s)
    return [Window(y, x) for y in rows for x in columns]


def _dilated(length: int, s: int) -> list[Line]:
    at = torch.arange(math.ceil(length / s)) * s
    return [
        Line((at + i).clamp(max=range(i, length, s)[-1]), s, len(range(i, length, s))) for i in range(min(s, length))
    ]


# Weights


def uniform(h: int, w: int) -> Tensor:
    """(h, w)"""
    return torch.ones(h, w)


def gaussian(h: int, w: int) -> Tensor:
    """(h, w): exp(-d^2 / (2 VARIANCE)) of the distance d to the middle, in window heights and widths."""
    return torch.outer(_bell(h), _bell(w))


def _bell(n: int) -> Tensor:
    d = (torch.arange(n) - (n - 1) / 2) / n
    return torch.exp(-(d**2) / (2 * VARIANCE))
