"""Exposure Fusion against OpenCV's createMergeMertens."""

import numpy as np
import pytest
import torch

from kit.golden import GOLDEN
from kit.memory import Live
from kit.nodes import run_node
from kit.pictures import photograph
from kit.tensors import rand
from pentimento.model_patchers.colour import exposure_fusion
from pentimento.model_patchers.colour.exposure_brackets import brackets
from pentimento.model_patchers.pixels.images import luma
from pentimento.nodes.colour.exposure_fusion import ExposureFusion

pytestmark = pytest.mark.usefixtures("one_thread")
REFERENCE = np.load(GOLDEN / "exposure_fusion.npz")
CASES = [name for name in REFERENCE if not name.startswith("stack")]
CLOSE = 5e-5  # mean error


def stack(name):
    """The floats that OpenCV makes of the bytes, (N, H, W, C)."""
    exposures = torch.from_numpy(REFERENCE[f"stack_{name}"]).float() * np.float32(1 / 255)
    return exposures if exposures.ndim == 4 else exposures[..., None]


def fused(images, weights="111", range="keep"):
    contrast, saturation, exposure = map(float, weights)
    (result,) = run_node(
        ExposureFusion, images=images, contrast=contrast, saturation=saturation, exposure=exposure, range=range
    )
    return result


def error(name, weights, images=None):
    """The mean error from OpenCV; infinite where a value is not finite."""
    ours = fused(stack(name) if images is None else images, weights)[0].numpy()
    theirs = REFERENCE[f"{name}_{weights}"]
    return float(np.abs(ours - theirs.reshape(ours.shape)).mean()) if np.isfinite(ours).all() else np.inf


@pytest.mark.parametrize("case", CASES)
def test_equals_opencv(case):
    assert error(*case.split("_")) < 1e-5


@pytest.mark.parametrize("strip", [1, 64, 2**20])
def test_strips_leave_no_trace(strip, monkeypatch):
    monkeypatch.setattr(exposure_fusion, "STRIP", strip)
    assert error("three", "111") < 1e-5


def normalised_late(monkeypatch):
    """The weights are divided by their sum at each level of the pyramids, not before."""
    exposures, weights = stack("three").movedim(-1, 1), exposure_fusion.Weights()
    layers = [
        torch.cat((exposure, torch.cat([weight for _, weight in exposure_fusion._weights(exposure, weights)])[None]))
        for exposure in exposures
    ]
    levels, sums = exposure_fusion._zeros(exposures[0]), exposure_fusion._zeros(exposures[0, :1])
    for each in layers:
        exposure_fusion._add(levels, each)
        weight = each[-1:]
        for level in sums:
            level += weight
            weight = exposure_fusion._halved(weight)
    for level, total in zip(levels, sums, strict=True):
        level /= total
    result = torch.empty_like(exposures[0])
    exposure_fusion._collapse(levels, result)
    return float(np.abs(result.movedim(0, -1).numpy() - REFERENCE["three_111"]).mean())


def patched(name, value, stack="three"):
    def far(monkeypatch):
        monkeypatch.setattr(exposure_fusion, name, value)
        return error(stack, "111")

    return far


WRONG = {
    "the luma of BGR": patched("luma", lambda rgb: luma(rgb.flip(-1))),
    "replicated borders": patched("_mirrored", lambda place, size: min(max(place, 0), size - 1)),
    "no least weight": patched("LEAST", 0),
    "weights normalised after their pyramid": normalised_late,
    "levels divided by 256": lambda _: error("three", "111", stack("three") * 255 / 256),
    "a spread that is a variance": patched("SPREAD", 0.2**0.5),
    "the weights of another default": lambda _: float(
        np.abs(fused(stack("three"), "111")[0].numpy() - REFERENCE["three_110"]).mean()
    ),
}


@pytest.mark.parametrize("variant", WRONG)
def test_mistakes_of_others_are_far_from_opencv(variant, monkeypatch):
    assert WRONG[variant](monkeypatch) > 10 * CLOSE


def test_pictures_as_comfyui_loads_them_are_as_close():
    """Divided by 255, not multiplied by 1 / 255: only rounding noise differs, which outweighs 1e-12 in grey pixels."""
    loaded = torch.from_numpy(REFERENCE["stack_three"]).float() / 255
    assert all(error("three", weights, loaded) < CLOSE for weights in ("110", "111", "001"))


