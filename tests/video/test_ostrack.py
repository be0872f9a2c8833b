"""Track Box against golden tensors of the original tracker."""

import math

import comfy.utils
import numpy as np
import pytest
import torch
from comfy import model_management

from kit import ostrack as thin
from kit.assertions import relative_error
from kit.nodes import run_node
from pentimento.model_patchers.arch import ostrack as arch
from pentimento.model_patchers.pixels.boxes import Box
from pentimento.model_patchers.video import ostrack, sttn
from pentimento.model_patchers.video.frames import ImageFrames
from pentimento.nodes.video.ostrack import TrackBox

pytestmark = pytest.mark.usefixtures("one_thread")
START = Box(*thin.start().values())


@pytest.fixture(scope="module")
def golden():
    return thin.golden()


@pytest.fixture(scope="module")
def models(precision, one_thread):
    return {size: thin.load(size) for size in thin.SIZES}


@pytest.fixture(scope="module")
def clip():
    return thin.clip()


def track(model, images, bboxes="start", **settings):
    bboxes = thin.start() if bboxes == "start" else bboxes
    return run_node(TrackBox, ostrack=model, images=images, bboxes=bboxes, **settings)


def followed(model, clip, frame=0, box=START, direction="forward"):
    steps = model.follow(ImageFrames(clip), box, frame, direction)
    return np.array([step.place for step in steps if step]), [step.score for step in steps if step]


class TestParity:
    @pytest.mark.both_devices
    @pytest.mark.in_half
    @pytest.mark.parametrize("size", thin.SIZES)
    def test_the_network_equals_the_original(self, models, clip, golden, size):
        """In float32 where a device is good at half precision, too."""
        model, frames = models[size], ImageFrames(clip)
        model.load()
        place = ostrack.Place(*map(float, START))
        network = model.network
        template, _ = model._input(ostrack._levels(frames, 0), place, 2.0, network.template_size)
        crop, _ = model._input(ostrack._levels(frames, 1), place, model.factor, network.search_size)
        for name, ours in zip(("score_map", "size_map", "offset_map"), network(template, crop), strict=True):
            assert relative_error(ours, golden[f"{size} {name}"]) <= 1e-5, name

    @pytest.mark.both_devices
    @pytest.mark.parametrize("size", thin.SIZES)
    def test_ten_frames_equal_the_originals(self, models, clip, golden, size):
        boxes, scores = followed(models[size], clip)
        assert np.abs(boxes - golden[f"{size} boxes"]).max() <= 1e-3
        assert np.abs(np.array(scores[1:]) - golden[f"{size} scores"]).max() <= 1e-4

    @pytest.mark.parametrize("size", thin.SIZES)
    def test_crops_equal_opencvs(self, models, golden, size):
        frames, boxes, network = thin.make_ostrack.clip(), golden[f"{size} boxes"], models[size].network
        template, _ = ostrack.sample(frames[0], ostrack.Place(*boxes[0]), 2.0, network.template_size)
        assert np.array_equal(template[::4, ::4], golden[f"{size} template"])
        for crop, number in zip(golden[f"{size} search"], range(1, len(frames), 4), strict=True):
            ours, _ = ostrack.sample(
                frames[number], ostrack.Place(*boxes[number - 1]), models[size].factor, network.search_size
            )
            assert np.array_equal(ours[::4, ::4], crop)


def without_last_pad(levels, place, factor, size):
    """The crop as it seems meant, with all of the picture's columns and rows."""
    side = math.ceil(math.sqrt(place.width * place.height) * factor)
    y, x = (round(a + 0.5 * b - 0.5 * side) for a, b in ((place.y, place.height), (place.x, place.width)))
    padded = np.pad(levels, ((side, side), (side, side), (0, 0)))
    return ostrack.resize_levels(padded[y + side : y + 2 * side, x + side : x + 2 * side], size), size / side


def attended_by_all(self, x, token=None, run=arch.Attention.forward):
    """The attention of all of the template's tokens, not that of its middle."""
    y, attention = run(self, x, token)
    return y, attention if token is None else torch.stack([run(self, x, i)[1] for i in range(64)]).mean(0)


def floats(levels, size):
    """A crop resized in floats, which is a level off here and there."""
    x = torch.from_numpy(levels).movedim(-1, 0)[None].float()
    x = torch.nn.functional.interpolate(x, (size, size), mode="bilinear")
    return x[0].round().byte().movedim(0, -1).numpy()


