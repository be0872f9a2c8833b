"""Objects followed through clips: SAM 2's session against the authors' code and transformers' on random weights."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from comfy import model_management
from comfy_api.latest import InputImpl
from scipy import ndimage
from transformers import Sam2VideoInferenceSession

from kit.assertions import relative_error
from kit.clips import write_video
from kit.sam2 import FRAME, golden, load, lowered, make_sam2, reference
from kit.tensors import rand
from pentimento.model_patchers.arch import sam2_bank, sam2_network
from pentimento.model_patchers.arch.sam_decoder import Prompts
from pentimento.model_patchers.pixels.images import to_levels
from pentimento.model_patchers.pixels.regions import FOUR
from pentimento.model_patchers.video import sam2 as ours
from pentimento.model_patchers.video import track
from pentimento.model_patchers.video.frames import ImageFrames
from pentimento.model_patchers.video.track import KeyFrame
from pentimento.nodes.video.track import Track, TrackToMask, TrackVideo

pytestmark = pytest.mark.usefixtures("one_thread")
NEAR, FAR = 5e-5, 1.5e-4  # of the largest logit; measured: 1.2e-5 and 2e-4
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
        assert (result.masks(str(number))[:].numpy() != shown).mean() < 1e-4


def last_frame_is_the_oldest(monkeypatch):
    tokens = sam2_network.Network.frame_tokens
    monkeypatch.setattr(
        sam2_network.Network, "frame_tokens", lambda self, memory, i: tokens(self, memory, i if i < 0 else 5 - i)
    )


def pointers_of_later_key_frames(monkeypatch):
    right = sam2_bank.Bank.pointers_of

    def wrong(self, frame, step):
        return {key: pointer for key, (_, pointer) in self.keys.items()} | right(self, frame, step)

    monkeypatch.setattr(sam2_bank.Bank, "pointers_of", wrong)


def a_box_without_the_point_that_pads(monkeypatch):
    decode = sam2_network.Network.decode

    def wrong(self, image, features, coords=None, labels=None):
        if coords is not None and labels.shape[1] == 2:
            return self._answer(image, features, Prompts(coords, labels), ambiguous=False)
        return decode(self, image, features, coords, labels)

    monkeypatch.setattr(sam2_network.Network, "decode", wrong)


def no_rounding_to_bfloat16(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda self: self)


def later_key_frames_are_not_remembered(monkeypatch):
    read = sam2_bank.Bank.read

    def wrong(self, network, frame, step):
        keys = {key: value for key, value in self.keys.items() if (frame - key) * step >= 0}
        return read(replace(self, keys=keys), network, frame, step)

    monkeypatch.setattr(sam2_bank.Bank, "read", wrong)


def holes_are_filled_before_they_are_remembered(monkeypatch):
    remember = sam2_network.Network.remember

    def wrong(self, features, logits, present, prompted):
        return remember(self, features, ours.fill_holes(logits, 100), present, prompted)

    monkeypatch.setattr(sam2_network.Network, "remember", wrong)


def holes_connect_by_edges_alone(monkeypatch):
    monkeypatch.setattr(ours, "EIGHT", FOUR)


@pytest.mark.parametrize(
    ("variant", "name"),
    [
        (last_frame_is_the_oldest, "two key frames"),
        (pointers_of_later_key_frames, "two key frames"),
        (a_box_without_the_point_that_pads, "two key frames"),
        (no_rounding_to_bfloat16, "two objects"),
        (later_key_frames_are_not_remembered, "two key frames"),
        (holes_are_filled_before_they_are_remembered, "holes"),
        (holes_connect_by_edges_alone, "holes"),
    ],
)
def test_wrong_variants_are_far_from_the_authors_code(monkeypatch, variant, name):
    variant(monkeypatch)
    assert error(*followed(name)) > FAR


# Against transformers: a longer clip, of which not all is remembered


LONG = torch.cat((CLIP, CLIP[::2].flip(1), CLIP[:5].flip(2)))
KEYS = track.key_frames(KeyFrame(2, 1, boxes=box(30, 20, 90, 70)))
KEYS = track.key_frames(KeyFrame(5, 1, points((70, 40)), points((20, 60))), KEYS)


@pytest.fixture(scope="module")
def theirs():
    return reference()


@pytest.fixture(scope="module")
def sam2(theirs, precision):
    return load(theirs.state_dict(), precision.name)


@pytest.fixture(scope="module")
@torch.inference_mode()
def long_track(sam2):
    return track.follow(sam2, ImageFrames(LONG), KEYS, holes=0)


def their_logits(model, clip, keys, side=FRAME):
    """transformers' logits of one object, (frames, h, w): forwards, then backwards."""
    squares = torch.cat([ours.preprocess(to_levels(each), side) for each in clip])
    session = Sam2VideoInferenceSession(squares, *clip.shape[1:3], dtype=torch.float32)
    number = session.obj_id_to_idx(1)
    for frame, prompt in track.prompts(keys, ImageFrames(clip), side)[1].items():
        point = {"point_coords": prompt.coords[None], "point_labels": prompt.labels[None]}
        session.add_point_inputs(number, frame, point)
        session.obj_with_new_inputs = [1]
        model(session, frame_idx=frame)
    found = {}
    for reverse in (False, True):
        for answer in model.propagate_in_video_iterator(session, reverse=reverse):
            found[answer.frame_idx] = answer.pred_masks[0, 0]
    return torch.stack([found[frame] for frame in range(len(clip))])


