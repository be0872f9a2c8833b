"""Crop to Mask against diffusers' image processor, and what it does with batches, many holes and none."""

import numpy as np
import pytest
import torch
from diffusers.image_processor import VaeImageProcessor
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from kit.nodes import run_node
from kit.pictures import as_pil, box_mask, crop, photograph
from kit.tensors import rand
from pentimento.model_patchers.edit.crop_to_mask import MAX_REGIONS, letterbox, placement, region, regions
from pentimento.model_patchers.pixels.boxes import Box
from pentimento.model_patchers.pixels.resample import resize
from pentimento.nodes.segment.tune_mask import TuneMask

pytestmark = pytest.mark.usefixtures("one_thread")
PROCESSOR = VaeImageProcessor()  # resamples by Lanczos, as the inpainting pipelines do
EIGHT = np.ones((3, 3))
SIZES = st.integers(8, 256).map(lambda n: 8 * n)


@st.composite
def masks(draw):
    """bool (H, W) with at least one pixel, as often as not at a border."""
    height, width, longest = draw(st.integers(3, 60)), draw(st.integers(3, 60)), draw(st.sampled_from((2, 8, 60)))
    mask = np.zeros((height, width), dtype=bool)
    for _ in range(draw(st.integers(1, 6))):
        top, left = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
        mask[top : top + draw(st.integers(1, longest)), left : left + draw(st.integers(1, longest))] = True
    return mask


def diffusers_region(mask, width, height, padding):
    left, top, right, bottom = PROCESSOR.get_crop_region(Image.fromarray(mask), width, height, padding)
    return Box(left, top, right - left, bottom - top)


@settings(max_examples=1000)
@given(masks(), SIZES, SIZES, st.integers(0, 40))
def test_one_region_is_that_of_diffusers(mask, width, height, padding):
    found = regions(torch.from_numpy(mask), "one", padding, width, height)
    assert found == [diffusers_region(mask, width, height, padding)]


@pytest.mark.parametrize(
    ("box", "size", "expected"),
    [
        ((50, 50, 20, 10), (64, 64), (42, 37, 36, 36)),  # in the middle: padded by 8, then as tall as wide
        ((0, 0, 10, 10), (64, 64), (0, 0, 18, 18)),  # the padding is cut at the border
        ((0, 90, 40, 10), (64, 64), (0, 52, 48, 48)),  # moved inside
        ((0, 40, 150, 4), (64, 64), (0, 0, 150, 100)),  # wider than the picture is high: as high as the picture
        ((60, 0, 4, 100), (64, 128), (37, 0, 50, 100)),
    ],
)
def test_region_by_hand(box, size, expected):
    assert region(Box(*box), (100, 150), 8, *size) == Box(*expected)
    mask = box_mask(100, 150, box)[0].bool().numpy()
    assert diffusers_region(mask, *size, 8) == Box(*expected)


def overlap(a, b):
    return a.x < b.x + b.width and b.x < a.x + a.width and a.y < b.y + b.height and b.y < a.y + a.height


def joined_regions(mask, width, height, padding):
    """A region for each part; the parts of those that overlap, directly or over others, share one, until none do."""
    groups, count = ndimage.label(mask, structure=EIGHT)  # (H, W), 0 = none
    while True:
        found = {n: diffusers_region(groups == n, width, height, padding) for n in np.unique(groups[mask])}
        together = {n: {m for m in found if overlap(found[n], found[m])} for n in found}
        for _ in found:
            together = {n: set().union(*(together[m] for m in together[n])) for n in found}
        if all(len(group) == 1 for group in together.values()):
            return list(found.values())
        groups = np.vectorize({0: 0, **{n: min(together[n]) for n in found}}.get)(groups)


@settings(max_examples=200)
@given(masks(), SIZES, SIZES, st.integers(1, 9))
def test_each_hole_has_a_region_and_those_that_overlap_have_one(mask, width, height, padding):
    found = regions(torch.from_numpy(mask), "each hole", padding, width, height)
    assert sorted(found) == sorted(joined_regions(mask, width, height, padding))
    for i, box in enumerate(found):
        assert not any(overlap(box, other) for other in found[:i])
    inside = np.zeros_like(mask)
    for box in found:
        inside[box.slices] = True
    assert not (mask & ~inside).any()


def test_regions_that_overlap_only_once_joined_are_joined_too():
    """Two holes side by side share a tall region, which reaches over a third hole that neither would have met."""
    holes = (30, 50, 10, 10), (60, 50, 10, 10), (46, 12, 8, 8)
    assert len(regions(box_mask(100, 100, *holes)[0] > 0, "each hole", 11, 64, 64)) == 1
    assert len(regions(box_mask(100, 100, *holes)[0] > 0, "each hole", 8, 64, 64)) == 3
    assert len(regions(box_mask(100, 100, *holes[1:])[0] > 0, "each hole", 11, 64, 64)) == 2


