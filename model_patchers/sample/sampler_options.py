"""Options of ComfyUI's samplers, and noise between the steps that is drawn from a seed of its own.

s_churn, s_tmin, s_tmax and s_noise are those of Karras et al., "Elucidating the Design Space of Diffusion-Based
Generative Models", NeurIPS 2022, algorithm 2; eta is the share of the noise of an ancestral step or of an SDE.

A1111's "eta noise seed delta" (ENSD): picture i of a batch starts from the seed s + i, and its noise between the steps
comes from a new generator with the seed s + i + ENSD. Samplers with a Brownian tree are not affected there; here the
tree gets the seed s + ENSD.
"""

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

import torch
from comfy.k_diffusion import sampling
from comfy.samplers import KSAMPLER, SAMPLER_NAMES, sampler_object
from torch import Tensor

NODE = "Sampler Options"
NEUTRAL = {"s_churn": 0.0, "s_tmin": 0.0, "s_tmax": 0.0, "s_noise": 1.0, "eta": 1.0, "noise_seed_offset": 0}
NO_NOISE = {"res_multistep", "res_multistep_cfg_pp"}  # they have s_noise and fix eta at 0
SEEDS = 2**64


def names(sampler_name: str) -> set[str]:
    """The options that a sampler has, of NEUTRAL's names, and "noise_sampler" where it takes noise for its steps."""
    function = sampler_object(sampler_name).sampler_function
    if sampler_name == "dpm_adaptive":  # ComfyUI hands its options on
        function = sampling.sample_dpm_adaptive
    parameters = {*inspect.signature(function).parameters} & {*NEUTRAL, "noise_sampler"}
    if sampler_name in NO_NOISE:
        return set()
    return parameters | ({"noise_seed_offset"} if parameters & {"s_churn", "noise_sampler"} else set())


def check(sampler_name: str, options: Mapping[str, float]) -> None:
    """Refuses an option that would do nothing.

    Raises:
        ValueError: The sampler does not have an option whose value is not the neutral one.
    """
    available = names(sampler_name)
    for name, value in options.items():
        if value != NEUTRAL[name] and name not in available:
            others = [other for other in SAMPLER_NAMES if name in names(other)]
            raise ValueError(
                f"{NODE}: the sampler {sampler_name} has no {name}, so {value:g} would do nothing. Set {name} to "
                f"{NEUTRAL[name]:g}, or choose a sampler that has it, such as {', '.join(others[:4])}."
            )
    if options["noise_seed_offset"] and "noise_sampler" not in available and not options["s_churn"]:
        raise ValueError(
            f"{NODE}: {sampler_name} draws noise between the steps only where s_churn is above 0, so "
            "noise_seed_offset would do nothing. Set noise_seed_offset to 0 or s_churn above 0, or choose a sampler "
            "with noise of its own, such as euler_ancestral or dpmpp_2m_sde."
        )


def sampler(sampler_name: str, options: Mapping[str, float]) -> KSAMPLER:
    """A sampler of ComfyUI with these options.

    Args:
        options: Values for all of NEUTRAL's names. s_tmax = 0 sets no bound. With noise_seed_offset = 0 the noise of
            the steps is what ComfyUI draws, and noise of s_churn comes from a generator of its own.

    Raises:
        ValueError: As `check`.
    """
    check(sampler_name, options)
    base, available = sampler_object(sampler_name), names(sampler_name)
    extra = {name: options[name] for name in available & {"s_churn", "s_tmin", "s_noise", "eta"}}
    if options["s_tmax"]:
        extra["s_tmax"] = options["s_tmax"]
    function, offset = base.sampler_function, int(options["noise_seed_offset"])
    if options["s_churn"]:
        function = with_seeded_churn(function, offset)
    elif offset and has_tree(sampler_name):
        function = with_seed(function, offset)
    elif offset:
        function = with_step_noise(function, offset)
    return KSAMPLER(function, extra, base.inpaint_options)


def has_tree(sampler_name: str) -> bool:
    """Whether a sampler takes its noise from a Brownian tree, in which parts of a step have parts of its noise."""
    return sampler_name.startswith("dpmpp_") and "sde" in sampler_name


def seed(extra_args: dict[str, Any], offset: int) -> int:
    """The run's seed and an offset. A guider that is called without a seed has 0."""
    return ((extra_args.get("seed") or 0) + offset) % SEEDS


def step_noise(x: Tensor, first: int) -> Callable[[Tensor, Tensor], Tensor]:
    """A noise_sampler: picture i of x (B, ...) draws from its own generator, with the seed `first` + i, on the CPU."""
    generators = [torch.Generator().manual_seed((first + i) % SEEDS) for i in range(len(x))]

    def draw(sigma: Tensor, sigma_next: Tensor) -> Tensor:
        return torch.stack([torch.randn(x.shape[1:], generator=generator) for generator in generators]).to(x)

    return draw


def with_step_noise(function: Callable[..., Tensor], offset: int) -> Callable[..., Tensor]:
    """A sampler function whose noise between the steps is A1111's for this ENSD."""

    @wraps(function)
    def sample(
        model: object, x: Tensor, sigmas: Tensor, extra_args: dict[str, Any], *args: Any, **options: Any
    ) -> Tensor:
        noise = step_noise(x, seed(extra_args, offset))
        return function(model, x, sigmas, extra_args, *args, noise_sampler=noise, **options)

    return sample


def with_seed(function: Callable[..., Tensor], offset: int) -> Callable[..., Tensor]:
    """A sampler function that is called with another seed."""

    @wraps(function)
    def sample(
        model: object, x: Tensor, sigmas: Tensor, extra_args: dict[str, Any], *args: Any, **options: Any
    ) -> Tensor:
        extra_args = {**extra_args, "seed": seed(extra_args, offset)}
        return function(model, x, sigmas, extra_args, *args, **options)

    return sample


def with_seeded_churn(function: Callable[..., Tensor], offset: int) -> Callable[..., Tensor]:
    """A sampler function whose noise of s_churn depends on the run's seed alone.

    k-diffusion draws that noise from torch's global generators, whose state depends on what ran before. For one
    picture on the CPU the noise is A1111's for this ENSD. At 0 the seed is the next one, as in ComfyUI's own noise
    samplers: with the same seed the first noise of the steps would be the noise that the run starts from.
    """

    @wraps(function)
    def sample(
        model: object, x: Tensor, sigmas: Tensor, extra_args: dict[str, Any], *args: Any, **options: Any
    ) -> Tensor:
        card = x.device.type if x.device.type in ("cuda", "xpu") else None
        with torch.random.fork_rng([x.device] if card else [], device_type=card or "cuda"):
            torch.manual_seed(seed(extra_args, offset or 1))
            return function(model, x, sigmas, extra_args, *args, **options)

    return sample
