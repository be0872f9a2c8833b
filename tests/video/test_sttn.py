"""STTN against golden tensors of the original network and of Inpaint-Anything's loop around it."""

import comfy.utils
import numpy as np
import pytest
import torch
from comfy import model_management

from kit import sttn as thin
from kit.assertions import relative_error
from kit.nodes import run_node
from kit.pictures import box_mask
from pentimento.model_patchers.arch import sttn as arch
from pentimento.model_patchers.video import frames as clips
from pentimento.model_patchers.video import ostrack, sttn
from pentimento.nodes.video.sttn import STTNFill

pytestmark = pytest.mark.usefixtures("one_thread")
WHOLE, EACH = "whole picture", "each hole"


@pytest.fixture(scope="module")
def golden():
    return thin.golden()


@pytest.fixture(scope="module")
def model(precision, one_thread):
    return thin.load()


@pytest.fixture(scope="module")
def clip():
    return thin.clip()


def fill(model, images, mask, **settings):
    return run_node(STTNFill, sttn=model, images=images, mask=mask, **settings)[0]


def net(model, clip):
    """What the network makes of some frames: features, features without holes, pictures."""
    images, mask = clip
    model.load()
    parts = [sttn.small(images[t], mask[t] > 0) for t in thin.make_sttn.SHIFT]
    x = torch.stack([torch.from_numpy(part.levels).movedim(-1, 0).float() / 255 * 2 - 1 for part in parts])
    m = torch.stack([torch.from_numpy(part.hole)[None].float() for part in parts])
    features = model.network.encode((x * (1 - m)).to(model.device))
    mixed = model.network.mix(features)
    pictures = model.network.decode(mixed)
    return {"features": features[..., ::6, ::6], "mixed": mixed[..., ::6, ::6], "pictures": pictures[..., ::12, ::12]}


class TestNetwork:
    @pytest.mark.both_devices
    @pytest.mark.in_half
    def test_equals_the_original(self, model, clip, golden):
        """In float32 where a device is good at half precision, too."""
        for name, ours in net(model, clip).items():
            assert relative_error(ours, golden[name]) <= 1e-5, name

    def test_an_attention_mask_in_effect_is_far(self, model, clip, golden, monkeypatch):
        """The published code computes the mask and drops it; to put it in effect, as it seems meant, is a mistake."""
        images, mask = clip
        hole = torch.stack([torch.from_numpy(sttn.small(images[t], mask[t] > 0).hole) for t in thin.make_sttn.SHIFT])
        hole = hole[:, ::4, ::4].float()
        heads = []

        def masked(q, k, v):
            h, w = arch.PATCHES[len(heads) % len(arch.PATCHES)]
            heads.append((h, w))
            patches = torch.nn.functional.avg_pool2d(hole[:, None], (h, w)).flatten() > 0.5
            scores = (q @ k.t() / q.shape[1] ** 0.5).masked_fill(patches.to(q.device), -1e9)
            return scores.softmax(-1) @ v

        monkeypatch.setattr(arch, "attend", masked)
        assert relative_error(net(model, clip)["pictures"], golden["pictures"]) > 1e-3

    def test_corners_beside_corners_are_far(self, model, clip, golden, monkeypatch):
        def forward(self, x):
            return self.conv(torch.nn.functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False))

        monkeypatch.setattr(arch.Upsampled, "forward", forward)
        assert relative_error(net(model, clip)["pictures"], golden["pictures"]) > 1e-3

    def test_scores_in_pieces_are_those_at_once(self, rng, monkeypatch):
        q, k, v = (torch.randn(50, 12, generator=rng) for _ in range(3))
        whole = arch.attend(q, k, v)
        monkeypatch.setattr(arch, "PIECE", 350)
        assert relative_error(arch.attend(q, k, v), whole) <= 1e-6


class Spy:
    """`large`, and the unrounded frames that it was given."""

    def __init__(self):
        self.frames, self.large = [], sttn.large

    def __call__(self, levels, *size):
        self.frames.append(levels)
        return self.large(levels, *size)


