"""The thin stand-ins: ComfyUI recognises them, and it and diffusers compute the same with their weights."""

import comfy.model_base
import comfy.model_detection
import pytest
import torch

from kit import thin
from pentimento_host.standins import diffusion


@pytest.mark.parametrize("kind", [kind for kind in diffusion.UNETS if kind not in ("sdxl", "ic_light_fbc")])
def test_both_networks_agree(kind):
    ours, theirs = thin.host_model(kind).model.diffusion_model, thin.diffusers_unet(kind)
    generator = torch.Generator().manual_seed(1)
    shape = diffusion.UNETS[kind]
    x = torch.randn(2, shape.in_channels, 8, 6, generator=generator)
    context = torch.randn(2, 77, shape.context, generator=generator)
    t, y = torch.tensor([3.0, 700.0]), None
    if shape.adm:
        y = torch.randn(2, shape.adm, generator=generator)
    if shape.classes:
        y = torch.tensor([20, 350])

    difference = ours(x, t, context, y=y) - theirs(x, t, context, class_labels=y).sample

    assert difference.abs().max() < 1e-5


@pytest.mark.parametrize(
    "kind, family",
    [
        ("sd15", "SD15"),
        ("inpaint", "SD15"),
        ("ip2p", "SD15_instructpix2pix"),
        ("sd2", "SD20"),
        ("depth", "SD20"),
        ("unclip_l", "SD21UnclipL"),
        ("unclip_h", "SD21UnclipH"),
        ("x4", "SD_X4Upscaler"),
        ("sdxl", "SDXL"),
    ],
)
def test_the_host_recognises_the_stand_in(kind, family):
    names = dict(diffusion.unet_shapes(diffusion.UNETS[kind]))
    weights = {f"model.diffusion_model.{name}": torch.empty(size, device="meta") for name, size in names.items()}

    config = comfy.model_detection.model_config_from_unet(weights, "model.diffusion_model.")

    assert type(config).__name__ == family
    model = comfy.model_base.BaseModel(config, device=torch.device("meta"))
    assert {name: tuple(tensor.shape) for name, tensor in model.diffusion_model.state_dict().items()} == names
