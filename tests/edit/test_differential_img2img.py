"""Differential Img2Img against the authors' loop with diffusers' network and scheduler, and against core's node."""

import functools
import itertools
import types

import comfy.model_base
import comfy.model_patcher
import comfy.sample
import comfy.samplers
import comfy.sd
import comfy.supported_models
import comfy.utils
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from comfy.patcher_extension import WrappersMP
from comfy_extras.nodes_custom_sampler import SamplerCustom
from comfy_extras.nodes_differential_diffusion import DifferentialDiffusion
from hypothesis import given, settings
from hypothesis import strategies as st

import nodes
from kit import thin
from kit.assertions import frozen, relative_error
from kit.nodes import run_node
from kit.run import scheduler
from kit.tensors import rand, randn
from kit.toy_network import KINDS, patcher
from kit.vae import tiny
from pentimento.model_patchers.comfyui.schedule import step as step_of
from pentimento.model_patchers.edit.differential_img2img import RULES, encode, paper, patch
from pentimento.nodes.edit.differential_img2img import DifferentialImg2Img

pytestmark = pytest.mark.usefixtures("one_thread")
SCALE = 0.18215
SEED = 7
SIZES = {"wide": (48, 72), "tall": (72, 40)}
HARD_TO_RUN = {"ar_video"}  # needs an autoregressive video model


@pytest.fixture(scope="module")
def vae(precision):
    return tiny()


@pytest.fixture(scope="module")
def model(precision):
    return thin.host_model("sd15")


@pytest.fixture(scope="module")
def unet():
    return thin.diffusers_unet("sd15")


@pytest.fixture(scope="module")
def context():
    return randn(1, 77, 768, seed=3)


class Denoiser(torch.nn.Module):
    """A network small enough to run every sampler."""

    def __init__(self, channels, dims):
        super().__init__()
        self.dtype = torch.float32
        self.mix = (torch.nn.Conv2d if dims == 2 else torch.nn.Conv3d)(channels, channels, 3, padding=1)
        self.mix.weight.data = randn(*self.mix.weight.shape, seed=4) * 0.2
        self.mix.bias.data.zero_()

    def forward(self, x, t, context=None, **kwargs):
        return torch.tanh(self.mix(x)) + 0.3 * x


def small_model(kind="eps"):
    """ComfyUI's whole sampling path around a tiny network."""
    latent = KINDS[kind][0].latent_format
    return patcher(Denoiser(latent.latent_channels, latent.latent_dimensions), kind)


def small_latent(change, channels=4, batch=1):
    """A LATENT of the map's size, with it as its noise mask."""
    samples = randn(batch, channels, *change.shape[-2:], seed=5)
    return {"samples": samples, "noise_mask": change.reshape(-1, 1, *change.shape[-2:])}


def run(model, latent, steps=6, denoise=1.0, sampler="euler", scheduler="normal", context=None, seed=SEED):
    """KSampler, as a user wires it."""
    conditioning = [[torch.zeros(1, 1, 8) if context is None else context, {}]]
    sampled = nodes.KSampler().sample(
        model, seed, steps, 1.0, sampler, scheduler, conditioning, conditioning, latent, denoise
    )
    return sampled[0]["samples"]


def run_sigmas(model, latent, sigmas, sampler=None, context=None, seed=SEED):
    """SamplerCustom, on a schedule of one's own."""
    conditioning = [[torch.zeros(1, 1, 8) if context is None else context, {}]]
    sampler = sampler or comfy.samplers.sampler_object("euler")
    return SamplerCustom.execute(model, True, seed, 1.0, conditioning, conditioning, sampler, sigmas, latent)[0][
        "samples"
    ]


def picture(height, width, batch=1):
    return rand(batch, height, width, 3, seed=1)