@pytest.fixture(scope="module")
def filled(model, clip):
    """The clip filled as the seed does, and its frames before they were rounded."""
    with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
        spy = Spy()
        patch.setattr(sttn, "large", spy)
        return fill(model, *clip, area=WHOLE), np.stack(spy.frames)


def with_hole(clip):
    return clip[1].flatten(1).any(1)


class TestLoop:
    @pytest.mark.both_devices
    @pytest.mark.in_half
    def test_equals_the_seeds(self, filled, clip, golden):
        """A value on the edge between two levels may fall on either side, so one level is allowed at the end."""
        images, mask = clip
        expected = golden["unrounded"][with_hole(clip).numpy()]
        assert np.abs(filled[1][:, ::16, ::16] - expected).max() <= 1e-5 * 255
        levels = (filled[0] * 255).round()[mask > 0] - torch.from_numpy(golden["filled"]).float()
        assert levels.abs().max() <= 1 and levels.abs().mean() <= 0.01
        assert torch.equal(filled[0][mask == 0], images[mask == 0])

    def test_equal_weights_of_all_windows_are_far(self, model, clip, filled, golden, monkeypatch):
        """Each new result counts a half: of three results the first counts a quarter, and the last a half."""
        results, run = {}, sttn.STTN._fill_window

        def gathered(self, clip, near, references, ours):
            window = {}
            run(self, clip, near, references, window)
            for number, frame in window.items():
                results.setdefault(number, []).append(frame)
            ours |= window

        monkeypatch.setattr(sttn.STTN, "_fill_window", gathered)
        fill(model, *clip, area=WHOLE)
        assert {number for number, frames in results.items() if len(frames) == 3} == {5, 10, 15}
        for number in (5, 10, 15):
            first, second, third = (frame[::16, ::16] for frame in results[number])
            expected = golden["unrounded"][number]
            assert np.abs(first / 4 + second / 4 + third / 2 - expected).max() <= 1e-5 * 255
            assert np.abs((first + second + third) / 3 - expected).max() > 0.1

    def test_windows_and_references(self):
        plan = [([*near], references) for near, references in sttn.windows(23, 5, 10)]
        assert plan[0] == ([*range(6)], [10, 20]) and plan[2] == ([*range(5, 16)], [0, 20])
        assert plan[-1] == ([*range(15, 23)], [0, 10]) and len(plan) == 5
        assert [*sttn.windows(1, 5, 10)] == [(range(1), [])]

    def test_only_a_window_and_the_references_are_in_memory(self, model, clip, filled, monkeypatch):
        """Nothing changes if all frames stay in memory instead, and each frame is encoded once."""
        kept, encoded = [], []
        keep, encode = sttn._Clip.keep, type(model.network).encode

        def counted(self, numbers):
            keep(self, numbers)
            kept.append(len(self.known))

        monkeypatch.setattr(sttn._Clip, "keep", counted)
        monkeypatch.setattr(type(model.network), "encode", lambda *a: encoded.append(1) or encode(*a))
        assert torch.equal(fill(model, *clip, area=WHOLE), filled[0])
        assert max(kept) <= 11 + 3 and len(encoded) == len(clip[0])
        monkeypatch.setattr(sttn._Clip, "keep", lambda self, numbers: keep(self, numbers | self.known.keys()))
        assert torch.equal(fill(model, *clip, area=WHOLE), filled[0])

    def test_windows_without_a_hole_are_left_out_and_change_nothing(self, model, clip, filled, monkeypatch):
        images, mask = clip[0], clip[1].clone()
        mask[8:] = 0
        whole = fill(model, images, mask, area=WHOLE)
        encoded, encode = [], type(model.network).encode
        monkeypatch.setattr(type(model.network), "encode", lambda *a: encoded.append(1) or encode(*a))
        assert torch.equal(fill(model, images, mask, area=WHOLE), whole) and len(encoded) == 16 + 1  # 0 to 15, and 20
        monkeypatch.setattr(sttn, "survey", lambda masks: (masks[:].any(0), [True] * len(masks)))
        assert torch.equal(fill(model, images, mask, area=WHOLE), whole)

    def test_a_clip_that_is_read_in_windows_gives_the_same_bits(self, model, clip, filled):
        class Streamed(clips.ImageFrames):
            def __getitem__(self, window):
                assert len(range(*window.indices(len(self)))) <= sttn.WINDOW
                return super().__getitem__(window).clone()

        frames = Streamed(clip[0])
        numbers = []
        for part in model.fill(frames, clips.MaskBatch(clip[1], frames), WHOLE):
            hole, numbers = part.hole, [*numbers, part.number]
            assert torch.equal(part.colours[hole], filled[0][part.number][hole])
        assert numbers == with_hole(clip).nonzero().flatten().tolist()


