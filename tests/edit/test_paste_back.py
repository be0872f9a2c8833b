"""Paste Back: what stays to the bit, what comes back, seams, colours, and diffusers' overlay."""

import numpy as np
import pytest
import torch
from comfy import model_management
from diffusers.image_processor import VaeImageProcessor
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from kit.nodes import run_node
from kit.pictures import as_pil, box_mask, crop, photograph
from pentimento.model_patchers.edit import paste_back
from pentimento.model_patchers.edit.paste_back import FLAT, KNOWN, match_colour, ramp
from pentimento.model_patchers.pixels.boxes import Box
from pentimento.model_patchers.pixels.resample import resize
from pentimento.nodes.edit.crop_to_mask import CropToMask, PasteBack

pytestmark = pytest.mark.usefixtures("one_thread")


def paste(crops, image, feather=0, match="off"):
    return run_node(PasteBack, crops=crops, image=image, feather=feather, match_colour=match)[0]


@st.composite
def jobs(draw):
    """Pictures of any bits and size, soft masks at any place, and how to crop and paste."""
    height, width, b, n = draw(st.integers(1, 90)), draw(st.integers(1, 90)), draw(st.integers(1, 2)), 2
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    image = torch.rand(b, height, width, draw(st.sampled_from((1, 3, 4))), generator=generator)
    mask = torch.zeros(n, height, width)
    for _ in range(draw(st.integers(0, 4))):
        top, left = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
        patch = mask[
            draw(st.integers(0, n - 1)), top : top + draw(st.integers(1, 50)), left : left + draw(st.integers(1, 50))
        ]
        patch += torch.rand(patch.shape, generator=generator).clamp(0.1, 1) if draw(st.booleans()) else 1
    size = draw(st.sampled_from([(64, 64), (64, 96), (16, 8)]))
    settings = (*size, draw(st.integers(0, 20)), draw(st.sampled_from(["one", "each hole"])))
    return (
        image,
        mask.clamp(0, 1),
        settings,
        draw(st.integers(0, 40)),
        draw(st.sampled_from(["off", "mean and spread"])),
        generator,
    )


@settings(max_examples=100)
@given(jobs())
def test_outside_the_mask_every_bit_stays(job):
    """Whatever comes back: noise, and NaN and infinity outside the mask."""
    image, mask, how, feather, match, generator = job
    crops, crop_masks, payload = crop(image, mask, *how)
    edited, broken = torch.rand(crops.shape, generator=generator), torch.full(crops.shape, torch.nan)
    broken[:, 3] = torch.inf
    result = paste(payload, torch.where((crop_masks > 0)[..., None], edited, broken), feather, match)
    before = image.expand(2, -1, -1, -1)
    assert result.shape == before.shape and result.dtype == before.dtype and result.isfinite().all()
    assert torch.equal(result[mask == 0], before[mask == 0])
    assert torch.equal(result[..., 3:], before[..., 3:]), "the alpha channel"


@settings(max_examples=100)
@given(jobs())
def test_unedited_crops_give_the_picture_back(job):
    image, mask, how, feather, match, _ = job
    crops, _, payload = crop(image, mask, *how)
    assert torch.equal(paste(payload, crops, feather, match), image.expand(2, -1, -1, -1))
    assert torch.equal(paste(payload, crops.clone(), feather, match), image.expand(2, -1, -1, -1))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_inside_the_mask_the_edit_comes_in(channels, rng):
    """Without a resize: each pixel is original + alpha (edited - original)."""
    image, mask = torch.rand(2, 101, 91, channels, generator=rng), torch.zeros(2, 101, 91)
    mask[0, 40:72, 30:62] = torch.rand(32, 32, generator=rng).clamp(min=3 / 255)  # the least that is selected
    mask[1, 45:50, 31:62] = 1
    crops, _, payload = crop(image, mask, 64, 64, 16)
    assert payload.boxes == [Box(14, 24, 64, 64)]
    edited = torch.rand(2, 64, 64, 3, generator=rng)
    result, at = paste(payload, edited)[:, 24:88, 14:78], (slice(None), slice(24, 88), slice(14, 78))
    colours = edited @ torch.tensor([[0.299], [0.587], [0.114]]) if channels == 1 else edited
    before = image[at][..., : colours.shape[-1]]
    expected = before + mask[at][..., None] * (colours - before)
    assert (result[..., : colours.shape[-1]] - expected).abs().max() < 1e-6
    assert torch.equal(result[1, 21:26, 17:48, 1:3], edited[1, 21:26, 17:48, 1:3]) or channels == 1


