"""Detail Tuner against CD Tuner's own weights and offsets, and in whole runs."""

import comfy.sample
import comfy.sd
import numpy as np
import pytest
import torch
from comfy import model_management
from comfy.samplers import calculate_sigmas, sampler_object

from kit import golden, kinds, narrow, run, thin, toy_network
from kit.assertions import frozen, relative_error
from kit.nodes import run_node
from kit.tensors import randn
from pentimento.model_patchers.colour.detail_tuner import Moved, Offsets, scales, shift
from pentimento.nodes.colour.detail_tuner import DetailTuner

pytestmark = pytest.mark.usefixtures("one_thread")
MAKER = golden.maker("cdtuner")
GOLDEN = np.load(golden.GOLDEN / "cdtuner.npz")
SET = MAKER.SETTINGS
OFFSETS = Offsets(*(SET[name] for name in ("cont2", "bri", "col1", "col2", "col3")))
UNET = "model.diffusion_model."
FIRST = "diffusion_model.input_blocks.0.0.weight"


def test_weights_are_scaled_as_by_the_extension():
    factors = scales(SET["d1"], SET["d2"])
    changed = {name.removeprefix("before_") for name in GOLDEN.files if name.startswith("before_")}
    changed = {name for name in changed if not np.array_equal(GOLDEN[f"before_{name}"], GOLDEN[f"after_{name}"])}
    assert {name for name in changed if name.startswith(UNET)} == {UNET + name for name in (*factors, "out.2.bias")}
    for name, factor in factors.items():
        before, after = GOLDEN[f"before_{UNET}{name}"], GOLDEN[f"after_{UNET}{name}"]
        assert relative_error(before * factor, after) < 1e-6
        assert relative_error(before * (2 - factor), after) > 1e-2, "the other direction"
        assert relative_error(before * (1 + (factor - 1) / 2), after) > 1e-2, "weight and bias by the same"
    moved = GOLDEN[f"after_{UNET}out.2.bias"] - GOLDEN[f"before_{UNET}out.2.bias"]
    assert np.abs(moved - [0.02 * SET["cont1"], 0, 0, 0]).max() < 1e-6


@pytest.mark.parametrize("model", ["sd", "xl"])
def test_the_prediction_is_moved_as_by_the_extension(model):
    x, theirs = torch.from_numpy(GOLDEN["x"]), GOLDEN[f"{model}_x"]
    assert relative_error(x + shift(OFFSETS, model == "xl")[:, None, None], theirs) < 1e-6
    wrong = {
        "the other model's colours": shift(OFFSETS, model != "xl"),
        "not enlarged": 3 / 20 * shift(OFFSETS, model == "xl"),
        "added": -shift(OFFSETS, model == "xl"),
        "brightness as lightness": shift(OFFSETS._replace(contrast=1.2, brightness=-1.5), model == "xl"),
    }
    for name, offset in wrong.items():
        assert relative_error(x + offset[:, None, None], theirs) > 1e-2, name


# In ComfyUI's models


def tuned(model, **inputs):
    return run_node(DetailTuner, model=model, **inputs)[0]


def loaded(model):
    """The weights that a run computes with."""
    model_management.load_models_gpu([model], force_full_load=True)
    weights = {name: weight.detach().clone() for name, weight in model.model.state_dict().items()}
    model_management.unload_all_models()
    return weights


@pytest.mark.parametrize("kind", ["sd15", "inpaint"])
def test_a_run_computes_with_the_scaled_weights(kind):
    model = thin.host_model(kind)
    before, plain = frozen(model), loaded(model)
    patched = loaded(tuned(model, detail_1=SET["d1"], detail_2=SET["d2"], contrast_1=SET["cont1"]))
    factors = {f"diffusion_model.{name}": factor for name, factor in scales(SET["d1"], SET["d2"]).items()}
    for name, weight in patched.items():
        if name == "diffusion_model.out.2.bias":
            assert torch.allclose(weight - plain[name], torch.tensor([0.02 * SET["cont1"], 0.0, 0.0, 0.0]), atol=1e-6)
        elif name in factors:
            assert relative_error(weight, factors[name] * plain[name]) < 1e-6
        else:
            assert torch.equal(weight, plain[name])
    assert frozen(model) == before


