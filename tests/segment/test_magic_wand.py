"""Magic Wand against scikit-image's flood fill, and what it does with points and pictures of every kind."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.segmentation import flood

from kit.nodes import run_node
from kit.tensors import rand
from pentimento.nodes.segment.magic_wand import MagicWand


def text(*points):
    return json.dumps([{"x": x, "y": y} for x, y in points])


def wand(image, positive, tolerance=0.1, contiguous=True, negative=""):
    settings = {"tolerance": tolerance, "contiguous": contiguous, "negative_coords": negative}
    return run_node(MagicWand, image=image, positive_coords=text(*positive), **settings)[0]


@st.composite
def levels(draw, channels=1):
    """8-bit pictures of few colours, so that regions are long, touch by corners and reach the borders."""
    height, width = draw(st.integers(1, 14)), draw(st.integers(1, 14))
    seed, steps = draw(st.integers(0, 2**32 - 1)), draw(st.sampled_from((2, 3, 5, 256)))
    colours = np.random.default_rng(seed).integers(0, steps, (height, width, channels)) * (255 // (steps - 1))
    return colours, (draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1)))


@settings(max_examples=300)
@given(levels(), st.integers(0, 255))
def test_grey_equals_flood(picture, step):
    levels, (x, y) = picture
    image = torch.from_numpy(levels[None]).float() / 255
    expected = flood(levels[..., 0], (y, x), tolerance=step)
    assert np.array_equal(wand(image, [(x, y)], step / 255)[0].numpy(), expected)


@settings(max_examples=200)
@given(levels(channels=3), st.integers(0, 255))
def test_colour_equals_flood_on_the_largest_channel_difference(picture, step):
    levels, (x, y) = picture
    image = torch.from_numpy(levels[None]).float() / 255
    expected = flood(np.abs(levels - levels[y, x]).max(-1), (y, x), tolerance=step)
    assert np.array_equal(wand(image, [(x, y)], step / 255)[0].numpy(), expected)


@settings(max_examples=100)
@given(levels(channels=3), st.integers(0, 255))
def test_not_contiguous_takes_every_pixel_of_the_colour(picture, step):
    levels, (x, y) = picture
    image = torch.from_numpy(levels[None]).float() / 255
    expected = (np.abs(levels - levels[y, x]) <= step).all(-1)
    assert np.array_equal(wand(image, [(x, y)], step / 255, contiguous=False)[0].numpy(), expected)


def test_the_limit_belongs_at_every_8_bit_step():
    image = (torch.arange(256) / 255).view(1, 1, 256, 1)
    for step in range(256):
        assert wand(image, [(0, 0)], step / 255).sum() == step + 1


def stripes():
    """Five columns: 0, 0.5, 0, 1, 0."""
    return torch.tensor([0, 0.5, 0, 1, 0]).view(1, 1, 5, 1).expand(1, 3, 5, 3).contiguous()


def test_points_unite():
    assert wand(stripes(), [(0, 0), (3, 2)])[0, 0].tolist() == [1, 0, 0, 1, 0]


def test_negative_points_take_their_own_regions_away():
    negative = text((2, 1))
    assert wand(stripes(), [(0, 0)], contiguous=False, negative="")[0, 0].tolist() == [1, 0, 1, 0, 1]
    assert wand(stripes(), [(0, 0)], contiguous=False, negative=negative)[0, 0].tolist() == [0, 0, 0, 0, 0]
    assert wand(stripes(), [(0, 0)], tolerance=1.0, negative=negative)[0, 0].tolist() == [0, 0, 0, 0, 0]
    both = wand(stripes(), [(0, 0), (1, 0), (2, 0)], negative=negative)
    assert both[0, 0].tolist() == [1, 1, 0, 0, 0]


def test_negative_wins_whatever_the_order():
    assert wand(stripes(), [(0, 0)], negative=text((0, 2))).sum() == 0


def test_a_point_between_pixels_lies_in_the_pixel_it_covers():
    assert wand(stripes(), [(3.99, 2.5)])[0, 0].tolist() == [0, 0, 0, 1, 0]


def test_each_picture_by_its_own_colours():
    batch = torch.cat((stripes(), 1 - stripes(), torch.zeros(1, 3, 5, 3)))
    mask = wand(batch, [(0, 0)])
    assert mask.shape == (3, 3, 5)
    assert mask[:, 0].tolist() == [[1, 0, 0, 0, 0], [1, 0, 0, 0, 0], [1, 1, 1, 1, 1]]


def test_rgba_compares_what_is_seen():
    image = torch.zeros(1, 1, 5, 4)
    image[0, 0, :, 0] = torch.tensor([0.1, 0.9, 0.5, 0.5, 0.5])  # hidden colours under alpha 0, then shown ones
    image[0, 0, :, 3] = torch.tensor([0, 0, 1, 1, 0.5])
    assert wand(image, [(0, 0)])[0, 0].tolist() == [1, 1, 0, 0, 0]
    assert wand(image, [(2, 0)])[0, 0].tolist() == [0, 0, 1, 1, 0]


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (300, 4000)])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sizes_and_channels(size, channels):
    image = rand(2, *size, channels, seed=1)
    mask = wand(image, [(size[1] - 1, size[0] - 1)])
    assert mask.shape == (2, *size)
    assert mask.dtype == torch.float32
    assert (mask[:, -1, -1] == 1).all()


@pytest.mark.parametrize("positive", ["", "  ", "[]"])
def test_no_positive_point_says_what_to_do(positive):
    with pytest.raises(ValueError, match=r"positive_coords has no point. Click on the object.*connect it"):
        MagicWand.execute(stripes(), positive, 0.1, True)
    assert "positive_coords has no point" in MagicWand.validate_inputs(positive, "")


def test_validation_tells_bad_text_before_the_run():
    assert MagicWand.validate_inputs(text((1, 1)), "") is True
    assert MagicWand.validate_inputs(None, None) is True, "linked texts are not known yet"
    assert MagicWand.validate_inputs(text((1, 1))) is True
    assert "positive_coords is not a list of points" in MagicWand.validate_inputs("{", "")
    assert "negative_coords is not a list of points" in MagicWand.validate_inputs(text((1, 1)), "[1]")
    assert "negative_coords is not a list of points" in MagicWand.validate_inputs(None, "[1]")


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("place", [(0, 0), (3, 2)])
def test_a_broken_pixel_under_the_point_and_elsewhere_is_refused(place, value):
    """Nothing is like NaN, not even itself, and a region without its own point would be all the rest."""
    image = torch.full((1, 4, 5, 3), 0.5)
    image[(0, *place)] = value
    y, x = place
    with pytest.raises(ValueError, match=f"image has NaN or infinity in 1 of its 20 pixels.* x = {x}, y = {y}"):
        wand(image, [(0, 0)])


def test_a_broken_pixel_that_alpha_hides_is_one_of_the_hidden():
    image = torch.rand(1, 6, 7, 4)
    image[..., 3] = (torch.arange(7) < 4).float()
    broken = image.clone()
    broken[..., 4:, :3] = torch.nan
    for point in (0, 5):
        expected = wand(image, [(point, 2)], 0.2)
        assert torch.equal(wand(broken, [(point, 2)], 0.2), expected) and expected.any()


@pytest.mark.parametrize("point", [(5, 0), (0, 3), (-1, 0)])
def test_points_outside(point):
    with pytest.raises(ValueError, match="positive_coords has the point .* outside the 5 x 3 picture"):
        wand(stripes(), [point])
    with pytest.raises(ValueError, match="negative_coords has the point .* outside the 5 x 3 picture"):
        wand(stripes(), [(0, 0)], negative=text(point))


def test_the_interrupt_is_heard(monkeypatch):
    from comfy import model_management

    monkeypatch.setattr(model_management, "interrupt_processing", True)
    with pytest.raises(model_management.InterruptProcessingException):
        wand(stripes(), [(0, 0)])
