"""Every node on a second device gives what it gives on the CPU: whole, half loaded and in half precision."""

import json
import threading
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace

import folder_paths
import pytest
import torch
from comfy import model_management
from torch.utils._python_dispatch import TorchDispatchMode

from kit import completed, second_device
from kit import sam as small_sam
from kit.node_inputs import NodeInputs
from kit.nodes import in_own_loop, node_classes, run_node
from kit.pictures import as_pil, photograph
from kit.tensors import moved, walked
from pentimento.routes.sam_preview import Preview

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(bool(second_device.missing()), reason=str(second_device.missing())),
]
CLASSES = node_classes()
NODES = [name.removeprefix("Pentimento") for name in CLASSES if hasattr(NodeInputs, name.removeprefix("Pentimento"))]


@dataclass(frozen=True)
class Way:
    """How nodes are run on the device, and how far their results may be from the CPU's.

    Attributes:
        computing: Arguments of second_device.computing.
        inputs: The device that pictures, masks, latents and conditionings come from.
        error: As `error`, at most.
    """

    computing: dict
    inputs: str
    error: float


NETWORK = {"MODEL", "VAE", "CONDITIONING"}
NETWORK |= {f"PENTIMENTO_{name}" for name in ("SAM", "SAM2", "LAMA", "STTN", "OSTRACK")}
TOYS = {  # node_inputs gives these a model without weights
    "DemoFusion",
    "DynamicThresholding",
    "GradeBrackets",
    "LatentGrade",
    "LatentMirror",
    "Windows",
}
FILTER_PICTURES = {"RemoveFromVideo"}  # to measure motion, where the pictures are
OFFLOADED_AMISS = {"SDx4Conditioning"}  # ComfyUI leaves the embedding of x4's levels on the CPU


def takes_network(name):
    """Whether a node computes with weights, or what it returns does. A node with a partner runs with the partner."""
    schema = CLASSES[f"Pentimento{name}"].GET_SCHEMA()
    types = {socket.get_io_type() for socket in (*schema.inputs, *schema.outputs)}
    return bool(types & NETWORK) and name not in TOYS | set(completed.PARTNERS.values())


NETWORKS = list(filter(takes_network, NODES))
WAYS = {
    "half loaded": Way({"share": 0.5, "float64": False}, "cpu", 1e-5),
    "results stay": Way({"stay": True}, "second", 1e-5),  # and all weights are loaded
    "fp16": Way({"half": torch.float16}, "cpu", 1e-2),
    "bf16, offloaded": Way({"half": torch.bfloat16, "share": 0}, "second", 5e-2),
}
IN_FULL, HALVES = ["half loaded", "results stay"], ["fp16", "bf16, offloaded"]


def error(ours, theirs):
    """The root of the mean square of the difference, relative to that of the CPU's result."""
    difference = (ours.double() - theirs.double()).square().mean().sqrt()
    return float(difference / theirs.double().square().mean().sqrt().clamp(min=1e-9))


def run(inputs, name, device="cpu"):
    """All that a node's results hold or lead to, on the CPU. What the node made itself is where results belong."""
    values = moved(inputs.of(name), device)
    results = run_node(CLASSES[f"Pentimento{name}"], **values)
    handed_on = {id(x) for x in walked(values)}
    made = [x for x in walked(results) if id(x) not in handed_on]
    cpu = torch.device("cpu")  # small vectors may lie there: unCLIP's embeddings
    assert {x.device for x in made} <= {model_management.intermediate_device(), cpu}
    return moved(completed.tensors(name, inputs, values, results), "cpu")


@pytest.fixture(scope="module")
def expected(node_inputs):
    """{name: what a node leads to}, computed on the CPU."""
    with torch.inference_mode():  # the fixture of that name begins after fixtures of a module
        return {name: run(node_inputs, name) for name in NODES}


@pytest.fixture(scope="module")
def way(request, expected, node_classes):
    """A way, and inputs whose models are made for it."""
    way = WAYS[request.param]
    with second_device.computing(**way.computing):
        inputs = NodeInputs(node_classes)
        if way.computing.get("half") == torch.float16:  # "auto" is float32 here
            inputs.sam = cache(
                lambda: small_sam.load(small_sam.reference(width=32, depth=2).state_dict(), precision="fp16")
            )
        yield way, inputs


# A way takes long to set up, so pytest runs all nodes in one way before the next: `name` has no scope.


@pytest.mark.parametrize("name", NODES)
@pytest.mark.parametrize("way", IN_FULL, indirect=True, scope="module")
def test_a_node_gives_what_it_gives_on_the_cpu(name, way, expected):
    compare(name, *way, expected)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("way", HALVES, indirect=True, scope="module")
