"""Exemplar fill: a hole filled with patches of its own picture, coarse to fine.

Picture and matches improve each other in turn (Wexler, Shechtman, Irani, "Space-time completion of video", TPAMI 29,
2007), at one size of the picture after another: patchmatch_scales.py holds a size, patchmatch_field.py the two steps.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ..comfyui.progress import Shares, ignore
from ..pixels.regions import depths, nearest
from .harmonic import harmonic
from .patchmatch_field import Field
from .patchmatch_offsets import likeness, repeats, snap
from .patchmatch_scales import Scale, scales
from .patchmatch_seams import heal

MIN_ROUNDS, MAX_ROUNDS = 4, 40  # of one start
ROUNDS_PER_DEPTH = 8  # rounds of one start for each pixel of the hole's depth, at most
START_PATCHES = 150_000  # patches to match in all rounds of one start
STARTS = 4  # offsets tried as starts, besides the smooth fill
TOGETHER = 4096  # patches of several starts that are matched at once: more would not fit the processor's cache
SMOOTH = 1.15  # factor on the distance of the smooth start: blurred patches match too easily
NEARBY = 8  # pixels: the search radius at the two finest scales, which only correct the matches of coarser ones


def matches(scale: Scale, offset: Tensor) -> Tensor:
    """The source patches (S, T) nearest to where offsets (S, T, 2) lead from the target patches."""
    height, width = scale.hole.shape
    y = (scale.target // width + offset[..., 0]).clamp(0, height - 1)
    x = (scale.target % width + offset[..., 1]).clamp(0, width - 1)
    return nearest(scale.source).view(-1)[y * width + x]


def finer(field: Field, fine: Scale) -> Tensor:
    """The offsets of a coarse field, doubled, for the target patches of the next finer scale: (T, 2)."""
    coarse, match = field.scale, field.match[0]
    dy = match // coarse.width - coarse.target // coarse.width
    dx = match % coarse.width - coarse.target % coarse.width
    y = fine.target // fine.width // 2
    x = fine.target % fine.width // 2
    place = coarse.order.view(-1)[nearest(coarse.order >= 0)[y, x]]
    return 2 * torch.stack((dy, dx), -1)[place]


def rounds(level: int) -> int:
    """Rounds of matching and voting at a scale; level 0 is full size, where a round costs most."""
    return min(MAX_ROUNDS, 2 + 10 * level)


def begin(scale: Scale, generator: torch.Generator, progress: Callable[[float], None]) -> Field:
    """The field of the coarsest scale: of several starts, the one whose target patches match best in the end.

    The first start is a smooth fill with random matches. Each of the others has one offset for all patches, by which
    the picture resembles itself. A small hole needs fewer rounds. A long and thin hole, which is large at its coarsest
    scale too, gets fewer to save time. Starts of few patches are improved together: a call costs more than its patches.
    """
    patches = len(scale.target)
    affordable = START_PATCHES // patches
    count = min(max(affordable, MIN_ROUNDS), MAX_ROUNDS, ROUNDS_PER_DEPTH * int(depths(scale.hole).max()))
    sources = scale.source.flatten().nonzero()[:, 0]
    drawn = torch.randint(len(sources), (1, patches), generator=generator)
    table = likeness(scale.pixels[..., :3], scale.hole)
    offsets = repeats(table, scale.order >= 0, scale.source, min(STARTS, affordable))
    moved = matches(scale, offsets[:, None].expand(-1, patches, 2))
    starts = torch.cat((sources[drawn.to(sources.device)], moved))
    fields = [Field(scale, start, generator) for start in starts.split(max(1, TOGETHER // patches))]
    for field in fields:
        field.vote()
        if field is fields[0]:
            field.pixels[0] = harmonic(scale.pixels, scale.hole)
        share = len(field.match) / len(starts) / count
        field.refine(count, max(scale.hole.shape), lambda share=share: progress(share))
    means = [float(distance.mean()) for field in fields for distance in field.distance]
    means[0] *= SMOOTH  # the smooth start
    best = means.index(min(means))
    field = Field(scale, torch.cat([field.match for field in fields])[best : best + 1], generator)
    field.distance = torch.cat([field.distance for field in fields])[best : best + 1]
    return field


def patchmatch(picture: Tensor, hole: Tensor, seed: int, progress: Callable[[int], None] = ignore) -> Tensor:
    """A picture with its hole filled by patches of the surroundings.

    Args:
        picture: (H, W, 3). Its values inside the hole are not read.
        hole: bool (H, W). It may touch the borders. If it leaves no patch of 7 x 7 known pixels, the result is the
            harmonic fill.
        seed: Of the random search.
        progress: Called at every step with a number of pixels; the numbers add up to the pixels of the hole.

    Returns:
        (H, W, 3), equal to `picture` outside the hole.
    """
    generator = torch.Generator().manual_seed(seed)
    known = picture.float().masked_fill(hole[..., None], 0)
    pyramid = [] if hole.all() or not hole.any() else scales(known, hole, generator)
    if not pyramid:
        return harmonic(picture, hole, progress)
    levels = range(len(pyramid) - 1)
    work = 2 + sum(rounds(level) * 4.0**-level for level in levels)  # in rounds at full size; 2: the start, the seams
    shares = Shares(progress, int(hole.sum()))
    field = begin(pyramid[-1], generator, lambda share: shares(share / work))
    for level in reversed(levels):
        scale = pyramid[level]
        offset = snap(finer(field, scale), likeness(scale.pixels[..., :3], scale.hole))
        field = Field(scale, matches(scale, offset[None]), generator)
        reach = max(scale.hole.shape) if level >= 2 else NEARBY
        field.vote()
        field.refine(rounds(level), reach, lambda level=level: shares(4.0**-level / work))
    shares(1 / work)
    rgb = heal(known, hole, field.best())
    return torch.where(hole[..., None], rgb.to(picture), picture)
