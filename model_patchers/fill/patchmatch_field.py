"""The picture at one size, and the two steps that improve a fill there: matching and voting.

Every patch that touches the hole looks for the most similar patch of the surroundings (Barnes et al., "PatchMatch",
SIGGRAPH 2009, here for all patches at once). Then every pixel of the hole takes the weighted mean of the pixels that
the patches over it propose (Wexler, Shechtman, Irani, "Space-time completion of video", TPAMI 29, 2007). Texture
features keep grass from turning into its mean colour (Newson et al., "Video inpainting of complex scenes", SIAM J.
Imaging Sciences 7, 2014).
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..pixels.boxes import Box
from ..pixels.images import luma_sum
from ..pixels.regions import around, depths, hole_boxes

RADIUS = 3
SIDE = 2 * RADIUS + 1
PLACES = [(dy, dx) for dy in range(-RADIUS, RADIUS + 1) for dx in range(-RADIUS, RADIUS + 1)]  # of a patch's pixels
TEXTURE = 7.0  # weight of the texture features beside colours: the root of Newson's lambda, 50
DIMENSIONS = 32  # in which patches are compared, out of 7 x 7 x 5
BASIS_SAMPLE = 4000  # patches that these dimensions are computed from
COARSEST = 10  # the hole's depth in pixels at the coarsest scale: a deeper middle would start without texture
MIN_SOURCES = 64  # source patches that a smaller scale must offer
PART = 250  # pixels that could be encoded in the time of one more call

# Weights of the vote
TYPICAL = 0.75  # quantile of the distances, which sets sigma (Wexler's)
TYPICAL_SAMPLE = 10_000  # distances that the quantile is computed from
TRUST = 1.1  # factor of the fall of a patch's weight with every pixel into the hole (Wexler's gamma)
SHARPNESS = 2.0  # of the fall of a patch's weight with the distance; 0, a plain mean, would blur
MIN_DISTANCE = 1e-8  # least value of that quantile: all matches may be perfect
MIN_WEIGHT = 1e-9  # least weight before Scale.trust: all patches over a pixel may match badly
VOTERS = 2048  # pixels that vote at once: enough for few calls, few enough for the processor's cache


class Part(NamedTuple):
    """Some of the targets, close to each other."""

    box: Box  # all pixels of their patches
    targets: Tensor  # their indices
    place: Tensor  # their pixels in the box, row by row


class Scale(NamedTuple):
    """The picture at one size, (H, W). Pixels and patch centres are numbered row by row."""

    pixels: Tensor  # (H, W, 5): colours and weighted texture features
    hole: Tensor  # bool (H, W)
    unknown: Tensor  # bool (H, W): the hole and absent pixels
    source: Tensor  # bool (H, W): centres of the patches inside the picture, outside the hole and without absent pixels
    target: Tensor  # (T,): centres of the patches inside the picture that touch the hole
    order: Tensor  # (H, W): index of each centre in `target`, or -1
    inside: Tensor  # (P,): the pixels of the hole
    trust: Tensor  # (T,): TRUST^-depth, the weight of each target patch by its depth in the hole
    parts: list[Part]  # of the targets
    filters: Tensor  # (D, 5, 7, 7): the directions in which patches are compared
    codes: Tensor  # (H W, D): the source patches in these directions, infinite elsewhere

    @classmethod
    def build(
        cls, pixels: Tensor, hole: Tensor, absent: Tensor, generator: torch.Generator, least: int
    ) -> "Scale | None":
        """The scale of these pixels (H, W, 5), this hole and these absent pixels.

        None if it has fewer than `least` source patches.
        """
        whole = torch.zeros_like(hole)
        whole[RADIUS:-RADIUS, RADIUS:-RADIUS] = True
        touched = near(hole)
        source = whole & ~touched & ~near(absent)
        if source.sum() < least:
            return None
        target = (touched & whole).flatten().nonzero()[:, 0]
        order = torch.full_like(hole, -1, dtype=torch.long)
        order.view(-1)[target] = torch.arange(len(target), device=hole.device)
        trust = TRUST ** -depths(hole).flatten()[target]
        filters = basis(pixels, source, generator)
        inside = hole.flatten().nonzero()[:, 0]
        codes = encode(pixels[None], filters)[0].masked_fill_(~source.view(-1, 1), torch.inf)
        return cls(
            pixels,
            hole,
            hole | absent,
            source,
            target,
            order,
            inside,
            trust,
            parts(touched & whole, order),
            filters,
            codes,
        )

    @property
    def width(self) -> int:
        return self.hole.shape[1]

    def moved(self, offset: Tensor) -> Tensor:
        """(T,): where an offset, (2,) as y, x, leads from the targets; the first pixel, no source, for outside."""
        height, width = self.hole.shape
        y, x = self.target // width + offset[0], self.target % width + offset[1]
        return torch.where((y >= 0) & (y < height) & (x >= 0) & (x < width), y * width + x, 0)

    def encode_targets(self, pixels: Tensor) -> Tensor:
        """The target patches of pictures (S, H, W, 5): (S, T, D)."""
        codes = pixels.new_empty(len(pixels), len(self.target), len(self.filters))
        for part in self.parts:
            rows, columns = part.box.slices
            codes[:, part.targets] = encode(pixels[:, rows, columns], self.filters)[:, part.place]
        return codes


def near(chosen: Tensor) -> Tensor:
    """The centres of the patches that touch chosen pixels: bool (H, W) -> bool (H, W)."""
    across = F.max_pool2d(chosen[None, None].float(), (1, SIDE), 1, (0, RADIUS))  # first across, then down: faster
    return F.max_pool2d(across, (SIDE, 1), 1, (RADIUS, 0))[0, 0] > 0


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


def halve(pixels: Tensor, hole: Tensor, absent: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Means over the known pixels of 2 x 2 cells, and hole and absent pixels of that size.

    Cells of which less than half is known belong to the hole, cells of which any part is absent are absent.
    """
    known = (~hole).float()
    planes = torch.cat((pixels.movedim(-1, 0) * known, known[None]))[None]
    planes = F.avg_pool2d(planes, 2, ceil_mode=True, count_include_pad=False)[0]
    gone = F.max_pool2d(absent[None, None].float(), 2, ceil_mode=True)[0, 0] > 0
    return (planes[:-1] / planes[-1].clamp_min(1e-6)).movedim(0, -1), planes[-1] < 0.5, gone


