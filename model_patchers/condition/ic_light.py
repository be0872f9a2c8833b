"""IC-Light (Zhang, Rao, Agrawala, ICLR 2025): relighting of a foreground, by offsets to the weights of SD 1.5.

W' = pad0(W) + dW for every weight W, where pad0 fills the first convolution with zeros to 8 input channels (fc, fcon)
or 12 (fbc). The noisy latent is concatenated with 0.18215 times the VAE's mean of the foreground on grey and, for fbc,
of the background, both for the positive and for the negative prompt.
"""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from comfy.latent_formats import SD15
from comfy.lora import calculate_shape
from comfy.model_management import intermediate_dtype
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrapperExecutor, WrappersMP
from comfy.sd import VAE
from comfy.utils import unet_to_diffusers
from torch import Tensor

from ..arch.shapes import shape_of
from ..comfyui.conditioning import Conditioning, Needs, both, needs
from ..comfyui.describe import are_offsets, below, describe
from ..comfyui.fit import check_numbers, sizes_of
from ..comfyui.kinds import FIRST, fitting, identify, require
from ..comfyui.latents import encode_sd
from ..comfyui.model_files import dequantized, read_model
from ..comfyui.patching import attach, detach
from ..pixels import checks
from ..pixels.images import to_rgb
from ..pixels.masks import pair, selected
from ..pixels.resample import cover

KEY = "pentimento_ic_light"
MODEL_NODE, CONDITIONING_NODE = "IC-Light", "IC-Light Conditioning"
FILES = "iclight_sd15_fc, iclight_sd15_fcon or iclight_sd15_fbc"
FIRST_CONVOLUTION = FIRST.removeprefix("diffusion_model.")
MULTIPLE = 64  # of the pictures' sides in pixels
FULL_SCALE = 255 / 127  # the reference reads 8-bit pixels as x / 127 - 1, so that 127 is exactly 0


def signed(image: Tensor) -> Tensor:
    """Pictures in the range of the reference's VAE: (B, H, W, C) in [0, 1] -> (B, H, W, 3) in [-1, 255 / 127 - 1].

    0 is grey.
    """
    return to_rgb(image) * FULL_SCALE - 1


def on_grey(foreground: Tensor, mask: Tensor | None) -> Tensor:
    """`signed` foregrounds with grey around them.

    Args:
        foreground: (B, H, W, C).
        mask: (B, H, W) or (H, W), 1 = foreground. None: the alpha channel; without one, all of the picture.

    Raises:
        ValueError: Nothing is foreground, the mask's size or number is not the picture's, or a pixel of the foreground
            is not finite.
    """
    if mask is None and foreground.shape[-1] < 4:
        checks.finite(foreground, "foreground")
        return signed(foreground)
    matte, name = (foreground[..., 3], "The alpha channel of foreground") if mask is None else (mask, "foreground_mask")
    matte = checks.mask(matte, name)
    if not selected(matte).any():
        raise ValueError(
            f"{name} selects nothing. It must be white where the subject is. Load Image's mask is white where the "
            "picture is transparent: invert it. Without a mask and an alpha channel, all of the foreground is relit."
        )
    foreground, matte = pair(foreground, matte, ("foreground", name), amounts=True)
    hidden = matte == 0
    checks.finite(foreground, "foreground", unread=hidden, where=" that the mask or the alpha channel shows")
    return torch.where(hidden[..., None], 0, signed(foreground) * matte[..., None])  # a product with 0 would keep NaN


