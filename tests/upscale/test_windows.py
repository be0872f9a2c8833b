"""Windowed Diffusion in whole runs: against MultiDiffusion's loop written out, no windows, and beside other nodes."""

import comfy.hooks
import comfy.sample
import comfy.samplers
import pytest
import torch
from comfy import model_management
from comfy.nested_tensor import NestedTensor
from comfy.patcher_extension import WrappersMP
from comfy_extras.nodes_easycache import EasyCacheNode, LazyCacheNode

from kit import narrow, thin
from kit import run as sampled
from kit.assertions import frozen, relative_error
from kit.run import sample
from kit.tensors import moved, rand, randn
from pentimento.model_patchers.comfyui import kinds
from pentimento.model_patchers.condition import sd_x4
from pentimento.model_patchers.edit.differential_img2img import patch as differential
from pentimento.model_patchers.upscale import windows
from pentimento.nodes.upscale.windows import Windows

pytestmark = pytest.mark.usefixtures("one_thread")
SIGMAS = torch.tensor([14.6146, 5.0, 1.5, 0.0])
CFG = 3.0


@pytest.fixture(scope="module")
def base(precision):
    return narrow.host_model("sd15", precision.dtype)


@pytest.fixture(scope="module")
def exact(base, precision):
    """The same in float32."""
    return narrow.host_model("sd15") if precision.is_half else base


@pytest.fixture(scope="module")
def prompts():
    return [[[randn(1, 7, narrow.WIDTH, seed=seed), {}]] for seed in (1, 2)]


def patch(model, method="average", window=64, overlap=32, jitter=False, seed=0, batch=0):
    """8 pixels of SD 1.5 are one of its latent."""
    return Windows.execute(model, method, window, overlap, jitter, seed, batch).result[0]


def run(model, prompts, latent=(1, 4, 12, 21), sigmas=SIGMAS, **values):
    return sample(model, *prompts, randn(*latent, seed=0), sigmas, CFG, **values)


def with_denoiser(model, denoiser):
    """The model with (x, call) -> x0 for its network."""
    model = model.clone()
    model.set_model_unet_function_wrapper(lambda _, given: denoiser(given["input"], given))
    return model


def levelled(x, _):
    """A denoiser whose result depends on what else is in a window, and that costs nothing."""
    return x - x.mean((-2, -1), keepdim=True)


MOVES = {"average": ("average", False), "gaussian": ("gaussian", False), "jitter": ("gaussian", True)}
MOVES["spot"] = ("spot", False)


def multidiffusion(denoise, x, sigmas, size, stride):
    """Bar-Tal et al., algorithm 1, with Euler's steps: each window makes its step, and steps are averaged.

    Args:
        denoise: (what a window shows, sigma, its slices) -> x0.
    """
    for now, then in zip(sigmas[:-1], sigmas[1:], strict=True):
        value, count = torch.zeros_like(x), torch.zeros_like(x)
        height, width = x.shape[-2:]
        for top in [*range(0, height - size, stride), height - size]:
            for left in [*range(0, width - size, stride), width - size]:
                place = ..., slice(top, top + size), slice(left, left + size)
                part = x[place]
                value[place] += part + (part - denoise(part, now, place)) / now * (then - now)
                count[place] += 1
        x = value / count
    return x


def guided(model, prompts, concatenated=None, y=None):
    """Classifier-free guidance of ComfyUI's network, on a window."""

    def denoise(part, sigma, place):
        device = model_management.get_torch_device()
        more = {} if y is None else {"y": y.expand(len(part)), "c_concat": concatenated[place]}
        values = moved([{"c_crossattn": text.expand(len(part), -1, -1), **more} for ((text, _),) in prompts], device)
        x, t = moved((part, sigma.expand(len(part))), device)
        full, empty = (model.apply_model(x, t, **value).cpu() for value in values)
        return empty + CFG * (full - empty)

    return denoise


@pytest.mark.both_devices
@pytest.mark.in_half
def test_average_is_multidiffusion(base, exact, prompts, precision):
    """Two samples, windows that are moved in to the border, and none left out: 8 x 8 on 12 x 21, stride 4."""
    x = randn(2, 4, 12, 21, seed=0)

    def loop(patcher):
        model_management.load_models_gpu([patcher])
        return multidiffusion(guided(patcher.model, prompts), SIGMAS[0] * x, SIGMAS, 8, 4)

    expected = loop(exact)
    near = precision.tolerance(1e-5, expected, lambda: loop(base))
    assert relative_error(run(patch(base), prompts, x.shape), expected) < near
    assert relative_error(run(patch(base, overlap=0), prompts, x.shape), expected) > max(near, 1e-3)
    assert relative_error(run(patch(base, "gaussian"), prompts, x.shape), expected) > max(near, 1e-3)


