"""A model file that is replaced under its name is noticed, and can be replaced while its model is loaded."""

import asyncio
import os
from pathlib import Path

import folder_paths
import pytest
import safetensors.torch
import torch
from comfy_execution.graph import DynamicPrompt
from execution import IsChangedCache

import nodes
from kit import loaders, thin
from pentimento.model_patchers.comfyui import folders
from pentimento.model_patchers.comfyui.model_files import read_model
from pentimento.model_patchers.condition import ic_light, unclip
from pentimento.model_patchers.fill import lama
from pentimento.model_patchers.prompt import ella, ella_t5
from pentimento.model_patchers.segment import sam

FILE = "model.safetensors"
LINK = ["0", 0]
INPUTS = {  # of the nodes that read a model file, and the folder where they look for it
    "PentimentoLoadSAM": ("sams", {"sam_name": FILE, "precision": "auto"}),
    "PentimentoLoadSAM2": ("sam2", {"sam2_name": FILE, "precision": "auto"}),
    "PentimentoLoadLaMa": ("lama", {"lama_name": FILE}),
    "PentimentoLoadSTTN": ("sttn", {"sttn_name": FILE}),
    "PentimentoLoadOSTrack": ("ostrack", {"ostrack_name": FILE}),
    "PentimentoLoadELLA": ("ella", {"ella_name": FILE}),
    "PentimentoLoadELLAT5": ("text_encoders", {"t5_name": FILE, "precision": "fp32"}),
    "PentimentoLoadConcatUNet": ("diffusion_models", {"unet_name": FILE}),
    "PentimentoICLight": ("diffusion_models", {"model": LINK, "ic_light_name": FILE}),
    "PentimentoUnCLIPStats": ("unclip", {"model": LINK, "stats_name": FILE}),
    "PentimentoScoreImage": ("lpips", {"image": LINK, "lpips_name": FILE}),
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder that is every folder of models."""
    for name in {name for name, _ in INPUTS.values()}:
        monkeypatch.setitem(folder_paths.folder_names_and_paths, name, ([str(tmp_path)], {".safetensors"}))
        folder_paths.filename_list_cache.pop(name, None)
    return tmp_path


def fingerprint(node_id, inputs):
    """What ComfyUI compares with the last run, to tell whether a node runs again."""
    prompt = DynamicPrompt({"0": {"class_type": "Other", "inputs": {}}, "1": {"class_type": node_id, "inputs": inputs}})
    return asyncio.run(IsChangedCache("prompt", prompt, None).get("1"))


def write(path, value):
    """Another time in any case: a clock that ticks slowly must not decide."""
    before = path.stat().st_mtime_ns if path.exists() else 0
    safetensors.torch.save_file({"a": torch.full((2,), float(value))}, path)
    if path.stat().st_mtime_ns == before:
        os.utime(path, ns=(before + 10**9, before + 10**9))


def test_every_node_that_reads_a_model_file_is_here(node_classes):
    reading = {node_id for node_id, node in node_classes.items() if any_file(node)}
    assert reading == INPUTS.keys()


def any_file(node):
    ids = {entry.id for entry in node.define_schema().inputs} - {"sampler_name"}  # one of ComfyUI's samplers
    return any(each.endswith("_name") for each in ids)


@pytest.mark.parametrize("node_id", INPUTS)
def test_a_replaced_file_is_noticed_and_an_unchanged_one_is_not(node_id, folder, node_classes, monkeypatch):
    monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, node_id, node_classes[node_id])
    _, inputs = INPUTS[node_id]
    write(folder / FILE, 1)
    first = fingerprint(node_id, inputs)
    assert (
        first not in ([""], [None]) and first == first and fingerprint(node_id, inputs) == first
    )  # NaN: runs each time
    write(folder / FILE, 2)  # as large as the first
    second = fingerprint(node_id, inputs)
    assert second != first
    (folder / FILE).unlink()
    assert fingerprint(node_id, inputs) == [""]
    name = next(key for key in inputs if key.endswith("_name"))
    assert fingerprint(node_id, {**inputs, name: LINK}) == [""]  # over a link ComfyUI does not know the name yet


def test_any_file_of_several_counts(folder):
    first, second = (folder / f"model-0000{i}-of-00002.safetensors" for i in (1, 2))
    write(first, 1)
    assert folders.fingerprint(first.name, "lama") == ""
    write(second, 1)
    both = folders.fingerprint(first.name, "lama")
    assert both and folders.fingerprint(second.name, "lama") == both
    write(second, 2)
    assert folders.fingerprint(first.name, "lama") != both


# A file that is open cannot be replaced on Windows; one that is written anew would change or kill a model that reads it


def load(kind, path):
    if kind == "ic-light":
        return ic_light.patch(thin.host_model("sd15"), path)
    if kind == "t5":
        return ella_t5.load(path, "fp32")
    if kind == "sam 2":
        return loaders.load_sam2(read_model(path))
    return {"lama": lama.load, "sam": sam.load, "ella": ella.load, "statistics": unclip.read_statistics}[kind](path)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux lists the files that a process maps")
@pytest.mark.parametrize("kind", ["lama", "sam", "sam 2", "ella", "t5", "ic-light", "statistics"])
def test_a_loaded_model_does_not_hold_its_file(kind, tmp_path):
    path = tmp_path / FILE
    weights = (
        {"mean": torch.zeros(1, 768), "std": torch.ones(1, 768)} if kind == "statistics" else loaders.weights(kind)
    )
    safetensors.torch.save_file({key: value.contiguous() for key, value in weights.items()}, path)
    model = load(kind, path)
    assert str(path) not in Path("/proc/self/maps").read_text()
    assert path not in [link.resolve() for link in Path("/proc/self/fd").iterdir()]
    assert model
