"""Objects followed through clips: SAM 2's session against the authors' code and transformers' on random weights."""

import json

import numpy as np
import pytest
import torch

from kit.assertions import relative_error
from kit.sam2 import FRAME, golden, load, make_sam2, reference
from kit.tensors import rand
from pentimento.model_patchers.arch import sam2_bank, sam2_network
from pentimento.model_patchers.video import sam2 as ours
from pentimento.model_patchers.video import track
from pentimento.model_patchers.video.frames import ImageFrames
from pentimento.model_patchers.video.track import KeyFrame

pytestmark = pytest.mark.usefixtures("one_thread")
NEAR, FAR = 1e-4, 1e-3
CLIP = torch.from_numpy(make_sam2.clip()).float() / 255


def points(*pairs):
    return json.dumps([{"x": x, "y": y} for x, y in pairs])


def box(left, top, right, bottom):
    return {"x": left, "y": top, "width": right - left, "height": bottom - top}


def authors_keys(name):
    """The key frames of a scenario of make_sam2.py."""
    keys = ()
    for number, entries in make_sam2.SCENARIOS[name][1].items():
        for frame, kind, prompt in entries:
            if kind == "mask":
                key = KeyFrame(frame, number, mask=torch.from_numpy(make_sam2.mask())[None].float())
            elif "box" in prompt:
                key = KeyFrame(frame, number, boxes=box(*prompt["box"]))
            else:
                sides = [
                    points(*(p for p, label in zip(prompt["points"], prompt["labels"], strict=True) if label == side))
                    for side in (1, 0)
                ]
                key = KeyFrame(frame, number, *sides)
            keys = track.key_frames(key, keys)
    return keys


def logits(result, number=1):
    """(frames, h, w), with the logit of an absent object where there is none."""
    blank = torch.full((FRAME // 4, FRAME // 4), sam2_network.ABSENT)
    return torch.stack([blank if each is None else each for each in result.logits[number]])


def followed(name):
    """Our track of a scenario, and the authors' values."""
    sam2, values = golden(name)
    return track.follow(sam2, ImageFrames(CLIP), authors_keys(name), holes=make_sam2.SCENARIOS[name][2]), values


def error(result, values):
    """The largest error of any object's logits where the object is there; the frames that show it are the same."""
    worst = 0.0
    step = make_sam2.STEP
    for i, number in enumerate(result.logits):
        own, theirs = logits(result, number)[:, ::step, ::step], torch.from_numpy(values["logits"][i])
        there = (torch.from_numpy(values["present"][i]) > 0).flatten()
        assert there.any() and there.tolist() == [each is not None for each in result.logits[number]]
        worst = max(worst, relative_error(own[there], theirs[there]))
    return worst


@pytest.mark.both_devices
@pytest.mark.parametrize("name", make_sam2.SCENARIOS)
def test_a_track_equals_the_authors_code(name):
    result, values = followed(name)
    assert error(result, values) < NEAR
    for i, number in enumerate(result.logits):
        shown = np.unpackbits(values["masks"][i], axis=-1, count=CLIP.shape[2])
        assert (result.masks([number])[:].numpy() != shown).mean() < 1e-4