@pytest.mark.both_devices
def test_x4_upscales_a_picture_larger_than_its_window():
    """A picture of 9 x 14 to one of 36 x 56, in windows of 32: the noised picture is cut alongside."""
    model, prompts = thin.host_model("x4"), sampled.prompts()
    assert kinds.pixels_per_latent(model) == 4
    image = rand(1, 9, 14, 3, seed=3)
    *conds, latent = sd_x4.condition(*prompts, image, 20, 5)
    x, sigmas = randn(*latent.shape, seed=0), torch.tensor([9.0, 1.0, 0.0])
    found = sample(patch(model, window=32, overlap=12), *conds, x, sigmas, CFG)
    noise = randn(1, 3, 9, 14, seed=5)
    noised = sd_x4.q_sample(2 * image.movedim(-1, 1) - 1, 20, noise)
    for picture, fits in ((noised, True), (noised.roll(1, -1), False)):
        denoise = guided(model.model, prompts, picture, torch.tensor([20]))
        assert (relative_error(found, multidiffusion(denoise, 9 * x, sigmas, 8, 5)) < 1e-5) == fits


@pytest.mark.parametrize("method, jitter", MOVES.values(), ids=MOVES)
def test_one_window_is_no_patch(base, prompts, method, jitter):
    assert torch.equal(run(patch(base, method, 168, 32, jitter), prompts), run(base, prompts))
    model = with_denoiser(base, levelled)
    assert torch.equal(run(patch(model, method, 168, 32, jitter), prompts), run(model, prompts))
    assert not torch.equal(run(patch(model, method, 96, 32, jitter), prompts), run(model, prompts))


@pytest.mark.parametrize("method, jitter", MOVES.values(), ids=MOVES)
def test_an_identity_and_a_constant_stay_what_they_are(base, prompts, method, jitter):
    """To the bit, borders included, for odd sizes and with a time axis."""
    for shape in ((2, 4, 13, 30), (1, 4, 2, 9, 17), (1, 4, 5, 40)):
        for denoiser in (lambda x, _: x, lambda x, _: torch.full_like(x, 0.3)):
            model = with_denoiser(base, denoiser)
            assert torch.equal(run(patch(model, method, jitter=jitter), prompts, shape), run(model, prompts, shape))


def test_any_number_of_windows_in_a_call_gives_the_same(base, prompts):
    rows = []

    def counted(apply, given):
        rows.append(len(given["input"]))
        return apply(given["input"], given["timestep"], **given["c"])

    model = base.clone()
    model.set_model_unet_function_wrapper(counted)
    sigmas = SIGMAS[[0, 2, 3]]
    results = {batch: run(patch(model, batch=batch), prompts, (2, 4, 12, 21), sigmas) for batch in (1, 3, 16, 0)}
    assert max(rows) == 2 * 2 * 10 and min(rows) == 2 * 2, "two prompts of two samples in ten windows"
    assert all(relative_error(found, results[1]) < 1e-5 for found in results.values())


def test_memory_bounds_a_call(base, prompts, monkeypatch):
    """Also what ComfyUI makes free before: for windows, not for the whole."""
    asked, largest = [], []
    required = base.model.memory_required
    monkeypatch.setattr(base.model, "memory_required", lambda shape, **_: asked.append(tuple(shape)) or required(shape))
    two = required([2 * 2, 4, 8, 8]) * windows.MARGIN + 1  # both prompts of two windows
    monkeypatch.setattr(type(base), "get_free_memory", lambda *_: two)
    model = with_denoiser(base, lambda x, _: largest.append(len(x)) or x)
    run(patch(model), prompts)
    assert asked[:2] == [(2, 4, 8, 8), (1, 4, 8, 8)], "ComfyUI's estimates"
    assert max(largest) == 4
    asked.clear()
    run(patch(model, batch=3), prompts)
    assert asked[:2] == [(6, 4, 8, 8), (3, 4, 8, 8)]
    asked.clear()
    run(patch(model, window=128), prompts)
    assert asked[0] == (2, 4, 12, 16)


@pytest.mark.parametrize("method, jitter", [MOVES["jitter"], MOVES["spot"]], ids=["jitter", "spot"])
def test_the_seed_decides_where_windows_lie(base, prompts, method, jitter):
    """The global generator has no say and is not drawn from, and each step has windows of its own."""
    base, before = with_denoiser(base, levelled), torch.random.get_rng_state()
    model = patch(base, method, 64, 40, jitter, seed=1)
    found = run(model, prompts)
    assert torch.equal(found, run(model, prompts))
    assert torch.equal(found, run(patch(base, method, 64, 40, jitter, seed=1), prompts))
    assert not torch.equal(found, run(patch(base, method, 64, 40, jitter, seed=2), prompts))
    assert torch.equal(before, torch.random.get_rng_state())
    plan = windows.Plan(method, 8, 5, jitter, 1)
    first, second = ([window.origin for window in plan.windows(30, 30, sigma)] for sigma in (5.0, 1.5))
    assert first != second