class TestPart:
    def union(self, *boxes, size=(600, 800)):
        masks = torch.stack([box_mask(*size, box)[0] for box in boxes])
        return sttn.survey(masks)[0]

    def test_a_small_hole_has_the_networks_own_size(self):
        box = sttn.part(self.union((300, 200, 40, 30)), EACH)
        assert (box.width, box.height) == (432, 240) and box.x == 320 - 216 and box.y == 215 - 120

    def test_the_holes_of_all_frames_share_it(self):
        box = sttn.part(self.union((300, 200, 40, 30), (400, 200, 180, 30)), EACH)
        assert (box.width, box.height) == (560, 312) and box.x == 160

    def test_it_stays_in_the_picture(self):
        assert sttn.part(self.union((0, 590, 5, 5)), EACH) == (0, 360, 432, 240)
        assert sttn.part(self.union((0, 0, 800, 20)), EACH) == (0, 0, 800, 600)
        assert sttn.part(self.union((9, 9, 5, 5), size=(50, 60)), EACH) == (0, 0, 60, 50)

    def test_whole_picture(self):
        assert sttn.part(self.union((300, 200, 40, 30)), WHOLE) == (0, 0, 800, 600)

    def test_the_holes_of_a_clip_are_surveyed_in_windows(self, monkeypatch):
        monkeypatch.setattr(sttn, "WINDOW", 2)
        masks = torch.cat([box_mask(9, 9), box_mask(9, 9, (1, 1, 2, 2)), box_mask(9, 9, (5, 5, 2, 2))])
        union, present = sttn.survey(masks)
        assert torch.equal(union, masks.any(0)) and present == [False, True, True]