@pytest.mark.parametrize("match", ["off", "mean and spread"])
def test_what_is_not_selected_keeps_every_bit(match, rng):
    """The haze that an opaque file leaves on its mask would blend 1/256 of the edit into the whole picture."""
    image, mask = photograph(), box_mask(120, 150, (40, 30, 20, 16))
    edited = torch.rand(1, 64, 64, 3, generator=rng)
    hazy = paste(crop(image, mask.clamp(min=1 / 256))[2], edited, 4, match)
    assert torch.equal(hazy[mask == 0], image[mask == 0])
    assert torch.equal(hazy, paste(crop(image, mask)[2], edited, 4, match))


def test_a_mask_outside_0_and_1_makes_no_colour_outside(rng):
    """ComfyUI's bicubic resize makes -0.12 to 1.23."""
    image, mask = torch.ones(1, 101, 91, 3), torch.zeros(1, 101, 91)
    mask[:, 40:72, 30:62] = torch.rand(32, 32, generator=rng) * 1.35 - 0.12
    result = paste(crop(image, mask, 64, 64, 16)[2], torch.zeros(1, 64, 64, 3))
    assert result.min() >= 0 and result.max() <= 1
    assert torch.equal(result, paste(crop(image, mask.clamp(0, 1), 64, 64, 16)[2], torch.zeros(1, 64, 64, 3)))


def test_every_crop_goes_to_its_own_place(rng):
    image = photograph(b=3)
    mask = torch.cat([box_mask(120, 150, (20, 30 + i, 10, 16), (110, 80 - i, 8, 8)) for i in range(3)])
    crops, _, payload = crop(image, mask, 64, 64, 8, "each hole")
    colours = torch.rand(6, 3, generator=rng)
    result = paste(payload, colours[:, None, None].expand(6, 64, 64, 3))
    for k, colour in enumerate(colours):
        i, j = divmod(k, 2)
        rows, columns = payload.boxes[j].slices
        inside = mask[i, rows, columns] > 0
        assert (result[i, rows, columns][inside] - colour).abs().max() < 1e-6
    assert torch.equal(result[mask == 0], image[mask == 0])
    # and one edited crop changes its own place alone
    alone = crops.clone()
    alone[3] = colours[3]
    result = paste(payload, alone)
    assert torch.equal(result[[0, 2]], image[[0, 2]])
    changed = (result[1] != image[1]).any(-1)
    assert changed[payload.boxes[1].slices].any() and not changed[payload.boxes[0].slices].any()


def test_a_frame_without_a_mask_and_an_empty_mask_change_nothing(rng):
    image = photograph(b=2)
    mask = torch.cat((box_mask(120, 150, (20, 30, 10, 16)), torch.zeros(1, 120, 150)))
    result = paste(crop(image, mask)[2], torch.rand(2, 64, 64, 3, generator=rng), 4)
    assert torch.equal(result[1], image[1]) and not torch.equal(result[0], image[0])
    assert torch.equal(paste(crop(image, mask[1:])[2], torch.rand(2, 64, 64, 3, generator=rng), 4), image)


@pytest.mark.parametrize("size", [96, 128, 160, 256])
def test_an_enlarged_crop_that_is_barely_edited_stays_within_a_255th(size, rng):
    """Every pixel has other bits. Lanczos back and forth, as in diffusers, would leave up to 20 steps at edges."""
    image, mask = photograph() * 0.6 + 0.2, box_mask(120, 150, (40, 30, 50, 40))
    crops, _, payload = crop(image, mask, size, size)
    result = paste(payload, crops + 1e-6 * torch.randn(crops.shape, generator=rng))
    assert not torch.equal(result, image)
    assert (result - image).abs().max() < 1 / 255


NEARLY = [233, 255, 257, 270]  # for 256


def subjects(rng):
    """Pictures of 256 x 256: white noise, all of whose detail is as fine as can be, and a photograph."""
    return torch.rand(1, 256, 256, 3, generator=rng), photograph(256, 256)


def without_likeness(payload, edited, monkeypatch, value):
    """Paste Back if no pixel, or (1) each pixel, of the edited crop were taken for the original's."""
    with monkeypatch.context() as patch:
        patch.setattr(paste_back, "likeness", lambda edited, original: torch.full(edited.shape[:2], value))
        return paste(payload, edited)


