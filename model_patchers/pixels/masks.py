"""Masks: what they select, resizing, matching with pictures, growing and shrinking."""

import logging
from math import isqrt

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from . import checks
from .regions import EIGHT

# Both lie between two levels of 8 bits, so that no rounding of 1 - alpha decides.
FAINT = 2.5 / 255  # a feather down to 3 levels belongs to the mask; rounding and the least alpha values do not
CLEAR = 16.5 / 255  # above the noise of JPEG files and specks of 0.05, below a stroke of a brush with 10 % opacity
NEARLY_ALL = 0.9  # share of a picture; web/lib/live_mask.js has the same


def selected(mask: Tensor) -> Tensor:
    """The pixels that a mask selects: the one rule of the pack for what is hole, and for which mask is empty.

    A pixel is selected if its value is above FAINT and if pixels above FAINT connect it, by edges or corners, to a
    pixel above CLEAR: the two thresholds of Canny, "A computational approach to edge detection", TPAMI 8, 1986. So a
    soft edge belongs to its object, and faint noise selects nothing.

    Args:
        mask: (H, W) or (B, H, W) in [0, 1]. NaN selects nothing. A bool mask is returned itself.

    Returns:
        bool, of the same shape, on the same device.
    """
    if mask.dtype == torch.bool:
        return mask
    if mask.ndim == 3 and len(mask) > 1 and mask.stride(0) == 0:  # one mask for all pictures
        return selected(mask[:1]).expand(mask.shape)
    frames = mask.float().cpu().numpy().reshape(-1, *mask.shape[-2:])  # NumPy compares ten times faster
    holes = np.empty(frames.shape, dtype=bool)
    for values, hole in zip(frames, holes, strict=True):
        np.greater(values, FAINT, out=hole)
        clear = values > CLEAR
        if not np.array_equal(hole, clear):
            _keep_connected(hole, clear)
    return torch.from_numpy(holes).reshape(mask.shape).to(mask.device)


def _keep_connected(weak: np.ndarray, strong: np.ndarray) -> None:
    """Takes the regions out of `weak`, bool (H, W), that hold no pixel of `strong`, a part of it."""
    rows, columns = (np.flatnonzero(weak.any(axis)) for axis in (1, 0))
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    labels, count = ndimage.label(weak[box], structure=EIGHT)
    holds = np.zeros(count + 1, dtype=bool)
    holds[labels[strong[box]]] = True
    weak[box] = holds[labels]


def warn_of_nearly_all(hole: Tensor, node: str) -> None:
    """Says in ComfyUI's log where a hole, bool (B, H, W), leaves little of the picture to fill it from.

    Args:
        node: The display name of the node that fills it.
    """
    shares = hole.flatten(1).sum(1) / hole[0].numel()
    many = int((shares > NEARLY_ALL).sum())
    if many:
        logging.warning(
            "%s: the mask selects up to %.0f %% of %d of the %d pictures, so little or nothing is left to fill them "
            "from, and the result is blurred or grey. Select less: lower Magic Wand's tolerance, pick other points, or "
            "switch 'invert' in Tune Mask.",
            node,
            100 * float(shares.max()),
            many,
            len(shares),
        )


def resize_selection(mask: Tensor, height: int, width: int) -> Tensor:
    """A mask that says where: (B, h, w) -> (B, height, width), the largest value of each cell. Thin strokes survive."""
    return F.adaptive_max_pool2d(mask[:, None], (height, width))[:, 0]


def resize_amounts(amounts: Tensor, height: int, width: int) -> Tensor:
    """A map that says how much: (B, h, w) -> (B, height, width), the mean of each cell. A dither keeps its tone."""
    return F.adaptive_avg_pool2d(amounts[:, None], (height, width))[:, 0]


