"""InstructPix2Pix: its picture, its guider, and its patch for every other sampler."""

from typing import Any

import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrapperExecutor, WrappersMP
from comfy.sd import VAE
from torch import Tensor

from ..comfyui.conditioning import Conditioning, Needs, both, needs
from ..comfyui.kinds import fitting, require
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
        vae: ComfyUI's VAE. ComfyUI's model classes scale its mean as each was trained.
        image: (B, H, W, C) in [0, 1]; an alpha channel is dropped.
        multiple: Of the sides' pixels. See `resample.to_multiple`; the reference's edit_cli.py resizes by Lanczos too.

    Returns:
        Both conditionings, and zeros like the picture's latent, (B, 4, H / 8, W / 8).
    """
    latent = vae.encode(resample.to_multiple(to_rgb(image), multiple))
    wants = Needs(fitting(CONDITIONING), CONDITIONING, tuple(latent.shape[-2:]), pictures=len(latent))
    prompts = both((positive, negative), {"concat_latent_image": latent})
    return *(needs(prompt, wants) for prompt in prompts), torch.zeros_like(latent)


def check(conds: dict[str, Conds], noise: Tensor, node: str) -> None:
    """Refuses what the host would sample with zeros for the picture, or with a resampled one, without a word.

    Args:
        conds: The guider's "positive" and "negative", before they are prepared for the model.
        noise: (B, 4, h, w).
        node: The node's display name, for the message.

    Raises:
        ValueError: One is missing or has no picture, or a picture's size or number is not the latent's.
    """
    (b, _, height, width) = noise.shape
    for name in ("positive", "negative"):
        if name not in conds:
            raise ValueError(f"{node} needs a {name} conditioning. Use KSampler or CFG Guider, which take one.")
        for cond in conds[name]:
            latent = cond.get("concat_latent_image")
            if latent is None:
                raise ValueError(
                    f"{node}: {name} has no picture. Connect both, positive and negative, through {CONDITIONING}."
                )
            (n, _, h, w) = latent.shape
            if (h, w) != (height, width):
                raise ValueError(
                    f"{node}: the picture in {name} has {8 * w} x {8 * h} pixels, and the latent that is sampled is "
                    f"one of {8 * width} x {8 * height}. Connect the latent of {CONDITIONING}, or give that node a "
                    "picture of the other size."
                )
            if n not in (1, b):
                raise ValueError(
                    f"{node}: {name} holds {n} pictures, and {b} latents are sampled. Connect the latent of "
                    f"{CONDITIONING}, or give that node one picture for all."
                )


class IP2PGuider(comfy.samplers.CFGGuider):
    """Samples by equation 3 within `interval`, and by e(I, T) alone outside."""

    def set_guidance(self, text_scale: float, image_scale: float, phi: float, interval: Interval) -> None:
        self.set_cfg(text_scale)
        self.image_scale, self.phi, self.interval = image_scale, phi, interval

    def outer_sample(self, noise: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        check(self.conds, noise, GUIDER)
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
    """A guider by equation 3 for the model, of which a patch of this module's is taken off: it would guide twice.

    Raises:
        ValueError: The model is of another kind.
    """
    require(model, fitting(GUIDER), GUIDER)
    guider = IP2PGuider(detach(model, ID))
    guider.set_conds(positive, negative)
    guider.set_guidance(text_scale, image_scale, phi, interval)
    return guider


def patch(model: ModelPatcher, image_scale: float) -> ModelPatcher:
    """A clone with which any sampler of one CFG scale follows equation 3; its scale is s_T.

    Raises:
        ValueError: The model is of another kind.
    """

    def outer_sample(executor: WrapperExecutor, noise: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        check(executor.class_obj.conds, noise, PATCH)
        return executor(noise, *args, **kwargs)

    def predict_noise(
        executor: WrapperExecutor, x: Tensor, timestep: Tensor, model_options: Options, seed: int | None
    ) -> Tensor:
        step = Step(model_options, image_scale)
        denoised = executor(x, timestep, step.options(), seed)
        if step.null is None:
            raise ValueError(
                f"{PATCH} cannot work under {type(executor.class_obj).__name__}, which combines predictions in its own "
                f"way. Use KSampler, CFG Guider or {GUIDER}."
            )
        return denoised

    require(model, fitting(PATCH), PATCH)
    return attach(model, ID, {WrappersMP.OUTER_SAMPLE: outer_sample, WrappersMP.PREDICT_NOISE: predict_noise})