@pytest.mark.parametrize("size", NEARLY)
def test_a_crop_of_nearly_equal_size_comes_back_within_a_255th(size, monkeypatch, rng):
    """Every pixel is rounded to 8 bits. Back-projection alone would lose the finest detail, in clipped pixels too."""
    for image in subjects(rng):
        crops, _, payload = crop(image, torch.ones(1, 256, 256), size, size)
        edited = (crops * 255).round() / 255
        assert (paste(payload, edited) - image).abs().max() < 1 / 255
        assert (without_likeness(payload, edited, monkeypatch, 0.0) - image).abs().max() > 10 / 255


@pytest.mark.parametrize("size", NEARLY)
def test_an_edited_crop_of_nearly_equal_size_brings_no_detail_of_the_old_picture(size, monkeypatch, rng):
    """The picture plus the resized change, everywhere, would leave its texture under a flat colour."""
    for image in subjects(rng):
        crops, _, payload = crop(image, torch.ones(1, 256, 256), size, size)
        blurred = ndimage.uniform_filter(crops.numpy(), (0, 5, 5, 0), mode="nearest")
        edits = {
            "a colour": torch.full_like(crops, 0.3),
            "a picture": resize(photograph(256, 256, left=0, top=150)[0], size, size)[None],
            "a blur": torch.from_numpy(blurred),
        }
        for name, edited in edits.items():
            result, plain = paste(payload, edited), without_likeness(payload, edited, monkeypatch, 0.0)
            assert (result - plain).abs().mean() < 0.5 / 255, name
            assert (result - plain).abs().max() < (6 if name == "a blur" else 1) / 255, name
        ghosts = without_likeness(payload, edits["a colour"], monkeypatch, 1.0)
        assert (ghosts - 0.3).abs().max() > 10 / 255
        assert (paste(payload, edits["a colour"]) - 0.3).abs().max() < 1e-5