def pair(
    image: Tensor, mask: Tensor, names: tuple[str, str] = ("image", "mask"), amounts: bool = False
) -> tuple[Tensor, Tensor]:
    """Pictures and masks matched: one mask for each picture, of its size, with values in [0, 1] (`checks.mask`).

    Args:
        image: (B, H, W, C). One picture is repeated for any number of masks.
        mask: (N, h, w) or (h, w). One mask is repeated for any number of pictures. A mask of another size is resized
            if it has the picture's proportions, to a pixel. A blank mask, such as Load Image's of 64 x 64, always fits.
        names: Names of the two inputs, for messages.
        amounts: The mask says how much (`resize_amounts`), not where (`resize_selection`).

    Returns:
        The pictures (M, H, W, C) and the masks (M, H, W), M = max(B, N).

    Raises:
        ValueError: The batch sizes do not match, the mask has other proportions, or `checks.mask` refuses it.
    """
    mask = checks.mask(mask, names[1])
    (b, height, width), (n, h, w) = image.shape[:3], mask.shape
    if b != n and 1 not in (b, n):
        raise ValueError(
            f"{names[1]} is a batch of {n} but {names[0]} is a batch of {b}. "
            "Connect one mask for all pictures, or one for each."
        )
    if (h, w) != (height, width):
        same_proportions = abs(w * height - h * width) <= height + width  # to a pixel of either side
        if same_proportions:
            mask = (resize_amounts if amounts else resize_selection)(mask, height, width)
        elif not (mask > FAINT if amounts else selected(mask)).any():
            mask = mask.new_zeros(n, height, width)
        else:
            raise ValueError(
                f"{names[1]} is {w} x {h} but {names[0]} is {width} x {height}: the proportions differ, so the mask "
                "belongs to another picture. Connect the mask of this picture, or crop and resize both alike."
            )
    m = max(b, n)
    return image.expand(m, -1, -1, -1), mask.to(image.device).expand(m, -1, -1)


def grow(mask: Tensor, pixels: int) -> Tensor:
    """Grows a mask by a disc; shrinks it when `pixels` is negative.

    Each pixel takes the largest (when shrinking, the smallest) value within a distance of `pixels`: grey-scale
    dilation and erosion by a flat disc. Pixels outside the picture are ignored, so a mask that touches the border still
    touches it after shrinking.

    The disc is a stack of rows. The largest value of a row of n comes from two overlapping rows of a power of two, and
    those come from doubling (the sparse table of Bender and Farach-Colton, "The LCA Problem Revisited", 2000), so the
    work grows with the radius and not with the area of the disc.

    Args:
        mask: (..., H, W), bool or float. It is returned itself when `pixels` is 0.
        pixels: Radius of the disc.

    Returns:
        A mask of the same shape, dtype and device.
    """
    if not pixels:
        return mask
    stronger = torch.maximum if pixels > 0 else torch.minimum
    radius = abs(pixels)
    height, width = mask.shape[-2:]
    binary = mask.dtype == torch.bool or bool(((mask == 0) | (mask == 1)).all())
    value = mask.to(torch.uint8) if binary else mask  # bytes take a tenth of the time
    margin = min(radius, width - 1)
    edges = value[..., :1].expand(*value.shape[:-1], margin), value[..., -1:].expand(*value.shape[:-1], margin)
    row, length = torch.cat((edges[0], value, edges[1]), dim=-1), 1  # row[x]: strongest of x ... x + length - 1
    out, run = value.clone(), torch.empty_like(value)  # run[x]: strongest of x - half ... x + half
    for dy in range(min(radius, height - 1), -1, -1):  # the narrowest row of the disc comes first
        half = min(isqrt(radius**2 - dy**2), margin)
        while 2 * length <= 2 * half + 1:
            row, length = stronger(row[..., :-length], row[..., length:]), 2 * length
        first, last = margin - half, margin + half + 1 - length
        stronger(row[..., first : first + width], row[..., last : last + width], out=run)
        above, below = out[..., : height - dy, :], out[..., dy:, :]
        stronger(above, run[..., dy:, :], out=above)
        stronger(below, run[..., : height - dy, :], out=below)
    return out.to(mask.dtype)
