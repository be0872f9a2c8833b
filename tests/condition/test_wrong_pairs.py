"""Every node of the concat family with every kind of model: refused by name before the first step, or taken."""

import re
from types import SimpleNamespace

import comfy.samplers
import folder_paths
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from comfy_extras import nodes_custom_sampler

import nodes as host_nodes
from kit import kinds
from kit.run import links
from pentimento.model_patchers.comfyui.conditioning import ModelCheck
from pentimento.model_patchers.comfyui.kinds import KINDS, fitting, identify
from pentimento.model_patchers.condition.inspect_model import report

FILE = "any.safetensors"
MODELS = sorted(kinds.models())
PIXELS = torch.full((1, 64, 64, 3), 0.5)
VAE = SimpleNamespace(encode=lambda pixels: torch.ones(len(pixels), 4, pixels.shape[1] // 8, pixels.shape[2] // 8))
EMPTY = {"samples": torch.zeros(1, 4, 8, 8)}


def prompt(width):
    return [[torch.zeros(1, 77, width), {"pooled_output": torch.zeros(1, 1280)}]]


def clip_vision(width):
    return SimpleNamespace(encode_image=lambda image, crop: SimpleNamespace(image_embeds=torch.ones(len(image), width)))


def unclip(run, width):
    positive = run("UnCLIPEncode", prompt(1024), clip_vision(width), PIXELS, "", 0, 50, 0, "center")[0]
    return positive, prompt(1024), EMPTY


# What a user wires: (positive, negative, latent) of the nodes that make conditionings ...
CONDITIONINGS = {
    "InstructPix2Pix Conditioning": lambda run: run(
        "IP2PConditioning", prompt(768), prompt(768), VAE, PIXELS, "multiple of 64"
    ),
    "unCLIP Encode": lambda run: unclip(run, 1024),
    "unCLIP Encode, ViT-L": lambda run: unclip(run, 768),
    "SD x4 Conditioning": lambda run: run("SDx4Conditioning", prompt(1024), prompt(1024), PIXELS, 20, 0)[:3],
    "SD2 Depth Conditioning": lambda run: (
        *run("DepthConditioning", prompt(1024), prompt(1024), EMPTY, PIXELS * torch.rand(1, 64, 64, 1), False),
        EMPTY,
    ),
    "IC-Light Conditioning": lambda run: run("ICLightConditioning", prompt(768), prompt(768), VAE, PIXELS),
    "IC-Light Conditioning, background": lambda run: run(
        "ICLightConditioning", prompt(768), prompt(768), VAE, PIXELS, PIXELS
    ),
}
# ... and the nodes that see the model.
PATCHES = {
    "InstructPix2Pix Guider": lambda run, model: run(
        "IP2PGuider", model, *CONDITIONINGS["InstructPix2Pix Conditioning"](run)[:2], 7.5, 1.5, 0.0, 0.0, 1.0
    ),
    "InstructPix2Pix for Any Sampler": lambda run, model: run("IP2PPatch", model, 1.5),
    "unCLIP-L Statistics": lambda run, model: run("UnCLIPStats", model, FILE),
    "IC-Light": lambda run, model: run("ICLight", model, FILE),
}
ONLY = {"unCLIP Encode": {"unclip-h"}, "unCLIP Encode, ViT-L": {"unclip-l"}}  # by the picture's embedding


def fits(row, model):
    name = row.split(",")[0]
    return identify(kinds.models()[model]).name in ONLY.get(row, fitting(name))


PAIRS = [(row, model) for row in (*CONDITIONINGS, *PATCHES) for model in MODELS]


@pytest.fixture(scope="module")
def run(node_classes, tmp_path_factory):
    """Runs a node by the end of its id. Files that it asks for exist, and are empty."""
    folder = tmp_path_factory.mktemp("models")
    (folder / FILE).touch()

    def run(name, *arguments):
        return node_classes[f"Pentimento{name}"].execute(*arguments).args

    with pytest.MonkeyPatch.context() as patch:
        for kind in ("unclip", "diffusion_models"):
            patch.setitem(folder_paths.folder_names_and_paths, kind, ([str(folder)], {".safetensors"}))
        yield run


@pytest.fixture(scope="module")
def conditionings(run):
    with torch.inference_mode():
        return {row: build(run) for row, build in CONDITIONINGS.items()}


def refusal(row, model):
    kind = identify(kinds.models()[model])
    return f"^{row.split(',')[0]} works with .*, and the model here is {re.escape(kind.title)}"


@pytest.mark.parametrize("row, model", [pair for pair in PAIRS if pair[0] in CONDITIONINGS and not fits(*pair)])
def test_a_conditioning_for_another_model_is_refused_by_ksampler(conditionings, row, model):
    patched = kinds.models()[model].clone()
    calls = []
    patched.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "spy", lambda executor, *args, **kwargs: calls.append(args))
    patched.add_wrapper_with_key(
        WrappersMP.PREPARE_SAMPLING, "spy", lambda executor, *args, **kwargs: calls.append(args)
    )
    positive, negative, latent = conditionings[row]

    with pytest.raises(ValueError, match=refusal(row, model)):
        host_nodes.common_ksampler(patched, 0, 2, 7.5, "euler", "normal", positive, negative, latent)

    assert calls == []  # neither loaded nor computed


@pytest.mark.parametrize("row", [row for row in CONDITIONINGS if not row.startswith("InstructPix2Pix")])
@pytest.mark.parametrize("sampler", ["guider", "patch"])
def test_instruct_pix2pix_refuses_a_conditioning_for_another_model(run, conditionings, row, sampler):
    model = kinds.models()["ip2p"]
    positive, negative, latent = conditionings[row]
    with pytest.raises(ValueError, match=refusal(row, "ip2p") + "|^InstructPix2Pix for Any Sampler: .* no picture"):
        if sampler == "guider":
            (guider,) = run("IP2PGuider", model, positive, negative, 7.5, 1.5, 0.0, 0.0, 1.0)
            noise, sigmas = nodes_custom_sampler.Noise_EmptyNoise(), torch.tensor([14.0, 0.0])
            euler = comfy.samplers.sampler_object("euler")
            nodes_custom_sampler.SamplerCustomAdvanced.execute(noise, guider, euler, sigmas, latent)
        else:
            (patched,) = run("IP2PPatch", model, 1.5)
            host_nodes.common_ksampler(patched, 0, 2, 7.5, "euler", "normal", positive, negative, latent)


@pytest.mark.parametrize("row, model", [pair for pair in PAIRS if pair[0] in PATCHES and not fits(*pair)])
def test_a_node_refuses_another_model(run, row, model):
    with pytest.raises(ValueError, match=refusal(row, model)):
        PATCHES[row](run, kinds.models()[model])


@pytest.mark.parametrize("row, model", [pair for pair in PAIRS if pair[0] in CONDITIONINGS and fits(*pair)])
def test_the_right_model_passes(conditionings, row, model):
    """As far as the kind goes: IC-Light's two kinds differ in what they want."""
    positive, negative, latent = conditionings[row]
    chains = [links(value["control"]) for _, value in (*positive, *negative) if "control" in value]
    assert chains
    for chain in chains:
        (check,) = (link for link in chain if isinstance(link, ModelCheck))
        check.needs._replace(also=None).check(kinds.models()[model], latent["samples"].shape)


@pytest.mark.parametrize("row", ["InstructPix2Pix Guider", "InstructPix2Pix for Any Sampler"])
def test_the_right_models_are_taken(run, row):
    for model in ("ip2p", "sdxl_ip2p", "cosxl_edit"):
        assert fits(row, model)
        PATCHES[row](run, kinds.models()[model])


def test_the_table_is_whole(node_classes):
    """All nodes of the category that have to do with a model, and every kind."""
    rows = {row.split(",")[0] for row in (*CONDITIONINGS, *PATCHES)}
    category = {
        cls.GET_SCHEMA().display_name
        for cls in node_classes.values()
        if cls.GET_SCHEMA().category == "Pentimento/condition"
    }
    assert rows == category - {"Inspect Model", "Load Diffusers UNet"}
    assert {identify(kinds.models()[model]).name for model in MODELS} == {*KINDS, "other"}


@pytest.mark.parametrize("model", MODELS)
def test_the_report_names_the_nodes_that_work(model):
    (line,) = (line for line in report(kinds.models()[model])[0].splitlines() if line.startswith("Nodes for it: "))
    named = set(line.removeprefix("Nodes for it: ").split(", "))
    assert {row.split(",")[0] for row, name in PAIRS if name == model and fits(row, name)} == {
        name for name in named if name in {row.split(",")[0] for row, _ in PAIRS}
    }
