"""Fill from Other Frames against clips whose background is known."""

import numpy as np
import pytest
import torch
from comfy import model_management

from kit import clips
from kit.nodes import run_node
from pentimento.model_patchers.fill.fill_without_model import fill as fill_pictures
from pentimento.model_patchers.pixels import warp
from pentimento.model_patchers.video import fill_from_frames, motion
from pentimento.model_patchers.video.frames import ImageFrames, MaskBatch
from pentimento.nodes.video.fill_from_frames import FillFromFrames

pytestmark = pytest.mark.usefixtures("one_thread")
SIZE = {"frames": 9, "height": 108, "width": 144, "side": 26}


def fill(images, mask, motion="auto", reach=60, grow=4):
    return run_node(FillFromFrames, images=images, mask=mask, motion=motion, reach=reach, grow=grow)


def filled_psnr(clip, measured):
    """PSNR of the pixels that are filled by a motion that is known already."""
    frames = ImageFrames(clip.frames)
    parts = fill_from_frames.fill(frames, MaskBatch(clip.mask, frames), measured)
    images, left = map(torch.cat, zip(*parts, strict=True))
    return clips.psnr(images, clip.background, (clip.mask > 0) & ~left)


def measure(clip):
    frames = ImageFrames(clip.frames)
    return motion.estimate(frames, MaskBatch(clip.mask, frames))


@pytest.fixture(scope="module")
def pan():
    return clips.clip("coffee", "pan", **SIZE)


@pytest.fixture(scope="module")
def turn():
    return clips.clip("coffee", "turn", **SIZE)


@pytest.mark.parametrize("name", ["pan", "turn"])
def test_what_another_frame_shows_is_put_behind_the_thing(name, request):
    clip = request.getfixturevalue(name)
    images, left, key, _ = fill(clip.frames, clip.mask)
    hole, seen = clip.mask > 0, clip.seen(grow=4)
    assert torch.equal(images[~hole], clip.frames[~hole])
    assert (left[seen] > 0).float().mean() < 0.01
    assert torch.equal(images[left > 0], clip.frames[left > 0])
    filled = hole & (left == 0)
    ours = clips.psnr(images, clip.background, filled)
    assert ours > 40
    assert left[key].sum() == left.sum((1, 2)).max()
    assert flicker(images, clip, filled) < 1.1 * flicker(clip.background, clip, filled)
    for method in ("harmonic", "patchmatch"):  # the fills of one frame alone
        alone = fill_pictures(clip.frames[5:6], clip.mask[5:6], method, 0)
        assert clips.psnr(alone, clip.background[5:6], filled[5:6]) < ours - 15
    alone = fill_pictures(clip.frames, clip.mask, "harmonic", 0)
    assert flicker(alone, clip, filled) > 5 * flicker(images, clip, filled)


def flicker(pictures, clip, where):
    """Mean squared difference to the next frame along the true motion (Lai et al., ECCV 2018)."""
    errors = []
    height, width = clip.mask.shape[1:]
    for t in range(len(clip) - 1):
        y, x = where[t].nonzero(as_tuple=True)
        u, v = warp.move(clip.motion(t, t + 1), x.double(), y.double())
        inside = (u >= 0) & (v >= 0) & (u <= width - 1) & (v <= height - 1)
        ours = pictures[t, y[inside], x[inside]]
        errors.append((warp.cubic(pictures[t + 1], u[inside], v[inside]) - ours).square().flatten())
    return float(torch.cat(errors).mean())


def test_one_fetch_of_the_original_beats_a_chain_of_bilinear_warps_and_nearest_pixels(turn, monkeypatch):
    measured = measure(turn)
    ours = filled_psnr(turn, measured)
    assert filled_by_chain(turn) < ours - 3
    monkeypatch.setattr(warp, "cubic", lambda picture, x, y: picture[y.round().long(), x.round().long()])
    assert filled_psnr(turn, measured) < ours - 5


def filled_by_chain(clip):
    """PSNR of holes that are filled from the frame before, itself filled before, by bilinear interpolation."""
    images, known = clip.frames.clone(), clip.mask == 0
    for t in range(1, len(clip)):
        y, x = (~known[t]).nonzero(as_tuple=True)
        u, v = warp.move(clip.motion(t, t - 1), x.double(), y.double())
        planes = torch.cat((images[t - 1].movedim(-1, 0), known[t - 1][None].float()))
        values = warp.bilinear(planes, u, v)
        shown = values[3] > 0.999
        images[t, y[shown], x[shown]] = values[:3, shown].T
        known[t, y[shown], x[shown]] = True
    return clips.psnr(images, clip.background, (clip.mask > 0) & known)


def test_brightness_that_changes_is_followed(monkeypatch):
    clip = clips.clip("coffee", "pan", gain=0.15, **SIZE)
    measured = measure(clip)
    assert filled_psnr(clip, measured) > 36
    monkeypatch.setattr(fill_from_frames.Asker, "_exposed", lambda *_: None)
    assert filled_psnr(clip, measured) < 33


