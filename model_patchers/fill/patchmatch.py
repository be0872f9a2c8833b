"""Exemplar fill: a hole filled with patches of its own picture, coarse to fine.

Picture and matches improve each other in turn (Wexler, Shechtman, Irani, "Space-time completion of video", TPAMI 29,
2007), at one size of the picture after another.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ..comfyui.progress import Shares, ignore
from ..pixels.regions import depths, nearest
from . import patchmatch_planes as planes
from .harmonic import harmonic
from .patchmatch_field import Field, Scale, scales
from .patchmatch_offsets import lattice, likeness, repeats, snap
from .patchmatch_seams import heal

MIN_ROUNDS, MAX_ROUNDS = 4, 40  # of one start
ROUNDS_PER_DEPTH = 8  # rounds of one start for each pixel of the hole's depth, at most
START_PATCHES = 150_000  # patches to match in all rounds of one start
STARTS = 4  # offsets tried as starts, besides the smooth fill
TOGETHER = 4096  # patches of several starts that are matched at once: more would not fit the processor's cache
SMOOTH = 1.15  # factor on the distance of the smooth start: blurred patches match too easily
ROUNDS_IN_STEP = 4  # of matching among the offsets of a picture that repeats
LEFT_OVER = 0.1  # share of the target patches that no such offset need lead to a source patch
FLAT = 10.0  # depth in pixels up to which no plane is looked for: perspective changes little over such a hole
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
    table = likeness(scale.pixels[..., :3], scale.unknown)
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


def begin_in_step(scale: Scale, offsets: Tensor, generator: torch.Generator) -> Field | None:
    """A field of a picture that repeats: each match is the source patch at the first offset, of (K, 2), that has one.

    None if too few targets have one.
    """
    nowhere = torch.zeros(1, len(scale.target), 2, dtype=torch.long, device=scale.target.device)
    match, left = matches(scale, nowhere), torch.ones_like(scale.target, dtype=torch.bool)
    for offset in offsets:
        moved = scale.moved(offset)
        fits = left & scale.source.view(-1)[moved]
        match, left = torch.where(fits, moved, match), left & ~fits
    return Field(scale, match, generator) if left.float().mean() <= LEFT_OVER else None


def keep_step(field: Field, offsets: Tensor, progress: Callable[[float], None]) -> None:
    """Wexler's loop in which every target chooses among the offsets (K, 2), and their nearest neighbours."""
    near = torch.tensor([2.0, 1.0])  # bricks are a pixel or two out of step
    for _ in range(ROUNDS_IN_STEP):
        progress(1 / ROUNDS_IN_STEP)
        field.vote()
        field.look()
        for offset in offsets:
            field.offer(field.scale.moved(offset)[None])
        field.propagate(1)
        for jump in field.jumps(near, 1):
            field.search(*jump)


def copies(
    rgb: Tensor,
    hole: Tensor,
    absent: Tensor,
    repeating: bool,
    generator: torch.Generator,
    progress: Callable[[float], None],
) -> Tensor | None:
    """(H, W): the number y W + x of the known pixel to copy to each place: itself, outside the hole.

    Args:
        rgb, hole, absent: As of `scales`.
        repeating: Whether the picture is known to repeat. The fill then begins at half the size, where periods are
            still seen, and in step with them.
        progress: Called with shares of the work.

    Returns:
        None if no patch of 7 x 7 pixels is known.
    """
    pyramid = scales(rgb, hole, absent, generator)
    if not pyramid:
        return None
    field, level = None, len(pyramid) - 1
    if repeating:
        half = pyramid[min(1, level)]
        offsets = lattice(likeness(half.pixels[..., :3], half.unknown), half.unknown)
        field = begin_in_step(half, offsets, generator)
        level = min(1, level) if field else level
    work = 2 + sum(rounds(i) * 4.0**-i for i in range(level))  # in rounds at full size; 2: the start and the seams
    if field:
        keep_step(field, offsets, lambda share: progress(share / work))
    else:
        field = begin(pyramid[level], generator, lambda share: progress(share / work))
    for i in reversed(range(level)):
        scale = pyramid[i]
        offset = snap(finer(field, scale), likeness(scale.pixels[..., :3], scale.unknown))
        field = Field(scale, matches(scale, offset[None]), generator)
        field.vote()
        reach = max(scale.hole.shape) if i >= 2 else NEARBY
        field.refine(rounds(i), reach, lambda i=i: progress(4.0**-i / work))
    progress(1 / work)
    origin = torch.arange(hole.numel(), device=hole.device)
    origin[hole.flatten()] = field.best()
    return origin.view(hole.shape)


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
    if hole.all() or not hole.any():
        return harmonic(picture, hole, progress)
    known = picture.float().masked_fill(hole[..., None], 0)
    generator, shares = torch.Generator().manual_seed(seed), Shares(progress, int(hole.sum()))
    plane = planes.find(known, hole) if float(depths(hole).max()) > FLAT else None
    if plane is None:
        absent = torch.zeros_like(hole)
        origin = copies(known, hole, absent, False, generator, shares)
        if origin is None:
            return harmonic(picture, hole, progress)
        filled = known.flatten(0, 1)[origin[hole]] + heal(known, hole, absent, origin)[hole]
    else:
        view = planes.straighten(plane, known, hole)
        origin = copies(*view, True, generator, shares)
        filled = planes.slanted(plane, known, hole, origin, heal(*view, origin))
    out = picture.clone()
    out[hole] = filled.clamp(0, 1).to(picture)
    return out
