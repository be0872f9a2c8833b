"""HiDiffusion against its repository's patched UNet, in ComfyUI's UNet with the same weights."""

import logging
from dataclasses import replace
from functools import cache

import comfy.controlnet
import comfy.ops
import comfy.sample
import comfy.samplers
import comfy.supported_models
import comfy.utils
import numpy as np
import pytest
import torch
from comfy import model_management
from comfy.cldm import cldm
from comfy.ldm.modules.diffusionmodules.openaimodel import Upsample
from comfy_extras.nodes_freelunch import FreeU
from comfy_extras.nodes_hypertile import HyperTile
from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete
from comfy_extras.nodes_tomesd import TomePatchModel
from diffusers import UNet2DConditionModel
from torch.nn import functional

from kit import kinds, narrow
from kit.assertions import frozen, relative_error
from kit.golden import GOLDEN, maker
from kit.precision import FLOAT32
from kit.run import prompts
from kit.tensors import rand, randn
from nodes import ControlNetApplyAdvanced
from pentimento.model_patchers.sample import hidiffusion, hidiffusion_unet
from pentimento.model_patchers.sample.hidiffusion import HiDiffusion
from pentimento.model_patchers.upscale import windows

pytestmark = pytest.mark.usefixtures("one_thread")
make = maker("hidiffusion")

SHARED = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "context_dim": make.TEXT,
    "use_spatial_transformer": True,
    "legacy": False,
    "use_temporal_attention": False,
    "use_temporal_resblock": False,
    "dtype": torch.float32,
}
UNETS = {
    "sd15": SHARED
    | {
        "num_res_blocks": [2] * 4,
        "channel_mult": [1, 2, 2, 2],
        "transformer_depth": [1] * 6 + [0] * 2,
        "transformer_depth_output": [1] * 9 + [0] * 3,
        "transformer_depth_middle": 1,
        "use_linear_in_transformer": False,
        "num_heads": 2,
        "adm_in_channels": None,
    },
    "sdxl": SHARED
    | {
        "num_res_blocks": [2] * 3,
        "channel_mult": [1, 2, 2],
        "transformer_depth": [0, 0, 2, 2, 2, 2],
        "transformer_depth_output": [0, 0, 0, 2, 2, 2, 2, 2, 2],
        "transformer_depth_middle": 2,
        "use_linear_in_transformer": True,
        "num_head_channels": 32,
        "num_classes": "sequential",
        "adm_in_channels": make.VECTOR,
    },
}
KINDS = {"sd15": comfy.supported_models.SD15, "sdxl": comfy.supported_models.SDXL}


def unet(kind, precision):
    """A thin UNet with the golden weights, as ComfyUI's model."""
    config = KINDS[kind](UNETS[kind])
    config.unet_config = UNETS[kind]
    config.set_inference_dtype(precision.dtype, None)
    model = config.get_model({})
    shapes = {name: value.shape for name, value in model.diffusion_model.state_dict().items()}
    names = comfy.utils.unet_to_diffusers(UNETS[kind]).items()
    names = {theirs: ours for theirs, ours in names if ours in shapes and not theirs.startswith("add_embedding")}
    weights = make.weights({theirs: shapes[ours] for theirs, ours in names.items()})
    return narrow.patcher(config, {ours: weights[theirs] for theirs, ours in names.items()})


@pytest.fixture(scope="module")
def models(precision):
    return {kind: unet(kind, precision) for kind in UNETS}


@pytest.fixture
def sd15(models):
    """Thin SD 1.5, which is as it was after the test."""
    before = frozen(models["sd15"])
    yield models["sd15"]
    model_management.unload_all_models()
    assert frozen(models["sd15"]) == before


def patched(model, case, **changes):
    family = {"sd15": "sd", "sdxl": "sdxl"}[case.unet]
    settings = HiDiffusion(family, 512, case.raunet, case.windows, case.preset, make.SEED, case.inpainting)
    return hidiffusion.attach_to(model, replace(settings, **changes))


