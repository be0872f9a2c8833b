"""Exemplar fill: a hole filled with patches of its own picture, coarse to fine.

Picture and matches improve each other in turn (Wexler, Shechtman, Irani, "Space-time completion of video", TPAMI 29,
2007). Every patch that touches the hole looks for the most similar patch of the surroundings (Barnes et al.,
"PatchMatch", SIGGRAPH 2009, here for all patches at once). Then every pixel of the hole takes the weighted mean of the
pixels that the patches over it propose. Texture features keep grass from turning into its mean colour (Newson et al.,
"Video inpainting of complex scenes", SIAM J. Imaging Sciences 7, 2014).
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..comfyui.progress import Shares, ignore
from ..pixels.boxes import Box
from ..pixels.images import luma_sum
from ..pixels.regions import around, depths, hole_boxes, nearest
from .harmonic import harmonic
from .patchmatch_offsets import likeness, repeats, snap
from .patchmatch_seams import heal

RADIUS = 3
SIDE = 2 * RADIUS + 1
PLACES = [(dy, dx) for dy in range(-RADIUS, RADIUS + 1) for dx in range(-RADIUS, RADIUS + 1)]  # of a patch's pixels
TEXTURE = 7.0  # weight of the texture features beside colours: the root of Newson's lambda, 50
DIMENSIONS = 32  # in which patches are compared, out of 7 x 7 x 5
BASIS_SAMPLE = 4000  # patches that these dimensions are computed from
COARSEST = 10  # the hole's depth in pixels at the coarsest scale: a deeper middle would start without texture
MIN_SOURCES = 64  # source patches that a smaller scale must offer

# Weights of the vote
TYPICAL = 0.75  # quantile of the distances, which sets sigma (Wexler's)
TYPICAL_SAMPLE = 10_000  # distances that the quantile is computed from
SHARPNESS = 2.0  # of the fall with the distance; 0, a plain mean, would blur
TRUST = 1.1  # factor of the fall with every pixel into the hole (Wexler's gamma)
MIN_DISTANCE = 1e-8  # least value of that quantile: all matches may be perfect
MIN_WEIGHT = 1e-9  # least weight before TRUST: all patches over a pixel may match badly
VOTERS = 2048  # pixels that vote at once: enough for few calls, few enough for the processor's cache

# The work
MIN_ROUNDS, MAX_ROUNDS = 4, 40  # of one start
ROUNDS_PER_DEPTH = 8  # rounds of one start for each pixel of the hole's depth, at most
START_PATCHES = 150_000  # patches to match in all rounds of one start
STARTS = 4  # offsets tried as starts, besides the smooth fill
SMOOTH = 1.15  # factor on the distance of the smooth start: blurred patches match too easily
PART = 250  # pixels that could be encoded in the time of one more call
NEARBY = 8  # pixels: the search radius at the two finest scales, which only correct the matches of coarser ones


class Part(NamedTuple):
    """Some of the targets, close to each other."""

    box: Box  # all pixels of their patches
    targets: Tensor  # their indices
    place: Tensor  # their pixels in the box, row by row


class Scale(NamedTuple):
    """The picture at one size, (H, W). Pixels and patch centres are numbered row by row."""

    pixels: Tensor  # (H, W, 5): colours and weighted texture features
    hole: Tensor  # bool (H, W)
    source: Tensor  # bool (H, W): centres of the patches inside the picture and outside the hole
    target: Tensor  # (T,): centres of the patches inside the picture that touch the hole
    order: Tensor  # (H, W): index of each centre in `target`, or -1
    inside: Tensor  # (P,): the pixels of the hole
    trust: Tensor  # (T,): TRUST^-depth, the weight of each target patch by its depth in the hole
    parts: list[Part]  # of the targets
    filters: Tensor  # (D, 5, 7, 7): the directions in which patches are compared
    codes: Tensor  # (H W, D): the patches of the picture in these directions

    @classmethod
    def build(cls, pixels: Tensor, hole: Tensor, generator: torch.Generator, least: int) -> "Scale | None":
        """The scale of these pixels (H, W, 5) and this hole; None if it has fewer than `least` source patches."""
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
        codes = encode(pixels, filters)
        return cls(pixels, hole, source, target, order, inside, trust, parts(touched & whole, order), filters, codes)

    @property
    def width(self) -> int:
        return self.hole.shape[1]

    def encode_targets(self, pixels: Tensor) -> Tensor:
        """The target patches of a picture (H, W, 5): (T, D)."""
        codes = pixels.new_empty(len(self.target), len(self.filters))
        for part in self.parts:
            codes[part.targets] = encode(pixels[part.box.slices], self.filters)[part.place]
        return codes


def parts(touched: Tensor, order: Tensor) -> list[Part]:
    """The targets by connected regions, so that specks cost what they cover and not what lies between them.

    Regions that would cost more than the box around all of them are one part.

    Args:
        touched: bool (H, W), the centres of the targets.
        order: (H, W), as of Scale.
    """
    boxes, whole = hole_boxes(touched, RADIUS), around(touched).expand(RADIUS, tuple(touched.shape))
    if sum(box.width * box.height + PART for box in boxes) > whole.width * whole.height:
        boxes = [whole]
    places = [touched[box.slices].flatten().nonzero()[:, 0] for box in boxes]
    return [Part(box, order[box.slices].flatten()[place], place) for box, place in zip(boxes, places, strict=True)]


def texture(rgb: Tensor, hole: Tensor, window: int) -> Tensor:
    """Mean absolute gradients of brightness between known pixels, across and down: (H, W, 3) -> (H, W, 2).

    Args:
        window: Side of the square of the mean, rounded up to an odd number.
    """
    brightness = luma_sum(rgb)
    known = (~hole).float()
    both_x, both_y = known[:, 1:] * known[:, :-1], known[1:] * known[:-1]  # whether both neighbours are known
    change_x = (brightness[:, 1:] - brightness[:, :-1]).abs() * both_x
    change_y = (brightness[1:] - brightness[:-1]).abs() * both_y
    right, below = (0, 1), (0, 0, 0, 1)
    planes = [F.pad(change_x, right), F.pad(both_x, right), F.pad(change_y, below), F.pad(both_y, below)]
    half = window // 2
    means = F.avg_pool2d(torch.stack(planes)[:, None], (1, 2 * half + 1), 1, (0, half))
    change_x, both_x, change_y, both_y = F.avg_pool2d(means, (2 * half + 1, 1), 1, (half, 0))[:, 0]
    return torch.stack((change_x / both_x.clamp_min(1e-6), change_y / both_y.clamp_min(1e-6)), -1)


def halve(pixels: Tensor, hole: Tensor) -> tuple[Tensor, Tensor]:
    """Means over the known pixels of 2 x 2 cells, and the hole of that size: cells with less than half known."""
    known = (~hole).float()
    planes = torch.cat((pixels.movedim(-1, 0) * known, known[None]))[None]
    planes = F.avg_pool2d(planes, 2, ceil_mode=True, count_include_pad=False)[0]
    return (planes[:-1] / planes[-1].clamp_min(1e-6)).movedim(0, -1), planes[-1] < 0.5


def scales(rgb: Tensor, hole: Tensor, generator: torch.Generator) -> list[Scale]:
    """The picture at full size, half size and so on until the hole is COARSEST deep; empty if no patch is a source."""
    count = max(0, math.ceil(math.log2(float(depths(hole).max()) / COARSEST))) + 1
    pixels = torch.cat((rgb, TEXTURE * texture(rgb, hole, 2**count)), -1)
    pyramid: list[Scale] = []
    while len(pyramid) < count and min(hole.shape) >= SIDE:
        scale = Scale.build(pixels, hole, generator, MIN_SOURCES if pyramid else 1)
        if scale is None:
            break
        pyramid.append(scale)
        pixels, hole = halve(pixels, hole)
    return pyramid


def basis(pixels: Tensor, source: Tensor, generator: torch.Generator) -> Tensor:
    """The directions in which source patches differ most (their principal components), as filters (D, 5, 7, 7)."""
    centres = source.flatten().nonzero()[:, 0]
    drawn = torch.randint(len(centres), (min(len(centres), BASIS_SAMPLE),), generator=generator)
    sample = centres[drawn.to(centres.device)]
    steps = torch.tensor([dy * source.shape[1] + dx for dy, dx in PLACES], device=pixels.device)
    patches = pixels.flatten(0, 1)[sample[:, None] + steps].flatten(1)  # (S, 7 * 7 * 5)
    patches = patches - patches.mean(0)
    _, vectors = torch.linalg.eigh(patches.T @ patches)
    return vectors[:, -DIMENSIONS:].T.reshape(-1, SIDE, SIDE, pixels.shape[-1]).movedim(-1, 1).contiguous()


def encode(pixels: Tensor, filters: Tensor) -> Tensor:
    """The patch around every pixel, (H, W, 5), in the directions of the filters, (D, 5, 7, 7): (H W, D)."""
    return F.conv2d(pixels.movedim(-1, 0)[None], filters, padding=RADIUS)[0].flatten(1).T.contiguous()


class Field:
    """A source patch for each target patch, the most similar so far.

    Args:
        scale: The picture.
        match: (T,) centres of source patches to begin with.
        generator: Of the random search.

    Attributes:
        match: (T,)
        distance: (T,) squared distances of target and match, in the directions of the scale's filters.
    """

    def __init__(self, scale: Scale, match: Tensor, generator: torch.Generator) -> None:
        self.scale, self.match, self.generator = scale, match, generator
        self.distance = torch.zeros(len(match), device=match.device)

    def improve(self, pixels: Tensor, reach: int, steps: tuple[int, ...]) -> None:
        """Finds better matches for the target patches of the present picture.

        Args:
            pixels: (H, W, 5), the present picture.
            reach: Pixels around each match that the random search begins with.
            steps: For each round of propagation and search, how far the neighbours of the propagation are.
        """
        self.targets = self.scale.encode_targets(pixels)
        self.distance = self.measure(self.match)
        for step in steps:
            self.propagate(step)
            self.search(reach)

    def measure(self, match: Tensor) -> Tensor:
        """The squared distances of the target patches to these source patches: (T,) -> (T,)."""
        return (self.scale.codes[match] - self.targets).square_().sum(-1)

    def offer(self, match: Tensor, valid: Tensor | None = None) -> None:
        """Takes each candidate, (T,), that is valid, is a source patch and is nearer than the present match."""
        distance = self.measure(match)
        better = (distance < self.distance) & self.scale.source.view(-1)[match]
        if valid is not None:
            better &= valid
        self.match = torch.where(better, match, self.match)
        self.distance = torch.where(better, distance, self.distance)

    def propagate(self, step: int) -> None:
        """Offers each patch the matches of its four neighbours at `step` <= RADIUS, moved back by the step.

        Centres are at least RADIUS from the borders of the picture, so no step leads into the next row.
        """
        for move in (-step, step, -step * self.scale.width, step * self.scale.width):
            place = self.scale.order.view(-1)[self.scale.target + move]
            self.offer((self.match[place] - move).clamp(0, len(self.scale.codes) - 1), place >= 0)

    def search(self, reach: float) -> None:
        """Offers random patches around each match, within `reach` pixels, then half as many, down to 1."""
        height, width = self.scale.hole.shape
        while reach >= 1:
            jump = torch.rand(2, len(self.match), generator=self.generator).mul_(2).sub_(1).mul_(reach).round_()
            dy, dx = jump.to(self.match)
            y = (self.match // width).add_(dy).clamp_(0, height - 1)
            x = (self.match % width).add_(dx).clamp_(0, width - 1)
            self.offer(y.mul_(width).add_(x))
            reach /= 2

    def over(self, pixel: Tensor, move: int | Tensor) -> tuple[Tensor, Tensor]:
        """The target patch centred `move` before each of these pixels of the hole, and whether there is one."""
        place = self.scale.order.view(-1)[(pixel - move).clamp(0, len(self.scale.codes) - 1)]
        return place, place >= 0

    def vote(self) -> Tensor:
        """The picture (H, W, 5) with its hole filled by weighted means (Wexler et al.).

        A pixel of the hole becomes sum of w_t c_t / sum of w_t over the target patches t that hold it, where c_t is the
        pixel at its place in the match of t, and w_t = TRUST^-depth exp(-d_t / (2 sigma^2)). With the squared distances
        d and their quantile d_75, 2 sigma^2 = d_75 / SHARPNESS.
        """
        known = self.scale.pixels.flatten(0, 1)
        sample = self.distance[:: len(self.distance) // TYPICAL_SAMPLE + 1]
        typical = torch.quantile(sample, TYPICAL).clamp_min(MIN_DISTANCE)
        weights = self.scale.trust * (torch.exp(-SHARPNESS * self.distance / typical) + MIN_WEIGHT)
        move = torch.tensor([[dy * self.scale.width + dx] for dy, dx in PLACES], device=known.device)
        out = self.scale.pixels.clone()
        for pixel in self.scale.inside.split(VOTERS):
            place, there = self.over(pixel, move)  # (49, p)
            weight = torch.where(there, weights[place], 0)[..., None]
            proposed = weight * known[torch.where(there, self.match[place] + move, 0)]
            total = known.new_zeros(len(pixel), known.shape[1] + 1)
            for proposal in torch.cat((proposed, weight), -1):  # (p, 6): one after another, so that the order is fixed
                total += proposal
            out.view(-1, out.shape[-1])[pixel] = total[:, :-1] / total[:, -1:]
        return out

    def best(self) -> Tensor:
        """(P,): for each pixel of the hole the known pixel that the patch with the best match proposes."""
        least = torch.full_like(self.scale.inside, torch.inf, dtype=torch.float32)
        pixel = torch.zeros_like(self.scale.inside)
        for dy, dx in PLACES:
            move = dy * self.scale.width + dx
            place, there = self.over(self.scale.inside, move)
            distance = torch.where(there, self.distance[place], torch.inf)
            pixel = torch.where(distance < least, self.match[place] + move, pixel)
            least = torch.minimum(least, distance)
        return pixel


def matches(scale: Scale, offset: Tensor) -> Tensor:
    """The source patches (T,) nearest to where offsets (T, 2) lead from the target patches."""
    height, width = scale.hole.shape
    y = (scale.target // width + offset[:, 0]).clamp(0, height - 1)
    x = (scale.target % width + offset[:, 1]).clamp(0, width - 1)
    return nearest(scale.source).view(-1)[y * width + x]


def finer(field: Field, fine: Scale) -> Tensor:
    """The offsets of a coarse field, doubled, for the target patches of the next finer scale: (T, 2)."""
    coarse, match = field.scale, field.match
    dy = match // coarse.width - coarse.target // coarse.width
    dx = match % coarse.width - coarse.target % coarse.width
    y = fine.target // fine.width // 2
    x = fine.target % fine.width // 2
    place = coarse.order.view(-1)[nearest(coarse.order >= 0)[y, x]]
    return 2 * torch.stack((dy, dx), -1)[place]


def rounds(level: int) -> int:
    """Rounds of matching and voting at a scale; level 0 is full size, where a round costs most."""
    return min(MAX_ROUNDS, 2 + 10 * level)


def refine(field: Field, pixels: Tensor, count: int, reach: int, progress: Callable[[], None]) -> None:
    """Wexler's loop at one scale: `count` rounds of matching and voting from `pixels`, (H, W, 5), and a last match."""
    for _ in range(count):
        progress()
        field.improve(pixels, reach, (1, 2))
        pixels = field.vote()
    field.improve(pixels, reach, (1,))