@pytest.mark.parametrize("size", [250, 270])
def test_the_rest_of_a_crop_that_is_edited_in_part_keeps_its_detail(size, rng):
    for image in subjects(rng):
        crops, _, payload = crop(image, torch.ones(1, 256, 256), size, size)
        edited = (crops * 255).round() / 255
        edited[:, :, : size // 2] = 0.3
        result = paste(payload, edited)
        assert (result[:, :, : 128 - 16] - 0.3).abs().max() < 1e-5
        assert (result[:, :, 128 + 16 :] - image[:, :, 128 + 16 :]).abs().max() < 1 / 255
        assert result.amin() >= 0 and result.amax() <= 1


def test_broken_pixels_inside_the_mask_are_refused(rng):
    image, mask = photograph(b=2), box_mask(120, 150, (40, 30, 48, 40))
    crops, crop_masks, payload = crop(image, mask)
    y, x = crop_masks[1].nonzero()[0].tolist()
    for value in (torch.nan, torch.inf):
        edited = crops.clone()
        edited[1, y, x, 2] = value
        place = f"in 1 of its {int((crop_masks > 0).sum())} pixels inside the mask, first in picture 2 at x = {x}, "
        with pytest.raises(ValueError, match=f"image has NaN or infinity {place}"):
            paste(payload, edited)


def test_where_a_shrunk_crop_is_edited_decides_where_the_picture_changes():
    """Shrinking loses detail, but where no pixel was edited the picture keeps its own."""
    image, mask = photograph(240, 300), box_mask(240, 300, (20, 20, 200, 200))
    crops, _, payload = crop(image, mask, 64, 64, 10)
    edited = crops.clone()
    edited[:, 30:40, 20:24] = 0.9
    result, scale = paste(payload, edited), 220 / 64
    changed = (result != image).any(-1)[0].nonzero()
    (top, left), (bottom, right) = changed.amin(0) - 10, changed.amax(0) - 10
    reach = 4  # crop pixels: Lanczos looks three away
    assert (30 - reach) * scale < top < 30 * scale and 40 * scale - 1 < bottom < (40 + reach) * scale
    assert (20 - reach) * scale < left < 20 * scale and 24 * scale - 1 < right < (24 + reach) * scale
    middle = result[
        0, 10 + round(33 * scale) : 10 + round(37 * scale), 10 + round(21.7 * scale) : 10 + round(22.3 * scale)
    ]
    assert (middle - 0.9).abs().max() < 0.1


def test_only_the_part_that_is_not_border_comes_back():
    """A region that could not get the crop's proportions: the filled borders are left out."""
    image, mask = photograph(50, 150), box_mask(50, 150, (0, 0, 150, 50))
    crops, _, payload = crop(image, mask, 128, 128)
    y, x = torch.meshgrid(torch.linspace(0, 1, 128), torch.linspace(0, 1, 128), indexing="ij")
    edited = torch.stack((x, y, torch.zeros_like(x)), -1)[None]
    result = paste(payload, edited)
    assert payload.boxes == [Box(0, 0, 150, 50)]
    # 128 * 50 // 150 = 42 rows of the crop, from the 43rd to the 84th
    first, last = result[0, 0, :, 1] * 127, result[0, -1, :, 1] * 127
    assert 42 < first.min() < first.max() < 44 and 83 < last.min() < last.max() < 85
    assert result[0, :, 0, 0].max() < 1 / 127 and result[0, :, -1, 0].min() > 126 / 127


@pytest.mark.parametrize(("soft", "most"), [(False, 1e-3), (True, 1.6)])
def test_without_a_resize_it_equals_diffusers_overlay_within_its_rounding(soft, most, rng):
    """apply_overlay composites 8-bit colours that were multiplied by an 8-bit mask: 1.4 steps off at worst here."""
    image, edited = (torch.randint(256, (1, *size, 3), generator=rng) / 255 for size in ((101, 91), (64, 64)))
    mask = torch.zeros(1, 101, 91)
    mask[:, 40:72, 30:62] = torch.randint(3, 256, (32, 32), generator=rng) / 255 if soft else 1
    coords = VaeImageProcessor.get_crop_region(as_pil(mask[0]), 64, 64, 16)
    expected = VaeImageProcessor().apply_overlay(as_pil(mask[0]), as_pil(image[0]), as_pil(edited[0]), coords)
    error = np.abs(paste(crop(image, mask, 64, 64, 16)[2], edited)[0].numpy() * 255 - np.asarray(expected))
    assert error.max() < most and error.mean() < 0.05


@pytest.mark.parametrize(("edge", "box"), [("all four sides", (30, 20, 60, 50)), ("at the border", (0, 20, 60, 100))])
@pytest.mark.parametrize("feather", [1, 7, 16])
def test_the_ramp_of_a_big_hole_is_the_depth_below_its_rim(edge, box, feather):
    hole = box_mask(120, 150, box)[0] > 0
    y, x = torch.meshgrid(torch.arange(120.0), torch.arange(150.0), indexing="ij")
    left, top, right, bottom = box[0], box[1], box[0] + box[2], box[1] + box[3]
    sides = [right - x, y - top + 1]  # the left and the lower side at the picture's border are no rim
    sides += [x - left + 1, bottom - y] if edge == "all four sides" else []
    depth = torch.stack(sides).amin(0)
    expected = (depth / (feather + 1)).clamp(0, 1) * hole
    assert (ramp(hole, feather) - expected).abs().max() < 1e-6


@settings(max_examples=200)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1), st.integers(1, 40))
def test_the_ramp_is_inside_rises_at_least_as_the_feather_and_reaches_1_in_every_hole(height, width, seed, feather):
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).random((height, width)), seed % 4)
    hole = noise > np.median(noise)
    found = ramp(torch.from_numpy(hole), feather).numpy()
    assert found.dtype == np.float32
    assert ((found > 0) == hole).all() and found.max(initial=0) <= 1
    depth = ndimage.distance_transform_edt(hole) if not hole.all() else np.full(hole.shape, np.inf)
    assert (found >= np.minimum(depth / (feather + 1), 1) * hole - 1e-6).all()
    labels, count = ndimage.label(hole, structure=np.ones((3, 3)))
    assert (ndimage.maximum(found, labels, range(1, count + 1)) == 1).all()


def test_a_mask_that_covers_the_picture_has_no_rim(rng):
    image = photograph(64, 64)
    payload, edited = crop(image, torch.ones(1, 64, 64))[2], torch.rand(1, 64, 64, 3, generator=rng)
    assert torch.equal(paste(payload, edited, 16), edited)


@pytest.mark.parametrize("thickness", range(1, 12))
def test_a_thin_hole_has_a_shorter_ramp(thickness):
    """Its middle is all new, along its whole length, and it still fades to both sides."""
    hole = torch.zeros(60, 200, dtype=torch.bool)
    hole[20 : 20 + thickness, 10:190] = True
    column = ramp(hole, 16)[20 : 20 + thickness]
    half = (thickness + 1) // 2
    rise = torch.arange(1, half + 1) / half
    expected = torch.cat((rise, rise[: thickness - half].flip(0)))
    assert (column[:, 10 + half : 190 - half] - expected[:, None]).abs().max() < 1e-6
    assert (column[half - 1, 10 + half : 190 - half] == 1).all()


