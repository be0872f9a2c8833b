"""Thin VAEs: TAESD, and the KL autoencoders of several kinds."""

import comfy.sd
import torch
from comfy.ldm.modules.diffusionmodules import model as kl
from comfy.taesd.taesd import TAESD

from pentimento_host.standins.weights import drawn

from .tensors import randn

CONFIG = {"in_channels": 3, "out_ch": 3, "num_res_blocks": 2, "resolution": 256, "attn_resolutions": [], "ch": 32}
KINDS = {  # channels of the decoder's input, levels
    "sd": (4, (1, 2, 4, 4)),
    "flux": (16, (1, 2, 4, 4)),
    "flux2": (32, (1, 2, 4, 4)),
    "x4": (4, (1, 2, 4)),
}


def tiny():
    """TAESD with random weights."""
    weights = TAESD(latent_channels=4).state_dict()
    values = {
        name: randn(*weight.shape, seed=i) * weight[0].numel() ** -0.5
        for i, (name, weight) in enumerate(weights.items())
        if weight.ndim
    }
    return comfy.sd.VAE(sd={**weights, **values})


def fill(module, seed=0):
    generator = torch.Generator().manual_seed(seed)
    weights = {name: drawn(name, tuple(weight.shape), generator) for name, weight in module.state_dict().items()}
    module.load_state_dict(weights)
    return module


def thin(kind, dtype=torch.float32, **config):
    """ComfyUI's VAE with thin networks. It is told by a decoder; ComfyUI's encoders have one width, ours another."""
    channels, levels = KINDS[kind]
    config = CONFIG | {"z_channels": channels, "ch_mult": levels} | config
    decoder, encoder = fill(kl.Decoder(**config)), fill(kl.Encoder(**config), seed=1)
    weights = {f"decoder.{name}": weight for name, weight in decoder.state_dict().items()}
    if kind != "flux":
        conv = fill(torch.nn.Conv2d(channels, channels, 1))
        weights |= {f"post_quant_conv.{name}": weight for name, weight in conv.state_dict().items()}
    if kind == "flux2":
        rng = torch.Generator().manual_seed(2)
        weights |= {f"bn.running_{name}": torch.rand(4 * channels, generator=rng) for name in ("mean", "var")}
    vae = comfy.sd.VAE(sd=weights, dtype=dtype)
    model = vae.first_stage_model
    model.encoder, model.decoder = encoder.to(dtype), decoder.to(dtype)
    if kind != "flux":
        fill(model.quant_conv)
    return vae
