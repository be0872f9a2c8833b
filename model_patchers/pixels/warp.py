"""Homographies and what a picture shows at positions between its pixels. Pixel centres have whole coordinates."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def move(matrix: np.ndarray, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Where a homography (3, 3) takes points (N,): a translation by whole pixels stays exact."""
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


def cubic(picture: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The values of a picture (H, W, C) at points (N,) -> (N, C), by cubic convolution over 6 x 6 pixels.

    Keys, "Cubic convolution interpolation for digital image processing", TASSP 29, 1981, the kernel of fourth
    order, eq 25: fine texture stays sharper than under the usual four points. The border repeats. At a whole coordinate
    one weight is 1 and the others are 0, so the pixel there keeps its bits.
    """
    height, width = picture.shape[:2]
    left, top = x.floor(), y.floor()
    across, down = _weights((x - left).float()), _weights((y - top).float())  # (N, 6)
    taps = torch.arange(-2, 4, device=x.device)
    columns = (left.long()[:, None] + taps).clamp(0, width - 1)  # (N, 6)
    rows = (top.long()[:, None] + taps).clamp(0, height - 1) * width
    flat, values = picture.reshape(height * width, -1), 0
    for j in range(6):
        index = rows[:, j, None] + columns
        row = sum(across[:, i, None] * flat[index[:, i]] for i in range(6))
        values = values + down[:, j, None] * row
    return values


def _weights(t: Tensor) -> Tensor:
    """Weights (N, 6) of the pixels at -2 ... 3 for a position t in 0 ... 1."""
    return torch.stack([piece(d) for piece, d in zip(PIECES, (2 + t, 1 + t, t, 1 - t, 2 - t, 3 - t), strict=True)], -1)


def _near(d: Tensor) -> Tensor:
    return (1 - d) * (1 + d - 4 / 3 * d * d)


def _middle(d: Tensor) -> Tensor:
    return (d - 1) * (d - 2) * (-7 / 12 * d + 5 / 4)


def _far(d: Tensor) -> Tensor:
    return (d - 2) * (d - 3) ** 2 / 12


PIECES = _far, _middle, _near, _near, _middle, _far  # of the kernel, at distances 2 ... 3, 1 ... 2 and 0 ... 1


def similar(picture: Tensor, matrix: np.ndarray, size: tuple[int, int], outside: Tensor | None = None) -> Tensor:
    """A picture (H, W, C) turned, scaled and shifted -> (height, width, C), by bicubic interpolation.

    Where it becomes smaller it is first shrunk by an antialiasing bicubic filter, so that no detail turns into moire.

    Args:
        matrix: (2, 3), a similarity that takes pixels of the result to pixels of the picture.
        size: (height, width).
        outside: (C,), the colour around the picture; by default the picture's border repeats.
    """
    shrink = max(float(np.hypot(*matrix[:, 0])), 1)
    part, matrix = _read_part(picture, matrix, size, shrink)
    if outside is not None:
        part = part - outside
    planes = part.movedim(-1, 0)[None]
    height, width = (max(round(side / shrink), 1) for side in planes.shape[-2:])
    if shrink > 1:
        planes = F.interpolate(planes, (height, width), mode="bicubic", antialias=True)
    x, y = positions(matrix, size)
    grid = torch.stack(((2 * x + 1) / part.shape[1] - 1, (2 * y + 1) / part.shape[0] - 1), -1).to(planes)
    padding = "border" if outside is None else "zeros"
    result = F.grid_sample(planes, grid[None], mode="bicubic", padding_mode=padding, align_corners=False)
    result = result[0].movedim(0, -1)
    return result if outside is None else result + outside


def positions(matrix: np.ndarray, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Where a similarity (2, 3) takes the pixels of a rectangle: x and y, float64 (height, width)."""
    rows, columns = (torch.arange(side, dtype=torch.float64) for side in size)
    return move(np.vstack((matrix, [0, 0, 1])), columns[None, :], rows[:, None])


def _read_part(picture: Tensor, matrix: np.ndarray, size: tuple[int, int], shrink: float) -> tuple[Tensor, np.ndarray]:
    """The rectangle of the picture that the filters read, at least a pixel of it, and the matrix that leads there."""
    corners = matrix @ [[0, size[1] - 1, 0, size[1] - 1], [0, 0, size[0] - 1, size[0] - 1], [1, 1, 1, 1]]
    margin = 5 * shrink
    limits = np.array([[picture.shape[1]], [picture.shape[0]]])
    low = np.clip(np.floor(corners.min(1, keepdims=True) - margin), 0, limits - 1).astype(int)
    high = np.clip(np.ceil(corners.max(1, keepdims=True) + margin) + 1, low + 1, limits).astype(int)
    (left, right), (top, bottom) = np.hstack((low, high)).tolist()
    return picture[top:bottom, left:right], matrix - [[0, 0, left], [0, 0, top]]