def grey_map(height, width):
    """A map in 8 bits, (1, H, W): cells of the exact fifths of all, 0 and 1 among them, over a slope with grain."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    slope = (200 * x / width + 55 * y / height + 20 * randn(height, width, seed=2)).clamp(0, 255).round()
    return torch.where(y < height // 16 * 8, 51 * ((x // 8 + y // 8) % 6), slope)[None] / 255


# the authors' loop, in diffusers' terms


def euler(spacing="leading"):
    return scheduler(timestep_spacing=spacing, steps_offset=int(spacing == "leading"))


def authors_loop(unet, scheduler, steps, strength, latents, noise, keep, context, total=None, start=None):
    """SD2/diff_pipe.py: what its scheduler, network and masks do, with latents scaled as the network takes them.

    Args:
        keep: (1, H, W), 1 = keep.
        total: Into how many thresholds the map's range is divided. The SD2 pipeline counts the steps that `strength`
            leaves, the SDXL pipelines all.
        start: (B, C, h, w), where free pixels begin, if not where add_noise puts them.
    """
    scheduler.set_timesteps(steps)
    timesteps = scheduler.timesteps[steps - min(int(steps * strength), steps) :]
    total = total or len(timesteps)
    keep = torchvision.transforms.Resize(latents.shape[-2:], antialias=False)(keep)
    masks = keep > (torch.arange(total, dtype=keep.dtype) / total)[:, None, None]
    original_with_noise = [scheduler.add_noise(latents, noise, t.expand(len(latents))) for t in timesteps]
    for i, t in enumerate(timesteps):
        if i == 0:
            x = original_with_noise[0] if start is None else torch.where(masks[0], original_with_noise[0], start)
        else:
            mask = masks[i].to(x.dtype)
            x = original_with_noise[i] * mask + x * (1 - mask)
        noise_pred = unet(scheduler.scale_model_input(x, t), t, context.expand(len(x), -1, -1)).sample
        x = scheduler.step(noise_pred, t, x).prev_sample
    return x


RUNS = [(10, 1.0, 1, "wide"), (10, 0.6, 2, "tall"), (25, 1.0, 1, "tall"), (25, 0.6, 1, "wide")]


def noise_of(latents):
    return comfy.sample.prepare_noise(latents, SEED)


def kept(change):
    """The map as the authors draw it: white = keep, in 8 bits."""
    return (255 - (255 * change).round()) / 255


def moving(change, latents):
    """(B, 1, h, w), what may change at all."""
    return F.interpolate(change[:, None], latents.shape[-2:], mode="bilinear") > 0


@pytest.fixture(scope="module")
def reference(unet, vae, context):
    """Of a run: the picture, its map, its latents and what the authors' loop makes of them."""

    @functools.cache
    def made(steps, strength, batch, size, unet=unet):
        image, change = picture(*SIZES[size], batch), grey_map(*SIZES[size])
        latents = vae.encode(image)
        noise = noise_of(latents)
        result = authors_loop(unet, euler(), steps, strength, latents * SCALE, noise, kept(change), context)
        return image, change, latents, result / SCALE

    return made


def sample(steps, strength, patched, latent, context):
    """KSampler with what the node gives. ddim_uniform has the timesteps of diffusers' `leading`."""
    return run(patched, latent, round(steps * strength), strength, "euler", "ddim_uniform", context)


@pytest.fixture(scope="module")
def tolerance(reference, unet, precision):
    """(float32, case) -> how far the pixels that may change may be from the reference's."""
    lowered = functools.cache(lambda: precision.lowered(unet))

    def of(float32, case):
        _, change, original, expected = reference(*case)
        free = moving(change, original)
        return precision.tolerance(float32, expected, lambda: reference(*case, lowered())[-1], free)

    return of


@pytest.mark.in_half
@pytest.mark.parametrize("case", [*(pytest.param(run, marks=pytest.mark.both_devices) for run in RUNS[:2]), *RUNS[2:]])
def test_paper_is_the_authors_loop(case, reference, model, vae, context, tolerance):
    image, change, original, expected = reference(*case)
    patched, latent = DifferentialImg2Img.execute(model, vae, image, change, "paper").result

    result = sample(*case[:2], patched, latent, context)

    free = moving(change, original)
    assert relative_error(result, expected, free) < tolerance(1e-5, case)
    assert not free.all()
    assert relative_error(result, original, ~free) < 1e-5, "the authors' last step changes even these"


