"""Remove from Video: streamed equals whole, the truth, sentences, and memory that does not grow with the length."""

import json
import os
import subprocess
import sys
import tempfile
from fractions import Fraction
from types import SimpleNamespace

import av
import folder_paths
import numpy as np
import pytest
import torch
from comfy.model_management import InterruptProcessingException
from comfy_api.latest import InputImpl, Types

from kit.clips import clip, psnr
from kit.memory import EXACT
from kit.paths import HOST, PACK
from pentimento.model_patchers.comfyui import progress as progress_bars
from pentimento.model_patchers.video.fill_from_frames import fill
from pentimento.model_patchers.video.frames import ImageFrames, MaskBatch
from pentimento.model_patchers.video.motion import estimate
from pentimento.model_patchers.video.remove_from_video import filler, removed
from pentimento.nodes.video.remove_from_video import RemoveFromVideo

SIZE = {"height": 72, "width": 96, "side": 20}


@pytest.fixture(autouse=True)
def temp(tmp_path, monkeypatch):
    folder = tmp_path / "temp"
    monkeypatch.setattr(folder_paths, "temp_directory", str(folder))
    return folder


@pytest.fixture(scope="module")
def scene():
    """A thing that hovers while the camera turns: other frames show a part of what is behind it."""
    return clip("coffee", "turn", frames=8, hovers=True, **SIZE)


def as_video(frames, rate=24):
    return InputImpl.VideoFromComponents(Types.VideoComponents(frames, Fraction(rate)))


def stored(frames, path):
    """A file of these 8-bit levels that ComfyUI reads exactly."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("png", rate=Fraction(30000, 1001))
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "rgb24"
        for picture in (frames.numpy() * 255).round().astype(np.uint8):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode(None))
    return InputImpl.VideoFromFile(str(path))


def run(video, mask=None, rest="harmonic", reach=60, grow=2, track=None, lama=None):
    return RemoveFromVideo.execute(video, rest, reach, grow, track, mask, lama).result[0]


def levels(video):
    with av.open(video.get_stream_source()) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def whole(frames, mask, rest="harmonic", reach=60, grow=2):
    images = ImageFrames(frames)
    masks = MaskBatch(mask, images)
    motion = estimate(images, masks, "auto", grow)
    with tempfile.TemporaryFile() as file:
        return torch.cat(list(removed(images, masks, motion, filler(rest, None), file, reach, grow)))


@pytest.fixture(scope="module")
def result(scene):
    return whole(scene.frames, scene.mask)


def test_a_file_gives_the_same_as_its_frames(scene, result, tmp_path):
    video = run(stored(scene.frames, tmp_path / "clip.mov"), scene.mask)
    assert (levels(video) == (result.numpy() * 255).round()).all()
    assert video.get_frame_rate() == Fraction(30000, 1001)


def test_other_frames_fill_what_they_show_and_the_rest_is_spread_from_one_frame(scene, result):
    hole = scene.mask > 0
    assert torch.equal(result[~hole], scene.frames[~hole])
    images = ImageFrames(scene.frames)
    masks = MaskBatch(scene.mask, images)
    parts = list(fill(images, masks, estimate(images, masks, "auto", 2), grow=2))
    left = torch.cat([part[1] for part in parts])
    assert 0 < left.sum() < hole.sum()
    seen = hole & ~left
    assert torch.equal(result[seen], torch.cat([part[0] for part in parts])[seen])
    assert psnr(result, scene.background, seen) > 30
    assert not (result == scene.frames)[left].all(-1).any()  # nothing of the thing's one colour


@pytest.mark.parametrize("cut", [None, 4])
def test_few_key_frames_fill_the_rest(scene, cut):
    if cut:
        scene = clip("coffee", "turn", frames=8, cut=cut, hovers=True, **SIZE)
    images = ImageFrames(scene.frames)
    masks = MaskBatch(scene.mask, images)
    keys = []

    def grey(picture, hole):
        keys.append(hole)
        return torch.where(hole[..., None], 0.5, picture)

    with tempfile.TemporaryFile() as file:
        list(removed(images, masks, estimate(images, masks, "auto", 2), grey, file, grow=2))
    assert 0 < len(keys) < 4


@pytest.mark.parametrize("rest", ["patchmatch", "harmonic"])
def test_a_still_camera_and_a_still_thing_leave_all_to_the_rest(rest):
    scene = clip("gravel", "still", frames=3, hovers=True, **SIZE)
    mask = scene.mask.amax(0, keepdim=True)
    result = whole(scene.frames, mask, rest)
    assert torch.equal(result[:, mask[0] == 0], scene.frames[:, mask[0] == 0])
    assert (result[1:] - result[:1])[:, mask[0] > 0].abs().max() < 0.02  # no flicker


def test_scenes_each_have_a_key_frame():
    scene = clip("coffee", "turn", frames=8, cut=4, hovers=True, **SIZE)
    result = whole(scene.frames, scene.mask)
    assert not (result == scene.frames)[scene.mask > 0].all(-1).any()


def test_an_empty_mask_gives_the_video_itself(scene):
    video = as_video(scene.frames)
    assert run(video, torch.zeros(1, 72, 96)) is video


@pytest.mark.parametrize("rest", ["patchmatch", "harmonic"])
def test_a_full_mask_and_a_single_frame(scene, rest, temp):
    assert levels(run(as_video(scene.frames[:2]), torch.ones(1, 72, 96), rest)).shape == (2, 72, 96, 3)
    one = levels(run(as_video(scene.frames[:1]), scene.mask[:1], rest))[0]
    outside = scene.mask[0] == 0
    assert (one[outside] == (scene.frames[0][outside] * 255).round().numpy()).all()


def test_a_track_in_place_of_a_mask(scene, result):
    class Track(SimpleNamespace):
        def __len__(self):
            return len(self.mask)

        def masks(self):
            return self.mask

    track = Track(mask=scene.mask, height=72, width=96)
    assert (levels(run(as_video(scene.frames), track=track)) == (result.numpy() * 255).round()).all()
    with pytest.raises(ValueError, match=r"track is of a clip of 8 frames of 96 x 72, and video has 3 of 96 x 72"):
        run(as_video(scene.frames[:3]), track=track)


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        ({}, r"What to remove comes from track or from mask\. None is connected\."),
        ({"mask": torch.ones(1, 72, 96), "track": object()}, r"Both are connected: disconnect one\."),
        ({"mask": torch.ones(1, 72, 96), "rest": "lama"}, r"rest is lama, and no LaMa is connected\."),
        ({"mask": torch.ones(5, 72, 96)}, r"mask is a batch of 5 but the clip has 8 frames\."),
        ({"mask": torch.ones(1, 72, 72)}, r"mask is 72 x 72 but image is 96 x 72"),
    ],
)
def test_inputs_that_do_not_match(scene, inputs, sentence):
    with pytest.raises(ValueError, match=sentence):
        run(as_video(scene.frames), **inputs)


@pytest.mark.parametrize("steps", [3, 12, 28])
def test_an_interrupt_leaves_no_file(scene, temp, steps, monkeypatch):
    left = [steps]

    def interrupt():
        left[0] -= 1
        if left[0] < 0:
            raise InterruptProcessingException

    monkeypatch.setattr(progress_bars.model_management, "throw_exception_if_processing_interrupted", interrupt)
    with pytest.raises(InterruptProcessingException):
        run(as_video(scene.frames), scene.mask)
    assert not temp.exists() or not list(temp.iterdir())


def test_the_bar_ends_full(scene, bars):
    run(as_video(scene.frames), scene.mask)
    assert bars[0].values[-1] == bars[0].total == 32


MEMORY = """
import gc, json, runpy, sys, tempfile
from fractions import Fraction
from pathlib import Path
host, pack, n, height, width, side, reach = *sys.argv[1:3], *map(int, sys.argv[3:])
sys.path.insert(0, host)
load = runpy.run_path(pack + "/host/load_package.py")["load_package"]
from comfy.cli_args import args
args.cpu = True
load("pentimento", Path(pack))
load("kit", Path(pack) / "tests" / "kit")
import av, folder_paths, torch
from comfy_api.latest import InputImpl
from kit import memory
from pentimento.model_patchers.video import remove_from_video

