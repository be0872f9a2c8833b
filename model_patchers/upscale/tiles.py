"""Windows on a picture or latent: plans of where they lie, weights of their pixels, and the fusion of their results.

Grids and their averages: Bar-Tal et al. 2023, "MultiDiffusion: Fusing Diffusion Paths for Controlled Image Generation".
Gaussian weights: Jimenez 2023, "Mixture of Diffusers for scene composition and high resolution image generation".
Rolled windows: Frolov et al. 2024, "SpotDiffusion: A Fast Approach for Seamless Panorama Generation Over Time".
Jitter and dilated views: Du et al. 2023, "DemoFusion: Democratising High-Resolution Image Generation With No $$$".
"""

import math
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

VARIANCE = 0.01  # of the gaussian weights, in (window widths)^2: Mixture of Diffusers' value


class Line(NamedTuple):
    """The positions of a window along one axis.

    Attributes:
        at: (n,), whole numbers.
        step: The distance from one position to the next: 1, or more in a dilated view.
        valid: The number of the window's own positions. The positions after them repeat the last one, so that all
            windows have the same size.
    """

    at: Tensor
    step: int
    valid: int

    def scaled(self, scale: int) -> Tensor:
        """The positions on an axis `scale` times as long: (scale n,).

        A position becomes `scale` positions, `step` apart.
        """
        return (self.at[:, None] * scale + self.step * torch.arange(scale)).flatten()

    def runs(self, first: int, count: int) -> list[tuple[int, int]]:
        """The part of the window that shows the axis's positions `first` ... `first + count - 1`.

        Returns:
            (start, length) in the window of each unbroken run. A rolled window that shows both ends of the axis may
            have two.
        """
        inside = ((self.at >= first) & (self.at < first + count)).nonzero().flatten().tolist()
        # In a run of neighbours, each number minus its rank is the same.
        runs = [[i for _, i in run] for _, run in groupby(enumerate(inside), lambda ranked: ranked[1] - ranked[0])]
        return [(run[0], len(run)) for run in runs]


class Window(NamedTuple):
    """The rows y and the columns x that a window shows."""

    y: Line
    x: Line

    @property
    def size(self) -> tuple[int, int]:
        return len(self.y.at), len(self.x.at)

    @property
    def origin(self) -> tuple[int, int]:
        """The window's first row and column: (y, x). Those of a dilated view are 0, as it shows the whole picture."""
        return tuple(0 if line.step > 1 else int(line.at[0]) for line in self)


def gather(x: Tensor, window: Window, scale: int = 1) -> Tensor:
    """The part of x that a window shows: (..., scale H, scale W) -> (..., scale h, scale w).

    Args:
        scale: Pixels of x per latent pixel: 1 for a latent, more for a picture. At more than 1, a dilated view is the
            mean of the pixels between its positions, so that no pixel is lost.
    """
    if scale == 1 or window.y.step == window.x.step == 1:
        return _take(x, window.y.scaled(scale), window.x.scaled(scale))
    shifts = [(dy, dx) for dy in range(window.y.step) for dx in range(window.x.step)]
    return sum(_take(x, window.y.scaled(scale) + dy, window.x.scaled(scale) + dx) for dy, dx in shifts) / len(shifts)


def _take(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    rows, columns = rows.clamp(max=x.shape[-2] - 1), columns.clamp(max=x.shape[-1] - 1)
    return x[..., rows.to(x.device)[:, None], columns.to(x.device)]


class Fusion:
    """The weighted mean of the windows' results at each pixel: sum_i w_i p_i / sum_i w_i (MultiDiffusion, equation 5).

    It is updated with each window: W_k = W_(k-1) + w_k and m_k = m_(k-1) + (p_k - m_(k-1)) w_k / W_k. By induction
    m_k W_k = m_(k-1) W_(k-1) + p_k w_k, the weighted sum. Where all results are equal, the mean equals them to the bit:
    the first window's weight is w_1 / W_1 = 1, and later differences are 0.

    Attributes:
        mean: (..., H, W), of the windows added so far.
        total: (H, W), the sum of their weights.
    """

    def __init__(self, like: Tensor) -> None:
        self.mean = torch.zeros_like(like)
        self.total = like.new_zeros(like.shape[-2:])

    def add(self, window: Window, result: Tensor, weight: Tensor) -> None:
        """Adds a window's result to the mean.

        Args:
            result: (..., h, w).
            weight: (h, w), above 0.
        """
        y, x = (line.at[: line.valid].to(result.device) for line in window)
        result, weight = result[..., : len(y), : len(x)], weight.to(result)[: len(y), : len(x)]
        place = y[:, None], x
        self.total[place] += weight
        mean = self.mean[(..., *place)]
        self.mean[(..., *place)] = mean + (result - mean) * (weight / self.total[place])


# Plans


def grid(
    height: int, width: int, size: tuple[int, int], overlap: int, generator: torch.Generator | None = None
) -> list[Window]:
    """Windows that overlap by `overlap` or more. The last ones are moved in, so that they end at the border.

    Args:
        size: (h, w) of a window. Along a shorter axis, the windows are as long as the axis.
        overlap: Less than h and w.
        generator: Moves each window inside the picture by up to a quarter of the overlap.
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
    """The first positions of windows along an axis. The last window ends with the axis."""
    number = math.ceil((length - size) / stride) + 1
    return [min(i * stride, length - size) for i in range(number)]


def _moved(start: int, jitter: int, last: int, generator: torch.Generator | None) -> int:
    """A start moved at random. The first and the last window stay, so that the border stays covered."""
    if generator is None or start in (0, last):
        return start
    shift = int(torch.randint(-jitter, jitter + 1, (), generator=generator))
    return min(max(start + shift, 0), last)


def _line(start: int, size: int) -> Line:
    return Line(torch.arange(start, start + size), 1, size)


def rolled(height: int, width: int, size: tuple[int, int], generator: torch.Generator) -> list[Window]:
    """Windows side by side on a picture that is rolled by a random distance.

    A window that crosses the border shows both ends of the picture. An axis no longer than a window is not rolled.
    """
    rows = _rolled(height, min(size[0], height), generator)
    columns = _rolled(width, min(size[1], width), generator)
    return [Window(y, x) for y in rows for x in columns]


def _rolled(length: int, size: int, generator: torch.Generator) -> list[Line]:
    shift = int(torch.randint(length, (), generator=generator)) if length > size else 0
    return [Line((torch.arange(start, start + size) + shift) % length, 1, size) for start in starts(length, size, size)]


def dilated(height: int, width: int, s: int) -> list[Window]:
    """The s x s views x[..., i::s, j::s]. Shorter ones repeat their last row or column, so that all have one size."""
    rows, columns = _dilated(height, s), _dilated(width, s)
    return [Window(y, x) for y in rows for x in columns]


def _dilated(length: int, s: int) -> list[Line]:
    longest = torch.arange(math.ceil(length / s)) * s
    lines = []
    for offset in range(min(s, length)):
        own = range(offset, length, s)
        lines.append(Line((longest + offset).clamp(max=own[-1]), s, len(own)))
    return lines


# Weights


def uniform(h: int, w: int) -> Tensor:
    """Equal weights: (h, w)."""
    return torch.ones(h, w)


def gaussian(h: int, w: int) -> Tensor:
    """Weights exp(-d^2 / (2 VARIANCE)), d the distance to the middle in window heights and widths: (h, w)."""
    return torch.outer(_bell(h), _bell(w))


def _bell(n: int) -> Tensor:
    d = (torch.arange(n) - (n - 1) / 2) / n
    return torch.exp(-(d**2) / (2 * VARIANCE))