def at(free):
    """A denoise_mask_function of the step, the number of steps and the map."""

    def function(sigma, denoise_mask, extra_options):
        sigmas = extra_options["sigmas"]
        step = (sigmas > sigma[0] * 1.0001).sum()
        return free(step, len(sigmas) - 1, denoise_mask).float()

    return function


WRONG = {
    "core's rule": functools.partial(DifferentialDiffusion.forward, strength=1.0),
    "the authors' own mask, a step late": at(lambda i, t, change: change > 1 - i / t - 1e-6),
    "a step early": at(lambda i, t, change: change > 1 - (i + 2) / t - 1e-6),
    "strict": at(lambda i, t, change: change > 1 - (i + 1) / t + 1e-6),
    "the soft map itself": lambda sigma, denoise_mask, extra_options: denoise_mask,
}


@pytest.mark.in_half
@pytest.mark.parametrize("wrong", WRONG)
def test_other_rules_are_not(wrong, reference, model, vae, context, tolerance):
    image, change, original, expected = reference(*RUNS[0])
    patched = model.clone()
    patched.set_model_denoise_mask_function(WRONG[wrong])

    result = sample(*RUNS[0][:2], patched, encode(vae, image, change), context)

    assert relative_error(result, expected, moving(change, original)) > tolerance(1e-2, RUNS[0])


def test_from_sigma_max_white_pixels_begin_as_the_host_begins(unet, model, vae, context):
    """ComfyUI begins with noise times sqrt(1 + sigma_max^2), the loop with sigma_max."""
    image, change, scheduler = picture(*SIZES["wide"]), grey_map(*SIZES["wide"]), euler("trailing")
    latents = vae.encode(image)
    scheduler.set_timesteps(10)
    sigmas, noise = scheduler.sigmas, noise_of(latents)
    start = latents * SCALE + noise * (1 + sigmas[0] ** 2).sqrt()
    expected = authors_loop(unet, scheduler, 10, 1.0, latents * SCALE, noise, kept(change), context, start=start)
    patched, latent = patch(model, "paper"), encode(vae, image, change)
    function_alone = model.clone()
    function_alone.set_model_denoise_mask_function(patched.model_options["denoise_mask_function"])

    free = moving(change, latents)
    assert relative_error(run_sigmas(patched, latent, sigmas, context=context), expected / SCALE, free) < 1e-5
    assert relative_error(run_sigmas(function_alone, latent, sigmas, context=context), expected / SCALE, free) > 3e-4


def test_counting_all_steps_is_another_map(unet, model, vae, context):
    """The SDXL pipelines divide the map by the steps before `strength`: change from 1 - strength on is all it knows."""
    image, strength = picture(*SIZES["wide"]), 0.6
    latents = vae.encode(image)
    change = rand(1, *latents.shape[-2:], seed=6)
    change = change.repeat_interleave(8, 1).repeat_interleave(8, 2)
    loop = functools.partial(authors_loop, unet, euler(), 10, strength, latents * SCALE, noise_of(latents))
    expected = loop(1 - change, context, total=10) / SCALE
    stretched = (change - (1 - strength)).clamp(min=0) / strength

    result = sample(10, strength, patch(model, "paper"), encode(vae, image, stretched), context)

    assert relative_error(result, expected, moving(stretched, latents)) < 1e-5


# when a pixel is free


def steps_free(function, sigmas, change, sampling=None):
    """In how many of the schedule's steps each value of a map (...) is free."""
    guider = types.SimpleNamespace(inner_model=types.SimpleNamespace(model_sampling=sampling))
    options = {"model": guider, "sigmas": sigmas}
    return sum(function(sigma[None], change[None], extra_options=options)[0] for sigma in sigmas[:-1]).int()


def test_an_8_bit_map_is_cut_where_the_reference_cuts_it():
    """Every grey in every schedule of up to 254 steps, with the change given as a grey and as 1 - keep in float32."""
    grey = torch.arange(1, 256)
    keep = (255 - grey) / 255
    for steps in range(1, 255):
        put_back = (keep > (torch.arange(steps) / steps)[:, None]).sum(0)  # before so many steps, in the loop
        expected = steps - (put_back - 1).clamp(min=0)  # the last of them is a real step
        sigmas = torch.linspace(14, 0, steps + 1)
        for change in (grey / 255, 1 - keep):
            assert torch.equal(paper(sigmas[:-1], change.expand(steps, -1), sigmas).sum(0), expected.float()), steps


