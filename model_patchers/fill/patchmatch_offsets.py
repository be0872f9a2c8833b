"""Offsets by which a picture resembles itself: they keep bricks and tiles in step across a hole.

He, Sun, "Statistics of patch offsets for image completion", ECCV 2012. They count the offsets of matched patches. Here
the whole picture is compared with itself at every offset, by Fourier transforms.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

OVERLAP = 32  # pairs of known pixels that an offset needs to be compared
FIT = 0.9  # share of the hole's patches that an offset must lead to source patches
APART = 3  # pixels between the best offsets
REACH = 2  # pixels by which `snap` moves an offset: it may be off by as many after doubling
SHARED = 0.25  # share of the known pixels that an offset of a lattice must keep
STRONG = 0.6  # greatest difference at such an offset, as a share of the median
LATTICE = 64  # such offsets at most
PERIODIC = 0.1  # a picture repeats at an offset if the difference is below this share of the median


def likeness(rgb: Tensor, hole: Tensor) -> Tensor:
    """The mean squared difference of the known pixels of a picture and the picture moved, for every offset d.

    D(d) = sum over x of m(x) m(x + d) |I(x) - I(x + d)|^2 / sum over x of m(x) m(x + d), where m is 1 at known pixels.

    Args:
        rgb: (H, W, 3).
        hole: bool (H, W).

    Returns:
        (2 H, 2 W), indexed by d as y, x, negative ones from the end; infinite for fewer than OVERLAP pairs.
    """
    size = [2 * n for n in hole.shape]
    known = (~hole).float()
    planes = rgb.movedim(-1, 0)
    planes = (planes - planes.mean((1, 2), keepdim=True)) * known  # centred: smaller squares, smaller rounding errors
    m = torch.fft.rfft2(known, s=size)
    squares = torch.fft.rfft2(planes.square().sum(0), s=size)
    power = torch.fft.rfft2(planes, s=size).abs().square().sum(0)
    # The square multiplied out gives three correlations: of I^2 with m, of m with I^2, and -2 times of I with itself.
    difference = torch.fft.irfft2(2 * (squares.conj() * m).real - 2 * power, s=size)
    overlap = torch.fft.irfft2(m.abs().square(), s=size)
    return torch.where(overlap > OVERLAP, difference / overlap.clamp_min(1), torch.inf)


def repeats(likeness: Tensor, target: Tensor, source: Tensor, count: int) -> Tensor:
    """The offsets by which the picture resembles itself most, of those that lead the target patches to source patches.

    Args:
        likeness: (2 H, 2 W), from `likeness`.
        target: bool (H, W), centres of the patches that touch the hole.
        source: bool (H, W), centres of the patches outside the hole.
        count: The most offsets to return.

    Returns:
        (K, 2) as y, x, best first.
    """
    size = likeness.shape
    spectra = [torch.fft.rfft2(centres.float(), s=size) for centres in (target, source)]
    hits = torch.fft.irfft2(spectra[0].conj() * spectra[1], s=size)  # target patches that an offset leads to sources
    score = torch.where(hits >= FIT * target.sum(), likeness, torch.inf)
    offset = (valleys(score) & score.isfinite()).nonzero()
    offset = offset[score[offset[:, 0], offset[:, 1]].argsort(stable=True)[:count]]
    extent = torch.tensor(size, device=offset.device)
    return torch.where(offset > extent // 2, offset - extent, offset)


def lattice(likeness: Tensor, unknown: Tensor) -> Tensor:
    """The strongest offsets by which the picture resembles itself, in both directions: (K, 2) as y, x, best first.

    Args:
        likeness: (2 H, 2 W), from `likeness`.
        unknown: bool (H, W).
    """
    size = torch.tensor(likeness.shape, device=likeness.device)
    known = torch.fft.rfft2((~unknown).float(), s=likeness.shape)
    overlap = torch.fft.irfft2(known.abs().square(), s=likeness.shape)
    lowest = valleys(likeness)
    usual = likeness[overlap > SHARED * overlap[0, 0]].median()
    chosen = lowest & (overlap > SHARED * overlap[0, 0]) & (likeness < STRONG * usual)
    chosen[0, 0] = False
    offset = chosen.nonzero()
    offset = offset[likeness[offset[:, 0], offset[:, 1]].argsort(stable=True)[:LATTICE]]
    return torch.where(offset > size // 2, offset - size, offset)


def valleys(score: Tensor) -> Tensor:
    """Which offsets, of a table (2 H, 2 W), are the lowest within APART."""
    around = F.pad(score[None, None], (APART,) * 4, mode="circular")
    return score == -F.max_pool2d(F.max_pool2d(-around, (1, 2 * APART + 1), 1), (2 * APART + 1, 1), 1)[0, 0]


def snap(offset: Tensor, likeness: Tensor) -> Tensor:
    """Offsets (T, 2), each moved to the best one within REACH if the picture repeats there.

    A texture appears at the first scale that resolves it, so offsets from the coarser scale ignore its phase.
    """
    steps = torch.arange(-REACH, REACH + 1, device=offset.device)
    near = offset[:, None] + torch.cartesian_prod(steps, steps)  # (T, K, 2)
    height, width = likeness.shape
    least, best = likeness[near[..., 0] % height, near[..., 1] % width].min(-1)
    usual = likeness[likeness.isfinite()].median()
    snapped = near.gather(1, best[:, None, None].expand(-1, 1, 2))[:, 0]
    return torch.where((least < PERIODIC * usual)[:, None], snapped, offset)
