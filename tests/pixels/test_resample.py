"""Lanczos resampling against Pillow's, and its undoing."""

import numpy as np
import pytest
import skimage.data
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from kit.tensors import rand
from pentimento.model_patchers.pixels.resample import LOBES, reach, resize, resize_back

pytestmark = pytest.mark.usefixtures("one_thread")
SIDES = st.integers(1, 40)
SIZES = [(64, 64), (33, 47), (300, 390), (101, 131), (100, 200), (50, 130)]


def photograph(low=0.0, high=1.0):
    """(256, 256, 3) between low and high."""
    return torch.from_numpy(skimage.data.astronaut()[20:276, 100:356]).float() / 255 * (high - low) + low


def pillow(picture, height, width):
    """Each channel as a float picture, which Pillow neither rounds nor clips."""
    channels = [Image.fromarray(channel.contiguous().numpy()) for channel in picture.unbind(-1)]
    return torch.stack([torch.from_numpy(np.array(c.resize((width, height), Image.LANCZOS))) for c in channels], -1)


@settings(max_examples=60)
@given(SIDES, SIDES, SIDES, SIDES, st.integers(0, 2**32 - 1))
def test_resize_equals_pillow_in_float(h, w, height, width, seed):
    picture = 0.4 + 0.2 * rand(h, w, 2, seed=seed)  # nothing to clip
    assert (resize(picture, height, width) - pillow(picture, height, width)).abs().max() < 1e-6


@pytest.mark.parametrize("size", SIZES)
def test_resize_equals_pillow_in_8_bits_within_its_rounding(size, rng):
    picture = torch.randint(80, 176, (100, 130, 3), generator=rng, dtype=torch.uint8)
    expected = np.asarray(Image.fromarray(picture.numpy()).resize(size[::-1], Image.LANCZOS))
    assert np.abs(resize(picture / 255, *size).numpy() * 255 - expected).max() < 1.3  # half a step twice, weighed


def test_the_right_size_comes_back_itself(rng):
    picture = torch.randn(9, 7, 3, generator=rng)  # beyond 0 ... 1, too
    assert torch.equal(resize(picture, 9, 7), picture)
    assert torch.equal(resize_back(picture, 9, 7), picture)


@pytest.mark.parametrize("size", [288, 300, 512, 1024])
def test_what_was_enlarged_comes_back(size):
    """Within a third of an 8-bit step. Lanczos alone loses 15 steps at the edges of things."""
    picture = photograph(0.2, 0.8)  # so that enlarging does not clip
    large = resize(picture, size, size)
    assert (resize_back(large, 256, 256) - picture).abs().max() * 255 < 1 / 3
    assert (resize(large, 256, 256) - picture).abs().max() * 255 > 10


@pytest.mark.parametrize("size", [257, 260, 272])
def test_next_to_equal_size_it_is_still_much_better(size):
    picture = photograph(0.2, 0.8)
    large = resize(picture, size, size)
    ours, plain = ((work(large, 256, 256) - picture).abs().mean() for work in (resize_back, resize))
    assert ours < plain / 3


def test_what_was_shrunk_is_resampled():
    small = photograph()[:100, :130]
    assert torch.equal(resize_back(small, 200, 201), resize(small, 200, 201))


def test_noise_does_not_blow_up(rng):
    noise = 0.5 + 0.01 * torch.randn(257, 300, 1, generator=rng)
    assert resize_back(noise, 256, 256).std() < 0.015
    assert (resize_back(torch.full((300, 300, 1), 0.7), 200, 256) - 0.7).abs().max() < 1e-6


@pytest.mark.parametrize("size", [(20, 30), (40, 47), (41, 61), (90, 111)])
def test_reach_is_what_a_pixel_can_change(size, rng):
    picture, (height, width) = 0.4 + 0.2 * torch.rand(41, 60, 1, generator=rng), size
    before = resize_back(picture, height, width)
    for y, x in ((0, 0), (20, 31), (40, 7)):
        pixel = torch.zeros(41, 60, dtype=torch.bool)
        pixel[y, x] = True
        changed = resize_back(picture + 0.3 * pixel[..., None], height, width) != before
        reached = reach(pixel, height, width)
        assert not (changed[..., 0] & ~reached).any()
        assert changed.any()
    assert not reach(torch.zeros(41, 60, dtype=torch.bool), height, width).any()


def test_reach_is_not_everything():
    pixel = torch.zeros(41, 60, dtype=torch.bool)
    pixel[20, 30] = True
    assert torch.equal(reach(pixel, 41, 60), pixel)
    rows, columns = reach(pixel, 82, 120).nonzero().unbind(1)
    assert rows.max() - rows.min() < 2 * (2 * LOBES + 1)
    assert columns.max() - columns.min() < 2 * (2 * LOBES + 1)
