"""Harmonic fill against SciPy's direct solver, and against what is known of harmonic functions."""

import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pentimento.model_patchers.fill.harmonic import MAX_STEPS, harmonic

SIDES = st.integers(1, 12)
LIMITS = settings(max_examples=100)


@st.composite
def holed_pictures(draw):
    shape = draw(st.tuples(SIDES, SIDES))
    picture = draw(hnp.arrays(np.float32, (*shape, 3), elements=st.floats(0, 1, width=32)))
    hole = draw(hnp.arrays(np.bool_, shape).filter(lambda hole: not hole.all()))
    return torch.from_numpy(picture), torch.from_numpy(hole)


def direct(picture, hole):
    """Every pixel's equation, one by one, solved by elimination."""
    (height, width), picture, hole = hole.shape, picture.double().numpy(), hole.numpy()
    a = scipy.sparse.lil_matrix((height * width, height * width))
    b = np.zeros((height * width, picture.shape[2]))
    for y, x in np.ndindex(height, width):
        i = y * width + x
        if not hole[y, x]:
            a[i, i], b[i] = 1, picture[y, x]
            continue
        for v, u in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            if 0 <= v < height and 0 <= u < width:
                a[i, i] += 1
                a[i, v * width + u] -= 1
    return torch.from_numpy(scipy.sparse.linalg.spsolve(a.tocsr(), b).reshape(picture.shape))


@LIMITS
@given(holed_pictures())
def test_equals_elimination(case):
    picture, hole = case
    assert (harmonic(picture, hole) - direct(picture, hole)).abs().max() < 1e-5


@pytest.mark.parametrize("size", [(60, 83), (96, 64)])
def test_equals_elimination_in_big_holes(rng, size):
    picture = torch.rand(*size, 4, generator=rng)
    hole = torch.rand(*size, generator=rng) < 0.5
    hole[10:50, 20:] = True
    assert (harmonic(picture, hole) - direct(picture, hole)).abs().max() < 1e-5


def ramp(height, width):
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    return torch.stack((y, x, (2 * x + y) / 3), -1)


@pytest.mark.parametrize(("height", "width"), [(3, 3), (50, 70), (257, 300), (1024, 1024)])
def test_a_linear_ramp_comes_back(height, width, one_thread):
    picture, steps = ramp(height, width), []
    hole = torch.zeros(height, width, dtype=torch.bool)
    hole[1 : height - 1, width // 3 : -1] = True
    filled = harmonic(picture.masked_fill(hole[..., None], 0), hole, steps.append)
    assert (filled - picture).abs().max() < 1e-4
    assert len(steps) < MAX_STEPS / 2, "a multigrid that converges takes few steps, whatever the size"
    assert sum(steps) == hole.sum()


def test_nothing_flows_across_the_borders():
    picture = ramp(40, 60)[..., :1]  # from top to bottom
    hole = torch.zeros(40, 60, dtype=torch.bool)
    hole[1:-1, 20:] = True
    assert (harmonic(picture, hole) - picture).abs().max() < 1e-5


@LIMITS
@given(holed_pictures())
def test_stays_between_the_known_values(case):
    picture, hole = case
    filled, known = harmonic(picture, hole), picture[~hole]
    assert (filled >= known.amin(0) - 1e-5).all()
    assert (filled <= known.amax(0) + 1e-5).all()


@LIMITS
@given(holed_pictures(), st.floats(0, 1, width=32))
def test_a_constant_stays(case, value):
    picture, hole = case
    assert (harmonic(torch.full_like(picture, value), hole) - value).abs().max() < 1e-5


@LIMITS
@given(holed_pictures())
def test_reads_nothing_inside_and_changes_nothing_outside(case):
    picture, hole = case
    blind = picture.masked_fill(hole[..., None], torch.nan)
    filled = harmonic(blind, hole)
    assert torch.equal(filled, harmonic(picture, hole))
    assert torch.equal(filled[~hole], picture[~hole])


def test_without_a_known_pixel_it_is_mid_grey(rng):
    picture = torch.rand(5, 7, 3, generator=rng)
    assert (harmonic(picture, torch.ones(5, 7, dtype=torch.bool)) == 0.5).all()


def test_without_a_hole_it_is_the_picture(rng):
    picture = torch.rand(5, 7, 3, generator=rng)
    assert torch.equal(harmonic(picture, torch.zeros(5, 7, dtype=torch.bool)), picture)
