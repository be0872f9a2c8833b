"""SAM's frame: the square that the longer side of a picture is resized to fill, with the picture at its top left."""

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

MEAN, SPREAD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # ImageNet's, of levels from 0 to 255
SURE = 10.0  # the logit of a mask prompt's 1


def frame_size(height: int, width: int, frame: int) -> tuple[int, int]:
    """The picture's height and width when its longer side is `frame`, rounded as segment-anything does."""
    scale = frame / max(height, width)
    return int(height * scale + 0.5), int(width * scale + 0.5)


def preprocess(levels: np.ndarray, frame: int) -> Tensor:
    """What the image encoder is shown: resized by PIL as in segment-anything, normalised, and only then filled with 0.

    Args:
        levels: uint8 (H, W, 3).
        frame: The frame's side.

    Returns:
        float32 (1, 3, frame, frame) on the CPU.
    """
    height, width = frame_size(*levels.shape[:2], frame)
    resized = Image.fromarray(levels).resize((width, height), Image.Resampling.BILINEAR)
    x = (torch.from_numpy(np.array(resized)).float() - torch.tensor(MEAN)) / torch.tensor(SPREAD)
    return F.pad(x.movedim(-1, 0)[None], (0, frame - width, 0, frame - height))


def postprocess(logits: Tensor, height: int, width: int, frame: int) -> Tensor:
    """The decoder's logits at the picture's size: to the frame, cut, to the picture.

    Args:
        logits: (P, n, h, w).
        height, width: The picture's.
        frame: The frame's side.

    Returns:
        (P, n, height, width). A mask is what lies above 0.
    """
    rows, columns = frame_size(height, width, frame)
    logits = F.interpolate(logits, (frame, frame), mode="bilinear", align_corners=False)[..., :rows, :columns]
    return F.interpolate(logits, (height, width), mode="bilinear", align_corners=False)


def mask_logits(mask: Tensor, frame: int, cells: int) -> Tensor:
    """A mask prompt as the decoder's logits: -10 where the mask is 0, 10 where it is 1, linear between.

    The reference feeds back its own logits and knows no masks; this is SAM 2's scale for given masks. The geometry is
    postprocess's in reverse: resized into the frame, the frame filled with 0, each cell the mean of its pixels.

    Args:
        mask: (H, W) in [0, 1], of the picture's size.
        frame: The frame's side.
        cells: The side of the decoder's masks.

    Returns:
        (1, 1, cells, cells)
    """
    rows, columns = frame_size(*mask.shape, frame)
    x = F.interpolate(mask[None, None].float(), (rows, columns), mode="bilinear", antialias=True)
    x = F.pad(x, (0, frame - columns, 0, frame - rows))
    return F.avg_pool2d(x, frame // cells) * (2 * SURE) - SURE
