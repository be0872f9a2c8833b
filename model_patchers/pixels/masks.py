"""Masks: one for each picture, of its size; growing and shrinking."""

from math import isqrt

import torch
import torch.nn.functional as F
from torch import Tensor


def resize_mask(mask: Tensor, height: int, width: int) -> Tensor:
    """(B, h, w) -> (B, height, width), the strongest value of each cell, so that no thin stroke is lost."""
    return F.adaptive_max_pool2d(mask[:, None], (height, width))[:, 0]


def pair(image: Tensor, mask: Tensor, names: tuple[str, str] = ("image", "mask")) -> tuple[Tensor, Tensor]:
    """Brings pictures and masks together: one mask for each picture, of its size.

    Args:
        image: (B, H, W, C). One picture goes with any number of masks.
        mask: (N, h, w) or (h, w). One mask goes with any number of pictures. Another size is resized when its
            proportions are the picture's (to a pixel); a blank mask, such as Load Image's 64 x 64 one, always fits.
        names: The inputs', for messages.

    Returns:
        The pictures (M, H, W, C) and the masks (M, H, W), M = max(B, N).

    Raises:
        ValueError: The numbers do not match, or the mask has other proportions.
    """
    mask = mask.reshape(-1, *mask.shape[-2:])
    (b, height, width), (n, h, w) = image.shape[:3], mask.shape
    if b != n and 1 not in (b, n):
        raise ValueError(
            f"{names[1]} is a batch of {n} but {names[0]} is a batch of {b}. "
            "Connect one mask for all pictures, or one for each."
        )
    if (h, w) != (height, width):
        if abs(w * height - h * width) <= height + width:
            mask = resize_mask(mask, height, width)
        elif not mask.any():
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

    Each pixel takes the largest (when shrinking the smallest) value no further than `pixels` from it in a straight
    line: grey-scale dilation and erosion by a flat disc. What lies outside the picture has no say, so a mask that
    touches the picture's border still does when it has shrunk, as if it went on beyond.

    The disc is a stack of rows. The largest value of a row of n comes from two overlapping rows of a power of two,
    and those by doubling (the sparse table of Bender and Farach-Colton, The LCA Problem Revisited, 2000), so the
    work is in proportion to the radius and not to the disc's area.

    Args:
        mask: (..., H, W), bool or float. It comes back itself when `pixels` is 0.
        pixels: The disc's radius.
    """
    if not pixels:
        return mask
    stronger = torch.maximum if pixels > 0 else torch.minimum
    radius, (height, width) = abs(pixels), mask.shape[-2:]
    binary = mask.dtype == torch.bool or bool(((mask == 0) | (mask == 1)).all())
    value = mask.to(torch.uint8) if binary else mask  # bytes take a tenth of the time
    margin = min(radius, width - 1)
    edges = value[..., :1].expand(*value.shape[:-1], margin), value[..., -1:].expand(*value.shape[:-1], margin)
    row, length = torch.cat((edges[0], value, edges[1]), dim=-1), 1  # row[x]: strongest of x ... x + length - 1
    out, run = value.clone(), torch.empty_like(value)
    for dy in range(min(radius, height - 1), -1, -1):
        half = min(isqrt(radius**2 - dy**2), margin)
        while 2 * length <= 2 * half + 1:
            row, length = stronger(row[..., :-length], row[..., length:]), 2 * length
        first, last = margin - half, margin + half + 1 - length
        stronger(row[..., first : first + width], row[..., last : last + width], out=run)
        above, below = out[..., : height - dy, :], out[..., dy:, :]
        stronger(above, run[..., dy:, :], out=above)
        stronger(below, run[..., : height - dy, :], out=below)
    return out.to(mask.dtype)
