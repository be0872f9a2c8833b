"""What enters the pack: shapes, kinds of numbers, NaN and infinity."""

import pytest
import torch

from kit.tensors import rand
from pentimento.model_patchers.pixels import checks

IMAGE, MASK, LATENT = rand(2, 5, 7, 3), rand(2, 5, 7), rand(2, 4, 5, 7)


def test_what_is_right_is_returned_itself():
    for check, value in ((checks.image, IMAGE), (checks.latent, LATENT), (checks.image_or_mask, IMAGE)):
        assert check(value, "a") is value
    assert checks.mask(MASK, "mask").data_ptr() == MASK.data_ptr()
    beyond = 3 * IMAGE - 1
    assert checks.image(beyond, "image") is beyond, "values outside 0 ... 1 are colours, too"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_decimal_numbers_of_every_width_become_float32(dtype):
    for check, value in ((checks.image, IMAGE), (checks.mask, MASK), (checks.latent, LATENT)):
        result = check(value.to(dtype), "a")
        assert result.dtype == torch.float32 and torch.equal(result, value.to(dtype).float())


def test_whole_numbers_up_to_1_are_taken_and_larger_ones_refused():
    """A mask of 0 and 1 says what it means. 255 may be white, or 1 too many."""
    hard = MASK > 0.5
    for mask in (hard, hard.to(torch.uint8), hard.long()):
        assert torch.equal(checks.mask(mask, "mask"), hard.float())
    with pytest.raises(ValueError, match="mask holds whole numbers up to 255, but masks in ComfyUI are decimal"):
        checks.mask(hard.to(torch.uint8) * 255, "mask")
    with pytest.raises(ValueError, match="image holds whole numbers up to 2.* Divide by 255 in the node that"):
        checks.image((IMAGE * 2.9).long(), "image")


@pytest.mark.parametrize("shape", [(0, 5, 7, 3), (2, 0, 7, 3), (2, 5, 0, 1)])
def test_an_empty_batch_is_refused(shape):
    with pytest.raises(ValueError, match="depth is an empty batch: its shape is .* least one of the pictures"):
        checks.image(torch.zeros(shape), "depth")
    with pytest.raises(ValueError, match="mask is an empty batch"):
        checks.mask(torch.zeros(shape[:3]), "mask")
    with pytest.raises(ValueError, match="latent is an empty batch"):
        checks.latent(torch.zeros(shape), "latent")


@pytest.mark.parametrize("shape", [(2, 5, 7, 2), (2, 5, 7, 5), (2, 5, 7, 0), (5, 7, 3), (1, 2, 5, 7, 3)])
def test_other_shapes_are_no_pictures(shape):
    came = f"{shape[3]} channels" if len(shape) == 4 else "the shape"
    with pytest.raises(ValueError, match=f"background has {came}.* 1 channel .grey., 3 .RGB. or 4 .RGBA."):
        checks.image(torch.zeros(shape), "background")


def test_masks_of_every_form_become_one():
    for shape in ((5, 7), (1, 5, 7), (1, 1, 5, 7)):
        assert torch.equal(checks.mask(MASK[0].view(shape), "mask"), MASK[:1])
    for shape in ((7,), (5, 7, 1, 1), (1, 1, 1, 5, 7)):
        with pytest.raises(ValueError, match="mask has the shape .* but masks are .batch, height, width."):
            checks.mask(torch.zeros(shape), "mask")


def test_a_source_is_a_picture_or_a_mask():
    for source in (MASK, MASK[:, None]):
        assert torch.equal(checks.image_or_mask(source, "source"), MASK)
    assert torch.equal(checks.image_or_mask(MASK[0], "source"), MASK[:1])
    low = rand(2, 1, 7, 3)
    assert checks.image_or_mask(low, "source") is low, "a picture of one row"
    with pytest.raises(ValueError, match="source has 2 channels"):
        checks.image_or_mask(IMAGE[..., :2], "source")


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_broken_pixels_are_counted_where_they_are_read(value):
    broken = IMAGE.clone()
    broken[0, 1, 2], broken[1, 3, 4, 0] = value, value
    with pytest.raises(
        ValueError, match="image has NaN or infinity in 2 of its 70 pixels, first in picture 1 at x = 2"
    ):
        checks.image(broken, "image")
    assert checks.image(broken, "image", whole=False) is broken
    unread = torch.zeros(2, 5, 7, dtype=torch.bool)
    unread[0, 1, 2] = True
    with pytest.raises(ValueError, match="image has .* in 1 of its 69 pixels here, first in picture 2 at x = 4, y = 3"):
        checks.finite(broken, "image", unread, " here")
    unread[1, 3, 4] = True
    assert checks.finite(broken, "image", unread) is False
    assert checks.finite(IMAGE, "image", unread) is True
    latent = LATENT.clone()
    latent[1, 2, 3, 4] = value
    with pytest.raises(ValueError, match="latent has .* in 1 of its 70 pixels, first in picture 2 at x = 4, y = 3"):
        checks.latent(latent, "latent")


def test_finite_numbers_whose_sum_is_not_are_finite():
    assert checks.image(torch.full((1, 5, 7, 3), 3e38), "image").isfinite().all()


def test_a_mask_of_nan_selects_nothing_and_others_are_clamped():
    mask = torch.tensor([[[torch.nan, torch.inf, -torch.inf, 1.23, -0.12, 0.5]]])
    assert checks.mask(mask, "mask").tolist() == [[[0, 1, 0, 1, 0, 0.5]]]
