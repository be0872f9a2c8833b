"""How well objects are followed, as the share of true and followed masks that both have (IoU).

With random weights SAM 2 follows nothing, so its own test wants a real file:

    PENTIMENTO_SAM2=models/sam2/sam2.1_hiera_tiny.pt python3 host test tests/video/test_track_quality.py
"""

import os
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from torch import Tensor

from kit.paths import PACK
from pentimento.model_patchers.video import sam2, track
from pentimento.model_patchers.video.frames import ImageFrames
from pentimento.model_patchers.video.track import KeyFrame

FRAMES, HEIGHT, WIDTH = 40, 288, 384
OBJECT = 120, 60, 210, 230  # left, top, right, bottom of the head in the astronaut's photograph
HIDDEN = range(18, 26)
FILE = os.environ.get("PENTIMENTO_SAM2")


class Scene(NamedTuple):
    """
    Attributes:
        frames: (n, H, W, 3).
        masks: bool (n, H, W), the object where it is not hidden.
    """

    frames: Tensor
    masks: Tensor


def photograph(name):
    return np.asarray(Image.open(PACK / f"workflows/input/pentimento_{name}.png").convert("RGB")) / 255


def scene(turn: float, growth: float, hidden: range = range(0)) -> Scene:
    """An astronaut's head, cut out, crosses a table. It turns by `turn` radians and grows to `growth` times its size.

    In the frames of `hidden` a curtain covers it.
    """
    left, top, right, bottom = OBJECT
    head, table = (
        photograph("astronaut")[top:bottom, left:right],
        photograph("coffee")[60 : 60 + HEIGHT, 100 : 100 + WIDTH],
    )
    rows, columns = np.mgrid[: head.shape[0], : head.shape[1]]
    middle = np.array(head.shape[:2]) / 2
    oval = ((rows - middle[0]) / middle[0]) ** 2 + ((columns - middle[1]) / middle[1]) ** 2 < 1
    frames, masks = [], []
    for t in range(FRAMES):
        part = t / (FRAMES - 1)
        angle, size = turn * part, 0.55 * (1 + (growth - 1) * part)
        place = np.array([150 - 20 * part, 80 + 220 * part])
        inverse = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) / size
        offset = middle - inverse @ place

        def moved(plane, inverse=inverse, offset=offset):
            return ndimage.affine_transform(plane.astype(float), inverse, offset, (HEIGHT, WIDTH), order=1)

        mask, frame = moved(oval) > 0.5, table.copy()
        frame[mask] = np.stack([moved(head[..., c]) for c in range(3)], -1)[mask]
        if t in hidden:
            frame[:, int(place[1]) - 90 : int(place[1]) + 90] = 0.35
            mask[:] = False
        frames.append(np.rint(255 * frame) / 255)
        masks.append(mask)
    return Scene(torch.from_numpy(np.stack(frames)).float(), torch.from_numpy(np.stack(masks)))


def overlap(masks, truth):
    """IoU (n,); 1 where both are empty."""
    masks = masks > 0.5
    both, either = (masks & truth).flatten(1).sum(1), (masks | truth).flatten(1).sum(1)
    return torch.where(either > 0, both / either.clamp_min(1), 1.0)


def keys(masks, *frames):
    return tuple(KeyFrame(frame, 1, mask=masks[frame, None].float()) for frame in frames)


def test_without_a_model_even_motion_and_growth_are_followed():
    """And a turn is not: the shape changes from one key frame to the other without turning."""
    even, turning = scene(0, 1.6), scene(1.5, 1.0)
    followed = [
        track.move(ImageFrames(each.frames), keys(each.masks, 0, FRAMES - 1)).masks()[:] for each in (even, turning)
    ]
    assert overlap(followed[0], even.masks).min() > 0.9
    assert overlap(followed[1], turning.masks).min() < 0.9


@pytest.mark.skipif(FILE is None, reason="$PENTIMENTO_SAM2 names no file of real weights")
@pytest.mark.parametrize("prompt", ["mask", "box"])
def test_sam_2_follows_a_head_that_turns_grows_and_is_hidden_for_eight_frames(prompt):
    clip = scene(0.8, 1.5, HIDDEN)
    marked = keys(clip.masks, 0, 30)
    if prompt == "box":
        rows, columns = clip.masks[0].nonzero().T
        box = {"x": int(columns.min()), "y": int(rows.min()), "width": int(columns.max() - columns.min()) + 1}
        marked = (KeyFrame(0, 1, boxes=box | {"height": int(rows.max() - rows.min()) + 1}), marked[1])
    followed = track.follow(sam2.load(FILE), ImageFrames(clip.frames), marked).masks()[:]
    assert overlap(followed, clip.masks).mean() > 0.85
