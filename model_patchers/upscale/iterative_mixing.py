"""DemoFusion's skip residual (Du et al., "DemoFusion: Democratising High-Resolution Image Generation With No $$$", CVPR
2024, arXiv 2311.16973, section 3.2) for ComfyUI's samplers: before every call of the model, the noised latent is mixed
into x.
"""

import copy
import inspect
import math
from collections.abc import Callable
from functools import partial, wraps

from comfy.samplers import KSAMPLER, CFGGuider, KSamplerX0Inpaint, Sampler
from torch import Tensor

from ..comfyui import schedule
from ..comfyui.schedule import Interval, ModelSampling

NODE = "Iterative Mixing Sampler"
REFUSED = {  # by the name of the sampler function
    "dpm_fast_function": "dpm_fast chooses its own noise levels",
    "dpm_adaptive_function": "dpm_adaptive chooses its own noise levels and measures its error from step to step",
    "sample_unipc": "uni_pc gives the model a copy of the x that it samples",
    "sample_unipc_bh2": "uni_pc_bh2 gives the model a copy of the x that it samples",
    "sample_ar_video": "ar_video samples a video block by block",
    "sample_lcm_upscale": "SamplerLCMUpscale changes the latent's size between the steps",
}
NO_NOISE = {"sample_res_multistep", "sample_res_multistep_cfg_pp"}  # they ignore their noise_sampler


def cosine(left: float) -> float:
    """DemoFusion's f = (1 + cos(pi (T - t) / T)) / 2 of left = t / T: 1 at the start, 0 at the end."""
    return 0.5 * (1 + math.cos(math.pi * (1 - left)))


def mix(x: Tensor, clean: Tensor, noised: Tensor, c: float) -> Tensor:
    """(1 - c) x + c noised without loss of noise, for samplers whose noise differs from the run's own.

    Let x = m + s n and noised = clean + s e with unit noises n and e, and r the correlation of n and e. The noise of
    the plain sum has the variance (1 - c)^2 + c^2 + 2 c (1 - c) r: at c = 1/2 and r = 0, half of it is lost. So e gets
    the weight w for which (1 - c)^2 + w^2 + 2 (1 - c) w r = 1: w = sqrt(1 - (1 - c)^2 (1 - r^2)) - (1 - c) r. If n
    equals e, then r = 1 and w = c, the plain sum.

    r is estimated for each picture as <x - clean, s e> / <s e, s e>. The content added by the model, m - clean, is
    nearly orthogonal to e and hardly changes r.

    Args:
        x, clean, noised: (B, ...), all at one noise level.
        c: 0 ... 1.
    """
    dims, rest = tuple(range(1, x.ndim)), 1 - c
    noise = noised - clean
    r = ((x - clean) * noise).sum(dims, keepdim=True) / noise.square().sum(dims, keepdim=True)  # (B, 1, ...)
    r = r.clamp(0, 1)
    w = (1 - rest**2 * (1 - r**2)).sqrt() - rest * r
    return rest * x + c * clean + w * noise


def draws_noise(sampler: KSAMPLER) -> bool:
    """Whether the sampler adds noise of its own between steps."""
    parameters = inspect.signature(sampler.sampler_function).parameters
    options = {name: p.default for name, p in parameters.items()} | sampler.extra_options
    if options.get("s_noise", 1) == 0:
        return False
    if "noise_sampler" not in parameters:
        return options.get("s_churn", 0) != 0
    return options.get("eta", 1) != 0 and getattr(sampler.sampler_function, "__name__", "") not in NO_NOISE


class HeldDenoiser:
    """The denoiser that a sampler function calls. It changes the sampler's own x before it calls the model.

    Args:
        hold: A function of x and sigma that writes to x.
    """

    def __init__(self, model: KSamplerX0Inpaint, hold: Callable[[Tensor, Tensor], None]):
        self.model, self.hold = model, hold

    def __call__(self, x: Tensor, sigma: Tensor, **kwargs) -> Tensor:
        self.hold(x, sigma)
        return self.model(x, sigma, **kwargs)

    def __getattr__(self, name: str) -> object:
        return getattr(self.model, name)


class IterativeMixing(KSAMPLER):
    """A sampler of ComfyUI that is held to the noised latent: x <- (1 - c) x + c z' before every call of the model.

    z' is the latent with the run's own noise at the sigma of the call, and c = f^exponent, f = cosine(t / T) at that
    sigma. Outside `interval` x stays as it is.
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
        """Samples as KSAMPLER.sample does.

        Raises:
            ValueError: The run has no noise.
        """
        if not noise.flatten(1).any(1).all():
            raise ValueError(
                f"{NODE} mixes in the latent with the run's own noise, but this run has none. Turn "
                "add_noise on (SamplerCustom), or give SamplerCustomAdvanced a RandomNoise instead of DisableNoise."
            )
        hold = partial(self._hold, model_wrap.inner_model.model_sampling, noise, latent_image, draws_noise(self.base))
        held, sample = copy.copy(self.base), self.sampler_function

        @wraps(sample)
        def sample_held(model: KSamplerX0Inpaint, x: Tensor, *args: object, **kwargs) -> Tensor:
            return sample(HeldDenoiser(model, hold), x, *args, **kwargs)

        held.sampler_function = sample_held
        return held.sample(model_wrap, sigmas, extra_args, callback, noise, latent_image, denoise_mask, disable_pbar)

    def _hold(
        self, sampling: ModelSampling, noise: Tensor, latent: Tensor, draws: bool, x: Tensor, sigma: Tensor
    ) -> None:
        """Mixes the noised latent into x.

        Args:
            noise, latent: (B, ...), the run's own.
            draws: Whether the sampler adds noise of its own.
            x: (B, ...), which is written to.
        """
        sigma = sigma.flatten()[:1]
        if not self.interval.holds(sampling, sigma):
            return
        c = cosine(schedule.left(sampling, sigma)) ** self.exponent
        noised = sampling.noise_scaling(sigma, noise, latent)
        if draws:
            clean = sampling.noise_scaling(sigma, noise.new_zeros(()).expand_as(noise), latent)
            x.copy_(mix(x, clean, noised, c))
        else:
            x.lerp_(noised, c)


def iterative_mixing(sampler: Sampler, exponent: float, interval: Interval, node: str = NODE) -> IterativeMixing:
    """A sampler that is held to the noised latent. A held sampler gets the new settings instead of its own.

    Args:
        exponent: Of f, 0 or more: the larger, the sooner the sampler is free.
        interval: The part of the run in which it is held.
        node: The node's display name, for messages.

    Raises:
        ValueError: The sampler cannot be held.
    """
    if isinstance(sampler, IterativeMixing):
        sampler = sampler.base
    if not isinstance(sampler, KSAMPLER):
        raise ValueError(
            f"{node} got a sampler of the kind {type(sampler).__name__}, which does not run one of "
            "ComfyUI's sampler functions. Choose one with KSamplerSelect, such as euler or dpmpp_2m."
        )
    if reason := REFUSED.get(getattr(sampler.sampler_function, "__name__", "")):
        raise ValueError(
            f"{node} cannot hold this sampler to the noised latent: {reason}. Choose another, such "
            "as euler, dpmpp_2m or dpmpp_2m_sde."
        )
    return IterativeMixing(sampler, exponent, interval)
