"""Latent Grade's rule calibrated, seen through ComfyUI's own preview, for every latent format."""

import math

import comfy.latent_formats
import comfy.sample
import latent_preview
import numpy as np
import pytest
import torch
from comfy.conds import CONDConstant
from comfy.latent_formats import LatentFormat
from comfy.nested_tensor import NestedTensor
from comfy.samplers import SAMPLER_NAMES, SCHEDULER_NAMES, calculate_sigmas, sampler_object

from kit import toy_network
from kit.assertions import frozen, relative_error
from kit.nodes import run_node
from kit.tensors import rand, randn
from pentimento.model_patchers.colour.latent_grade import Colours, gains, shares
from pentimento.model_patchers.colour.vectorscope import SCHEDULES
from pentimento.nodes.colour.latent_grade import GradeBrackets, LatentGrade

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore:Should have t")]
CONDITIONING = [[torch.zeros(1, 1, 8), {}]]


def every_format():
    """{name: one of the kind}."""
    found, kinds = {}, [LatentFormat]
    while kinds:
        kind = kinds.pop()
        kinds += kind.__subclasses__()
        found[kind.__name__] = kind()
    return found


FORMATS = every_format()
COLOURED = sorted(name for name, each in FORMATS.items() if each.latent_rgb_factors is not None)
NESTED = {"LTXAV", "MiniMaxH3AV"}  # pictures and sound


def latent_shape(latent_format, batch=2):
    channels = len(latent_format.latent_rgb_factors)
    if latent_format.latent_rgb_factors_reshape is not None:
        channels = latent_format.latent_channels
    return batch, channels, *([3] if latent_format.latent_dimensions == 3 else []), 4, 6


class Still(torch.nn.Module):
    """A network whose answer stays, whatever it is shown."""

    dtype = torch.float32

    def __init__(self, *answers):
        super().__init__()
        self.answers = answers

    def forward(self, x, t, **kwargs):
        repeated = [answer.repeat(2, *[1] * (answer.ndim - 1)) for answer in self.answers]  # for cond and uncond
        if isinstance(x, list):
            return [answer[: len(each)] for answer, each in zip(repeated, x, strict=True)]
        return repeated[0][: len(x)]


def still(latent_format, kind="flow"):
    """A model of this latent format whose network answers a fixed noise."""
    answers = [randn(*latent_shape(latent_format), seed=9)]
    if type(latent_format).__name__ in NESTED:
        answers.append(randn(2, 8, 5, seed=8))
    model = toy_network.patcher(Still(*answers), kind)
    model.model.latent_format = latent_format
    if len(answers) > 1:
        model.model.extra_conds = lambda latent_shapes, **_: {"latent_shapes": CONDConstant(latent_shapes)}
    return model


def graded(model, **inputs):
    return run_node(LatentGrade, model=model, **inputs)[0]


def sampled(model, sampler="euler", steps=10, scheduler="simple", sigmas=None, mask=None, cfg=1.0):
    """Latents at the denoiser's scale, those of the pictures where there is sound too."""
    answers = model.model.diffusion_model.answers
    noise = [randn(*answer.shape, seed=seed) for seed, answer in enumerate(answers)]
    noise = NestedTensor(noise) if len(noise) > 1 else noise[0]
    if sigmas is None:
        sigmas = calculate_sigmas(model.get_model_object("model_sampling"), scheduler, steps)
    x0 = []
    comfy.sample.sample_custom(
        model,
        noise,
        cfg,
        sampler_object(sampler),
        sigmas,
        CONDITIONING,
        CONDITIONING,
        noise * 0,
        noise_mask=mask,
        callback=lambda step, denoised, x, total: x0.append(denoised),
        disable_pbar=True,
        seed=3,
    )
    return x0[-1].tensors if len(answers) > 1 else x0[-1]


def preview(latent_format, latents):
    """What ComfyUI's previewer of this format shows of each picture, before it is cut to 0 ... 255: (B, H, W, 3)."""
    seen = []
    factors = latent_format.latent_rgb_factors, latent_format.latent_rgb_factors_bias
    previewer = latent_preview.Latent2RGBPreviewer(*factors, latent_format.latent_rgb_factors_reshape)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latent_preview, "preview_to_image", seen.append)
        for latent in latents:
            previewer.decode_latent_to_preview(latent[None])
    return torch.stack(seen)


ASKED = {"brightness": 0.3, "red": 0.2, "green": -0.1, "blue": 0.05, "temperature": 0.04}
ROUNDED = {"flow": 1e-5, "eps": 1e-4}  # the shift's error; x begins at 1 in flow models and at 14.6 in the others
SHIFT = torch.tensor([0.3 + 0.2 + 0.04, 0.3 - 0.1, 0.3 + 0.05 - 0.04])


def seen_shift(latent_format, model, patched, **run):
    """What a grade has changed in the preview: (B, H, W, 3)."""
    results = [sampled(each, **run) for each in (patched, model)]
    if type(latent_format).__name__ in NESTED:
        assert torch.equal(results[0][1], results[1][1])  # the sound
        results = [result[0] for result in results]
    after, before = (preview(latent_format, result) for result in results)
    return after - before


