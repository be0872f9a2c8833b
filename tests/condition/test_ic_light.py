"""IC-Light against its demo's own way: diffusers' UNet with the offsets added and its forward hooked."""

import functools
import logging

import comfy.model_detection
import comfy.samplers
import comfy.sd
import folder_paths
import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from comfy import model_management
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from comfy_extras.nodes_custom_sampler import SamplerCustom
from diffusers import StableDiffusionPipeline
from PIL import Image

from kit import thin
from kit.assertions import relative_error
from kit.nodes import run_node
from kit.precision import FLOAT32
from kit.run import scheduler
from kit.tensors import rand, randn
from kit.vae import tiny
from pentimento.model_patchers.comfyui.kinds import identify
from pentimento.model_patchers.condition import ic_light
from pentimento.model_patchers.pixels import resample
from pentimento.nodes.condition.ic_light import ICLight, ICLightConditioning
from pentimento_host.standins import diffusion

pytestmark = pytest.mark.usefixtures("one_thread")
FC, FBC = "iclight_sd15_fc.safetensors", "iclight_sd15_fbc.safetensors"
KINDS = {FC: "ip2p", FBC: "ic_light_fbc"}  # the thin networks with as many channels in
FIRST, SCALE, CFG, SEED = "input_blocks.0.0.weight", 0.18215, 3.0, 5


def as_offset(weight):
    return 0.2 * (weight - weight.mean())


def offsets(file):
    """Random offsets on every weight, in Stability's names."""
    return {name: as_offset(weight) for name, weight in thin.weights(KINDS[file], seed=1).items()}