def scales(rgb: Tensor, hole: Tensor, absent: Tensor, generator: torch.Generator) -> list[Scale]:
    """The picture at full size, half size and so on until the hole is COARSEST deep; empty if no patch is a source.

    Args:
        rgb: (H, W, 3).
        hole: bool (H, W).
        absent: bool (H, W): pixels that are neither known nor to be filled. They hold any smooth continuation.
    """
    count = max(0, math.ceil(math.log2(float(depths(hole).max()) / COARSEST))) + 1
    pixels = torch.cat((rgb, TEXTURE * texture(rgb, hole | absent, 2**count)), -1)
    pyramid: list[Scale] = []
    while len(pyramid) < count and min(hole.shape) >= SIDE:
        scale = Scale.build(pixels, hole, absent, generator, MIN_SOURCES if pyramid else 1)
        if scale is None:
            break
        pyramid.append(scale)
        pixels, hole, absent = halve(pixels, hole, absent)
    return pyramid


def basis(pixels: Tensor, source: Tensor, generator: torch.Generator) -> Tensor:
    """The directions in which source patches differ most (their principal components), as filters (D, 5, 7, 7)."""
    centres = source.flatten().nonzero()[:, 0]
    drawn = torch.randint(len(centres), (min(len(centres), BASIS_SAMPLE),), generator=generator)
    sample = centres[drawn.to(centres.device)]
    rows = torch.tensor([dy * source.shape[1] - RADIUS for dy in range(-RADIUS, RADIUS + 1)], device=pixels.device)
    runs = pixels.flatten().unfold(0, SIDE * pixels.shape[-1], pixels.shape[-1])  # SIDE pixels from each pixel on
    patches = runs.index_select(0, (sample[:, None] + rows).flatten()).view(len(sample), -1)  # (S, 7 * 7 * 5)
    patches = patches - patches.mean(0)
    _, vectors = torch.linalg.eigh(patches.T @ patches)
    return vectors[:, -DIMENSIONS:].T.reshape(-1, SIDE, SIDE, pixels.shape[-1]).movedim(-1, 1).contiguous()


