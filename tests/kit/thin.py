"""Thin denoisers with seeded random weights: one state dict for ComfyUI and for diffusers, which share no code.

They have one level (SD x4 has four) with a transformer wherever diffusers builds one.
"""

from dataclasses import replace

import comfy.controlnet
import comfy.sd
import torch
from comfy.model_patcher import ModelPatcher
from diffusers import UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from torch import Tensor

from pentimento_host.standins import diffusion
from pentimento_host.standins.weights import drawn

THIN = {"depths": (1,), "depths_out": (1,), "middle": 1}
THIN_X4 = {"depths": (0, 1, 1, 1), "depths_out": (0, 1, 1, 1), "middle": 1}


def weights(kind: str, seed: int = 0) -> dict[str, Tensor]:
    """A thin UNet's seeded random weights, float32, in the names of Stability's files."""
    return diffusion.unet(replace(diffusion.UNETS[kind], **(THIN_X4 if kind == "x4" else THIN)), seed)


def host_model(kind: str, seed: int = 0) -> ModelPatcher:
    """The thin UNet as ComfyUI loads it."""
    return comfy.sd.load_diffusion_model_state_dict(weights(kind, seed))


def controlnet(shape: diffusion.UNet | None = None) -> comfy.controlnet.ControlNet:
    """A ControlNet with seeded random weights, for the thin "sd15" or another UNet of SD 1.5."""
    generator = torch.Generator().manual_seed(5)
    shapes = diffusion.controlnet_shapes(shape or replace(diffusion.UNETS["sd15"], **THIN))
    return comfy.controlnet.load_controlnet_state_dict({name: drawn(name, size, generator) for name, size in shapes})


def diffusers_unet(kind: str, seed: int = 0) -> UNet2DConditionModel:
    """The same UNet as diffusers' own converter makes it."""
    shape, levels = diffusion.UNETS[kind], 3 if kind == "x4" else 0  # levels above the first
    unet = UNet2DConditionModel(
        in_channels=shape.in_channels,
        block_out_channels=(shape.width,) * (levels + 1),
        down_block_types=("DownBlock2D",) * (levels > 0) + ("CrossAttnDownBlock2D",) * (levels or 1),
        up_block_types=("CrossAttnUpBlock2D",) * (levels or 1) + ("UpBlock2D",) * (levels > 0),
        layers_per_block=1,
        cross_attention_dim=shape.context,
        attention_head_dim=8 if shape.width == 256 or not shape.linear else shape.width // 64,
        use_linear_projection=shape.linear,
        only_cross_attention=tuple(level in shape.crossed for level in range(levels + 1)),
        class_embed_type="projection" if shape.adm else None,
        projection_class_embeddings_input_dim=shape.adm,
        num_class_embeds=shape.classes,
    )
    prefixed = {f"model.diffusion_model.{name}": weight for name, weight in weights(kind, seed).items()}
    unet.load_state_dict(convert_ldm_unet_checkpoint(prefixed, dict(unet.config)))
    return unet.eval()
