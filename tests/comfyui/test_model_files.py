"""Models in several files, and in fp8: what is loaded is what a hand would multiply, or what ComfyUI's loader loads."""

import json

import comfy.sd
import pytest
import safetensors.torch
import torch

from kit import loaders, thin
from kit.tensors import randn
from pentimento.model_patchers.comfyui.model_files import dequantized, forms, read_model, shards, widest
from pentimento.model_patchers.condition import diffusers_unet
from pentimento.model_patchers.fill import lama
from pentimento.model_patchers.prompt import ella
from pentimento.model_patchers.segment import sam

pytestmark = pytest.mark.usefixtures("one_thread")
E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
SHARE = 448  # of e4m3fn's numbers: the largest


def save(path, weights, metadata=None):
    safetensors.torch.save_file({key: value.contiguous().clone() for key, value in weights.items()}, path, metadata)
    return path


def cut(weights, folder, count=3):
    """Writes the tensors as files of one model; returns their paths."""
    keys = sorted(weights)
    return [
        save(folder / f"model-{i + 1:05}-of-{count:05}.safetensors", {key: weights[key] for key in keys[i::count]})
        for i in range(count)
    ]


# Files of one model


@pytest.mark.parametrize("kind", ["lama", "sam", "ella", "unet"])
def test_one_of_several_files_loads_them_all(kind, tmp_path):
    weights = loaders.weights(kind)
    for path in cut(weights, tmp_path):
        model = read_model(path)
        assert model.keys() == weights.keys() and all(torch.equal(model[key], weights[key]) for key in weights)
    loaders.LOADERS[kind](model)


@pytest.mark.parametrize(
    "load", [lama.load, sam.load, ella.load, diffusers_unet.load], ids=["lama", "sam", "ella", "unet"]
)
def test_the_loaders_name_the_file_that_is_missing(load, tmp_path):
    first, second, _ = cut({f"{i}": torch.zeros(1) for i in range(3)}, tmp_path)
    second.unlink()
    with pytest.raises(ValueError, match=r"one of 3 files .* no 'model-00002-of-00003.safetensors'\. Put all"):
        load(first)


def test_of_many_missing_files_three_are_named(tmp_path):
    path = save(tmp_path / "model-00001-of-99999.safetensors", {"a": torch.zeros(1)})
    with pytest.raises(
        ValueError, match=r"no 'model-00002-.*' and no '.*' and no '.*' and 99995 more of them"
    ) as error:
        shards(path)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize("name", ["model.safetensors", "model-00003-of-00002.safetensors", "model-1-of-2.safetensors"])
def test_other_names_are_one_file(name, tmp_path):
    assert shards(tmp_path / name) == [tmp_path / name]


# fp8


def in_fp8(weights, chosen, dtype=E4M3):
    """({key: fp8, scaled}, {layer: scale}, {key: the numbers that they stand for}) where `chosen(key, value)`."""
    stored, scales, numbers = dict(weights), {}, dict(weights)
    for key, value in weights.items():
        if chosen(key, value):
            layer = key.removesuffix(".weight")
            scales[layer] = value.float().abs().max() / SHARE
            stored[key] = (value.float() / scales[layer]).to(dtype)
            numbers[key] = stored[key].float() * scales[layer]
    return stored, scales, numbers


def matrices(key, value):
    return key.endswith(".weight") and value.ndim >= 2 and not key.startswith(("shared", "conv_"))


def old(stored, scales, prefix="", mark=1):
    scaled = {f"{prefix}{layer}.scale_weight": scale for layer, scale in scales.items()}
    inputs = {f"{prefix}{layer}.scale_input": torch.ones(1) for layer in scales}
    stored = {f"{prefix}{key}": value for key, value in stored.items()}
    return stored | scaled | inputs | {f"{prefix}scaled_fp8": torch.zeros(mark, dtype=E4M3)}


def new(stored, scales):
    form = torch.tensor(list(json.dumps({"format": "float8_e4m3fn"}).encode()), dtype=torch.uint8)
    marks = {f"{layer}.comfy_quant": form for layer in scales}
    return stored | marks | {f"{layer}.weight_scale": scale for layer, scale in scales.items()}


