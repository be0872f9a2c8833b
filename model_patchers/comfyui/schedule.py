"""Where a run stands: the step, the part that is left, and whether a range of percents holds it."""

import math
from typing import NamedTuple

import torch
from comfy.model_sampling import CONST, ModelSamplingContinuousEDM, ModelSamplingDiscrete, StableCascadeSampling
from torch import Tensor

ModelSampling = ModelSamplingDiscrete | ModelSamplingContinuousEDM | CONST

SAME = 1 + 1e-5  # two sigmas with a smaller ratio count as equal


def left(sampling: ModelSampling, sigma: Tensor) -> float:
    """The part t / T of a whole schedule, 0 ... 1, that is left to run at `sigma` (of one element).

    With timesteps, t / T is the timestep over their number. In a flow model it is sigma. In a continuous schedule
    ComfyUI counts by the logarithm of sigma (percent_to_sigma), and so does `left`.
    """
    if isinstance(sampling, CONST):
        t = float(sigma)
    elif isinstance(sampling, StableCascadeSampling):
        t = float(sampling.timestep(sigma))
    elif isinstance(sampling, ModelSamplingDiscrete):
        t = float(ModelSamplingDiscrete.timestep(sampling, sigma)) / len(sampling.sigmas)
    else:
        low, high = float(sampling.sigma_min), float(sampling.sigma_max)
        t = math.log(max(float(sigma), low) / low) / math.log(high / low)
    return min(max(t, 0.0), 1.0)


def step(sigma: Tensor, sigmas: Tensor) -> Tensor:
    """The step, 0 ... T - 1, that an evaluation at `sigma` (B,) belongs to in the schedule `sigmas` (T + 1,): (B,).

    An evaluation between two sigmas of the schedule belongs to the step that begins at the first of them.
    """
    return (sigma[:, None] <= sigmas[1:-1] * SAME).sum(-1)


class Interval(NamedTuple):
    """A part of the run, from `start` to `end`, both 0 ... 1: the inputs start_percent and end_percent of nodes."""

    start: float
    end: float

    def holds(self, sampling: ModelSampling, sigma: Tensor) -> bool:
        """Whether `sigma` (of one element) lies in it, both ends included, as in ComfyUI's timestep ranges."""
        return bool(sampling.percent_to_sigma(self.end) <= sigma <= sampling.percent_to_sigma(self.start))


def seeded(seed: int, shape: tuple[int, ...]) -> Tensor:
    """Noise of spread 1 that depends on the seed alone: drawn on the CPU, from a generator of its own."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
