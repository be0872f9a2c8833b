"""Window plans: complete, exact and without seams, whatever the plan."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pentimento.model_patchers.upscale import tiles


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


PLANS = {
    "grid": lambda h, w, size: tiles.grid(h, w, size, min(size) // 4),
    "jitter": lambda h, w, size: tiles.grid(h, w, size, min(size) // 2, generator()),
    "rolled": lambda h, w, size: tiles.rolled(h, w, size, generator()),
    "dilated": lambda h, w, size: tiles.dilated(h, w, min(3, h, w)),
}
WEIGHTS = {
    "uniform": tiles.uniform,
    "gaussian": tiles.gaussian,
}


def fused(x, windows, weight, work=lambda part: part):
    fusion = tiles.Fusion(x)
    for window in windows:
        fusion.add(window, work(tiles.gather(x, window)), weight(*window.size))
    return fusion.mean


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("plan", PLANS)
@settings(max_examples=25)
@given(st.integers(1, 70), st.integers(1, 70), st.integers(8, 40), st.integers(8, 40), st.booleans())
def test_an_identity_gives_its_input_back_to_the_bit(plan, weight, height, width, h, w, five):
    """Borders included, for latents of four and of five dimensions."""
    x = torch.randn(2, 3, *([2] if five else []), height, width, generator=generator(1))
    windows = PLANS[plan](height, width, (h, w))
    assert torch.equal(fused(x, windows, WEIGHTS[weight]), x)
    assert len({window.size for window in windows}) == 1, "windows of one size can share a batch"


def test_the_plain_mean_differs_in_the_last_bits():
    """A sum divided by the sum of weights, as other packs have it, is no identity."""
    x = torch.randn(1, 1, 64, 64, generator=generator())
    total, value = torch.zeros(64, 64), torch.zeros_like(x)
    for window in tiles.grid(64, 64, (16, 16), 8):
        place = window.y.at[:, None], window.x.at
        value[(..., *place)] += tiles.gather(x, window) * tiles.gaussian(16, 16)
        total[place] += tiles.gaussian(16, 16)
    assert not torch.equal(value / total, x)


@pytest.mark.parametrize("weight", WEIGHTS)
def test_the_fusion_is_the_weighted_mean(weight):
    x = torch.randn(1, 2, 40, 56, generator=generator())
    windows = tiles.grid(40, 56, (16, 24), 8)
    parts = [torch.randn(1, 2, 16, 24, generator=generator(i)) for i in range(len(windows))]
    fusion, value, total = tiles.Fusion(x), torch.zeros_like(x).double(), torch.zeros(40, 56).double()
    for window, part in zip(windows, parts, strict=True):
        fusion.add(window, part, WEIGHTS[weight](16, 24))
        (top, left), (h, w) = window.origin, window.size
        value[..., top : top + h, left : left + w] += part * WEIGHTS[weight](16, 24).double()
        total[top : top + h, left : left + w] += WEIGHTS[weight](16, 24).double()
    assert torch.allclose(fusion.mean.double(), value / total, atol=1e-5)


@pytest.mark.parametrize("s", [1, 2, 3, 4, 8])
def test_a_grid_has_as_many_windows_as_demofusion_counts(s):
    """int((L - 128) / stride - 1e-6) + 2 along each axis, (2 s - 1)^2 at half overlap."""
    for overlap in (32, 64, 96):
        count = int((128 * s - 128) / (128 - overlap) - 1e-6) + 2 if s > 1 else 1
        assert len(tiles.grid(128 * s, 128, (128, 128), overlap)) == count
    assert len(tiles.grid(128 * s, 128 * s, (128, 128), 64)) == (2 * s - 1) ** 2
    assert len(tiles.dilated(128 * s, 128 * s, s)) == s**2


def test_windows_end_at_the_border():
    windows = tiles.grid(37, 50, (16, 16), 4)
    for axis, length in enumerate((37, 50)):
        assert min(int(window[axis].at[0]) for window in windows) == 0
        assert max(int(window[axis].at[-1]) for window in windows) == length - 1


def test_jitter_moves_inner_windows_by_up_to_a_quarter_of_the_overlap():
    plain = tiles.grid(256, 256, (64, 64), 32)
    moves = torch.tensor(
        [
            [a - b for a, b in zip(one.origin, other.origin, strict=True)]
            for seed in range(40)
            for one, other in zip(tiles.grid(256, 256, (64, 64), 32, generator(seed)), plain, strict=True)
        ]
    )
    assert moves.max() == 8 and moves.min() == -8
    corner = moves.view(40, len(plain), 2)[:, 0]
    assert (corner == 0).all()


def test_rolled_windows_hold_every_pixel_once_and_move():
    origins = set()
    for seed in range(5):
        windows = tiles.rolled(48, 64, (16, 16), generator(seed))
        count = torch.zeros(48, 64)
        for window in windows:
            count[window.y.at[:, None], window.x.at] += 1
        assert (count == 1).all() and len(windows) == 12
        origins.add(windows[0].origin)
    assert len(origins) == 5
    assert any(y != x for y, x in origins), "both axes roll on their own"


def test_dilated_views_are_strided_slices():
    x = torch.randn(1, 2, 7, 9, generator=generator())
    for window in tiles.dilated(7, 9, 2):
        i, j = int(window.y.at[0]), int(window.x.at[0])
        view = x[..., i::2, j::2]
        assert torch.equal(tiles.gather(x, window)[..., : view.shape[-2], : view.shape[-1]], view)
        assert window.size == (4, 5) and window.origin == (0, 0)


def test_a_finer_picture_is_cut_alike():
    hint = torch.randn(1, 3, 8 * 20, 8 * 24, generator=generator())
    window = tiles.grid(20, 24, (8, 8), 4)[4]
    top, left = window.origin
    cut = hint[..., 8 * top : 8 * top + 64, 8 * left : 8 * left + 64]
    assert torch.equal(tiles.gather(hint, window, 8), cut)


def test_a_dilated_view_of_a_finer_picture_is_its_mean():
    """Pixel j of view i is the mean of the pixels from 8 i + s j on; where there is no detail, DemoFusion's sample."""
    s, hint = 2, torch.randn(1, 1, 64, 64, generator=generator())
    window = tiles.dilated(8, 8, s)[0]
    expected = torch.nn.functional.avg_pool2d(hint, s)
    assert torch.allclose(tiles.gather(hint, window, 8), expected)
    flat = torch.full((1, 1, 64, 64), 0.25)
    assert torch.equal(tiles.gather(flat, tiles.dilated(8, 8, s)[3], 8), torch.full((1, 1, 32, 32), 0.25))


def test_the_gaussian_of_an_oblong_window_is_as_wide_as_the_window():
    """Against the formula of Mixture of Diffusers, along each axis with that axis's length."""
    weight, (h, w) = tiles.gaussian(16, 48), (16, 48)
    y, x = 3, 40
    d = ((y - (h - 1) / 2) / h) ** 2 + ((x - (w - 1) / 2) / w) ** 2
    assert math.isclose(float(weight[y, x]), math.exp(-d / 0.02), rel_tol=1e-5)
    assert torch.allclose(weight, tiles.gaussian(48, 16).T)


@settings(max_examples=50)
@given(st.integers(0, 60), st.integers(1, 60))
def test_a_stretch_of_the_axis_is_found_in_the_window(first, count):
    for line in [
        tiles.grid(1, 64, (1, 16), 0)[2].x,
        tiles.rolled(1, 64, (1, 16), generator(3))[3].x,
        tiles.dilated(1, 64, 1)[0].x,
        tiles.dilated(64, 64, 3)[1].x,
    ]:
        found = [i for start, length in line.runs(first, count) for i in range(start, start + length)]
        assert found == [i for i, at in enumerate(line.at.tolist()) if first <= at < first + count]
