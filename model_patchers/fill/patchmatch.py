"""Exemplar fill: a hole filled with pieces of its own picture, coarse to fine.

The picture and the field of matches improve each other in turn (Wexler, Shechtman, Irani, "Space-time completion of
video", TPAMI 29, 2007): every patch that touches the hole looks for the most similar patch of the surroundings (Barnes
et al., "PatchMatch", SIGGRAPH 2009, here with all patches at once), then every pixel of the hole takes the mean of
what the patches over it propose. Texture features keep grass from turning into its mean (Newson et al., "Video
inpainting of complex scenes", SIAM J. Imaging Sciences 7, 2014).
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..comfyui.progress import Shares, ignore
from ..pixels.images import luma
from ..pixels.regions import depths, nearest
from .harmonic import harmonic
from .patchmatch_offsets import likeness, repeats, snap
from .patchmatch_seams import heal

RADIUS = 3
SIDE = 2 * RADIUS + 1
PIECES = [(dy, dx) for dy in range(-RADIUS, RADIUS + 1) for dx in range(-RADIUS, RADIUS + 1)]
TEXTURE = 7.0  # weight of the texture features beside colours: the root of Newson's lambda, 50
DIMENSIONS = 32  # in which patches are compared, out of 7 x 7 x 5
COARSEST = 10  # the hole's depth in pixels at the coarsest scale: deeper, and its middle would start without texture
ENOUGH = 64  # source patches that a smaller scale must offer
SHARPNESS = 2.0  # of the vote: how fast a patch's say falls with its distance; a plain mean would blur
TRUST = 1.1  # by this factor a patch's say falls with every pixel into the hole (Wexler's gamma)
SMOOTH = 1.15  # the smooth fill's handicap as a beginning: what stays blurred is matched too easily
MANY = 40  # rounds that are enough anywhere
BEGINNING = 150_000  # patches to match in all, for one beginning
NEARBY = 8  # pixels: how far the finest scales search, which only mend what coarser ones found
STARTS = 4  # offsets tried as a beginning, besides the smooth fill


class Scale(NamedTuple):
    """One size of the picture, (H, W). Pixels and patch centres are numbered row by row."""

    pixels: Tensor  # (H, W, 5): colours and weighted texture features
    hole: Tensor  # bool (H, W)
    source: Tensor  # bool (H, W): centres of patches that are whole and wholly outside the hole
    target: Tensor  # (T,) centres of whole patches that touch the hole
    order: Tensor  # (H, W): place of each centre in `target`, or -1
    inside: Tensor  # (P,) the hole's pixels
    trust: Tensor  # (T,) each target patch's say by its place
    filters: Tensor  # (D, 5, 7, 7): the directions in which patches are compared
    codes: Tensor  # (H W, D): the picture's patches in these directions

    @classmethod
    def build(cls, pixels: Tensor, hole: Tensor, generator: torch.Generator, least: int) -> "Scale | None":
        """None where there are fewer than `least` source patches."""
        whole = torch.zeros_like(hole)
        whole[RADIUS:-RADIUS, RADIUS:-RADIUS] = True
        touched = F.max_pool2d(hole[None, None].float(), SIDE, 1, RADIUS)[0, 0] > 0
        source = whole & ~touched
        if source.sum() < least:
            return None
        target = (touched & whole).flatten().nonzero()[:, 0]
        order = torch.full_like(hole, -1, dtype=torch.long)
        order.view(-1)[target] = torch.arange(len(target), device=hole.device)
        trust = TRUST ** -depths(hole).flatten()[target]
        filters = basis(pixels, source, generator)
        inside = hole.flatten().nonzero()[:, 0]
        return cls(pixels, hole, source, target, order, inside, trust, filters, encode(pixels, filters))

    @property
    def width(self) -> int:
        return self.hole.shape[1]


def texture(rgb: Tensor, hole: Tensor, window: int) -> Tensor:
    """Mean absolute gradients of the known pixels across and down, in a window: (H, W, 3) -> (H, W, 2)."""
    brightness = luma(rgb)
    known = (~hole).float()
    across, down = known[:, 1:] * known[:, :-1], known[1:] * known[:-1]
    sums = (brightness[:, 1:] - brightness[:, :-1]).abs() * across, (brightness[1:] - brightness[:-1]).abs() * down
    maps = torch.stack(
        [F.pad(m, (0, 1)) for m in (sums[0], across)] + [F.pad(m, (0, 0, 0, 1)) for m in (sums[1], down)]
    )
    half = window // 2
    for size, padding in (((1, 2 * half + 1), (0, half)), ((2 * half + 1, 1), (half, 0))):
        maps = F.avg_pool2d(maps[:, None], size, 1, padding)[:, 0]
    return (maps[::2] / maps[1::2].clamp_min(1e-6)).movedim(0, -1)


def halve(pixels: Tensor, hole: Tensor) -> tuple[Tensor, Tensor]:
    """Means over the known pixels of 2 x 2 cells; a cell with less than half known belongs to the hole."""
    known = (~hole).float()
    planes = torch.cat((pixels.movedim(-1, 0) * known, known[None]))[None]
    planes = F.avg_pool2d(planes, 2, ceil_mode=True, count_include_pad=False)[0]
    return (planes[:-1] / planes[-1].clamp_min(1e-6)).movedim(0, -1), planes[-1] < 0.5


def scales(rgb: Tensor, hole: Tensor, generator: torch.Generator) -> list[Scale]:
    """The picture at full size and ever smaller ones, until the hole is COARSEST deep. Empty: no patch is a source."""
    count = max(0, math.ceil(math.log2(float(depths(hole).max()) / COARSEST))) + 1
    pixels = torch.cat((rgb, TEXTURE * texture(rgb, hole, 2**count)), -1)
    found: list[Scale] = []
    while len(found) < count and min(hole.shape) >= SIDE:
        scale = Scale.build(pixels, hole, generator, ENOUGH if found else 1)
        if scale is None:
            break
        found.append(scale)
        pixels, hole = halve(pixels, hole)
    return found


def basis(pixels: Tensor, source: Tensor, generator: torch.Generator) -> Tensor:
    """The directions in which source patches differ most (their principal components), as filters (D, 5, 7, 7)."""
    centres = source.flatten().nonzero()[:, 0]
    some = centres[torch.randint(len(centres), (min(len(centres), 4000),), generator=generator).to(centres.device)]
    steps = torch.tensor([dy * source.shape[1] + dx for dy, dx in PIECES], device=pixels.device)
    patches = pixels.flatten(0, 1)[some[:, None] + steps].flatten(1)  # (S, 7 * 7 * 5)
    patches = patches - patches.mean(0)
    _, vectors = torch.linalg.eigh(patches.T @ patches)
    return vectors[:, -DIMENSIONS:].T.reshape(-1, SIDE, SIDE, pixels.shape[-1]).movedim(-1, 1).contiguous()


def encode(pixels: Tensor, filters: Tensor) -> Tensor:
    """Every patch in few numbers: (H, W, 5) -> (H W, D)."""
    return F.conv2d(pixels.movedim(-1, 0)[None], filters, padding=RADIUS)[0].flatten(1).T.contiguous()


class Field:
    """Nearest neighbours: for each target patch the source patch `match` found so far, and its squared `distance`."""

    def __init__(self, scale: Scale, match: Tensor, generator: torch.Generator) -> None:
        self.scale, self.match, self.generator = scale, match, generator
        self.distance = torch.zeros(len(match), device=match.device)
        y, x = scale.target // scale.width, scale.target % scale.width
        (top, bottom), (left, right) = y.aminmax(), x.aminmax()
        self.crop = (
            slice(int(top) - RADIUS, int(bottom) + SIDE - RADIUS),
            slice(int(left) - RADIUS, int(right) + SIDE - RADIUS),
        )
        self.place = (y - self.crop[0].start) * (self.crop[1].stop - self.crop[1].start) + x - self.crop[1].start

    def improve(self, pixels: Tensor, reach: int, steps: tuple[int, ...]) -> None:
        """Takes the target patches as they are in `pixels`, (H, W, 5), and finds better matches for them."""
        self.wanted = encode(pixels[self.crop], self.scale.filters)[self.place]
        self.distance = self.measure(self.match)
        for step in steps:
            self.propagate(step)
            self.search(reach)

    def measure(self, match: Tensor) -> Tensor:
        return (self.scale.codes[match] - self.wanted).square_().sum(-1)

    def offer(self, match: Tensor, valid: Tensor) -> None:
        """Takes each candidate that is a source patch and nearer than the present one."""
        match = match.clamp(0, len(self.scale.codes) - 1)
        valid = valid & self.scale.source.view(-1)[match]
        match = torch.where(valid, match, self.match)
        distance = self.measure(match)
        better = distance < self.distance
        self.match = torch.where(better, match, self.match)
        self.distance = torch.where(better, distance, self.distance)

    def propagate(self, step: int) -> None:
        """Offers each patch what its four neighbours at `step` <= RADIUS found, moved back by the step.

        Centres are no nearer than RADIUS to the picture's borders, so no step leads into the next row.
        """
        for move in (-step, step, -step * self.scale.width, step * self.scale.width):
            place = self.scale.order.view(-1)[self.scale.target + move]
            self.offer(self.match[place] - move, place >= 0)

    def search(self, reach: float) -> None:
        """Offers random patches around the present one, ever closer."""
        height, width = self.scale.hole.shape
        while reach >= 1:
            jump = (torch.rand(2, len(self.match), generator=self.generator) * 2 - 1) * reach
            dy, dx = jump.round().long().to(self.match.device)
            y = (self.match // width + dy).clamp(0, height - 1)
            x = (self.match % width + dx).clamp(0, width - 1)
            self.offer(y * width + x, torch.ones_like(y, dtype=torch.bool))
            reach /= 2

    def over(self, move: int) -> tuple[Tensor, Tensor]:
        """The target patch that has each hole pixel at `move` from its centre, and whether there is one: (P,)."""
        place = self.scale.order.view(-1)[(self.scale.inside - move).clamp(0, len(self.scale.codes) - 1)]
        return place, place >= 0

    def vote(self) -> Tensor:
        """The picture (H, W, 5), each hole pixel the weighted mean of what the patches over it propose."""
        known = self.scale.pixels.flatten(0, 1)
        typical = torch.quantile(self.distance[:: len(self.distance) // 10000 + 1], 0.75).clamp_min(1e-8)
        say = self.scale.trust * (torch.exp(-SHARPNESS * self.distance / typical) + 1e-9)
        total = known.new_zeros(len(self.scale.inside), known.shape[1])
        says = known.new_zeros(len(self.scale.inside))
        for dy, dx in PIECES:
            move = dy * self.scale.width + dx
            place, there = self.over(move)
            weight = torch.where(there, say[place], 0)
            total += weight[:, None] * known[torch.where(there, self.match[place] + move, 0)]
            says += weight
        out = self.scale.pixels.clone()
        out.view(-1, out.shape[-1])[self.scale.inside] = total / says[:, None]
        return out

    def best(self) -> Tensor:
        """(P,): the known pixel that the nearest matched of the patches over each hole pixel proposes."""
        least = torch.full_like(self.scale.inside, torch.inf, dtype=torch.float32)
        pixel = torch.zeros_like(self.scale.inside)
        for dy, dx in PIECES:
            move = dy * self.scale.width + dx
            place, there = self.over(move)
            distance = torch.where(there, self.distance[place], torch.inf)
            pixel = torch.where(distance < least, self.match[place] + move, pixel)
            least = torch.minimum(least, distance)
        return pixel


def matches(scale: Scale, offset: Tensor) -> Tensor:
    """Source patches (T,) from offsets (T, 2); where one leads to no source patch, the one nearest to there."""
    height, width = scale.hole.shape
    y = (scale.target // width + offset[:, 0]).clamp(0, height - 1)
    x = (scale.target % width + offset[:, 1]).clamp(0, width - 1)
    return nearest(scale.source).view(-1)[y * width + x]


def finer(field: Field, fine: Scale) -> Tensor:
    """The offsets of one scale, doubled, for the target patches of the next: (T, 2)."""
    coarse, match = field.scale, field.match
    dy = match // coarse.width - coarse.target // coarse.width
    dx = match % coarse.width - coarse.target % coarse.width
    y = fine.target // fine.width // 2
    x = fine.target % fine.width // 2
    place = coarse.order.view(-1)[nearest(coarse.order >= 0)[y, x]]
    return 2 * torch.stack((dy, dx), -1)[place]


def rounds(level: int) -> int:
    """How often matches and picture improve each other at a scale; 0 is full size, where a round costs most."""
    return min(MANY, 2 + 10 * level)


def refine(field: Field, pixels: Tensor, count: int, reach: int, progress: Callable[[], None]) -> None:
    """Wexler's loop at one scale: `count` rounds of matching and voting from `pixels` (H, W, 5), and a last match."""
    for _ in range(count):
        progress()
        field.improve(pixels, reach, (1, 2))
        pixels = field.vote()
    field.improve(pixels, reach, (1,))


