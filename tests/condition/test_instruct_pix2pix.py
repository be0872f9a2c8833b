"""InstructPix2Pix: the guider and the patch against diffusers' pipeline, and among other nodes."""

import copy
import functools
import uuid
from dataclasses import replace

import comfy.hooks
import comfy.model_detection
import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.sd
import numpy as np
import pytest
import torch
from comfy.conds import CONDCrossAttn, CONDNoiseShape
from comfy.controlnet import ControlBase
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from comfy_extras import nodes_custom_sampler as custom
from comfy_extras.nodes_easycache import EasyCacheNode, LazyCacheNode
from comfy_extras.nodes_ip2p import InstructPixToPixConditioning
from comfy_extras.nodes_model_advanced import RescaleCFG
from comfy_extras.nodes_pag import PerturbedAttentionGuidance
from comfy_extras.nodes_perpneg import PerpNegGuider
from diffusers import AutoencoderKL, StableDiffusionInstructPix2PixPipeline
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg as theirs_rescale
from hypothesis import given
from hypothesis import strategies as st
from node_helpers import conditioning_set_values
from PIL import Image

import nodes as host_nodes
from kit import thin
from kit.assertions import frozen, relative_error
from kit.nodes import run_node
from kit.run import scheduler
from kit.tensors import rand, randn
from pentimento.model_patchers.comfyui.kinds import identify
from pentimento.model_patchers.condition.instruct_pix2pix_step import (
    calc_cond_batch,
    guide,
    rescale_noise_cfg,
    without_image,
)
from pentimento.model_patchers.pixels.resample import to_multiple
from pentimento.nodes.condition.instruct_pix2pix import IP2PConditioning, IP2PGuiderNode, IP2PPatch
from pentimento_host.standins import diffusion
from pentimento_host.standins.weights import drawn as drawn_weight

pytestmark = pytest.mark.usefixtures("one_thread")

SEED = 7
SCALE = 0.18215  # of SD 1.5's latents
SIGMA = 14.614641
ONE_STEP = torch.tensor([SIGMA, 0.0])  # euler's single step from a sigma to 0 gives what was predicted at it
STEPS = torch.tensor([SIGMA, 5.0, 1.5, 0.4, 0.0])


@pytest.fixture(scope="module")
def model(precision):
    return thin.host_model("ip2p")


@pytest.fixture(scope="module")
def sd15():
    return thin.host_model("sd15")


@pytest.fixture(scope="module")
def pipeline():
    return pipeline_of(thin.diffusers_unet("ip2p"))