def test_a_second_moving_thing_leaves_no_ghost(monkeypatch):
    clip = clips.clip("coffee", "pan", frames=12, height=132, width=176, side=30, second=True)
    measured = measure(clip)
    assert filled_psnr(clip, measured) > 38
    monkeypatch.setattr(fill_from_frames, "VOTES", 1)
    assert filled_psnr(clip, measured) < 33


@pytest.mark.parametrize("kind", ["still", "auto"])
@pytest.mark.parametrize("levels", [255, 1023])
def test_a_camera_on_a_tripod_gives_the_other_frames_bits(kind, levels):
    clip = clips.clip("coffee", "still", **SIZE | {"frames": 6})
    frames, background = ((x * levels).round() / levels for x in (clip.frames, clip.background))
    images, left, _, _ = fill(frames, clip.mask, kind)
    shown = (clip.mask > 0) & (left == 0)
    assert torch.equal(images[shown], background[shown])
    assert (left[clip.seen(grow=4)] == 0).all()


def test_nothing_is_taken_across_a_cut():
    clip = clips.clip("coffee", "pan", cut=6, **SIZE)
    images, left, _, measured = fill(clip.frames, clip.mask)
    assert np.array_equal(measured.scenes, clip.scenes)
    filled = (clip.mask > 0) & (left == 0)
    assert clips.psnr(images, clip.background, filled) > 36
    assert (left[clip.seen(grow=4)] > 0).float().mean() < 0.01
    assert not fill(clip.frames, clip.mask, reach=1)[1].sum() < left.sum()


def test_parts_of_any_length_give_the_same_bits(pan, monkeypatch):
    whole = fill(pan.frames, pan.mask)
    monkeypatch.setattr(motion, "MOST", 5)
    parts = fill(pan.frames, pan.mask)
    assert all(torch.equal(a, b) for a, b in zip(whole[:2], parts[:2], strict=True))
    assert np.array_equal(whole[3].links, parts[3].links)


def test_only_the_frames_within_reach_are_held(pan, monkeypatch):
    monkeypatch.setattr(motion, "MOST", 1)
    held, frame = [], fill_from_frames._fill_frame
    monkeypatch.setattr(fill_from_frames, "_fill_frame", lambda *a: held.append(len(a[4])) or frame(*a))
    fill(pan.frames, pan.mask, reach=2)
    assert max(held) == 5


def test_an_edited_key_frame_is_carried_into_the_rest():
    clip = clips.clip("coffee", "turn", hovers=True, **SIZE)
    images, left, key, measured = fill(clip.frames, clip.mask)
    assert left[key].sum() > 50
    edited = torch.where(left[key, ..., None] > 0, clip.background[key], images[key])
    frames = ImageFrames(images)
    spread, rest = map(
        torch.cat, zip(*fill_from_frames.spread(frames, MaskBatch(left, frames), measured, edited, key), strict=True)
    )
    assert rest.sum() < 0.02 * left.sum()
    new = (left > 0) & ~rest
    assert clips.psnr(spread, clip.background, new) > 36
    assert torch.equal(spread[~new], images[~new])


def test_grey_and_alpha_pass_through_and_broken_pixels_in_the_hole_do_not_matter(pan):
    small = {"images": pan.frames[:6], "mask": pan.mask[:6]}
    colours = fill(**small)[0]
    alpha = torch.rand(*small["mask"].shape, 1)
    broken = torch.cat((small["images"], alpha), -1)
    broken[..., :3][small["mask"] > 0] = torch.nan
    images, left = fill(broken, small["mask"])[:2]
    known = left == 0
    assert torch.equal(images[known][:, :3], colours[known])
    assert torch.equal(images[..., 3:], alpha)
    grey = fill(small["images"][..., 1:2], small["mask"])[0]
    assert grey.shape[-1] == 1
    with pytest.raises(ValueError, match="images has NaN or infinity in .* outside the mask"):
        fill(torch.full_like(broken, torch.nan), small["mask"])


def test_clips_without_anything_to_take_come_back(pan):
    frames, mask = pan.frames[:3], pan.mask[:3]
    one = fill(frames[:1], mask[:1])
    assert torch.equal(one[0], frames[:1])
    assert torch.equal(one[1], mask[:1])
    full = fill(frames, torch.ones_like(mask))
    assert torch.equal(full[0], frames)
    assert full[1].all()
    empty = fill(frames, torch.zeros_like(mask))
    assert torch.equal(empty[0], frames)
    assert not empty[1].any()
    assert empty[2] == 0
    same = fill(frames[:1].expand(3, -1, -1, -1), mask[:1])  # the same hole in all frames
    assert torch.equal(same[1], mask[:1].expand(3, -1, -1))
    tiny = torch.rand(3, 5, 3, 3)
    assert fill(tiny, torch.ones(1, 5, 3))[0].shape == tiny.shape


def test_masks_of_another_number_are_refused(pan):
    with pytest.raises(ValueError, match=r"mask is a batch of 5 but the clip has 9 frames"):
        fill(pan.frames, pan.mask[:5])


def test_an_interrupt_stops_the_fill(pan):
    model_management.interrupt_current_processing()
    with pytest.raises(model_management.InterruptProcessingException):
        fill(pan.frames, pan.mask)