@pytest.mark.both_devices
def test_a_track_equals_transformers(long_track, theirs):
    """With more frames than are remembered."""
    expected = their_logits(theirs, LONG, KEYS)
    assert relative_error(logits(long_track), expected) < NEAR


@pytest.mark.both_devices
@pytest.mark.in_half
def test_a_track_in_half_precision_is_as_near_as_transformers(sam2, theirs, precision):
    clip, keys = CLIP[:6], track.key_frames(KeyFrame(2, 1, points((70, 40))))
    expected = their_logits(theirs, clip, keys)
    limit = precision.tolerance(NEAR, expected, lambda: their_logits(lowered(theirs, precision), clip, keys))
    assert relative_error(logits(track.follow(sam2, ImageFrames(clip), keys, holes=0)), expected) < limit


def test_a_frame_forgotten_or_kept_makes_no_difference(long_track, sam2, monkeypatch):
    sizes = []
    keep = sam2_bank.Bank.keep

    def counted(self, network, *frames):
        keep(self, network, *frames)
        sizes.append((len(self.seen), len(self.pointers)))

    monkeypatch.setattr(sam2_bank.Bank, "keep", counted)
    track.follow(sam2, ImageFrames(LONG), KEYS, holes=0)
    assert max(seen for seen, _ in sizes) <= 2 * 6 and max(pointers for _, pointers in sizes) < len(LONG) - 2
    monkeypatch.setattr(sam2_bank.Bank, "keep", lambda *args: None)
    whole = track.follow(sam2, ImageFrames(LONG), KEYS, holes=0)
    assert torch.equal(logits(whole), logits(long_track))


# The session


def test_backwards_is_forwards_on_the_reversed_clip(sam2):
    key = track.key_frames(KeyFrame(-3, 1, points((70, 40))))
    mirrored = track.key_frames(KeyFrame(2, 1, points((70, 40))))
    short = CLIP[:8]
    backward = track.follow(sam2, ImageFrames(short), key, "backward")
    forward = track.follow(sam2, ImageFrames(short.flip(0)), mirrored, "forward")
    assert torch.equal(logits(backward), logits(forward).flip(0))
    assert backward.logits[1][6:] == (None, None) and not backward.masks()[6:].any()
    assert backward.present() == "object 1: 0-5"
    both = track.follow(sam2, ImageFrames(short), key)
    assert both.present() == "object 1: 0-7" and torch.equal(both.logits[1][5], backward.logits[1][5])


