"""Homographies and what a picture shows at positions between its pixels. Pixel centres have whole coordinates."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def move(matrix: np.ndarray, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Where a homography (3, 3) takes points, float64 in between: a translation by whole pixels stays exact."""
    (a, b, c), (d, e, f), (g, h, i) = matrix.tolist()
    if g == h == 0 and i == 1:
        return a * x + b * y + c, d * x + e * y + f
    w = g * x + h * y + i
    return (a * x + b * y + c) / w, (d * x + e * y + f) / w


def bilinear(planes: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The values of planes (C, H, W) at points (N,) -> (C, N). What lies outside is 0."""
    height, width = planes.shape[-2:]
    grid = torch.stack((2 * x / max(width - 1, 1) - 1, 2 * y / max(height - 1, 1) - 1), -1)
    return F.grid_sample(planes[None], grid[None, None].to(planes), align_corners=True)[0, :, 0]


def bicubic(picture: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The values of a picture (H, W, C) at points (N,) -> (N, C), by cubic convolution with a = -1/2.

    Keys, "Cubic convolution interpolation for digital image processing", TASSP 29, 1981. The border repeats. At a whole
    coordinate the weights are 0, 1, 0, 0, so the pixel there keeps its bits.
    """
    height, width = picture.shape[:2]
    left, top = x.floor(), y.floor()
    across, down = _cubic((x - left).float()), _cubic((y - top).float())  # (N, 4)
    taps = torch.arange(-1, 3, device=x.device)
    columns = (left.long()[:, None] + taps).clamp(0, width - 1)  # (N, 4)
    rows = (top.long()[:, None] + taps).clamp(0, height - 1)
    flat, values = picture.reshape(height * width, -1), 0
    for j in range(4):
        row = 0
        for i in range(4):
            row = row + across[:, i, None] * flat[rows[:, j] * width + columns[:, i]]
        values = values + down[:, j, None] * row
    return values


def _cubic(t: Tensor) -> Tensor:
    """Weights (N, 4) of the pixels at -1, 0, 1, 2 for a position t in 0 ... 1."""
    return torch.stack(
        (
            ((-0.5 * t + 1) * t - 0.5) * t,
            (1.5 * t - 2.5) * t * t + 1,
            ((-1.5 * t + 2) * t + 0.5) * t,
            (0.5 * t - 0.5) * t * t,
        ),
        -1,
    )
