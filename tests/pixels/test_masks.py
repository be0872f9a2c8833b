"""Boxes, pairing and resizing of masks."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage
from skimage import morphology

from kit.tensors import rand
from pentimento.model_patchers.pixels.boxes import Box
from pentimento.model_patchers.pixels.masks import (
    grow,
    pair,
    resize_amounts,
    resize_selection,
    selected,
    warn_of_nearly_all,
)
from pentimento.model_patchers.pixels.regions import hole_boxes

EIGHT = np.ones((3, 3))
LEVELS = st.sampled_from((0, 0, 0, 1, 2, 3, 10, 16, 17, 255)).map(lambda level: level / 255)
SIDES = st.integers(1, 24)
NUMBERS = st.integers(0, 30)
BOXES = st.builds(Box, NUMBERS, NUMBERS, st.integers(1, 30), st.integers(1, 30))


@st.composite
def holes(draw):
    height, width = draw(SIDES), draw(SIDES)
    density = draw(st.sampled_from((0, 0.01, 0.03, 0.1, 0.5, 1)))
    pixels = np.random.default_rng(draw(st.integers(0, 2**32 - 1))).random((height, width)) < density
    return pixels, draw(st.integers(0, 6))


def tight_boxes(pixels):
    """The rectangle of each 8-connected component, as [left, top, right, bottom] with inclusive ends."""
    labels, _ = ndimage.label(pixels, structure=EIGHT)
    return [[c.start, r.start, c.stop - 1, r.stop - 1] for r, c in ndimage.find_objects(labels)]


def joined(boxes, context):
    """The same joining as hole_boxes, pair by pair: what lies at most `context` pixels apart becomes one."""
    boxes = list(boxes)
    for i, a in enumerate(boxes):
        for j, b in enumerate(boxes[:i]):
            apart = max(a[0] - b[2], b[0] - a[2], a[1] - b[3], b[1] - a[3]) - 1
            if apart <= context:
                rest = [box for k, box in enumerate(boxes) if k not in (i, j)]
                return joined([*rest, [min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])]], context)
    return boxes


@settings(max_examples=300)
@given(holes())
def test_each_box_is_a_joined_hole_with_its_context(case):
    """The boxes are those that joining pair by pair gives, with the whole context where the picture has it."""
    pixels, context = case
    height, width = pixels.shape
    expected = [
        (
            max(left - context, 0),
            max(top - context, 0),
            min(right + context, width - 1),
            min(bottom + context, height - 1),
        )
        for left, top, right, bottom in joined(tight_boxes(pixels), context)
    ]
    boxes = hole_boxes(torch.from_numpy(pixels), context)
    assert sorted((b.x, b.y, b.x + b.width - 1, b.y + b.height - 1) for b in boxes) == sorted(expected)
    assert boxes == sorted(boxes, key=lambda box: (box.y, box.x))


@settings(max_examples=300)
@given(holes())
def test_boxes_cover_all_and_cut_nothing(case):
    pixels, context = case
    count = np.zeros(pixels.shape, dtype=int)
    labels, regions = ndimage.label(pixels, structure=EIGHT)
    whole = []
    for box in hole_boxes(torch.from_numpy(pixels), context):
        count[box.slices] += 1
        inside, outside = set(np.unique(labels[box.slices])) - {0}, labels.copy()
        outside[box.slices] = 0
        assert inside and not inside & set(np.unique(outside)), "a hole is cut, or a box is empty"
        whole += inside
    assert sorted(whole) == list(range(1, regions + 1)), "each hole lies in exactly one box"
    assert (count[pixels] == 1).all()


def test_near_holes_share_a_box_and_far_ones_do_not():
    hole = torch.zeros(40, 100, dtype=torch.bool)
    hole[10, 10] = hole[10, 21] = hole[10, 60] = True
    assert hole_boxes(hole, 10) == [Box(0, 0, 32, 21), Box(50, 0, 21, 21)]
    assert hole_boxes(hole, 9) == [Box(1, 1, 19, 19), Box(12, 1, 19, 19), Box(51, 1, 19, 19)]


@pytest.mark.parametrize("value", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (7, 5), (300, 4000)])
def test_empty_and_full_holes(size, value):
    hole = torch.full(size, value)
    assert hole_boxes(hole, 128) == ([Box(0, 0, size[1], size[0])] if value else [])


@pytest.mark.parametrize("context", [0, 8, 128])
@pytest.mark.parametrize("specks", [300, 10_000])
def test_thousands_of_specks_at_four_megapixels(context, specks):
    hole = rand(2048, 2048, seed=0) < specks / 2048**2
    boxes = hole_boxes(hole, context)
    covered = torch.zeros_like(hole)
    for box in boxes:
        covered[box.slices] = True
    assert not (hole & ~covered).any()


@given(BOXES, st.integers(0, 20))
def test_expand_is_growing_by_a_square_inside_the_picture(box, margin):
    canvas = np.zeros((64, 70), dtype=bool)
    canvas[box.slices] = True
    grown = np.zeros_like(canvas)
    grown[box.expand(margin, (64, 70)).slices] = True
    assert np.array_equal(grown, ndimage.binary_dilation(canvas, np.ones((2 * margin + 1,) * 2)))


@settings(max_examples=200)
@given(
    hnp.arrays(np.float32, st.tuples(st.integers(1, 2), SIDES, SIDES), elements=st.floats(0, 1, width=32)), SIDES, SIDES
)
def test_resizing_keeps_every_stroke(mask, height, width):
    """Every pixel reaches the cells that it covers at least as strong, and nothing else appears."""
    resized = resize_selection(torch.from_numpy(mask), height, width).numpy()
    rows, columns = mask.shape[1:]
    assert resized.shape == (len(mask), height, width)
    for y in range(height):
        for x in range(width):
            top, bottom = y * rows // height, -(-(y + 1) * rows // height)
            left, right = x * columns // width, -(-(x + 1) * columns // width)
            assert (resized[:, y, x] == mask[:, top:bottom, left:right].max((1, 2))).all()


def canny(mask):
    """The two thresholds as scikit-image's morphological reconstruction: strong pixels grow inside the weak ones."""
    weak, strong = (np.float32(mask > level / 255) for level in (2.5, 16.5))
    return morphology.reconstruction(strong, weak, footprint=EIGHT) > 0


