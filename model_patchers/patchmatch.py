"""Exemplar fill: a hole filled with pieces of its own picture, coarse to fine.

The picture and the field of matches improve each other in turn (Wexler, Shechtman, Irani, "Space-time completion of
video", TPAMI 2007): every patch that touches the hole looks for the most similar patch of the surroundings (Barnes et
al., "PatchMatch", SIGGRAPH 2009, here with all patches at once), then every pixel of the hole takes the mean of what
the patches over it propose. Texture features keep grass from turning into its mean (Newson et al., "Video inpainting
of complex scenes", SIIMS 2014), and offsets by which the surroundings resemble themselves (He, Sun, "Statistics of
patch offsets for image completion", ECCV 2012) keep repeated structure in step.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from .harmonic import harmonic

RADIUS = 3
SIDE = 2 * RADIUS + 1
PIECES = [(dy, dx) for dy in range(-RADIUS, RADIUS + 1) for dx in range(-RADIUS, RADIUS + 1)]
LUMA = (0.299, 0.587, 0.114)
TEXTURE = 7.0  # weight of the texture features beside colours: the root of Newson's lambda, 50
DIMENSIONS = 24  # of a patch when patches are compared
COARSEST = 5  # pixels from the hole's rim to its middle at the coarsest scale


class Scale(NamedTuple):
    """One size of the picture. N = H W pixels, indexed row by row."""

    pixels: Tensor  # (H, W, 5): colours and weighted texture features
    hole: Tensor  # bool (H, W)
    source: Tensor  # bool (H, W): centres of patches that are whole and wholly outside the hole
    target: Tensor  # (T,) centres of whole patches that touch the hole
    order: Tensor  # (H, W): place of each centre in `target`, or -1
    inside: Tensor  # (P,) the hole's pixels

    @classmethod
    def build(cls, pixels: Tensor, hole: Tensor) -> "Scale":
        whole = torch.zeros_like(hole)
        whole[RADIUS:-RADIUS, RADIUS:-RADIUS] = True
        touched = F.max_pool2d(hole[None, None].float(), SIDE, 1, RADIUS)[0, 0] > 0
        target = (touched & whole).flatten().nonzero()[:, 0]
        order = torch.full_like(hole, -1, dtype=torch.long)
        order.view(-1)[target] = torch.arange(len(target), device=hole.device)
        return cls(pixels, hole, whole & ~touched, target, order, hole.flatten().nonzero()[:, 0])


def texture(rgb: Tensor, hole: Tensor, window: int) -> Tensor:
    """Mean absolute gradients across and down around each pixel, over known pixels: (H, W, 3) -> (H, W, 2)."""
    luma = (rgb * rgb.new_tensor(LUMA)).sum(-1)
    known = (~hole).float()
    across = F.pad((luma[:, 1:] - luma[:, :-1]).abs() * known[:, 1:] * known[:, :-1], (0, 1))
    down = F.pad((luma[1:] - luma[:-1]).abs() * known[1:] * known[:-1], (0, 0, 0, 1))
    counts = F.pad(known[:, 1:] * known[:, :-1], (0, 1)), F.pad(known[1:] * known[:-1], (0, 0, 0, 1))
    maps = torch.stack((across, down, *counts))[:, None]
    half = window // 2
    for size, pad in (((1, 2 * half + 1), (0, half)), ((2 * half + 1, 1), (half, 0))):
        maps = F.avg_pool2d(maps, size, 1, pad)
    return (maps[:2] / maps[2:].clamp_min(1e-6))[:, 0].movedim(0, -1)


def halve(pixels: Tensor, hole: Tensor) -> tuple[Tensor, Tensor]:
    """Means over the known pixels of 2 x 2 cells; a cell with less than half known belongs to the hole."""
    known = (~hole).float()
    planes = torch.cat((pixels.movedim(-1, 0) * known, known[None]))[None]
    planes = F.avg_pool2d(planes, 2, ceil_mode=True, count_include_pad=False)[0]
    return (planes[:-1] / planes[-1].clamp_min(1e-6)).movedim(0, -1), planes[-1] < 0.5


def scales(rgb: Tensor, hole: Tensor) -> list[Scale]:
    """The picture at full size and ever smaller ones, until the hole is a few pixels wide. Empty: no patch is whole."""
    depth = float(ndimage.distance_transform_edt(F.pad(hole, (1, 1, 1, 1)).cpu().numpy()).max())
    count = max(0, math.ceil(math.log2(max(depth, 1) / COARSEST))) + 1
    pixels = torch.cat((rgb, TEXTURE * texture(rgb, hole, 2 ** (count))), -1)
    out: list[Scale] = []
    for _ in range(count):
        if min(hole.shape) < SIDE:
            break
        scale = Scale.build(pixels, hole)
        if scale.source.sum() < (1 if not out else 64):
            break
        out.append(scale)
        pixels, hole = halve(pixels, hole)
    return out


def basis(scale: Scale, generator: torch.Generator) -> Tensor:
    """The directions in which known patches differ most, as filters (D, 5, 7, 7)."""
    centres = scale.source.flatten().nonzero()[:, 0]
    some = centres[torch.randint(len(centres), (min(len(centres), 4000),), generator=generator).to(centres.device)]
    patches = patches_at(scale.pixels, some)  # (S, 245)
    patches = patches - patches.mean(0)
    _, vectors = torch.linalg.eigh(patches.T @ patches)
    return vectors[:, -DIMENSIONS:].T.reshape(-1, SIDE, SIDE, scale.pixels.shape[-1]).permute(0, 3, 1, 2).contiguous()


def patches_at(pixels: Tensor, centres: Tensor) -> Tensor:
    """(S,) -> (S, 7 * 7 * 5)."""
    width = pixels.shape[1]
    steps = torch.tensor([dy * width + dx for dy, dx in PIECES], device=pixels.device)
    return pixels.flatten(0, 1)[centres[:, None] + steps].flatten(1)


def describe(pixels: Tensor, filters: Tensor) -> Tensor:
    """Every patch in few numbers: (H, W, 5) -> (N, D)."""
    out = F.conv2d(pixels.movedim(-1, 0)[None], filters, padding=RADIUS)[0]
    return out.flatten(1).T.contiguous()


class Field:
    """Nearest neighbours: for each target patch the source patch found so far and its squared distance."""

    def __init__(self, scale: Scale, filters: Tensor, match: Tensor, generator: torch.Generator) -> None:
        self.scale, self.filters, self.match, self.generator = scale, filters, match, generator
        self.sources = describe(scale.pixels, filters)
        self.width = scale.hole.shape[1]

    def see(self, pixels: Tensor) -> None:
        """Takes the target patches as they are now."""
        if len(self.scale.target) * 2 > len(self.sources):
            wanted = describe(pixels, self.filters)[self.scale.target]
        else:
            y = self.scale.target // self.width
            x = self.scale.target % self.width
            (y0, x0), (y1, x1) = (
                (int(e(y)) + r, int(e(x)) + r) for e, r in ((torch.min, -RADIUS), (torch.max, RADIUS + 1))
            )
            crop = describe(pixels[y0:y1, x0:x1], self.filters)
            wanted = crop[(y - y0) * (x1 - x0) + x - x0]
        self.wanted = wanted
        self.distance = self.measure(self.match)

    def measure(self, match: Tensor) -> Tensor:
        return (self.sources[match] - self.wanted).square_().sum(-1)

    def offer(self, match: Tensor, valid: Tensor) -> None:
        """Takes each candidate that is a source patch and nearer than the present one."""
        match = match.clamp(0, len(self.sources) - 1)
        valid &= self.scale.source.view(-1)[match]
        distance = self.measure(torch.where(valid, match, self.match))
        better = valid & (distance < self.distance)
        self.match = torch.where(better, match, self.match)
        self.distance = torch.where(better, distance, self.distance)

    def propagate(self, step: int) -> None:
        """Offers each patch what its neighbours at `step` found, moved back by the step."""
        for move in (-step, step, -step * self.width, step * self.width):
            place = self.scale.order.view(-1)[(self.scale.target + move).clamp(0, len(self.sources) - 1)]
            self.offer(self.match[place] - move, place >= 0)

    def search(self, radius: float) -> None:
        """Offers random patches around the present one, ever closer."""
        height = len(self.sources) // self.width
        while radius >= 1:
            jump = (torch.rand(2, len(self.match), generator=self.generator).to(self.match.device) * 2 - 1) * radius
            dy, dx = jump.round().long()
            y = (self.match // self.width + dy).clamp(0, height - 1)
            x = (self.match % self.width + dx).clamp(0, self.width - 1)
            self.offer(y * self.width + x, torch.ones_like(y, dtype=torch.bool))
            radius /= 2


def vote(scale: Scale, pixels: Tensor, field: Field, best: bool = False) -> Tensor:
    """The picture with every hole pixel as the patches over it propose: the weighted mean, or the best patch's."""
    width = scale.hole.shape[1]
    known = scale.pixels.flatten(0, 1)
    distance = field.distance
    sigma = torch.quantile(distance[:: max(1, len(distance) // 10000)], 0.75).clamp_min(1e-8)
    weight = torch.exp(-distance / (2 * sigma)) + 1e-9
    total = known.new_zeros(len(scale.inside), known.shape[1])
    sums = known.new_zeros(len(scale.inside), 1)
    for dy, dx in PIECES:
        move = dy * width + dx
        place = scale.order.view(-1)[(scale.inside - move).clamp(0, len(known) - 1)]
        # a patch's centre lies at least RADIUS from the picture's borders, so no row runs into the next
        there = place >= 0
        value = known[torch.where(there, field.match[place] + move, 0)]
        w = torch.where(there, weight[place], 0)[:, None]
        if best:
            better = w > sums
            total = torch.where(better, value, total)
            sums = torch.where(better, w, sums)
        else:
            total += w * value
            sums += w
    out = pixels.clone()
    out.view(-1, out.shape[-1])[scale.inside] = total if best else total / sums
    return out


def peel(scale: Scale) -> Tensor:
    """A first guess: the hole filled ring by ring from its rim, each ring from the patches most like what is known."""
    pixels, width = scale.pixels.clone(), scale.hole.shape[1]
    unknown = scale.hole.clone()
    sources = scale.source.flatten().nonzero()[:, 0]
    shelf = patches_at(scale.pixels, sources)  # (S, 245)
    steps = torch.tensor([dy * width + dx for dy, dx in PIECES], device=pixels.device)
    while unknown.any():
        rim = F.max_pool2d((~unknown)[None, None].float(), 3, 1, 1)[0, 0].bool() & unknown
        if not rim.any():
            break
        ring = rim.flatten().nonzero()[:, 0]
        y = (ring // width).clamp(RADIUS, scale.hole.shape[0] - 1 - RADIUS)
        x = (ring % width).clamp(RADIUS, width - 1 - RADIUS)
        centres = y * width + x
        seen = (~unknown).flatten()[centres[:, None] + steps].float()  # (R, 49)
        seen = seen.repeat_interleave(pixels.shape[-1], 1)
        wanted = patches_at(pixels, centres) * seen
        distance = seen @ shelf.square().T - 2 * wanted @ shelf.T
        match = sources[distance.argmin(-1)]
        pixels.view(-1, pixels.shape[-1])[ring] = scale.pixels.flatten(0, 1)[match + ring - centres]
        unknown &= ~rim
    return pixels


def likeness(pixels: Tensor, hole: Tensor) -> Tensor:
    """Mean squared difference of the known pixels with themselves moved by every offset: (2 H, 2 W), wrapped at 0."""
    known = (~hole).float()
    planes = pixels.movedim(-1, 0)[:3]
    planes = (planes - planes.mean((1, 2), keepdim=True)) * known
    size = [2 * n for n in hole.shape]
    m = torch.fft.rfft2(known, s=size)
    squares = torch.fft.rfft2(planes.square().sum(0), s=size)
    power = torch.fft.rfft2(planes, s=size).abs().square().sum(0)
    cross = squares.conj() * m
    ssd = torch.fft.irfft2(torch.stack((cross + cross.conj() - 2 * power, m.abs().square().to(m.dtype))), s=size)
    return torch.where(ssd[1] > 32, ssd[0] / ssd[1].clamp_min(1), torch.inf)


def snap(offset: Tensor, likeness: Tensor, reach: int) -> Tensor:
    """Moves each offset (T, 2) to the one nearby by which the surroundings resemble themselves best."""
    moves = torch.tensor([(y, x) for y in range(-reach, reach + 1) for x in range(-reach, reach + 1)])
    near = offset[:, None] + moves.to(offset)  # (T, K, 2)
    height, width = likeness.shape
    best = likeness[near[..., 0] % height, near[..., 1] % width].argmin(-1)
    return near.gather(1, best[:, None, None].expand(-1, 1, 2))[:, 0]


def nearest_source(scale: Scale) -> Tensor:
    """(H, W): the source centre closest to each pixel."""
    y, x = ndimage.distance_transform_edt(~scale.source.cpu().numpy(), return_distances=False, return_indices=True)
    return (torch.from_numpy(y).long() * scale.hole.shape[1] + torch.from_numpy(x).long()).to(scale.hole.device)


def at_centres(scale: Scale, offset: Tensor) -> Tensor:
    """Source centres (T,) from offsets (T, 2); where one leads to no source patch, the closest source patch."""
    height, width = scale.hole.shape
    y = (scale.target // width + offset[:, 0]).clamp(0, height - 1)
    x = (scale.target % width + offset[:, 1]).clamp(0, width - 1)
    return nearest_source(scale).view(-1)[y * width + x]


def offsets(scale: Scale, match: Tensor) -> Tensor:
    width = scale.hole.shape[1]
    return torch.stack((match // width - scale.target // width, match % width - scale.target % width), -1)


def finer(coarse: Scale, match: Tensor, fine: Scale) -> Tensor:
    """The offsets of one scale, doubled, for the target patches of the next: (T, 2)."""
    doubled = 2 * offsets(coarse, match)
    height, width = coarse.hole.shape
    y = (fine.target // fine.hole.shape[1] // 2).clamp(0, height - 1)
    x = (fine.target % fine.hole.shape[1] // 2).clamp(0, width - 1)
    here = ndimage.distance_transform_edt((coarse.order < 0).cpu().numpy(), return_distances=False, return_indices=True)
    closest = coarse.order[torch.from_numpy(here[0]).long(), torch.from_numpy(here[1]).long()]
    return doubled[closest[y, x]]


def rounds(level: int) -> int:
    """How often matches and picture improve each other at a scale, 0 being the full size."""
    return min(12, 3 + 3 * level)


def patchmatch(picture: Tensor, hole: Tensor, seed: int, callback: Callable[[int], None] | None = None) -> Tensor:
    """Fills a hole with pieces of the picture."""
    generator = torch.Generator().manual_seed(seed)
    pyramid = scales(picture.float(), hole)
    if not pyramid:
        return harmonic(picture, hole, callback)
    pixels, field = None, None
    for level in reversed(range(len(pyramid))):
        scale = pyramid[level]
        filters = basis(scale, generator)
        if field is None:
            pixels = peel(scale)
            sources = scale.source.flatten().nonzero()[:, 0]
            match = sources[torch.randint(len(sources), (len(scale.target),), generator=generator)]
        else:
            offset = snap(finer(pyramid[level + 1], field.match, scale), likeness(scale.pixels, scale.hole), 2)
            match = at_centres(scale, offset)
            pixels = scale.pixels
        last, field = field, Field(scale, filters, match, generator)
        if last is not None:
            field.distance = torch.zeros(len(match))
            pixels = vote(scale, pixels, field)
        reach = max(scale.hole.shape) if level >= 2 else 8
        for r in range(rounds(level)):
            field.see(pixels)
            for step in (1, 2) if level else (1,):
                field.propagate(step)
                field.search(reach)
            pixels = vote(scale, pixels, field, best=level == 0 and r == rounds(0) - 1)
            if callback:
                callback(0)
    return torch.where(hole[..., None], pixels[..., :3].to(picture), picture)
