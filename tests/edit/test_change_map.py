"""Change Map against Pillow, scikit-image, OpenCV and NumPy."""

import numpy as np
import pytest
import torch
from comfy import model_management
from comfy_execution.validation import validate_node_input
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from scipy import ndimage
from skimage import exposure

from kit.golden import GOLDEN
from kit.nodes import run_node
from kit.pictures import photograph
from kit.tensors import rand
from pentimento.nodes.edit.change_map import ChangeMap

BLUR = np.load(GOLDEN / "blur.npz")
SIDES = st.integers(1, 20)
MASKS = hnp.arrays(np.float32, st.tuples(SIDES, SIDES), elements=st.floats(0, 1, width=32))
LIMITS = settings(max_examples=150)


def change(source, black=0.0, white=1.0, gamma=1.0, blur=0, invert=False):
    tensor = torch.from_numpy(source) if isinstance(source, np.ndarray) else source
    (result,) = run_node(ChangeMap, source=tensor, black=black, white=white, gamma=gamma, blur=blur, invert=invert)
    assert result.dtype == torch.float32 and result.ndim == 3
    return result[0].numpy() if isinstance(source, np.ndarray) else result


def grey(source):
    """A picture of three equal channels: (..., H, W) -> (1, H, W, 3)."""
    return torch.as_tensor(source).reshape(1, *source.shape[-2:], 1).expand(-1, -1, -1, 3)


@LIMITS
@given(MASKS)
def test_neutral_settings_keep_every_bit_of_masks_and_grey_pictures(mask):
    assert np.array_equal(change(mask), mask)
    assert np.array_equal(change(grey(mask))[0], mask)
    assert np.array_equal(change(grey(mask)[..., :1])[0], mask)


def test_a_gradient_gives_itself():
    ramp = torch.arange(256, dtype=torch.float32) / 255
    gradient = grey(ramp.expand(40, 256))
    assert torch.equal(change(gradient)[0], ramp.expand(40, 256))
    assert torch.equal(change(gradient, invert=True)[0], 1 - ramp.expand(40, 256))


def test_a_depth_picture_changes_what_is_near():
    """Near is white, as depth nodes draw it."""
    depth = torch.full((1, 20, 30, 3), 0.1)
    depth[:, 5:15, 10:20] = 0.9
    near = change(depth, black=0.2, white=0.8)[0]
    assert (near[5:15, 10:20] == 1).all() and near.sum() == 100
    assert torch.equal(change(depth, black=0.2, white=0.8, invert=True)[0], 1 - near)


def test_the_brightness_of_colours_is_pillow_s():
    """ITU-R BT.601, as Pillow's "L" that the paper's scripts read maps with, in bytes; BT.709 would be off."""
    image = photograph(90, 120, top=300, left=80)
    expected = np.asarray(Image.fromarray((image[0] * 255).round().byte().numpy()).convert("L")) / 255
    assert np.abs(change(image)[0].numpy() - expected).max() < 1 / 255
    hdtv = (image[0] * torch.tensor((0.2126, 0.7152, 0.0722))).sum(-1).numpy()
    assert np.abs(hdtv - expected).max() > 0.05


def test_transparency_does_not_count():
    image = torch.cat((photograph(90, 120, top=300, left=80), rand(1, 90, 120, 1, seed=0)), -1)
    assert torch.equal(change(image), change(image[..., :3]))


LEVELS = st.integers(0, 99).flatmap(lambda black: st.tuples(st.just(black / 100), st.integers(black + 1, 100)))


@LIMITS
@given(MASKS, LEVELS, st.floats(0.1, 10))
def test_levels_are_those_of_scikit_image(mask, black_and_white, gamma):
    black, white = black_and_white[0], black_and_white[1] / 100
    stretched = exposure.rescale_intensity(mask.astype(np.float64), (black, white), (0.0, 1.0))
    expected = exposure.adjust_gamma(stretched, 1 / gamma)
    assert np.abs(change(mask, black, white, gamma) - expected).max() < 1e-6


def test_gamma_above_1_changes_more():
    ramp = np.linspace(0, 1, 101, dtype=np.float32)[None]
    lifted, lowered = change(ramp, gamma=2.0), change(ramp, gamma=0.5)
    assert (lifted[0, 1:-1] > ramp[0, 1:-1]).all() and (lowered[0, 1:-1] < ramp[0, 1:-1]).all()
    assert lifted[0, 25] == pytest.approx(0.5)
    assert all(curve[0, 0] == 0 and curve[0, -1] == 1 for curve in (lifted, lowered))