def begin(scale: Scale, generator: torch.Generator, progress: Callable[[float], None]) -> Field:
    """The coarsest scale, from several beginnings; the one whose patches are most like patches of the picture stays.

    A speck needs fewer rounds. A hole that is long and thin is large at its coarsest scale too, and gets by with fewer.
    """
    affordable = BEGINNING // len(scale.target)
    count = min(max(affordable, 4), MANY, 8 * int(depths(scale.hole).max()))
    sources = scale.source.flatten().nonzero()[:, 0]
    some = torch.randint(len(sources), (len(scale.target),), generator=generator)
    starts = [(Field(scale, sources[some.to(sources.device)], generator), harmonic(scale.pixels, scale.hole))]
    table = likeness(scale.pixels[..., :3], scale.hole)
    for offset in repeats(table, scale.order >= 0, scale.source, min(STARTS, affordable)):
        field = Field(scale, matches(scale, offset.expand(len(scale.target), 2)), generator)
        starts.append((field, field.vote()))
    for field, pixels in starts:
        refine(field, pixels, count, max(scale.hole.shape), lambda: progress(1 / count / len(starts)))
    distances = [float(field.distance.mean()) for field, _ in starts]
    distances[0] *= SMOOTH
    return starts[distances.index(min(distances))][0]


