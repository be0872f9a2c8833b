"""DemoFusion's skip residual (Du et al., "DemoFusion: Democratising High-Resolution Image Generation With No $$$", CVPR
2024, arXiv 2311.16973, section 3.2) for the host's samplers: what they sample is held to the noised latent.
"""

import copy
import inspect
import math
from collections.abc import Callable
from functools import wraps

from comfy.samplers import KSAMPLER, CFGGuider, KSamplerX0Inpaint, Sampler
from torch import Tensor

from ..comfyui import schedule
from ..comfyui.schedule import Interval, ModelSampling

NODE = "Iterative Mixing Sampler"
REFUSED = {  # by the name of the function that samples
    "dpm_fast_function": "dpm_fast chooses its own noise levels",
    "dpm_adaptive_function": "dpm_adaptive chooses its own noise levels and measures its error from step to step",
    "sample_unipc": "uni_pc samples a copy of what the model sees",
    "sample_unipc_bh2": "uni_pc_bh2 samples a copy of what the model sees",
    "sample_ar_video": "ar_video samples a video block by block",
    "sample_lcm_upscale": "SamplerLCMUpscale changes the latent's size between the steps",
}
NO_NOISE = {"sample_res_multistep", "sample_res_multistep_cfg_pp"}  # take a noise_sampler and use none of its noise


def cosine(left: float) -> float:
    """DemoFusion's f = (1 + cos(pi (T - t) / T)) / 2 of left = t / T: 1 at the start, 0 at the end."""
    return 0.5 * (1 + math.cos(math.pi * (1 - left)))


def mix(x: Tensor, clean: Tensor, noised: Tensor, c: float) -> Tensor:
    """(1 - c) x + c noised, with as much noise as both have, also where the noise in x is another one.

    Write x = m + s n and noised = clean + s e with unit noises n and e. The plain sum's noise has the variance
    (1 - c)^2 + c^2 + 2 c (1 - c) r, r the correlation of n and e: half of it is lost at c = 1/2, r = 0. So e is given
    the weight w for which (1 - c)^2 + w^2 + 2 (1 - c) w r = 1. If n is e, r = 1 and w = c: the plain sum.

    Args:
        x, clean, noised: (B, ...), all at one noise level.
        c: 0 ... 1.

    r comes from each picture, as <x - clean, s e> / <s e, s e>. What the model drew meanwhile, m - clean, has as good
    as no share in that.
    """
    dims, kept = tuple(range(1, x.ndim)), 1 - c
    noise = noised - clean
    r = ((x - clean) * noise).sum(dims, keepdim=True) / noise.square().sum(dims, keepdim=True)  # (B, 1, ...)
    r = r.clamp(0, 1)
    w = (1 - kept**2 * (1 - r**2)).sqrt() - kept * r
    return kept * x + c * clean + w * noise


def draws_noise(sampler: KSAMPLER) -> bool:
    """Whether the sampler adds noise of its own between the steps."""
    parameters = inspect.signature(sampler.sampler_function).parameters
    options = {name: p.default for name, p in parameters.items()} | sampler.extra_options
    if options.get("s_noise", 1) == 0:
        return False
    if "noise_sampler" not in parameters:
        return options.get("s_churn", 0) != 0
    return options.get("eta", 1) != 0 and getattr(sampler.sampler_function, "__name__", "") not in NO_NOISE


class Mixing:
    """The denoiser as a sampler function calls it, which first mixes the noised latent into the sampler's own x."""

    def __init__(self, model: KSamplerX0Inpaint, mix_in: Callable[[Tensor, Tensor], None]):
        self.model, self.mix_in = model, mix_in

    def __call__(self, x: Tensor, sigma: Tensor, **kwargs) -> Tensor:
        self.mix_in(x, sigma)
        return self.model(x, sigma, **kwargs)

    def __getattr__(self, name: str) -> object:
        return getattr(self.model, name)


class IterativeMixing(KSAMPLER):
    """A sampler of the host that is held to the noised latent: x <- (1 - c) x + c z' before every call of the model.

    z' is the latent with the run's own noise at the noise level that the model is told, whatever the kind of model, and
    c = f^exponent by the timestep there (`cosine`), within `interval`.
    """

    def __init__(self, base: KSAMPLER, exponent: float, interval: Interval):
        super().__init__(base.sampler_function, base.extra_options, base.inpaint_options)
        self.base, self.exponent, self.interval = base, exponent, interval

    def sample(
        self,
        model_wrap: CFGGuider,
        sigmas: Tensor,
        extra_args: dict,
        callback: Callable | None,
        noise: Tensor,  # (B, ...)
        latent_image: Tensor | None = None,
        denoise_mask: Tensor | None = None,
        disable_pbar: bool = False,
    ) -> Tensor:
        """As KSAMPLER.sample.

        Raises:
            ValueError: There is no noise.
        """
        if not noise.flatten(1).any(1).all():
            raise ValueError(
                f"{NODE} mixes in the latent with the run's own noise, but this run has none. Turn "
                "add_noise on (SamplerCustom), or give SamplerCustomAdvanced a RandomNoise instead of DisableNoise."
            )
        mix_in = self._mixer(model_wrap.inner_model.model_sampling, noise, latent_image)
        run, sample = copy.copy(self.base), self.sampler_function

        @wraps(sample)
        def mixed(model: KSamplerX0Inpaint, x: Tensor, *args: object, **kwargs) -> Tensor:
            return sample(Mixing(model, mix_in), x, *args, **kwargs)

        run.sampler_function = mixed
        return run.sample(model_wrap, sigmas, extra_args, callback, noise, latent_image, denoise_mask, disable_pbar)

    def _mixer(self, sampling: ModelSampling, noise: Tensor, latent: Tensor) -> Callable[[Tensor, Tensor], None]:
        """A function of x and sigma that mixes the noised latent into x."""
        draws, silence = draws_noise(self.base), noise.new_zeros(())

        def mix_in(x: Tensor, sigma: Tensor) -> None:
            level = sigma.flatten()[:1]
            if not self.interval.holds(sampling, level):
                return
            c = cosine(schedule.left(sampling, level)) ** self.exponent
            noised = sampling.noise_scaling(level, noise, latent)
            if draws:
                x.copy_(mix(x, sampling.noise_scaling(level, silence.expand_as(noise), latent), noised, c))
            else:
                x.lerp_(noised, c)

        return mix_in


def iterative_mixing(sampler: Sampler, exponent: float, interval: Interval, node: str = NODE) -> IterativeMixing:
    """The sampler, held to the noised latent while it samples. One that is so already gets these settings instead.

    Args:
        sampler: Not changed.
        exponent: Of f, 0 ...: the larger, the sooner the sampler is free.
        interval: The part of the run in which it is held.
        node: The node's display name, for messages.

    Raises:
        ValueError: The sampler cannot be held.
    """
    if isinstance(sampler, IterativeMixing):
        sampler = sampler.base
    if not isinstance(sampler, KSAMPLER):
        raise ValueError(
            f"{node} got a sampler of the kind {type(sampler).__name__}, which calls the model in a "
            "way of its own. Choose one with KSamplerSelect, such as euler or dpmpp_2m."
        )
    if reason := REFUSED.get(getattr(sampler.sampler_function, "__name__", "")):
        raise ValueError(
            f"{node} cannot hold this sampler to the noised latent: {reason}. Choose another, such "
            "as euler, dpmpp_2m or dpmpp_2m_sde."
        )
    return IterativeMixing(sampler, exponent, interval)
