"""Parts of a photograph, masks of boxes, their crops, what takes them to Pillow, and files that EXIF turns."""

import io

import numpy as np
import skimage.data
import torch
from PIL import ExifTags, Image

from pentimento.model_patchers.pixels.boxes import Box
from pentimento.nodes.edit.crop_to_mask import CropToMask

from .nodes import run_node


def photograph(height=120, width=150, b=1, top=0, left=100):
    """(b, H, W, 3), every picture another part of the photograph; 8-bit values."""
    parts = [skimage.data.astronaut()[top + 10 * i :, left + 10 * i :][:height, :width] for i in range(b)]
    return torch.from_numpy(np.stack(parts)).float() / 255


def box_mask(height, width, *boxes):
    """(1, H, W), each box x, y, width, height."""
    mask = torch.zeros(1, height, width)
    for box in boxes:
        mask[0][Box(*box).slices] = 1
    return mask


def as_pil(picture):
    """(H, W) or (H, W, 3) of 8-bit values."""
    return Image.fromarray((picture * 255).round().byte().numpy())


def crop(image, mask, width=64, height=64, padding=8, choice="one"):
    """Crop to Mask's results."""
    return run_node(CropToMask, image=image, mask=mask, width=width, height=height, padding=padding, regions=choice)


def turned_file(orientation, suffix="jpg"):
    """A grey file of 203 x 151 pixels with a red spot and an EXIF orientation; no turn or mirror leaves it the same."""
    pixels = np.full((151, 203, 3), 60, np.uint8)
    pixels[20:36, 30:46] = 255, 0, 0
    exif, file = Image.Exif(), io.BytesIO()
    exif[ExifTags.Base.Orientation] = orientation
    form = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}[suffix]
    Image.fromarray(pixels).save(file, form, quality=100, subsampling=0, lossless=True, exif=exif)
    return file.getvalue()


def red_spot(levels):
    """Where the middle of the red spot is, (x, y), in levels of 0 to 255, (H, W, 3)."""
    levels = np.asarray(levels).astype(int)
    y, x = np.nonzero(levels[..., 0] - levels[..., 1] > 100)
    return x.mean(), y.mean()
