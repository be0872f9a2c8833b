"""ComfyUI's whole sampling path around networks small enough for every sampler, scheduler and kind of model."""

import comfy.model_base
import comfy.supported_models
import torch
from comfy import model_management
from comfy.model_patcher import ModelPatcher

KINDS = {
    "eps": (comfy.supported_models.SD15, comfy.model_base.ModelType.EPS, 4),
    "v": (comfy.supported_models.SD20, comfy.model_base.ModelType.V_PREDICTION, 4),
    "flow": (comfy.supported_models.SD3, comfy.model_base.ModelType.FLOW, 16),
    "video": (comfy.supported_models.WAN21_T2V, comfy.model_base.ModelType.FLOW, 16),
}


class Pointwise(torch.nn.Module):
    """Of each value alone, so that it takes latents of any shape."""

    dtype = torch.float32

    def forward(self, x, t, **kwargs):
        return torch.tanh(1.5 * x) - 0.2 * x


class Neighbours(torch.nn.Module):
    """Of a value and its neighbours, so that it takes latents of any shape and sees where a window ends."""

    dtype = torch.float32

    def __init__(self):
        super().__init__()
        self.sizes = set()

    def forward(self, x, t, **kwargs):
        self.sizes.add(tuple(x.shape[-2:]))
        return torch.tanh(x + 0.3 * x.roll(1, -1)) - 0.2 * x.roll(1, -2)


def patcher(network, kind="eps", dtype=torch.float32):
    """A model of this kind with `network`, which computes in `dtype`, for its UNet."""
    network = network.to(dtype)
    network.dtype = dtype
    config, model_type, _ = KINDS[kind]
    base = comfy.model_base.BaseModel(config({"disable_unet_model_creation": True}), model_type)
    base.diffusion_model = network
    return ModelPatcher(base, model_management.get_torch_device(), model_management.unet_offload_device())


class Prompted(torch.nn.Module):
    """Of each value and of the prompt's first number, so that guidance changes the answer."""

    dtype = torch.float32

    def forward(self, x, t, context, **kwargs):
        prompt = torch.tanh(context[:, 0, 0]).view(-1, *[1] * (x.ndim - 1))
        return torch.tanh((1.5 + prompt) * x) + 0.05 * prompt - 0.2 * x