def in_header(stored, scales):
    """(tensors, header)"""
    layers = {layer: {"format": "float8_e4m3fn"} for layer in scales}
    header = {"_quantization_metadata": json.dumps({"format_version": "1.0", "layers": layers})}
    return stored | {f"{layer}.weight_scale": scale for layer, scale in scales.items()}, header


def unmarked(stored, scales):
    return stored | {f"{layer}.weight_scale": scale[None] for layer, scale in scales.items()}


def state(kind, weights):
    """The weights of the loaded network."""
    loaded = loaders.LOADERS[kind](weights)
    return loaded.cond_stage_model.state_dict() if kind == "t5" else loaded.network.state_dict()


FORMS = {
    "old": lambda *fp8: (old(*fp8), None),
    "old, prefixed": lambda *fp8: (old(*fp8, prefix="model.net."), None),
    "new": lambda *fp8: (new(*fp8), None),
    "header": in_header,
    "unmarked": lambda *fp8: (unmarked(*fp8), None),
}


CASES = [*(("ella", form) for form in FORMS), ("lama", "new"), ("sam", "old"), ("t5", "old")]


@pytest.mark.parametrize("kind, form", CASES)
def test_scaled_fp8_is_what_a_hand_multiplies(kind, form, tmp_path):
    stored, scales, numbers = in_fp8(loaders.weights(kind), matrices)
    assert len(scales) > 5
    weights, header = FORMS[form](stored, scales)
    found, expected = state(kind, read_model(save(tmp_path / "fp8.safetensors", weights, header))), state(kind, numbers)
    assert all(torch.equal(found[key], value.to(found[key].dtype)) for key, value in expected.items())
    without = dequantized(dict(stored), "file")  # a common mistake: no scale
    key = next(key for key, value in stored.items() if value.dtype == E4M3)
    assert (without[key].float() - numbers[key]).abs().max() > 10 * numbers[key].abs().max()


@pytest.mark.parametrize("dtype", [E4M3, E5M2])
@pytest.mark.parametrize("kind", ["lama", "sam", "ella", "t5"])
def test_plain_fp8_beside_fp16_norms_is_the_network_of_its_values(kind, dtype):
    half = {key: value.half() if value.is_floating_point() else value for key, value in loaders.weights(kind).items()}
    mixed = {key: value.to(dtype) if matrices(key, value) else value for key, value in half.items()}
    found = state(kind, mixed)
    expected = state(kind, {key: value.float() if value.is_floating_point() else value for key, value in mixed.items()})
    assert all(torch.equal(found[key].float(), value.float()) for key, value in expected.items())


def test_an_embedding_may_be_scaled_and_a_scale_may_stand_for_each_row():
    weights = dict(loaders.weights("t5"))
    stored, scales, numbers = in_fp8(weights, lambda key, value: key == "shared.weight")
    found = state("t5", new(stored, scales))
    assert torch.equal(found["t5xl.transformer.shared.weight"], numbers["shared.weight"])
    value = randn(3, 2)
    rows = torch.tensor([[1.0], [2.0], [4.0]])
    layer = new({"a.weight": value.to(E4M3)}, {"a": rows})
    assert torch.equal(dequantized(layer, "file")["a.weight"], value.to(E4M3).float() * rows)
    with pytest.raises(ValueError, match=r"'file' does not fit together: 'a.weight_scale' is \(2,\), .* the 3 rows of"):
        dequantized(new({"a.weight": value.to(E4M3)}, {"a": torch.ones(2)}), "file")


def test_other_forms_than_fp8_are_named():
    weights = new(dict(loaders.weights("ella")), {"connector.proj_in": torch.ones(1)})
    weights["connector.proj_in.weight"] = weights["connector.proj_in.weight"].to(torch.int8)
    mark = json.dumps({"format": "int8_tensorwise"}).encode()
    weights["connector.proj_in.comfy_quant"] = torch.tensor(list(mark), dtype=torch.uint8)
    with pytest.raises(
        ValueError, match="'model.safetensors' is quantized as int8_tensorwise, .*fp32, fp16, bf16 or fp8"
    ):
        loaders.load_ella(weights)
    weights["connector.proj_in.comfy_quant"] = torch.tensor([1, 2, 3], dtype=torch.uint8)
    with pytest.raises(ValueError, match="quantized as an unknown form"):
        loaders.load_ella(weights)
    blocks = new({"a.weight": torch.ones(32, 32).to(E4M3)}, {"a": torch.ones(32, dtype=torch.uint8)})
    blocks["a.comfy_quant"] = torch.tensor(list(b'{"format": "mxfp8"}'), dtype=torch.uint8)
    with pytest.raises(ValueError, match="quantized as mxfp8, which this node cannot load: 'a.weight'"):
        dequantized(blocks, "file")


