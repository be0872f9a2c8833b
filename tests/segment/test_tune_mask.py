"""Tune Mask against scikit-image and SciPy, at the borders above all."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage
from skimage import measure, morphology

from kit.nodes import run_node
from pentimento.model_patchers.pixels.masks import CLEAR, selected
from pentimento.nodes.segment.tune_mask import TuneMask

SIDES = st.integers(1, 16)
BINARY = hnp.arrays(np.float32, st.tuples(SIDES, SIDES), elements=st.sampled_from((0.0, 1.0)))
SOFT = hnp.arrays(np.float32, st.tuples(SIDES, SIDES), elements=st.floats(0, 1, width=32))
LIMITS = settings(max_examples=150)
EIGHT, FOUR = np.ones((3, 3)), ndimage.generate_binary_structure(2, 1)


def tune(mask, grow=0, fill_holes=0, remove_specks=0, feather=0, invert=False, threshold=0.0):
    tensor = torch.from_numpy(mask) if isinstance(mask, np.ndarray) else mask
    settings = {"grow": grow, "fill_holes": fill_holes, "remove_specks": remove_specks, "feather": feather}
    (result,) = run_node(TuneMask, mask=tensor, **settings, invert=invert, threshold=threshold)
    return result[0].numpy() if isinstance(mask, np.ndarray) else result


@LIMITS
@given(BINARY | SOFT, st.integers(0, 20))
def test_grow_is_dilation_by_a_disc(mask, radius):
    assert np.array_equal(tune(mask, grow=radius), morphology.dilation(mask, morphology.disk(radius), mode="ignore"))


@LIMITS
@given(BINARY | SOFT, st.integers(0, 20))
def test_shrink_is_erosion_by_a_disc_with_nothing_outside(mask, radius):
    assert np.array_equal(tune(mask, grow=-radius), morphology.erosion(mask, morphology.disk(radius), mode="ignore"))


@LIMITS
@given(BINARY, st.integers(1, 1024))
def test_grow_is_the_euclidean_distance(mask, radius):
    expected = ndimage.distance_transform_edt(mask == 0) <= radius if mask.any() else mask > 0
    assert np.array_equal(tune(mask, grow=radius), expected)


@LIMITS
@given(BINARY, st.integers(0, 20))
def test_shrinking_is_growing_the_outside(mask, radius):
    assert np.array_equal(tune(mask, grow=-radius), 1 - tune(1 - mask, grow=radius))


@LIMITS
@given(BINARY | SOFT, st.integers(0, 12))
def test_growing_then_shrinking_keeps_the_mask_covered(mask, radius):
    assert (tune(tune(mask, grow=radius), grow=-radius) >= mask).all()


def test_a_mask_at_the_border_stays_there():
    mask = torch.zeros(1, 40, 60)
    mask[:, 20:, :30] = 1
    expected = torch.zeros(1, 40, 60)
    expected[:, 25:, :25] = 1
    assert torch.equal(tune(mask, grow=-5), expected)


@pytest.mark.parametrize("radius", [32, 100])
def test_large_discs(radius):
    mask = torch.zeros(1, 300, 257)
    mask[0, [3, 180], [20, 200]] = 1
    expected = ndimage.distance_transform_edt(mask[0].numpy() == 0) <= radius
    assert np.array_equal(tune(mask, grow=radius)[0], expected)
    assert 0.05 < expected.mean() < 1


@LIMITS
@given(BINARY, st.integers(1, 60))
def test_remove_specks_is_remove_small_objects(mask, area):
    expected = morphology.remove_small_objects(mask > 0, max_size=area, connectivity=2)
    assert np.array_equal(tune(mask, remove_specks=area), expected)


@LIMITS
@given(BINARY)
def test_every_enclosed_hole_is_filled(mask):
    assert np.array_equal(tune(mask, fill_holes=2**31 - 1), ndimage.binary_fill_holes(mask))


@LIMITS
@given(BINARY, st.integers(1, 40))
def test_fill_holes_is_remove_small_holes_away_from_the_border(mask, area):
    small = morphology.remove_small_holes(mask > 0, max_size=area, connectivity=1)
    enclosed = ndimage.binary_fill_holes(mask)
    assert np.array_equal(tune(mask, fill_holes=area), small & enclosed)


def test_areas_count_up_to_and_with_the_number():
    mask = torch.ones(1, 9, 9)
    mask[0, 4, 3:6] = 0
    assert torch.equal(tune(mask, fill_holes=2), mask)
    assert tune(mask, fill_holes=3).all()
    assert torch.equal(tune(1 - mask, remove_specks=2), 1 - mask)
    assert not tune(1 - mask, remove_specks=3).any()


def bump(height, width, y, x, radius, blur):
    """A soft-edged disc that falls to exactly 0."""
    rows, columns = np.mgrid[:height, :width]
    distance = np.hypot(rows - y, columns - x)
    return ((radius + blur - distance) / blur).clip(0, 1).astype(np.float32)


def test_a_soft_speck_goes_with_its_fringe_and_the_rest_keeps_its_bits():
    large, speck = bump(60, 90, 30, 30, 15, 8), bump(60, 90, 30, 75, 2, 6)
    both = np.maximum(large, speck)
    assert ((speck > 0) & (speck < 0.05)).any() and not ((speck > 0) & (large > 0)).any()
    assert np.array_equal(tune(both, remove_specks=250), large)
    assert np.array_equal(tune(1 - both, fill_holes=250), 1 - large)


def test_weak_specks_go_too():
    """Their values make no hole, but a mask without them is what the name promises."""
    large, specks = bump(60, 90, 30, 30, 15, 8), np.zeros((60, 90), np.float32)
    specks[5, 80], specks[50:52, 70:72], specks[20, 70:80] = 0.05, 0.03, 0.04
    cleaned = tune(np.maximum(large, specks), remove_specks=4)
    assert not cleaned[5, 80] and not cleaned[50:52, 70:72].any()
    assert np.array_equal(cleaned[20, 70:80], specks[20, 70:80]), "10 pixels"
    assert np.array_equal(cleaned[specks == 0], large[specks == 0])


@LIMITS
@given(hnp.arrays(np.float32, (12, 14), elements=st.sampled_from((0.0, 0.0, 0.03, 0.2, 1.0))), st.integers(1, 30))
def test_no_small_region_is_selected_after_remove_specks(mask, area):
    """So that Crop to Mask's advice holds. Areas are counted without the faint pixels."""
    labels, count = ndimage.label(selected(torch.from_numpy(tune(mask, remove_specks=area))).numpy(), structure=EIGHT)
    assert (ndimage.sum_labels(mask > CLEAR, labels, range(1, count + 1)) > area).all()