def original(file):
    """The same offsets in diffusers' names, as lllyasviel's files have them."""
    unet = thin.diffusers_unet(KINDS[file], seed=1)
    return {name: as_offset(weight) for name, weight in unet.state_dict().items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """models/diffusion_models with IC-Light's files."""
    folder = tmp_path_factory.mktemp("diffusion_models")
    for file in KINDS:
        safetensors.torch.save_file(original(file), folder / file)
    before = folder_paths.folder_names_and_paths["diffusion_models"]
    folder_paths.folder_names_and_paths["diffusion_models"] = ([str(folder)], before[1])
    yield folder
    folder_paths.folder_names_and_paths["diffusion_models"] = before


@pytest.fixture(scope="module")
def model(precision):
    return thin.host_model("sd15")


@pytest.fixture(scope="module")
def lights(model, folder):
    """The node's output for each file."""
    with torch.inference_mode():
        return {file: ICLight.execute(model, file).result[0] for file in KINDS}


class Vae:
    """Squares of pixels to channels by a fixed mixture: what a VAE is to these nodes."""

    def __init__(self, channels=4, factor=8):
        self.mixture = randn(channels, 3, factor, factor, seed=3) / factor
        self.seen = []

    def mean(self, pixels):
        """pixels: (B, 3, H, W) in [-1, 1]."""
        return F.conv2d(pixels, self.mixture, stride=self.mixture.shape[-1])

    def encode(self, pixels):
        """As ComfyUI's: (B, H, W, 3) in [0, 1]."""
        self.seen.append(pixels * 2 - 1)
        return self.mean(self.seen[-1].movedim(-1, 1))


def photograph(seed, count=1, height=64, width=128):
    """Smooth 8-bit pictures, (B, H, W, 3)."""
    small = rand(count, 3, 6, 9, seed=seed)
    picture = F.interpolate(small, (height, width), mode="bicubic").clamp(0, 1).movedim(1, -1)
    return (picture * 255).to(torch.uint8).numpy()


def image(pictures):
    return torch.from_numpy(pictures).float() / 255


def prompts():
    text = randn(2, 1, 77, 768, seed=4)
    return [[text[0], {}]], [[text[1], {}]]


def condition(foreground, background=None, mask=None, vae=None):
    """The conditioning node's output for pictures of 8 bits."""
    background = None if background is None else image(background)
    return ICLightConditioning.execute(*prompts(), vae or Vae(), image(foreground), background, mask).result


def sample(model, positive, negative, latent, steps=4):
    """SamplerCustom's result in the model's units."""
    sampler = comfy.samplers.sampler_object("euler")
    output = SamplerCustom.execute(model, True, SEED, CFG, positive, negative, sampler, scheduler(steps).sigmas, latent)
    return output.result[0]["samples"] * SCALE


def demo_pixels(pictures):
    """The demo's numpy2pytorch: 127 is 0."""
    return torch.from_numpy(np.asarray(pictures)).float().movedim(-1, 1) / 127.0 - 1.0


def demo_unet(file, precision=FLOAT32):
    """The demo's UNet: the first convolution widened with zeros, offsets added to every weight, forward hooked."""
    unet, added = thin.diffusers_unet("sd15"), original(file)
    wide = torch.nn.Conv2d(added["conv_in.weight"].shape[1], 320, 3, padding=1)
    wide.weight.zero_()
    wide.weight[:, :4] = unet.conv_in.weight
    wide.bias = unet.conv_in.bias
    unet.conv_in = wide
    unet.load_state_dict({name: weight + added[name] for name, weight in unet.state_dict().items()})
    unet = precision.lowered(unet)
    forward = unet.forward

    def hooked(sample, timestep, encoder_hidden_states, cross_attention_kwargs, **others):
        concat = cross_attention_kwargs["concat_conds"]
        concat = torch.cat([concat] * (sample.shape[0] // concat.shape[0]))
        return forward(torch.cat([sample, concat], 1), timestep, encoder_hidden_states, **others)

    unet.forward = hooked
    return unet


def pictures(file, count):
    return photograph(1, count), photograph(2) if file == FBC else None


@pytest.fixture(scope="module")
def demo():
    """(file, count, precision) -> the demo's low-resolution pass on `pictures`, made once each."""
    cached_unet = functools.cache(demo_unet)

    @functools.cache
    def run(file, count, precision=FLOAT32):
        (positive, _), (negative, _) = (prompt[0] for prompt in prompts())
        concat = [Vae().mean(demo_pixels(p)) * SCALE for p in pictures(file, count) if p is not None]
        concat = torch.cat([part.expand(count, -1, -1, -1) for part in concat], 1)
        unet = cached_unet(file, precision)
        pipe = StableDiffusionPipeline(None, None, None, unet, scheduler(), None, None, requires_safety_checker=False)
        pipe.set_progress_bar_config(disable=True)
        sigma = pipe.scheduler.sigmas[0]  # diffusers scales noise by it, ComfyUI by sqrt(1 + sigma^2)
        noise = randn(count, 4, 8, 16, seed=SEED)
        return pipe(
            prompt_embeds=positive.expand(count, -1, -1),
            negative_prompt_embeds=negative.expand(count, -1, -1),
            latents=noise * (1 + sigma**2).sqrt() / pipe.scheduler.init_noise_sigma,
            num_inference_steps=4,
            guidance_scale=CFG,
            height=64,
            width=128,
            cross_attention_kwargs={"concat_conds": concat},
            output_type="latent",
        ).images

    return run


@pytest.mark.both_devices
@pytest.mark.in_half
@pytest.mark.parametrize("file, count", [(FC, 1), (FBC, 2)])
def test_equals_the_demo(file, count, lights, demo, precision):
    result = sample(lights[file], *condition(*pictures(file, count)))

    expected = demo(file, count)
    assert relative_error(result, expected) < precision.tolerance(1e-4, expected, lambda: demo(file, count, precision))


@pytest.mark.both_devices
def test_a_merged_model_of_12_channels_works_too(demo):
    base, added = thin.weights("sd15"), offsets(FBC)
    merged = {name: padded(base[name], added[name]) + added[name] for name in base}
    merged = comfy.sd.load_diffusion_model_state_dict(merged)

    assert relative_error(sample(merged, *condition(*pictures(FBC, 2))), demo(FBC, 2)) < 1e-4
    refused(merged, condition(photograph(1)), "takes a foreground and a background")


def with_concat(prompt, change):
    return [[text, {**values, "noise_concat": change(values["noise_concat"])}] for text, values in prompt]


@pytest.mark.in_half
@pytest.mark.parametrize("wrong", ["unscaled", "prompt alone", "no new channels"])
def test_known_mistakes_show(wrong, model, lights, demo, precision):
    light, (positive, negative, latent) = lights[FC], condition(*pictures(FC, 1))
    if wrong == "unscaled":  # as InstructPix2Pix wants it
        positive, negative = (with_concat(prompt, lambda concat: concat / SCALE) for prompt in (positive, negative))
    elif wrong == "prompt alone":
        negative = with_concat(negative, torch.zeros_like)
    else:
        narrow = offsets(FC)
        narrow[FIRST][:, 4:] = 0
        light = model.clone()
        light.add_patches({f"diffusion_model.{n}": ("diff", [w, {"pad_weight": True}]) for n, w in narrow.items()})

    expected = demo(FC, 1)
    far = precision.tolerance(1e-2, expected, lambda: demo(FC, 1, precision))
    assert relative_error(sample(light, positive, negative, latent), expected) > far


def test_two_foregrounds_are_no_foreground_with_a_background(lights, demo):
    positive, negative, latent = condition(*pictures(FBC, 2))
    flat = torch.cat([part[None] for part in positive[0][1]["noise_concat"][:, :4]], 1)  # as peers flatten a batch
    positive, negative = (with_concat(prompt, lambda _: flat) for prompt in (positive, negative))

    assert relative_error(sample(lights[FBC], positive, negative, latent), demo(FBC, 2)) > 1e-2


def test_a_batch_is_its_pictures_one_by_one(lights):
    foregrounds, backgrounds = photograph(1, 2), photograph(2, 2)
    together = sample(lights[FBC], *condition(foregrounds, backgrounds), steps=2)

    for i in range(2):
        positive, negative, latent = condition(foregrounds[i : i + 1], backgrounds[i : i + 1])
        alone = sample(lights[FBC], positive, negative, {**latent, "batch_index": [i]}, steps=2)
        assert relative_error(alone, together[i : i + 1]) < 1e-5


@pytest.mark.parametrize("foregrounds, backgrounds", [(2, 1), (1, 2)])
def test_one_picture_goes_with_all_of_the_other(foregrounds, backgrounds):
    given = photograph(1, foregrounds), photograph(2, backgrounds)
    repeated = (np.repeat(pictures, 2 // len(pictures), 0) for pictures in given)

    (positive, _, latent), (expected, _, _) = condition(*given), condition(*repeated)

    assert torch.equal(positive[0][1]["noise_concat"], expected[0][1]["noise_concat"])
    assert latent["samples"].shape == (2, 4, 8, 16)


def test_more_latents_than_pictures_take_turns(lights):
    positive, negative, latent = condition(photograph(1, 2))
    four = sample(lights[FC], positive, negative, {"samples": latent["samples"].repeat(2, 1, 1, 1)}, steps=1)
    second = [with_concat(prompt, lambda concat: concat[1:]) for prompt in (positive, negative)]
    alone = sample(lights[FC], *second, {"samples": latent["samples"][:1], "batch_index": [3]}, steps=1)

    assert relative_error(four[3:], alone) < 1e-5


# Weights


@pytest.fixture
def unloaded():
    """No patches of any clone on the weights in memory."""
    model_management.unload_all_models()


def weight(model, name):
    """A weight as ComfyUI makes it when it loads the model."""
    return model.patch_weight_to_device(f"diffusion_model.{name}", torch.device("cpu"), return_weight=True)


def padded(value, like):
    return F.pad(value, (0, 0, 0, 0, 0, like.shape[1] - value.shape[1])) if value.ndim == 4 else value


@pytest.mark.parametrize("file", KINDS)
def test_every_weight_is_the_sum(file, lights, unloaded):
    base, added = thin.weights("sd15"), offsets(file)

    assert lights[file].patches.keys() == {f"diffusion_model.{name}" for name in base}
    for name in base:
        assert torch.equal(weight(lights[file], name), padded(base[name], added[name]) + added[name]), name


@pytest.mark.parametrize("prefix", ["", "diffusion_model.", "model.diffusion_model."])
def test_converted_files_are_the_same(prefix, model, lights, folder, unloaded):
    safetensors.torch.save_file(
        {prefix + name: value for name, value in offsets(FC).items()}, folder / "ldm.safetensors"
    )

    converted = ICLight.execute(model, "ldm.safetensors").result[0]

    for name in offsets(FC):
        assert torch.equal(weight(converted, name), weight(lights[FC], name)), name


def test_offsets_are_added_at_full_precision_and_kept_at_their_own(folder):
    halves = {name: value.half() for name, value in original(FC).items()}
    safetensors.torch.save_file(halves, folder / "half.safetensors")
    half = comfy.sd.load_diffusion_model_state_dict(thin.weights("sd15"), {"dtype": torch.float16})
    base = {name: value.clone() for name, value in half.model.diffusion_model.state_dict().items()}

    light = ICLight.execute(half, "half.safetensors").result[0]

    assert {patches[0][1][1][0].dtype for patches in light.patches.values()} == {torch.float16}
    for name, added in offsets(FC).items():
        exact = padded(base[name].float(), added) + added.half().float()
        assert torch.equal(weight(light, name), exact.half()), name


def test_weights_that_stay_outside_the_gpu_are_widened_as_they_are_used(lights, unloaded):
    """ComfyUI's low-VRAM loading: patches are added in each pass."""
    generator, light = torch.Generator().manual_seed(9), lights[FBC]
    x, text = torch.randn(1, 12, 8, 8, generator=generator), prompts()[0][0][0]
    results = []
    for budget in (0, 1):  # 0: all of it
        light.patch_model(torch.device("cpu"), budget)
        results.append(light.model.diffusion_model(x, torch.tensor([500.0]), text))
        assert bool(light.model.model_lowvram) == bool(budget)
        light.unpatch_model(torch.device("cpu"))

    assert torch.equal(*results)


LORA = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
TO_Q = "input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"


def lora(name, out, into):
    generator = torch.Generator().manual_seed(6)
    up, down = torch.randn(out, 2, generator=generator), torch.randn(2, into, generator=generator)
    return {f"{name}.lora_up.weight": up, f"{name}.lora_down.weight": down}, up @ down


@pytest.mark.both_devices
def test_a_lora_before_or_after_adds_to_the_sum(model, lights, folder, unloaded):
    weights, change = lora(LORA, 320, 320)
    expected = thin.weights("sd15")[TO_Q] + offsets(FC)[TO_Q] + 0.5 * change

    before = ICLight.execute(comfy.sd.load_lora_for_models(model, None, weights, 0.5, 0)[0], FC).result[0]
    after = comfy.sd.load_lora_for_models(lights[FC], None, weights, 0.5, 0)[0]

    for light in (before, after):
        assert torch.allclose(weight(light, TO_Q), expected, atol=1e-5)


def test_a_lora_on_the_first_convolution_goes_before(model, lights, folder, unloaded):
    weights, change = lora("lora_unet_conv_in", 320, 36)
    weights = {
        name: value.reshape(*value.shape, 1, 1) if "up" in name else value.reshape(2, 4, 3, 3)
        for name, value in weights.items()
    }
    base = thin.weights("sd15")[FIRST] + 0.5 * change.reshape(320, 4, 3, 3)

    before = ICLight.execute(comfy.sd.load_lora_for_models(model, None, weights, 0.5, 0)[0], FC).result[0]
    after = comfy.sd.load_lora_for_models(lights[FC], None, weights, 0.5, 0)[0]

    assert torch.allclose(weight(before, FIRST), padded(base, offsets(FC)[FIRST]) + offsets(FC)[FIRST], atol=1e-5)
    sample(before, *condition(photograph(1)), steps=1)
    refused(after, condition(photograph(1)), "Put the LoRA or the merge before IC-Light")


def test_two_lights_in_turn_leave_each_other_and_the_model_alone(model, folder, caplog):
    caplog.set_level(logging.WARNING)
    model_management.unload_all_models()
    options, config = repr(model.model_options), repr(model.model.model_config.unet_config)
    lights = {file: ICLight.execute(model, file).result[0] for file in KINDS}
    runs = {
        "none": lambda: sample(model, *prompts(), {"samples": torch.zeros(1, 4, 8, 16)}, steps=1),
        FC: lambda: sample(lights[FC], *condition(*pictures(FC, 1)), steps=1),
        FBC: lambda: sample(lights[FBC], *condition(*pictures(FBC, 1)), steps=1),
    }
    first = {name: run() for name, run in runs.items()}

    for name in (FC, "none", FBC, FC):
        assert torch.equal(runs[name](), first[name])

    assert not torch.equal(first[FC], first[FBC]) and not torch.equal(first[FC], first["none"])
    model_management.unload_all_models()
    base = thin.weights("sd15")
    for name, value in model.model.diffusion_model.state_dict().items():
        assert torch.equal(value, base[name]), name
    assert (repr(model.model_options), repr(model.model.model_config.unet_config)) == (options, config)
    assert not model.patches and not model.wrappers and not caplog.records


def test_the_kind_of_the_patched_model(lights, model):
    assert [(identify(light).name, identify(light).in_channels) for light in lights.values()] == [
        ("ic-light", 8),
        ("ic-light", 12),
    ]
    assert identify(model).name == "sd15"


# Pictures


def matte(kind):
    mask = torch.zeros(1, 64, 128)
    mask[:, 10:50, 30:90] = 1
    return rand(1, 64, 128, seed=8) * mask if kind == "soft" else mask


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_around_the_foreground_is_the_demos_grey(kind):
    foreground, alpha, vae = photograph(1), matte(kind), Vae()
    condition(foreground, mask=alpha, vae=vae)

    (seen,) = vae.seen
    composite = 127 + (foreground.astype(np.float64) - 127) * alpha.numpy()[..., None]
    assert np.abs(seen.numpy() - (composite / 127 - 1)).max() < 1e-6
    assert (seen[alpha == 0] == 0).all()


def test_alpha_is_the_matte_unless_there_is_a_mask():
    foreground, alpha = image(photograph(1)), matte("soft")
    transparent = torch.cat((foreground, alpha[..., None]), -1)

    def seen(*given):
        vae = Vae()
        ICLightConditioning.execute(*prompts(), vae, given[0], None, *given[1:])
        return vae.seen[0]

    assert torch.equal(seen(transparent), seen(foreground, alpha))
    assert torch.equal(seen(transparent, matte("hard")), seen(foreground, matte("hard")))
    assert not torch.equal(seen(transparent), seen(foreground))


@pytest.mark.parametrize("masked", [False, True])
def test_what_is_not_foreground_may_be_anything(masked):
    """Dividing by an alpha of 0 leaves NaN there."""
    foreground, alpha = image(photograph(1)), matte("soft")
    broken = foreground.masked_fill((alpha == 0)[..., None], torch.nan)

    def seen(colours):
        vae = Vae()
        picture = colours if masked else torch.cat((colours, alpha[..., None]), -1)
        ICLightConditioning.execute(*prompts(), vae, picture, None, alpha if masked else None)
        return vae.seen[0]

    assert torch.equal(seen(broken), seen(foreground))
    broken[0, alpha[0].argmax() // alpha.shape[2], alpha[0].argmax() % alpha.shape[2], 1] = torch.nan
    with pytest.raises(ValueError, match="foreground has NaN or infinity in 1 of its .* alpha channel shows, first in"):
        seen(broken)


def test_grey_pictures_and_a_mask_for_each():
    grey, masks, vae = image(photograph(1))[..., :1], torch.cat((matte("soft"), matte("hard"))), Vae()

    _, _, latent = ICLightConditioning.execute(*prompts(), vae, grey, None, masks).result

    assert torch.equal(vae.seen[0][..., 0], vae.seen[0][..., 2])
    assert latent["samples"].shape == (2, 4, 8, 16)


def demo_fit(picture, width, height):
    """The demo's resize_and_center_crop, of 8 bits."""
    image = Image.fromarray(picture)
    scale = max(width / image.width, height / image.height)
    w, h = int(round(image.width * scale)), int(round(image.height * scale))
    box = ((w - width) / 2, (h - height) / 2, (w + width) / 2, (h + height) / 2)
    return np.array(image.resize((w, h), Image.LANCZOS).crop(box))


@pytest.mark.parametrize("height, width", [(100, 150), (231, 97), (64, 65), (40, 300)])
def test_pictures_are_fitted_as_in_the_demo(height, width):
    picture = photograph(1, 2, height, width)

    fitted = resample.cover(ic_light.signed(image(picture)), 64, 128).clamp(-1, ic_light.FULL_SCALE - 1)

    expected = demo_pixels([demo_fit(p, 128, 64) for p in picture]).movedim(1, -1)
    assert (fitted - expected).abs().max() < 2 / 127  # the demo rounds to 8 bits after each direction
    assert (fitted.roll(1, 2) - expected).abs().max() > 4 / 127
    assert (fitted.roll(1, 1) - expected).abs().max() > 4 / 127


@pytest.mark.parametrize("side, rounded", [(1, 64), (64, 64), (95, 64), (96, 128), (128, 128), (1000, 1024)])
def test_sides_are_multiples_of_64(side, rounded):
    positive, _, latent = condition(photograph(1, height=side, width=64), photograph(2, height=30, width=50))

    assert latent["samples"].shape == (1, 4, rounded // 8, 8)
    assert positive[0][1]["noise_concat"].shape == (1, 8, rounded // 8, 8)


def test_inputs_and_the_global_generator_are_left_alone(model, folder):
    mask = F.interpolate(matte("hard").expand(1, -1, -1)[None], (70, 128))[0]
    pictures = {"foreground": image(photograph(1, height=70)), "background": image(photograph(2))}
    positive, negative = prompts()
    state = torch.get_rng_state()

    positive, negative, _ = run_node(
        ICLightConditioning, positive=positive, negative=negative, vae=tiny(), **pictures, foreground_mask=mask
    )

    assert torch.equal(positive[0][1]["noise_concat"], negative[0][1]["noise_concat"])
    assert torch.equal(torch.get_rng_state(), state)


# Refusals


def refused(model, wired, message):
    """Sampling stops with this message before the network is asked."""
    model = model.clone()
    model.add_wrapper(WrappersMP.APPLY_MODEL, lambda *_, **__: pytest.fail("the network was asked"))
    with pytest.raises(ValueError, match=message):
        sample(model, *wired)


def bare(kind):
    """A model of another kind, without its weights."""
    names = diffusion.unet_shapes(diffusion.UNETS[kind])
    shapes = {f"model.diffusion_model.{name}": torch.empty(size, device="meta") for name, size in names}
    config = comfy.model_detection.model_config_from_unet(shapes, "model.diffusion_model.")
    config.set_inference_dtype(torch.float32, None)
    return ModelPatcher(config.get_model(shapes, "model.diffusion_model.", torch.device("meta")), "cpu", "cpu")


@pytest.mark.parametrize(
    "kind, title",
    [
        ("inpaint", "SD 1.5 Inpainting"),
        ("ip2p", "InstructPix2Pix"),
        ("ic_light_fbc", "IC-Light"),
        ("sd2", "Stable Diffusion 2"),
        ("unclip_h", "unCLIP-H"),
        ("x4", "SD x4 Upscaler"),
        ("sdxl", "SDXL"),
    ],
)
def test_other_models_are_refused(kind, title, folder):
    with pytest.raises(ValueError, match=rf"IC-Light works with Stable Diffusion 1\.5, .* is .*{title}"):
        ICLight.execute(bare(kind), FC)
    if kind != "ic_light_fbc":
        refused(bare(kind), condition(photograph(1)), f"IC-Light Conditioning works with IC-Light, .*{title}")


def test_a_second_file_takes_the_place_of_the_first(model, lights):
    for first, second in ((FC, FC), (FC, FBC), (FBC, FC)):
        before = {name: list(entries) for name, entries in lights[first].patches.items()}
        light = ICLight.execute(lights[first], second).result[0]
        expected = lights[second].patches
        assert light.patches.keys() == expected.keys()
        assert all(len(entries) == 1 for entries in light.patches.values())
        for name, ((_, (_, (offset, _)), *_),) in light.patches.items():
            assert torch.equal(offset, expected[name][0][1][1][0])
        assert identify(light).in_channels == identify(lights[second]).in_channels
        assert {name: list(entries) for name, entries in lights[first].patches.items()} == before


def other_files():
    """(file, weights, message)"""
    yield "whole.safetensors", thin.diffusers_unet("ip2p").state_dict(), r"is a whole UNet \(8 channels in\)"
    yield "ldm.safetensors", thin.weights("inpaint"), r"is a whole UNet \(9 channels in\)"
    yield "lora.safetensors", lora(LORA, 320, 320)[0], "is no IC-Light model: it holds 2 tensors such as 'lora_unet"
    yield "vae.safetensors", {"encoder.conv_in.weight": torch.zeros(128, 3, 3, 3)}, "is no IC-Light model"
    less = {name: value for name, value in original(FC).items() if "mid_block" not in name}
    yield "less.safetensors", less, r"does not fit this model: its 'middle_block.* is missing, the model's is \("
    more = {**original(FC), "down_blocks.1.resnets.0.conv1.weight": torch.zeros(1)}
    yield "more.safetensors", more, r"its 'down_blocks.1.* is \(1,\), the model's is missing"


@pytest.mark.parametrize(
    "file, weights, message", list(other_files()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_other_files_are_refused(file, weights, message, model, folder):
    safetensors.torch.save_file({name: value.contiguous() for name, value in weights.items()}, folder / file)

    with pytest.raises(ValueError, match=f"'{file}' {message}" if message.startswith(("is", "does")) else message):
        ICLight.execute(model, file)


def test_wrong_wiring_is_refused_before_sampling(model, lights):
    alone, both = condition(photograph(1)), condition(photograph(1), photograph(2))
    refused(lights[FBC], alone, "takes a foreground and a background .* Connect one, or choose")
    refused(lights[FC], both, "takes a foreground alone .* Disconnect it, or choose iclight_sd15_fbc")
    refused(model, alone, r"IC-Light Conditioning works with IC-Light, .* is Stable Diffusion 1\.5")
    refused(lights[FC], (alone[0], prompts()[1], alone[2]), "the negative conditioning holds no foreground")
    refused(lights[FC], (*prompts(), alone[2]), "the (positive|negative) conditioning holds no foreground")
    refused(lights[FC], (*alone[:2], {"samples": torch.zeros(1, 4, 16, 16)}), "for a latent of 16 x 8 .* has 16 x 16")
    two, three = condition(photograph(1, 2)), {"samples": torch.zeros(3, 4, 8, 16)}
    refused(lights[FC], (*two[:2], three), "prepared 2 pictures, and a batch of 3 latents is sampled")


@pytest.mark.parametrize(
    "inputs, message",
    [
        ({"background": photograph(2, 3)}, "background is a batch of 3 but foreground is a batch of 2"),
        ({"mask": torch.zeros(1, 64, 64)}, "foreground_mask selects nothing"),
        ({"mask": torch.ones(1, 64, 64)}, "foreground_mask is 64 x 64 but foreground is 128 x 64"),
        ({"mask": torch.ones(3, 64, 128)}, "foreground_mask is a batch of 3 but foreground is a batch of 2"),
        ({"vae": Vae(channels=16)}, r"vae makes \(16, 8, 16\) of a picture of 128 x 64, .* \(4, 8, 16\)"),
        ({"vae": Vae(factor=4)}, r"vae makes \(4, 16, 32\)"),
    ],
)
def test_inputs_that_do_not_go_together(inputs, message):
    with pytest.raises(ValueError, match=message):
        condition(photograph(1, 2), **inputs)


def test_a_transparent_picture_of_nothing():
    with pytest.raises(ValueError, match="The alpha channel of foreground selects nothing"):
        ICLightConditioning.execute(*prompts(), Vae(), torch.zeros(1, 64, 64, 4))


def test_a_matte_of_another_size_is_averaged():
    """A matte says how much of a pixel is foreground: a dither keeps its tone."""
    dither = (rand(1, 64, 64) < 0.5).float()
    grey = ic_light.on_grey(torch.ones(1, 8, 8, 3), dither)
    coverage = dither.unflatten(1, (8, 8)).unflatten(3, (8, 8)).mean((2, 4))
    assert torch.allclose(grey, coverage[..., None] * ic_light.signed(torch.ones(1, 8, 8, 3)), atol=1e-6)
    assert coverage.max() < 1  # where the largest value would be 1
