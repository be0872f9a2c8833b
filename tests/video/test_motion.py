"""The motion of the background against the true motion, OpenCV's ECC and scikit-image's masked correlation."""

import numpy as np
import pytest
import torch
from skimage.registration import phase_cross_correlation

from kit import clips
from kit.golden import GOLDEN
from pentimento.model_patchers.pixels import phase
from pentimento.model_patchers.pixels.ecc import View, align
from pentimento.model_patchers.video import motion
from pentimento.model_patchers.video.frames import ImageFrames, MaskBatch

pytestmark = pytest.mark.usefixtures("one_thread")
SIZE = {"frames": 4, "height": 180, "width": 240}


def estimate(clip, kind="auto", mask=None):
    frames = ImageFrames(clip.frames)
    return motion.estimate(frames, MaskBatch(clip.mask if mask is None else mask, frames), kind)


def drift(clip, measured):
    """The largest distance between the corners of the true links and the measured ones, in pixels."""
    height, width = clip.mask.shape[1:]
    corners = np.array([[0, width - 1, 0, width - 1], [0, 0, height - 1, height - 1], [1, 1, 1, 1]])
    moved = [[m @ corners for m in (measured.between(t, t + 1), clip.motion(t, t + 1))] for t in range(len(clip) - 1)]
    return max(float(np.abs(a[:2] / a[2] - b[:2] / b[2]).max()) for a, b in moved)


@pytest.mark.parametrize(
    ("photograph", "kind", "parameters"),
    [("coffee", "still", 0), ("coffee", "pan", 2), ("astronaut", "zoom", 6), ("gravel", "perspective", 8)],
)
def test_the_motion_is_found_with_as_many_parameters_as_it_has(photograph, kind, parameters):
    clip = clips.clip(photograph, kind, **SIZE)
    measured = estimate(clip)
    assert measured.parameters.tolist() == [parameters] * 3
    assert drift(clip, measured) < 0.05


def test_a_hole_that_is_not_masked_pulls_the_motion():
    clip = clips.clip("coffee", "pan", frames=4, height=120, width=160, side=80)
    assert drift(clip, estimate(clip)) < 0.1
    assert drift(clip, estimate(clip, mask=torch.zeros_like(clip.mask))) > 0.2


def test_one_scale_alone_does_not_find_a_long_way():
    clip = clips.clip("coffee", "pan", frames=3, height=180, width=240)
    a, b = (View.of(x, torch.ones_like(x, dtype=torch.bool)) for x in clip.background[[0, 2]].mean(-1))
    alone = align(a, b, np.eye(3), 2)
    assert alone is None or np.abs(alone.matrix - clip.motion(0, 2)).max() > 5


def test_kinds_that_are_asked_for_are_used():
    clip = clips.clip("coffee", "turn", frames=3, height=120, width=160)
    for kind in ("still", "pan", "similarity", "affine", "perspective"):
        assert set(estimate(clip, kind).parameters) == {motion.MOTIONS[kind]}
    assert drift(clip, estimate(clip, "similarity")) < 0.1
    assert drift(clip, estimate(clip, "pan")) > 0.3


def test_a_flat_picture_does_not_drift():
    noise = torch.randint(0, 3, (4, 90, 120, 3), generator=torch.Generator().manual_seed(0)) / 255
    frames = ImageFrames(0.6 + noise)
    measured = motion.estimate(frames, MaskBatch(torch.zeros(1, 90, 120), frames))
    assert not measured.parameters.any()
    assert not measured.scenes.any()


@pytest.fixture(scope="module")
def opencv():
    return dict(np.load(GOLDEN / "ecc.npz"))


@pytest.mark.parametrize("parameters", [2, 6, 8])
def test_ecc_is_as_high_as_that_of_opencv_and_nearer_to_the_truth(opencv, parameters):
    """OpenCV weighs the derivatives by the mask, so its search ends up to 0.9 px beside the truth."""
    template, image = (torch.from_numpy(opencv[name]).float() / 255 for name in ("template", f"image{parameters}"))
    known = torch.from_numpy(opencv["known"])
    whole = torch.ones_like(known)
    height, width = template.shape
    corners = np.array([[0, width - 1, 0, width - 1], [0, 0, height - 1, height - 1], [1, 1, 1, 1]])

    def search(start, mask, parameters):
        return align(View.of(template, whole), View.of(image, mask), start, parameters, robust=False, steps=100)

    def off(matrix):
        ours, truth = matrix @ corners, opencv[f"true{parameters}"] @ corners
        return np.abs(ours[:2] / ours[2] - truth[:2] / truth[2]).max()

    fit, theirs = search(np.eye(3), known, parameters), opencv[f"matrix{parameters}"]
    assert fit.correlation > search(theirs, known, 0).correlation - 1e-6
    assert off(fit.matrix) < 0.1
    assert off(fit.matrix) < off(theirs) + 0.01
    assert off(search(np.eye(3), whole, parameters).matrix) > 0.25


@pytest.mark.parametrize("parameters", [2, 6, 8])
def test_ecc_ends_where_that_of_opencv_does(opencv, parameters):
    """In a scene without edges at the mask's border, where OpenCV's weights do not matter; the images have noise."""
    template, image = (
        torch.from_numpy(opencv[f"calm_{name}"]).float() / 255 for name in ("template", f"image{parameters}")
    )
    known, theirs = torch.from_numpy(opencv[f"calm_known{parameters}"]), opencv[f"calm_matrix{parameters}"]
    height, width = template.shape
    corners = np.array([[0, width - 1, 0, width - 1], [0, 0, height - 1, height - 1], [1, 1, 1, 1]])

    def distance(mask):
        views = View.of(template, torch.ones_like(template, dtype=torch.bool)), View.of(image, mask)
        fit = align(*views, opencv["calm_start"], parameters, robust=False, steps=100, enough=1e-5)
        ours, others = fit.matrix @ corners, theirs @ corners
        return np.abs(ours[:2] / ours[2] - others[:2] / others[2]).max()

    assert distance(known) < 1e-3
    assert distance(torch.ones_like(known)) > 4e-3


@pytest.mark.parametrize("seed", range(3))
def test_the_start_is_that_of_scikit_image(seed):
    rng = np.random.default_rng(seed)
    scene = rng.random((60, 80))
    x, y = rng.integers(-12, 13, 2)
    a, b = scene[14:47, 14:63], scene[14 - y : 47 - y, 14 - x : 63 - x]
    known = [rng.random(a.shape) > 0.2 for _ in range(2)]
    theirs, *_ = phase_cross_correlation(a, b, reference_mask=known[0], moving_mask=known[1], overlap_ratio=0.3)
    assert phase.shift(a, b, *known, 0.3) == (x, y) == (-theirs[1], -theirs[0])
