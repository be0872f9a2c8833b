"""A node that patches a model, applied twice with the same settings, gives the same as applied once; the order of two
such nodes does not matter. The exceptions are nodes of which two are meant to act one after the other.
"""

import re
from itertools import combinations
from types import FunctionType, MethodType

import pytest
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.model_patcher import ModelPatcher
from comfy.samplers import sampler_object
from comfy_api.latest import io
from comfy_extras.nodes_custom_sampler import SamplerCustom

from kit.assertions import PATCHER
from kit.node_inputs import SIGMAS
from kit.nodes import node_classes, run_node, with_defaults
from kit.run import prompts
from kit.tensors import rand

pytestmark = pytest.mark.usefixtures("one_thread")
CLASSES = node_classes()


def has_model(sockets):
    return any(
        socket.get_io_type() == io.Model.io_type and not getattr(socket, "is_output_list", False) for socket in sockets
    )


PATCHING = [
    node_id
    for node_id, cls in CLASSES.items()
    if has_model(cls.GET_SCHEMA().inputs) and has_model(cls.GET_SCHEMA().outputs)
]
FOLDERS = {"Pentimento/sample", "Pentimento/colour"}  # tests/sample/test_compose.py has their nodes with these:
COMPOSED = {"PentimentoApplyELLA", "PentimentoDifferentialImg2Img", "PentimentoWindows"}
SUMMED = {"PentimentoDetailTuner", "PentimentoLatentGrade"}  # the effects of two add up, in their order
IN_ORDER = SUMMED, {"PentimentoDetailTuner", "PentimentoICLight"}  # a scale and an offset of one weight


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
    "PentimentoAttentionCouple": "PentimentoAttentionCouple",
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
    results = without_models(run_node(CLASSES[encode], **inputs.of(encode)))
    return results if len(results) == 3 else (*positive_and_negative(results), *latents)


def without_models(results):
    return [result for result in results if not isinstance(result, ModelPatcher)]


def positive_and_negative(results):
    """The conditionings of a node, or its only one for both."""
    return results[:2] if len(results) > 1 else [*results, *results]


def sampled(model, positive, negative, latent):
    sampler = sampler_object("euler")
    return SamplerCustom.execute(model, True, 3, 4.0, positive, negative, sampler, SIGMAS, latent).result[0]["samples"]


def differs(model, conditioning, expected):
    """Whether a model without the patch samples something else, or is refused by the conditioning."""
    try:
        return not torch.equal(sampled(model, *conditioning), expected)
    except ValueError:
        return True


@pytest.mark.parametrize("node_id", [node_id for node_id in PATCHING if node_id not in SUMMED])
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


# Pairs of patches

NAMES = re.compile("|".join(sorted((cls.GET_SCHEMA().display_name for cls in CLASSES.values()), key=len)[::-1]))
PICTURES = {"PentimentoICLightConditioning": "foreground", "PentimentoIP2PConditioning": "image"}
SIDE = 64  # pixels, of four windows
IN_PAIRS = {"PentimentoWindows": {"window": SIDE // 2, "overlap": 0, "batch": 2}}


def patched(model, order, inputs):
    """The model after the nodes in this order, or who refuses it."""
    try:
        for node_id in order:
            more = IN_PAIRS.get(node_id, {}) | {"model": model}
            results = CLASSES[node_id].execute(**with_defaults(CLASSES[node_id], inputs.of(node_id) | more)).result
            model = next(result for result in results if isinstance(result, ModelPatcher))
        return model
    except ValueError as error:
        return refusing(error)


def refusing(error):
    """The node that a refusal names first, or the refusal itself."""
    name = NAMES.search(str(error))
    return name.group() if name else str(error)


def bases(pair, inputs):
    """The models that the nodes of a pair want, one for each kind."""
    models = {id(model): model for model in (inputs.of(node_id)["model"] for node_id in pair)}.values()
    return [model for model in models if isinstance(model.model.diffusion_model, UNetModel)] or [*models][:1]


def pair_prompts(encode, inputs, pictures):
    """Positive and negative from a node, with so many pictures."""
    given = {PICTURES[encode]: rand(pictures, SIDE, SIDE, 3)} if encode in PICTURES else {}
    mask = {"foreground_mask": None} if encode == "PentimentoICLightConditioning" else {}
    results = CLASSES[encode].execute(**with_defaults(CLASSES[encode], inputs.of(encode) | given | mask)).result
    return positive_and_negative(without_models(results))


def outcome(model, conditioning):
    """What is sampled, or who refuses."""
    try:
        return model if isinstance(model, str) else sampled(model, *conditioning)
    except ValueError as error:
        return refusing(error)


def belongs_here(pair):
    """Whether the order of two nodes is not to matter, and no other test says so."""
    composed = COMPOSED.intersection(pair) and FOLDERS.intersection(
        CLASSES[each].GET_SCHEMA().category for each in pair
    )
    return not composed and not any(nodes.issuperset(pair) for nodes in IN_ORDER)


def given(encode, latents, pictures, inputs):
    """Positive, negative and latent, with a mask."""
    held = rand(latents, 1, SIDE // 8, SIDE // 8).round()
    latent = {"samples": torch.zeros(latents, 4, SIDE // 8, SIDE // 8), "noise_mask": held}
    return *(pair_prompts(encode, inputs, pictures) if encode else prompts()), latent


@pytest.mark.parametrize("pair", filter(belongs_here, combinations(PATCHING, 2)), ids="-".join)
def test_the_order_of_two_patches_does_not_matter(pair, node_inputs):
    """The same samples to the bit, or a refusal by the same node, for two latents, and for one of too many pictures."""
    encoders = [CONDITIONED_BY[node_id] for node_id in pair if node_id in CONDITIONED_BY] or [None]
    for base in bases(pair, node_inputs):
        models = [patched(base, order, node_inputs) for order in (pair, pair[::-1])]
        if isinstance(models[0], str):
            assert models[0] == models[1]
            continue
        cases = [(encode, 2, 2) for encode in encoders] + [(encode, 1, 2) for encode in encoders if encode in PICTURES]
        conditionings = [given(*case, node_inputs) for case in cases]
        # one model after the other: ComfyUI patches the weights anew for each
        for first, second in zip(*([outcome(model, each) for each in conditionings] for model in models), strict=True):
            assert first == second if isinstance(first, str) else torch.equal(first, second)
