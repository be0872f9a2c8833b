"""Differential Diffusion (Levin, Fried, "Differential Diffusion: Giving Each Pixel Its Strength", arXiv 2306.00950).

Each pixel of the latent is held to the noised original until its turn comes, the sooner the more it is to change. From
then on it is the sampler's.
"""

import copy
from collections.abc import Callable
from functools import partial, wraps

import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from comfy.samplers import KSAMPLER, KSamplerX0Inpaint, Sampler
from comfy.sd import VAE
from torch import Tensor

from ..comfyui import schedule
from ..comfyui.patching import attach, chain
from ..pixels.images import to_rgb
from ..pixels.masks import pair

KEY, SLOT = "pentimento_differential_img2img", "denoise_mask_function"
ROUNDING = 1e-6  # a grey level of an 8-bit map and the fraction of a step differ by more, or are one
WHITE = 1 - 1 / 255 - ROUNDING  # from the last grey level on, a map counts as white

Function = Callable[..., Tensor]  # the host's denoise_mask_function: (sigma, denoise_mask, extra_options) -> mask


def paper(sigma: Tensor, change: Tensor, sigmas: Tensor) -> Tensor:
    """The pixels that step i of T changes: those with 1 - change <= (i + 1) / T.

    The authors' loop puts the noised original back before step i where 1 - change > i / T. The last step that begins
    with a pixel put back is a real one all the same: what the model makes of it stays. Here a mask holds before the
    model and after it, so a pixel must be free in that step already, one step ahead of the authors' mask.

    Args:
        sigma: (B,), where the model is evaluated.
        change: (B, ...), 1 = change most. 0 is never changed; from 254/255 on a pixel is free in every step.
        sigmas: (T + 1,), the schedule that is sampled.

    Returns:
        1 where the pixel is free, 0 where it is held, in the shape and dtype of `change`.
    """
    threshold = 1 - (schedule.step(sigma, sigmas) + 1) / (len(sigmas) - 1) - ROUNDING
    threshold = threshold.clamp(max=WHITE).view(-1, *[1] * (change.ndim - 1))
    return ((change >= threshold) & (change > 0)).to(change.dtype)


def by_step(sigma: Tensor, denoise_mask: Tensor, extra_options: dict) -> Tensor:
    """Rule `paper` as a denoise_mask_function."""
    return paper(sigma, denoise_mask, extra_options["sigmas"])


def by_timestep(sigma: Tensor, denoise_mask: Tensor, extra_options: dict) -> Tensor:
    """Rule `timestep` as a denoise_mask_function: core's Differential Diffusion, operation for operation.

    A pixel is free where change >= (t - t_end) / (t_start - t_end), the part of the timesteps still to go.
    """
    sampling, sigmas = extra_options["model"].inner_model.model_sampling, extra_options["sigmas"]
    start, end = sampling.timestep(sigmas[0]), sampling.timestep(max(sigmas[-1], sampling.sigma_min))
    threshold = (sampling.timestep(sigma[0]) - end) / (start - end)
    return (denoise_mask >= threshold).to(denoise_mask.dtype)


RULES: dict[str, Function] = {"paper": by_step, "timestep": by_timestep}


def patch(model: ModelPatcher, rule: str) -> ModelPatcher:
    """A clone of the model that frees each pixel of the denoise mask in its own step.

    ComfyUI keeps a single denoise_mask_function. One that is there already sees the mask first, and the rule reads what
    it returns. This patch on a model that has it replaces the rule.
    """
    wrappers = {WrappersMP.OUTER_SAMPLE: _start_held} if rule == "paper" else {}
    return chain(attach(model, KEY, wrappers), SLOT, KEY, partial(_after, RULES[rule]))


def _after(
    rule: Function, earlier: Function | None, sigma: Tensor, denoise_mask: Tensor, extra_options: dict
) -> Tensor:
    """The rule on what an earlier function makes of the mask."""
    mask = earlier(sigma, denoise_mask, extra_options=extra_options) if earlier else denoise_mask
    return rule(sigma, mask, extra_options=extra_options)


def _start_held(executor: Callable, noise: Tensor, latent: Tensor, sampler: Sampler, *args: object, **kwargs) -> Tensor:
    """A wrapper of the host's outer_sample: all but the white pixels begin where the authors' loop begins.

    The host begins at sigma_max with noise times sqrt(1 + sigma_max^2), and its `ddim` holds pixels to another noise
    than it begins with. A pixel would keep that until it is free, with 0.2 % too much noise or another one altogether.
    """
    if isinstance(sampler, KSAMPLER):
        sampler = copy.copy(sampler)
        sampler.sampler_function = _put_back_first(sampler.sampler_function)
    return executor(noise, latent, sampler, *args, **kwargs)


def _put_back_first(sample: Callable) -> Callable:
    """One of the host's sampler functions, from x with the noised original put back."""

    @wraps(sample)
    def put_back_first(model: KSamplerX0Inpaint, x: Tensor, sigmas: Tensor, extra_args: dict, **kwargs) -> Tensor:
        change, base = extra_args["denoise_mask"], model.inner_model.inner_model
        if change is not None:
            noised = base.model_sampling.noise_scaling(sigmas[0], model.noise, model.latent_image)
            x = torch.where(change < WHITE, noised, x)
        return sample(model, x, sigmas, extra_args=extra_args, **kwargs)

    return put_back_first


def encode(vae: VAE, image: Tensor, change_map: Tensor) -> dict[str, Tensor]:
    """A LATENT of the pictures, with the map as the noise mask that the host's samplers read.

    Args:
        vae: It may crop a picture to whole cells of its latent; the map is cropped alike.
        image: (B, H, W, C); an alpha channel is left out.
        change_map: (N, h, w), 1 = change most.

    Returns:
        samples (B, C, H', W') with noise_mask (B, 1, H, W) as core's Set Latent Noise Mask makes it, or of frames or
        pictures that the VAE gives a time axis (b, C, T', H', W') with (b, 1, T, H, W).

    Raises:
        ValueError: The numbers do not match, or the map has other proportions than the picture.
    """
    image, change_map = pair(image, change_map, ("image", "change_map"))
    rgb = to_rgb(image)
    change = vae.vae_encode_crop_pixels(change_map[..., None].expand_as(rgb))[..., 0]
    samples = vae.encode(rgb)
    shape = samples.shape[0], 1, *[-1] * (samples.ndim - 4), *change.shape[-2:]
    return {"samples": samples, "noise_mask": change.reshape(shape)}
