"""Seams between pasted pieces, taken out of the gradients: what is left of a sky's shading does not show.

Perez, Gangnet, Blake, "Poisson image editing", SIGGRAPH 2003: the picture is wanted whose differences between
neighbours are those of the pieces. Only the correction is solved for, and only faint jumps are corrected: a strong one
is the texture's own.
"""

import torch
from torch import Tensor

from .harmonic import grids, outflow, solve

FAINT = 0.1  # a jump of this root mean square over the colours counts for 1 / e
SCREENING = 1e-4  # a correction fades over 100 pixels: in a hole far from known pixels it would add up to a new colour


def heal(rgb: Tensor, hole: Tensor, pixel: Tensor) -> Tensor:
    """Fills a hole with known pixels and smooths the seams.

    Args:
        rgb: (H, W, 3).
        hole: bool (H, W).
        pixel: (P,) for each pixel of the hole, row by row, the number of the known pixel that goes there.

    Returns:
        (H, W, 3).
    """
    height, width = hole.shape
    origin = torch.arange(height * width, device=hole.device)
    origin[hole.flatten()] = pixel
    origin = origin.view(height, width)
    out = rgb.flatten(0, 1)[origin]
    (top, bottom), (left, right) = (places.aminmax() for places in hole.nonzero().T)
    box = slice(max(int(top) - 1, 0), int(bottom) + 2), slice(max(int(left) - 1, 0), int(right) + 2)
    across = jumps(rgb, hole, origin[box], (0, 1))
    down = jumps(rgb, hole, origin[box], (1, 0))
    b = outflow(across, down) * hole[box]
    correction = torch.zeros_like(rgb)
    correction[box] = solve(grids(hole[box], SCREENING), b).movedim(0, -1)
    return torch.where(hole[..., None], (out + correction).clamp(0, 1), rgb)


def jumps(rgb: Tensor, hole: Tensor, origin: Tensor, step: tuple[int, int]) -> Tensor:
    """By how much each pixel's neighbour at `step` is off what goes on in the picture there, from either of the two.

    Where the picture goes on in the hole, seen from both, it is taken to go on without a change.

    Args:
        rgb, hole: (H, W, 3) and (H, W).
        origin: (h, w), the number of the known pixel at each place.
        step: (0, 1) or (1, 0).

    Returns:
        (3, h, w - 1) or (3, h - 1, w).
    """
    dy, dx = step
    first, second = origin[: origin.shape[0] - dy, : origin.shape[1] - dx], origin[dy:, dx:]
    colours = rgb.flatten(0, 1)
    after, is_after = _neighbour(hole, first, dy, dx)
    before, is_before = _neighbour(hole, second, -dy, -dx)
    ahead = (colours[second] - colours[after]) * is_after[..., None]
    back = (colours[before] - colours[first]) * is_before[..., None]
    sides = (is_after.float() + is_before)[..., None]
    jump = torch.where(sides > 0, (ahead + back) / sides, colours[second] - colours[first])
    faint = torch.exp(-jump.square().mean(-1, keepdim=True) / FAINT**2)
    return (jump * faint).movedim(-1, 0)


def _neighbour(hole: Tensor, pixel: Tensor, dy: int, dx: int) -> tuple[Tensor, Tensor]:
    """The number of the pixel beside each `pixel`, and whether it is one that is known."""
    height, width = hole.shape
    y, x = pixel // width + dy, pixel % width + dx
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    beside = torch.where(inside, y * width + x, 0)
    return beside, inside & ~hole.flatten()[beside]
