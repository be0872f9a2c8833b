"""Every node on damaged pictures, masks and latents: a result that later nodes can use, or a sentence that names the
input."""

from functools import cache

import pytest
import torch
from comfy_execution.graph_utils import ExecutionBlocker

from kit.nodes import node_classes, run_node
from kit.pictures import box_mask
from kit.tensors import rand

pytestmark = pytest.mark.usefixtures("one_thread")
KINDS = {"IMAGE", "MASK", "LATENT"}
SMALL = {  # what makes a node quick without leaving out a step between the input and the result
    "PentimentoFillWithoutModel": {"method": "harmonic"},
    "PentimentoICLightConditioning": {"background": rand(1, 64, 64, 3, seed=2)},
    "PentimentoDifferentialImg2Img": {"image": rand(2, 24, 32, 3), "change_map": rand(1, 24, 32)},
    "PentimentoLaMaFill": {"refine_steps": 0, "image": rand(2, 24, 32, 3), "mask": box_mask(24, 32, (10, 8, 9, 9))},
    "PentimentoTiledVAEDecode": {"latent": {"samples": rand(1, 4, 8, 8)}},
    "PentimentoTiledVAEEncode": {"image": rand(1, 64, 64, 3)},
}
CLASSES = node_classes()
ENTRIES = [
    (node_id, entry.id, kind)
    for node_id, cls in CLASSES.items()
    for entry in cls.GET_SCHEMA().inputs
    for kind in sorted(KINDS.intersection(entry.get_io_type().split(",")))
]


def with_pixel(x, value):
    """The tensor with one value in its first pixel, which no hole covers."""
    x = x.clone()
    x.flatten()[0] = value
    return x


def of_count(x, count):
    """A batch of `count`, of the first one."""
    return x[:1].expand(count, *x.shape[1:])


def of_channels(image, count):
    """Pictures of `count` channels; the fifth is the first again."""
    opaque = torch.cat((image, torch.ones_like(image[..., :1]), image[..., :1]), -1)
    return opaque[..., :count]


def of_latent_channels(samples, count):
    return of_channels(samples.movedim(1, -1)[..., :3], count).movedim(-1, 1)


EVERY = {
    "a NaN": lambda x: with_pixel(x, torch.nan),
    "an infinity": lambda x: with_pixel(x, torch.inf),
    "a minus infinity": lambda x: with_pixel(x, -torch.inf),
    "NaN alone": lambda x: torch.full_like(x, torch.nan),
    "values outside 0 ... 1": lambda x: 4 * x - 1.5,
    "fp16": lambda x: x.half(),
    "bf16": lambda x: x.bfloat16(),
    "fp64": lambda x: x.double(),
    "uint8": lambda x: (x * 255).to(torch.uint8),
    "int64": lambda x: x.long(),
    **{f"a batch of {n}": (lambda x, n=n: of_count(x, n)) for n in range(6)},
}
DAMAGES = {
    "IMAGE": EVERY
    | {f"{n} channels": (lambda x, n=n: of_channels(x[..., :3], n)) for n in range(6)}
    | {"no batch": lambda x: x[0], "no pixels": lambda x: x[:, :0], "a video": lambda x: x[None]},
    "MASK": EVERY
    | {
        "bool": lambda x: x > 0.5,
        "no batch": lambda x: x[0],
        "channels first": lambda x: x[:, None],
        "channels last": lambda x: x[..., None],
        "no pixels": lambda x: x[:, :0],
    },
    "LATENT": EVERY | {f"{n} channels": (lambda x, n=n: of_latent_channels(x, n)) for n in range(6)},
}


def damaged(value, damage):
    return {**value, "samples": damage(value["samples"])} if isinstance(value, dict) else damage(value)


def check_sentence(sentence, name):
    """A message that a user can act on."""
    assert name in sentence, f"does not name {name}: {sentence}"
    assert sentence.endswith(".") and sentence.count(" ") > 8, sentence
    jargon = ("Tensor", "tensor", "dtype", "torch", "float32", " object at 0x", "size mismatch", "dimension")
    assert not any(word in sentence for word in jargon), sentence


def tensors(value):
    """All tensors in a result."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [tensor for each in value for tensor in tensors(each)]
    return []


def check_result(kind, value, limits):
    """What ComfyUI's nodes expect of a picture, a mask or a latent, and no NaN in a conditioning."""
    values = value if isinstance(value, list) and kind != "CONDITIONING" else [value]
    for each in values:
        if isinstance(each, ExecutionBlocker):
            continue  # of a list without pictures
        if kind == "IMAGE":
            assert each.ndim == 4 and each.shape[-1] in (1, 3, 4) and each.numel()
            assert limits[0] - 1e-5 <= each.amin() and each.amax() <= limits[1] + 1e-5, "colours out of range"
        if kind == "MASK":
            assert each.ndim == 3 and each.numel()
            assert each.amin() >= 0 and each.amax() <= 1, "a mask out of range"
    for tensor in tensors(value):
        assert tensor.isfinite().all(), f"{kind} is not finite"
        assert tensor.dtype == torch.float32 or kind not in KINDS, tensor.dtype


@pytest.fixture(scope="module")
def healthy(node_inputs):
    """A node's inputs, made once: nodes do not write to them."""
    return cache(lambda node_id: node_inputs.of(node_id) | SMALL.get(node_id, {}))


@pytest.mark.parametrize(("node_id", "name", "kind"), ENTRIES, ids=lambda value: value.removeprefix("Pentimento"))
def test_damaged(node_id, name, kind, healthy):
    cls, inputs, faults = CLASSES[node_id], healthy(node_id), []
    value = inputs[name] if kind != "MASK" or name != "source" else inputs[name][..., 0]
    for damage, work in DAMAGES[kind].items():
        came = damaged(value, work)
        pixels = came["samples"] if isinstance(came, dict) else came
        finite = pixels[pixels.isfinite()].float()
        limits = (finite.amin().clamp(max=0), finite.amax().clamp(min=1)) if finite.numel() else (0, 1)
        try:
            results = run_node(cls, **inputs | {name: came})
            for output, result in zip(cls.GET_SCHEMA().outputs, results, strict=True):
                check_result(output.get_io_type(), result, limits)
        except ValueError as error:
            try:
                check_sentence(str(error), name)
            except AssertionError as fault:
                faults.append(f"{damage}: {fault}")
        except Exception as error:
            faults.append(f"{damage}: {type(error).__name__}: {error}")
    assert not faults, "\n".join(faults)