def test_a_thin_part_of_a_big_hole_is_new_in_its_middle_too():
    y, x = np.mgrid[:200, :300]
    hole = (y - 100) ** 2 + (x - 80) ** 2 < 60**2
    hole[97:103, 100:290] = True  # a handle, 6 wide, which leaves the disc at x = 140
    hole[20:24, 10:290] = True  # a line of its own
    found = ramp(torch.from_numpy(hole), 16)
    assert (found[99:101, 140 + 13 : 287] == 1).all()
    assert (found[21:23, 12:288] == 1).all()
    assert (found[100, 40:110] == 1).all() and found[100, 80 - 57] < 0.3, "the disc has its whole feather"
    assert (found[100].diff().abs() < 0.5).all()


@pytest.mark.parametrize("box", [(40, 30, 48, 48), (40, 30, 64, 64), (0, 0, 64, 64), (86, 56, 64, 64)])
def test_the_feather_blends_as_over_the_whole_picture(box, rng):
    """Also where the region ends with the mask, in the picture or at its border."""
    image, mask = photograph(), box_mask(120, 150, box)
    payload = crop(image, mask, 64, 64, (64 - box[2]) // 2)[2]
    assert payload.boxes[0][2:] == (64, 64)  # no resize
    edited = torch.rand(1, 64, 64, 3, generator=rng)
    hard, soft = paste(payload, edited), paste(payload, edited, 9)
    fade = ramp(mask[0] > 0, 9)[..., None]
    assert 0.09 < fade[fade > 0].min() < 0.11
    assert (soft[0] - (image[0] + fade * (hard[0] - image[0]))).abs().max() < 1e-6


def test_frames_that_share_a_mask_and_frames_that_do_not_get_the_same_ramps(rng):
    image = photograph(b=3)
    mask = torch.cat([box_mask(120, 150, (20 + 9 * i, 30, 30, 26)) for i in (0, 0, 1)])
    edited = torch.rand(3, 64, 64, 3, generator=rng)
    payload = crop(image, mask, 64, 64, 8)[2]
    result = paste(payload, edited, 8)
    for i in range(3):
        one = payload._replace(
            **{name: getattr(payload, name)[i : i + 1] for name in ("image", "mask", "crop", "crop_mask")}
        )
        assert torch.equal(paste(one, edited[i : i + 1], 8), result[i : i + 1])


@pytest.mark.parametrize("size", [64, 128])
@pytest.mark.parametrize("a, b", [(0.8, 0.1), (1.25, -0.05), (1, 0.1), (0.5, [0.3, 0.1, 0.2]), ([0.6, 0.9, 1.1], 0.02)])
def test_a_shift_of_colours_is_taken_back(a, b, size):
    image, mask = photograph(b=2) * 0.6 + 0.2, box_mask(120, 150, (40, 30, 48, 40))
    crops, _, payload = crop(image, mask, size, size)
    edited = crops * torch.tensor(a) + torch.tensor(b)
    result = paste(payload, edited, match="mean and spread")
    assert (paste(payload, edited) - image).abs().max() > 0.05
    assert (result - image).abs().max() < (1e-5 if size == 64 else 1 / 255)


def test_matching_measures_known_pixels_alone(rng):
    image, mask = photograph() * 0.6 + 0.2, box_mask(120, 150, (40, 30, 48, 40))
    crops, crop_masks, payload = crop(image, mask, 64, 64)
    new = torch.rand(crops.shape, generator=rng) * 0.5 + 0.2
    true = torch.where(crop_masks[..., None] > 0, new, crops)
    matched = paste(payload, true * 0.8 + 0.1, match="mean and spread")
    assert (matched - paste(payload, true)).abs().max() < 1e-5, (
        "what was painted has no say, and is shifted with the rest"
    )


def test_pixels_that_were_not_edited_are_not_matched():
    """Nor do they bring a false colour to those beside them."""
    image, mask = photograph() * 0.6 + 0.2, box_mask(120, 150, (40, 30, 48, 40))
    crops, crop_masks, payload = crop(image, mask, 128, 128)
    edited = crops * 0.5 + 0.3
    edited[:, 50:70, 50:70] = crops[:, 50:70, 50:70]
    assert (crop_masks[:, 50:70, 50:70] == 1).all()
    assert (paste(payload, edited, match="mean and spread") - image).abs().max() < 1 / 255


def test_match_colour_by_formula(rng):
    given, edited = torch.rand(30, 40, 3, generator=rng) * 0.5 + 0.2, torch.rand(30, 40, 3, generator=rng) * 0.3 + 0.3
    known = torch.rand(30, 40, generator=rng) < 0.5
    e, g = edited[known].double().numpy(), given[known].double().numpy()
    expected = (edited.numpy() - e.mean(0)) * g.std(0) / e.std(0) + g.mean(0)
    assert np.abs(match_colour(edited, given, known).numpy() - expected.clip(0, 1)).max() < 1e-5


def test_match_colour_where_there_is_little_to_go_by(rng):
    given, edited = torch.rand(30, 40, 3, generator=rng), torch.rand(30, 40, 3, generator=rng)
    known = torch.zeros(30, 40, dtype=torch.bool)
    assert torch.equal(match_colour(edited, given, known), edited)
    known.view(-1)[: KNOWN - 1] = True
    assert torch.equal(match_colour(edited, given, known), edited)
    known.view(-1)[KNOWN - 1] = True
    assert not torch.equal(match_colour(edited, given, known), edited)
    flat = 0.4 + 0.3 * FLAT * (torch.rand(30, 40, 3, generator=rng) - 0.5)
    for one, other in ((flat, given), (given, flat)):
        shift = (other[known].mean(0) - one[known].mean(0)) if known.any() else 0
        assert (match_colour(one, other, known) - (one + shift).clamp(0, 1)).abs().max() < 1e-5


def test_colours_stay_in_range(rng):
    image, mask = torch.rand(1, 120, 150, 3, generator=rng), box_mask(120, 150, (40, 30, 48, 40))
    crops, _, payload = crop(image, mask, 128, 128)
    result = paste(payload, (torch.rand(crops.shape, generator=rng) > 0.5).float(), 5, "mean and spread")
    assert ((result >= 0) & (result <= 1)).all()


def test_edited_crops_may_be_transparent_or_grey(rng):
    image, mask = photograph(), box_mask(120, 150, (40, 30, 48, 40))
    crops, _, payload = crop(image, mask)
    grey = torch.rand(1, 64, 64, 1, generator=rng)
    assert torch.equal(paste(payload, grey), paste(payload, grey.expand(-1, -1, -1, 3)))
    assert torch.equal(paste(payload, torch.cat((crops, grey), -1)), image)


def test_another_number_of_crops_is_refused():
    crops, _, payload = crop(photograph(b=3), box_mask(120, 150, (40, 30, 48, 40)))
    for number in (1, 2, 4):
        with pytest.raises(
            ValueError, match=f"image is a batch of {number} but Crop to Mask made 3 crops. Connect every"
        ):
            paste(payload, crops[:1].expand(number, -1, -1, -1))


@pytest.mark.parametrize("size", [(128, 128), (32, 32), (64, 72), (72, 64)])
def test_crops_of_another_size_are_refused(size):
    payload = crop(photograph(), box_mask(120, 150, (40, 30, 48, 40)))[2]
    with pytest.raises(
        ValueError, match=f"image is {size[1]} x {size[0]} but the crops are 64 x 64. Resize the edited"
    ):
        paste(payload, torch.rand(1, *size, 3))


def test_an_interrupted_paste_leaves_nothing_behind(rng):
    image, mask = photograph(), box_mask(120, 150, (40, 30, 48, 40))
    payload, edited = crop(image, mask)[2], torch.rand(1, 64, 64, 3, generator=rng)
    expected = paste(payload, edited, 8)
    for node, inputs in ((CropToMask, (image, mask, 64, 64, 8, "one")), (PasteBack, (payload, edited, 8, "off"))):
        model_management.interrupt_current_processing()
        with pytest.raises(model_management.InterruptProcessingException):
            node.execute(*inputs)
    assert torch.equal(paste(payload, edited, 8), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_pictures_keep_their_values(dtype, rng):
    image, mask = photograph().to(dtype), box_mask(120, 150, (40, 30, 48, 40))
    crops, _, payload = crop(image, mask, 128, 128)
    assert crops.dtype == torch.float32
    assert torch.equal(paste(payload, crops, 8), image.float())
    result = paste(payload, torch.rand(crops.shape, generator=rng), 8)
    assert result.dtype == torch.float32 and torch.equal(result[mask == 0], image[mask == 0].float())