@pytest.mark.parametrize("name", ["noise_5", "noise_60", "line_30", "corner_25"])
def test_blur_is_that_of_opencv(name):
    """Also where the kernel is several times the picture. A third as sigma, or other borders, would be off."""
    blur, expected = int(name.split("_")[1]), BLUR[name]
    mask = BLUR[f"mask_{name}"].astype(np.float32) / 255
    assert np.abs(change(mask, blur=blur) - expected).max() < 1e-6
    third = ndimage.gaussian_filter(mask, blur / 3, mode="mirror", radius=blur)
    assert np.abs(third - expected).max() > 1e-4
    black = ndimage.gaussian_filter(mask, 0.3 * (blur - 1) + 0.8, mode="constant", radius=blur)
    assert np.abs(black - expected).max() > 0.3


@LIMITS
@given(MASKS, st.integers(1, 50))
def test_blur_by_hand(mask, pixels):
    weights = np.exp(-0.5 * (np.arange(-pixels, pixels + 1) / (0.3 * (pixels - 1) + 0.8)) ** 2)
    weights /= weights.sum()
    padded = np.pad(mask.astype(np.float64), pixels, mode="reflect")
    rows = np.apply_along_axis(np.convolve, 1, padded, weights, "valid")
    expected = np.apply_along_axis(np.convolve, 0, rows, weights, "valid")
    assert np.abs(change(mask, blur=pixels) - expected).max() < 1e-6


def test_blur_leaves_flat_parts_exactly():
    mask = np.zeros((60, 90), dtype=np.float32)
    mask[:, 45:] = 1
    soft = change(mask, blur=20)
    assert (soft[:, :25] == 0).all() and (soft[:, 65:] == 1).all()
    assert (np.diff(soft[30, 24:66]) > 0).all()
    assert (change(np.full((7, 5), 0.3, dtype=np.float32), blur=9) == np.float32(0.3)).all()


@LIMITS
@given(MASKS, st.integers(0, 9), st.booleans())
def test_the_order_is_levels_blur_invert(mask, blur, invert):
    step = change(change(mask, 0.2, 0.7, 1.7), blur=blur)
    step = 1 - step if invert else step
    result = change(mask, 0.2, 0.7, 1.7, blur, invert)
    assert np.array_equal(result, step)
    assert result.min() >= 0 and result.max() <= 1


def test_a_batch_is_each_alone(rng):
    masks = torch.rand(3, 20, 30, generator=rng)
    images = torch.rand(2, 20, 30, 3, generator=rng)
    case = {"black": 0.1, "white": 0.8, "gamma": 1.5, "blur": 4, "invert": True}
    for sources in (masks, images):
        batch = change(sources, **case)
        assert batch.shape == sources.shape[:3]
        for one, source in zip(batch, sources, strict=True):
            assert torch.equal(change(source[None], **case)[0], one)
    assert torch.equal(change(masks[0], **case), change(masks[:1], **case)), "a mask without a batch dimension"


@pytest.mark.parametrize("levels", [(0.5, 0.5), (0.8, 0.2), (1.0, 1.0), (-0.1, 0.5), (0.5, 1.1)])
def test_levels_out_of_order_are_refused_before_anything_runs(levels):
    black, white = levels
    sentence = ChangeMap.validate_inputs(black=black, white=white)
    assert sentence.startswith(f"black is {black:g} and white is {white:g}, but black must be below white")
    with pytest.raises(ValueError, match="black must be below white and both between 0 and 1. To swap"):
        ChangeMap.execute(torch.zeros(1, 4, 4), black, white, 1.0, 0, False)


def test_levels_that_come_over_links_are_checked_when_they_are_there():
    assert ChangeMap.validate_inputs(black=0.8) is True
    assert ChangeMap.validate_inputs(white=0.2) is True
    assert ChangeMap.validate_inputs(black=0.2, white=0.8) is True
    assert "white is 0," in ChangeMap.validate_inputs(white=0.0), "nothing lies below"


def test_gamma_and_blur_out_of_range_are_refused_in_a_sentence():
    """ComfyUI refuses them on the node itself; over a link they arrive as they are."""
    with pytest.raises(ValueError, match="gamma is 0 but must be above 0"):
        change(torch.zeros(1, 4, 4), gamma=0.0)
    with pytest.raises(ValueError, match="blur is -3 px"):
        change(torch.zeros(1, 4, 4), blur=-3)


def test_the_socket_takes_pictures_and_masks():
    socket = ChangeMap.GET_SCHEMA().inputs[0].get_io_type()
    assert validate_node_input("IMAGE", socket) and validate_node_input("MASK", socket)
    assert not validate_node_input("LATENT", socket)


def test_it_shows_its_progress_and_can_be_interrupted(bars):
    for source in (torch.zeros(3, 8, 9), torch.zeros(2, 8, 9, 3), torch.zeros(8, 9)):
        change(source, blur=2)
    assert [(bar.values[-1], bar.total) for bar in bars] == [(3, 3), (2, 2), (1, 1)]
    model_management.interrupt_current_processing()
    with pytest.raises(model_management.InterruptProcessingException):
        change(torch.zeros(3, 8, 9))