def test_objects_together_equal_each_alone_and_a_frame_is_encoded_once_for_all(sam2, monkeypatch):
    clip, encoded = ImageFrames(CLIP[:6]), []
    first = track.key_frames(KeyFrame(1, 7, points((70, 40))))
    second = track.key_frames(KeyFrame(3, 2, boxes=box(30, 20, 90, 70)))
    encode = sam2.network.encode
    monkeypatch.setattr(sam2.network, "encode", lambda pixels: encoded.append(1) or encode(pixels))
    together = track.follow(sam2, clip, (*first, *second))
    # 2 key frames; forwards 2, 3, 4, 5 for the first, which is followed on the second's key frame; backwards 2, 1, 0.
    assert len(encoded) == 2 + 4 + 3
    for number, keys in ((7, first), (2, second)):
        alone = track.follow(sam2, clip, keys)
        assert torch.equal(logits(alone, number), logits(together, number))
    assert list(together.logits) == [2, 7]


def test_a_further_object_is_looked_for_in_the_same_features(sam2, monkeypatch):
    """Each costs an attention to its memory, a decoder and a memory encoder a frame; test_sam2.py counts their work."""
    counts = {}

    def counted(name):
        call = getattr(sam2.network, name)

        def counting(*args, **options):
            counts[name] = counts.get(name, 0) + 1
            return call(*args, **options)

        monkeypatch.setattr(sam2.network, name, counting)

    for name in ("encode", "attend", "decode", "remember"):
        counted(name)
    keys = ()
    for objects in (1, 2, 3):
        keys = track.key_frames(KeyFrame(0, objects, points((20 * objects, 40))), keys)
        counts.clear()
        track.follow(sam2, ImageFrames(CLIP[:4]), keys)
        assert counts == {"encode": 4, "attend": 3 * objects, "decode": 4 * objects, "remember": 4 * objects}


def test_a_video_gives_the_same_bits_as_its_images(sam2, tmp_path):
    write_video(tmp_path / "clip.mkv", "ffv1", "bgr0", frames=20, options={"g": "5"})
    video = InputImpl.VideoFromFile(str(tmp_path / "clip.mkv"))
    images = video.get_components().images
    keys = track.key_frames(KeyFrame(18, 1, points((30, 24))))
    streamed = TrackVideo.execute(sam2, video, keys, "both", 8, True).result[0]
    mask, whole, present = Track.execute(sam2, images, keys, "both", 8, True).result
    assert torch.equal(logits(streamed), logits(whole)) and torch.equal(streamed.masks()[:], mask)
    assert mask.shape == images.shape[:3] and present == "object 1: 0-19"


def test_interrupted(sam2, monkeypatch):
    steps = []

    def interrupt():
        steps.append(1)
        if len(steps) == 3:
            raise model_management.InterruptProcessingException

    monkeypatch.setattr(model_management, "throw_exception_if_processing_interrupted", interrupt)
    with pytest.raises(model_management.InterruptProcessingException):
        track.follow(sam2, ImageFrames(CLIP), KEYS)
    assert len(steps) == 3


def test_no_more_than_one_frame_is_read_at_a_time(sam2):
    class Watched(ImageFrames):
        read = []

        def __getitem__(self, window):
            self.read.append(window.stop - window.start)
            return super().__getitem__(window)

    track.follow(sam2, Watched(CLIP[:5]), track.key_frames(KeyFrame(2, 1, points((70, 40)))))
    assert Watched.read == [1] * 5


def test_one_frame_grey_and_transparent_clips(sam2):
    keys = track.key_frames(KeyFrame(0, 1, points((70, 40))))
    picture = rand(1, 60, 80, 1)
    grey = Track.execute(sam2, picture, keys, "both", 8, True).result
    colour = Track.execute(sam2, picture.expand(-1, -1, -1, 3), keys, "forward", 8, True).result
    clear = torch.cat((picture.expand(-1, -1, -1, 3), rand(1, 60, 80, 1)), dim=-1)
    transparent = Track.execute(sam2, clear, keys, "backward", 8, True).result
    assert torch.equal(grey[0], colour[0]) and torch.equal(grey[0], transparent[0]) and grey[0].shape == (1, 60, 80)
    with pytest.raises(ValueError, match="^images has NaN or infinity in 4800"):
        Track.execute(sam2, picture * torch.nan, keys, "both", 8, True)