@pytest.mark.parametrize("name", COLOURED)
def test_the_preview_shows_the_shift_that_was_asked(name):
    """The same for 10 and for 40 steps. The factors in place of their inverse give another."""
    latent_format = FORMATS[name]
    model = still(latent_format)
    before = frozen(model)
    patched = graded(model, **ASKED)
    for steps in (10, 40):
        shift = seen_shift(latent_format, model, patched, steps=steps)
        assert (shift - SHIFT).abs().max() < 1e-5, steps
    assert frozen(model) == before

    colours = Colours.of(latent_format, "")
    wrong = colours._replace(inverse=colours.factors)
    if not torch.allclose(colours.inverse, colours.factors):  # as those of pixels are
        z = randn(*latent_shape(latent_format))
        moved = wrong.shifted(z, lambda rgb: torch.ones_like(rgb))
        assert (preview(latent_format, moved) - preview(latent_format, z) - 1).abs().max() > 1e-2


def test_there_are_formats_of_every_shape():
    assert NESTED & set(COLOURED)
    assert any(FORMATS[name].latent_rgb_factors_reshape for name in COLOURED)
    assert {FORMATS[name].latent_dimensions for name in COLOURED} == {2, 3}


@pytest.mark.parametrize("name", ["SDXL", "Flux2", "Wan21"])
def test_no_smaller_change_of_the_latents_gives_that_shift(name):
    """Against NumPy's least squares, for a shift of one pixel."""
    latent_format = FORMATS[name]
    colours = Colours.of(latent_format, "")
    shift = np.array([0.3, -0.2, 0.1])
    least = np.linalg.lstsq(np.array(latent_format.latent_rgb_factors).T, shift, rcond=None)[0]
    asked = torch.tensor(shift, dtype=torch.float32)
    z = torch.zeros(latent_shape(latent_format, 1))
    moved = colours.shifted(z, lambda rgb: asked.reshape(1, 3, *[1] * (rgb.ndim - 2)).expand_as(rgb))
    seen = moved if colours.reshape is None else colours.reshape(moved)
    assert relative_error(seen.movedim(1, -1).reshape(-1, len(least))[0], torch.tensor(least).float()) < 1e-5