WRONG = {
    "no pad of one pixel too much": (ostrack, "sample", without_last_pad),
    "no Hann window": (ostrack, "hann", lambda n: torch.ones(n, n)),
    "elimination by the whole template": (arch.Attention, "forward", attended_by_all),
    "elimination a block later": (arch, "ELIMINATING", {4: 0.7, 7: 0.7, 10: 0.7}),
    "no elimination": (arch, "ELIMINATING", {}),
    "a crop in floats": (ostrack, "resize_levels", floats),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_variants_are_far(models, clip, golden, monkeypatch, name):
    monkeypatch.setattr(*WRONG[name])
    assert np.abs(followed(models["256"], clip)[0] - golden["256 boxes"]).max() > 3e-3


def test_elimination_keeps_404_283_and_199_of_576_tokens(models, clip, monkeypatch):
    counts, choose = [], arch.most_attended
    monkeypatch.setattr(arch, "most_attended", lambda *a: counts.append(len(choose(*a))) or choose(*a))
    followed(models["384"], clip[:2])
    assert counts == [404, 283, 199]


class TestDirections:
    def test_backward_is_forward_on_the_reversed_clip(self, models, clip):
        forward, _ = followed(models["256"], clip.flip(0))
        backward, _ = followed(models["256"], clip, frame=9, direction="backward")
        assert np.array_equal(backward[::-1], forward)

    def test_both_are_forward_and_backward_from_the_same_box(self, models, clip):
        both, scores = track(models["256"], clip, frame=4)
        forward, _ = track(models["256"], clip, frame=4, direction="forward")
        backward, _ = track(models["256"], clip, frame=-6, direction="backward")
        assert both[4] == [thin.start()] and scores[4] == 1
        assert both == backward[:4] + forward[4:]
        assert forward[:4] == [[]] * 4 and backward[5:] == [[]] * 5

    def test_boxes_are_whole_pixels_cut_off_as_in_the_seed(self, models, clip, golden):
        boxes, scores = track(models["256"], clip)
        assert [list(box.values()) for (box,) in boxes] == golden["256 boxes"].astype(int).tolist()
        assert len(scores) == 10 and all(0 < score <= 1 for score in scores)

    def test_same_result_every_time(self, models, clip):
        assert track(models["256"], clip[:3]) == track(models["256"], clip[:3])

    def test_frames_in_other_directions_have_the_score_0(self, models, clip):
        assert track(models["256"], clip[:3], frame=2, direction="forward")[1] == [0, 0, 1]

    def test_one_frame(self, models, clip):
        assert track(models["256"], clip[:1]) == ([[thin.start()]], [1.0])

    def test_grey_and_transparent_frames(self, models, clip):
        clip = clip[:3]
        alpha = torch.cat((clip, clip[..., :1]), -1)
        assert track(models["256"], alpha) == track(models["256"], clip)
        grey = clip[..., :1]
        assert track(models["256"], grey) == track(models["256"], grey.expand(-1, -1, -1, 3))

    def test_the_box_of_its_own_frame_counts(self, models, clip):
        boxes = [[], [thin.start()], []]
        assert track(models["256"], clip[:3], boxes, frame=1) == track(models["256"], clip[:3], frame=1)


BOX = thin.start()


class TestErrors:
    @pytest.mark.parametrize(
        ("bboxes", "message"),
        [
            ([], "bboxes has no box for frame 0, and Track Box follows exactly one. Draw one box"),
            ([[], [BOX], []], "bboxes has no box for frame 0"),
            ([BOX, BOX], "bboxes has 2 boxes for frame 0"),
            ({**BOX, "x": 160}, "bboxes has the box .* which lies outside the 160 x 120 picture"),
            ({**BOX, "width": 0}, "bboxes has the box .* which is empty"),
            ([[BOX], [BOX]], "bboxes has boxes for 2 pictures but images is a batch of 3"),
        ],
    )
    def test_boxes(self, models, clip, bboxes, message):
        with pytest.raises(ValueError, match=message):
            track(models["256"], clip[:3], bboxes)

    @pytest.mark.parametrize("frame", [3, -4, 500])
    def test_a_frame_outside_the_clip(self, models, clip, frame):
        with pytest.raises(ValueError, match=f"frame is {frame}, but the clip has 3 frames, numbered 0 to 2. Choose"):
            track(models["256"], clip[:3], frame=frame)

    def test_interrupt(self, models, clip, monkeypatch):
        steps = []

        def update(bar, count):
            steps.append(count)
            model_management.interrupt_current_processing(len(steps) == 2)

        monkeypatch.setattr(comfy.utils.ProgressBar, "update", update)
        with pytest.raises(model_management.InterruptProcessingException):
            track(models["256"], clip)
        assert len(steps) == 2

    def test_the_bar_reaches_its_end(self, models, clip, bars):
        track(models["256"], clip[:4], frame=2)
        assert bars[0].values[-1] == bars[0].total == 3


class Settings:
    """An object of the training that the authors' files hold."""


class TestFiles:
    def test_the_authors_pickle(self, tmp_path):
        path = tmp_path / "OSTrack_ep0300.pth"
        weights = {name.removeprefix("net."): value for name, value in thin.weights("384").items()}
        torch.save({"epoch": 300, "net": weights, "settings": Settings(), "constructor": Settings}, path)
        loaded = ostrack.load(path)
        assert (loaded.factor, loaded.network.search_size, loaded.network.template_size) == (5.0, 384, 192)
        assert torch.equal(loaded.network.state_dict()["backbone.norm.weight"], weights["backbone.norm.weight"])

    def test_another_network(self):
        with pytest.raises(ValueError, match=r"'x.pth' holds .* of no network that is known here. Load OSTrack needs"):
            ostrack.ostrack_weights({"a.weight": torch.zeros(2)}, "x.pth")

    def test_other_loaders_name_it(self):
        with pytest.raises(ValueError, match="'x.pth' holds OSTrack, for Load OSTrack. Load STTN needs STTN as its"):
            sttn.sttn_weights(thin.weights(), "x.pth")

    def test_another_head_is_named(self):
        weights = thin.weights() | {"net.box_head.conv1_tl.0.weight": torch.zeros(2, 2, 3, 3)}
        with pytest.raises(ValueError, match="'x.pth' holds an OSTrack with a corner head, which is another network"):
            ostrack.ostrack_weights(weights, "x.pth")

    def test_another_size_is_named(self):
        weights = thin.weights() | {"net.backbone.pos_embed_x": torch.zeros(1, 400, 128)}
        with pytest.raises(ValueError, match="'x.pth' holds an OSTrack that searches 320 pixels, and how far it looks"):
            ostrack.OSTrack(ostrack.ostrack_weights(weights, "x.pth"), "x.pth")

    def test_an_incomplete_file(self):
        weights = thin.weights()
        del weights["net.box_head.conv5_size.bias"]
        with pytest.raises(ValueError, match="'x.pth' is an incomplete OSTrack: it lacks 1 tensors such as"):
            ostrack.OSTrack(ostrack.ostrack_weights(weights, "x.pth"), "x.pth")