@settings(max_examples=80)
@given(hnp.arrays(np.float32, st.tuples(st.integers(1, 2), SIDES, SIDES), elements=LEVELS))
def test_selected_is_reconstruction_between_two_thresholds(mask):
    pixels = selected(torch.from_numpy(mask)).numpy()
    assert np.array_equal(pixels, np.stack([canny(one) for one in mask]))
    assert np.array_equal(pixels[0], selected(torch.from_numpy(mask[0])).numpy()), "a mask without a batch dimension"


def test_a_soft_edge_is_selected_down_to_three_grey_levels():
    mask = torch.zeros(1, 40, 60)
    mask[:, 5:35, 20:] = (torch.arange(40) / 255).clamp(max=1)
    assert torch.equal(selected(mask)[0, 20], torch.arange(60) >= 23)
    assert torch.equal(selected(mask.half()), selected(mask))


@pytest.mark.parametrize(
    ("value", "is_selected"),
    [(6e-8, False), (1 / 256, False), (0.05, False), (16 / 255, False), (1 - 239 / 255, False)]
    + [(17 / 255, True), (0.1, True), (1, True), (1.2, True), (torch.inf, True), (torch.nan, False), (-1, False)],
)
def test_what_a_speck_and_a_plane_of_one_value_select(value, is_selected):
    speck = torch.zeros(1, 20, 30)
    speck[:, 7:9, 11] = value
    assert torch.equal(selected(speck), (speck != 0) & is_selected)
    assert (selected(torch.full((2, 20, 30), value)) == is_selected).all()


def test_haze_of_a_file_around_an_object_is_not_selected():
    mask = torch.full((1, 30, 40), 1 / 256)
    mask[:, 10:20, 10:20] = 1
    assert torch.equal(selected(mask), mask == 1)


def test_a_bool_mask_and_one_mask_for_many_pictures_are_not_copied():
    hole = rand(2, 9, 9) > 0.5
    assert selected(hole) is hole
    soft = rand(1, 9, 9)
    many = selected(soft.expand(5, -1, -1))
    assert many.shape == (5, 9, 9) and many.stride(0) == 0
    assert torch.equal(many, selected(soft.expand(5, -1, -1).clone()))