def test_regions_come_from_top_to_bottom():
    mask = box_mask(100, 100, (80, 4, 5, 5), (10, 4, 5, 5), (40, 60, 5, 5))[0] > 0
    assert [(box.x, box.y) for box in regions(mask, "each hole", 0, 64, 64)] == [(10, 4), (80, 4), (40, 60)]


@pytest.mark.parametrize("value", [0.07, 0.1, 1.0])
def test_after_remove_specks_there_are_crops(value):
    """The advice of the error is true."""
    image, mask = torch.rand(1, 512, 512, 3), torch.zeros(1, 512, 512)
    mask[:, ::16, ::16] = value
    mask[:, 1::16, 1::16] = value / 3
    mask[:, 100:120, 100:120] = 1
    with pytest.raises(ValueError, match="Drop specks with Tune Mask's remove_specks"):
        crop(image, mask, padding=4, choice="each hole")
    (cleaned,) = run_node(TuneMask, mask=mask, remove_specks=2)
    assert crop(image, cleaned, padding=4, choice="each hole")[2].boxes == [Box(96, 96, 28, 28)]


@pytest.mark.parametrize("choice", ["one", "each hole"])
def test_what_is_not_selected_is_not_cropped(choice):
    """Specks of up to 0.05, as JPEG leaves them, and the haze of an opaque LA PNG."""
    image, mask = photograph(), box_mask(120, 150, (40, 30, 20, 16)) * 0.5
    noise = (rand(1, 120, 150) < 0.01) * 0.05
    noise[:, 20:60, 30:70] = 0
    expected = crop(image, mask, choice=choice)[2].boxes
    assert crop(image, mask.maximum(noise).clamp(min=1 / 256), choice=choice)[2].boxes == expected


def test_a_mask_of_specks_is_refused_before_it_fills_the_memory():
    mask = torch.zeros(1, 512, 512)
    mask[:, ::16, ::16] = 1
    with pytest.raises(ValueError, match=f"mask has holes for 1024 crops .* {MAX_REGIONS} is the most. Drop specks"):
        crop(torch.rand(1, 512, 512, 3), mask, padding=4, choice="each hole")
    assert len(crop(torch.rand(1, 512, 512, 3), mask, padding=8, choice="each hole")[0]) == 1


@pytest.mark.parametrize("size", [(64, 64), (96, 40), (40, 96), (120, 128)])
@pytest.mark.parametrize("shape", [(30, 30), (31, 60), (90, 44), (7, 100), (100, 9), (2, 3), (64, 64)])
def test_filling_equals_diffusers_within_its_rounding(shape, size, rng):
    """A picture fitted into the middle, with its edges stretched to the borders."""
    picture = torch.randint(80, 176, (*shape, 3), generator=rng) / 255  # what overshoots is clipped in another order
    at = placement(Box(0, 0, shape[1], shape[0]), *size)
    ours = letterbox(resize(picture, at.height, at.width), at, *size)
    expected = np.asarray(PROCESSOR.resize(as_pil(picture), size[1], size[0], "fill"))
    assert ours.shape == expected.shape
    assert np.abs(ours.numpy() * 255 - expected).max() < 2.2


def test_a_sliver_keeps_a_pixel():
    """Where diffusers asks Pillow for a picture 0 pixels wide, and gets an error."""
    with pytest.raises(ValueError, match="height and width must be > 0"):
        PROCESSOR.resize(Image.new("RGB", (1, 200)), 64, 64, "fill")
    assert placement(Box(0, 0, 1, 200), 64, 64) == Box(32, 0, 1, 64)
    image, mask = torch.rand(1, 200, 1, 3), torch.ones(1, 200, 1)
    crops, crop_masks, _ = crop(image, mask)
    assert (crops[0] - resize(image[0], 64, 1)).abs().max() < 1e-6
    assert (crop_masks == 1).all()  # exactly, where resampling gives sums of weights


@pytest.mark.parametrize("box", [(40, 30, 20, 16), (0, 100, 60, 20), (20, 0, 10, 120)])
@pytest.mark.parametrize("size", [(64, 64), (96, 64), (128, 192)])
def test_a_crop_equals_that_of_diffusers_within_its_rounding(box, size):
    image, mask = photograph(), box_mask(120, 150, box)
    coords = PROCESSOR.get_crop_region(as_pil(mask[0]), *size, 8)
    expected = PROCESSOR.preprocess(as_pil(image[0]), size[1], size[0], "fill", coords) / 2 + 0.5  # (1, 3, H, W)
    crops, crop_masks, _ = crop(image, mask, *size)
    assert (crops.movedim(-1, 1) - expected).abs().max() * 255 < 2.2
    # its mask, made binary at one half as its pipelines do; pixels on the rim may go either way
    theirs = VaeImageProcessor(do_normalize=False, do_binarize=True, do_convert_grayscale=True)
    binary = theirs.preprocess(as_pil(mask[0]), size[1], size[0], "fill", coords)[:, 0]
    unlike = (crop_masks >= 0.5).float() != binary
    assert not (unlike & ((crop_masks - 0.5).abs() > 0.1)).any()


