"""The plane that a hole lies on, such as a wall of bricks that recedes, and the view of it straight on.

Huang, Kang, Ahuja, Kopf, "Image completion using planar structure guidance", SIGGRAPH 2014: seen straight on, bricks
and tiles repeat by translations, which a fill can continue. They find planes by the vanishing points of line segments.
Here the vanishing line is the one after whose removal the picture correlates best with itself, moved. One plane is
looked for around each hole.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..pixels.images import luma_sum
from ..pixels.regions import around, nearest

# Small pictures that planes are compared on: the longer side
COARSE, FINE = 128, 256
# The search: that side, the step in slants, and how many of the best planes it goes on from
SEARCH = [(COARSE, 0.05, 6), (COARSE, 0.025, 3), (COARSE, 0.0125, 1), (FINE, 0.00625, 1), (FINE, 0.003125, 1)]
SLANTS = torch.arange(-3, 4) * 0.1  # changes of depth from the middle to the border of the longer side
BLUR = 32  # the longer side over the sigma of the shading that is taken off
APART = 10  # the longer side over the least offset
OVERLAP = 0.25  # share of the pixels and of their contrast that an offset must keep
TOP = 0.005  # share of the offsets that must correlate
GAIN = 0.5  # share of what is not correlated in the picture as it is that may remain on a plane
ROUGH_GAIN = 0.65  # that share for the best of SLANTS, which may be a little off
LARGEST = 4  # times the pixels of the picture that a view may have


class Plane(NamedTuple):
    """The view straight on of the plane around a hole."""

    matrix: Tensor  # (3, 3), double, on the CPU: from pixels (x, y, 1) of the view to pixels of the picture
    size: tuple[int, int]  # (H, W) of the view

    def to_picture(self, place: Tensor) -> Tensor:
        """Places (..., 2) in the view, as x and y in pixels, in the picture."""
        return project(self.matrix, place)

    def to_view(self, place: Tensor) -> Tensor:
        """Places (..., 2) in the picture, as x and y in pixels, in the view."""
        return project(torch.linalg.inv(self.matrix), place)


def project(matrix: Tensor, place: Tensor) -> Tensor:
    """Points (..., 2) moved by a homography (3, 3)."""
    x, y, w = (F.pad(place.to(matrix), (0, 1), value=1) @ matrix.T).unbind(-1)
    return torch.stack((x / w, y / w), -1)


def find(rgb: Tensor, hole: Tensor) -> Plane | None:
    """The slanted plane that the surroundings of a hole lie on.

    Args:
        rgb: (H, W, 3).
        hole: bool (H, W).

    Returns:
        None if the surroundings do not repeat on a slanted plane, or repeat as well as they are.
    """
    small = contrast(rgb, hole, COARSE)
    slants = torch.cartesian_prod(SLANTS, SLANTS).to(rgb.device)
    scores = correlations(small, slants)
    missing = 1 - float(scores[len(scores) // 2])  # in the middle of the list: no slant
    if 1 - scores.max() > ROUGH_GAIN * missing:
        return None
    near = torch.cartesian_prod(torch.arange(-1, 2), torch.arange(-1, 2)).to(rgb.device)
    for side, step, count in SEARCH:
        small = contrast(rgb, hole, side) if side > max(small.shape) else small
        slants = (slants[scores.topk(count)[1]][:, None] + near * step).flatten(0, 1)
        scores = correlations(small, slants)
    if 1 - scores.max() > GAIN * missing:
        return None
    return view_of(slants[scores.argmax()].cpu().double(), hole.cpu())


def contrast(rgb: Tensor, hole: Tensor, side: int) -> Tensor:
    """A small picture without its shading, with its longer side that long: (2, h, w), brightness and 1 where known."""
    size = [max(1, round(n * side / max(hole.shape))) for n in hole.shape]
    known = (~hole).float()
    grey, share = F.interpolate(torch.stack((luma_sum(rgb) * known, known))[None], size=size, mode="area")[0]
    known = (share > 0.999).float()
    planes = torch.stack((grey, torch.ones_like(grey))) * known
    reach = 2 * side // BLUR
    steps = torch.arange(-reach, reach + 1, device=rgb.device)
    kernel = torch.exp(-((steps * BLUR / side) ** 2) / 2)
    low = F.conv2d(planes[:, None], kernel[None, None, :, None], padding=(reach, 0))
    low = F.conv2d(low, kernel[None, None, None], padding=(0, reach))
    planes[0] -= low[0, 0] / low[1, 0].clamp_min(1e-6) * known
    return planes


def correlations(small: Tensor, slants: Tensor) -> Tensor:
    """How well a picture correlates with itself, moved, when its slant is taken off.

    With p the places in the picture and q those in the view, both from the middle of the picture and in halves of its
    longer side, p = q / (1 + slant . q).

    Args:
        small: (2, h, w), from `contrast`.
        slants: (N, 2), across and down.

    Returns:
        (N,): the correlation, 1 at most, that TOP of all offsets reach.
    """
    height, width = small.shape[1:]
    half, size = max(height, width) / 2, (2 * height, 2 * width)
    y = (torch.arange(height, device=small.device)[:, None] + 0.5 - height / 2) / half
    x = (torch.arange(width, device=small.device) + 0.5 - width / 2) / half
    depth = 1 + slants[:, 0, None, None] * x + slants[:, 1, None, None] * y
    grid = torch.stack((x / depth * (2 * half / width), y / depth * (2 * half / height)), -1)
    grey, share = F.grid_sample(small.expand(len(slants), -1, -1, -1), grid, align_corners=False).unbind(1)
    known = (share > 0.99).float()
    grey = grey * known
    spectra = [torch.fft.rfft2(planes, s=size) for planes in (grey, grey.square(), known)]
    # For all offsets down and both directions across, over the pixels known at both ends: products, squares, pixels
    products = torch.fft.irfft2(spectra[0].abs().square(), s=size)[:, :height]
    squares = torch.fft.irfft2((spectra[1].conj() * spectra[2]).real, s=size)[:, :height]
    pixels = torch.fft.irfft2(spectra[2].abs().square(), s=size)[:, :height]
    across = torch.arange(2 * width, device=small.device)
    across = torch.minimum(across, 2 * width - across)
    far = torch.arange(height, device=small.device)[:, None] ** 2 + across**2 > (2 * half / APART) ** 2
    enough = squares > OVERLAP * grey.square().sum((1, 2), keepdim=True)
    enough &= pixels > OVERLAP * known.sum((1, 2), keepdim=True)
    scores = torch.where(enough & far, products / squares.clamp_min(1e-6), -1)
    ranks = (1 + TOP * (enough & far).sum((1, 2))).long()
    best = scores.flatten(1).topk(int(ranks.max()), 1)[0]
    return best.gather(1, ranks[:, None] - 1)[:, 0]


def view_of(slant: Tensor, hole: Tensor) -> Plane | None:
    """The view straight on of a plane with this slant, (2,), double, around a hole, bool (H, W), both on the CPU.

    At the middle of the hole no direction is smaller than in the picture. The view reaches as far from the hole as the
    picture does. None if it would have more than LARGEST times the pixels of the picture.
    """
    height, width = hole.shape
    half = max(height, width) / 2
    middle = torch.tensor([width - 1, height - 1]).to(slant) / 2
    box = around(hole)
    centre = torch.tensor([box.x + (box.width - 1) / 2, box.y + (box.height - 1) / 2]).to(slant)
    depth = float(1 - slant @ (centre - middle) / half)
    scale = max(depth, depth**2)  # lengths shrink by depth across the slant, and by its square along
    tilt, moved, shift = torch.eye(3).to(slant), torch.eye(3).to(slant), torch.eye(3).to(slant)
    tilt[2, :2] = -slant / half
    moved[:2, 2] = -middle
    to_view = torch.diag(torch.tensor([scale, scale, 1])).to(slant) @ tilt @ moved
    place = places(hole.shape)
    edges = project(to_view, torch.cat((place[0], place[-1], place[:, 0], place[:, -1])))
    inside = project(to_view, place[hole])
    margin = max(box.x, box.y, width - box.x - box.width, height - box.y - box.height)
    first = torch.maximum(edges.amin(0), inside.amin(0) - margin).floor()
    last = torch.minimum(edges.amax(0), inside.amax(0) + margin).ceil()
    shift[:2, 2] = first
    columns, rows = (last - first + 1).long().tolist()
    return (
        Plane(torch.linalg.inv(to_view) @ shift, (rows, columns)) if rows * columns <= LARGEST * hole.numel() else None
    )


def places(size: tuple[int, int]) -> Tensor:
    """(H, W, 2): x and y of every pixel, double."""
    y, x = torch.meshgrid(*(torch.arange(n, dtype=torch.double) for n in size), indexing="ij")
    return torch.stack((x, y), -1)


def sample(planes: Tensor, place: Tensor, mode: str = "bicubic") -> Tensor:
    """The values of planes (H, W, C) at places (..., 2) on the CPU, x and y in pixels; the border goes on outside."""
    extent = torch.tensor([planes.shape[1] - 1, planes.shape[0] - 1]).clamp_min(1)
    grid = (2 * place / extent - 1).to(planes).flatten(0, -2)[None, None]
    options = {"mode": mode, "padding_mode": "border", "align_corners": True}
    out = F.grid_sample(planes.movedim(-1, 0)[None], grid, **options)[0, :, 0]
    return out.T.unflatten(0, place.shape[:-1])


def extended(rgb: Tensor, hole: Tensor) -> Tensor:
    """A picture (H, W, 3) whose hole, bool (H, W), holds the nearest known colours."""
    return rgb.flatten(0, 1)[nearest(~hole)]


def straighten(plane: Plane, rgb: Tensor, hole: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The view of a picture (H, W, 3) with its hole, bool (H, W).

    Returns:
        The view (h, w, 3), its hole, and which of its pixels the picture does not have, both bool (h, w).
    """
    place = plane.to_picture(places(plane.size))
    outside = ((place < 0) | (place > torch.tensor([hole.shape[1] - 1, hole.shape[0] - 1]))).any(-1).to(hole.device)
    seen = (sample(hole[..., None].float(), place, "bilinear")[..., 0] > 0) & ~outside
    x, y = plane.to_view(places(hole.shape)[hole.cpu()]).round().long().unbind(-1)
    seen[y.to(seen.device), x.to(seen.device)] = True
    return sample(extended(rgb, hole), place).clamp(0, 1), seen, outside & ~seen


def slanted(plane: Plane, rgb: Tensor, hole: Tensor, origin: Tensor, correction: Tensor) -> Tensor:
    """The colours (P, 3) of a hole's pixels from a fill of the view, sampled from the picture itself.

    Args:
        rgb, hole: The picture (H, W, 3) and its hole, bool (H, W).
        origin: (h, w): for each pixel of the view the number y w + x of the pixel to copy.
        correction: (h, w, 3), to be added.
    """
    place = plane.to_view(places(hole.shape)[hole.cpu()])  # (P, 2)
    x, y = place.round().long().unbind(-1)
    copied = origin.cpu()[y, x]
    source = torch.stack((copied % plane.size[1], copied // plane.size[1]), -1) + (place - place.round())
    return sample(extended(rgb, hole), plane.to_picture(source)) + sample(correction, place, "bilinear")