def patchmatch(picture: Tensor, hole: Tensor, seed: int, progress: Callable[[int], None] = ignore) -> Tensor:
    """Fills a hole with pieces of its surroundings.

    Args:
        picture: (H, W, 3); what it holds inside the hole is not read.
        hole: bool (H, W). It may touch the borders. Where it leaves no whole patch of 7 x 7 known pixels, there are no
            pieces to take, and the harmonic fill is what comes back.
        seed: Of the random search.
        progress: Called at every step with the number of pixels it was worth; they add up to the hole's.

    Returns:
        (H, W, 3), equal to `picture` outside the hole.
    """
    generator = torch.Generator().manual_seed(seed)
    known = picture.float().masked_fill(hole[..., None], 0)
    pyramid = [] if hole.all() or not hole.any() else scales(known, hole, generator)
    if not pyramid:
        return harmonic(picture, hole, progress)
    levels = range(len(pyramid) - 1)
    work = 2 + sum(rounds(level) * 4.0**-level for level in levels)
    shares = Shares(progress, int(hole.sum()))
    field = begin(pyramid[-1], generator, lambda part: shares(part / work))
    for level in reversed(levels):
        scale = pyramid[level]
        offset = snap(finer(field, scale), likeness(scale.pixels[..., :3], scale.hole))
        field = Field(scale, matches(scale, offset), generator)
        reach = max(scale.hole.shape) if level >= 2 else NEARBY
        refine(field, field.vote(), rounds(level), reach, lambda level=level: shares(4.0**-level / work))
    shares(1 / work)
    rgb = heal(known, hole, field.best())
    return torch.where(hole[..., None], rgb.to(picture), picture)
