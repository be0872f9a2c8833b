"""Gain and offset against NumPy's line fits."""

import numpy as np
import torch

from pentimento.model_patchers.pixels.exposure import exposure


def scene(rng, noise=0.0):
    theirs = 0.2 + 0.6 * torch.rand(2000, 3, generator=rng)
    return theirs, noise * torch.randn(2000, 3, generator=rng)


def test_equals_a_line_fit_where_nothing_is_far_off(rng):
    theirs, noise = scene(rng, 0.002)
    ours = theirs * torch.tensor([0.85, 1.0, 1.1]) + torch.tensor([0.02, -0.03, 0.0]) + noise
    fit = exposure(ours, theirs)
    lines = [np.polyfit(theirs[:, c], ours[:, c], 1) for c in range(3)]
    assert np.abs(torch.stack((fit.gain, fit.offset), 1).numpy() - lines).max() < 1e-3
    assert fit.helps
    assert (fit.applied(theirs) - ours).abs().max() < 0.02


def test_a_thing_in_one_picture_alone_does_not_count(rng):
    theirs, noise = scene(rng, 0.002)
    ours = 0.9 * theirs + noise
    ours[:300] = torch.tensor([1.0, 0.0, 1.0])
    fit = exposure(ours, theirs)
    assert (fit.gain - 0.9).abs().max() < 0.01
    assert np.abs(np.polyfit(theirs[:, 0], ours[:, 0], 1)[0] - 0.9) > 0.05  # plain least squares


def test_noise_alone_changes_no_bit(rng):
    theirs, noise = scene(rng, 0.01)
    fit = exposure(theirs + noise, theirs)
    assert not fit.helps
    assert torch.equal(fit.applied(theirs), theirs)


def test_points_of_one_colour_have_no_gain():
    ours, theirs = torch.full((50, 3), 0.5), torch.full((50, 3), 0.4)
    assert torch.allclose(exposure(ours, theirs).applied(theirs), ours, atol=1e-3)
