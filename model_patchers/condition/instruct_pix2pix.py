"""InstructPix2Pix: the picture to edit as conditioning, the guider, and the patch for every other sampler."""

from typing import Any

import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrapperExecutor, WrappersMP
from comfy.sd import VAE
from torch import Tensor

from ..comfyui.conditioning import Conditioning, Needs, both, needs
from ..comfyui.kinds import fitting, require
from ..comfyui.latents import encode_sd
from ..comfyui.patching import attach, detach
from ..comfyui.schedule import Interval
from ..pixels import resample
from ..pixels.images import to_rgb
from .instruct_pix2pix_step import ID, Conds, Options, Step

FITS = {"multiple of 8": 8, "multiple of 64": 64}
CONDITIONING, GUIDER = "InstructPix2Pix Conditioning", "InstructPix2Pix Guider"
PATCH = "InstructPix2Pix for Any Sampler"


def condition(
    positive: Conditioning, negative: Conditioning, vae: VAE, image: Tensor, multiple: int
) -> tuple[Conditioning, Conditioning, Tensor]:
    """Both prompts with the picture to edit.

    Args:
        vae: The model's VAE. ComfyUI's model classes scale the latent as each model was trained.
        image: (B, H, W, C) in [0, 1]; an alpha channel is dropped.
        multiple: Each side is rounded to a multiple of so many pixels, by Lanczos, as in the reference's edit_cli.py.

    Returns:
        Both conditionings, and zeros in the shape of the picture's latent, (B, 4, H / 8, W / 8) of the resized picture.

    Raises:
        ValueError: The VAE is of another family.
    """
    latent = encode_sd(vae, resample.to_multiple(to_rgb(image), multiple), CONDITIONING, "the model's own VAE")
    wants = Needs(fitting(CONDITIONING), CONDITIONING, tuple(latent.shape[-2:]), pictures=len(latent))
    prompts = both((positive, negative), {"concat_latent_image": latent})
    return *(needs(prompt, wants) for prompt in prompts), torch.zeros_like(latent)


def check_pictures(conds: dict[str, Conds], noise: Tensor, node: str) -> None:
    """Refuses prompts without a picture of the latent's size: ComfyUI would silently use zeros, or resize the picture.

    Args:
        conds: The guider's "positive" and "negative", before they are prepared for the model.
        noise: (B, 4, h, w).
        node: The node's display name, for the message.

    Raises:
        ValueError: A prompt is missing or has no picture, or the pictures' size or number is not that of the latents.
    """
    (b, _, height, width) = noise.shape
    for name in ("positive", "negative"):
        if name not in conds:
            raise ValueError(
                f"{node} needs a {name} conditioning, and the guider has none. Use KSampler or CFG Guider."
            )
        for cond in conds[name]:
            latent = cond.get("concat_latent_image")
            if latent is None:
                raise ValueError(
                    f"{node}: {name} has no picture. Connect positive and negative through {CONDITIONING}."
                )
            (n, _, h, w) = latent.shape
            if (h, w) != (height, width):
                raise ValueError(
                    f"{node}: the picture in {name} has {8 * w} x {8 * h} pixels, and the sampled latent is for "
                    f"{8 * width} x {8 * height}. Connect {CONDITIONING}'s latent, or connect a picture of "
                    f"{8 * width} x {8 * height} to it."
                )
            if n not in (1, b):
                raise ValueError(
                    f"{node}: {name} holds {n} pictures, and {b} latents are sampled. Connect {CONDITIONING}'s latent, "
                    "or connect one picture to it for all latents."
                )


class IP2PGuider(comfy.samplers.CFGGuider):
    """Samples by equation 3 within `interval`, and by e(I, T) alone outside."""

    def set_guidance(self, text_scale: float, image_scale: float, phi: float, interval: Interval) -> None:
        self.set_cfg(text_scale)
        self.image_scale, self.phi, self.interval = image_scale, phi, interval

    def outer_sample(self, noise: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        check_pictures(self.conds, noise, GUIDER)
        return super().outer_sample(noise, *args, **kwargs)

    def predict_noise(self, x: Tensor, timestep: Tensor, model_options: Options, seed: int | None = None) -> Tensor:
        guided = self.interval.holds(self.inner_model.model_sampling, timestep[0])
        text, image, phi = (self.cfg, self.image_scale, self.phi) if guided else (1.0, 1.0, 0.0)
        options = Step(model_options, image, text, phi).options()
        negative, positive = self.conds["negative"], self.conds["positive"]
        return comfy.samplers.sampling_function(self.inner_model, x, timestep, negative, positive, text, options, seed)


def guider(
    model: ModelPatcher,
    positive: Conditioning,
    negative: Conditioning,
    text_scale: float,
    image_scale: float,
    phi: float,
    interval: Interval,
) -> IP2PGuider:
    """A guider by equation 3. A patch of `patch` is removed from the model, as the two together would guide twice.

    Args:
        text_scale, image_scale: s_T and s_I.
        phi: Of `rescale_noise_cfg`.
        interval: Outside this part of the run, e(I, T) alone is used.

    Raises:
        ValueError: The model is of another kind.
    """
    require(model, fitting(GUIDER), GUIDER)
    guider = IP2PGuider(detach(model, ID))
    guider.set_conds(positive, negative)
    guider.set_guidance(text_scale, image_scale, phi, interval)
    return guider


def steps_skipped(options: Options) -> int:
    """The steps that ComfyUI's LazyCache has skipped so far: it reuses a result that is already guided."""
    cache = options.get("transformer_options", {}).get("easycache")
    return getattr(cache, "total_steps_skipped", 0)


def patch(model: ModelPatcher, image_scale: float) -> ModelPatcher:
    """A clone with which every sampler with one CFG scale guides by equation 3. The sampler's scale is s_T.

    Args:
        image_scale: s_I.

    Raises:
        ValueError: The model is of another kind.
    """

    def outer_sample(executor: WrapperExecutor, noise: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        check_pictures(executor.class_obj.conds, noise, PATCH)
        return executor(noise, *args, **kwargs)

    def predict_noise(
        executor: WrapperExecutor, x: Tensor, timestep: Tensor, model_options: Options, seed: int | None
    ) -> Tensor:
        step, skipped = Step(model_options, image_scale), steps_skipped(model_options)
        denoised = executor(x, timestep, step.options(), seed)
        if step.null is None and steps_skipped(model_options) == skipped:
            raise ValueError(
                f"{PATCH} cannot work under {type(executor.class_obj).__name__}, which combines predictions in its own "
                f"way. Use KSampler, CFG Guider or {GUIDER}."
            )
        return denoised

    require(model, fitting(PATCH), PATCH)
    return attach(model, ID, {WrappersMP.OUTER_SAMPLE: outer_sample, WrappersMP.PREDICT_NOISE: predict_noise})
