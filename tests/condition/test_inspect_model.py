"""Inspect Model: a line for each fact, and which nodes fit."""

import pytest
import torch

from kit import kinds
from pentimento.model_patchers.comfyui.kinds import FIRST
from pentimento.model_patchers.condition.inspect_model import report

IP2P = """\
Kind: InstructPix2Pix (SD 1.5)
Channels in: 8 = the noisy latent (4), the picture's latent (4)
Scale of what is concatenated: the VAE's mean as it is, not x 0.18215
Global conditioning: none
Prediction: eps
Noise levels: sigma 0.02917 to 14.61
Latent: 4 channels, x 0.18215 inside the model
Patches: weights changed (LoRA and the like) 0, parts replaced 0, functions added to sampling 0
Nodes for it: InstructPix2Pix Conditioning, InstructPix2Pix Guider, InstructPix2Pix for Any Sampler
Note: An IC-Light that was merged into a full model looks the same from here."""
FLUX = """\
Kind: A model of the kind 'Flux'
Channels in: not known here
Prediction: flow
Noise levels: sigma 0.0003158 to 1
Latent: 16 channels, x 0.3611 inside the model
Patches: weights changed (LoRA and the like) 0, parts replaced 0, functions added to sampling 0
Nodes for it: none in Pentimento/condition"""


def facts(name):
    return dict(line.split(": ", 1) for line in report(kinds.models()[name])[0].splitlines())


@pytest.mark.parametrize("name, text", [("ip2p", IP2P), ("flux", FLUX)])
def test_the_report(name, text):
    assert report(kinds.models()[name])[0] == text


@pytest.mark.parametrize(
    "name, fact, value",
    [
        ("sd15", "Nodes for it", "IC-Light"),
        ("sd15", "Channels in", "4"),
        ("inpaint", "Nodes for it", "ComfyUI's own InpaintModelConditioning"),
        ("ic_light_fc", "Channels in", "8 = the noisy latent (4), the foreground's latent (4)"),
        (
            "ic_light_fbc",
            "Channels in",
            "12 = the noisy latent (4), the foreground's latent (4), the background's latent (4)",
        ),
        (
            "ic_light_fc",
            "Patches",
            "weights changed (LoRA and the like) 1, parts replaced 0, functions added to sampling 0",
        ),
        ("sd2", "Nodes for it", "none in Pentimento/condition"),
        ("unclip_l", "Nodes for it", "unCLIP Encode, unCLIP-L Statistics"),
        ("unclip_h", "Nodes for it", "unCLIP Encode"),
        ("x4", "Noise levels", "sigma 0.01 to 36.91"),
        ("x4", "Latent", "4 channels, x 0.08333 inside the model"),
        ("cosxl_edit", "Scale of what is concatenated", "the VAE's mean x 0.13025"),
        ("cosxl_edit", "Noise levels", "sigma 0.002 to 120"),
        ("sdxl_ip2p", "Scale of what is concatenated", "the VAE's mean as it is, not x 0.13025"),
    ],
)
def test_single_facts(name, fact, value):
    assert facts(name)[fact] == value


def test_patches_are_counted():
    model = kinds.models()["ip2p"].clone()
    model.add_patches({FIRST: ("diff", (torch.zeros(320, 8, 3, 3),))})
    model.add_object_patch("model_sampling", model.get_model_object("model_sampling"))
    model.set_model_attn2_patch(lambda *args: args)
    model.set_model_sampler_post_cfg_function(lambda args: args["denoised"])
    model.add_wrapper_with_key("outer_sample", "key", lambda executor, *args: executor(*args))
    text = report(model)[0]
    assert "Patches: weights changed (LoRA and the like) 1, parts replaced 1, functions added to sampling 3" in text


def test_the_node(node_classes):
    result = node_classes["PentimentoInspectModel"].execute(kinds.models()["ic_light_fbc"])
    assert result.args[1:] == ("ic-light", 12)
    assert result.args[0].startswith("Kind: IC-Light\nChannels in: 12 = ")


def test_the_node_shows_its_report(node_classes):
    result = node_classes["PentimentoInspectModel"].execute(kinds.models()["sd15"])
    assert result.ui == {"text": [result.args[0]]}