def test_the_rounding_of_a_resize_moves_no_pixel_to_another_step():
    grey = torch.arange(256) / 255
    flat = comfy.utils.reshape_mask(grey[:, None, None].expand(-1, 83, 131), (256, 1, 10, 16))
    for steps in (5, 10, 15, 25, 51, 85):
        sigmas = torch.linspace(14, 0, steps + 1)
        expected = steps_free(RULES["paper"], sigmas, grey)
        assert (steps_free(RULES["paper"], sigmas, flat) == expected[:, None, None, None]).all()


def test_almost_white_is_white_and_black_is_never_free():
    sigmas, change = torch.linspace(14, 0, 1001), torch.tensor([1, 254 / 255, 253 / 255, 1e-9, 0])
    assert steps_free(RULES["paper"], sigmas, change).tolist() == [1000, 1000, 993, 1, 0]


@pytest.mark.parametrize("scheduler, timestep", [("karras", [1, 8, 11, 14, 20]), ("sgm_uniform", [0, 4, 9, 15, 20])])
def test_the_rules_differ_with_the_scheduler(scheduler, timestep):
    """A change of 1/4, 1/2 and 3/4 in 20 steps. Karras has few timesteps early, where one step takes many."""
    model, latent = small_model(), small_latent(slope())
    sampling = model.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, scheduler, 20)
    change = torch.arange(5) / 4
    assert steps_free(RULES["paper"], sigmas, change).tolist() == [0, 6, 11, 16, 20]
    assert steps_free(RULES["timestep"], sigmas, change, sampling).tolist() == timestep
    results = [run(patch(model, rule), latent, 20, scheduler=scheduler) for rule in RULES]
    assert relative_error(*results) > 0.05


@settings(max_examples=200)
@given(st.integers(1, 60), st.floats(1e-3, 100), st.floats(0.3, 8), st.integers(0, 2**31), st.booleans())
def test_every_evaluation_belongs_to_the_step_it_lies_in(steps, sigma_max, rho, seed, to_zero):
    ramp = np.linspace(1, 0, steps + 1) if to_zero else np.linspace(1, 0.1, steps + 1)
    sigmas = torch.tensor(sigma_max * ramp**rho, dtype=torch.float32)
    generator = np.random.default_rng(seed)
    step = torch.from_numpy(generator.integers(0, steps, 4))
    between = torch.from_numpy(generator.random(4) * 0.99).float()
    for sigma in (sigmas[step], sigmas[step] * (1 + 2e-7), sigmas[step] * (1 - 2e-7)):
        assert torch.equal(step_of(sigma, sigmas), step)
    assert torch.equal(step_of(sigmas[step].lerp(sigmas[step + 1], between), sigmas), step)
    assert torch.equal(step_of(sigmas[-1:] / 2, sigmas), torch.tensor([steps - 1]))
    assert torch.equal(step_of(sigmas[:1] * 1.4, sigmas), torch.tensor([0]))


def test_each_picture_of_a_batch_may_be_at_its_own_sigma():
    sigmas, change = torch.linspace(1, 0, 11), rand(3, 4, 5, 6, seed=0)
    sigma = sigmas[[1, 4, 9]]
    together = paper(sigma, change, sigmas)
    assert torch.equal(together, torch.cat([paper(sigma[i : i + 1], change[i : i + 1], sigmas) for i in range(3)]))


# with ComfyUI's samplers


@pytest.fixture(scope="module")
def small():
    return small_model()


def slope(height=6, width=12):
    """A map with 0, 1 and all between."""
    return torch.linspace(-0.1, 1.1, width).clamp(0, 1).expand(1, height, width).contiguous()


def watched(model, masks):
    """The model, with what its denoise_mask_function returns put into a list of (sigma, mask)."""
    patched = model.clone()
    function = patched.model_options["denoise_mask_function"]

    def watch(sigma, denoise_mask, extra_options):
        mask = function(sigma, denoise_mask, extra_options=extra_options)
        masks.append((float(sigma[0]), mask))
        return mask

    patched.set_model_denoise_mask_function(watch)
    return patched


