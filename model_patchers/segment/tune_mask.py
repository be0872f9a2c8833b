"""Cleaning, growing and softening of masks."""

from collections.abc import Callable

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from ..comfyui.progress import ignore
from ..pixels.masks import grow
from ..pixels.regions import EIGHT, FOUR, small_regions

FAINT = 0.05  # soft values up to this far from 0 or 1 neither make a region nor join two


def with_fringe(value: np.ndarray, regions: np.ndarray, structure: np.ndarray) -> np.ndarray:
    """Adds to regions (bool, H x W) the faint fringes that hang on nothing else: bool (H, W)."""
    labels, count = ndimage.label(value > 0, structure=structure)
    ours, others = np.zeros((2, count + 1), dtype=bool)
    ours[labels[regions]] = True
    others[labels[(value > FAINT) & ~regions]] = True
    return regions | (ours & ~others)[labels]


def fill_holes(mask: np.ndarray, area: int) -> np.ndarray:
    """Sets to 1 the gaps of at most `area` pixels that the mask encloses: (H, W) -> (H, W).

    A gap hangs together over edges of pixels and does not touch the picture's border.
    """
    value = 1 - mask
    labels, small = small_regions(value > FAINT, area, FOUR)
    for border in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        small[border] = False
    return np.where(with_fringe(value, small[labels], FOUR), 1, mask)


def remove_specks(mask: np.ndarray, area: int) -> np.ndarray:
    """Sets to 0 the regions of at most `area` pixels: (H, W) -> (H, W).

    A region hangs together over edges or corners of pixels.
    """
    labels, small = small_regions(mask > FAINT, area, EIGHT)
    return np.where(with_fringe(mask, small[labels], EIGHT), 0, mask)


def feather(mask: np.ndarray, pixels: int) -> np.ndarray:
    """Blurs by a Gaussian that ends `pixels` away, at three standard deviations: (H, W) -> (H, W).

    The picture's border is repeated beyond it. The weights sum to 1 in float64, so that flat parts stay as they are.
    """
    return ndimage.gaussian_filter(mask, sigma=pixels / 3, mode="nearest", radius=pixels).clip(0, 1)


def tune(
    mask: Tensor,
    grow_by: int,
    holes: int,
    specks: int,
    feather_by: int,
    invert: bool,
    progress: Callable[[], None] = ignore,
) -> Tensor:
    """Fills holes, removes specks, grows or shrinks, feathers and inverts, in this order.

    Areas are thus those of the mask that came in. Soft values stay soft: only filled gaps become 1 and specks 0.

    Args:
        mask: (B, H, W) or (H, W) in [0, 1].
        grow_by: Radius of the disc to grow by, in pixels; negative shrinks. See `masks.grow`.
        holes, specks: Areas in pixels; 0 = none.
        feather_by: How far the soft edge reaches to either side, in pixels.
        invert: Swap 0 and 1 in the end.
        progress: Called after each mask.

    Returns:
        A new mask (B, H, W), on the mask's device.
    """
    tuned = []
    for picture in mask.reshape(-1, *mask.shape[-2:]):
        if holes or specks:
            pixels = picture.float().cpu().numpy()
            pixels = fill_holes(pixels, holes) if holes else pixels
            pixels = remove_specks(pixels, specks) if specks else pixels
            picture = torch.from_numpy(pixels).to(mask)
        picture = grow(picture, grow_by)
        if feather_by:
            picture = torch.from_numpy(feather(picture.float().cpu().numpy(), feather_by)).to(mask)
        tuned.append(1 - picture if invert else picture)
        progress()
    return torch.stack(tuned)