@pytest.mark.parametrize("kind", ["eps", "flow"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_and_scheduler_gives_the_shift(kind, schedule):
    latent_format = FORMATS["SDXL"]
    model = still(latent_format, kind)
    patched = graded(model, **ASKED, schedule=schedule)
    for scheduler in SCHEDULER_NAMES if schedule == "flat" else ("karras",):
        shift = seen_shift(latent_format, model, patched, scheduler=scheduler, steps=6)
        assert (shift - SHIFT).abs().max() < ROUNDED[kind], scheduler
    for steps in (1, 2):
        assert (seen_shift(latent_format, model, patched, steps=steps) - SHIFT).abs().max() < ROUNDED[kind]


def test_two_grades_add_up():
    latent_format = FORMATS["Flux"]
    model = still(latent_format)
    chained = graded(graded(model, brightness=0.3, schedule="sin"), red=0.2, schedule="cos")
    shift = seen_shift(latent_format, model, chained)
    assert (shift - torch.tensor([0.5, 0.3, 0.3])).abs().max() < 1e-5
    twice = graded(graded(model, **ASKED), **ASKED)
    assert (seen_shift(latent_format, model, twice) - 2 * SHIFT).abs().max() < 1e-5


@pytest.mark.parametrize("name", ["SDXL", "Flux2", "HunyuanVideo"])
@pytest.mark.parametrize("factor", [0.5, 1.2, 2.0])
def test_contrast_and_saturation_multiply(name, factor):
    """The distances from the mean colour, and from the grey, for 10 steps as for 40. Linear shares of each step, which
    the next ones multiply again, give another.
    """
    latent_format = FORMATS[name]
    model = still(latent_format)
    grey = torch.tensor([0.2126, 0.7152, 0.0722])
    for steps in (10, 40):
        before, contrast, saturated = (
            preview(latent_format, sampled(each, steps=steps))
            for each in (model, graded(model, contrast=factor - 1), graded(model, saturation=factor))
        )
        if latent_format.latent_dimensions == 2:  # the preview shows the mean of a clip's first frame alone
            mean = before.mean((1, 2), keepdim=True)
            assert relative_error(contrast - mean, factor * (before - mean)) < 1e-4
        luma = (before @ grey)[..., None]
        assert relative_error(saturated - luma, factor * (before - luma)) < 1e-4
    sigmas = calculate_sigmas(model.get_model_object("model_sampling"), "simple", 10)
    p, m = shares(sigmas, "flat")
    assert math.isclose(float((1 + gains(p, m, factor) * m).prod()), factor, rel_tol=1e-4)
    assert not math.isclose(float((1 + (factor - 1) * p * m).prod()), factor, rel_tol=5e-3)


def test_no_saturation_leaves_a_hundredth_and_no_nan():
    latent_format = FORMATS["SD15"]
    model = still(latent_format)
    for settings in ({"saturation": 0.0}, {"contrast": -1.0}, {"contrast": -5.0}):
        result = sampled(graded(model, **settings))
        assert result.isfinite().all()
        after, before = preview(latent_format, result), preview(latent_format, sampled(model))
        spread = [(x - x.mean(-1 if "saturation" in settings else (1, 2), keepdim=True)).std() for x in (after, before)]
        assert spread[0] < 0.05 * spread[1]


# Runs of other kinds


def test_works_with_every_sampler():
    """Other samplers than euler give more or less than the shift, in its direction."""
    latent_format = FORMATS["SDXL"]
    model = still(latent_format)
    patched = graded(model, **ASKED)
    for name in SAMPLER_NAMES:
        ratio = seen_shift(latent_format, model, patched, sampler=name, steps=6) / SHIFT
        low, high = float(ratio.min()), float(ratio.max())
        assert 0.3 < low <= high < 6, name
        assert name not in ("euler", "ddim") or 0.999 < low <= high < 1.001


def test_other_shares_of_the_steps_depend_on_their_number():
    """1 / steps for each, as the extension's, and all to each, as in a node that adds the shift to every prediction."""
    sampling = still(FORMATS["SDXL"], "eps").get_model_object("model_sampling")
    totals = []
    for steps in (10, 40):
        p, m = shares(calculate_sigmas(sampling, "karras", steps), "flat")
        assert math.isclose(float((p * m).sum()), 1, rel_tol=1e-5)
        totals.append([float(m.sum()) / steps, float(m.sum())])
    for few, many in zip(*totals, strict=True):
        assert max(few, many) > 1.3 * min(few, many)
    assert min(totals[0][1], totals[1][1]) > 2


def test_guidance_does_not_change_the_shift():
    latent_format = FORMATS["SDXL"]
    model = still(latent_format)
    for cfg in (1.0, 7.0):
        assert (seen_shift(latent_format, model, graded(model, **ASKED), cfg=cfg) - SHIFT).abs().max() < 1e-5


def test_a_mask_protects_the_rest():
    latent_format, mask = FORMATS["Flux"], rand(1, 1, 4, 6).round()
    model = still(latent_format)
    shift = seen_shift(latent_format, model, graded(model, **ASKED), mask=mask)
    inside = mask.expand(2, 1, 4, 6).movedim(1, -1)
    assert (shift - SHIFT * inside).abs().max() < 1e-5


def test_a_part_of_a_run_gets_the_whole_shift():
    """As KSampler (Advanced) and img2img run a part: its last sigma, or its first, is another."""
    latent_format = FORMATS["SDXL"]
    model = still(latent_format, "eps")
    sigmas = calculate_sigmas(model.get_model_object("model_sampling"), "karras", 12)
    p, m = shares(sigmas[4:9], "sin")
    assert len(p) == 4
    assert math.isclose(float((p * m).sum()), 1, rel_tol=1e-5)
    shift = seen_shift(latent_format, model, graded(model, **ASKED, schedule="sin"), sigmas=sigmas[4:])
    assert (shift - SHIFT).abs().max() < ROUNDED["eps"]


def test_a_run_that_adds_noise_is_not_graded():
    latent_format = FORMATS["SDXL"]
    model = still(latent_format, "eps")
    sigmas = calculate_sigmas(model.get_model_object("model_sampling"), "karras", 6).flip(0)
    sigmas[0] = 0.0001  # as Flip Sigmas does
    results = [sampled(each, sigmas=sigmas) for each in (model, graded(model, **ASKED, contrast=0.2))]
    assert torch.equal(*results)


def test_nothing_asked_changes_no_bit():
    model = still(FORMATS["SDXL"])
    for rule in ("calibrated", "vectorscope"):
        assert torch.equal(sampled(graded(model, rule=rule)), sampled(model))


def test_brackets_of_other_models_are_calibrated():
    """A gap of 1 is a tenth of the preview's -1 ... 1 and so a twentieth from black to white."""
    latent_format = FORMATS["Wan21"]
    model = still(latent_format)
    (models,) = run_node(GradeBrackets, model=model, count=3, gap=2.0, rule="calibrated")
    assert models[1] is model
    for patched, shift in zip(models, (-0.2, 0.0, 0.2), strict=True):
        assert (seen_shift(latent_format, model, patched) - shift).abs().max() < 1e-5


def test_latents_without_colours_are_refused():
    for name in sorted(set(FORMATS) - set(COLOURED)):
        model = toy_network.patcher(toy_network.Pointwise())
        model.model.latent_format = FORMATS[name]
        with pytest.raises(ValueError, match=rf"Latent Grade: ComfyUI has no preview colours.*\({name}\).*Use a model"):
            graded(model, red=0.1)
    with pytest.raises(ValueError, match="Grade Brackets: the rule vectorscope works with .*Choose the rule cal"):
        run_node(GradeBrackets, model=still(FORMATS["Flux"]))