def untouched(result, original, sampler, where=None):
    """To rounding, or to the noise that the sampler leaves everywhere because it ends above sigma 0."""
    end = {"uni_pc": 0.001, "uni_pc_bh2": 0.001, "dpm_fast": 0.0292, "dpm_adaptive": 0.0292}.get(sampler, 0)
    return relative_error(result, original, where) < 1e-5 + 4 * end / SCALE / float(original.abs().max())


@pytest.mark.parametrize("sampler", [name for name in comfy.samplers.SAMPLER_NAMES if name not in HARD_TO_RUN])
def test_any_sampler(sampler, small):
    masks, change = [], slope()
    latent = small_latent(change)
    patched = patch(small, "paper")

    result = run(watched(patched, masks), latent, sampler=sampler, scheduler="karras")

    masks.sort(key=lambda pair: -pair[0])  # some samplers look ahead
    free = torch.stack([mask for _, mask in masks])
    assert result.isfinite().all()
    assert ((free == 0) | (free == 1)).all()
    assert (free.diff(dim=-1) >= 0).all(), "the more change, the sooner free"
    assert (free.diff(dim=0) >= 0).all(), "once free, always free"
    counts = free.sum(0)
    assert (counts[..., change[0, 0] == 0] == 0).all()
    assert (counts[..., change[0, 0] == 1] == len(free)).all()
    black = change.expand_as(result) == 0
    assert untouched(result, latent["samples"], sampler, black)
    assert (result - latent["samples"])[~black].abs().min() > 0
    assert torch.equal(run(patched, latent, sampler=sampler, scheduler="karras"), result)


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_sde", "ddim", "uni_pc", "lcm"])
@pytest.mark.parametrize("denoise", [1.0, 0.6])
def test_all_white_is_img2img_and_all_black_the_picture(sampler, denoise, small):
    white, black = small_latent(torch.ones(1, 6, 12), batch=2), small_latent(torch.zeros(1, 6, 12), batch=2)
    plain = run(small, {"samples": white["samples"]}, denoise=denoise, sampler=sampler)
    for rule in RULES:
        assert torch.equal(run(patch(small, rule), white, denoise=denoise, sampler=sampler), plain)
    result = run(patch(small, "paper"), black, denoise=denoise, sampler=sampler)
    assert untouched(result, black["samples"], sampler)


@pytest.mark.both_devices
@pytest.mark.parametrize("sampler", ["euler", "dpm_2", "dpmpp_2m", "dpmpp_sde", "uni_pc"])
@pytest.mark.parametrize("scheduler", ["normal", "karras", "ddim_uniform", "beta"])
def test_timestep_is_cores_bit_for_bit(sampler, scheduler, small):
    core = DifferentialDiffusion.execute(small).result[0]
    for denoise in (1.0, 0.6):
        how = {"denoise": denoise, "sampler": sampler, "scheduler": scheduler}
        assert torch.equal(
            run(patch(small, "timestep"), small_latent(slope()), **how), run(core, small_latent(slope()), **how)
        )


@pytest.mark.parametrize("sampler", ["euler", "ddim"])
def test_a_held_pixel_keeps_one_noise_until_it_is_free_and_then(sampler, small):
    """ddim, as ComfyUI has it, would hold pixels to another noise than it begins with."""
    change, seen = slope(), []

    def watch(executor, x, timestep, *args, **kwargs):
        seen.append((x, timestep[0]))
        return executor(x, timestep, *args, **kwargs)

    patched = patch(small, "paper")
    patched.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "watch", watch)
    run(patched, small_latent(change), steps=10, sampler=sampler)

    original = small_latent(change)["samples"] * SCALE
    noise = torch.stack([(x - original) / sigma for x, sigma in seen])  # (10, 1, 4, H, W)
    first = 10 - steps_free(RULES["paper"], torch.linspace(1, 0, 11), change[0, 0])  # free from this step on
    for column, step in enumerate(first.tolist()):
        held = noise[: step + 1, ..., column]
        assert (held - held[0]).abs().max() < 1e-5
    assert (noise[-1, ..., -1] - noise[0, ..., -1]).abs().max() > 0.1


