"""Pastes edited crops back into the pictures that Crop to Mask took them from."""

from collections.abc import Iterator
from math import sqrt

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from ..comfyui.progress import Progress
from ..pixels import checks
from ..pixels.boxes import Box
from ..pixels.images import put_rgb, to_rgb
from ..pixels.masks import selected
from ..pixels.regions import EIGHT
from ..pixels.resample import pillow, reach, resize_back
from .crop_to_mask import Crops, placement

MATCHES = ["off", "mean and spread"]
KNOWN = 256  # the fewest known pixels that colours are measured on
FLAT = 1 / 255  # a standard deviation below one 8-bit level counts as none
NEAR = 9 / 8  # a crop that is enlarged by more comes back with all its detail
SLIGHT = 2 / 255  # a change of the crop that is no edit: rounding to 8 bits, compression
AROUND = 4  # pixels around each pixel in which a change and the detail are measured
SLOPE = 4  # the most that a ramp's length changes from one pixel to the next


def ramp(hole: Tensor, feather: int) -> Tensor:
    """The opacity of the edited picture: it rises from a hole's rim inwards over `feather` pixels, then stays 1.

    Where a hole is narrower than two feathers, the ramp is shorter and reaches 1 in the middle. The picture's border is
    no rim.

    Args:
        hole: bool (H, W).

    Returns:
        (H, W), on the hole's device: above 0 and up to 1 in the hole, 0 outside.
    """
    inside = hole.cpu().numpy()
    if not feather or inside.all():
        return hole.float()
    labels, _ = ndimage.label(inside, structure=EIGHT)
    opacity = np.zeros(inside.shape, dtype=np.float32)
    for number, box in enumerate(ndimage.find_objects(labels), 1):
        around = tuple(slice(max(side.start - 1, 0), side.stop + 1) for side in box)
        opacity[around] += _rise(labels[around] == number, feather)
    return torch.from_numpy(opacity).to(hole.device)


def _rise(inside: np.ndarray, feather: int) -> np.ndarray:
    """The ramp of one connected hole, (H, W): depth below the rim / length of the ramp, at most 1.

    The length at a pixel is the radius of the largest disc that lies in the hole and covers the pixel: the local
    thickness of Hildebrand and Ruegsegger (J. Microscopy 185, 1997), at most `feather` + 1. Two changes: a disc covers
    pixels up to sqrt(2) radii from its centre, so that a right angle is no narrow place, and beyond that the disc's
    radius counts for SLOPE less per pixel. Radii are tried from the largest down, each half of the one before.

    Args:
        inside: bool (H, W), True in the hole, with the pixels just outside.
    """
    depth = ndimage.distance_transform_edt(inside)  # 1 at the rim
    length, radius = np.ones_like(depth), min(feather + 1, depth.max())
    while radius > 1 and (length < radius)[inside].any():
        beyond = ndimage.distance_transform_edt(depth < radius) - sqrt(2) * radius  # pixels beyond the nearest disc
        length = np.maximum(length, radius - SLOPE * beyond.clip(0))
        radius /= 2
    return (depth / length).clip(max=1)


def match_colour(edited: Tensor, original: Tensor, known: Tensor) -> Tensor:
    """The edited crop with the original crop's mean and standard deviation on the known pixels, channel by channel.

    x' = (x - mu) sigma_0 / sigma + mu_0. A channel that is flat (FLAT) in either crop is only shifted.

    Args:
        edited, original: (H, W, 3).
        known: bool (H, W). With fewer than KNOWN known pixels, the edited crop is returned as it is.
    """
    if known.sum() < KNOWN:
        return edited
    (sigma, mu), (sigma_0, mu_0) = (torch.std_mean(crop[known], 0) for crop in (edited, original))  # (3,)
    gain = torch.where(torch.minimum(sigma, sigma_0) < FLAT, 1, sigma_0 / sigma)
    return ((edited - mu) * gain + mu_0).clamp(0, 1)


def likeness(edited: Tensor, original: Tensor) -> Tensor:
    """How far each pixel of the edited crop still is the original's: (H, W, 3) twice -> (H, W), 0 ... 1.

    It is 1 where the change is at most SLIGHT, or a quarter of the original's fine detail if that is more, and it falls
    to 0 at twice as much. Both are root mean squares around the pixel. Fine detail is the difference from the mean of
    5 x 5 pixels, so a blur is no slight change.
    """
    grey = original.mean(-1)
    change, detail = (edited - original).square().mean(-1), (grey - _mean(grey, 2)).square()
    slight = _mean(detail, AROUND).sqrt() / 4
    return (2 - _mean(change, AROUND).sqrt() / slight.clamp_min(SLIGHT)).clamp(0, 1)


def _mean(x: Tensor, radius: int) -> Tensor:
    """(H, W) -> (H, W): the mean of the square around each pixel, within the picture."""
    side = 2 * radius + 1
    rows = F.avg_pool2d(x[None], (1, side), 1, (0, radius), count_include_pad=False)
    return F.avg_pool2d(rows, (side, 1), 1, (radius, 0), count_include_pad=False)[0]


