"""Smoothing of the seams between pasted pieces, such as pieces of a sky whose shading differs.

Perez, Gangnet, Blake, "Poisson image editing", SIGGRAPH 2003: the result has the differences between neighbours that
the pieces have. It is the pasted picture plus a correction u, which solves (SCREENING - Laplace) u = div(jumps) in the
hole and is 0 outside. Only faint jumps are corrected: strong ones belong to the texture.
"""

import torch
from torch import Tensor

from .harmonic import grids, outflow, solve

FAINT = 0.17  # a jump of this root mean square over the colours is weighted with 1 / e
SCREENING = 1e-4  # a correction fades over 100 pixels: far from known pixels it would add up to another colour


def heal(rgb: Tensor, hole: Tensor, absent: Tensor, origin: Tensor) -> Tensor:
    """What smooths the seams of a picture with its hole filled by known pixels.

    Args:
        rgb: (H, W, 3) in [0, 1].
        hole: bool (H, W).
        absent: bool (H, W): pixels that are neither known nor filled.
        origin: (H, W): the number y W + x of the known pixel that stands at each place: itself, outside the hole.

    Returns:
        (H, W, 3), to be added to the pasted pixels; 0 outside the hole.
    """
    (top, bottom), (left, right) = (places.aminmax() for places in hole.nonzero().T)
    box = slice(max(int(top) - 1, 0), int(bottom) + 2), slice(max(int(left) - 1, 0), int(right) + 2)
    unknown = hole | absent
    across = jumps(rgb, unknown, origin[box], (0, 1))
    down = jumps(rgb, unknown, origin[box], (1, 0))
    b = outflow(across, down) * hole[box]
    correction = torch.zeros_like(rgb)
    correction[box] = (solve(grids(hole[box], SCREENING), b) * hole[box]).movedim(0, -1)
    return correction


def jumps(rgb: Tensor, unknown: Tensor, origin: Tensor, step: tuple[int, int]) -> Tensor:
    """The errors of the differences between neighbours p and q = p + step in the pasted picture, weighted if faint.

    The pasted pixels are o(p) and o(q). The picture I offers two differences for them, I(o(p) + step) - I(o(p)) and
    I(o(q)) - I(o(q) - step). The right difference r is their mean; one of them, if the other needs an unknown pixel;
    0, if both do. The error e = I(o(q)) - I(o(p)) - r is weighted with exp(-(mean(e^2) / FAINT^2)^2).

    Args:
        rgb, unknown: (H, W, 3) and bool (H, W).
        origin: (h, w): the number o(p) = y W + x of the known pixel at each place.
        step: (0, 1) or (1, 0).

    Returns:
        (3, h, w - 1) or (3, h - 1, w).
    """
    dy, dx = step
    p, q = origin[: origin.shape[0] - dy, : origin.shape[1] - dx], origin[dy:, dx:]
    colours = rgb.flatten(0, 1)
    after_p, has_after = _neighbour(unknown, p, dy, dx)
    before_q, has_before = _neighbour(unknown, q, -dy, -dx)
    error_of_p = (colours[q] - colours[after_p]) * has_after[..., None]
    error_of_q = (colours[before_q] - colours[p]) * has_before[..., None]
    differences = (has_after.float() + has_before)[..., None]
    jump = torch.where(differences > 0, (error_of_p + error_of_q) / differences, colours[q] - colours[p])
    faint = torch.exp(-(jump.square().mean(-1, keepdim=True) / FAINT**2).square())
    return (jump * faint).movedim(-1, 0)


def _neighbour(unknown: Tensor, pixel: Tensor, dy: int, dx: int) -> tuple[Tensor, Tensor]:
    """The number of the pixel at (dy, dx) from each `pixel`, and whether there is such a pixel and it is known."""
    height, width = unknown.shape
    y, x = pixel // width + dy, pixel % width + dx
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    beside = torch.where(inside, y * width + x, 0)
    return beside, inside & ~unknown.flatten()[beside]
