"""The picture at one size, as PatchMatch reads it: source patches, target patches, and codes to compare them by.

Texture features keep grass from turning into its mean colour (Newson et al., "Video inpainting of complex scenes",
SIAM J. Imaging Sciences 7, 2014).
"""

import math
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
TRUST = 1.1  # factor of the fall of a patch's weight with every pixel into the hole (Wexler's gamma)
PART = 250  # pixels that could be encoded in the time of one more call


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
    codes: Tensor  # (H W, D): the source patches in these directions, infinite elsewhere

    @classmethod
    def build(cls, pixels: Tensor, hole: Tensor, generator: torch.Generator, least: int) -> "Scale | None":
        """The scale of these pixels (H, W, 5) and this hole; None if it has fewer than `least` source patches."""
        whole = torch.zeros_like(hole)
        whole[RADIUS:-RADIUS, RADIUS:-RADIUS] = True
        touched = F.max_pool2d(hole[None, None].float(), (1, SIDE), 1, (0, RADIUS))  # first across, then down: faster
        touched = F.max_pool2d(touched, (SIDE, 1), 1, (RADIUS, 0))[0, 0] > 0
        source = whole & ~touched
        if source.sum() < least:
            return None
        target = (touched & whole).flatten().nonzero()[:, 0]
        order = torch.full_like(hole, -1, dtype=torch.long)
        order.view(-1)[target] = torch.arange(len(target), device=hole.device)
        trust = TRUST ** -depths(hole).flatten()[target]
        filters = basis(pixels, source, generator)
        inside = hole.flatten().nonzero()[:, 0]
        codes = encode(pixels[None], filters)[0].masked_fill_(~source.view(-1, 1), torch.inf)
        return cls(pixels, hole, source, target, order, inside, trust, parts(touched & whole, order), filters, codes)

    @property
    def width(self) -> int:
        return self.hole.shape[1]

    def encode_targets(self, pixels: Tensor) -> Tensor:
        """The target patches of pictures (S, H, W, 5): (S, T, D)."""
        codes = pixels.new_empty(len(pixels), len(self.target), len(self.filters))
        for part in self.parts:
            rows, columns = part.box.slices
            codes[:, part.targets] = encode(pixels[:, rows, columns], self.filters)[:, part.place]
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
    rows = torch.tensor([dy * source.shape[1] - RADIUS for dy in range(-RADIUS, RADIUS + 1)], device=pixels.device)
    runs = pixels.flatten().unfold(0, SIDE * pixels.shape[-1], pixels.shape[-1])  # SIDE pixels from each pixel on
    patches = runs.index_select(0, (sample[:, None] + rows).flatten()).view(len(sample), -1)  # (S, 7 * 7 * 5)
    patches = patches - patches.mean(0)
    _, vectors = torch.linalg.eigh(patches.T @ patches)
    return vectors[:, -DIMENSIONS:].T.reshape(-1, SIDE, SIDE, pixels.shape[-1]).movedim(-1, 1).contiguous()


def encode(pixels: Tensor, filters: Tensor) -> Tensor:
    """The patch around every pixel, (S, H, W, 5), in the directions of the filters, (D, 5, 7, 7): (S, H W, D)."""
    return F.conv2d(pixels.movedim(-1, 1), filters, padding=RADIUS).flatten(2).transpose(1, 2).contiguous()