def test_a_node_gives_nearly_the_same_in_half_precision(name, way, expected):
    if way[0].computing.get("share") == 0 and name in OFFLOADED_AMISS:
        pytest.skip("ComfyUI itself fails")
    with LayersOnTheCPU() as layers:
        compare(name, *way, expected)
    if way[0] is WAYS["fp16"] and name not in FILTER_PICTURES:
        assert not layers.shapes, "a network computes on the CPU, to where ComfyUI moves its weights unasked"


class LayersOnTheCPU(TorchDispatchMode):
    """The shapes of what convolutions and linear layers gave on the CPU."""

    LAYERS = {getattr(torch.ops.aten, name) for name in ("addmm", "baddbmm", "bmm", "conv2d", "convolution", "linear")}

    def __init__(self):
        super().__init__()
        self.shapes = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket in self.LAYERS and result.device.type == "cpu":
            self.shapes.append(tuple(result.shape))
        return result


def compare(name, way, inputs, expected):
    ours = run(inputs, name, way.inputs)
    far = [error(*both) for both in zip(ours, expected[name], strict=True)]
    assert max(far, default=0) <= way.error, far


@pytest.mark.parametrize("way", ["half loaded"], indirect=True, scope="module")
@pytest.mark.parametrize("name", ["SAMSegment", "LaMaFill", "ELLATextEncode", "ApplyELLA", "ICLight", "TiledVAEDecode"])
def test_a_node_gives_the_same_after_its_models_were_unloaded(name, way, expected):
    _, inputs = way
    first = run(inputs, name)
    model_management.unload_all_models()
    assert all(map(torch.equal, run(inputs, name), first))


def test_the_live_mask_is_the_cpus(tmp_path, monkeypatch):
    as_pil(photograph()[0]).save(tmp_path / "picture.png")
    monkeypatch.setattr(folder_paths, "input_directory", str(tmp_path))
    extensions = folder_paths.folder_names_and_paths["sams"][1]
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "sams", ([str(tmp_path)], extensions))

    def answer(file):
        """By a model of its own."""
        small_sam.write(tmp_path / file)
        queue = SimpleNamespace(mutex=threading.RLock(), get_tasks_remaining=lambda: 0)
        image, picks = {"filename": "picture.png", "type": "input"}, json.dumps({"positive": [{"x": 60, "y": 50}]})
        body = {"image": image, "sam_name": file, "picks": picks, "precision": "fp32", "refine_iterations": 1}
        return in_own_loop(Preview(queue).answer(json.dumps(body).encode()))

    mask, score = answer("cpu.safetensors")
    with second_device.computing(share=0.5, float64=False):
        assert answer("second.safetensors") == (mask, pytest.approx(score, rel=1e-5))


REFUSED = {
    "tensors of both devices": lambda x, y: x + y,
    "weights of the other device": lambda x, y: torch.nn.functional.linear(x, y),
    "a picture of the other device": lambda x, y: torch.nn.functional.conv2d(y[None, None], x[None, None]),
    "values of the other device": lambda x, y: x.index_put_((torch.tensor([0]),), y[:1]),
    "indices of the other device": lambda x, y: y[x.long()],
    "NumPy": lambda x, y: x.numpy(),
    "a generator of the CPU": lambda x, y: x.normal_(generator=torch.Generator()),
}


@pytest.mark.parametrize("mistake", REFUSED.values(), ids=REFUSED)
def test_the_device_refuses_what_a_graphics_card_refuses(mistake):
    x = torch.ones(2, 2, device=second_device.device())
    with pytest.raises((RuntimeError, TypeError), match="device|cpu"):
        mistake(x, torch.ones(2, 2))


def test_a_device_without_float64_refuses_it():
    with second_device.computing(float64=False) as there:
        assert not model_management.supports_fp64(there)
        for make in (torch.ones(2, device=there).double, lambda: torch.ones(2).double().to(there)):
            with pytest.raises(TypeError, match="no float64"):
                make()


def test_the_device_computes_what_the_cpu_does(rng):
    x, weight = torch.rand(2, 3, 9, 7, generator=rng), torch.rand(4, 3, 3, 3, generator=rng)
    work = {
        "convolution": lambda x, weight: torch.nn.functional.conv2d(x, weight),
        "conjugate views": lambda x, weight: torch.fft.irfft2(torch.fft.rfft2(x).conj() * torch.fft.rfft2(x).conj()),
        "views written to": lambda x, weight: (
            x.clone().transpose(2, 3).index_fill_(3, torch.tensor([1]).to(x.device), 5)
        ),
        "masks": lambda x, weight: x[x > 0.5],
        "norms": lambda x, weight: torch.nn.functional.group_norm(x, 3),
        "numbers of the CPU": lambda x, weight: x * torch.tensor(0.3),
    }
    there = second_device.device()
    for name, function in work.items():
        result = function(x.to(there), weight.to(there))
        assert result.device == there, name
        assert torch.equal(result.cpu(), function(x, weight)), name
