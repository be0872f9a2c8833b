"""Models of every kind that the pack tells apart, without weights: ComfyUI's own objects on the meta device.

A sampler that gets as far as computing with one fails.
"""

import functools
from dataclasses import replace

import comfy.model_detection
import comfy.supported_models
import torch
from comfy.model_patcher import ModelPatcher

from pentimento.model_patchers.comfyui.kinds import FIRST
from pentimento_host.standins import diffusion

SHAPES = diffusion.UNETS | {
    "sdxl_ip2p": replace(diffusion.UNETS["sdxl"], in_channels=8),
    "sdxl_inpaint": replace(diffusion.UNETS["sdxl"], in_channels=9),
    "lotus": replace(diffusion.UNETS["sd2"], adm=4),
    "refiner": diffusion.UNet(
        context=1280, width=384, depths=(0, 0, 4, 4, 4, 4, 0, 0), depths_out=(0,) * 8, linear=True, adm=2560
    ),
}


def without_weights(shape, **keys):
    """ComfyUI's model with the shapes alone. Nothing can be computed with it."""
    weights = {name: torch.empty(size, device="meta") for name, size in diffusion.unet_shapes(shape)} | keys
    config = comfy.model_detection.model_config_from_unet(weights, "")
    return patcher(config, weights)


def patcher(config, weights):
    config.set_inference_dtype(torch.float32, None)
    cpu = torch.device("cpu")
    return ModelPatcher(config.get_model(weights, "", device=torch.device("meta")), cpu, cpu)


def flux_config():
    """Of a thin Flux."""
    sizes = {"in_channels": 16, "out_channels": 16, "vec_in_dim": 8, "context_in_dim": 8, "hidden_size": 16}
    depths = {"num_heads": 2, "depth": 1, "depth_single_blocks": 1, "mlp_ratio": 4.0, "axes_dim": [2, 2, 4]}
    rest = {"patch_size": 2, "theta": 10000, "qkv_bias": True, "guidance_embed": False, "txt_ids_dims": []}
    return comfy.supported_models.Flux({"image_model": "flux"} | sizes | depths | rest)


def flux():
    return patcher(flux_config(), {})


def widened(model, channels=8):
    """As IC-Light does it."""
    model = model.clone()
    model.add_patches({FIRST: ("diff", [torch.zeros(320, channels, 3, 3), {"pad_weight": True}])})
    return model


@functools.cache
def models():
    """{name: a model without weights}, of every kind."""
    models = {name: without_weights(shape) for name, shape in SHAPES.items()}
    models["cosxl_edit"] = without_weights(
        SHAPES["sdxl_ip2p"], **{"edm_vpred.sigma_max": torch.tensor(120.0), "edm_vpred.sigma_min": torch.tensor(0.002)}
    )
    models["cosxl"] = without_weights(SHAPES["sdxl"], **{"edm_vpred.sigma_max": torch.tensor(120.0)})
    projection = {"weight": torch.empty(768, 772, device="meta"), "bias": torch.empty(768, device="meta")}
    models["zero123"] = without_weights(SHAPES["ip2p"], **{f"cc_projection.{k}": v for k, v in projection.items()})
    models["ic_light_fc"] = widened(models["sd15"])
    models["flux"] = flux()
    return models