def test_a_region_of_the_right_size_is_cut_out_as_it_is(rng):
    image, mask = torch.rand(2, 121, 151, 3, generator=rng), torch.zeros(2, 121, 151)
    mask[:, 40:80, 50:90] = torch.rand(2, 40, 40, generator=rng)
    crops, crop_masks, payload = crop(image, mask, 64, 64, 12)
    assert payload.boxes == [Box(38, 28, 64, 64)]
    assert torch.equal(crops, image[:, 28:92, 38:102])
    assert torch.equal(crop_masks, mask[:, 28:92, 38:102])


def test_soft_masks_stay_soft():
    mask = torch.zeros(1, 100, 100)
    mask[:, 30:70, 30:70] = torch.linspace(0.1, 0.9, 40)
    masks = crop(torch.rand(1, 100, 100, 3), mask, 128, 128, 10)[1]
    middle = masks[0, 64, 30:98]
    assert ((masks >= 0) & (masks <= 1)).all()
    assert (middle.diff() > 0).all() and len(middle.unique()) == len(middle)


@pytest.mark.parametrize("channels", [1, 4])
def test_crops_are_in_colour_and_opaque(channels):
    image = photograph()
    image = image[..., :1] if channels == 1 else torch.cat((image, torch.rand(1, 120, 150, 1)), -1)
    rgb = image.expand(-1, -1, -1, 3) if channels == 1 else image[..., :3]
    mask = box_mask(120, 150, (40, 30, 20, 16))
    assert torch.equal(crop(image, mask)[0], crop(rgb, mask)[0])


@pytest.mark.parametrize(("b", "n"), [(3, 1), (1, 3), (3, 3)])
def test_frames_are_cut_alike(b, n):
    image = photograph(b=b)
    mask = torch.cat([box_mask(120, 150, (20 + 12 * i, 30, 10, 16), (120, 90 + i, 8, 8)) for i in range(n)])
    crops, crop_masks, payload = crop(image, mask, 64, 64, 8, "each hole")
    together = mask.amax(0, keepdim=True)
    assert payload.boxes == crop(image[:1], together, 64, 64, 8, "each hole")[2].boxes
    assert len(payload.boxes) == 2
    assert crops.shape == (6, 64, 64, 3) and crop_masks.shape == (6, 64, 64)
    for k in range(6):
        i, j = divmod(k, 2)  # the first picture's crops first
        box = payload.boxes[j]
        at = placement(box, 64, 64)
        piece = image[min(i, b - 1)][box.slices]
        assert torch.equal(crops[k], letterbox(resize(piece, at.height, at.width), at, 64, 64))
        assert bool(crop_masks[k].any()) == bool(mask[min(i, n - 1)][box.slices].any())


@pytest.mark.parametrize("choice", ["one", "each hole"])
@pytest.mark.parametrize("size", [(120, 150), (64, 64)])
def test_an_empty_mask_gives_the_whole_picture(choice, size):
    image = photograph()
    crops, crop_masks, payload = crop(image, torch.zeros(1, *size), 96, 96, 8, choice)
    assert payload.boxes == [Box(0, 0, 150, 120)]
    assert crops.shape == (1, 96, 96, 3)
    assert not crop_masks.any()


def test_masks_and_pictures_that_do_not_go_together_are_refused():
    with pytest.raises(ValueError, match="mask is a batch of 3 but image is a batch of 2"):
        crop(photograph(b=2), torch.ones(3, 120, 150))
    with pytest.raises(ValueError, match="mask is 90 x 100 but image is 150 x 120"):
        crop(photograph(), torch.ones(1, 100, 90))


def test_a_mask_of_another_size_is_resized():
    assert crop(photograph(), box_mask(60, 75, (10, 20, 8, 8)))[2].boxes == [Box(12, 32, 32, 32)]


def test_the_payload_refers_to_the_pictures():
    """However many masks there are, the picture is held once."""
    image, mask = photograph(), torch.ones(5, 120, 150)
    payload = crop(image, mask)[2]
    assert payload.image.data_ptr() == image.data_ptr()
    assert payload.mask.data_ptr() == mask.data_ptr()
    assert payload.image.shape[0] == 5