def predicted(model, case, control=None):
    """What the model's network says in a call."""
    model_management.load_models_gpu([model])
    there, dtype = model.load_device, model.model.diffusion_model.dtype
    sigmas = torch.linspace(10, 0, case.of + 1, device=there)
    options = {**model.model_options["transformer_options"], "wrappers": model.wrappers}
    options |= {"sample_sigmas": sigmas, "sigmas": sigmas[[case.step] * case.batch]}
    if case.control:
        down, middle = make.residuals(case)
        control = {"output": down, "middle": [middle]}
    given = make.inputs(case)
    x, text, y = (None if each is None else each.to(there, dtype) for each in (given.x, given.text, given.y))
    control = control and {place: [each.to(there, dtype) for each in values] for place, values in control.items()}
    return model.model.diffusion_model(x, given.t.to(there), text, y, control, options).float().cpu()


def expected(case):
    """What the repository's patched UNet says."""
    with np.load(GOLDEN / "hidiffusion.npz") as golden:
        return torch.from_numpy(golden[case.name])


@cache
def tolerance(case, precision):
    """How far a result may be: in half precision by that of diffusers' own UNet, without HiDiffusion."""
    if not precision.is_half:
        return 1e-5
    theirs = UNet2DConditionModel(**make.UNETS[case.unet]).eval()
    theirs.load_state_dict(make.weights({name: value.shape for name, value in theirs.state_dict().items()}))
    given = make.inputs(case)
    full, low = (
        network(given.x, given.t, given.text, class_labels=given.y).sample
        for network in (theirs, precision.lowered(theirs))
    )
    return precision.tolerance(1e-5, full, lambda: low)


def case_of(name):
    return next(case for case in make.CASES if case.name == name)


# The repository


@pytest.mark.both_devices
@pytest.mark.in_half
@pytest.mark.parametrize("case", make.CASES, ids=lambda case: case.name)
def test_equals_the_repositorys_unet(case, models, precision):
    assert relative_error(predicted(patched(models[case.unet], case), case), expected(case)) < tolerance(
        case, precision
    )


def rows_alone(model, case, patch):
    roll = torch.Tensor.roll
    patch.setattr(torch.Tensor, "roll", lambda x, shifts, dims: roll(x, shifts[0], dims[0]))
    return patched(model, case)


def from_the_other_end(model, case, patch):
    step = hidiffusion.schedule.step
    patch.setattr(hidiffusion.schedule, "step", lambda sigma, sigmas: len(sigmas) - 2 - step(sigma, sigmas))
    return patched(model, case, windows=False)


def upsampled_by(change):
    """Another upsampler than the trained one with its input enlarged to the skip connection."""

    def mistake(model, case, patch):
        model = patched(model, case)
        model.set_model_forward_timestep_embed_patch(
            (Upsample, lambda layer, x, e, c, o, shape, *_: change(layer, x, shape))
        )
        return model

    return mistake


def bicubic(layer, x, shape):
    return layer.conv(functional.interpolate(x, shape[-2:], mode="bicubic"))


def not_doubled(layer, x, shape):
    return functional.interpolate(layer(x), shape[-2:], mode="bicubic")


def pooled_for_stride(model, case, patch):
    """The mean of 2 x 2 in place of every second pixel, as a pooling before the downsampler gives it."""
    pool = hidiffusion_unet.avg_pool2d
    patch.setattr(
        hidiffusion_unet.Halvings,
        "_skip_every_second",
        lambda self, h, options: pool(h, 2, ceil_mode=True) if options["block"] == ("input", self.strided - 1) else h,
    )
    return patched(model, case)


MISTAKES = {
    "a stride of 2": lambda model, case, patch: patched(model, case, raunet=False),
    "a pooling for the stride of 4": pooled_for_stride,
    "T1 from the end": from_the_other_end,
    "an upsampler that doubles once": upsampled_by(not_doubled),
    "a bicubic upsampler": upsampled_by(bicubic),
    "windows moved by rows alone": rows_alone,
    "windows of another seed": lambda model, case, patch: patched(model, case, seed=make.SEED + 1),
    "no windows": lambda model, case, patch: patched(model, case, windows=False),
}