@pytest.mark.parametrize("threshold", [0.01, 0.5, 1.0])
def test_the_threshold_makes_the_mask_hard(threshold):
    mask = bump(60, 90, 30, 30, 15, 8)
    assert np.array_equal(tune(mask, threshold=threshold), np.float32(mask >= np.float32(threshold)))
    assert tune(mask, threshold=1.0).any(), "pure white stays"


def test_the_threshold_comes_first():
    mask = np.maximum(bump(60, 90, 30, 30, 15, 8), bump(60, 90, 30, 75, 2, 6) * np.float32(0.4))
    hard = tune(mask, threshold=0.5)
    changes = {"grow": 2, "fill_holes": 9, "remove_specks": 9, "feather": 3, "invert": True}
    assert np.array_equal(tune(mask, threshold=0.5, **changes), tune(hard, **changes))
    assert not hard[:, 60:].any()


def test_a_haze_joins_nothing():
    speck = bump(60, 90, 30, 75, 2, 6)
    hazy = np.maximum(np.maximum(bump(60, 90, 30, 30, 15, 8), speck), np.float32(0.02))
    cleaned = tune(hazy, remove_specks=250)
    assert cleaned[:, 60:].max() <= CLEAR
    assert np.array_equal(cleaned[speck == 0], hazy[speck == 0])


@settings(max_examples=60)
@given(SOFT, st.integers(1, 12))
def test_feather_is_a_gaussian_of_a_third(mask, pixels):
    weights = np.exp(-0.5 * (np.arange(-pixels, pixels + 1) / (pixels / 3)) ** 2)
    weights /= weights.sum()
    padded = np.pad(mask.astype(np.float64), pixels, mode="edge")
    rows = np.apply_along_axis(np.convolve, 1, padded, weights, "valid")
    expected = np.apply_along_axis(np.convolve, 0, rows, weights, "valid")
    assert np.abs(tune(mask, feather=pixels) - expected).max() < 1e-6


def test_feather_reaches_as_far_as_it_says():
    mask = torch.zeros(1, 30, 60)
    mask[:, :, :30] = 1
    soft = tune(mask, feather=9)
    assert torch.equal(soft[..., :21], mask[..., :21]), "flat parts stay exactly 1"
    assert torch.equal(soft[..., 39:], mask[..., 39:])
    edge = soft[0, 15, 21:39]
    assert (edge > 0).all() and (edge < 1).all() and (edge.diff() < 0).all()
    assert torch.allclose(soft[0, 15, 29] + soft[0, 15, 30], torch.tensor(1.0))


@LIMITS
@given(BINARY | SOFT, st.integers(-5, 5), st.integers(0, 9), st.integers(0, 9), st.integers(0, 5), st.booleans())
def test_the_order_is_holes_specks_grow_feather_invert(mask, grow, holes, specks, feather, invert):
    step = tune(tune(mask, fill_holes=holes), remove_specks=specks)
    step = tune(tune(tune(step, grow=grow), feather=feather), invert=invert)
    result = tune(mask, grow, holes, specks, feather, invert)
    assert np.array_equal(result, step)
    assert result.min() >= 0 and result.max() <= 1


@LIMITS
@given(BINARY | SOFT)
def test_neutral_settings_keep_every_bit_and_invert_swaps(mask):
    assert np.array_equal(tune(mask), mask)
    assert np.array_equal(tune(mask, invert=True), 1 - mask)


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (300, 4000)])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_empty_and_full_masks_stay(size, value):
    mask = torch.full((2, *size), value)
    for case in ({"grow": 9}, {"grow": -9}, {"fill_holes": 10**6}, {"feather": 9}):
        assert torch.equal(tune(mask, **case), mask)


def test_a_batch_is_each_mask_alone(rng):
    masks = (torch.rand(3, 40, 50, generator=rng) > 0.55).float()
    case = {"grow": 2, "fill_holes": 4, "remove_specks": 6, "feather": 3, "invert": True}
    batch = tune(masks, **case)
    for one, mask in zip(batch, masks, strict=True):
        assert torch.equal(tune(mask[None], **case)[0], one)
        assert torch.equal(tune(mask, **case)[0], one), "a mask without a batch dimension"
    assert len({one.sum().item() for one in batch}) == 3


def test_the_labels_agree_with_scikit_image():
    """Regions are 8-connected, gaps 4-connected: a diagonal line is one region and closes what it surrounds."""
    ring = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], dtype=np.float32)
    mask = np.pad(ring, 1)
    assert measure.label(mask, connectivity=2).max() == 1
    assert np.array_equal(tune(mask, remove_specks=3), mask)
    assert tune(mask, fill_holes=1)[2, 2] == 1
