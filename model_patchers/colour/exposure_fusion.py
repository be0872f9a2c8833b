"""Exposure fusion (Mertens, Kautz and Van Reeth, "Exposure Fusion", Pacific Graphics 2007) as OpenCV computes it.

Each pixel of each exposure has a weight from its contrast, its saturation and its well-exposedness (section 3.1). The
Laplacian pyramids of the exposures are averaged with the Gaussian pyramids of the weights (section 3.2), which leaves
no seams. The borders and the sizes of the levels are those of OpenCV's pyrDown and pyrUp.

The work goes by one exposure at a time and by strips of rows, which stay in the processor's cache. Beside the
exposures there are less than four pictures in memory, whatever the number of exposures.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ..comfyui.progress import ignore
from ..pixels.images import luma

RANGES = ["clamp", "shift", "keep"]
FEWEST, MOST = 2, 64
SPREAD = 0.2  # standard deviation of the well-exposedness around mid grey
LEAST = 1e-12  # added to each weight, so that weights have a sum where all measures are 0
STRIP = 2**16  # pixels


class Weights(NamedTuple):
    """The exponents of the three measures. 0 leaves a measure out."""

    contrast: float = 1
    saturation: float = 1
    exposure: float = 1


def fuse(images: Tensor, weights: Weights, limits: str = "clamp", progress: Callable[[int], None] = ignore) -> Tensor:
    """One picture from several exposures of the same scene.

    Args:
        images: (N, H, W, C), N from 2 to 64, nominally in [0, 1].
        weights: The saturation is left out where no exposure has colours: every weight would be 0.
        limits: Of RANGES. The pyramids also give values outside [0, 1]: clamp cuts them off, shift adds the number that
            makes the smallest value 0, keep returns them.
        progress: Called 2 N times.

    Returns:
        (1, H, W, C). An alpha channel is the mean of those of the exposures.

    Raises:
        ValueError: There are fewer than 2 or more than 64 pictures.
    """
    check(images)
    if not any(map(has_colours, images)):
        weights = weights._replace(saturation=0)
    exposures = images[..., :3].movedim(-1, 1)  # (N, C, H, W)

    total = exposures.new_zeros(exposures[0, 0].shape)
    for exposure in exposures:
        for rows, weight in _weights(exposure, weights):
            total[rows] += weight
        progress(1)

    levels = _zeros(exposures[0])
    layers = total.new_empty(len(exposures[0]) + 1, *total.shape)  # an exposure and its weight
    for exposure in exposures:
        layers[:-1] = exposure
        # computed again: the weights of all exposures would take a third of the exposures' memory
        for rows, weight in _weights(layers[:-1], weights):
            torch.div(weight, total[rows], out=layers[-1, rows])
        _add(levels, layers)
        progress(1)
    del total, layers

    result = torch.empty_like(images[:1], memory_format=torch.contiguous_format)
    colours = result[..., :3]
    _collapse(levels, colours[0].movedim(-1, 0))
    if limits == "clamp":
        colours.clamp_(0, 1)
    elif limits == "shift":
        colours -= colours.min()
    if images.shape[-1] == 4:
        alpha = images[0, ..., 3]
        result[0, ..., 3] = alpha + sum(image[..., 3] - alpha for image in images) / len(images)
    return result


def check(images: Tensor) -> None:
    """Refuses less than 2 and more than 64 exposures.

    Raises:
        ValueError: The number is another.
    """
    if not FEWEST <= (count := len(images)) <= MOST:
        pictures = f"{count} pictures" if count > 1 else "a single picture"
        raise ValueError(
            f"images is {pictures}, but Exposure Fusion takes {FEWEST} to {MOST} exposures of the same scene in one "
            "batch. Make them of one picture with Exposure Brackets, put pictures into one batch with Batch Images, or "
            "make a list of pictures one batch with Rebatch Images."
        )


def has_colours(image: Tensor) -> bool:
    """Whether the channels of a picture (H, W, C) differ anywhere."""
    return image.shape[-1] > 1 and bool((image[..., :2] != image[..., 1:3]).any())


def _weights(exposure: Tensor, weights: Weights) -> Iterator[tuple[slice, Tensor]]:
    """Strip by strip, a slice of rows and their weights (h, W): section 3.1 for an exposure (C, H, W)."""
    for rows in _strips(exposure):
        strip = _rows(exposure, rows.start - 1, rows.stop + 1).contiguous()
        inner = strip[:, 1:-1]
        weight = strip.new_ones(inner.shape[1:])
        if weights.contrast:
            weight *= _power(_contrast(luma(strip.movedim(0, -1))), weights.contrast)
        if weights.saturation:
            weight *= _power(_saturation(inner), weights.saturation)
        if weights.exposure:
            weight *= (inner - 0.5).square_().sum(0).mul_(-weights.exposure / (2 * SPREAD**2)).exp_()
        yield rows, weight.add_(LEAST)


def _contrast(grey: Tensor) -> Tensor:
    """The size of the Laplacian: (h + 2, W) -> (h, W). Left and right are mirrored.

    By the order of these operations it is exactly 0 in flat areas, and OpenCV's rounding noise on slopes.
    """
    inner, width = grey[1:-1], grey.shape[1]
    left, right = _mirrored(-1, width), _mirrored(width, width)
    wide = torch.cat((inner[:, left, None], inner, inner[:, right, None]), 1)
    return (grey[:-2] + wide[:, :-2]).sub_(inner, alpha=4).add_(wide[:, 2:]).add_(grey[2:]).abs_()


def _saturation(rgb: Tensor) -> Tensor:
    """The root of the sum of the squared distances from the mean of the channels: (3, h, W) -> (h, W).

    In grey pixels it is rounding noise, which still outweighs LEAST. The order of the operations is OpenCV's, so that
    the noise is, too.
    """
    mean = (rgb[0] + rgb[1]).add_(rgb[2]).mul_(1 / 3)
    return (rgb - mean).square_().sum(0).sqrt_()


def _power(x: Tensor, exponent: float) -> Tensor:
    return x if exponent == 1 else x.pow_(exponent)


def _zeros(exposure: Tensor) -> list[Tensor]:
    """The levels of a pyramid (C, h, w), the picture's size first, until a side has one or two pixels."""
    channels, height, width = exposure.shape
    levels = [exposure.new_zeros(channels, height, width)]
    for _ in range(min(height, width).bit_length() - 1):
        height, width = (height + 1) // 2, (width + 1) // 2
        levels.append(exposure.new_zeros(channels, height, width))
    return levels


