"""Latent Grade's rule vectorscope against the extension's own callback, and against sampling loops by hand."""

import comfy.sample
import numpy as np
import pytest
import torch
from comfy.latent_formats import SDXL
from comfy.samplers import SAMPLER_NAMES, calculate_sigmas, sampler_object

from kit import golden, toy_network
from kit.assertions import frozen, relative_error
from kit.nodes import run_node
from kit.tensors import rand, randn
from pentimento.model_patchers.colour import vectorscope
from pentimento.model_patchers.colour.latent_grade import Vectorscope
from pentimento.model_patchers.colour.vectorscope import Grade
from pentimento.nodes.colour.latent_grade import GradeBrackets, LatentGrade

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore:Should have t")]
MAKER = golden.maker("vectorscope")
GOLDEN = np.load(golden.GOLDEN / "vectorscope.npz")
SETTINGS = Grade(*(MAKER.SETTINGS[name] for name in ("bri", "con", "sat", "r", "g", "b")))
CONDITIONING = [[torch.zeros(1, 1, 8), {}]]
ALL = {"brightness": 1.5, "contrast": -0.8, "saturation": 1.4, "red": 0.7, "green": -1.1, "blue": 2.3}


def ours(model, mode, target, schedule, grade=SETTINGS, seed=MAKER.SEED):
    x, denoised = (torch.from_numpy(GOLDEN[name]) for name in ("x", "denoised"))
    rule = Vectorscope(grade, model == "xl", schedule, target, seed)
    z, other = (x, denoised) if mode == "x" else (denoised, x)
    return rule.graded(z, other, MAKER.STEP, MAKER.STEPS)


@pytest.mark.parametrize("model", ["sd", "xl"])
def test_equals_the_extensions_callback(model):
    """Every target with both edits, and every schedule."""
    cases = [case for case in MAKER.CASES if case[0] == model]
    assert {case[2] for case in cases} == set(vectorscope.TARGETS)
    assert {case[3] for case in cases} == set(vectorscope.SCHEDULES)
    for case in cases:
        theirs = GOLDEN["_".join(case)]
        assert relative_error(ours(*case), theirs) < 1e-6, case
        assert relative_error(GOLDEN[case[1]], theirs) > 1e-2, case


@pytest.mark.parametrize("model", ["sd", "xl"])
def test_mistakes_of_other_ports_are_far_from_the_callback(model):
    case = model, "denoised", "straight abs", "flat"
    theirs = GOLDEN["_".join(case)]
    wrong = {
        "blue dropped": ours(*case, grade=SETTINGS._replace(blue=0.0)),
        "contrast of all channels": ours(*case) + 0.1 * (ours(*case) - ours(*case).mean((1, 2, 3), keepdim=True)),
        "the other model's channels": ours("sd" if model == "xl" else "xl", *case[1:]),
        "not shared by the steps": ours(*case, grade=SETTINGS._replace(brightness=SETTINGS.brightness * MAKER.STEPS)),
        "saturation shared as the others": ours(
            *case, grade=SETTINGS._replace(saturation=(1 + (SETTINGS.saturation - 1) / MAKER.STEPS) ** MAKER.STEPS)
        ),
    }
    for name, result in wrong.items():
        assert relative_error(result, theirs) > (1e-3 if name.startswith("saturation") else 1e-2), name
    for target, (rounds, discount) in {"multi-res": (8, 0.4)}.items():  # the ComfyUI port's
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(vectorscope, "ROUNDS", rounds)
            patch.setattr(vectorscope, "DISCOUNT", discount)
            assert relative_error(ours(model, "x", target, "flat"), GOLDEN[f"{model}_x_{target}_flat"]) > 1e-2


# Whole runs


def toy(sdxl=False):
    model = toy_network.patcher(toy_network.Neighbours())
    if sdxl:
        model.model.latent_format = SDXL()
    return model


def graded(model, **inputs):
    return run_node(LatentGrade, model=model, rule="vectorscope", **inputs)[0]


def sigmas_of(model, steps=5, scheduler="karras"):
    return calculate_sigmas(model.get_model_object("model_sampling"), scheduler, steps)


def sampled(model, sampler="euler", batch=2, sigmas=None, callback=None, mask=None, cfg=1.0):
    """Latents at the denoiser's scale."""
    noise = randn(batch, 4, 9, 11)
    result = comfy.sample.sample_custom(
        model,
        noise,
        cfg,
        sampler_object(sampler),
        sigmas_of(model) if sigmas is None else sigmas,
        CONDITIONING,
        CONDITIONING,
        torch.zeros_like(noise),
        noise_mask=mask,
        callback=callback,
        disable_pbar=True,
        seed=3,
    )
    return model.model.process_latent_in(result)


def by_hand(model, edit, target, schedule):
    """Euler's method with the grade at its two places, on the toy network of an eps model."""
    sigmas, sampling = sigmas_of(model), model.model.model_sampling
    steps, sdxl = len(sigmas) - 1, isinstance(model.model.latent_format, SDXL)
    rule = Vectorscope(Grade(*ALL.values()), sdxl, schedule, target, 4)
    x = randn(2, 4, 9, 11) * sigmas[0]
    if torch.isclose(sigmas[0], sampling.sigma_max, rtol=1e-5):
        x = randn(2, 4, 9, 11) * (1 + sigmas[0] ** 2).sqrt()
    for i in range(steps):
        scaled = x / (sigmas[i] ** 2 + 1).sqrt()
        denoised = x - model.model.diffusion_model(scaled, None) * sigmas[i]
        if edit == "denoised":
            denoised = rule.graded(denoised, x, i, steps)
        slope = (x - denoised) / sigmas[i]
        if edit == "input":
            x = rule.graded(x, denoised, i, steps)
        x = x + slope * (sigmas[i + 1] - sigmas[i])
    return x


