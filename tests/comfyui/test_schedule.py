"""Where a run stands: against ComfyUI's own counting, for every kind of schedule."""

import comfy.model_sampling
import comfy.samplers
import pytest
import torch

from pentimento.model_patchers.comfyui.schedule import Interval, left, seeded, step


class Discrete(comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.EPS):
    pass


class Continuous(comfy.model_sampling.ModelSamplingContinuousEDM, comfy.model_sampling.EDM):
    pass


class Flow(comfy.model_sampling.ModelSamplingDiscreteFlow, comfy.model_sampling.CONST):
    pass


SAMPLINGS = {"discrete": Discrete, "continuous": Continuous, "flow": Flow}


@pytest.mark.parametrize("name", SAMPLINGS)
@pytest.mark.parametrize("percent", [0.1, 0.5, 0.9])
def test_left_is_what_comfyuis_percent_leaves(name, percent):
    sampling = SAMPLINGS[name]()
    sigma = torch.tensor([float(sampling.percent_to_sigma(percent))])
    assert left(sampling, sigma) == pytest.approx(1 - percent, abs=0.002)
    assert 0.999 <= left(sampling, sampling.sigma_max[None] * 2) <= 1
    assert left(sampling, torch.zeros(1)) == 0


@pytest.mark.parametrize("name", SAMPLINGS)
def test_an_interval_holds_what_comfyuis_timestep_range_holds(name):
    """As get_area_and_mult decides by timestep_start and timestep_end: both ends belong to it."""
    sampling = SAMPLINGS[name]()
    sigmas = comfy.samplers.calculate_sigmas(sampling, "normal", 20)[:-1]
    start, end = (float(sampling.percent_to_sigma(percent)) for percent in (0.25, 0.75))
    sigmas = torch.cat((sigmas, torch.tensor([start, end, start * 1.001, end * 0.999])))
    from_comfyui = []
    for sigma in sigmas:
        cond = {"timestep_start": start, "timestep_end": end, "model_conds": {}, "uuid": None}
        from_comfyui.append(comfy.samplers.get_area_and_mult(cond, torch.zeros(1, 4, 8, 8), sigma[None]) is not None)
    ours = [Interval(0.25, 0.75).holds(sampling, sigma[None]) for sigma in sigmas]
    assert ours == from_comfyui
    assert set(ours) == {True, False}
    assert all(Interval(0, 1).holds(sampling, sigma[None]) for sigma in sigmas)


def test_a_step_lasts_until_the_next_sigma():
    sigmas = torch.tensor([8.0, 4.0, 2.0, 0.0])
    assert step(torch.tensor([9.0, 8.0, 5.0, 4.0, 3.0, 2.0, 1.0]), sigmas).tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert step(torch.tensor([4.0 * (1 + 5e-6)]), sigmas).tolist() == [1], "rounding"


def test_seeded_noise_depends_on_the_seed_alone():
    before = torch.get_rng_state()
    a = seeded(3, (4, 64))
    torch.manual_seed(5)
    assert torch.equal(a, seeded(3, (4, 64)))
    assert not torch.equal(a, seeded(4, (4, 64)))
    torch.set_rng_state(before)
    seeded(3, (4, 64))
    assert torch.equal(before, torch.get_rng_state())
    generator = torch.Generator().manual_seed(3)
    assert torch.equal(a[:, None], torch.stack([torch.randn(1, 64, generator=generator) for _ in range(4)]))
