"""Edited crops, brought back into the pictures that Crop to Mask took them from."""

from collections.abc import Iterator
from math import sqrt

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from ..comfyui.progress import Progress
from ..pixels.boxes import Box
from ..pixels.images import put_rgb, to_rgb
from ..pixels.regions import EIGHT
from ..pixels.resample import reach, resize_back
from .crop_to_mask import Crops, placement

MATCHES = ["off", "mean and spread"]
KNOWN = 256  # the fewest pixels to measure colours on
FLAT = 1 / 255  # a spread that 8 bits cannot tell from none
SLOPE = 4  # the most that a feather's width changes from a pixel to the next


def ramp(hole: Tensor, feather: int) -> Tensor:
    """How much of the new is seen: rises from a hole's rim inwards over `feather` pixels, and is 1 beyond.

    Where a hole is narrower than two feathers the ramp is shorter, so that it reaches 1 in the middle. The picture's
    border is no rim.

    Args:
        hole: bool (H, W).

    Returns:
        (H, W), on the hole's device: above 0 and up to 1 in the hole, 0 outside.
    """
    inside = hole.cpu().numpy()
    if not feather or inside.all():
        return hole.float()
    labels, _ = ndimage.label(inside, structure=EIGHT)
    found = np.zeros(inside.shape, dtype=np.float32)
    for number, part in enumerate(ndimage.find_objects(labels), 1):
        around = tuple(slice(max(side.start - 1, 0), side.stop + 1) for side in part)
        found[around] += _rise(labels[around] == number, feather)
    return torch.from_numpy(found).to(hole.device)


def _rise(inside: np.ndarray, feather: int) -> np.ndarray:
    """The ramp of one connected hole, bool (H, W), with what is just outside: the depth below the rim by the ramp's
    length.

    It is `feather` + 1 long or the radius of the largest disc around that fits into the hole, for radii that halve: the
    local thickness of Hildebrand and Ruegsegger (J. Microscopy 185, 1997), where "around" means within sqrt(2) radii of
    the disc's centre, so that a right angle is no narrow place. Further away a disc counts for SLOPE less per pixel.
    """
    depth = ndimage.distance_transform_edt(inside)  # 1 at the rim
    length, radius = np.ones_like(depth), min(feather + 1, depth.max())
    while radius > 1 and (length < radius)[inside].any():
        away = ndimage.distance_transform_edt(depth < radius) - sqrt(2) * radius
        length = np.maximum(length, radius - SLOPE * away.clip(0))
        radius /= 2
    return (depth / length).clip(max=1)


def match_colour(edited: Tensor, given: Tensor, known: Tensor) -> Tensor:
    """Gives each channel of the edited crop the mean and the spread that the given crop has on known pixels.

    Args:
        edited, given: (H, W, 3).
        known: bool (H, W), the pixels to measure on. On fewer than KNOWN the edited crop comes back as it is. Where a
            channel is flat on them, only its mean is moved.
    """
    if known.sum() < KNOWN:
        return edited
    (sigma, mu), (sigma_0, mu_0) = (torch.std_mean(crop[known], 0) for crop in (edited, given))  # (3,)
    gain = torch.where(torch.minimum(sigma, sigma_0) < FLAT, 1, sigma_0 / sigma)
    return ((edited - mu) * gain + mu_0).clamp(0, 1)


def bring_back(edited: Tensor, given: Tensor, mask: Tensor, region: Box, match: str) -> tuple[Tensor, Tensor]:
    """The edited crop at its region's own size, without the borders that were filled, and where edits reach.

    Args:
        edited, given: (H, W, 3).
        mask: (H, W), as given with the crop.
        match: One of MATCHES.

    Returns:
        (region.height, region.width, 3), and bool (region.height, region.width): False where no pixel that has to do
        with the result has another bit than the crop given.
    """
    place = placement(region, edited.shape[1], edited.shape[0])
    edited, given, mask = (each[place.slices] for each in (edited, given, mask))
    changed = (edited != given).any(-1)
    if match == "mean and spread":
        edited = torch.where(changed[..., None], match_colour(edited, given, mask == 0), edited)
    size = region.height, region.width
    return resize_back(edited, *size), reach(changed, *size)


def paste(crops: Crops, edited: Tensor, feather: int, match: str) -> Tensor:
    """The pictures with the edited crops in them, inside the masks.

    A pixel is original + alpha (edited - original), where alpha is the mask times the feather's ramp. Where nothing
    was edited it is the original itself, however the crop was resized.

    Args:
        crops: As from crop_to_mask.crop.
        edited: (M * len(boxes), height, width, C), C = 1, 3 or 4: the crops, in the same order.
        feather: Pixels of the picture.
        match: One of MATCHES.

    Returns:
        (M, H, W, C) as the pictures. Outside the masks, their bits.

    Raises:
        ValueError: The edited crops are not as many or not of the size that was given out.
    """
    _check(edited.shape, crops.crop.shape)
    edited, result, progress = to_rgb(edited).to(crops.crop), crops.image.clone(), Progress(len(edited))
    for j, box in enumerate(crops.boxes):
        for i, fade in enumerate(_ramps(crops.mask, box, feather)):
            k, at = i * len(crops.boxes) + j, (i, *box.slices)
            rgb, reached = bring_back(edited[k], crops.crop[k], crops.crop_mask[k], box, match)
            alpha = crops.mask[at].float() * fade
            rgb = torch.lerp(to_rgb(crops.image[at]).float(), rgb, alpha[..., None])
            result[at] = put_rgb(crops.image[at], rgb, (alpha > 0) & reached)
            progress()
    return result


def _ramps(mask: Tensor, box: Box, feather: int) -> Iterator[Tensor]:
    """The ramp of each mask (M, H, W) in a box. No hole reaches out of it, but the pixels around it tell a hole's rim
    from the picture's border. Frames that share a mask share the work."""
    outer = box.expand(1, mask.shape[2], mask.shape[1])
    inner = Box(box.x - outer.x, box.y - outer.y, box.width, box.height)
    hole = fade = None
    for one in mask:
        last, hole = hole, one[outer.slices] > 0
        if last is None or not torch.equal(hole, last):
            fade = ramp(hole, feather)[inner.slices]
        yield fade


def _check(came: torch.Size, given: torch.Size) -> None:
    if came[0] != given[0]:
        raise ValueError(
            f"image is a batch of {came[0]} but Crop to Mask gave out {given[0]}. Connect every crop, edited or not, "
            "in the order in which they came."
        )
    if came[1:3] != given[1:3]:
        raise ValueError(
            f"image is {came[2]} x {came[1]} but the crops are {given[2]} x {given[1]}. Resize the edited crops to "
            f"{given[2]} x {given[1]}, or set the width and height of Crop to Mask to the size at which you edit."
        )
