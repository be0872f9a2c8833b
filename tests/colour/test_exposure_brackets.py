"""Exposure Brackets against scikit-image's sRGB transfer functions."""

import numpy as np
import pytest
import torch
from skimage import color

from kit.nodes import run_node
from kit.pictures import photograph
from kit.tensors import rand
from pentimento.nodes.colour.exposure_brackets import ExposureBrackets

pytestmark = pytest.mark.usefixtures("one_thread")


def bracketed(image, count=3, stops=1.0):
    (images,) = run_node(ExposureBrackets, image=image, count=count, stops=stops)
    return images


def reference(image, stops):
    """scikit-image decodes sRGB for XYZ, which is proportional to the light, encodes it again, and clamps."""
    return color.xyz2rgb(color.rgb2xyz(image[0].double().numpy()) * 2**stops)


@pytest.mark.parametrize(
    "count, stops, expected",
    [(2, 1.0, [-0.5, 0.5]), (3, 1.5, [-1.5, 0, 1.5]), (4, 0.8, [-1.2, -0.4, 0.4, 1.2]), (9, 1, [*range(-4, 5)])],
)
def test_equals_scikit_image(count, stops, expected):
    image = torch.cat((photograph(30, 41), rand(1, 30, 41, 3) * 0.06), 1)  # the darkest on both sides of the kink
    images = bracketed(image, count, stops).numpy()
    theirs = np.stack([reference(image, stop) for stop in expected])
    assert np.abs(images - theirs).max() < 1e-5
    by_gamma = np.stack([(image[0].numpy() ** 2.2 * 2**stop).clip(0, 1) ** (1 / 2.2) for stop in expected])
    encoded = np.stack([(image[0].numpy() * 2**stop).clip(0, 1) for stop in expected])
    lopsided = np.roll(theirs, 1, axis=0)
    assert all(np.abs(wrong - theirs).max() > 0.005 for wrong in (by_gamma, encoded, lopsided))


def test_the_picture_itself_stands_in_the_middle():
    image = photograph(30, 41)
    assert torch.equal(bracketed(image, 5, 2.0)[2], image[0])
    assert torch.equal(bracketed(image, 4, 0.0), image.expand(4, -1, -1, -1))


def test_values_above_1_show_in_darker_exposures():
    image = torch.tensor([1.0, 1.2, 1.5, -0.5]).reshape(1, 1, 4, 1).expand(-1, -1, -1, 3)
    dark, own, bright = bracketed(image, 3, 2.0)[..., 0, :, 0]
    assert dark[0] < dark[1] < dark[2] < 1
    assert own.tolist() == [1, 1, 1, 0]
    assert bright.tolist() == [1, 1, 1, 0]


def test_grey_and_transparent_pictures():
    image = photograph(30, 41)
    alpha = rand(1, 30, 41, 1)
    images = bracketed(torch.cat((image, alpha), -1), 4)
    assert torch.equal(images[..., :3], bracketed(image, 4))
    assert torch.equal(images[..., 3:], alpha.expand(4, -1, -1, -1))
    assert torch.allclose(bracketed(image[..., :1], 4), bracketed(image, 4)[..., :1], atol=1e-6)


def test_a_batch_is_refused():
    with pytest.raises(ValueError, match="^image is a batch of 2 pictures, but Exposure Brackets takes one"):
        bracketed(rand(2, 4, 5, 3))