@settings(max_examples=100)
@given(hnp.arrays(np.float32, (2, 24, 36), elements=st.floats(0, 1, width=32)), st.sampled_from([1, 2, 3, 4, 6, 12]))
def test_a_map_that_says_how_much_is_averaged_by_area(amounts, factor):
    reduced = resize_amounts(torch.from_numpy(amounts), 24 // factor, 36 // factor).numpy()
    cells = amounts.reshape(2, 24 // factor, factor, 36 // factor, factor)
    assert np.abs(reduced - cells.astype(np.float64).mean((2, 4))).max() < 1e-5  # float32 sums of 144 values
    enlarged = resize_amounts(torch.from_numpy(amounts), 24 * factor, 36 * factor)
    assert torch.equal(enlarged, resize_selection(torch.from_numpy(amounts), 24 * factor, 36 * factor))


@pytest.mark.parametrize("size", [(64, 64), (170, 170), (200, 128), (384, 384)])
def test_a_dithered_gradient_keeps_its_tone(size):
    """The largest value of each cell makes it almost white: a mean of 0.94 at a quarter of the size."""
    ramp = torch.linspace(0, 1, 256).expand(1, 256, 256)
    dithered = (rand(1, 256, 256) < ramp).float()
    reduced = resize_amounts(dithered, *size)
    assert abs(float(reduced.mean()) - 0.5) < 0.01
    assert reduced.max() <= 1 and reduced.min() >= 0
    assert float(resize_selection(dithered, 64, 64).mean()) > 0.9


def test_pair_clamps_and_averages_amounts(rng):
    image, wild = torch.rand(1, 6, 8, 3, generator=rng), torch.rand(1, 12, 16, generator=rng) * 1.35 - 0.12
    assert torch.equal(pair(image, wild)[1], resize_selection(wild.clamp(0, 1), 6, 8))
    assert torch.equal(pair(image, wild, amounts=True)[1], resize_amounts(wild.clamp(0, 1), 6, 8))


@pytest.mark.parametrize(("value", "amounts"), [(0.05, False), (1 / 256, False), (1 / 256, True)])
def test_a_mask_that_selects_nothing_fits_any_picture(value, amounts):
    masks = pair(torch.rand(1, 60, 80, 3), torch.full((1, 64, 64), value), amounts=amounts)[1]
    assert torch.equal(masks, torch.zeros(1, 60, 80))


def test_a_weak_map_of_other_proportions_is_refused():
    with pytest.raises(ValueError, match="proportions"):
        pair(torch.rand(1, 60, 80, 3), torch.full((1, 64, 64), 0.05), amounts=True)


def test_a_thin_line_survives_where_interpolation_loses_it():
    mask = torch.zeros(1, 1000, 1000)
    mask[:, 501] = 1
    assert resize_selection(mask, 100, 100).max() == 1
    assert F.interpolate(mask[None], (100, 100), mode="bilinear").max() < 1


@pytest.mark.parametrize(("b", "n"), [(1, 1), (3, 3), (1, 3), (3, 1)])
def test_pair_by_number(b, n, rng):
    image, mask = torch.rand(b, 6, 8, 3, generator=rng), torch.rand(n, 6, 8, generator=rng)
    images, masks = pair(image, mask)
    assert images.shape == (max(b, n), 6, 8, 3) and masks.shape == (max(b, n), 6, 8)
    for i in range(max(b, n)):
        assert torch.equal(images[i], image[min(i, b - 1)])
        assert torch.equal(masks[i], mask[min(i, n - 1)])


def test_pair_takes_a_mask_without_a_batch(rng):
    image, mask = torch.rand(2, 6, 8, 3, generator=rng), torch.rand(6, 8, generator=rng)
    assert torch.equal(pair(image, mask)[1], mask.expand(2, 6, 8))


@pytest.mark.parametrize(("b", "n"), [(2, 3), (3, 2)])
def test_pair_refuses_other_numbers(b, n):
    with pytest.raises(ValueError, match=f"mask is a batch of {n} but image is a batch of {b}. Connect one mask"):
        pair(torch.rand(b, 6, 8, 3), torch.rand(n, 6, 8))


@pytest.mark.parametrize("size", [(60, 80), (3, 4), (61, 80), (13, 17)])
def test_pair_resizes_the_same_proportions(size):
    mask = torch.zeros(1, *size)
    mask[:, 0, 0] = 1
    masks = pair(torch.rand(2, 60, 80, 3), mask)[1]
    assert masks.shape == (2, 60, 80)
    assert masks[0, 0, 0] == 1 and masks[0, -1, -1] == 0


@pytest.mark.parametrize("size", [(80, 60), (60, 60), (64, 64), (30, 80)])
def test_pair_refuses_other_proportions_but_takes_a_blank_mask(size):
    image = torch.rand(1, 60, 80, 3)
    with pytest.raises(ValueError, match=f"mask is {size[1]} x {size[0]} but image is 80 x 60.*proportions"):
        pair(image, torch.ones(1, *size))
    assert torch.equal(pair(image, torch.zeros(1, *size))[1], torch.zeros(1, 60, 80))


@settings(max_examples=100)
@given(hnp.arrays(bool, st.tuples(SIDES, SIDES)), st.integers(-9, 9))
def test_grow_of_bool_equals_grow_of_float(pixels, radius):
    mask = torch.from_numpy(pixels)
    grown = grow(mask, radius)
    assert grown.dtype == torch.bool
    assert torch.equal(grown.float(), grow(mask.float(), radius))


def test_grow_takes_any_batch(rng):
    masks = torch.rand(2, 3, 20, 30, generator=rng)
    before = masks.clone()
    for radius in (4, -4, 50):
        grown = grow(masks, radius)
        for i in range(2):
            for j in range(3):
                assert torch.equal(grown[i, j], grow(masks[i, j], radius))
    assert torch.equal(masks, before)
    assert grow(masks, 0) is masks


@pytest.mark.parametrize(
    "rows, said", [((3, 18), []), ((3, 19), ["up to 95 % of 1 of the 2"]), ((20, 20), ["2 of the 2"])]
)
def test_a_hole_of_nearly_the_whole_picture_is_told_in_the_log(caplog, rows, said):
    hole = torch.zeros(2, 20, 10, dtype=torch.bool)
    for each, count in zip(hole, rows, strict=True):
        each[:count] = True
    warn_of_nearly_all(hole, "LaMa Fill")
    assert len(caplog.messages) == len(said)
    for message, part in zip(caplog.messages, said, strict=True):
        assert message.startswith("LaMa Fill: the mask selects ") and part in message
