"""Matching and voting: the two steps that improve a fill at one size of the picture.

Every patch that touches the hole looks for the most similar patch of the surroundings (Barnes et al., "PatchMatch",
SIGGRAPH 2009, here for all patches at once). Then every pixel of the hole takes the weighted mean of the pixels that
the patches over it propose (Wexler, Shechtman, Irani, "Space-time completion of video", TPAMI 29, 2007).
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from .patchmatch_scales import PLACES, Scale

TYPICAL = 0.75  # quantile of the distances, which sets sigma (Wexler's)
TYPICAL_SAMPLE = 10_000  # distances that the quantile is computed from
SHARPNESS = 2.0  # of the fall of a patch's weight with the distance; 0, a plain mean, would blur
MIN_DISTANCE = 1e-8  # least value of that quantile: all matches may be perfect
MIN_WEIGHT = 1e-9  # least weight before Scale.trust: all patches over a pixel may match badly
VOTERS = 2048  # pixels that vote at once: enough for few calls, few enough for the processor's cache


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
        self.targets = self.scale.encode_targets(self.pixels)
        self.distance = self.measure(self.match)
        for step in steps:
            self.propagate(step)
            for _ in range(searches):
                self.search(*next(jumps))

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
