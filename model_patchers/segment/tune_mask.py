"""Cleaning, growing and feathering of masks."""

from collections.abc import Callable

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from ..comfyui.progress import ignore
from ..pixels.masks import CLEAR, grow
from ..pixels.regions import EIGHT, FOUR, small_regions


def with_fringe(value: np.ndarray, regions: np.ndarray, structure: np.ndarray, specks: int = 0) -> np.ndarray:
    """Regions, bool (H, W), with the faint pixels around them that are connected to no other region: bool (H, W).

    Values up to CLEAR are faint: they neither make a region nor connect two.

    Args:
        value: (H, W), of which each region is a connected area above CLEAR.
        regions: bool (H, W), some or all of these areas.
        structure: EIGHT or FOUR: the neighbours that connect.
        specks: Faint areas without any region belong too, up to this number of pixels.
    """
    labels, count = ndimage.label(value > 0, structure=structure)
    holds_region, holds_other = np.zeros((2, count + 1), dtype=bool)
    holds_region[labels[regions]] = True
    holds_other[labels[(value > CLEAR) & ~regions]] = True
    belongs = holds_region & ~holds_other
    holds_none = ~(holds_region | holds_other)
    holds_none[0] = False
    if specks and holds_none.any():
        belongs |= holds_none & (np.bincount(labels.ravel()) <= specks)
    return regions | belongs[labels]


def fill_holes(mask: np.ndarray, area: int) -> np.ndarray:
    """A mask (H, W) with its enclosed gaps of at most `area` pixels set to 1.

    The pixels of a gap are connected by edges. An enclosed gap does not touch the border of the picture.
    """
    value = 1 - mask
    labels, small = small_regions(value > CLEAR, area, FOUR)
    for border in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        small[border] = False
    return np.where(with_fringe(value, small[labels], FOUR), 1, mask)


def remove_specks(mask: np.ndarray, area: int) -> np.ndarray:
    """A mask (H, W) with its regions of at most `area` pixels set to 0, faint ones too.

    The pixels of a region are connected by edges or corners.
    """
    labels, small = small_regions(mask > CLEAR, area, EIGHT)
    return np.where(with_fringe(mask, small[labels], EIGHT, specks=area), 0, mask)


def feather(mask: np.ndarray, pixels: int) -> np.ndarray:
    """A mask (H, W) blurred by a Gaussian of radius `pixels`, which is three standard deviations.

    Outside the picture the border pixels are repeated. The weights sum to 1 in float64, so flat areas do not change.
    """
    return ndimage.gaussian_filter(mask, sigma=pixels / 3, mode="nearest", radius=pixels).clip(0, 1)


def tune(
    mask: Tensor,
    grow_by: int,
    holes: int,
    specks: int,
    feather_by: int,
    invert: bool,
    threshold: float = 0.0,
    progress: Callable[[], None] = ignore,
) -> Tensor:
    """Masks made hard, their holes filled, specks removed, then grown or shrunk, feathered and inverted, in this order.

    So areas are measured before the mask grows. Without a threshold soft values stay soft: only filled gaps become 1,
    only specks become 0.

    Args:
        mask: (B, H, W) or (H, W) in [0, 1].
        grow_by: Radius of the disc to grow by, in pixels; negative shrinks. See `masks.grow`.
        holes, specks: The largest area to fill or remove, in pixels; 0 turns it off.
        feather_by: Reach of the soft edge to either side, in pixels.
        invert: Swap 0 and 1 at the end.
        threshold: Values from this one on become 1, smaller ones 0, before everything else. 0 turns it off.
        progress: Called after each mask.

    Returns:
        A new mask (B, H, W), on the device of `mask`.
    """
    tuned = []
    for x in mask.reshape(-1, *mask.shape[-2:]):
        if threshold:
            x = (x >= threshold).to(mask)
        if holes or specks:
            pixels = x.float().cpu().numpy()
            pixels = fill_holes(pixels, holes) if holes else pixels
            pixels = remove_specks(pixels, specks) if specks else pixels
            x = torch.from_numpy(pixels).to(mask)
        x = grow(x, grow_by)
        if feather_by:
            x = torch.from_numpy(feather(x.float().cpu().numpy(), feather_by)).to(mask)
        tuned.append(1 - x if invert else x)
        progress()
    return torch.stack(tuned)