torch.set_num_threads(1)
generator = torch.Generator().manual_seed(0)
small = torch.rand(3, height // 8 + 4, width // 8 + reach // 4 + 4, generator=generator)
ground = torch.nn.functional.interpolate(small[None], scale_factor=8, mode="bicubic")[0].clamp(0, 1).movedim(0, -1)
ground = (ground * 255).round().byte()


def away(t):
    return abs(t % (2 * reach) - reach)  # camera and thing come back every 2 * reach frames, as many as are held


def box(t):
    x, y = 8 + (width - side - 16) * away(t) // reach, height // 3
    return slice(y, y + side), slice(x, x + side)


def frame(t):
    picture = ground[16 : 16 + height, 2 * away(t) :][:, :width].clone()
    picture[box(t)] = torch.tensor([255, 0, 255], dtype=torch.uint8)
    return picture.numpy()


class Track:
    height, width = height, width

    def __len__(self):
        return n

    def masks(self):
        return self

    def __getitem__(self, window):
        numbers = range(*window.indices(n))
        masks = torch.zeros(len(numbers), height, width)
        for mask, t in zip(masks, numbers):
            mask[box(t)] = 1
        return masks


steps, held, peaks = 0, {}, {}


def progress(more=1):
    global steps
    steps += more
    peaks[3 * steps // n] = max(peaks.get(3 * steps // n, 0), memory.held())
    if more and steps % (n // 3) == 0:
        gc.collect()
        held[steps] = memory.held()


remove_from_video.Progress = lambda total: progress
with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
    folder_paths.set_temp_directory(folder)
    with av.open(folder + "/clip.mov", "w") as container:
        stream = container.add_stream("png", rate=Fraction(24))
        stream.height, stream.width, stream.pix_fmt = height, width, "rgb24"
        for t in range(n):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame(t), "rgb24")))
        container.mux(stream.encode(None))
    video = InputImpl.VideoFromFile(folder + "/clip.mov")
    remove_from_video.remove_from_video(video, "harmonic", reach, 4, Track(), None, None)
print(json.dumps([list(held.values()), list(peaks.values())]))
"""


def memory(frames, height, width, side, reach):
    """Bytes that are held after each third of the frames in each of four passes, and the most during each third.

    The passes measure the motion, fill, fill the rest (counted at its end), and write.
    """
    command = [sys.executable, "-c", MEMORY, HOST, PACK, frames, height, width, side, reach]
    environment = os.environ | {"PYTHONMALLOC": "malloc"}
    result = subprocess.run([*map(str, command)], env=environment, capture_output=True, text=True, check=True)
    return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.skipif(not EXACT, reason="counts memory as glibc does from 2.33 on")
def test_memory_does_not_grow_with_the_length():
    """A mask that is kept of each frame would take 12 kB a frame, and a frame 36 kB; all frames at once, 7 MB."""
    frames = 192
    held, peaks = memory(frames, 48, 64, side=12, reach=4)
    for first, third in ((0, 2), (3, 5), (7, 9)):  # a pass begins anew with its buffers
        assert held[third] - held[first] < 1000 * (frames - frames // 3)
    assert max(peaks) - peaks[3] < 4e6