def test_timestep_is_cores_on_a_part_of_a_schedule_too(small):
    """What ends above the model's lowest sigma is counted to its own end."""
    core = DifferentialDiffusion.execute(small).result[0]
    sigmas = comfy.samplers.calculate_sigmas(small.get_model_object("model_sampling"), "normal", 12)[2:8]
    result = run_sigmas(patch(small, "timestep"), small_latent(slope()), sigmas)
    assert torch.equal(result, run_sigmas(core, small_latent(slope()), sigmas))


FLOWS = {
    "pictures": ("flow", (2, 16, 6, 8)),
    "frames": ("video", (1, 16, 3, 6, 8)),
}


@pytest.mark.parametrize("denoise", [1.0, 0.6])
@pytest.mark.parametrize("flow", FLOWS)
def test_paper_on_flow_models_and_frames(flow, denoise):
    kind, shape = FLOWS[flow]
    model, latents = small_model(kind), randn(*shape, seed=5)
    change = rand(shape[0], 1, *shape[2:], seed=8)

    result = run(patch(model, "paper"), {"samples": latents, "noise_mask": change}, 10, denoise, scheduler="simple")

    base = model.model
    sigmas = comfy.samplers.KSampler(model, 10, None, "euler", "simple", denoise).sigmas
    x0, noise = base.process_latent_in(latents), noise_of(latents)
    noised = [sigma * noise + (1 - sigma) * x0 for sigma in sigmas]
    x = noised[0]
    for i, (sigma, following) in enumerate(itertools.pairwise(sigmas)):
        x = torch.where(1 - change > i / 10, noised[i], x)
        x = x + (x - base.apply_model(x, sigma.expand(len(x)))) / sigma * (following - sigma)
    assert relative_error(result, base.process_latent_out(x)) < 1e-5


def test_part_of_a_schedule_counts_as_one(small):
    """Of a split schedule each part has the map's whole range for its own steps."""
    masks, change = [], slope()
    sigmas = comfy.samplers.calculate_sigmas(small.get_model_object("model_sampling"), "normal", 12)[:7]
    run_sigmas(watched(patch(small, "paper"), masks), small_latent(change), sigmas)
    free = sum(mask for _, mask in masks)[0, 0, 0].int()
    assert torch.equal(free, steps_free(RULES["paper"], torch.linspace(1, 0, 7), change[0, 0]))


# beside other patches


def test_the_base_model_stays_as_it_was(small):
    before = frozen(small)
    plain = run(small, small_latent(slope()))
    for rule in RULES:
        assert not torch.equal(run(patch(small, rule), small_latent(slope())), plain)
    assert torch.equal(run(small, small_latent(slope())), plain)
    assert frozen(small) == before


def test_the_sampler_stays_as_it_was(small):
    """Another branch of the graph may use it."""
    sampler = comfy.samplers.sampler_object("euler")
    before = dict(vars(sampler))
    run_sigmas(patch(small, "paper"), small_latent(slope()), torch.linspace(14, 0, 5), sampler)
    assert vars(sampler) == before


@pytest.mark.parametrize("rule", RULES)
def test_an_earlier_mask_function_sees_the_mask_first(rule, small):
    earlier, latent = small.clone(), small_latent(slope())
    earlier.set_model_denoise_mask_function(lambda sigma, denoise_mask, extra_options: 1 - denoise_mask)
    result = run(patch(earlier, rule), latent, denoise=0.6)
    assert torch.equal(result, run(patch(small, rule), small_latent(1 - slope()), denoise=0.6))
    assert not torch.equal(result, run(patch(small, rule), latent, denoise=0.6))


@pytest.mark.parametrize("rule", RULES)
def test_twice_is_once(rule, small):
    once = patch(small, rule)
    assert torch.equal(run(patch(once, rule), small_latent(slope())), run(once, small_latent(slope())))


def test_without_a_mask_nothing_changes(small):
    latent = {"samples": small_latent(slope())["samples"]}
    assert torch.equal(run(patch(small, "paper"), latent), run(small, latent))


# what goes in