@pytest.mark.parametrize("statement", ["{", "[]", '{"layers": 3}', '{"layers": {"a": NaN}', "[" * 10**5])
def test_a_header_that_cannot_be_read_is_refused_by_name(statement, tmp_path):
    path = save(tmp_path / "fp8.safetensors", {"a": torch.zeros(1)}, {"_quantization_metadata": statement})
    with pytest.raises(ValueError, match="'fp8.safetensors' is damaged: its header states how"):
        read_model(path)


def test_weights_without_quantized_layers_are_the_files_own(tmp_path):
    weights = {"a.weight": torch.ones(2), "scaled": torch.ones(1), "b.scale_weight": torch.ones(1)}
    assert read_model(save(tmp_path / "w.safetensors", weights)).keys() == weights.keys()
    assert not forms(weights) and widest(weights) == torch.float32
    assert widest({"a": torch.ones(1).half(), "b": torch.ones(1).bfloat16()}) == torch.float32
    assert widest({"a": torch.ones(1).double(), "n": torch.tensor(7)}) == torch.float32
    assert widest({"a": torch.ones(1).half(), "n": torch.tensor(7)}) == torch.float16


# UNets, whose linear layers ComfyUI keeps in fp8


def linear(key, value):
    return key.endswith(".weight") and value.ndim == 2


@pytest.fixture(scope="module")
def unet():
    """A thin UNet in Stability's names, (its fp8 tensors, scales, numbers)."""
    return in_fp8({key: value.half() for key, value in thin.weights("sd2").items()}, linear)


def output(model):
    x, text = randn(1, 4, 8, 8), randn(1, 77, 1024, seed=1)
    network = model.model.diffusion_model
    dtype = model.model.get_dtype_inference()
    return network(x.to(dtype), torch.tensor([500.0]), text.to(dtype)).float()


@pytest.mark.parametrize("form", ["old", "new", "header"])
def test_a_unet_in_scaled_fp8_is_what_comfyui_loads(form, unet, tmp_path):
    stored, scales, numbers = unet
    weights, header = FORMS[form](stored, scales)
    path = save(tmp_path / "fp8.safetensors", weights, header)
    ours, theirs = diffusers_unet.load(path), comfy.sd.load_diffusion_model(str(path))
    layer = next(iter(scales))
    kept = ours.model.diffusion_model.state_dict()[f"{layer}.weight"]
    assert kept.dtype == E4M3 and torch.equal(kept.float(), stored[f"{layer}.weight"].float())
    found = output(ours)
    assert torch.equal(found, output(theirs))
    assert (found - output(comfy.sd.load_diffusion_model_state_dict(dict(numbers)))).abs().max() < 1e-2


def test_a_unet_of_diffusers_in_scaled_fp8_with_scaled_convolutions(tmp_path):
    half = {key: value.half() for key, value in thin.diffusers_unet("sd2").state_dict().items()}
    stored, scales, numbers = in_fp8(half, matrices)
    found = output(diffusers_unet.load(save(tmp_path / "fp8.safetensors", new(stored, scales))))
    halves = {key: value.half() for key, value in numbers.items()}
    expected = output(diffusers_unet.load(save(tmp_path / "fp16.safetensors", halves)))
    assert (found - expected).abs().max() < 1e-2 < expected.abs().max()


def test_a_unet_in_plain_fp8_beside_fp16_norms_is_what_comfyui_loads(tmp_path):
    half = {key: value.half() for key, value in thin.weights("sd2").items()}
    path = save(tmp_path / "fp8.safetensors", {k: v.to(E4M3) if linear(k, v) else v for k, v in half.items()})
    assert torch.equal(output(diffusers_unet.load(path)), output(comfy.sd.load_diffusion_model(str(path))))


def test_ic_lights_offsets_in_fp8_are_taken():
    weights = {key: value.to(E5M2) if value.ndim > 1 else value for key, value in loaders.weights("ic-light").items()}
    loaders.check_ic_light(weights)
