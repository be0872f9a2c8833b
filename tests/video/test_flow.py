"""The flow of Fill from Other Frames: FGVC's propagation, and clips with parallax."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from comfy import model_management

from kit import clips
from kit.golden import GOLDEN
from kit.nodes import run_node
from pentimento.model_patchers.pixels import warp
from pentimento.model_patchers.video import flow
from pentimento.nodes.video.fill_from_frames import FillFromFrames

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def golden():
    return {key: torch.from_numpy(value) for key, value in np.load(GOLDEN / "flow.npz").items()}


def followed(golden):
    """Places as the golden tensors have them: found (2, N), x, y and frame (2, N, 3), errors (2, 2, N)."""
    flows = [
        tuple(way.float() / 256 for way in pair) for pair in zip(golden["forward"], golden["backward"], strict=True)
    ]
    found, places, errors = [], [], []
    for way in flow.propagate(golden["mask"], flows, strict=False):
        counts = golden["mask"].sum((1, 2)).tolist()
        empty = [flow.Places(*(torch.zeros(n).double(),) * 2, torch.full((n,), -1), torch.zeros(2, n)) for n in counts]
        way = [ours or none for ours, none in zip(way, empty, strict=True)]
        places.append(torch.cat([torch.stack((ours.x, ours.y, ours.source)) for ours in way], 1).T)
        found.append(places[-1][:, 2] >= 0)
        errors.append(torch.cat([ours.errors for ours in way], 1))
    return torch.stack(found), torch.stack(places), torch.stack(errors)


def test_hidden_pixels_are_followed_as_the_original_does(golden):
    found, places, errors = followed(golden)
    assert torch.equal(found, golden["found"])
    assert torch.equal(~found.any(0), golden["left"])
    assert 0 < golden["left"].sum() < 0.5 * golden["left"].numel()
    theirs = golden["places"]
    assert (places - theirs)[found].abs().max() < 1e-5
    weights = flow.weights(errors, found)
    assert (weights - golden["weights"]).abs().max() < 1e-5
    inner = golden["mask"].nonzero()[:, 1] < 36  # at the border OpenCV mixes the flow with 0
    steps = max(float(plane.diff(dim=d).abs().max()) for plane in golden["forward"] / 256 for d in (-2, -1))
    assert (weights - golden["rounded_weights"])[:, inner].abs().max() < 2 * steps / 64 / flow.SHARP  # places in 1/32


def test_colours_are_read_once_from_the_original_frames(golden):
    found, places, errors = followed(golden)
    pictures, mask = golden["video"].double() / 255, golden["mask"]
    weights, ours, whole = flow.weights(errors, found), 0, ~golden["left"]
    for k in range(2):
        x, y, source = places[k].T
        way = flow.Places(x, y, source.long(), errors[k])
        values, shown = flow.colours(pictures, ~mask, way, found[k])
        ours = ours + weights[k, :, None] * values
        whole = whole & (~found[k] | (shown & shows(~mask, way)))
    assert whole.sum() > 0.5 * len(whole)
    assert (ours - golden["colours"])[whole].abs().max() < 1e-5
    steps = max(float(pictures.diff(dim=d).abs().max()) for d in (1, 2))
    assert (ours - golden["rounded_colours"])[whole].abs().max() < 3 * steps / 64 + 1e-3
    repeated = repeated_warps(golden)
    assert (repeated - golden["colours"])[whole].abs().max() > 0.02


def shows(known, places):
    """Whether all four pixels round each place are known: elsewhere the original reads what was filled or black."""
    height, width = known.shape[1:]
    inside = (places.x >= 0) & (places.y >= 0) & (places.x <= width - 1) & (places.y <= height - 1)
    x, y = places.x.floor().long().clamp(0, width - 2), places.y.floor().long().clamp(0, height - 2)
    corners = [known[places.source, y + down, x + right] for down in (0, 1) for right in (0, 1)]
    return inside & torch.stack(corners).all(0)


def repeated_warps(golden):
    """The wrong variant: each frame takes its hidden pixels from the filled frame beside it."""
    fills = []
    for step in (-1, 1):
        pictures = golden["video"].double() / 255
        order = range(1, len(pictures)) if step < 0 else range(len(pictures) - 2, -1, -1)
        for t in order:
            there = golden["backward" if step < 0 else "forward"][min(t, t + step)].double() / 256
            y, x = golden["mask"][t].nonzero(as_tuple=True)
            planes = pictures[t + step].movedim(-1, 0)
            pictures[t, y, x] = warp.bilinear(planes, x + there[0, y, x], y + there[1, y, x]).T
        fills.append(pictures[golden["mask"]])
    return sum(golden["weights"][k, :, None] * fills[k] for k in range(2))


def test_the_flow_behind_a_thing_solves_laplaces_equation(golden):
    assert np.array_equal(flow.untrusted(golden["hole"].numpy()), golden["untrusted"].numpy())
    assert not golden["untrusted"].all()
    ours = flow.completed(golden["raw"].float() / 256, golden["untrusted"])
    assert (ours - golden["completed"]).abs().max() < 1e-5 * golden["completed"].abs().max()


def test_nothing_is_followed_across_a_cut(golden):
    flows = [
        tuple(way.float() / 256 for way in pair) for pair in zip(golden["forward"], golden["backward"], strict=True)
    ]
    flows[2] = None
    back, forth = flow.propagate(golden["mask"], flows)
    assert back[3] is forth[2] is None
    assert (back[2].source >= 0).any()
    assert (forth[3].source >= 0).any()
    assert all((places.source[places.source >= 0] >= 3).all() for places in back[4:])
    assert all((places.source[places.source >= 0] <= 2).all() for places in forth[:2])


def test_flows_that_do_not_return_are_not_followed():
    hole = torch.zeros(20, 30, dtype=torch.bool)
    hole[5:10, 5:15] = True
    there, back = torch.full((2, 20, 30), 6.0), torch.full((2, 20, 30), -6.0)
    back[:, :, :16] = -3.0
    places = flow.follow(hole, there, back, 1, hole & False, None)
    returns = hole.nonzero()[:, 1] + 6 >= 16
    assert torch.equal(places.source >= 0, returns)
    assert (flow.follow(hole, there, back, 1, hole & False, None, strict=False).source == 1).all()


def test_sizes_of_the_networks_pictures():
    assert flow.network_size(108, 144) == (128, 144)
    assert flow.network_size(1080, 1920) == (360, 640)
    assert flow.network_size(1920, 1080) == (640, 360)


def run(clip, network=None, **settings):
    settings = {"motion": "auto", "reach": 60, "grow": 4} | settings
    if network is not None:
        settings["optical_flow"] = clips.flow_model(network)
    return run_node(FillFromFrames, images=clip.frames, mask=clip.mask, **settings)[:2]


@pytest.fixture(scope="module")
def travel():
    return clips.parallax()


def test_flow_finds_what_is_behind_a_thing_where_near_and_far_move_differently(travel):
    network = clips.TrueFlow(travel)
    images, left = run(travel, network)
    hole = travel.mask > 0
    filled = hole & (left == 0)
    assert filled.sum() > 0.9 * hole.sum()
    assert torch.equal(images[~filled], travel.frames[~filled])
    ours = clips.psnr(images, travel.background, filled)
    alone, rest = run(travel)
    theirs = clips.psnr(alone, travel.background, hole & (rest == 0))
    assert ours > 36
    assert theirs < 25
    assert network.calls == [(2, 3, 152, 160)] * (len(travel) - 1)


def test_flow_changes_nothing_where_the_background_moves_as_one(monkeypatch):
    clip = clips.clip("coffee", "still", frames=6, height=108, width=144, side=26)
    monkeypatch.setattr(clips, "LAYERS", (0.0, 0.0))
    images, left = run(clip, clips.TrueFlow(clip))
    plain, rest = run(clip)
    assert torch.equal(images[rest == 0], plain[rest == 0])
    assert left.sum() <= rest.sum()


def test_flow_follows_brightness_that_changes(travel, monkeypatch):
    gains = torch.linspace(0.74, 1, len(travel))[:, None, None, None]
    clip = replace(travel, frames=travel.frames * gains, background=travel.background * gains)
    images, left = run(clip, clips.TrueFlow(clip))
    filled = (clip.mask > 0) & (left == 0)
    assert clips.psnr(images, clip.background, filled) > 36
    monkeypatch.setattr(flow.Brightness, "matched", lambda self, colours, *_: colours)
    images, _ = run(clip, clips.TrueFlow(clip))
    assert clips.psnr(images, clip.background, filled) < 33


def test_a_named_motion_is_kept_and_flow_fills_only_the_rest(travel):
    plain, rest = run(travel, motion="still")
    images, left = run(travel, clips.TrueFlow(travel), motion="still")
    assert torch.equal(images[rest == 0], plain[rest == 0])
    assert 0 < rest.sum() < (travel.mask > 0).sum()
    assert left.sum() < 0.1 * rest.sum()
    assert clips.psnr(images, travel.background, (rest > 0) & (left == 0)) > 36


def test_clips_without_anything_to_follow_come_back(travel):
    network = clips.TrueFlow(travel)
    one = clips.Clip(travel.frames[:1], travel.mask[:1], travel.background[:1], travel.places[:1], travel.scenes[:1])
    images, left = run(one, network)
    assert torch.equal(images, one.frames)
    assert torch.equal(left, one.mask)
    empty = clips.Clip(travel.frames, 0 * travel.mask, travel.background, travel.places, travel.scenes)
    assert torch.equal(run(empty, network)[0], travel.frames)
    full = clips.Clip(travel.frames[:3], 0 * travel.mask[:3] + 1, travel.background[:3], travel.places, travel.scenes)
    images, left = run(full, network)
    assert torch.equal(images, full.frames)
    assert left.all()
    assert not network.calls


def test_an_interrupt_stops_the_flow(travel):
    class Interrupts(clips.TrueFlow):
        def forward(self, first, second):
            model_management.interrupt_current_processing()
            return super().forward(first, second)

    network = Interrupts(travel)
    with pytest.raises(model_management.InterruptProcessingException):
        run(travel, network)
    assert len(network.calls) == 1
