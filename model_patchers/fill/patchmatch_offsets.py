"""Offsets by which a picture resembles itself: they keep bricks and tiles in step across a hole.

He, Sun, "Statistics of patch offsets for image completion", ECCV 2012. Theirs are counted over matched patches; these
are read off the whole picture's difference with itself, moved, which the Fourier transform gives for all offsets at
once.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

OVERLAP = 32  # pixels that must be known both here and there for a difference to count
FIT = 0.9  # share of the hole's patches that an offset must lead to source patches
APART = 3  # pixels between the best offsets
REACH = 2  # pixels that an offset is moved to fit: as many as it may be off after a scale's doubling
PERIODIC = 0.1  # a picture repeats by an offset if the difference is below this share of the usual one


def likeness(rgb: Tensor, hole: Tensor) -> Tensor:
    """Mean squared difference of the known pixels with themselves, moved by every offset.

    Args:
        rgb: (H, W, 3).
        hole: bool (H, W).

    Returns:
        (2 H, 2 W), indexed by the offset, negative ones from the end; infinite where too little overlaps.
    """
    size = [2 * n for n in hole.shape]
    known = (~hole).float()
    planes = rgb.movedim(-1, 0)
    planes = (planes - planes.mean((1, 2), keepdim=True)) * known  # centred: smaller squares, smaller rounding errors
    m = torch.fft.rfft2(known, s=size)
    squares = torch.fft.rfft2(planes.square().sum(0), s=size)
    power = torch.fft.rfft2(planes, s=size).abs().square().sum(0)
    # sum over pixels known at x and x + d of (I(x) - I(x + d))^2, each square and product a correlation
    difference = torch.fft.irfft2(2 * (squares.conj() * m).real - 2 * power, s=size)
    overlap = torch.fft.irfft2(m.abs().square(), s=size)
    return torch.where(overlap > OVERLAP, difference / overlap.clamp_min(1), torch.inf)


def repeats(likeness: Tensor, target: Tensor, source: Tensor, count: int) -> Tensor:
    """The best offsets that lead a hole's patches to source patches.

    Args:
        likeness: (2 H, 2 W).
        target: bool (H, W), centres of the patches that touch the hole.
        source: bool (H, W), centres of the patches to take.
        count: How many at most.

    Returns:
        (K, 2) as y, x, best first.
    """
    size = likeness.shape
    spectra = [torch.fft.rfft2(centres.float(), s=size) for centres in (target, source)]
    led = torch.fft.irfft2(spectra[0].conj() * spectra[1], s=size)
    score = torch.where(led >= FIT * target.sum(), likeness, torch.inf)
    around = F.pad(score[None, None], (APART,) * 4, mode="circular")
    lowest = -F.max_pool2d(-around, 2 * APART + 1, 1)[0, 0]
    offset = ((score == lowest) & score.isfinite()).nonzero()
    offset = offset[score[offset[:, 0], offset[:, 1]].argsort(stable=True)[:count]]
    extent = torch.tensor(size, device=offset.device)
    return torch.where(offset > extent // 2, offset - extent, offset)


def snap(offset: Tensor, likeness: Tensor) -> Tensor:
    """Moves offsets (T, 2) to ones nearby by which the picture repeats, where there are such.

    A texture appears at the scale that first resolves it; matches from the scale before know nothing of its phase.
    """
    steps = torch.arange(-REACH, REACH + 1, device=offset.device)
    near = offset[:, None] + torch.cartesian_prod(steps, steps)  # (T, K, 2)
    height, width = likeness.shape
    least, best = likeness[near[..., 0] % height, near[..., 1] % width].min(-1)
    usual = likeness[likeness.isfinite()].median()
    snapped = near.gather(1, best[:, None, None].expand(-1, 1, 2))[:, 0]
    return torch.where((least < PERIODIC * usual)[:, None], snapped, offset)
