"""What comes of a node's results: models, guiders, samplers and conditionings are put to use, until all is tensors."""

import torch
from comfy.model_patcher import ModelPatcher
from comfy.samplers import CFGGuider, Sampler, sampler_object
from comfy_extras.nodes_custom_sampler import Noise_RandomNoise, SamplerCustom, SamplerCustomAdvanced

from pentimento.model_patchers.edit.crop_to_mask import Crops

from . import toy_network
from .node_inputs import SIGMAS
from .run import prompts
from .tensors import randn, walked

SEED = 3
LATENT = (1, 4, 8, 8)
PARTNERS = {  # nodes that patch a model, and nodes whose conditionings are for it
    "ApplyELLA": "ELLATextEncode",
    "ICLight": "ICLightConditioning",
    "IP2PPatch": "IP2PConditioning",
    "UnCLIPStats": "UnCLIPEncode",
}
WITH_PROMPTS = {"AttentionCouple"}  # nodes that return a model, a positive and a negative for it
MODELS = {"DepthConditioning": "depth", "SDx4Conditioning": "x4"}  # kinds that take conditionings unpatched
FOR_ANY_MODEL = {"RegionalPrompt"}  # nodes whose conditionings are for every model


def tensors(name, inputs, values, results):
    """All tensors that a node's results hold or lead to.

    Args:
        name: The node's id without the pack's name.
        inputs: NodeInputs, for what the results are used with.
        values: The node's inputs.
    """
    plain = [tensor for result in results for tensor in walked(result)]
    return plain + [
        used for result in results for used in _used(name, inputs, _latent(results, values), results, result)
    ]


def _used(name, inputs, latent, results, result):
    if isinstance(result, Crops):
        return inputs.nodes["PasteBack"].execute(result, result.crop, 4, "off").result
    if isinstance(result, ModelPatcher):
        used = (*results[1:], latent) if name in WITH_PROMPTS else _conditioned(name, inputs, latent)
        return [sampled(result, *used)]
    if isinstance(result, CFGGuider):
        noise = Noise_RandomNoise(SEED)
        run = SamplerCustomAdvanced.execute(noise, result, sampler_object("euler"), SIGMAS, latent)
        return [run.result[0]["samples"]]
    if isinstance(result, Sampler):
        model = toy_network.patcher(toy_network.Neighbours())
        return [sampled(model, *prompts(), {"samples": randn(*LATENT)}, result)]
    if isinstance(result, list) and result is results[0] and walked(result):  # the positive conditioning
        negative = next((other for other in results[1:] if isinstance(other, list)), result)
        return [sampled(_model(name, inputs), result, negative, latent)]
    return []


def _conditioned(name, inputs, latent):
    """Positive, negative and latent for a patched model."""
    if name not in PARTNERS:
        return *prompts(), latent
    partner = PARTNERS[name]
    results = inputs.nodes[partner].execute(**_with_defaults(inputs, partner)).result
    return results[0], results[1] if len(results) > 1 else results[0], _latent(results, {})


def _model(name, inputs):
    """The model that a conditioning is for."""
    if name in MODELS:
        return inputs.model(MODELS[name])
    if name in FOR_ANY_MODEL:
        return toy_network.patcher(toy_network.Prompted())
    (patch,) = (patch for patch, partner in PARTNERS.items() if partner == name)
    return inputs.nodes[patch].execute(**_with_defaults(inputs, patch)).result[0]


def _with_defaults(inputs, name):
    from .nodes import default

    schema = inputs.nodes[name].GET_SCHEMA()
    return {entry.id: default(entry) for entry in schema.inputs if not entry.optional} | inputs.of(name)


def _latent(results, values):
    """A node's latent, or that in its inputs, or an empty one."""
    latents = [result for result in results if isinstance(result, dict)]
    return latents[0] if latents else values.get("latent", {"samples": torch.zeros(LATENT)})


def sampled(model, positive, negative, latent, sampler=None):
    """The latent after two steps with noise."""
    sampler = sampler or sampler_object("euler")
    run = SamplerCustom.execute(model, True, SEED, 4.0, positive, negative, sampler, SIGMAS, latent)
    return run.result[0]["samples"]
