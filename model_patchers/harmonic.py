"""Harmonic fill: Laplace's equation in the hole with the surrounding pixels as its boundary values.

Each unknown pixel is the mean of its four neighbours (the five-point stencil). At the picture's borders the neighbours
outside are left out, so nothing flows across them. Conjugate gradients solve the linear system under a multigrid
V-cycle whose coarse grids join 2 x 2 pixels (Braess, "Towards algebraic multigrid for elliptic problems of second
order", Computing 55, 1995).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

GREY = 0.5  # of a picture without a single known pixel
TOLERANCE = 1e-6  # what is left of the equations' right-hand side, as a share
MAX_STEPS = 100  # a hole of a megapixel takes about 20
OMEGA = 0.8  # a Jacobi step's damping, which takes most off the upper half of the stencil's spectrum


class Grid(NamedTuple):
    """The operator A u = c u + sum of w (u - u_neighbour) over the unknown pixels of a grid. Each is (H, W)."""

    c: Tensor  # conductance to known pixels
    right: Tensor  # conductance to the right-hand neighbour, 0 in the last column
    down: Tensor  # conductance to the neighbour below, 0 in the last row
    inverse_diagonal: Tensor  # 0 where no pixel is unknown

    @classmethod
    def build(cls, c: Tensor, right: Tensor, down: Tensor) -> "Grid":
        diagonal = c + right + down + F.pad(right, (1, -1)) + F.pad(down, (0, 0, 1, -1))
        return cls(c, right, down, torch.where(diagonal > 0, 1 / diagonal, 0))

    def apply(self, u: Tensor) -> Tensor:  # (C, H, W)
        flow_right = self.right[:, :-1] * (u[..., :-1] - u[..., 1:])
        flow_down = self.down[:-1] * (u[..., :-1, :] - u[..., 1:, :])
        out = self.c * u
        out[..., :-1] += flow_right
        out[..., 1:] -= flow_right
        out[..., :-1, :] += flow_down
        out[..., 1:, :] -= flow_down
        return out

    def coarser(self) -> "Grid":
        """On cells of 2 x 2 pixels. A cell's sum counts twice the conductance of its wider spacing, hence the half."""
        across = torch.arange(self.c.shape[1], device=self.c.device) % 2
        along = torch.arange(self.c.shape[0], device=self.c.device)[:, None] % 2
        return Grid.build(cells(self.c) / 2, cells(self.right * across) / 2, cells(self.down * along) / 2)


def cells(u: Tensor) -> Tensor:
    """(..., H, W) -> (..., ceil(H / 2), ceil(W / 2)): sums of 2 x 2 pixels."""
    u = F.pad(u, (0, u.shape[-1] % 2, 0, u.shape[-2] % 2))
    return u.unflatten(-2, (-1, 2)).unflatten(-1, (-1, 2)).sum((-3, -1))


def pyramid(c: Tensor, right: Tensor, down: Tensor) -> list[Grid]:
    """The grid and ever coarser ones, down to a single cell."""
    grids = [Grid.build(c, right, down)]
    while grids[-1].c.numel() > 1:
        grids.append(grids[-1].coarser())
    return grids


def v_cycle(grids: list[Grid], r: Tensor) -> Tensor:
    """About A^-1 r, symmetric and positive, as conjugate gradients need it: r is (C, H, W) on the first grid."""
    grid = grids[0]
    u = OMEGA * grid.inverse_diagonal * r
    if len(grids) == 1:
        return u / OMEGA
    left = r - grid.apply(u)
    coarse = v_cycle(grids[1:], cells(left))
    u += coarse.repeat_interleave(2, -2).repeat_interleave(2, -1)[..., : u.shape[-2], : u.shape[-1]]
    u += OMEGA * grid.inverse_diagonal * (r - grid.apply(u))
    return u


def solve(grids: list[Grid], b: Tensor, callback: Callable[[int], None] | None = None) -> Tensor:
    """A u = b by preconditioned conjugate gradients, the channels of b (C, H, W) side by side."""

    def dot(x: Tensor, y: Tensor) -> Tensor:  # (C, 1, 1)
        return (x * y).sum((-2, -1), keepdim=True)

    u = v_cycle(grids, b)
    r = b - grids[0].apply(u)
    p, rho = torch.zeros_like(b), torch.ones_like(b[:, :1, :1])
    enough = TOLERANCE**2 * dot(b, b)
    for step in range(MAX_STEPS):
        if (dot(r, r) <= enough).all():
            break
        if callback:
            callback(0)
        z = v_cycle(grids, r)
        rho, last = dot(r, z), rho
        p = z + (rho / last if step else 0) * p
        q = grids[0].apply(p)
        alpha = rho / dot(p, q).clamp_min(torch.finfo(b.dtype).tiny)
        u += alpha * p
        r -= alpha * q
    return u


def harmonic(picture: Tensor, hole: Tensor, callback: Callable[[int], None] | None = None) -> Tensor:
    """Fills a hole with the solution of Laplace's equation.

    Args:
        picture: (H, W, C); what it holds inside the hole is not read.
        hole: bool (H, W). It may touch the borders, and cover everything: then the result is mid grey.
        callback: Called with 0 before every step of the solver, at the end with the number of pixels filled.

    Returns:
        (H, W, C), equal to `picture` outside the hole.
    """
    if hole.all():
        return torch.full_like(picture, GREY)
    u = picture.movedim(-1, 0).float().masked_fill(hole, 0)  # (C, H, W)
    free = hole.float()
    right = F.pad(free[:, :-1] * free[:, 1:], (0, 1))
    down = F.pad(free[:-1] * free[1:], (0, 0, 0, 1))
    ones = torch.ones_like(free)
    everywhere = Grid.build(torch.zeros_like(free), F.pad(ones[:, 1:], (0, 1)), F.pad(ones[1:], (0, 0, 0, 1)))
    c = -everywhere.apply(1 - free) * free  # known neighbours of each unknown pixel
    b = -everywhere.apply(u) * free
    filled = solve(pyramid(c, right, down), b, callback).movedim(0, -1)
    if callback:
        callback(int(hole.sum()))
    return torch.where(hole[..., None], filled.to(picture), picture)
