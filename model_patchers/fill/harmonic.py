"""Harmonic fill: Laplace's equation in the hole, with the surrounding pixels as boundary values.

Each unknown pixel is the mean of its four neighbours (the five-point stencil). At the borders of the picture the
missing neighbours are left out, so nothing flows across. Conjugate gradients solve the linear system, preconditioned by
a multigrid V-cycle whose coarser grids join 2 x 2 pixels (Braess, "Towards algebraic multigrid for elliptic problems of
second order", Computing 55, 1995).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..comfyui.progress import ignore

GREY = 0.5  # fills a picture without a known pixel
TOLERANCE = 1e-6  # norm of the residual over the norm of the right-hand side
MAX_STEPS = 100  # a hole of a megapixel takes about 20
OMEGA = 0.8  # damping of a Jacobi step; 4/5 smooths the five-point stencil best


class Grid(NamedTuple):
    """The operator A u = c u + sum over neighbours of w (u - u_neighbour) on the unknown pixels of a grid.

    Every field is (H, W) and 0 at known pixels.
    """

    c: Tensor  # conductance to known pixels
    right: Tensor  # conductance w to the right-hand neighbour, 0 in the last column
    down: Tensor  # conductance w to the neighbour below, 0 in the last row
    inverse_diagonal: Tensor

    @classmethod
    def build(cls, c: Tensor, right: Tensor, down: Tensor) -> "Grid":
        diagonal = c + right + down + F.pad(right, (1, -1)) + F.pad(down, (0, 0, 1, -1))
        return cls(c, right, down, torch.where(diagonal > 0, 1 / diagonal, 0))

    def apply(self, u: Tensor) -> Tensor:
        """A u: (C, H, W) -> (C, H, W)."""
        across = self.right[:, :-1] * (u[..., :-1] - u[..., 1:])
        down = self.down[:-1] * (u[..., :-1, :] - u[..., 1:, :])
        return outflow(across, down).addcmul_(self.c, u)

    def coarser(self) -> "Grid":
        """The operator on cells of 2 x 2 pixels.

        The two links between neighbouring cells add up to twice the conductance of the doubled spacing, hence the half.
        """
        across = torch.arange(self.c.shape[1], device=self.c.device) % 2  # links out of a cell leave its odd pixels
        along = torch.arange(self.c.shape[0], device=self.c.device)[:, None] % 2
        return Grid.build(cells(self.c) / 2, cells(self.right * across) / 2, cells(self.down * along) / 2)


def outflow(across: Tensor, down: Tensor) -> Tensor:
    """The flow out of each pixel, (C, H, W), of flows to the right (C, H, W - 1) and down (C, H - 1, W)."""
    out = F.pad(across, (0, 1))
    out[..., 1:] -= across
    out[..., :-1, :] += down
    out[..., 1:, :] -= down
    return out


def cells(u: Tensor) -> Tensor:
    """(..., H, W) -> (..., ceil(H / 2), ceil(W / 2)): sums of 2 x 2 pixels."""
    u = F.pad(u, (0, u.shape[-1] % 2, 0, u.shape[-2] % 2))
    return u.unflatten(-2, (-1, 2)).unflatten(-1, (-1, 2)).sum((-3, -1))


def pyramid(c: Tensor, right: Tensor, down: Tensor) -> list[Grid]:
    """The grid with these conductances and its coarser grids, down to a single cell."""
    levels = [Grid.build(c, right, down)]
    while levels[-1].c.numel() > 1:
        levels.append(levels[-1].coarser())
    return levels


def everywhere(hole: Tensor) -> Grid:
    """The grid with all pixels linked and none known: minus Laplace's operator, with no flow across the borders."""
    ones = torch.ones(hole.shape, device=hole.device)
    return Grid.build(torch.zeros_like(ones), F.pad(ones[:, 1:], (0, 1)), F.pad(ones[1:], (0, 0, 0, 1)))


def grids(hole: Tensor, screening: float = 0) -> list[Grid]:
    """The grids of a hole, bool (H, W): its pixels are linked to each other and to the known pixels beside them.

    Args:
        screening: Conductance of every pixel to zero: a source at one pixel fades over 1 / sqrt(screening) pixels.
    """
    free = hole.float()
    right, down = F.pad(free[:, :-1] * free[:, 1:], (0, 1)), F.pad(free[:-1] * free[1:], (0, 0, 0, 1))
    return pyramid((screening - everywhere(hole).apply(1 - free)) * free, right, down)


def v_cycle(levels: list[Grid], r: Tensor) -> Tensor:
    """An approximation of A^-1 r by one multigrid V-cycle.

    A step of damped Jacobi, u <- u + OMEGA D^-1 (r - A u), stands before and after the coarser grid. The coarser grid
    gets the residual summed over its cells, and its solution is added to all pixels of a cell. The two transfers are
    transposes of each other, so the cycle is symmetric and positive, as conjugate gradients need it.

    Args:
        r: (C, H, W) on the first grid.

    Returns:
        (C, H, W)
    """
    grid = levels[0]
    u = OMEGA * grid.inverse_diagonal * r  # Jacobi from u = 0
    if len(levels) == 1:
        return u / OMEGA  # A of a single cell is its diagonal D: without damping, D^-1 r is exact
    coarse = v_cycle(levels[1:], cells(r - grid.apply(u)))
    u += coarse.repeat_interleave(2, -2).repeat_interleave(2, -1)[..., : u.shape[-2], : u.shape[-1]]
    u += OMEGA * grid.inverse_diagonal * (r - grid.apply(u))
    return u


def solve(levels: list[Grid], b: Tensor, progress: Callable[[int], None] = ignore) -> Tensor:
    """The solution u of A u = b, (C, H, W), by preconditioned conjugate gradients, each channel on its own."""

    def dot(x: Tensor, y: Tensor) -> Tensor:  # (C, 1, 1)
        return (x * y).sum((-2, -1), keepdim=True)

    u = v_cycle(levels, b)
    r = b - levels[0].apply(u)
    p, rho = torch.zeros_like(b), torch.ones_like(b[:, :1, :1])
    tiny = torch.finfo(b.dtype).tiny  # keeps a solved channel, whose r is 0, from dividing by 0
    enough = TOLERANCE**2 * dot(b, b)
    for step in range(MAX_STEPS):
        if (dot(r, r) <= enough).all():
            break
        progress(0)
        z = v_cycle(levels, r)
        rho, last = dot(r, z), rho
        p = z + (rho / last.clamp_min(tiny) if step else 0) * p
        q = levels[0].apply(p)
        alpha = rho / dot(p, q).clamp_min(tiny)
        u += alpha * p
        r -= alpha * q
    return u


def harmonic(picture: Tensor, hole: Tensor, progress: Callable[[int], None] = ignore) -> Tensor:
    """A picture with the solution of Laplace's equation in its hole.

    Args:
        picture: (H, W, C). Its values inside the hole are not read.
        hole: bool (H, W). It may touch the borders. If it covers everything, the result is mid grey.
        progress: Called with 0 before every step of the solver, at the end with the number of pixels filled.

    Returns:
        (H, W, C), equal to `picture` outside the hole.
    """
    if hole.all():
        return torch.full_like(picture, GREY)
    u = picture.movedim(-1, 0).float().masked_fill(hole, 0)  # (C, H, W)
    b = -everywhere(hole).apply(u) * hole
    filled = solve(grids(hole), b, progress).movedim(0, -1)
    progress(int(hole.sum()))
    return torch.where(hole[..., None], filled.to(picture), picture)