def _add(levels: list[Tensor], layers: Tensor) -> None:
    """Adds an exposure's Laplacian pyramid times its weight's Gaussian pyramid to `levels`.

    Args:
        layers: (C + 1, H, W), the weight last.
    """
    for level in levels[:-1]:
        smaller = _halved(layers)
        for rows in _strips(level):
            strip = layers[:, rows]
            level[:, rows].addcmul_(strip[:-1] - _doubled(smaller[:-1], rows, level), strip[-1:])
        layers = smaller
    levels[-1].addcmul_(layers[:-1], layers[-1:])


def _collapse(levels: list[Tensor], result: Tensor) -> None:
    """Writes the picture of a Laplacian pyramid to `result` (C, H, W). Changes `levels`."""
    for smaller, level in zip(levels[:0:-1], levels[-2::-1], strict=True):
        for rows in _strips(level):
            level[:, rows] += _doubled(smaller, rows, level)
    result.copy_(levels[0])


def _halved(x: Tensor) -> Tensor:
    """The next level of a Gaussian pyramid: (C, H, W) -> (C, ceil(H / 2), ceil(W / 2))."""
    channels, height, width = x.shape
    half = x.new_empty(channels, (height + 1) // 2, (width + 1) // 2)
    for rows in _strips(half):
        strip = _rows(x, 2 * rows.start - 2, 2 * rows.stop + 1)
        strip = _binomial(strip[:, ::2], strip[:, 1::2], 1)
        half[:, rows] = _binomial(_every_other(strip, -2), _every_other(strip, -1), 2)
    return half


def _binomial(even: Tensor, odd: Tensor, dim: int) -> Tensor:
    """(1, 4, 6, 4, 1) / 16 around the even places of a line but the first and the last: lengths n + 2, n + 1 -> n."""
    n = odd.shape[dim] - 1
    y = even.narrow(dim, 0, n) + even.narrow(dim, 2, n)
    y.add_(even.narrow(dim, 1, n), alpha=6).add_(odd.narrow(dim, 0, n), alpha=4).add_(odd.narrow(dim, 1, n), alpha=4)
    return y.mul_(1 / 16)


def _doubled(x: Tensor, rows: slice, like: Tensor) -> Tensor:
    """Rows of the level below a level (C, h, w), which has the size of `like`, by the same binomial filter.

    The level is mirrored at its top and left, and goes on with its last pixels at its bottom and right.
    """
    height, width = x.shape[1:]
    first, last = rows.start // 2 - 1, (rows.stop + 1) // 2 + 1
    if first < 0 or last > height:
        strip = x[:, [min(abs(place), height - 1) for place in range(first, last)]]
    else:
        strip = x[:, first:last]
    strip = _interpolated(strip, 1)[:, : rows.stop - rows.start]
    strip = torch.cat((strip[..., min(1, width - 1), None], strip, strip[..., -1:]), 2)
    return _interpolated(strip, 2)[..., : like.shape[2]]


def _interpolated(x: Tensor, dim: int) -> Tensor:
    """(1, 6, 1) / 8 at the places of a line but the first and the last, (4, 4) / 8 after each: n + 2 -> 2 n."""
    n = x.shape[dim] - 2
    before, here, after = (x.narrow(dim, start, n) for start in range(3))
    even = (before + after).add_(here, alpha=6).mul_(1 / 8)
    return torch.stack((even, (here + after).mul_(1 / 2)), dim + 1).flatten(dim, dim + 1)


def _strips(x: Tensor) -> Iterator[slice]:
    """Slices of rows of (C, H, W) that begin at even rows."""
    *_, height, width = x.shape
    step = max(STRIP // width // 2 * 2, 2)
    for start in range(0, height, step):
        yield slice(start, min(start + step, height))


def _rows(x: Tensor, first: int, last: int) -> Tensor:
    """Rows of (C, H, W) from `first` to before `last`, which may lie outside."""
    height = x.shape[1]
    if first < 0 or last > height:
        return x[:, [_mirrored(place, height) for place in range(first, last)]]
    return x[:, first:last]


def _every_other(x: Tensor, first: int) -> Tensor:
    """Every other column of (C, H, W) from `first`, which is -2 or -1, as far as `_binomial` reads them."""
    width = x.shape[2]
    inside = x[..., first + 2 :: 2]
    beyond = range(first + 2 + 2 * inside.shape[2], width + 1 + width % 2, 2)
    left, *right = (x[..., _mirrored(place, width), None] for place in (first, *beyond))
    return torch.cat((left, inside, *right), 2)


def _mirrored(place: int, size: int) -> int:
    """Where a place lies in a line of `size` that is mirrored about its end points."""
    period = max(2 * (size - 1), 1)
    return min(place % period, -place % period)