class TestNode:
    @pytest.fixture(scope="class")
    def short(self):
        """Three frames, larger than what the network sees of them."""
        images = torch.rand(3, 250, 470, 3, generator=torch.Generator().manual_seed(1))
        mask = torch.zeros(3, 250, 470)
        mask[:, 100:140, 30:90] = 1
        return images, mask

    def test_each_hole_is_filled_at_full_size(self, model, short):
        images, mask = short
        seen = slice(0, 240), slice(0, 432)
        result = fill(model, images, mask)
        expected = fill(model, images[:, seen[0], seen[1]], mask[:, seen[0], seen[1]], area=WHOLE)
        assert torch.equal(result[:, seen[0], seen[1]], expected)
        assert torch.equal(result[mask == 0], images[mask == 0]) and not torch.equal(result, images)

    def test_same_bits_every_time(self, model, short):
        assert torch.equal(fill(model, *short), fill(model, *short))

    def test_alpha_stays_and_grey_stays_grey(self, model, short):
        images, mask = short
        alpha = images[..., :1]
        rgba = fill(model, torch.cat((images, alpha), -1), mask)
        assert torch.equal(rgba[..., :3], fill(model, images, mask)) and torch.equal(rgba[..., 3:], alpha)
        grey = fill(model, alpha, mask)
        assert grey.shape == alpha.shape and torch.equal(grey[mask == 0], alpha[mask == 0])

    def test_one_frame(self, model, short):
        images, mask = short
        result = fill(model, images[:1], mask[:1])
        assert result.shape == images[:1].shape and not torch.equal(result, images[:1])

    def test_an_empty_mask_changes_nothing_and_loads_nothing(self, model, short, monkeypatch):
        monkeypatch.setattr(sttn.STTN, "load", None)
        assert torch.equal(fill(model, short[0], torch.zeros(1, 64, 64)), short[0])

    def test_a_full_mask(self, model, short):
        """There is nothing to fill from, so the picture itself must not matter."""
        images, full = short[0], torch.ones(1, 250, 470)
        assert torch.equal(fill(model, images, full), fill(model, 1 - images, full))

    def test_one_mask_serves_all_frames(self, model, short):
        images, mask = short
        assert torch.equal(fill(model, images, mask[:1]), fill(model, images, mask))

    def test_nan_inside_the_mask_does_not_matter(self, model, short):
        images, mask = short[0].clone(), short[1]
        images[0, 120, 60] = torch.nan
        assert fill(model, images, mask).isfinite().all()
        images[1, 5, 7] = torch.inf
        with pytest.raises(ValueError, match=r"images has NaN or infinity in 1 of .* outside the mask"):
            fill(model, images, mask)

    def test_wrong_numbers_of_masks(self, model, short):
        with pytest.raises(ValueError, match="mask is a batch of 2 but the clip has 3 frames"):
            fill(model, short[0], short[1][:2])

    def test_a_mask_of_another_picture(self, model, short):
        with pytest.raises(ValueError, match="mask is 30 x 90 .* proportions differ"):
            fill(model, short[0], torch.ones(1, 90, 30))

    def test_interrupt(self, model, short, monkeypatch):
        steps = []

        def update(bar, count):
            steps.append(count)
            model_management.interrupt_current_processing(len(steps) == 4)

        wanted = fill(model, *short)
        monkeypatch.setattr(comfy.utils.ProgressBar, "update", update)
        with pytest.raises(model_management.InterruptProcessingException):
            fill(model, *short)
        assert len(steps) == 4
        monkeypatch.undo()
        assert torch.equal(fill(model, *short), wanted)

    def test_the_bar_reaches_its_end(self, model, short, bars):
        fill(model, *short)
        assert bars[0].values[-1] == bars[0].total


class TestFiles:
    def test_the_authors_pickle(self, tmp_path, model, clip):
        path = tmp_path / "sttn.pth"
        weights = {name.removeprefix("netG."): value for name, value in thin.weights().items()}
        torch.save({"netG": weights}, path)
        loaded = sttn.load(path)
        assert torch.equal(loaded.network.state_dict()["encoder.0.weight"], weights["encoder.0.weight"])

    def test_another_network(self):
        with pytest.raises(ValueError, match=r"'x.pth' holds .* of no network that is known here. Load STTN needs"):
            sttn.sttn_weights({"a.weight": torch.zeros(2)}, "x.pth")

    def test_other_loaders_name_it(self):
        with pytest.raises(ValueError, match="'x.pth' holds STTN, for Load STTN. Load OSTrack needs OSTrack-256 or"):
            ostrack.ostrack_weights(thin.weights(), "x.pth")

    def test_its_successors_are_named(self):
        weights = thin.weights() | {"ss.embedding.weight": torch.zeros(2, 2)}
        with pytest.raises(ValueError, match="'x.pth' holds FuseFormer or one of its successors .E2FGVI, ProPainter"):
            sttn.sttn_weights(weights, "x.pth")

    def test_an_incomplete_file(self):
        weights = thin.weights()
        del weights["netG.decoder.6.bias"]
        with pytest.raises(ValueError, match="'x.pth' is an incomplete STTN: it lacks 1 tensors such as 'decoder.6.b"):
            sttn.STTN(sttn.sttn_weights(weights, "x.pth"), "x.pth")