def pipeline_of(unet):
    """diffusers' pipeline with the same weights. Its VAE says only that latents have four channels."""
    pipeline = StableDiffusionInstructPix2PixPipeline(
        vae=AutoencoderKL(block_out_channels=(32,)),
        text_encoder=None,
        tokenizer=None,
        unet=unet,
        scheduler=scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def tolerance(pipeline, by_diffusers, precision):
    """(float32, *case) -> how far a result may be from `by_diffusers(*case)`."""
    lowered = functools.cache(lambda: pipeline_of(precision.lowered(pipeline.unet)))

    @functools.cache
    def of(float32, batch, length, *scales):
        expected = by_diffusers(batch, length, *scales)[1]
        return precision.tolerance(
            float32, expected, lambda: Case(batch, length).by_diffusers(lowered(), *scales)[1].float()
        )

    return of


@pytest.fixture(scope="module")
def by_diffusers(pipeline):
    """(batch, length, text scale, image scale) -> the case, diffusers' result and the sigmas it was reached by."""
    return functools.cache(lambda batch, length, *scales: Case(batch, length).by_diffusers(pipeline, *scales))


class VAE:
    """Gives out a latent that is known."""

    def __init__(self, latent):
        self.latent = latent

    def encode(self, pixels):
        assert pixels.shape[1:] == (8 * self.latent.shape[2], 8 * self.latent.shape[3], 3)
        return self.latent


class Case:
    """What one run starts from: prompts with a picture, as the node gives them, and the noise."""

    def __init__(self, batch=1, length=77, size=(8, 8), negative_length=77):
        self.text, self.empty = randn(1, length, 768, seed=1), randn(1, negative_length, 768, seed=2)
        self.image, pixels = 5 * randn(batch, 4, *size, seed=3), torch.zeros(batch, 8 * size[0], 8 * size[1], 3)
        self.positive, self.negative, self.latent = IP2PConditioning.execute(
            [[self.text, {}]], [[self.empty, {}]], VAE(self.image), pixels, "multiple of 8"
        ).result
        with torch.random.fork_rng():
            self.noise = comfy.sample.prepare_noise(self.latent["samples"], SEED)

    @property
    def null(self):
        """The negative prompt without the picture."""
        return [[self.empty, {}]]

    def by_diffusers(self, pipeline, text, image):
        scheduler, b = pipeline.scheduler, len(self.image)
        scheduler.set_timesteps(4)
        latents = pipeline(
            prompt_embeds=self.text.expand(b, -1, -1),
            negative_prompt_embeds=self.empty.repeat(b, self.text.shape[1] // 77, 1),
            image=self.image,
            latents=self.noise * (1 + scheduler.sigmas[0] ** 2) ** 0.5 / scheduler.init_noise_sigma,
            num_inference_steps=4,
            guidance_scale=text,
            image_guidance_scale=image,
            output_type="latent",
        ).images
        return self, latents / SCALE, scheduler.sigmas.clone()


@pytest.mark.parametrize("channels, factor", [(16, 8), (4, 4)], ids=["SD 3's and Flux's", "the x4 upscaler's"])
def test_a_vae_of_another_family_is_refused(channels, factor):
    class Other:
        def encode(self, pixels):
            return torch.zeros(len(pixels), channels, pixels.shape[1] // factor, pixels.shape[2] // factor)

    prompt = [[torch.zeros(1, 77, 768), {}]]
    with pytest.raises(
        ValueError, match=rf"vae makes \({channels}, .* needs a latent of \(4, 8, 16\).* model's own VAE"
    ):
        IP2PConditioning.execute(prompt, prompt, Other(), torch.zeros(1, 64, 128, 3), "multiple of 8")


def guider(model, case, text=7.5, image=1.5, rescale=0.0, start=0.0, end=1.0):
    return IP2PGuiderNode.execute(model, case.positive, case.negative, text, image, rescale, start, end).result[0]


def patched(model, image=1.5):
    return IP2PPatch.execute(model, image).result[0]


def by_guider(guider, case, sigmas=STEPS, sampler="euler"):
    """Through SamplerCustomAdvanced."""
    noise, sampler = custom.Noise_RandomNoise(SEED), comfy.samplers.sampler_object(sampler)
    with torch.random.fork_rng():
        return custom.SamplerCustomAdvanced.execute(noise, guider, sampler, sigmas, case.latent).result[0]["samples"]


def by_sampler(model, case, sigmas=STEPS, cfg=7.5, sampler="euler", positive=None, negative=None):
    """Through SamplerCustom, which is KSampler with any sigmas."""
    prompts, sampler = (positive or case.positive, negative or case.negative), comfy.samplers.sampler_object(sampler)
    with torch.random.fork_rng():
        out = custom.SamplerCustom.execute(model, True, SEED, cfg, *prompts, sampler, sigmas, case.latent)
    return out.result[0]["samples"]


def predicted(model, case, prompt, sigma=SIGMA):
    """One prompt's prediction at a sigma, by ComfyUI alone."""
    return by_sampler(model, case, torch.tensor([sigma, 0.0]), 1.0, positive=prompt)


class Stub:
    """Stands in for the network: cheap, each row and each pixel by itself. Notes what it is given."""

    def __init__(self):
        self.roles, self.ids, self.x = [], [], []

    def __call__(self, executor, x, timesteps, context, y, control, transformer_options, **kwargs):
        self.roles.append(transformer_options["cond_or_uncond"])
        self.ids.append(transformer_options["uuids"])
        self.x.append(x)
        text = 300 * context.mean((1, 2))[:, None, None, None]  # padding by repetition leaves the mean
        return torch.tanh(x[:, :4] + 0.1 * x[:, 4:] * text + text)

    def on(self, model):
        model = model.clone()
        model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "stub", self.__call__)
        return model


@pytest.fixture
def stub():
    return Stub()


# ---- The equation


@pytest.mark.both_devices
@pytest.mark.in_half
@pytest.mark.parametrize("batch, length, text, image", [(1, 77, 7.5, 1.5), (2, 154, 7.5, 1.5), (1, 77, 3.0, 1.0)])
def test_guider_and_patch_equal_diffusers(model, by_diffusers, tolerance, batch, length, text, image):
    case, theirs, sigmas = by_diffusers(batch, length, text, image)
    near = tolerance(1e-4, batch, length, text, image)
    assert relative_error(by_guider(guider(model, case, text, image), case, sigmas), theirs) < near
    assert relative_error(by_sampler(patched(model, image), case, sigmas, text), theirs) < near


@pytest.mark.in_half
def test_wrong_wiring_is_far_from_diffusers(model, by_diffusers, tolerance):
    """So the comparison above would tell."""
    case, theirs, sigmas = by_diffusers(1, 77, 7.5, 1.5)
    nested = custom.DualCFGGuider.execute(model, case.positive, case.negative, case.null, 7.5, 1.5, "nested").result[0]
    scaled = Case()
    for prompt in (scaled.positive, scaled.negative):
        prompt[0][1]["concat_latent_image"] = scaled.image * SCALE
    errors = {
        "KSampler without the patch": relative_error(by_sampler(model, case, sigmas), theirs),
        "core's two scales, nested": relative_error(by_guider(nested, case, sigmas), theirs),
        "both scales swapped": relative_error(by_guider(guider(model, case, 1.5, 7.5), case, sigmas), theirs),
        "the scale of SD 1.5's own latents": relative_error(by_guider(guider(model, scaled), scaled, sigmas), theirs),
    }
    far = tolerance(1e-2, 1, 77, 7.5, 1.5)
    assert {wiring for wiring, error in errors.items() if error > far} == set(errors)


@given(st.floats(0, 20), st.floats(0, 5))
def test_equation_3(text, image):
    null, seen, full = (randn(2, 4, 3, 3, seed=i).double() for i in range(3))
    ours = guide(null, seen, full, image, text)
    assert torch.allclose(ours, (1 - image) * null + (image - text) * seen + text * full)


@given(st.floats(0, 1))
def test_rescale_is_that_of_diffusers(phi):
    guided, full = 5 * randn(2, 4, 8, 8), randn(2, 4, 8, 8, seed=1)
    assert torch.allclose(rescale_noise_cfg(guided, full, phi), theirs_rescale(guided, full, phi), atol=1e-6)


def test_rescale_is_done_on_the_predicted_noise(model, stub):
    case, model = Case(2), stub.on(model)
    null, image, full = (predicted(model, case, p) for p in (case.null, case.negative, case.positive))
    x = case.noise * (1 + SIGMA**2) ** 0.5
    noise, text = ((x - SCALE * denoised) / SIGMA for denoised in (guide(null, image, full, 1.5, 7.5), full))
    expected = (x - SIGMA * theirs_rescale(noise, text, 0.7)) / SCALE
    assert relative_error(by_guider(guider(model, case, rescale=0.7), case, ONE_STEP), expected) < 1e-5
    assert relative_error(by_guider(guider(model, case), case, ONE_STEP), expected) > 1e-2


# ---- How often the network runs


@pytest.mark.parametrize(
    "text, image, rows",
    [(7.5, 1.5, 3), (1, 1.5, 3), (7.5, 7.5, 2), (0, 1.5, 2), (7.5, 1, 2), (7.5, 0, 3), (1, 1, 1), (0, 1, 1), (0, 0, 1)],
)
def test_predictions_that_cancel_are_spared(model, stub, text, image, rows):
    case, model = Case(2), stub.on(model)
    null, seen, full = (predicted(model, case, p) for p in (case.null, case.negative, case.positive))
    stub.x.clear()
    out = by_guider(guider(model, case, text, image), case, ONE_STEP)
    assert [len(x) for x in stub.x] == [2 * rows], "one batch"
    assert relative_error(out, guide(null, seen, full, image, text)) < 1e-5
    assert relative_error(by_sampler(patched(model, image), case, ONE_STEP, text), out) < 1e-5


@pytest.mark.parametrize("text, image", [(7.5, 7.5), (0, 1.5), (7.5, 1), (1, 1)])
def test_what_hooks_look_at_is_not_spared(model, stub, text, image):
    case, model = Case(), stub.on(model)
    alone = [predicted(model, case, prompt) for prompt in (case.positive, case.negative)]
    plain, seen = by_guider(guider(model, case, text, image), case, ONE_STEP), []
    watched = model.clone()
    watched.set_model_sampler_post_cfg_function(lambda args: seen.append(args) or args["denoised"])
    assert relative_error(by_guider(guider(watched, case, text, image), case, ONE_STEP), plain) < 1e-5
    for name, prediction in zip(("cond_denoised", "uncond_denoised"), alone, strict=True):
        assert relative_error(seen[0][name] / SCALE, prediction) < 1e-5
    asked = model.clone()
    asked.disable_model_cfg1_optimization()
    stub.x.clear()
    assert relative_error(by_guider(guider(asked, case, text, image), case, ONE_STEP), plain) < 1e-5
    assert len(stub.x[0]) == (2 if image == 1 else 3)


def test_prompts_of_very_different_lengths_run_apart(model, stub):
    case = Case(length=385)
    by_guider(guider(stub.on(model), case), case, ONE_STEP)
    assert sorted(len(x) for x in stub.x) == [1, 2]


def test_outside_the_interval_the_prompt_alone_counts(model, stub):
    case, model = Case(), stub.on(model)
    sigmas = model.get_model_object("model_sampling").percent_to_sigma
    inside = guider(model, case, start=0.2, end=0.6, rescale=0.5)
    for percent, rows in ((0.1, 1), (0.2, 3), (0.4, 3), (0.6, 3), (0.7, 1)):
        stub.x.clear()
        out = by_guider(inside, case, torch.tensor([sigmas(percent), 0.0]))
        assert [len(x) for x in stub.x] == [rows], percent
        assert (relative_error(out, predicted(model, case, case.positive, sigmas(percent))) < 1e-5) == (rows == 1)


# ---- Samplers


@pytest.mark.parametrize("sampler", ["euler_ancestral", "heun", "dpmpp_2m", "uni_pc", "lcm", "euler_cfg_pp"])
def test_guider_and_patch_agree_under_every_sampler(model, stub, sampler):
    case, model = Case(), stub.on(model)
    ours = by_guider(guider(model, case), case, sampler=sampler)
    assert torch.equal(by_sampler(patched(model), case, sampler=sampler), ours)
    assert relative_error(by_sampler(model, case, sampler=sampler), ours) > 1e-2


def test_ksampler_and_its_preview(model, stub, monkeypatch):
    case, model, seen = Case(), stub.on(model), []

    def prepare(*_):
        return lambda step, x0, x, steps: seen.append((step, x0, steps))

    monkeypatch.setattr("latent_preview.prepare_callback", prepare)
    with torch.random.fork_rng():
        (out,) = host_nodes.common_ksampler(
            patched(model), SEED, 3, 7.5, "euler", "normal", case.positive, case.negative, case.latent
        )
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", 3)
    assert torch.equal(out["samples"], by_guider(guider(model, case), case, sigmas))
    assert [(step, steps) for step, _, steps in seen] == [(0, 3), (1, 3), (2, 3)] * 2
    assert relative_error(seen[2][1] / SCALE, out["samples"]) < 1e-5


def test_at_picture_scale_1_the_patch_is_ordinary_guidance(model, stub):
    case, model = Case(2), stub.on(model)
    assert torch.equal(by_sampler(patched(model, 1.0), case), by_sampler(model, case))


# ---- Hooks and other patches


def test_patches_are_told_0_for_the_prompt_and_1_for_the_others(model, stub):
    """IPAdapter and its like index two things with it; caches go by the ids."""
    case, told = Case(2), []
    model = stub.on(model)

    def wrapper(apply, args):
        told.append((args["cond_or_uncond"], args["c"]["transformer_options"]["cond_or_uncond"]))
        return apply(args["input"], args["timestep"], **args["c"])

    model.set_model_unet_function_wrapper(wrapper)
    for run in (lambda: by_guider(guider(model, case), case), lambda: by_sampler(patched(model), case)):
        run()
        assert stub.roles == [[0, 1, 1]] * 4
        assert told == [([0, 1, 1], [0, 1, 1])] * 4
        assert len(set(stub.ids[0])) == 3
        assert stub.ids == stub.ids[:1] * 4
        assert (stub.x[0].chunk(3)[2][:, 4:] == 0).all()
        assert torch.equal(stub.x[0].chunk(3)[1][:, 4:], case.image)
        stub.roles.clear(), stub.ids.clear(), stub.x.clear(), told.clear()


def test_an_attention_patch_with_two_contexts(model):
    """It gives each prediction one of two contexts, as IPAdapter does: as if those had been the prompts."""
    case, other = Case(), Case()
    other.positive[0][0], other.negative[0][0] = randn(1, 77, 768, seed=8), randn(1, 77, 768, seed=9)
    contexts = other.positive[0][0], other.negative[0][0]
    adapter = model.clone()

    def attention(q, context, value, extra_options):
        rows = torch.cat([contexts[i] for i in extra_options["cond_or_uncond"]])
        return q, rows, rows

    adapter.set_model_attn2_patch(attention)
    expected = by_guider(guider(model, other), other, ONE_STEP)
    assert relative_error(by_guider(guider(adapter, case), case, ONE_STEP), expected) < 1e-5
    assert relative_error(by_sampler(patched(adapter), case, ONE_STEP), expected) < 1e-5


def test_cfg_hooks_run_once_a_step_on_the_final_combination(model, stub):
    case, model, calls = Case(), stub.on(model), []
    null, image, full = (predicted(model, case, p) for p in (case.null, case.negative, case.positive))
    hooked = model.clone()

    def before(args):
        calls.append(("pre", args))
        return args["conds_out"]

    def after(args):
        calls.append(("post", args))
        return args["denoised"] * 0.5

    hooked.set_model_sampler_pre_cfg_function(before)
    hooked.set_model_sampler_post_cfg_function(after)
    expected = guide(null, image, full, 1.5, 7.5)
    for run in (
        lambda: by_guider(guider(hooked, case), case, ONE_STEP),
        lambda: by_sampler(patched(hooked), case, ONE_STEP),
    ):
        assert relative_error(run(), expected / 2) < 1e-5
        (pre_name, pre), (post_name, post) = calls
        assert (pre_name, post_name) == ("pre", "post")
        assert relative_error(pre["conds_out"][0] / SCALE, full) < 1e-5
        assert relative_error(pre["conds_out"][1] / SCALE, image) < 1e-5
        assert len(pre["conds_out"]) == len(pre["conds"]) == 2
        assert relative_error(post["denoised"] / SCALE, expected) < 1e-5
        assert relative_error(post["cond_denoised"] / SCALE, full) < 1e-5
        assert relative_error(post["uncond_denoised"] / SCALE, image) < 1e-5
        assert pre["cond_scale"] == post["cond_scale"] == 7.5
        calls.clear()


def test_a_cfg_function_has_the_whole_guidance_in_hand(model, stub):
    case, model = Case(), stub.on(model)
    plain = by_guider(guider(model, case), case)
    (rescaling,) = RescaleCFG().patch(model, 0.0)  # undoes nothing: the plain combination, by its own sum
    assert relative_error(by_guider(guider(rescaling, case), case), plain) < 1e-4
    assert relative_error(by_sampler(patched(rescaling), case), plain) < 1e-4
    half = model.clone()
    half.set_model_sampler_cfg_function(
        lambda args: 0.5 * (args["uncond"] + args["cond_scale"] * (args["cond"] - args["uncond"]))
    )
    x = case.noise * (1 + SIGMA**2) ** 0.5 / SCALE
    middle = (x + by_guider(guider(model, case), case, ONE_STEP)) / 2
    assert relative_error(by_guider(guider(half, case), case, ONE_STEP), middle) < 1e-5


def test_perturbed_attention_guidance_adds_its_own_term_and_no_more(model):
    case = Case()
    pag = PerturbedAttentionGuidance.execute(model, 3.0).result[0]
    prompt = predicted(model, case, case.positive)
    term = predicted(pag, case, case.positive) - prompt
    assert term.abs().max() > 0.01 * prompt.abs().max()
    expected = by_guider(guider(model, case), case, ONE_STEP) + term
    assert relative_error(by_guider(guider(pag, case), case, ONE_STEP), expected) < 1e-5
    assert relative_error(by_sampler(patched(pag), case, ONE_STEP), expected) < 1e-5


def test_a_function_in_the_slot_for_predictions_is_called_with_pairs(model, stub):
    case, model, calls = Case(), stub.on(model), []
    plain = by_guider(guider(model, case), case)
    taken = model.clone()

    def pairs(args):
        cond, uncond = args["conds"]
        calls.append(args)
        both = comfy.samplers.calc_cond_batch(
            args["model"], [cond, uncond], args["input"], args["sigma"], args["model_options"]
        )
        return [both[0] * 0.5, both[1] * 0.5]

    taken.set_model_sampler_calc_cond_batch_function(pairs)
    out = by_guider(guider(taken, case), case, ONE_STEP)
    assert len(calls) == 2
    assert relative_error(out, by_guider(guider(model, case), case, ONE_STEP) / 2) < 1e-5
    late = patched(model)  # a node after the patch takes the slot for itself: the patch is still there
    late.set_model_sampler_calc_cond_batch_function(pairs)
    assert relative_error(by_sampler(late, case, ONE_STEP), out) < 1e-5
    assert relative_error(by_sampler(patched(model), case), plain) == 0


class Control(ControlBase):
    """A ControlNet that notes what it is told and adds a constant."""

    def __init__(self, calls):
        super().__init__()
        self.calls = calls

    def get_models(self):
        return []

    def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
        self.calls.append((len(x_noisy), batched_number, transformer_options["cond_or_uncond"]))
        return {"middle": [torch.full((len(x_noisy), 320, *x_noisy.shape[2:]), 0.5)], "input": [], "output": []}


def test_a_controlnet_sees_the_batch_and_the_same_roles(model):
    case, calls = Case(2), []
    control = {"control": Control(calls), "control_apply_to_uncond": False}
    controlled = copy.copy(case)
    controlled.positive, controlled.negative = (
        conditioning_set_values(prompt, control) for prompt in (case.positive, case.negative)
    )
    ours = by_guider(guider(model, controlled), controlled, ONE_STEP)
    assert calls == [(6, 3, [0, 1, 1])]
    assert relative_error(by_sampler(patched(model), controlled, ONE_STEP), ours) == 0
    null = conditioning_set_values(case.null, control)
    parts = [predicted(model, case, prompt) for prompt in (null, controlled.negative, controlled.positive)]
    assert relative_error(ours, guide(*parts, 1.5, 7.5)) < 1e-5
    assert relative_error(ours, by_guider(guider(model, case), case, ONE_STEP)) > 1e-2


def test_the_controlnet_of_each_graphics_card_is_told_the_same_roles(model):
    case, calls, on_card, cpu = Case(), [], [], torch.device("cpu")
    control = Control(calls)
    control.multigpu_clones = {cpu: Control(on_card)}
    values = {"c_crossattn": CONDCrossAttn(case.text), "c_concat": CONDNoiseShape(case.image)}
    conds = [{"control": control, "uuid": uuid.uuid4(), "model_conds": values}]
    options = {
        "multigpu_clones": {cpu: model},
        "model_function_wrapper": lambda apply, args: args["input"],
        "transformer_options": {"sample_sigmas": STEPS},
    }
    model.pre_run()
    calc_cond_batch(model.model, [without_image(conds), conds, conds], case.image, STEPS[:1], options)
    model.cleanup()
    assert on_card == [(3, 3, [0, 1, 1])] and calls == []


def test_masks_and_areas(model, stub):
    """The left half follows one prompt and the right half another; the network's stub sees each pixel by itself."""
    case, other, model = Case(size=(8, 16)), Case(size=(8, 16)), stub.on(model)
    other.positive[0][0] = randn(1, 77, 768, seed=8)
    left, right = (by_guider(guider(model, each), each, ONE_STEP) for each in (case, other))
    mask = torch.zeros(1, 8, 16)
    mask[..., :8] = 1
    halves = [
        [{"mask": mask, "mask_strength": 1.0}, {"mask": 1 - mask, "mask_strength": 1.0}],
        [{"area": (8, 8, 0, 0)}, {"area": (8, 8, 0, 8)}],
    ]
    for where in halves:
        both = copy.copy(case)
        both.positive = [
            *conditioning_set_values(case.positive, where[0]),
            *conditioning_set_values(other.positive, where[1]),
        ]
        for out in (by_guider(guider(model, both), both, ONE_STEP), by_sampler(patched(model), both, ONE_STEP)):
            assert relative_error(out[..., :8], left[..., :8]) < 1e-5
            assert relative_error(out[..., 8:], right[..., 8:]) < 1e-5


def test_a_lora_before_or_after(model):
    key = "diffusion_model.out.2.weight"
    change = 0.3 * randn(4, 320, 3, 3, seed=5)

    def with_lora(model):
        model = model.clone()
        assert model.add_patches({key: ("diff", (change,))}, 0.8) == [key]
        return model

    case = Case()
    before, after = patched(with_lora(model)), with_lora(patched(model))
    ours = by_sampler(before, case, ONE_STEP)
    assert torch.equal(by_sampler(after, case, ONE_STEP), ours)
    assert torch.equal(by_guider(guider(with_lora(model), case), case, ONE_STEP), ours)
    assert relative_error(by_sampler(patched(model), case, ONE_STEP), ours) > 1e-2


def test_weights_that_change_for_one_prompt(model):
    """ComfyUI's hooks run such prompts apart."""
    key, case, hooked = "diffusion_model.out.2.weight", Case(), Case()
    change = {key: ("diff", (0.1 * randn(4, 320, 3, 3, seed=5),))}
    hook = comfy.hooks.WeightHook()
    hook.weights, hook.need_weight_init, group = change, False, comfy.hooks.HookGroup()
    group.add(hook)
    hooked.positive = conditioning_set_values(case.positive, {"hooks": group})
    changed = model.clone()
    changed.add_patches(change)
    parts = [predicted(model, case, prompt) for prompt in (case.null, case.negative)]
    expected = guide(*parts, predicted(changed, case, case.positive), 1.5, 7.5)
    assert relative_error(by_guider(guider(model, hooked), hooked, ONE_STEP), expected) < 1e-5
    assert relative_error(by_sampler(patched(model), hooked, ONE_STEP), expected) < 1e-5


# ---- What stays as it was


def test_the_model_stays_as_it_was_and_clones_do_not_disturb_each_other(model, stub):
    case, model = Case(), stub.on(model)
    before = frozen(model)
    prompts = [(text, {**values}) for text, values in (*case.positive, *case.negative)]
    state, plain = torch.get_rng_state(), by_sampler(model, case, ONE_STEP)
    low, high = patched(model, 1.2), patched(model, 3.0)
    first = by_sampler(low, case, ONE_STEP)
    other = by_sampler(high, case, ONE_STEP)
    assert relative_error(other, first) > 1e-2
    assert torch.equal(by_sampler(low, case, ONE_STEP), first)
    assert torch.equal(by_guider(guider(model, case, image=1.2), case, ONE_STEP), first)
    assert torch.equal(by_sampler(model, case, ONE_STEP), plain)
    assert frozen(model) == before
    for (text, values), (text_before, values_before) in zip((*case.positive, *case.negative), prompts, strict=True):
        assert text is text_before
        assert values == values_before
    assert torch.equal(torch.get_rng_state(), state)


def test_an_interrupted_run_leaves_nothing_behind(model, stub):
    case, model = Case(), stub.on(model)
    ours, interrupted = guider(model, case), model.clone()
    expected = by_guider(ours, case)

    def interrupt(args):
        comfy.model_management.interrupt_current_processing()
        comfy.model_management.throw_exception_if_processing_interrupted()

    interrupted.set_model_sampler_post_cfg_function(interrupt)
    for run in (
        lambda: by_guider(guider(interrupted, case), case),
        lambda: by_sampler(patched(interrupted), case),
    ):
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            run()
        assert torch.equal(by_guider(ours, case), expected)


def test_the_patch_twice_or_under_the_guider_counts_once(model, stub):
    case, model = Case(), stub.on(model)
    ours = by_guider(guider(model, case), case)
    assert torch.equal(by_sampler(patched(patched(model, 4.0)), case), ours)
    assert torch.equal(by_guider(guider(patched(model, 4.0), case), case), ours)


# ---- Wrong wiring


def test_another_model_is_refused(model, sd15):
    case = Case()
    with pytest.raises(ValueError, match="InstructPix2Pix Guider works with InstructPix2Pix .*Stable Diffusion 1.5"):
        guider(sd15, case)
    with pytest.raises(ValueError, match="InstructPix2Pix for Any Sampler works with InstructPix2Pix .*Diffusion 1.5"):
        patched(sd15)
    with pytest.raises(ValueError, match="InstructPix2Pix Conditioning works with InstructPix2Pix .*Diffusion 1.5"):
        by_sampler(sd15, case)


@pytest.mark.parametrize("which", ["positive", "negative"])
def test_a_prompt_without_the_picture_is_refused(model, stub, which):
    case, model = Case(), stub.on(model)
    setattr(case, which, [[randn(1, 77, 768), {}]])
    for run in (lambda: by_guider(guider(model, case), case), lambda: by_sampler(patched(model), case)):
        with pytest.raises(ValueError, match=f"{which} has no picture"):
            run()
    assert stub.x == []


@pytest.mark.parametrize("ours", [True, False])
@pytest.mark.parametrize(
    "shape, message", [((1, 4, 8, 16), r"(64 x 64|8 x 8).*(128 x 64|16 x 8)"), ((3, 4, 8, 8), "2 pictures, and 3")]
)
def test_another_size_or_number_of_latents_is_refused(model, stub, ours, shape, message):
    case, model = Case(2), stub.on(model)
    if not ours:
        plain = [[case.text, {}]], [[case.empty, {}]]
        case.positive, case.negative, _ = InstructPixToPixConditioning.execute(
            *plain, torch.zeros(2, 64, 64, 3), VAE(case.image)
        ).result
    case.latent = {"samples": torch.zeros(shape)}
    runs = [lambda: by_guider(guider(model, case), case), lambda: by_sampler(patched(model), case)]
    for run in (*runs, *[lambda: by_sampler(model, case)] * ours):  # our conditioning even without the patch
        with pytest.raises(ValueError, match=message):
            run()
    assert stub.x == []


def test_one_picture_goes_with_many_latents(model, stub):
    case, model = Case(), stub.on(model)
    case.latent = {"samples": torch.zeros(3, 4, 8, 8)}
    out = by_guider(guider(model, case), case)
    assert torch.equal(by_sampler(patched(model), case), out)
    assert (stub.x[0][:, 4:].reshape(3, 3, 4, 8, 8)[:2] == case.image).all()


def test_the_patch_under_guiders_that_it_cannot_work_with(model, stub):
    case, model = Case(), patched(stub.on(model))
    with pytest.raises(ValueError, match="needs a negative conditioning"):
        by_guider(custom.BasicGuider.execute(model, case.positive).result[0], case)
    conds = case.positive, case.negative, case.negative
    for other in (
        custom.DualCFGGuider.execute(model, *conds, 7.5, 1.5, "regular").result[0],
        PerpNegGuider.execute(model, *conds, 7.5, 1.0).result[0],
        custom.DualModelGuider.execute(model, case.positive, 7.5, model, case.negative).result[0],
    ):
        with pytest.raises(ValueError, match=f"cannot work under {type(other).__name__}"):
            by_guider(other, case)


@pytest.mark.parametrize("node", [EasyCacheNode, LazyCacheNode])
def test_caches_before_and_after_the_patch(model, stub, node):
    """With a threshold of 0 they skip nothing. With a large one they skip steps, and all three runs are the same."""
    case, sigmas = Case(), torch.linspace(1, 0, 9) ** 2 * 10

    def cached(model, threshold=1.0):
        return node.execute(model, threshold, 0.0, 1.0, False).result[0]

    def sampled(model):
        return by_sampler(stub.on(model), case, sigmas)  # EasyCache comes around the network

    plain = sampled(patched(model))
    assert torch.equal(sampled(cached(patched(model), 0.0)), plain)
    stub.x.clear()
    runs = [sampled(each) for each in (cached(patched(model)), patched(cached(model)))]
    assert 2 * 2 <= len(stub.x) < 2 * 8 and not torch.equal(runs[0], plain)
    runs.append(by_guider(guider(stub.on(cached(model)), case), case, sigmas))
    assert torch.equal(runs[0], runs[1]) and torch.equal(runs[0], runs[2])


# ---- The picture


@pytest.fixture(scope="module")
def vae():
    generator = torch.Generator().manual_seed(0)
    return comfy.sd.VAE(sd={name: drawn_weight(name, size, generator) for name, size in diffusion.taesd_shapes()})


def prepared(image, vae, fit="multiple of 64"):
    text = [[randn(1, 77, 768), {"pooled_output": None}]]
    return IP2PConditioning.execute(text, text, vae, image, fit).result


def pictures(b, height, width, channels=3):
    return rand(b, height, width, channels, seed=4)


def test_the_conditioning_is_that_of_core_where_the_picture_fits(vae):
    image, text = pictures(2, 64, 128), [[randn(1, 77, 768), {"strength": 0.5}]]
    theirs = InstructPixToPixConditioning.execute(text, text, image, vae).result
    ours = run_node(IP2PConditioning, positive=text, negative=text, vae=vae, image=image)
    for prompt, other in zip(ours[:2], theirs[:2], strict=True):
        assert torch.equal(prompt[0][1]["concat_latent_image"], other[0][1]["concat_latent_image"])
        assert prompt[0][1]["strength"] == 0.5
        assert prompt[0][0] is text[0][0]
    assert torch.equal(ours[2]["samples"], theirs[2]["samples"])
    assert ours[2]["samples"].shape == (2, 4, 8, 16)


@pytest.mark.parametrize(
    "fit, size", [("multiple of 64", (128, 64)), ("multiple of 8", (104, 80))], ids=["multiple of 64", "multiple of 8"]
)
def test_the_picture_takes_the_nearest_size(vae, fit, size):
    positive, negative, latent = prepared(pictures(1, 100, 83), vae, fit)
    assert latent["samples"].shape == (1, 4, size[0] // 8, size[1] // 8)
    for prompt in (positive, negative):
        assert prompt[0][1]["concat_latent_image"].shape == latent["samples"].shape


@given(st.integers(1, 200), st.integers(1, 200), st.sampled_from([8, 64]))
def test_sides_are_the_nearest_multiples(height, width, multiple):
    with torch.inference_mode():
        out = to_multiple(torch.zeros(1, height, width, 1), multiple)
    for side, fitted in zip((height, width), out.shape[1:3], strict=True):
        assert fitted % multiple == 0
        assert fitted >= multiple
        assert abs(fitted - side) <= multiple / 2 or fitted == multiple


def test_resizing_is_lanczos_over_the_whole_picture(rng):
    image = 0.35 + 0.3 * torch.rand(2, 90, 70, 3, generator=rng)
    assert to_multiple(image, 10) is image
    ours = to_multiple(image, 64)
    for picture, mine in zip(image, ours, strict=True):
        theirs = Image.fromarray((picture * 255).round().byte().numpy()).resize((64, 64), Image.Resampling.LANCZOS)
        assert (mine - torch.from_numpy(np.array(theirs)) / 255).abs().max() < 2 / 255
    low, high = to_multiple((image > 0.5).float(), 64).aminmax()
    assert (low, high) == (0, 1), "no ringing beyond black and white"


@pytest.mark.parametrize("channels", [1, 4])
def test_grey_and_transparent_pictures(vae, channels):
    image = pictures(1, 64, 64, channels)
    rgb = image.expand(-1, -1, -1, 3) if channels == 1 else image[..., :3]
    assert torch.equal(
        prepared(image, vae)[0][0][1]["concat_latent_image"], prepared(rgb, vae)[0][0][1]["concat_latent_image"]
    )


class Network(torch.nn.Module):
    """Stands in for SDXL's UNet with eight channels in; notes what it is given."""

    dtype = torch.float32

    def __init__(self):
        super().__init__()
        self.input_blocks = torch.nn.ModuleList([torch.nn.Sequential(torch.nn.Conv2d(8, 320, 3))])
        self.x = []

    def forward(self, x, t, context=None, control=None, transformer_options=None, **kwargs):
        self.x.append(x)
        return torch.tanh(x[:, :4] + x[:, 4:] + context.mean((1, 2))[:, None, None, None])


@pytest.mark.parametrize("kind, scale", [("instruct-pix2pix-sdxl", 1.0), ("cosxl-edit", 0.13025)])
def test_what_sdxl_networks_are_given(kind, scale):
    shapes = diffusion.unet_shapes(replace(diffusion.UNETS["sdxl"], in_channels=8))
    weights = {f"model.diffusion_model.{name}": torch.empty(size, device="meta") for name, size in shapes}
    if kind == "cosxl-edit":
        weights |= {"edm_vpred.sigma_max": torch.tensor(120.0), "edm_vpred.sigma_min": torch.tensor(0.002)}
    config = comfy.model_detection.model_config_from_unet(weights, "model.diffusion_model.")
    base = config.get_model(weights, "model.diffusion_model.", device=torch.device("meta"))
    base.diffusion_model = Network()
    model = ModelPatcher(base, torch.device("cpu"), torch.device("cpu"))
    assert identify(model).name == kind

    case = Case(2)
    for prompt in (case.positive, case.negative):
        prompt[0][:] = [randn(1, 77, 2048), {**prompt[0][1], "pooled_output": randn(1, 1280)}]
    sigmas = torch.tensor([float(model.get_model_object("model_sampling").sigma_max), 0.0])
    out = by_guider(guider(model, case), case, sigmas)
    assert relative_error(by_sampler(patched(model), case, sigmas), out) < 1e-6
    full, image, null = base.diffusion_model.x[0][:, 4:].chunk(3)
    assert torch.allclose(full, scale * case.image)
    assert torch.allclose(image, scale * case.image)
    assert (null == 0).all()
