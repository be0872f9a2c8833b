"""InstructPix2Pix: its picture, its guider, and its patch for every other sampler."""

import math
from typing import Any

import comfy.samplers
import numpy as np
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrapperExecutor, WrappersMP
from PIL import Image
from torch import Tensor

from ..pixels.images import to_rgb
from .instruct_pix2pix_step import ID, Conds, Options, Step

KINDS = ("instruct-pix2pix", "instruct-pix2pix-sdxl", "cosxl-edit")
FITS = {"multiple of 8": 8, "multiple of 64": 64}
CONDITIONING, GUIDER = "InstructPix2Pix Conditioning", "InstructPix2Pix Guider"
PATCH = "InstructPix2Pix for Any Sampler"


def fit(image: Tensor, multiple: int) -> Tensor:
    """Resizes pictures so that both sides become the nearest multiples. Nothing is cut off.

    Lanczos, as in the reference's edit_cli.py; by Pillow, in float32. A picture that fits comes back itself.

    Args:
        image: (B, H, W, C) in [0, 1].
        multiple: Of pixels; also the least that a side gets.
    """
    height, width = (max(math.floor(side / multiple + 0.5), 1) * multiple for side in image.shape[1:3])
    if image.shape[1:3] == (height, width):
        return image
    planes = image.movedim(-1, 1).flatten(0, 1).float().cpu().numpy()  # (B C, H, W)
    resized = [np.asarray(Image.fromarray(plane).resize((width, height), Image.Resampling.LANCZOS)) for plane in planes]
    return torch.from_numpy(np.stack(resized)).clamp(0, 1).unflatten(0, (len(image), -1)).movedim(1, -1).to(image)


def encode(vae: Any, image: Tensor, multiple: int) -> Tensor:
    """The VAE's mean of the pictures, without a scale: the host's model classes scale it as each was trained.

    Args:
        vae: The host's VAE.
        image: (B, H, W, C) in [0, 1]; an alpha channel is dropped.
        multiple: See `fit`.

    Returns:
        (B, 4, H / 8, W / 8).
    """
    return vae.encode(fit(to_rgb(image), multiple))


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
    """Samples by equation 3 from `start_percent` to `end_percent`, and by e(I, T) alone outside."""

    def set_guidance(
        self, text_scale: float, image_scale: float, phi: float, start_percent: float, end_percent: float
    ) -> None:
        self.set_cfg(text_scale)
        self.image_scale, self.phi, self.percents = image_scale, phi, (start_percent, end_percent)

    def outer_sample(self, noise: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        check(self.conds, noise, GUIDER)
        return super().outer_sample(noise, *args, **kwargs)

    def predict_noise(self, x: Tensor, timestep: Tensor, model_options: Options, seed: int | None = None) -> Tensor:
        start, end = (self.inner_model.model_sampling.percent_to_sigma(percent) for percent in self.percents)
        text, image, phi = (self.cfg, self.image_scale, self.phi) if end <= timestep[0] <= start else (1.0, 1.0, 0.0)
        options = Step(model_options, image, text, phi).options()
        negative, positive = self.conds["negative"], self.conds["positive"]
        return comfy.samplers.sampling_function(self.inner_model, x, timestep, negative, positive, text, options, seed)


def unpatched(model: ModelPatcher) -> ModelPatcher:
    """A clone without the patch: what brings the picture's term itself must not get it twice."""
    model = model.clone()
    model.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, ID)
    model.remove_wrappers_with_key(WrappersMP.PREDICT_NOISE, ID)
    return model


def patch(model: ModelPatcher, image_scale: float) -> ModelPatcher:
    """A clone with which any sampler of one CFG scale follows equation 3; its scale is s_T."""

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

    model = unpatched(model)
    model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, ID, outer_sample)
    model.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, ID, predict_noise)
    return model