def test_the_node_gives_what_set_latent_noise_mask_gives(vae, small):
    image, change = picture(64, 96), grey_map(64, 96)
    _, latent = run_node(DifferentialImg2Img, model=small, vae=vae, image=image, change_map=change)
    core = nodes.SetLatentNoiseMask().set_mask({"samples": vae.encode(image)}, change)[0]
    assert latent.keys() == core.keys()
    assert all(torch.equal(latent[key], core[key]) for key in core)


def test_a_size_that_is_no_multiple_of_8_is_cropped_with_its_map(vae):
    image, change = picture(70, 83), grey_map(70, 83)
    latent = encode(vae, image, change)
    assert torch.equal(latent["samples"], vae.encode(image[:, 3:67, 1:81]))
    assert torch.equal(latent["noise_mask"], change[:, None, 3:67, 1:81])


def test_transparent_and_grey_pictures(vae):
    image, change = picture(64, 64), grey_map(64, 64)
    rgba = torch.cat((image, torch.zeros(1, 64, 64, 1)), -1)
    assert torch.equal(encode(vae, rgba, change)["samples"], vae.encode(image))
    assert torch.equal(encode(vae, image[..., :1], change)["samples"], vae.encode(image[..., :1].expand(-1, -1, -1, 3)))


def test_pictures_and_maps_are_paired(vae):
    image, change = picture(64, 64, 2), grey_map(64, 64)
    maps = torch.cat((change, 1 - change))
    for pictures, masks in ((image, change), (image[:1], maps), (image, maps)):
        latent = encode(vae, pictures, masks)
        assert torch.equal(latent["samples"], vae.encode(pictures.expand(2, -1, -1, -1)))
        assert torch.equal(latent["noise_mask"], masks[:, None].expand(2, -1, -1, -1))
    with pytest.raises(ValueError, match="change_map is a batch of 3 but image is a batch of 2"):
        encode(vae, image, change.expand(3, -1, -1))


def test_a_dithered_map_of_another_size_keeps_its_tone(vae):
    """The largest value of each cell would turn a mean of 0.5 into 0.94."""
    ramp = torch.linspace(0, 1, 256).expand(1, 256, 256)
    change = encode(vae, rand(1, 64, 64, 3), (rand(1, 256, 256) < ramp).float())["noise_mask"]
    assert abs(float(change.mean()) - 0.5) < 0.01


def test_a_map_of_another_size_is_resized_and_of_other_proportions_refused(vae):
    image, change = picture(64, 96), rand(1, 32, 48, seed=0)
    doubled = change.repeat_interleave(2, 1).repeat_interleave(2, 2)
    assert torch.equal(encode(vae, image, change)["noise_mask"], doubled[:, None])
    assert not encode(vae, image, torch.zeros(1, 64, 64))["noise_mask"].any()
    with pytest.raises(ValueError, match="change_map is 48 x 48 but image is 96 x 64"):
        encode(vae, image, torch.ones(1, 48, 48))


class FrameVAE:
    """What ComfyUI's VAEs of frames give: a time axis, of every fourth frame or of one for each picture."""

    def __init__(self, video):
        self.video = video

    def vae_encode_crop_pixels(self, pixels):
        return pixels

    def encode(self, pixels):
        cells = F.avg_pool2d(pixels.movedim(-1, 1), 8)
        return cells[::4].movedim(0, 1)[None] if self.video else cells[:, :, None]


@pytest.mark.parametrize("video", [True, False])
def test_frames_keep_their_own_maps(video):
    change = torch.cat([torch.full((1, 16, 24), value) for value in (0, 0.2, 0.4, 0.6, 0.8)])
    latent = encode(FrameVAE(video), picture(16, 24, 5), change)
    shape = latent["samples"].shape
    assert shape == ((1, 3, 2, 2, 3) if video else (5, 3, 1, 2, 3))
    seen = comfy.utils.reshape_mask(latent["noise_mask"], shape)
    values = seen[0, 0, :, 0, 0] if video else seen[:, 0, 0, 0, 0]
    expected = F.interpolate(change[None, None, :, 0, 0], 2, mode="linear")[0, 0] if video else change[:, 0, 0]
    assert (values - expected).abs().max() < 1e-6