@pytest.mark.parametrize("height, width", [(64, 64), (61, 47), (1, 1), (1, 5), (9, 2)])
@pytest.mark.parametrize("count", [2, 9, 64])
def test_equal_pictures_give_the_picture(count, height, width):
    image = photograph(height, width)
    result = fused(image.expand(count, -1, -1, -1))
    assert result.shape == image.shape
    assert (result - image).abs().max() < 1e-6


def test_the_order_of_the_exposures_does_not_matter():
    assert (fused(stack("nine").flip(0)) - fused(stack("nine"))).abs().max() < 1e-5


def test_fusion_opens_shadows_and_keeps_highlights():
    """Of a wedge from black to white times a fine texture, the texture shows in the dark and in the bright part."""
    wedge = torch.linspace(0.02, 1, 240).square() * (0.9 + 0.1 * rand(120, 240))
    image = wedge[None, ..., None].expand(-1, -1, -1, 3)
    plain = fused(brackets(image, 3, 2.0), range="clamp")
    dark, bright = slice(0, 40), slice(200, 240)
    assert plain[..., dark, :].mean() > 1.5 * image[..., dark, :].mean()
    assert plain[..., dark, :].std(1).mean() > 1.5 * image[..., dark, :].std(1).mean()
    assert plain[..., bright, :].std(1).mean() > 0.5 * image[..., bright, :].std(1).mean()
    assert (plain == 1).float().mean() < 0.01


def test_ranges():
    images = stack("three")
    kept = fused(images, range="keep")
    assert kept.min() < -0.01
    assert torch.equal(fused(images, range="clamp"), kept.clamp(0, 1))
    shifted = fused(images, range="shift")
    assert shifted.min() == 0
    assert torch.equal(shifted, kept - kept.min())


def test_values_above_1_are_not_cut_off_by_keep():
    bright = 4 * photograph(20, 30)
    assert (fused(bright.expand(3, -1, -1, -1)) - bright).abs().max() < 1e-5


@pytest.mark.parametrize("range", exposure_fusion.RANGES)
def test_alpha_is_the_mean_and_takes_no_part(range):
    images = torch.cat((stack("three"), rand(3, 40, 57, 1)), -1)
    result = fused(images, range=range)
    assert torch.equal(result[..., :3], fused(images[..., :3], range=range))
    assert torch.allclose(result[0, ..., 3], images[..., 3].mean(0), atol=1e-6)
    images[..., 3] = images[0, ..., 3]
    assert torch.equal(fused(images, range=range)[0, ..., 3], images[0, ..., 3])


def test_black_and_white_pictures_in_colour_are_fused_without_saturation():
    """It is 0 everywhere, so the result would be a plain mean."""
    grey = stack("five")[..., 1:2].expand(-1, -1, -1, 3)
    without = fused(grey, "101")
    assert torch.equal(fused(grey, "111"), without)
    assert (without - grey.mean(0)).abs().mean() > 0.02
    tinted = grey.clone()
    tinted[-1, 0, 0, 0] += 0.5
    assert not torch.equal(fused(tinted, "111"), fused(tinted, "101"))


def test_memory_does_not_grow_with_the_number_of_exposures(monkeypatch):
    monkeypatch.setattr(exposure_fusion, "STRIP", 2**9)
    image = photograph(128, 96)

    def peak(count):
        with Live() as memory:
            exposure_fusion.fuse(image.expand(count, -1, -1, -1), exposure_fusion.Weights())
        return sum(memory.peak.values()) / (image.numel() * image.element_size())

    less = peak(2)
    assert less < 5  # pictures; a strip is a small part of a larger one
    assert peak(4) == pytest.approx(less, abs=0.01)


def test_progress_moves_twice_for_each_exposure(bars):
    fused(stack("five"))
    assert bars[0].values == list(np.arange(1, 11))


@pytest.mark.parametrize("count, words", [(1, "a single picture"), (65, "65 pictures")])
def test_another_number_of_exposures_is_refused(count, words):
    with pytest.raises(ValueError, match=f"^images is {words}, but Exposure Fusion takes 2 to 64 exposures"):
        fused(rand(count, 4, 4, 3))


def test_nan_is_refused_by_name():
    images = rand(3, 8, 9, 3)
    images[1, 2, 3] = torch.nan
    with pytest.raises(ValueError, match="images has NaN or infinity in 1 of its 216 pixels, first in picture 2"):
        fused(images)
