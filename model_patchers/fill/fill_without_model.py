"""Holes in pictures filled from the pictures themselves: no network, no weights."""

from collections.abc import Callable

from torch import Tensor

from ..comfyui.progress import Progress, ignore
from ..pixels import checks
from ..pixels.images import put_rgb, to_rgb
from ..pixels.masks import pair, selected, warn_of_nearly_all
from ..pixels.regions import depths, hole_boxes
from .harmonic import harmonic
from .patchmatch import patchmatch

METHODS = ["patchmatch", "harmonic"]
CONTEXT = 4  # the surroundings that pieces come from, in radii of the largest disc inside the hole
MIN_CONTEXT = 64  # the same in pixels, at least


def fill(image: Tensor, mask: Tensor, method: str, seed: int) -> Tensor:
    """Pictures with their masked pixels filled, each hole from its own surroundings.

    Args:
        image: (B, H, W, C), C = 1, 3 or 4.
        mask: (N, H, W). What it selects (masks.selected) is filled.
        method: One of METHODS.
        seed: Of patchmatch's random search. Every picture and every hole starts from it, so no result depends on
            another.

    Returns:
        (max(B, N), H, W, C). Outside the mask, the bits of `image`.

    Raises:
        ValueError: Pictures and masks do not match (masks.pair), or a pixel outside the mask is not finite.
    """
    image, mask = pair(image, mask)
    hole = selected(mask)
    checks.finite(image, "image", unread=hole, where=" outside the mask")
    warn_of_nearly_all(hole, "Fill Without a Model")
    jobs = [(i, box) for i, pixels in enumerate(hole) for box in hole_boxes(pixels, _context(pixels, method))]
    progress = Progress(int(hole.sum()))
    rgb = to_rgb(image).clone()
    for i, box in jobs:
        crop, gap = rgb[i][box.slices], hole[i][box.slices]
        rgb[i][box.slices] = fill_crop(crop, gap, method, seed, progress)
    return put_rgb(image, rgb, hole)


def fill_crop(
    picture: Tensor, hole: Tensor, method: str, seed: int, progress: Callable[[int], None] = ignore
) -> Tensor:
    """One picture (H, W, 3) with its hole, bool (H, W), filled by one of METHODS: (H, W, 3)."""
    if method == "harmonic":
        return harmonic(picture, hole, progress)
    return patchmatch(picture, hole, seed, progress)


def _context(hole: Tensor, method: str) -> int:
    """Pixels of surroundings that a method reads around each hole: the work grows with the hole, not the picture."""
    if method == "harmonic" or hole.all():
        return 1
    radii = [float(depths(hole[box.slices]).max()) for box in hole_boxes(hole, 1)]
    return max(MIN_CONTEXT, round(CONTEXT * max(radii, default=0)))