def encode(pixels: Tensor, filters: Tensor) -> Tensor:
    """The patch around every pixel, (S, H, W, 5), in the directions of the filters, (D, 5, 7, 7): (S, H W, D)."""
    return F.conv2d(pixels.movedim(-1, 1), filters, padding=RADIUS).flatten(2).transpose(1, 2).contiguous()


class Field:
    """A source patch for each target patch, the most similar so far. S fields of one picture are improved together.

    Args:
        scale: The picture.
        match: (S, T) centres of source patches to begin with.
        generator: Of the random search.

    Attributes:
        match: (S, T)
        pixels: (S, H, W, 5), the present pictures; unknown pixels hold anything until the first vote.
        distance: (S, T) squared distances of target and match, in the directions of the scale's filters.
    """

    def __init__(self, scale: Scale, match: Tensor, generator: torch.Generator) -> None:
        self.scale, self.match, self.generator = scale, match, generator
        self.pixels = scale.pixels.repeat(len(match), 1, 1, 1)
        self.distance = torch.zeros(match.shape, device=match.device)

    def refine(self, count: int, reach: int, progress: Callable[[], None]) -> None:
        """Wexler's loop at one scale: `count` rounds of matching and voting, and a last match.

        Args:
            count: Of the rounds.
            reach: Pixels around each match that the random search begins with.
            progress: Called before each round.
        """
        radii = reach / 2.0 ** torch.arange(reach.bit_length())  # down to 1
        jumps = self.jumps(radii, 2 * count + 1)
        for _ in range(count):
            progress()
            self.improve(len(radii), (1, 2), jumps)
            self.vote()
        self.improve(len(radii), (1,), jumps)

    def jumps(self, radii: Tensor, times: int) -> Iterator[Tensor]:
        """The random steps (2, S, T), y and x, of `times` searches with these radii, (R,).

        Several fields get the numbers that they would draw one after the other.
        """
        starts, patches = self.match.shape
        shape = (starts, times, len(radii), 2, patches)
        if starts > 1:
            drawn = [torch.rand(shape, generator=self.generator)]
        else:
            drawn = (torch.rand(1, 1, *shape[2:], generator=self.generator) for _ in range(times))
        for part in drawn:
            jump = part.mul_(2).sub_(1).mul_(radii[:, None, None]).round_().to(self.match)
            yield from jump.movedim(0, -2).flatten(0, 1)

    def improve(self, searches: int, steps: tuple[int, ...], jumps: Iterator[Tensor]) -> None:
        """Finds better matches for the target patches of the present pictures.

        Args:
            searches: Of each round.
            steps: For each round of propagation and search, how far the neighbours of the propagation are.
            jumps: The random steps, (2, S, T) for each search.
        """
        self.look()
        for step in steps:
            self.propagate(step)
            for _ in range(searches):
                self.search(*next(jumps))

    def look(self) -> None:
        """Takes the target patches from the present pictures, and measures how far the matches are."""
        self.targets = self.scale.encode_targets(self.pixels)
        self.distance = self.measure(self.match)

    def measure(self, match: Tensor) -> Tensor:
        """The squared distances of the target patches to these patches, (S, T) -> (S, T); infinite if no source."""
        return (self.scale.codes[match] - self.targets).square_().sum(-1)

    def offer(self, match: Tensor) -> None:
        """Takes each candidate, (S, T), that is a source patch and is nearer than the present match."""
        distance = self.measure(match)
        better = distance < self.distance
        self.match = torch.where(better, match, self.match)
        self.distance = torch.where(better, distance, self.distance)

    def propagate(self, step: int) -> None:
        """Offers each patch the matches of its four neighbours at `step` <= RADIUS, moved back by the step.

        Centres are at least RADIUS from the borders of the picture, so no step leads into the next row. Where there is
        no neighbour, the offer is the first pixel, which is never a source.
        """
        for move in (-step, step, -step * self.scale.width, step * self.scale.width):
            place = self.scale.order.view(-1)[self.scale.target + move]
            candidate = (self.match[:, place] - move).mul_(place >= 0)
            self.offer(candidate.clamp_(0, len(self.scale.codes) - 1))

    def search(self, dy: Tensor, dx: Tensor) -> None:
        """Offers the patch at a random step, (S, T) each, from each match."""
        height, width = self.scale.hole.shape
        y = (self.match // width).add_(dy).clamp_(0, height - 1)
        x = (self.match % width).add_(dx).clamp_(0, width - 1)
        self.offer(y.mul_(width).add_(x))

    def over(self, pixel: Tensor, move: int | Tensor) -> tuple[Tensor, Tensor]:
        """The target patch centred `move` before each of these pixels of the hole, and whether there is one."""
        place = self.scale.order.view(-1)[(pixel - move).clamp(0, len(self.scale.codes) - 1)]
        return place, place >= 0

    def vote(self) -> None:
        """Fills the hole of the present pictures with weighted means (Wexler et al.).

        A pixel of the hole becomes sum of w_t c_t / sum of w_t over the target patches t that hold it, where c_t is the
        pixel at its place in the match of t, and w_t = TRUST^-depth exp(-d_t / (2 sigma^2)). With the squared distances
        d and their quantile d_75, 2 sigma^2 = d_75 / SHARPNESS.
        """
        known = self.scale.pixels.flatten(0, 1)
        sample = self.distance[:, :: self.distance.shape[1] // TYPICAL_SAMPLE + 1]
        typical = torch.quantile(sample, TYPICAL, -1, keepdim=True).clamp_min(MIN_DISTANCE)
        weights = self.scale.trust * (torch.exp(-SHARPNESS * self.distance / typical) + MIN_WEIGHT)
        move = torch.tensor([[dy * self.scale.width + dx] for dy, dx in PLACES], device=known.device)
        for pixel in self.scale.inside.split(VOTERS):
            place, there = self.over(pixel, move)  # (49, p)
            weight = torch.where(there, weights[:, place], 0)[..., None]  # (S, 49, p, 1)
            proposed = weight * known[torch.where(there, self.match[:, place] + move, 0)]
            total = known.new_zeros(len(weights), len(pixel), known.shape[1] + 1)
            for proposal in torch.cat((proposed, weight), -1).unbind(1):  # (S, p, 6), in turn: the order is fixed
                total += proposal
            self.pixels.flatten(1, 2)[:, pixel] = total[..., :-1] / total[..., -1:]

    def best(self) -> Tensor:
        """(P,): for each pixel of the hole the known pixel that the patch with the best match proposes; S = 1."""
        match, distances = self.match[0], self.distance[0]
        least = torch.full_like(self.scale.inside, torch.inf, dtype=torch.float32)
        pixel = torch.zeros_like(self.scale.inside)
        for dy, dx in PLACES:
            move = dy * self.scale.width + dx
            place, there = self.over(self.scale.inside, move)
            distance = torch.where(there, distances[place], torch.inf)
            pixel = torch.where(distance < least, match[place] + move, pixel)
            least = torch.minimum(least, distance)
        return pixel
