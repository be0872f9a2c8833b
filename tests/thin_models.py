"""Thin denoisers with seeded random weights: one state dict for ComfyUI and for diffusers, which share no code.

They have one level with attention, one in the middle and one in each output block: the smallest that diffusers builds.
"""

from dataclasses import replace

import comfy.sd
from comfy.model_patcher import ModelPatcher
from diffusers import UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from torch import Tensor

from pentimento_host.standins import diffusion

THIN = {"depths": (1,), "depth_out": 1, "middle": 1}


def weights(kind: str, seed: int = 0) -> dict[str, Tensor]:
    """A thin UNet's seeded random weights, float32, in the names of Stability's files."""
    return diffusion.unet(replace(diffusion.UNETS[kind], **THIN), seed)


def host_model(kind: str, seed: int = 0) -> ModelPatcher:
    """The thin UNet as ComfyUI loads it."""
    return comfy.sd.load_diffusion_model_state_dict(weights(kind, seed))


def diffusers_unet(kind: str, seed: int = 0) -> UNet2DConditionModel:
    """The same UNet as diffusers' own converter makes it."""
    shape = diffusion.UNETS[kind]
    unet = UNet2DConditionModel(
        in_channels=shape.in_channels,
        block_out_channels=(shape.width,),
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        layers_per_block=1,
        cross_attention_dim=shape.context,
        attention_head_dim=shape.width // 64 if shape.linear else 8,
        use_linear_projection=shape.linear,
        class_embed_type="projection" if shape.adm else None,
        projection_class_embeddings_input_dim=shape.adm,
    )
    prefixed = {f"model.diffusion_model.{name}": weight for name, weight in weights(kind, seed).items()}
    unet.load_state_dict(convert_ldm_unet_checkpoint(prefixed, dict(unet.config)))
    return unet.eval()