def test_a_lora_before_is_scaled_and_one_after_is_not():
    model = thin.host_model("sd15")
    weight, lora = model.model.state_dict()[FIRST].clone(), randn(320, 4, 3, 3)

    def with_lora(model):
        model = model.clone()
        model.add_patches({FIRST: ("diff", (lora,))}, 0.5)
        return model

    settings = {"detail_1": 10.0}
    assert relative_error(loaded(tuned(with_lora(model), **settings))[FIRST], 0.9 * (weight + 0.5 * lora)) < 1e-5
    assert relative_error(loaded(with_lora(tuned(model, **settings)))[FIRST], 0.9 * weight + 0.5 * lora) < 1e-5
    twice = loaded(tuned(tuned(model, **settings), **settings))[FIRST]
    assert relative_error(twice, 0.81 * weight) < 1e-6


@pytest.mark.both_devices
def test_a_run_with_details_is_that_of_a_model_with_such_weights():
    """Sampled by Euler, with guidance and a batch."""
    settings = {"detail_1": 4.0, "detail_2": -3.0, "contrast_1": 5.0}
    weights = thin.weights("sd2")
    for name, factor in scales(4.0, -3.0).items():
        weights[name] = factor * weights[name]
    weights["out.2.bias"] = weights["out.2.bias"] + torch.tensor([0.1, 0.0, 0.0, 0.0])
    model = thin.host_model("sd2")
    reference = comfy.sd.load_diffusion_model_state_dict(weights)
    sigmas = calculate_sigmas(model.get_model_object("model_sampling"), "normal", 3)
    ours, theirs, plain = (
        run.sample(each, *run.prompts(), randn(2, 4, 8, 12), sigmas, 5.0)
        for each in (tuned(model, **settings), reference, model)
    )
    assert relative_error(ours, theirs) < 1e-4
    assert relative_error(plain, theirs) > 1e-2


# The offsets


def calls(sampler, steps_before_end, steps=6):
    """By how much the prediction was moved in each call of the model."""
    model = toy_network.patcher(toy_network.Pointwise())
    model.set_model_sampler_post_cfg_function(Moved(torch.tensor([1.0, 2.0, 3.0, 4.0]), steps_before_end))
    moved = []
    model.set_model_sampler_post_cfg_function(
        lambda args: moved.append((args["denoised"] - args["cond_denoised"]).mean((0, 2, 3))) or args["denoised"]
    )
    sigmas = calculate_sigmas(model.get_model_object("model_sampling"), "karras", steps)
    conditioning = [[torch.zeros(1, 1, 8), {}]]
    noise = randn(2, 4, 5, 6)
    comfy.sample.sample_custom(
        model, noise, 1.0, sampler_object(sampler), sigmas, conditioning, conditioning, noise * 0
    )
    return torch.stack(moved)


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "euler_ancestral"])
@pytest.mark.parametrize("before", [0, 1, 3])
def test_the_offset_acts_in_one_step(sampler, before):
    moved = calls(sampler, before)
    expected = torch.zeros(6, 4)
    expected[5 - before] = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert torch.allclose(moved, expected, atol=1e-3)


def test_the_offset_acts_in_the_first_step_of_a_shorter_run():
    assert calls("euler", 10, steps=2)[:, 0].round().tolist() == [1, 0]
    assert calls("euler", 0, steps=1)[:, 0].round().tolist() == [1]


def test_both_kinds_of_colours_reach_their_models():
    """Of SDXL, whose COLOURS leave channel 1 to colour_1 and colour_3, and of SD 1.5."""
    for kind in ("sd15", "sdxl"):
        model = tuned(kinds.models()[kind], colour_1=1.0)
        (function,) = model.model_options["sampler_post_cfg_function"]
        expected = [0, -2 / 15, 0, 0] if kind == "sdxl" else [0, -2 / 15, -2 / 15, 0]
        assert function.shift.tolist() == pytest.approx(expected)


def test_nothing_set_patches_nothing():
    model = thin.host_model("sd15")
    patched = tuned(model)
    assert not patched.patches
    assert "sampler_post_cfg_function" not in patched.model_options


def test_other_models_are_refused_by_name():
    for name in ("flux", "x4", "refiner"):
        with pytest.raises(ValueError, match="Detail Tuner works with .*Stable Diffusion 1.5"):
            tuned(kinds.models()[name], detail_1=1.0)
    for name in ("sd2", "unclip_h", "cosxl_edit", "depth"):
        tuned(kinds.models()[name], detail_1=1.0)
    with pytest.raises(ValueError, match="Detail Tuner works with"):
        tuned(narrow.flux(), detail_1=1.0)
