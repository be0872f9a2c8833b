"""UNets as narrow as ComfyUI's layers allow, for runs of many windows.

ComfyUI detects a kind by its widths and does not recognise these weights, so the kind is named here.
"""

from dataclasses import replace

import comfy.controlnet
import comfy.model_detection
import comfy.supported_models
import torch
from comfy import model_management
from comfy.model_patcher import CoreModelPatcher, ModelPatcher
from diffusers import UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

from pentimento_host.standins import diffusion

from . import thin
from .tensors import randn

WIDTH = 64  # of the network and of the text
KINDS = {
    "sd15": comfy.supported_models.SD15,
    "inpaint": comfy.supported_models.SD15,
    "ip2p": comfy.supported_models.SD15_instructpix2pix,
    "x4": comfy.supported_models.SD_X4Upscaler,
    "sdxl": comfy.supported_models.SDXL,
}


def _shape(kind: str) -> diffusion.UNet:
    depths = thin.THIN_X4 if kind == "x4" else thin.THIN
    return replace(diffusion.UNETS[kind], width=WIDTH, context=WIDTH, **depths)


def host_model(kind: str, dtype: torch.dtype = torch.float32) -> ModelPatcher:
    """A UNet as ComfyUI's model of this kind."""
    weights = diffusion.unet(_shape(kind))
    config = KINDS[kind](comfy.model_detection.detect_unet_config(weights, ""))
    config.set_inference_dtype(dtype, None)
    return patcher(config, weights)


def flux() -> ModelPatcher:
    """A Flux of one block, with random weights."""
    sizes = {"hidden_size": 64, "num_heads": 2, "depth": 1, "depth_single_blocks": 1, "axes_dim": [8, 12, 12]}
    config = comfy.supported_models.Flux(
        {"image_model": "flux", "in_channels": 16, "out_channels": 16, "patch_size": 2, "context_in_dim": 64}
        | {"vec_in_dim": 32, "mlp_ratio": 2.0, "theta": 10000, "qkv_bias": True, "guidance_embed": False}
        | {"txt_ids_dims": [], **sizes}
    )
    config.set_inference_dtype(torch.float32, None)
    return patcher(config, {})


def patcher(config: comfy.supported_models.supported_models_base.BASE, weights: dict) -> ModelPatcher:
    model = config.get_model(weights)
    model.load_model_weights(weights, "")
    return CoreModelPatcher(model, model_management.get_torch_device(), model_management.unet_offload_device())


def controlnet() -> comfy.controlnet.ControlNet:
    """A ControlNet for "sd15"."""
    return thin.controlnet(_shape("sd15"))


def diffusers_sdxl(sample_size: int) -> UNet2DConditionModel:
    """The UNet "sdxl" as SDXL's pipelines call it."""
    shape = _shape("sdxl")
    unet = UNet2DConditionModel(
        sample_size=sample_size,
        block_out_channels=(shape.width,),
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        attention_head_dim=shape.width // 64,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=shape.adm,
    )
    prefixed = {f"model.diffusion_model.{name}": weight for name, weight in diffusion.unet(shape).items()}
    unet.load_state_dict(convert_ldm_unet_checkpoint(prefixed, dict(unet.config)))
    return unet.eval()


def sdxl_prompts(**sizes: int) -> list:
    """A positive and a negative conditioning, with SDXL's sizes (width, height, target_width, ...)."""
    return [
        [[randn(1, 7, WIDTH, seed=seed), {"pooled_output": randn(1, 1280, seed=seed + 10), **sizes}]] for seed in (1, 2)
    ]