@pytest.mark.in_half
@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("name", ["sd15 2048, step 2 of 10, 1x16x24", "sdxl 2048, step 3 of 25, 1x32x24"])
def test_a_mistake_is_far_from_the_repository(mistake, name, models, precision, monkeypatch):
    case = case_of(name)
    model = MISTAKES[mistake](models[case.unet], case, monkeypatch)
    assert relative_error(predicted(model, case), expected(case)) > max(0.05, tolerance(case, precision))


def test_after_the_last_step_every_bit_is_the_models_own(models):
    for case in (case_of("sd15 2048, step 7 of 10, 1x16x24"), case_of("sdxl 2048, step 10 of 25, 1x32x24")):
        model = models[case.unet]
        assert torch.equal(predicted(patched(model, case, windows=False), case), predicted(model, case))


def test_pictures_of_a_batch_are_as_alone(models):
    case = case_of("sd15 1024, step 3 of 10, 2x16x24")
    both = predicted(patched(models["sd15"], case), case)
    one = case._replace(batch=1)
    assert relative_error(predicted(patched(models["sd15"], one), one), both[:1]) < 1e-5


# Windows


@pytest.mark.parametrize("size", [(8, 12), (9, 12), (8, 11), (5, 7), (1, 3)])
@pytest.mark.parametrize("shift", range(4))
def test_windows_hold_the_tokens_that_the_paper_says(size, shift):
    """By a loop: token (i, j) of window (a, b) is the picture's at (a h + i + s_y, b w + j + s_x), round the edges."""
    (height, width), (h, w) = size, (-(-size[0] // 2), -(-size[1] // 2))
    tokens = torch.arange(height * width)
    cut = hidiffusion_unet.cut(torch.stack((tokens, tokens + 1000))[..., None], size, shift)
    assert cut.shape == (8, h * w, 1)
    for picture, window in np.ndindex(2, 4):
        for i, j in np.ndindex(h, w):
            y = (window // 2 * h + i + h // 4 * shift) % (2 * h)
            x = (window % 2 * w + j + w // 4 * shift) % (2 * w)
            token = min(y, height - 1) * width + min(x, width - 1) + 1000 * picture
            assert cut[4 * picture + window, i * w + j, 0] == token
    assert torch.equal(hidiffusion_unet.join(cut, size, shift)[..., 0], torch.stack((tokens, tokens + 1000)))


def test_odd_sides_are_not_resampled(sd15):
    """An attention that hands its tokens on gives them back to the bit. The repository resizes them to an even side."""
    case = make.Case("sd15", "sd15 1024", 10, 0, (17, 23), raunet=False)
    plain = sd15.clone()
    for block in [("input", n) for n in (1, 2)] + [("output", n) for n in (9, 10, 11)]:
        plain.set_model_attn1_replace(lambda q, k, v, options: v, *block)
    assert torch.equal(predicted(patched(plain, case), case), predicted(plain, case))


def test_every_step_has_shifts_of_its_own_that_the_seed_decides():
    def first(seed, step):
        drawn = hidiffusion.shifts(seed, step)
        return [next(drawn) for _ in range(10)]

    tables = [first(seed, step) for seed in (0, 1, 2**64 - 1) for step in range(20)]
    assert len({tuple(table) for table in tables}) == 60
    assert np.bincount(np.ravel(tables)).tolist() == pytest.approx([150] * 4, abs=50)
    assert first(0, 3) == first(0, 3)


# Other patches

BOTH = case_of("sd15 2048, step 2 of 10, 1x16x24")


def test_a_lora_on_the_downsampler_counts(sd15):
    name, case = "input_blocks.3.0.op.weight", BOTH
    change = 0.1 * randn(*sd15.model.state_dict()[f"diffusion_model.{name}"].shape)
    other = unet("sd15", FLOAT32)
    other.model.diffusion_model.get_parameter(name).data += change
    with_lora = sd15.clone()
    with_lora.add_patches({f"diffusion_model.{name}": ("diff", [change])})
    result = predicted(patched(with_lora, case), case)
    assert relative_error(result, predicted(patched(other, case), case)) < 1e-5
    assert relative_error(result, expected(case)) > 1e-2


@pytest.mark.parametrize("size", [(16, 24), (17, 23)])
@pytest.mark.parametrize("unet", ["sd15", "sdxl"])
def test_residuals_of_every_place_fit(unet, size, models, caplog):
    """A residual that is the same everywhere stays the same in any size: the result says that each was added."""
    case = make.Case(unet, "sd15 2048" if unet == "sd15" else "sdxl 4096", 10, 0, size)
    down, middle = make.residuals(case._replace(control=True))
    control = {
        "input": [torch.ones_like(each) for each in down[::-1]],
        "middle": [torch.ones_like(middle)],
        "output": [torch.ones_like(each) for each in down],
    }
    broadcast = {place: [each[..., :1, :1] for each in values] for place, values in control.items()}
    model = patched(models[unet], case)
    result = predicted(model, case, control)
    assert not caplog.messages  # ComfyUI names residuals that it could not add
    assert relative_error(result, predicted(model, case, broadcast)) < 1e-5
    assert relative_error(result, predicted(model, case)) > 0.05


def hypertile(tile):
    return lambda model: HyperTile.execute(model, tile, 1, 0, False)[0]


PATCHES = {
    "FreeU": lambda model: FreeU.execute(model, 1.1, 1.2, 0.9, 0.2).result[0],
    "HyperTile": hypertile(32),
    "HyperTile of one tile": hypertile(1024),
    "ToMe": lambda model: TomePatchModel.execute(model, 0.3).result[0],
}


@pytest.mark.parametrize("other", PATCHES)
def test_the_order_with_comfyuis_patches_does_not_matter(other, sd15):
    def draw(model):
        torch.manual_seed(0)  # ToMe draws from the global generator
        return predicted(model, BOTH)

    result = draw(PATCHES[other](patched(sd15, BOTH)))
    assert torch.equal(draw(patched(PATCHES[other](sd15), BOTH)), result)
    alone = expected(BOTH)
    if other == "HyperTile of one tile":
        assert relative_error(result, alone) < 1e-5
    else:
        assert relative_error(result, alone) > 1e-2
    if other == "HyperTile":  # which has cut the attention: the windows stand back
        assert torch.equal(draw(PATCHES[other](patched(sd15, BOTH, windows=False))), result)


def test_other_nodes_see_whole_pictures(sd15):
    seen = []
    model = sd15.clone()
    model.set_model_attn1_patch(lambda q, k, v, options: (seen.append(q.shape[:2]), (q, k, v))[1])
    model.set_model_attn1_output_patch(lambda x, options: (seen.append(x.shape[:2]), x)[1])
    predicted(patched(model, BOTH), BOTH)
    assert set(seen[:4]) == {(1, 16 * 24)}
    sizes = []
    model = sd15.clone()
    model.set_model_output_block_patch(
        lambda h, skip, options: (sizes.append((h.shape[-2:], skip.shape[-2:])), (h, skip))[1]
    )
    predicted(patched(model, BOTH), BOTH)
    assert all(h == skip for h, skip in sizes)


# Whole runs


def sampled(model, sampler="euler", scheduler="normal", steps=5, size=(16, 16), batch=2, cfg=3.0, seed=0, prompt=None):
    noise = randn(batch, 4, *size, seed=seed)
    prompt = prompt or prompts(make.TEXT, 7)
    options = {"disable_pbar": True, "seed": seed}
    return comfy.sample.sample(
        model, noise, steps, cfg, sampler, scheduler, *prompt, torch.zeros_like(noise), **options
    )


RUN = make.Case("sd15", "sd15 1024", 5, 0, (16, 16))


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_2s_ancestral", "dpmpp_2m_sde", "uni_pc", "lcm"])
def test_the_steps_are_the_schedules_with_every_sampler(sampler, sd15):
    """RAU-Net holds for the evaluations above the sigma at which step 2 of 5 begins, and for no other."""
    seen = set()

    def see(given):
        options = given["transformer_options"]
        first = float(options["sigmas"][0]) > float(options["sample_sigmas"][2]) * 1.001
        seen.add((first, *given["h"].shape[-2:]))
        return given

    model = patched(sd15, RUN)
    model.set_model_middle_block_after_patch(see)
    assert sampled(model, sampler).isfinite().all()
    assert seen == {(True, 1, 1), (False, 2, 2)}


def test_same_seed_same_bits_and_the_base_model_in_between(sd15):
    model = patched(sd15, RUN)
    plain, result = sampled(sd15, steps=3), sampled(model, steps=3)
    assert torch.equal(sampled(sd15, steps=3), plain)
    assert torch.equal(sampled(model, steps=3), result)
    assert relative_error(result, plain) > 0.05
    assert not torch.equal(sampled(patched(sd15, RUN, seed=1), steps=3), result)


@pytest.mark.parametrize("size", [(4, 5), (9, 16), (31, 8)])
def test_any_size_is_sampled(size, sd15):
    for preset in ("sd15 1024", "sd15 2048"):
        result = sampled(patched(sd15, RUN, preset=preset), size=size, batch=1, cfg=1.0)
        assert result.shape[-2:] == size
        assert result.isfinite().all()


@pytest.mark.parametrize("first", ["windows", "hidiffusion"])
def test_windows_of_the_trained_size_need_no_help(first, sd15):
    """Under Windowed Diffusion, auto sees the size of a window."""

    def windowed(model):
        return windows.apply(model, "average", window=128, overlap=0, jitter=False, seed=0, batch=2)

    def helped(model):
        return patched(model, RUN, preset=hidiffusion.AUTO, native=128)

    order = (windowed, helped) if first == "windows" else (helped, windowed)
    run = {"size": (16, 32), "batch": 1, "steps": 3}
    assert torch.equal(sampled(order[1](order[0](sd15)), **run), sampled(windowed(sd15), **run))
    assert relative_error(sampled(helped(sd15), **run), sampled(sd15, **run)) > 0.05


def controlnet():
    """For the thin SD 1.5, with random weights."""
    network = cldm.ControlNet(hint_channels=3, operations=comfy.ops.disable_weight_init, **UNETS["sd15"])
    network.load_state_dict(make.weights({name: value.shape for name, value in network.state_dict().items()}))
    return comfy.controlnet.ControlNet(network, load_device=model_management.get_torch_device())


def test_a_controlnet_acts_on_every_layer_of_a_size_that_nothing_divides(sd15, caplog):
    apply = ControlNetApplyAdvanced().apply_controlnet
    controlled = apply(*prompts(make.TEXT, 7), controlnet(), rand(1, 104, 152, 3), 1.0, 0.0, 1.0)
    run = {"size": (13, 19), "batch": 1, "steps": 3}
    model = patched(sd15, RUN, preset="sd15 2048")
    result = sampled(model, **run, prompt=controlled)
    assert not [message for message in caplog.messages if "could not be applied" in message]
    assert relative_error(result, sampled(model, **run)) > 0.05
    assert relative_error(result, sampled(sd15, **run, prompt=controlled)) > 0.05


def test_a_chain_of_two_is_the_last(sd15):
    once = patched(sd15, RUN)
    assert torch.equal(predicted(patched(patched(sd15, RUN, seed=3), RUN), RUN), predicted(once, RUN))


# The node


@pytest.mark.parametrize(
    "family, native, size, preset",
    [
        ("sd", 512, (64, 64), None),
        ("sd", 512, (64, 96), None),
        ("sd", 512, (64, 128), "sd15 1024"),
        ("sd", 512, (128, 128), "sd15 1024"),
        ("sd", 512, (255, 400), "sd15 1024"),
        ("sd", 512, (256, 256), "sd15 2048"),
        ("sd", 768, (128, 128), None),
        ("sd", 768, (136, 136), "sd15 1024"),
        ("sdxl", 1024, (128, 128), None),
        ("sdxl", 1024, (256, 256), "sdxl 2048"),
        ("sdxl", 1024, (511, 512), "sdxl 2048"),
        ("sdxl", 1024, (512, 512), "sdxl 4096"),
    ],
)
def test_auto_chooses_by_the_latents_size(family, native, size, preset):
    settings = HiDiffusion(family, native, True, True, hidiffusion.AUTO, 0, False)
    assert settings.choose(size) == preset
    for name in hidiffusion.PRESETS:
        assert replace(settings, preset=name).choose(size) == name


def test_a_size_near_the_trained_one_is_left_alone_to_the_bit_and_said(sd15, caplog):
    model = patched(sd15, RUN, preset=hidiffusion.AUTO, native=128)
    with caplog.at_level(logging.INFO):
        assert torch.equal(sampled(model, steps=1), sampled(sd15, steps=1))
        said = "HiDiffusion does nothing: 128 x 128 pixels are less than twice the area of the model's training"
        assert f"{said}, 128 x 128." in caplog.text
        caplog.clear()
        sampled(model, size=(24, 24), batch=1, steps=1)
    assert "HiDiffusion: preset sd15 1024 for 192 x 192 pixels." in caplog.text


FITTING = {
    "sd15": 512,
    "inpaint": 512,
    "ip2p": 512,
    "ic_light_fc": 512,
    "sd2": 512,
    "depth": 512,
    "unclip_h": 512,
    "sdxl": 1024,
    "sdxl_inpaint": 1024,
    "sdxl_ip2p": 1024,
}


@pytest.mark.parametrize("name", kinds.models())
def test_other_kinds_are_refused_by_name(name):
    model = kinds.models()[name]
    if name in FITTING | {"ic_light_fbc": 0, "sd2_inpaint": 0, "unclip_l": 0, "cosxl": 0, "cosxl_edit": 0}:
        hidiffusion.apply(model, True, True, "auto", 0)
        return
    with pytest.raises(ValueError, match=r"^HiDiffusion works with .*, and the model here is .*\. Load such a model"):
        hidiffusion.apply(model, True, True, "auto", 0)


@pytest.mark.parametrize("name", FITTING)
def test_kinds_have_their_trained_size(name):
    (wrapper,) = hidiffusion.apply(kinds.models()[name], True, True, "auto", 0).wrappers["diffusion_model"][
        hidiffusion.KEY
    ]
    settings = wrapper.__self__
    assert settings.native == FITTING[name]
    assert settings.inpainting == (name == "sdxl_inpaint")


def test_an_sd2_that_predicts_v_was_trained_at_768():
    (model,) = ModelSamplingDiscrete().patch(kinds.models()["sd2"], "v_prediction", False)
    (wrapper,) = hidiffusion.apply(model, True, True, "auto", 0).wrappers["diffusion_model"][hidiffusion.KEY]
    assert wrapper.__self__.native == 768


def test_a_preset_for_another_kind_is_refused():
    with pytest.raises(
        ValueError, match="preset of HiDiffusion is 'sdxl 2048', and the model here is Stable Diffusion 1.5"
    ):
        hidiffusion.apply(kinds.models()["sd15"], True, True, "sdxl 2048", 0)
    with pytest.raises(ValueError, match="Choose sdxl 2048, sdxl 4096, turbo 1024 or auto"):
        hidiffusion.apply(kinds.models()["sdxl"], True, True, "sd15 1024", 0)


def test_neither_part_is_the_model_itself():
    model = kinds.models()["sd15"]
    once = hidiffusion.apply(model, True, True, "auto", 0)
    for off in (hidiffusion.apply(each, False, False, "auto", 0) for each in (model, once)):
        assert hidiffusion.KEY not in off.wrappers.get("diffusion_model", {})
