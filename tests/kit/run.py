"""Whole runs of a thin model through ComfyUI's sampling, to be compared with a pipeline of diffusers."""

import math

import comfy.sample
import comfy.samplers
import torch
from diffusers import EulerDiscreteScheduler

from .tensors import randn

STEPS = 4


def scheduler(steps=STEPS, **settings):
    """Euler's method, by which every model here is sampled; with SD's betas by default."""
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    euler = EulerDiscreteScheduler(**betas | {"timestep_spacing": "trailing"} | settings)
    euler.set_timesteps(steps)
    return euler


def prompts(width=1024, tokens=77):
    """A positive and a negative conditioning, as ComfyUI's text encoders make them."""
    return [[[randn(1, tokens, width, seed=seed), {}]] for seed in (1, 2)]


def embeds(positive, negative, batch):
    """The same as a pipeline takes them."""
    return {
        "prompt_embeds": positive[0][0].expand(batch, -1, -1),
        "negative_prompt_embeds": negative[0][0].expand(batch, -1, -1),
    }


def sample(model, positive, negative, noise, sigmas, cfg, latent=None, seed=7):
    """Latents at the scale that the denoiser sees, as a pipeline returns them.

    `noise` has spread 1. A pipeline starts at sigma times the noise. ComfyUI starts an empty latent at
    sqrt(1 + sigma^2) times the noise.
    """
    start = float(sigmas[0])
    if math.isclose(start, float(model.model.model_sampling.sigma_max), rel_tol=1e-5):
        noise = noise * start / (1 + start**2) ** 0.5
    latent = torch.zeros_like(noise) if latent is None else latent
    euler = comfy.samplers.sampler_object("euler")
    result = comfy.sample.sample_custom(
        model, noise, cfg, euler, sigmas, positive, negative, latent, disable_pbar=True, seed=seed
    )
    return model.model.process_latent_in(result)


def guided(model, cfg=1.0, sampler="euler", steps=6, scheduler="karras", seed=3, **changes):
    """A whole run of a toy model with two different prompts, from noise.

    Args:
        sampler: A name or a SAMPLER.
        changes: `noise` (B, 4, H, W), `latent` like it, `mask`, `sigmas`, `callback`.
    """
    noise = changes.get("noise", randn(1, 4, 8, 8, seed=seed))
    sampling = model.get_model_object("model_sampling")
    return comfy.sample.sample_custom(
        model,
        noise,
        cfg,
        comfy.samplers.sampler_object(sampler) if isinstance(sampler, str) else sampler,
        changes.get("sigmas", comfy.samplers.calculate_sigmas(sampling, scheduler, steps)),
        *([[torch.full((1, 1, 8), value), {}]] for value in (0.8, -0.4)),
        changes["latent"] if "latent" in changes else torch.zeros_like(noise),
        noise_mask=changes.get("mask"),
        callback=changes.get("callback"),
        disable_pbar=True,
        seed=seed,
    )


def links(control):
    """A ControlNet and those before it in its chain."""
    return [control, *links(control.previous_controlnet)] if control else []