def bring_back(
    edited: Tensor, original: Tensor, mask: Tensor, picture: Tensor, region: Box, match: str
) -> tuple[Tensor, Tensor]:
    """The edited crop without its letterbox borders, at its region's own size, and the pixels that edits reach.

    A crop of nearly its region's size shows the finest detail too weakly for `resize_back` to restore it. There, where
    the edited crop still is the original (`likeness`), the result is the picture plus the resized change.

    Args:
        edited, original: (H, W, 3), the crop after and before the edit.
        mask: (H, W), of the crop.
        picture: (region.height, region.width, 3), of which the original crop was made.
        match: One of MATCHES.

    Returns:
        (region.height, region.width, 3), and bool (region.height, region.width): True where at least one pixel of the
        edited crop that the resampling reads differs from the original crop.
    """
    place = placement(region, edited.shape[1], edited.shape[0])
    edited, original, mask = edited[place.slices], original[place.slices], mask[place.slices]
    changed = (edited != original).any(-1)
    if match == "mean and spread":
        edited = torch.where(changed[..., None], match_colour(edited, original, ~selected(mask)), edited)
    size = region.height, region.width
    back = resize_back(edited, *size)
    if size != edited.shape[:2] and max(place.height / size[0], size[0] / place.height) < NEAR:
        like = F.interpolate(likeness(edited, original)[None, None], size, mode="bilinear")[0, 0, ..., None]
        change = pillow((edited - original)[None], *size)[0]
        back = torch.lerp(back, (picture + change).clamp(0, 1), like)
    return back, reach(changed, *size)


def paste(crops: Crops, edited: Tensor, feather: int, match: str) -> Tensor:
    """The pictures with the edited crops pasted in, inside the masks.

    A pixel becomes original + alpha (edited - original), alpha = mask * ramp. Pixels that no edit reaches keep their
    bits, although the crop was resized there and back.

    Args:
        crops: From crop_to_mask.crop.
        edited: (M * len(boxes), height, width, C), C = 1, 3 or 4: the edited crops, in the order of `crops`.
        feather: Length of the ramp in pixels of the picture.
        match: One of MATCHES.

    Returns:
        (M, H, W, C), C of the pictures. Outside the masks every bit stays.

    Raises:
        ValueError: The number or the size of the edited crops differs from that of `crops`, or a pixel inside the mask
            is not finite.
    """
    _check(edited.shape, crops.crop.shape)
    edited, result, progress = to_rgb(edited).to(crops.crop), crops.image.clone(), Progress(len(edited))
    if not checks.finite(edited, "image", unread=crops.crop_mask == 0, where=" inside the mask"):
        edited = torch.where(edited.isfinite(), edited, crops.crop)
    holes = selected(crops.mask)
    for j, box in enumerate(crops.boxes):
        for i, opacity in enumerate(_ramps(holes, box, feather)):
            k, at = i * len(crops.boxes) + j, (i, *box.slices)
            alpha = crops.mask[at].float() * opacity
            result[at] = put_back(crops.image[at], alpha, edited[k], crops.crop[k], crops.crop_mask[k], box, match)
            progress()
    return result


def put_back(
    picture: Tensor, alpha: Tensor, edited: Tensor, original: Tensor, mask: Tensor, region: Box, match: str
) -> Tensor:
    """A region with its edited crop pasted in. Pixels of alpha 0, and pixels that no edit reaches, keep their bits.

    Args:
        picture: (region.height, region.width, C), of which the original crop was made.
        alpha: (region.height, region.width), the opacity of the edit.
        edited, original, mask, region, match: As in `bring_back`.
    """
    before = to_rgb(picture).float()
    rgb, reached = bring_back(edited, original, mask, before, region, match)
    return put_rgb(picture, torch.lerp(before, rgb, alpha[..., None]), (alpha > 0) & reached)


def _ramps(holes: Tensor, box: Box, feather: int) -> Iterator[Tensor]:
    """The ramp of each of holes, bool (M, H, W), in a box that no hole leaves.

    The pixels around the box tell a hole's rim from the picture's border. Frames with the same hole share one ramp.
    """
    outer = box.expand(1, holes.shape[1:])
    inner = Box(box.x - outer.x, box.y - outer.y, box.width, box.height)
    previous = None
    for frame in holes:
        hole = frame[outer.slices]
        if previous is None or not torch.equal(hole, previous):
            opacity = ramp(hole, feather)[inner.slices]
        previous = hole
        yield opacity


def _check(edited: torch.Size, crops: torch.Size) -> None:
    if edited[0] != crops[0]:
        raise ValueError(
            f"image is a batch of {edited[0]} but Crop to Mask made {crops[0]} crops. Connect every crop, edited or "
            "not, in the order in which Crop to Mask returned them."
        )
    if edited[1:3] != crops[1:3]:
        raise ValueError(
            f"image is {edited[2]} x {edited[1]} but the crops are {crops[2]} x {crops[1]}. Resize the edited crops to "
            f"{crops[2]} x {crops[1]}, or set the width and height of Crop to Mask to the size at which you edit."
        )
