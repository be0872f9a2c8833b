"""SDXL as narrow as the host's layers allow, for runs of many windows: one state dict for ComfyUI and for diffusers.

The host tells SDXL by its width and depths, so it does not recognise these weights and is told what they are.
"""

from dataclasses import replace

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

CONTEXT = 64  # width of the text; that of the pooled text and of the network are SDXL's 1280 and 64
SHAPE = replace(diffusion.UNETS["sdxl"], width=64, context=CONTEXT, **thin.THIN)


def host_model() -> ModelPatcher:
    """The UNet as the host's SDXL."""
    weights = diffusion.unet(SHAPE)
    config = comfy.supported_models.SDXL(comfy.model_detection.detect_unet_config(weights, ""))
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model(weights)
    model.load_model_weights(weights, "")
    return CoreModelPatcher(model, model_management.get_torch_device(), model_management.unet_offload_device())


def diffusers_unet(sample_size: int) -> UNet2DConditionModel:
    """The same UNet as SDXL's pipelines call it."""
    unet = UNet2DConditionModel(
        sample_size=sample_size,
        block_out_channels=(SHAPE.width,),
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        layers_per_block=1,
        cross_attention_dim=CONTEXT,
        attention_head_dim=SHAPE.width // 64,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=SHAPE.adm,
    )
    prefixed = {f"model.diffusion_model.{name}": weight for name, weight in diffusion.unet(SHAPE).items()}
    unet.load_state_dict(convert_ldm_unet_checkpoint(prefixed, dict(unet.config)))
    return unet.eval()


def prompts(**sizes: int) -> list:
    """A positive and a negative conditioning, with SDXL's sizes (width, height, target_width, ...) where given."""
    return [
        [[randn(1, 7, CONTEXT, seed=seed), {"pooled_output": randn(1, 1280, seed=seed + 10), **sizes}]]
        for seed in (1, 2)
    ]