def offsets(weights: dict[str, Tensor], own: dict[str, Tensor], names: dict[str, str], file: str) -> dict[str, Tensor]:
    """The offsets dW in a file, under the UNet's names.

    Args:
        weights: From read_model, with diffusers' names (the original files) or Stability's, and any prefix.
        own: The UNet's weights.
        names: {diffusers' name: the UNet's}.
        file: The file's name, for messages.

    Raises:
        ValueError: The file holds no IC-Light, or an IC-Light for another network.
    """
    deltas = dequantized(_renamed(weights, names), file)
    if not {FIRST_CONVOLUTION, "time_embed.0.weight"} <= deltas.keys():
        raise ValueError(f"'{file}' is no IC-Light model: it holds {describe(weights)}. Choose {FILES}.")
    with sizes_of(file, "IC-Light"):
        channels = shape_of(deltas, FIRST_CONVOLUTION, 4)[1]
    if channels not in (8, 12) or not are_offsets(deltas):
        raise ValueError(
            f"'{file}' is a whole UNet ({channels} channels in). {MODEL_NODE} adds offsets to an SD 1.5 model: choose "
            f"{FILES}. A whole UNet is loaded with Load Diffusion Model or Load Diffusers UNet."
        )
    for name in sorted(own.keys() | deltas.keys()):
        needed, came = (tuple(w[name].shape) if name in w else None for w in (own, deltas))
        if name == FIRST_CONVOLUTION:
            needed = (needed[0], channels, *needed[2:])
        if needed != came:
            raise ValueError(
                f"'{file}' does not fit this model: its '{name}' is {_shape(came)}, the model's is "
                f"{_shape(needed)}. The file was made for another network; IC-Light's own files need Stable "
                "Diffusion 1.5 or a finetune of it."
            )
    check_numbers(deltas, file)
    return deltas


