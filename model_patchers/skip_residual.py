"""DemoFusion's skip residual (Du et al., "DemoFusion: Democratising High-Resolution Image Generation With No $$$", CVPR
2024, arXiv 2311.16973, section 3.2): while it is sampled, the latent is held to the noised latent it began from.
"""

import math

from comfy.model_sampling import CONST, ModelSamplingContinuousEDM, ModelSamplingDiscrete, StableCascadeSampling
from torch import Tensor


def progress_left(model_sampling: ModelSamplingDiscrete | ModelSamplingContinuousEDM | CONST, sigma: Tensor) -> float:
    """The part t / T of the way from picture to noise, 0 ... 1, that an evaluation at `sigma` (of one element) is at.

    The timestep over their number where a model has timesteps; a flow model's sigma is t / T as it is; on a continuous
    schedule of sigmas the host counts by their logarithm (percent_to_sigma), so it is where log sigma lies.
    """
    if isinstance(model_sampling, CONST):
        left = float(sigma)
    elif isinstance(model_sampling, StableCascadeSampling):
        left = float(model_sampling.timestep(sigma))
    elif isinstance(model_sampling, ModelSamplingDiscrete):
        left = float(ModelSamplingDiscrete.timestep(model_sampling, sigma)) / len(model_sampling.sigmas)
    else:
        low, high = math.log(model_sampling.sigma_min), math.log(model_sampling.sigma_max)
        left = (math.log(max(sigma, model_sampling.sigma_min)) - low) / (high - low)
    return min(max(left, 0.0), 1.0)


def cosine(left: float) -> float:
    """DemoFusion's f = (1 + cos(pi (T - t) / T)) / 2 of left = t / T: 1 at the start, 0 at the end."""
    return 0.5 * (1 + math.cos(math.pi * (1 - left)))
