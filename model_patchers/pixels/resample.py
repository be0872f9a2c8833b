"""Lanczos resampling in float32 by Pillow's rule, without its rounding to 8 bits after each direction.

A pixel of the result is the mean of the source with the weights sinc(x) sinc(x / 3), |x| < 3, where x is the distance
from the pixel in source pixels when the picture grows, in pixels of the result when it shrinks (Duchon, "Lanczos
filtering in one and two dimensions", J. Appl. Meteor. 18, 1979).
"""

from collections.abc import Callable
from math import ceil, floor

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

LOBES = 3
# Back-projection: each step removes two thirds of the error or more, unless the two sizes are nearly equal.
STEPS = 4
STEP_SIZE = 1.3


def taps(n: int, size: int) -> tuple[Tensor, Tensor]:
    """The pixels of a line of n that each of `size` pixels averages, (size, K), and their weights, (size, K), sum 1."""
    scale = n / size
    spread = max(scale, 1)
    centre = (torch.arange(size, dtype=torch.float64)[:, None] + 0.5) * scale
    index = torch.floor(centre - LOBES * spread + 0.5) + torch.arange(ceil(2 * LOBES * spread) + 1)  # (size, K)
    x = (index + 0.5 - centre) / spread
    weight = torch.sinc(x) * torch.sinc(x / LOBES) * ((x.abs() < LOBES) & (index >= 0) & (index < n))
    return index.clamp(0, n - 1).long(), (weight / weight.sum(1, keepdim=True)).float()


def resize(picture: Tensor, height: int, width: int) -> Tensor:
    """A picture at another size: (H, W, C) in [0, 1] -> (height, width, C) in [0, 1].

    A picture that has this size already keeps its bits, even values outside [0, 1].
    """
    return _by_axis(_resample, picture, height, width)


def resize_back(picture: Tensor, height: int, width: int) -> Tensor:
    """`resize` undone: (H, W, C) in [0, 1] -> (height, width, C) in [0, 1].

    An enlarged picture x still holds all of the smaller picture y, but resampling x again would blur its edges.
    Iterative back-projection (Irani and Peleg, "Improving resolution by image registration", 1991) looks for the y
    whose enlargement U y is closest to x: y <- y + 1.3 D (x - U y), beginning with y = D x, where D resamples to the
    smaller size. A picture that was shrunk is resampled.
    """
    return _by_axis(_restore, picture, height, width)


def reach(pixels: Tensor, height: int, width: int) -> Tensor:
    """The pixels of `resize_back`'s result that depend on any of `pixels`: bool (H, W) -> bool (height, width)."""
    return _by_axis(_reach, pixels, height, width)


def _by_axis(work: Callable[[Tensor, int], Tensor], x: Tensor, height: int, width: int) -> Tensor:
    """(H, W, ...) -> (height, width, ...) by `work`, (n, m) -> (size, m), across and then down.

    An axis that has its size already is left alone.
    """
    for size in (width, height):
        x = x.transpose(0, 1)
        if len(x) != size:
            x = work(x.reshape(len(x), -1).contiguous(), size).view(size, *x.shape[1:])
    return x


def _resample(x: Tensor, size: int) -> Tensor:
    return _sums(x.float(), *taps(len(x), size)).clamp(0, 1)


def _restore(x: Tensor, size: int) -> Tensor:
    x, down, up = x.float(), taps(len(x), size), taps(size, len(x))
    y = _sums(x, *down)
    for _ in range(_steps(len(x), size)):
        y.add_(_sums(x - _sums(y, *up), *down), alpha=STEP_SIZE)
    return y.clamp(0, 1)


def _reach(pixels: Tensor, size: int) -> Tensor:
    (down, _), (up, _) = taps(len(pixels), size), taps(size, len(pixels))
    y = _sums(pixels.float(), down) > 0
    for _ in range(_steps(len(pixels), size)):
        y = _sums((_sums(y.float(), up) > 0).float(), down) > 0
    return y


def _steps(n: int, size: int) -> int:
    return STEPS if size < n else 0


def _sums(x: Tensor, index: Tensor, weight: Tensor | None = None) -> Tensor:
    """(n, m) -> (size, m): weighted sums of the rows that `index`, (size, K), names."""
    weight = None if weight is None else weight.to(x.device)
    return F.embedding_bag(index.to(x.device), x, mode="sum", per_sample_weights=weight)


def to_multiple(image: Tensor, multiple: int) -> Tensor:
    """Pictures resized so that each side is the nearest multiple of `multiple` pixels. Nothing is cut off.

    An image that has such a size already is returned itself.

    Args:
        image: (B, H, W, C) in [0, 1].
        multiple: In pixels. No side becomes shorter than this.
    """
    height, width = (max(floor(side / multiple + 0.5), 1) * multiple for side in image.shape[1:3])
    return image if image.shape[1:3] == (height, width) else pillow(image, height, width).clamp(0, 1)


def cover(image: Tensor, height: int, width: int) -> Tensor:
    """Pictures scaled to cover height x width, and their middle cut out: (B, H, W, C) -> (B, height, width, C).

    Values may have any range. An image that has this size already is returned itself.
    """
    h, w = image.shape[1:3]
    if (h, w) == (height, width):
        return image
    scale = max(width / w, height / h)
    rows, columns = round(h * scale), round(w * scale)
    top, left = round((rows - height) / 2), round((columns - width) / 2)
    return pillow(image, rows, columns)[:, top : top + height, left : left + width]


def pillow(image: Tensor, height: int, width: int) -> Tensor:
    """Pictures resized by Pillow's own Lanczos filter on floats: (B, H, W, C) in any range -> (B, height, width, C)."""
    planes = image.movedim(-1, 1).flatten(0, 1).float().cpu().numpy()  # (B C, H, W)
    resized = [np.asarray(Image.fromarray(plane).resize((width, height), Image.Resampling.LANCZOS)) for plane in planes]
    return torch.from_numpy(np.stack(resized)).unflatten(0, (len(image), -1)).movedim(1, -1).to(image)