def _shape(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else str(shape)


def _renamed(weights: dict[str, Tensor], names: dict[str, str]) -> dict[str, Tensor]:
    """The weights of a file without a prefix and with `names` applied; {} if there is no first convolution."""
    unet = below(weights, FIRST_CONVOLUTION) or below(weights, "conv_in.weight")
    return {names.get(name, name): weight for name, weight in unet.items()}


def patch(model: ModelPatcher, path: str | Path) -> ModelPatcher:
    """A clone of an SD 1.5 model with IC-Light's offsets on its weights, in place of an earlier IC-Light's.

    The offsets are patches like a LoRA's: ComfyUI adds them, with all other patches of a weight, when it loads the
    model, and removes them when it unloads the model. Until then they have the file's dtype.

    Raises:
        ValueError: The model is of another kind, or the file is no IC-Light.
    """
    for earlier in model.get_wrappers(WrappersMP.OUTER_SAMPLE, KEY):
        model = earlier.detached(model)
    require(model, fitting(MODEL_NODE), MODEL_NODE)
    unet, config = model.model.diffusion_model.state_dict(), model.model.model_config.unet_config
    diff = offsets(read_model(path), unet, unet_to_diffusers(config), Path(path).name)
    # Copies: the tensors of a safetensors file are the file itself, and a user may write another in its place.
    copies = {f"diffusion_model.{name}": diff.pop(name).clone() for name in list(diff)}
    relight = Relight({name: ("diff", [x, {"pad_weight": True}]) for name, x in copies.items()})
    model = attach(model, KEY, {WrappersMP.OUTER_SAMPLE: relight})
    model.add_patches(relight.patches)
    return model


class Relight(NamedTuple):
    """The wrapper of OUTER_SAMPLE that `patch` attaches. It knows the patches on the weights.

    Attributes:
        patches: In the form of ModelPatcher.add_patches.
    """

    patches: dict[str, tuple]

    def __call__(self, executor: WrapperExecutor, noise: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Refuses wrong conditionings and patches before anything is loaded or computed."""
        guider = executor.class_obj
        for branch, conditions in guider.conds.items():
            for condition in conditions:
                _check_pictures(condition.get("noise_concat"), branch, len(noise))
        _check_later_patches(guider.model_patcher)
        return executor(noise, *args, **kwargs)

    def detached(self, model: ModelPatcher) -> ModelPatcher:
        """A clone of the model without these patches."""
        model = detach(model, KEY)
        others = {
            name: [entry for entry in entries if entry[1] is not self.patches.get(name)]
            for name, entries in model.patches.items()
        }
        model.patches = {name: entries for name, entries in others.items() if entries}
        return model


def _check_pictures(concat: Tensor | None, branch: str, latents: int) -> None:
    if concat is None:
        raise ValueError(
            f"The model is IC-Light's, and the {branch} conditioning holds no foreground. Connect positive and "
            f"negative of {CONDITIONING_NODE} to the sampler, and nodes that change the prompts before that node."
        )
    if latents % len(concat):
        raise ValueError(
            f"{CONDITIONING_NODE} prepared {len(concat)} pictures, and a batch of {latents} latents is sampled. "
            f"Connect that node's latent, or a batch of {len(concat)}, {2 * len(concat)}, {3 * len(concat)} ..."
        )


def _check_later_patches(model: ModelPatcher) -> None:
    """Refuses a later patch of the first convolution, whose shape has fewer channels: ComfyUI would drop the patch."""
    (weight, _), *_, last = model.get_key_patches(FIRST)[FIRST]
    if calculate_shape([last], weight, FIRST) == weight.shape:
        raise ValueError(
            f"A LoRA or a merge after {MODEL_NODE} changes the first convolution, to which {MODEL_NODE} has added "
            f"channels. Put the LoRA or the merge before {MODEL_NODE}: the sum is the same."
        )


def condition(
    positive: Conditioning,
    negative: Conditioning,
    vae: VAE,
    foreground: Tensor,
    background: Tensor | None = None,
    foreground_mask: Tensor | None = None,
) -> tuple[Conditioning, Conditioning, dict[str, Tensor]]:
    """Both prompts with the pictures' latents to concatenate, and an empty latent of the same size.

    Args:
        vae: Of SD 1.5.
        foreground: (B, H, W, C) in [0, 1]. Its sides are rounded to multiples of 64.
        background: (B, h, w, C) of any size, scaled to cover the foreground; or one, for all foregrounds.
        foreground_mask: (B, H, W) or (H, W), 1 = foreground. None: as in `on_grey`.

    Raises:
        ValueError: The numbers or sizes do not match, the mask selects nothing, or the VAE is of another family.
    """
    pictures = [on_grey(foreground, foreground_mask)]
    if background is not None:
        pictures.append(signed(background))
    counts = [len(picture) for picture in pictures]
    if min(counts) not in (1, max(counts)):
        raise ValueError(
            f"background is a batch of {counts[1]} but foreground is a batch of {counts[0]}. "
            "Connect equally many of both, or a single picture of either."
        )
    height, width = (max((side + MULTIPLE // 2) // MULTIPLE, 1) * MULTIPLE for side in foreground.shape[1:3])
    covering = [cover(picture, height, width).clamp(-1, FULL_SCALE - 1) for picture in pictures]
    latents = [_encode(vae, picture).expand(max(counts), -1, -1, -1) for picture in covering]
    size = height // 8, width // 8
    fits = _takes_foreground if background is None else _takes_background
    prompts = both((positive, negative), {"noise_concat": SD15().process_in(torch.cat(latents, dim=1))})
    wants = Needs(fitting(CONDITIONING_NODE), CONDITIONING_NODE, size, fits)
    positive, negative = (needs(prompt, wants) for prompt in prompts)
    empty = latents[0].new_zeros(max(counts), 4, *size, dtype=intermediate_dtype())
    return positive, negative, {"samples": empty, "downscale_ratio_spacial": 8}


def _encode(vae: VAE, picture: Tensor) -> Tensor:
    """The VAE's mean, unscaled: (B, H, W, 3) of `signed` -> (B, 4, H / 8, W / 8)."""
    # ComfyUI's VAE maps [0, 1] to [-1, 1]
    return encode_sd(vae, (picture + 1) / 2, CONDITIONING_NODE, "Stable Diffusion 1.5's VAE")


def _takes_foreground(model: ModelPatcher) -> None:
    if identify(model).in_channels != 8:
        raise ValueError(
            f"This IC-Light model takes a foreground and a background (12 channels in, fbc), and {CONDITIONING_NODE} "
            "has no background. Connect one, or choose iclight_sd15_fc or iclight_sd15_fcon."
        )


def _takes_background(model: ModelPatcher) -> None:
    if identify(model).in_channels != 12:
        raise ValueError(
            f"This IC-Light model takes a foreground alone (8 channels in, fc or fcon), and {CONDITIONING_NODE} has a "
            "background too. Disconnect it, or choose iclight_sd15_fbc."
        )
