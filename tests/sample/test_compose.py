"""Every node that changes how a model samples, beside the pack's other ways to sample: both act, in either order.

The nodes are those of the menu's folders sample and colour that patch a model or give a sampler. A new one is tested
here without a line of its own.
"""

from functools import cache

import pytest
import torch
from comfy import model_management
from comfy.model_patcher import ModelPatcher
from comfy.samplers import CFGGuider, Sampler, sampler_object
from comfy_api.latest import io
from comfy_extras.nodes_custom_sampler import Noise_RandomNoise, SamplerCustomAdvanced

from kit import thin
from kit.assertions import frozen
from kit.node_inputs import SIGMAS
from kit.nodes import node_classes, with_defaults
from kit.run import prompts
from kit.tensors import rand
from nodes import ControlNetApplyAdvanced

pytestmark = pytest.mark.usefixtures("one_thread")
CLASSES = node_classes()
FOLDERS = ("Pentimento/sample", "Pentimento/colour")
HEIGHT, WIDTH = 64, 96  # pixels, of two windows
CFG = 4.0


def changes_sampling(schema):
    """Whether a node makes a model of a model, or a sampler."""
    inputs, outputs = (
        {socket.get_io_type() for socket in sockets if not getattr(socket, "is_output_list", False)}
        for sockets in (schema.inputs, schema.outputs)
    )
    made = outputs & {io.Sampler.io_type} | inputs & outputs & {io.Model.io_type}
    return schema.category in FOLDERS and bool(made)


CHANGING = [node_id for node_id, cls in CLASSES.items() if changes_sampling(cls.GET_SCHEMA())]


class Alone:
    """A run with no other node: what it does to the model, and the guider and the latent of its run."""

    def __init__(self, inputs, model):
        self.inputs, self.model = inputs, model
        self.prompts, self.latent = cache(self.prompts), cache(self.latent)

    def patched(self, model):
        return model

    def guider(self, model):
        guider = CFGGuider(model)
        guider.set_conds(*self.prompts())
        guider.set_cfg(CFG)
        return guider

    def prompts(self):
        return prompts(768)

    def latent(self):
        return {"samples": torch.zeros(1, 4, HEIGHT // 8, WIDTH // 8)}

    def run(self, node, **values):
        cls = CLASSES[f"Pentimento{node}"]
        return cls.execute(**with_defaults(cls, values)).result


class WindowedDiffusion(Alone):
    def patched(self, model):
        return self.run("Windows", model=model, window=64, overlap=16)[0]


class ELLA(Alone):
    def patched(self, model):
        return self.run("ApplyELLA", **self.inputs.of("ApplyELLA") | {"model": model})[0]

    def prompts(self):
        values = self.inputs.of("ELLATextEncode")
        return [self.run("ELLATextEncode", **values | {"text": text})[0] for text in ("a red cube", "")]


class DifferentialImg2Img(Alone):
    def results(self, model):
        picture = {"image": rand(1, HEIGHT, WIDTH, 3), "change_map": rand(1, HEIGHT, WIDTH)}
        return self.run("DifferentialImg2Img", **picture, model=model, vae=self.inputs.vae())

    def patched(self, model):
        return self.results(model)[0]

    def latent(self):
        return self.results(self.model)[1]


class InstructPix2Pix(Alone):
    def prompts(self):
        """With the latent, as third."""
        positive, negative = super().prompts()
        picture = {"image": rand(1, HEIGHT, WIDTH, 3), "vae": self.inputs.vae(), "fit": "multiple of 8"}
        return self.run("IP2PConditioning", positive=positive, negative=negative, **picture)

    def guider(self, model):
        positive, negative, _ = self.prompts()
        return self.run("IP2PGuider", model=model, positive=positive, negative=negative, text_cfg=CFG)[0]

    def latent(self):
        return self.prompts()[2]


class ControlNet(Alone):
    def prompts(self):
        positive, negative = super().prompts()
        hint = rand(1, HEIGHT, WIDTH, 3)
        return ControlNetApplyAdvanced().apply_controlnet(positive, negative, thin.controlnet(), hint, 1.0, 0.0, 1.0)


PARTNERS = {cls.__name__: cls for cls in (WindowedDiffusion, ELLA, DifferentialImg2Img, InstructPix2Pix, ControlNet)}


def changed(inputs, node_id, model):
    """The model and the sampler that a node makes."""
    cls, values = CLASSES[node_id], inputs.of(node_id)
    values |= {"model": model} if "model" in values else {}
    results = cls.execute(**with_defaults(cls, values)).result
    sampler = next((result for result in results if isinstance(result, Sampler)), sampler_object("euler"))
    return next((result for result in results if isinstance(result, ModelPatcher)), model), sampler


def sampled(partner, model, sampler):
    noise, guider = Noise_RandomNoise(3), partner.guider(model)
    return SamplerCustomAdvanced.execute(noise, guider, sampler, SIGMAS, partner.latent()).result[0]["samples"]


class Runs:
    """What is sampled on thin models: by a partner without a node, by a node without a partner, and by both."""

    def __init__(self, inputs):
        plain, edits = self.models = [thin.host_model(kind) for kind in ("sd15", "ip2p")]
        models = {"InstructPix2Pix": edits}
        self.inputs, self.alone = inputs, Alone(inputs, plain)
        self.partners = {name: cls(inputs, models.get(name, plain)) for name, cls in PARTNERS.items()}
        self.without_node, self.without_partner = cache(self.without_node), cache(self.without_partner)

    def without_node(self, partner):
        other = self.partners[partner]
        return sampled(other, other.patched(other.model), sampler_object("euler"))

    def without_partner(self, node_id):
        return sampled(self.alone, *changed(self.inputs, node_id, self.alone.model))

    def both(self, node_id, partner):
        """With the node before the partner, and after it."""
        other = self.partners[partner]
        model, sampler = changed(self.inputs, node_id, other.model)
        first = sampled(other, other.patched(model), sampler)
        return first, sampled(other, *changed(self.inputs, node_id, other.patched(other.model)))


@pytest.fixture(scope="module")
def runs(node_inputs):
    """After all of them the models are what they were, to the bit."""
    runs = Runs(node_inputs)
    before = frozen(runs.models)
    yield runs
    model_management.unload_all_models()
    assert frozen(runs.models) == before


@pytest.mark.parametrize("partner", PARTNERS)
@pytest.mark.parametrize("node_id", CHANGING, ids=lambda node_id: node_id.removeprefix("Pentimento"))
def test_a_node_and_another_way_to_sample_both_act_in_either_order(node_id, partner, runs):
    """Without the one or without the other, another picture is sampled."""
    first, last = runs.both(node_id, partner)
    assert first.isfinite().all()
    assert torch.equal(first, last)
    assert not torch.equal(first, runs.without_node(partner)), "the node does nothing here"
    if runs.partners[partner].model is runs.alone.model:
        assert not torch.equal(first, runs.without_partner(node_id)), "the partner does nothing here"