def test_windows_that_stay_have_no_seed(base, prompts):
    base = with_denoiser(base, levelled)
    assert torch.equal(run(patch(base, seed=1), prompts), run(patch(base, seed=2), prompts))


def noted(model):
    """The model, and the noise levels at which its network was called."""
    calls, model = [], model.clone()

    def note(executor, x, *args, **kwargs):
        calls.append(args[-1]["sigmas"][0].item())
        return executor(x, *args, **kwargs)

    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "zz", note)  # inside EasyCache's
    return model, calls


def reusing(model, prompts, computed):
    """Guidance that has its network's results only at the levels in `computed`, and at others adds to what the network
    would get what it added there last, in the same window and for the same prompt.
    """
    added, sampling = {}, model.model_sampling

    def denoise(part, sigma, place):
        results = []
        for ((text, _),) in prompts:
            given, key = sampling.calculate_input(sigma, part), (str(place), id(text))
            if sigma.item() in computed:
                t = sampling.timestep(sigma).float().expand(len(part))
                added[key] = model.diffusion_model(given, t, context=text) - given
            results.append(sampling.calculate_denoised(sigma, given + added[key], part))
        return results[1] + CFG * (results[0] - results[1])

    return denoise


@pytest.mark.parametrize("first", [True, False], ids=["windows first", "cache first"])
def test_easycache(base, prompts, first):
    """With no threshold all is as without it. With one, a step that is left out is left out in all windows, and each
    goes on from what was kept of it and of no other. 4 calls of up to three windows make a step.
    """
    sigmas = torch.linspace(1, 0, 9) ** 2 * 10

    def cached(threshold):
        both = [lambda model: patch(model, batch=3), lambda model: easycache(model, threshold)]
        model = base
        for each in both if first else both[::-1]:
            model = each(model)
        model, calls = noted(model)
        return run(model, prompts, sigmas=sigmas), calls

    found, calls = cached(0.0)
    assert torch.equal(found, run(patch(base, batch=3), prompts, sigmas=sigmas)) and len(calls) == 4 * 8
    found, calls = cached(0.5)
    assert all(calls.count(sigma) == 4 for sigma in calls) and 2 < len(set(calls)) < 8
    start = 10 * randn(1, 4, 12, 21, seed=0)
    assert relative_error(found, multidiffusion(reusing(base.model, prompts, calls), start, sigmas, 8, 4)) < 1e-4


def easycache(model, threshold):
    return EasyCacheNode.execute(model, threshold, 0.0, 1.0, False).result[0]


def test_moving_windows_and_easycache_exclude_each_other(base, prompts):
    easy = easycache(base, 0.2)
    lazy = LazyCacheNode.execute(base, 0.2, 0.0, 1.0, False).result[0]
    for moving in (patch(easy, "spot"), patch(easy, jitter=True)):
        with pytest.raises(ValueError, match="EasyCache on the same model"):
            run(moving, prompts)
    assert run(patch(lazy, "spot"), prompts).isfinite().all()


@pytest.mark.parametrize("first", [True, False], ids=["windows first", "other first"])
def test_other_wrappers_see_the_whole_picture_once_a_step(base, prompts, first):
    """As ELLA and IP2P's guider do, wherever they stand."""
    shapes = []

    def other(model):
        def look(executor, model, conds, x, *args):
            shapes.append(tuple(x.shape))
            return executor(model, conds, x, *args)

        model = model.clone()
        model.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, "other", look)
        return model

    found = run(other(patch(base)) if first else patch(other(base)), prompts)
    assert shapes == [(1, 4, 12, 21)] * 3
    assert torch.equal(found, run(patch(base), prompts))


@pytest.mark.both_devices
def test_a_lora_hooked_to_a_prompt(base, prompts):
    """As strong in windows as one in the model's weights."""
    weights = {"diffusion_model.out.2.weight": ("diff", (0.1 * randn(4, narrow.WIDTH, 3, 3, seed=3),))}
    patched = base.clone()
    patched.add_patches(weights)
    hooks = comfy.hooks.create_hook_lora(weights, 1.0, 0.0)
    hooks.hooks[0].need_weight_init = False  # they are patches already
    hooked = [comfy.hooks.set_hooks_for_conditioning(prompt, hooks) for prompt in prompts]
    found = run(patch(base), hooked)
    assert relative_error(found, run(patch(patched), prompts)) < 1e-5
    assert relative_error(found, run(patch(base), prompts)) > 1e-2


