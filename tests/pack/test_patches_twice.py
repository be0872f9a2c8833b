"""A node that patches a model, applied twice with the same settings, gives the same as applied once."""

from types import FunctionType, MethodType

import pytest
import torch
from comfy.model_patcher import ModelPatcher
from comfy.samplers import sampler_object
from comfy_api.latest import io
from comfy_extras.nodes_custom_sampler import SamplerCustom

from kit.assertions import PATCHER
from kit.node_inputs import SIGMAS
from kit.nodes import node_classes, run_node
from kit.run import prompts

pytestmark = pytest.mark.usefixtures("one_thread")
CLASSES = node_classes()


def has_model(sockets):
    return any(socket.get_io_type() == io.Model.io_type for socket in sockets)


PATCHING = [
    node_id
    for node_id, cls in CLASSES.items()
    if has_model(cls.GET_SCHEMA().inputs) and has_model(cls.GET_SCHEMA().outputs)
]


def outline(value, seen=()):
    """The structure of what is on a patcher: types, functions with what they close over, shapes of tensors."""
    if isinstance(value, torch.Tensor):
        return tuple(value.shape)
    if isinstance(value, ModelPatcher | torch.nn.Module) or id(value) in seen:
        return type(value)
    seen = (*seen, id(value))
    if isinstance(value, dict):
        return {key: outline(each, seen) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [outline(each, seen) for each in value]
    if isinstance(value, MethodType):
        return value.__func__, outline(value.__self__, seen)
    if isinstance(value, FunctionType):
        return value.__code__, [outline(cell.cell_contents, seen) for cell in value.__closure__ or ()]
    if hasattr(value, "func"):  # partial
        return outline([value.func, value.args, value.keywords], seen)
    if isinstance(value, type) or not hasattr(value, "__dict__"):
        return value
    return type(value), outline(vars(value), seen)


CONDITIONED_BY = {
    "PentimentoApplyELLA": "PentimentoELLATextEncode",
    "PentimentoICLight": "PentimentoICLightConditioning",
    "PentimentoIP2PPatch": "PentimentoIP2PConditioning",
    "PentimentoUnCLIPStats": "PentimentoUnCLIPEncode",
}


def conditioned(node_id, inputs, results):
    """Positive, negative and latent with which the patch has something to do."""
    latents = [result for result in results if isinstance(result, dict)] or [{"samples": torch.zeros(1, 4, 8, 12)}]
    if node_id not in CONDITIONED_BY:
        return *prompts(), *latents
    encode = CONDITIONED_BY[node_id]
    results = run_node(CLASSES[encode], **inputs.of(encode))
    return results if len(results) == 3 else (*results, *results, *latents)


def sampled(model, positive, negative, latent):
    sampler = sampler_object("euler")
    return SamplerCustom.execute(model, True, 3, 4.0, positive, negative, sampler, SIGMAS, latent).result[0]["samples"]


def differs(model, conditioning, expected):
    """Whether a model without the patch samples something else, or is refused by the conditioning."""
    try:
        return not torch.equal(sampled(model, *conditioning), expected)
    except ValueError:
        return True


@pytest.mark.parametrize("node_id", PATCHING)
def test_twice_is_once(node_id, node_inputs):
    inputs = node_inputs.of(node_id)
    results = run_node(CLASSES[node_id], **inputs)
    (once,) = (result for result in results if isinstance(result, ModelPatcher))
    twice = run_node(CLASSES[node_id], **inputs | {"model": once})[results.index(once)]
    for name in PATCHER:
        assert outline(getattr(twice, name)) == outline(getattr(once, name)), name

    conditioning = conditioned(node_id, node_inputs, results)
    expected = sampled(once, *conditioning)
    assert torch.equal(sampled(twice, *conditioning), expected)
    assert differs(inputs["model"], conditioning, expected), "the patch does nothing here"
