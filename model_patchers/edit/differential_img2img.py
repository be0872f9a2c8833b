"""Differential Diffusion (Levin, Fried, "Differential Diffusion: Giving Each Pixel Its Strength", arXiv 2306.00950).

Each pixel of the latent is held to the noised original until a step that depends on its value in the change map: the
higher the value, the earlier the step. After that step the sampler changes the pixel freely.
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
ROUNDING = 1e-6  # a smaller difference between a grey level k / 255 and a fraction of steps i / T is rounding
WHITE = 1 - 1 / 255 - ROUNDING  # a map counts as white from the last 8-bit grey level on

Function = Callable[..., Tensor]  # ComfyUI's denoise_mask_function: (sigma, denoise_mask, extra_options) -> mask


def paper(sigma: Tensor, change: Tensor, sigmas: Tensor) -> Tensor:
    """The mask of pixels that step i of T changes: 1 - change <= (i + 1) / T.

    The authors' loop puts the noised original back before step i where 1 - change > i / T, and never after a step. So
    the last step before which a pixel is put back changes it. ComfyUI applies its mask before and after the model. So
    the pixel must be free in that step already: one step earlier than in the authors' mask.

    Args:
        sigma: (B,), at which the model is evaluated.
        change: (B, ...), 1 = change most. Pixels of 0 never change; pixels from 254/255 on are free in every step.
        sigmas: (T + 1,), the schedule.

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

    A pixel is free where change >= (t - t_end) / (t_start - t_end), the part of the timesteps that is left.
    """
    sampling, sigmas = extra_options["model"].inner_model.model_sampling, extra_options["sigmas"]
    start, end = sampling.timestep(sigmas[0]), sampling.timestep(max(sigmas[-1], sampling.sigma_min))
    threshold = (sampling.timestep(sigma[0]) - end) / (start - end)
    return (denoise_mask >= threshold).to(denoise_mask.dtype)


RULES: dict[str, Function] = {"paper": by_step, "timestep": by_timestep}


def patch(model: ModelPatcher, rule: str) -> ModelPatcher:
    """A clone of the model that frees each pixel of the denoise mask in its own step.

    A model has a single denoise_mask_function. A function of another patch is called first, and the rule reads the mask
    that it returns. Patching twice replaces the rule.
    """
    wrappers = {WrappersMP.OUTER_SAMPLE: _start_held} if rule == "paper" else {}
    return chain(attach(model, KEY, wrappers), SLOT, KEY, partial(_after, RULES[rule]))


def _after(
    rule: Function, earlier: Function | None, sigma: Tensor, denoise_mask: Tensor, extra_options: dict
) -> Tensor:
    """The rule on the mask that an earlier denoise_mask_function returns."""
    mask = earlier(sigma, denoise_mask, extra_options=extra_options) if earlier else denoise_mask
    return rule(sigma, mask, extra_options=extra_options)


def _start_held(executor: Callable, noise: Tensor, latent: Tensor, sampler: Sampler, *args: object, **kwargs) -> Tensor:
    """A wrapper of OUTER_SAMPLE: all pixels but the white ones start from the noised original, as in the authors' loop.

    At sigma_max ComfyUI starts with noise times sqrt(1 + sigma_max^2), and its `ddim` starts with other noise than the
    mask holds pixels to. Held pixels would keep this start: 0.2 % too much noise, or (ddim) noise that differs from the
    mask's.
    """
    if isinstance(sampler, KSAMPLER):
        sampler = copy.copy(sampler)
        sampler.sampler_function = _put_back_first(sampler.sampler_function)
    return executor(noise, latent, sampler, *args, **kwargs)


def _put_back_first(sample: Callable) -> Callable:
    """A sampler function of ComfyUI that starts from x with the noised original put back."""

    @wraps(sample)
    def put_back_first(model: KSamplerX0Inpaint, x: Tensor, sigmas: Tensor, extra_args: dict, **kwargs) -> Tensor:
        change, base = extra_args["denoise_mask"], model.inner_model.inner_model
        if change is not None:
            noised = base.model_sampling.noise_scaling(sigmas[0], model.noise, model.latent_image)
            x = torch.where(change < WHITE, noised, x)
        return sample(model, x, sigmas, extra_args=extra_args, **kwargs)

    return put_back_first


def encode(vae: VAE, image: Tensor, change_map: Tensor) -> dict[str, Tensor]:
    """A LATENT of the pictures, with the change map as its noise mask.

    Args:
        vae: It may crop pictures to whole latent pixels; the map is cropped alike.
        image: (B, H, W, C); alpha is ignored.
        change_map: (N, h, w), 1 = change most. A map of another size is averaged.

    Returns:
        samples (B, C, H', W') and noise_mask (B, 1, H, W), as core's Set Latent Noise Mask makes it. A VAE with a time
        axis makes samples (b, C, T', H', W') and noise_mask (b, 1, T, H, W).

    Raises:
        ValueError: As masks.pair.
    """
    image, change_map = pair(image, change_map, ("image", "change_map"), amounts=True)
    rgb = to_rgb(image)
    change = vae.vae_encode_crop_pixels(change_map[..., None].expand_as(rgb))[..., 0]
    samples = vae.encode(rgb)
    shape = samples.shape[0], 1, *[-1] * (samples.ndim - 4), *change.shape[-2:]
    return {"samples": samples, "noise_mask": change.reshape(shape)}
