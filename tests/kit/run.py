"""Whole runs of a thin model through the host's sampling, to be compared with a pipeline of diffusers."""

import math

import comfy.sample
import comfy.samplers
import torch
from diffusers import EulerDiscreteScheduler

STEPS = 4


def scheduler(steps=STEPS, **settings):
    """Euler's method, by which every model here is sampled; with SD's betas if no others are given."""
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    euler = EulerDiscreteScheduler(**betas | {"timestep_spacing": "trailing"} | settings)
    euler.set_timesteps(steps)
    return euler


def randn(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def rand(*shape, seed):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def prompts(width=1024, tokens=77):
    """A positive and a negative conditioning, as the host's text encoders make them."""
    return [[[randn(1, tokens, width, seed=seed), {}]] for seed in (1, 2)]


def embeds(positive, negative, batch):
    """The same as a pipeline takes them."""
    return {
        "prompt_embeds": positive[0][0].expand(batch, -1, -1),
        "negative_prompt_embeds": negative[0][0].expand(batch, -1, -1),
    }


def sample(model, positive, negative, noise, sigmas, cfg, latent=None, seed=7):
    """Latents at the scale that the denoiser sees, as a pipeline returns them.

    `noise` has spread 1. A pipeline starts at sigma times that and the host, from nothing, at sqrt(1 + sigma^2).
    """
    start = float(sigmas[0])
    if math.isclose(start, float(model.model.model_sampling.sigma_max), rel_tol=1e-5):
        noise = noise * start / (1 + start**2) ** 0.5
    latent = torch.zeros_like(noise) if latent is None else latent
    euler = comfy.samplers.sampler_object("euler")
    found = comfy.sample.sample_custom(
        model, noise, cfg, euler, sigmas, positive, negative, latent, disable_pbar=True, seed=seed
    )
    return model.model.process_latent_in(found)


def off(ours, theirs):
    """The largest difference, relative to the largest value of the reference."""
    return float((ours - theirs).abs().max() / theirs.abs().max())


def links(control):
    """A ControlNet and those before it in its chain."""
    return [control, *links(control.previous_controlnet)] if control else []


def state(model):
    """All that a patch could leave behind in a model: its tensors, and what is on its patcher."""
    tensors = dict(model.model.named_parameters()) | dict(model.model.named_buffers())
    rest = model.model_options, model.object_patches, model.patches, model.wrappers, model.callbacks
    return {name: tensor.clone() for name, tensor in tensors.items()}, repr(rest)


def same(before, after):
    (tensors, rest), (others, rest_after) = before, after
    return (
        rest == rest_after
        and tensors.keys() == others.keys()
        and all(map(torch.equal, tensors.values(), others.values()))
    )
