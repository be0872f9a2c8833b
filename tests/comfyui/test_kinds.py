"""Which kind a model is, told from its weights."""

from dataclasses import replace

import comfy.controlnet
import comfy.hooks
import comfy.model_base
import comfy.model_detection
import comfy.model_management
import comfy.sampler_helpers
import comfy.samplers
import pytest
import torch
from comfy_extras import nodes_model_advanced

from kit import kinds as all_kinds
from kit import thin as thin_models
from kit.tensors import randn
from pentimento.model_patchers.comfyui import kinds
from pentimento.model_patchers.comfyui.kinds import FIRST, KINDS, identify, require
from pentimento_host.standins import diffusion

pytestmark = pytest.mark.usefixtures("one_thread")

EXPECTED = {
    "sd15": "sd15",
    "inpaint": "sd15-inpaint",
    "ip2p": "instruct-pix2pix",
    "ic_light_fbc": "ic-light",
    "sd2": "sd2",
    "depth": "sd2-depth",
    "sd2_inpaint": "sd2-inpaint",
    "unclip_l": "unclip-l",
    "unclip_h": "unclip-h",
    "x4": "sd-x4",
    "sdxl": "sdxl",
    "sdxl_inpaint": "sdxl-inpaint",
    "sdxl_ip2p": "instruct-pix2pix-sdxl",
    "cosxl_edit": "cosxl-edit",
    "ic_light_fc": "ic-light",
    "lotus": "other",
    "refiner": "other",
    "zero123": "other",
    "flux": "other",
}


@pytest.fixture(scope="session")
def models():
    return all_kinds.models()


@pytest.mark.parametrize("name", EXPECTED)
def test_a_model_is_told_from_its_shapes(models, name):
    kind = identify(models[name])

    assert kind.name == EXPECTED[name]
    assert (
        kind.title == KINDS[kind.name].title if kind.name in KINDS else type(models[name].model).__name__ in kind.title
    )
    assert kind.in_channels == (
        all_kinds.SHAPES[name].in_channels if name in all_kinds.SHAPES else {"flux": 0}.get(name, 8)
    )


def test_kinds_are_complete():
    assert set(KINDS) == set(EXPECTED.values()) - {"other"}
    assert len(KINDS) == len(kinds.ROWS)


@pytest.mark.parametrize(
    "name, prediction", [("sd15", "eps"), ("x4", "v"), ("cosxl", "v"), ("cosxl_edit", "v"), ("flux", "flow")]
)
def test_prediction(models, name, prediction):
    assert identify(models[name]).prediction == prediction


def test_prediction_after_the_hosts_patch(models):
    for choice, prediction in (("v_prediction", "v"), ("eps", "eps"), ("x0", "x0")):
        (patched,) = nodes_model_advanced.ModelSamplingDiscrete().patch(models["sd2"], choice, False)
        assert identify(patched) == replace(identify(models["sd2"]), prediction=prediction)
    (edm,) = nodes_model_advanced.ModelSamplingContinuousEDM().patch(models["sdxl"], "edm", 80.0, 0.002)
    assert identify(edm).prediction == "EDM"


def test_a_v_prediction_sd2_is_told_from_its_weights():
    shape = replace(diffusion.UNETS["sd2"], depths=(1, 1, 1, 1), depths_out=(1, 1, 1, 1), middle=1)
    weights = {name: torch.zeros(size) for name, size in diffusion.unet_shapes(shape) if "output_blocks.11" not in name}
    name = "output_blocks.11.1.transformer_blocks.0.norm1.bias"  # where ComfyUI looks, in a UNet of 12 output blocks
    weights[name] = randn(320, seed=0)
    config = comfy.model_detection.model_config_from_unet(weights, "")
    assert identify(all_kinds.patcher(config, weights)).name == "sd2"
    assert identify(all_kinds.patcher(config, weights)).prediction == "v"


def test_a_lora_changes_nothing(models):
    model = models["ip2p"].clone()
    model.add_patches({FIRST: ("diff", (torch.zeros(320, 8, 3, 3),))})
    assert identify(model) == identify(models["ip2p"])


def test_a_base_model_is_itself_while_its_patched_clone_is_loaded():
    base = thin_models.host_model("sd15")
    clone = all_kinds.widened(base, 12)
    try:
        comfy.model_management.load_models_gpu([clone])
        assert base.model.diffusion_model.input_blocks[0][0].weight.shape[1] == 12
        assert identify(base).name == "sd15"
        assert (identify(clone).name, identify(clone).in_channels) == ("ic-light", 12)
    finally:
        clone.detach()
        comfy.model_management.free_memory(1e30, clone.load_device)
    assert base.model.diffusion_model.input_blocks[0][0].weight.shape[1] == 4


def test_require(models):
    require(models["sdxl_ip2p"], {"instruct-pix2pix", "instruct-pix2pix-sdxl"}, "Some Node")
    with pytest.raises(
        ValueError, match=r"^Some Node works with SD 2 Depth, and .* Stable Diffusion 2 \(4 channels in"
    ):
        require(models["sd2"], {"sd2-depth"}, "Some Node")
    with pytest.raises(ValueError, match=r"^Some Node works with Stable unCLIP-L or .*-H, and .* 'Flux'\. Load such"):
        require(models["flux"], {"unclip-h", "unclip-l"}, "Some Node")
