"""The sliders of the extension sd-webui-cd-tuner (hako-mikan) for the UNets of Stable Diffusion 1, 2 and SDXL.

Some weights are scaled for the whole run, with the sliders d1, d2 and con1:

    input_blocks.0.0: weight (1 - 0.01 d1), bias (1 + 0.02 d1)        the first convolution
    out.0: weight (1 - 0.01 d2), bias (1 + 0.02 d2)                   the last normalisation
    out.2: bias + (0.02 con1, 0, 0, 0)                                the last convolution

And in one step near the end, the prediction x0 is moved: x0 -= 20/3 v, with v_0 = 0.02 con2 and, for the other three
channels, v = 0.02 (bri, col1, col2, col3) COLOURS.
"""

from typing import Any, NamedTuple

import torch
from comfy.latent_formats import SD15
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..comfyui import kinds, schedule

NODE = "Detail Tuner"
FITTING = frozenset(kinds.KINDS) - {"sd-x4"}  # whose first level has other weights and whose latents other colours
COLOURS = {  # rows: bri, col1, col2, col3; columns: channels 1, 2, 3
    "sd": ((-1, 1 / 3, 2 / 3), (1, 1, 0), (0, -1, -1), (1, 0, 1)),
    "sdxl": ((0, 0, 1), (1, 0, 0), (-1, -1, 0), (-1, 1, 0)),
}


class Offsets(NamedTuple):
    """con2, bri, col1, col2, col3."""

    contrast: float = 0.0
    brightness: float = 0.0
    colour_1: float = 0.0
    colour_2: float = 0.0
    colour_3: float = 0.0


def scales(detail_1: float, detail_2: float) -> dict[str, float]:
    """{name of a weight in the UNet: its factor}."""
    factors = {"input_blocks.0.0": detail_1, "out.0": detail_2}
    weights = {f"{name}.weight": 1 - 0.01 * detail for name, detail in factors.items()}
    return weights | {f"{name}.bias": 1 + 0.02 * detail for name, detail in factors.items()}


def shift(offsets: Offsets, sdxl: bool) -> Tensor:
    """What the prediction is moved by: (4,)."""
    contrast, *sliders = offsets
    colours = torch.tensor(sliders, dtype=torch.float32) @ torch.tensor(
        COLOURS["sdxl" if sdxl else "sd"], dtype=torch.float32
    )
    return -20 / 3 * 0.02 * torch.cat((torch.tensor([contrast]), colours))


class Moved(NamedTuple):
    """A post-CFG function that moves the prediction once.

    Attributes:
        shift: (4,).
        steps_before_end: 0 is the last step.
    """

    shift: Tensor
    steps_before_end: int

    def __call__(self, args: dict[str, Any]) -> Tensor:
        denoised, sigmas = args["denoised"], args["model_options"]["transformer_options"]["sample_sigmas"]
        step = int(schedule.step(args["sigma"][:1].to(sigmas), sigmas))
        if step != max(len(sigmas) - 2 - self.steps_before_end, 0):
            return denoised
        return denoised + self.shift.to(denoised)[:, None, None]


def apply(
    model: ModelPatcher,
    detail_1: float,
    detail_2: float,
    contrast_1: float,
    offsets: Offsets,
    steps_before_end: int,
) -> ModelPatcher:
    """A clone of the model with scaled weights, whose prediction is moved once. A run of fewer steps is moved in the
    first one.

    Args:
        contrast_1: con1.

    Raises:
        ValueError: The model is no UNet of Stable Diffusion 1, 2 or SDXL.
    """
    kinds.require(model, FITTING, NODE)
    model = model.clone()
    for name, factor in scales(detail_1, detail_2).items():
        scale(model, f"diffusion_model.{name}", factor)
    if contrast_1:
        bias = torch.tensor([0.02 * contrast_1, 0.0, 0.0, 0.0])
        model.add_patches({"diffusion_model.out.2.bias": ("diff", (bias,))})
    if any(offsets):
        sdxl = not isinstance(model.get_model_object("latent_format"), SD15)
        model.set_model_sampler_post_cfg_function(Moved(shift(offsets, sdxl), steps_before_end))
    return model


def scale(patcher: ModelPatcher, key: str, factor: float) -> None:
    """Scales a weight of a clone. Patches that came before are scaled with it, and later ones are not."""
    if factor != 1:
        patcher.add_patches({key: ("diff", (torch.zeros(1),))}, strength_patch=0.0, strength_model=factor)