@pytest.mark.both_devices
@pytest.mark.parametrize("first", [True, False], ids=["windows first", "other first"])
def test_an_inpaint_mask_with_a_strength_for_each_pixel(base, prompts, first):
    """Differential Img2Img holds the same pixels, and where the denoiser sees each alone all is as without windows."""
    model = with_denoiser(base, lambda x, _: x.tanh())
    latent, mask = randn(1, 4, 12, 21, seed=4), rand(1, 1, 12, 21, seed=5)
    mask[..., :5] = 0

    def held(model):
        euler = comfy.samplers.sampler_object("euler")
        noise = randn(1, 4, 12, 21, seed=0)
        return comfy.sample.sample_custom(
            model, noise, CFG, euler, SIGMAS, *prompts, latent, noise_mask=mask, disable_pbar=True, seed=7
        )

    both = differential(patch(model, "gaussian"), "paper") if first else patch(differential(model, "paper"), "gaussian")
    found, alone = held(both), held(differential(model, "paper"))
    assert torch.allclose(found, alone, atol=1e-5)
    assert torch.allclose(found[..., :5], latent[..., :5], atol=1e-6)


# What is left behind, and what is refused


def cache(model):
    (wrapper,) = model.get_wrappers(WrappersMP.CALC_COND_BATCH, windows.KEY)
    return wrapper.__self__.cache


def test_nothing_is_left_behind(base, prompts):
    """In the model, in the user's ControlNet, and of the hint that was made as large as the picture."""
    control = narrow.controlnet().set_cond_hint(rand(1, 3, 40, 50, seed=6), 0.9)
    hinted = [[[text, {"control": control}]] for ((text, _),) in prompts]
    before = frozen(base)
    model, seen = patch(base), []
    model.set_model_unet_function_wrapper(
        lambda apply, given: (
            seen.append(len(cache(model).hints)) or apply(given["input"], given["timestep"], **given["c"])
        )
    )
    found = run(model, hinted)
    assert set(seen) == {1} and not cache(model).hints and not cache(model).batches
    assert relative_error(found, run(patch(base), prompts)) > 1e-4
    assert control.cond_hint is None and control.cond_hint_original.shape == (1, 3, 40, 50)
    assert frozen(base) == before


def test_an_interrupt_in_the_middle_of_a_step(base, prompts):
    """Where no layer of ComfyUI's looks out for it, and where one does."""
    control = narrow.controlnet().set_cond_hint(rand(1, 3, 40, 50, seed=6), 0.9)
    hinted = [[[text, {"control": control}]] for ((text, _),) in prompts]
    for given in (prompts, hinted):
        calls = []

        def denoiser(x, _, calls=calls):
            calls.append(len(x))
            if len(calls) == 13:
                model_management.interrupt_current_processing()
            return x

        model = patch(with_denoiser(base, denoiser), batch=1)
        with pytest.raises(model_management.InterruptProcessingException):
            run(model, given)
        assert len(calls) == 13, "no window after it"
        assert not cache(model).hints and not cache(model).batches
        assert torch.equal(run(model, prompts), run(with_denoiser(base, lambda x, _: x), prompts))


def test_a_second_one_takes_the_place_of_the_first(base, prompts):
    twice = patch(patch(base, "spot", 96, 0, seed=4), "gaussian")
    assert torch.equal(run(twice, prompts), run(patch(base, "gaussian"), prompts))


def test_overlap_is_less_than_the_window(base, prompts):
    for method, window, overlap, fine in (
        ("average", 512, 512, False),
        ("gaussian", 512, 520, False),
        ("gaussian", 512, 504, True),
        ("spot", 512, 512, True),
        ("gaussian", None, 512, True),
    ):
        told = Windows.validate_inputs(method=method, window=window, overlap=overlap)
        assert (told is True) == fine
        assert fine or (str(window) in told and str(overlap) in told and "must be smaller" in told)
    with pytest.raises(ValueError, match="must be smaller than the window"):
        patch(base, window=64, overlap=63)


def test_latents_that_are_no_pictures_are_refused(base, prompts):
    pair = NestedTensor((randn(1, 4, 8, 8, seed=0), randn(1, 4, 8, 8, seed=1)))
    euler = comfy.samplers.sampler_object("euler")
    with pytest.raises(ValueError, match="Windowed Diffusion got a latent of shape"):
        comfy.sample.sample_custom(patch(base), pair, CFG, euler, SIGMAS, *prompts, pair, disable_pbar=True, seed=7)