def begin(scale: Scale, generator: torch.Generator, progress: Callable[[float], None]) -> Field:
    """The field of the coarsest scale: of several starts, the one whose target patches match best in the end.

    The first start is a smooth fill with random matches. Each of the others has one offset for all patches, by which
    the picture resembles itself. A small hole needs fewer rounds. A long and thin hole, which is large at its coarsest
    scale too, gets fewer to save time.
    """
    affordable = START_PATCHES // len(scale.target)
    count = min(max(affordable, MIN_ROUNDS), MAX_ROUNDS, ROUNDS_PER_DEPTH * int(depths(scale.hole).max()))
    sources = scale.source.flatten().nonzero()[:, 0]
    drawn = torch.randint(len(sources), (len(scale.target),), generator=generator)
    starts = [(Field(scale, sources[drawn.to(sources.device)], generator), harmonic(scale.pixels, scale.hole))]
    table = likeness(scale.pixels[..., :3], scale.hole)
    for offset in repeats(table, scale.order >= 0, scale.source, min(STARTS, affordable)):
        field = Field(scale, matches(scale, offset.expand(len(scale.target), 2)), generator)
        starts.append((field, field.vote()))
    for field, pixels in starts:
        refine(field, pixels, count, max(scale.hole.shape), lambda: progress(1 / count / len(starts)))
    distances = [float(field.distance.mean()) for field, _ in starts]
    distances[0] *= SMOOTH  # the smooth start
    return starts[distances.index(min(distances))][0]


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
        field = Field(scale, matches(scale, offset), generator)
        reach = max(scale.hole.shape) if level >= 2 else NEARBY
        refine(field, field.vote(), rounds(level), reach, lambda level=level: shares(4.0**-level / work))
    shares(1 / work)
    rgb = heal(known, hole, field.best())
    return torch.where(hole[..., None], rgb.to(picture), picture)