# The track and its masks


def made(overlap=True):
    """3 frames with object 1 on the left half, object 4 in the middle of frames 0 and 2."""
    left, middle = torch.full((2, 8, 8), -5.0)
    left[:, :4], middle[:, 2:6] = 3, 6
    return track.Track(16, 24, {1: (left, left, left), 4: (middle, None, middle)}, overlap)


def columns(mask):
    return mask[0].nonzero().flatten().tolist()


def test_masks_of_a_track():
    result, alone = made(), made(overlap=False)
    assert len(result) == 3 and result.present() == "object 1: 0-2\nobject 4: 0, 2"
    both = TrackToMask.execute(result, "", 0, 0).result[0]
    assert both.shape == (3, 16, 24) and both.dtype == torch.float32 and set(both.unique().tolist()) == {0, 1}
    first, second = (TrackToMask.execute(result, text, 0, 0).result[0] for text in ("1", " 4 "))
    assert torch.equal(torch.maximum(first, second), both)
    assert torch.equal(TrackToMask.execute(result, "4, 1", 0, 0).result[0], both)
    assert columns(first[0]) == list(range(12)) and columns(second[0]) == list(range(6, 18)) and not second[1].any()
    exclusive = [TrackToMask.execute(alone, text, 0, 0).result[0] for text in ("1", "4", "")]
    assert not (exclusive[0] * exclusive[1]).any() and torch.equal(exclusive[2], both)
    assert torch.equal(exclusive[0] + exclusive[1], both) and exclusive[1][0].sum() > exclusive[0][0].sum()
    assert torch.equal(exclusive[0][1], first[1])
    for start, length, shown in ((1, 0, [1, 2]), (1, 1, [1]), (2, 9, [2])):
        assert torch.equal(TrackToMask.execute(result, "", start, length).result[0], both[shown])


def test_what_reads_a_track_does_not_change_it():
    result = made(overlap=False)
    before = [None if each is None else each.clone() for own in result.logits.values() for each in own]
    result.masks()[:].fill_(7)
    TrackToMask.execute(result, "1", 0, 0).result[0].fill_(7)
    after = [each for own in result.logits.values() for each in own]
    assert all(a is b if a is None else torch.equal(a, b) for a, b in zip(after, before, strict=True))
    assert result.masks()[:].max() == 1


@pytest.mark.parametrize(
    ("objects", "start", "message"),
    [
        ("2", 0, "objects names object 2, and the track has object 1, 4: "),
        ("left", 0, "objects is 'left', and numbers of objects are needed, such as 1, 3"),
        ("-1", 0, "objects is '-1'"),
        ("", 3, "start is 3, but the clip has 3 frames: 0 to 2"),
    ],
)
def test_wrong_objects_and_frames_are_refused(objects, start, message):
    with pytest.raises(ValueError, match=message):
        TrackToMask.execute(made(), objects, start, 0)
    if objects not in ("", "2"):
        assert message in TrackToMask.validate_inputs(objects)
    assert TrackToMask.validate_inputs(None) is True


def test_holes_equal_scipys_labels():
    logits = torch.from_numpy(ndimage.gaussian_filter(np.random.default_rng(0).standard_normal((64, 64)), 1)).float()
    filled = ours.fill_holes(logits[None, None], 8)[0, 0]
    labels, count = ndimage.label(logits.numpy() <= 0, np.ones((3, 3)))
    areas = np.bincount(labels.ravel())
    small = (labels > 0) & (areas[labels] <= 8)
    assert small.any() and (filled[small] == 0.1).all() and torch.equal(filled[~small], logits[~small])
    assert ours.fill_holes(logits[None, None], 0)[0, 0].equal(logits)