@pytest.mark.parametrize("sdxl", [False, True])
@pytest.mark.parametrize("edit", ["denoised", "input"])
@pytest.mark.parametrize(("target", "schedule"), [("straight abs", "flat"), ("cross", "1 - cos"), ("normal", "sin")])
def test_a_run_of_euler_equals_the_loop(sdxl, edit, target, schedule):
    model = toy(sdxl)
    before = frozen(model)
    result = sampled(graded(model, **ALL, edit=edit, target=target, schedule=schedule, seed=4))
    expected = by_hand(model, edit, target, schedule)
    assert relative_error(result, expected) < 1e-5
    for wrong in (by_hand(model, "input" if edit == "denoised" else "denoised", target, schedule), sampled(model)):
        assert relative_error(wrong, expected) > 1e-2
    assert frozen(model) == before


def test_equals_a_callback_that_edits_the_prediction_where_samplers_heed_it():
    """dpmpp_2m goes on from the tensor that its callback sees, as in the web UI. euler does not, and there the
    extension has no effect.
    """
    model = toy()
    rule = Vectorscope(Grade(**ALL), False, "flat", "straight abs", 0)
    steps = len(sigmas_of(model)) - 1

    def edit(step, denoised, x, total):
        denoised.copy_(rule.graded(denoised, x, step, steps))

    patched = graded(model, **ALL)
    assert torch.equal(sampled(patched, "dpmpp_2m"), sampled(model, "dpmpp_2m", callback=edit))
    assert torch.equal(sampled(model, "euler", callback=edit), sampled(model, "euler"))
    assert relative_error(sampled(patched, "euler"), sampled(model, "euler")) > 1e-2


DEAF = {"lcm", "gradient_estimation_cfg_pp", "uni_pc", "uni_pc_bh2"}  # to an edit of the x that their callback sees


@pytest.mark.parametrize("edit", ["denoised", "input"])
def test_works_with_every_sampler(edit):
    model = toy()
    patched = graded(model, **ALL, edit=edit)
    for name in SAMPLER_NAMES:
        result, plain = (sampled(each, name, batch=1) for each in (patched, model))
        assert result.isfinite().all(), name
        assert relative_error(result, plain) > 1e-3 or (edit == "input" and name in DEAF), name


def test_noise_depends_on_the_seed_and_the_step_alone():
    model = toy()
    for target in ("normal", "uniform", "multi-res", "multi-res abs"):
        once, again, other = (sampled(graded(model, **ALL, target=target, seed=seed)) for seed in (4, 4, 5))
        assert torch.equal(once, again)
        assert relative_error(once, other) > 1e-3
    drawn = [vectorscope.target("normal", randn(1, 4, 9, 11), None, vectorscope.generator(4, step)) for step in (0, 1)]
    assert not torch.equal(*drawn)
    assert not torch.equal(drawn[0], randn(1, 4, 9, 11, seed=4))  # the sampler's own


def test_a_mask_protects_the_rest():
    model, mask = toy(), rand(1, 1, 9, 11).round()
    results = [sampled(each, mask=mask) for each in (model, graded(model, **ALL), graded(model, **ALL, edit="input"))]
    outside = (mask == 0).expand_as(results[0])
    for result in results[1:]:
        assert torch.equal(result[outside], results[0][outside])
        assert relative_error(result, results[0]) > 1e-2


def test_two_nodes_act_in_their_order():
    model = toy()
    for edit in ("denoised", "input"):
        first, second = {"brightness": 1.0, "edit": edit}, {"contrast": 3.0, "edit": edit}
        chained = graded(graded(model, **first, target="ones"), **second, target="ones")
        together = graded(model, **first | second, target="ones")
        swapped = graded(graded(model, **second, target="ones"), **first, target="ones")
        assert relative_error(sampled(chained), sampled(together)) < 1e-5
        assert not torch.equal(sampled(swapped), sampled(chained))


def test_other_latents_are_refused():
    with pytest.raises(ValueError, match="rule vectorscope works with Stable Diffusion 1, 2 and SDXL.*Choose .*calibr"):
        graded(toy_network.patcher(toy_network.Pointwise(), "flow"), red=0.1)


# Brackets


def test_brackets_are_those_of_the_script():
    """Brightness gap (i - count // 2), target Ones, Alt, 1 - Cos: each equals the grade with these settings."""
    model = toy()
    (models,) = run_node(GradeBrackets, model=model, count=5, gap=1.25)
    assert models[2] is model
    results = [sampled(each) for each in models]
    settings = {"target": "ones", "edit": "input", "schedule": "1 - cos"}
    for result, brightness in zip(results, (-2.5, -1.25, 0.0, 1.25, 2.5), strict=True):
        assert torch.equal(result, sampled(graded(model, brightness=brightness, **settings)))
    lightness = [float(result[:, 0].mean()) for result in results]
    assert lightness == sorted(lightness)
    assert len(run_node(GradeBrackets, model=model, count=9)[0]) == 9


def test_an_even_count_is_refused_before_the_run():
    with pytest.raises(ValueError, match="Grade Brackets: count is 4.*Choose an odd number: 3 or 5"):
        run_node(GradeBrackets, model=toy(), count=4)
    assert "Choose an odd number" in GradeBrackets.validate_inputs(count=6)
    assert GradeBrackets.validate_inputs(count=3) is True
