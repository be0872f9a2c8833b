"""SAM's frame: a square with the picture at its top left, resized so that its longer side is the side of the square."""

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

MEAN, SPREAD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # of ImageNet's levels, from 0 to 255
SURE = 10.0  # the logit of 1 in a mask prompt; 0 has -SURE


def frame_size(height: int, width: int, frame: int) -> tuple[int, int]:
    """The height and width of the picture in the frame, rounded as in segment-anything."""
    scale = frame / max(height, width)
    return int(height * scale + 0.5), int(width * scale + 0.5)


def preprocess(levels: np.ndarray, frame: int) -> Tensor:
    """The input of the image encoder: resized by Pillow as in segment-anything, normalised, then padded with 0.

    Args:
        levels: uint8 (H, W, 3).
        frame: Side of the frame.

    Returns:
        float32 (1, 3, frame, frame) on the CPU.
    """
    height, width = frame_size(*levels.shape[:2], frame)
    resized = Image.fromarray(levels).resize((width, height), Image.Resampling.BILINEAR)
    x = (torch.from_numpy(np.array(resized)).float() - torch.tensor(MEAN)) / torch.tensor(SPREAD)
    return F.pad(x.movedim(-1, 0)[None], (0, frame - width, 0, frame - height))


def postprocess(logits: Tensor, height: int, width: int, frame: int) -> Tensor:
    """The decoder's logits at the size of the picture: resized to the frame, cropped, resized to the picture.

    Args:
        logits: (P, n, h, w).
        height, width: Of the picture.
        frame: Side of the frame.

    Returns:
        (P, n, height, width). A mask is where the logits are above 0.
    """
    rows, columns = frame_size(height, width, frame)
    logits = F.interpolate(logits, (frame, frame), mode="bilinear", align_corners=False)[..., :rows, :columns]
    return F.interpolate(logits, (height, width), mode="bilinear", align_corners=False)


def mask_logits(mask: Tensor, frame: int, cells: int) -> Tensor:
    """A mask prompt as logits of the decoder: 20 mask - 10.

    segment-anything only feeds back its own logits. The scale for masks of users is SAM 2's. The geometry is that of
    `postprocess` in reverse: the mask is resized into the frame, the rest of the frame is 0, and each cell is the mean
    of its pixels.

    Args:
        mask: (H, W) in [0, 1], of the size of the picture.
        frame: Side of the frame.
        cells: Side of the decoder's masks.

    Returns:
        (1, 1, cells, cells)
    """
    rows, columns = frame_size(*mask.shape, frame)
    x = F.interpolate(mask[None, None].float(), (rows, columns), mode="bilinear", antialias=True)
    x = F.pad(x, (0, frame - columns, 0, frame - rows))
    return F.avg_pool2d(x, frame // cells) * (2 * SURE) - SURE
