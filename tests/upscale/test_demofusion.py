"""DemoFusion Upscale against diffusers' community pipeline, its work counted, and at the edges."""

import math

import comfy.model_base
import comfy.model_patcher
import comfy.sample
import comfy.samplers
import comfy.supported_models
import comfy.utils
import latent_preview
import numpy as np
import pytest
import scipy.ndimage
import torch
from comfy import model_management
from comfy.nested_tensor import NestedTensor
from comfy.patcher_extension import WrappersMP
from comfy.samplers import sampler_object
from comfy_extras.nodes_custom_sampler import SamplerCustom
from comfy_extras.nodes_easycache import EasyCacheNode
from hypothesis import given
from hypothesis import strategies as st

from kit import narrow
from kit.assertions import frozen, relative_error
from kit.golden import GOLDEN
from kit.nodes import run_node
from kit.precision import FACTOR
from kit.tensors import randn
from kit.toy_network import KINDS, Neighbours, Pointwise, patcher
from pentimento.model_patchers.comfyui import kinds, schedule
from pentimento.model_patchers.comfyui.conditioning import Needs, needs
from pentimento.model_patchers.comfyui.schedule import Interval
from pentimento.model_patchers.upscale import demofusion, demofusion_denoiser, iterative_mixing, windows
from pentimento.model_patchers.upscale.demofusion import LADDERS, Settings
from pentimento.nodes.upscale.demofusion import DemoFusion

pytestmark = pytest.mark.usefixtures("one_thread")
SEED = 20  # as make_demofusion.py, and so are the settings of `pipeline`
SIGMAS = torch.tensor([14.0, 6.0, 2.0, 0.5, 0.0])


def stub(kind="eps"):
    return patcher(Neighbours(), kind)


@pytest.fixture(scope="module")
def sdxl(precision):
    return narrow.host_model("sdxl", precision.dtype)


def upscale(model, latent, sampler="euler", sigmas=SIGMAS, seed=SEED, prompts=None, **settings):
    """The latents of all phases."""
    latent = latent if isinstance(latent, dict) else {"samples": latent}
    sampler = sampler_object(sampler) if isinstance(sampler, str) else sampler
    chosen = Settings(**{"window": 64, "overlap": 24, "jitter": False} | settings)._asdict()
    positive, negative = prompts or [[[torch.zeros(1, 1, 8), {}]]] * 2
    inputs = {"positive": positive, "negative": negative, "sampler": sampler, "sigmas": sigmas, "latent": latent}
    result, found = run_node(DemoFusion, model=model, **inputs, noise_seed=SEED if seed is None else seed, **chosen)
    assert result is found[-1]
    return [each["samples"] for each in found]


def picture(batch=1, height=8, width=8, channels=4, seed=3):
    """A smooth one."""
    small = randn(batch, channels, 3, 3, seed=seed)
    return torch.nn.functional.interpolate(small, size=(height, width), mode="bicubic")


# the pipeline


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "demofusion.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


def pipeline(model, golden, last):
    """The largest differences from the pipeline in phases 2 ... last."""
    latent = model.model.process_latent_out(golden["phase 1"])
    prompts = narrow.sdxl_prompts(width=144, height=192)  # the final size, which the pipeline names in all phases
    found = upscale(model, latent, sigmas=golden["sigmas"], prompts=prompts, scale=last, skip_below=0)
    assert torch.equal(found[0], latent)
    return [
        relative_error(model.model.process_latent_in(found[i - 1]), golden[f"phase {i}"]) for i in range(2, last + 1)
    ]


def tolerances(golden, precision, float32):
    """How far phases 2 and 3 may be off: in half precision, as `Precision.tolerance` has it."""
    return FACTOR * golden[f"{precision.name} errors"] if precision.is_half else torch.full((2,), float32)


@pytest.mark.both_devices
@pytest.mark.in_half
def test_phases_are_the_pipelines(sdxl, golden, precision):
    before = frozen(sdxl)
    assert (torch.tensor(pipeline(sdxl, golden, 3)) < tolerances(golden, precision, 1e-5)).all()
    assert frozen(sdxl) == before


@pytest.mark.in_half
def test_x0_form_without_what_the_blur_took_is_another(sdxl, golden, precision, monkeypatch):
    views = demofusion_denoiser.Denoiser.views

    def wrong(self, call, f):
        smooth = demofusion_denoiser.blurred(call.x, self.s, self.sigma * (0.99 * f**self.blur + 0.01))
        return [D - (call.x - smooth) for D in views(self, call, f)]

    monkeypatch.setattr(demofusion_denoiser.Denoiser, "views", wrong)
    assert pipeline(sdxl, golden, 2)[0] > tolerances(golden, precision, 1e-2)[0]


@pytest.mark.in_half
def test_weights_by_the_step_are_others(sdxl, golden, precision, monkeypatch):
    steps = golden["sigmas"][:-1]

    def by_step(_, sigma):
        return 1 - float((steps > sigma.cpu()).sum()) / len(steps)

    monkeypatch.setattr(schedule, "left", by_step)
    assert pipeline(sdxl, golden, 2)[0] > tolerances(golden, precision, 1e-2)[0]


@pytest.mark.in_half
def test_mixing_after_the_step_is_another(sdxl, golden, precision, monkeypatch):
    def late(model, x, sigmas, extra_args, callback, disable):
        sampling = model.inner_model.inner_model.model_sampling
        for sigma, following in zip(sigmas[:-1], sigmas[1:], strict=True):
            D = model(x, sigma.expand(len(x)), **extra_args)
            x = x + (x - D) / sigma * (following - sigma)
            c = iterative_mixing.cosine(schedule.left(sampling, sigma[None])) ** 3
            x = torch.lerp(x, model.latent_image + sigma * model.noise, c)
        return x

    monkeypatch.setattr(demofusion, "iterative_mixing", lambda *_: comfy.samplers.KSAMPLER(late))
    assert pipeline(sdxl, golden, 2)[0] > tolerances(golden, precision, 1e-2)[0]


@pytest.mark.parametrize("s, std", [(2, 0.8), (3, 0.5), (4, 2.0)])
def test_blur_is_scipys_with_the_moments_kept(s, std):
    x = randn(2, 4, 9, 7, seed=1) * torch.tensor([1.0, 5.0]).view(2, 1, 1, 1) + 2
    found = demofusion_denoiser.blurred(x, s, std)
    for ours, each in zip(found, x, strict=True):
        mean, spread = each.mean(), each.std()
        expected = torch.from_numpy(
            scipy.ndimage.gaussian_filter(
                each.numpy(), std, axes=(1, 2), mode="constant", truncate=(s - 1) / std + 1e-6
            )
        )
        assert torch.allclose(ours, (expected - expected.mean()) / expected.std() * spread + mean, atol=1e-5)
    assert torch.allclose(demofusion_denoiser.blurred(x, 1, std), x, atol=1e-5)
    assert torch.allclose(demofusion_denoiser.blurred(x, s, 0.008), x, atol=1e-5), "the narrowest blurs nothing"


# work


class Counter:
    """Instead of the network: how much it was asked to compute."""

    def __init__(self, patcher):
        self.calls, self.sizes = [], []
        self.model = patcher.clone()
        self.model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "counter", self.count)

    def count(self, executor, x, t, context, *args, **kwargs):
        self.calls.append(x.shape[0] * math.prod(x.shape[-2:]))
        self.sizes.append(kwargs.get("y", args[0] if args else None))
        return torch.zeros_like(x)

    def pairs(self, area):
        """Evaluations of both prompts at a window's size."""
        return sum(self.calls) / (2 * area)


@pytest.mark.parametrize(
    "ladder, skip_below, evaluations",
    [
        ("every multiple", 0, [50, 700, 2400, 5650]),
        ("every multiple", 0.05, [50, 605, 2058, 4837]),
        ("doubling", 0.05, [50, 605, 3384]),
    ],
)
def test_work_is_the_published(sdxl, ladder, skip_below, evaluations, bars, monkeypatch):
    """At 1, 2, 3 and 4 times, or without 3."""
    levels = sdxl.get_model_object("model_sampling").sigmas[range(981, 0, -20)]  # of diffusers' 50 steps
    sigmas = torch.cat((levels, torch.zeros(1)))
    counter, counted, sample = Counter(sdxl), [], demofusion.Run.sample

    def counting(*args):
        found = sample(*args)
        counted.append(counter.pairs(64))
        return found

    monkeypatch.setattr(demofusion.Run, "sample", counting)
    settings = {"scale": 4, "phases": ladder, "skip_below": skip_below, "overlap": 32, "jitter": True}
    upscale(counter.model, torch.zeros(1, 4, 8, 8), sigmas=sigmas, prompts=narrow.sdxl_prompts(), **settings)
    assert counted == evaluations
    assert max(counter.calls) <= 2 * windows.MAX_WINDOWS * 64, "more than one batch of windows at once"
    (bar,) = bars
    assert bar.values[-1] == bar.total == 64 * evaluations[-1], "the bar moves by another measure"
    assert bar.values == sorted(bar.values)


@pytest.mark.parametrize("name", ["heun", "dpm_2"])
def test_bar_ends_where_it_should_with_several_calls_a_step(bars, name):
    upscale(stub(), torch.zeros(1, 4, 8, 8), name)
    (bar,) = bars
    assert bar.values == sorted(bar.values) and bar.values[-1] == bar.total


def test_previews_are_as_large_as_the_base(bars, monkeypatch):
    monkeypatch.setattr(latent_preview.args, "preview_method", latent_preview.LatentPreviewMethod.Latent2RGB)
    upscale(stub(), torch.zeros(2, 4, 8, 6))
    assert {preview[1].size for preview in bars[-1].previews} == {(6, 8)}
    monkeypatch.setattr(latent_preview.args, "preview_method", latent_preview.LatentPreviewMethod.NoPreviews)
    upscale(stub(), picture())
    assert bars[-1].previews[-1] is None


def test_every_phase_has_sizes_of_its_own(sdxl):
    counter = Counter(sdxl)
    upscale(counter.model, torch.zeros(1, 4, 8, 6), sigmas=SIGMAS, prompts=narrow.sdxl_prompts(), scale=3)
    heights = {tuple(y[0, 1280:1536].tolist()) for y in counter.sizes}
    expected = sdxl.model.embedder(torch.tensor([64.0, 128.0, 192.0]))
    assert heights == {tuple(each.tolist()) for each in expected}


# phases


@given(st.floats(1, 16), st.sampled_from(sorted(LADDERS)))
def test_ladders_rise_to_the_scale(scale, phases_):
    found = Settings(scale=scale, phases=phases_).ladder
    assert found[-1] == scale and found == sorted(set(found))
    assert all(found[0] == 2 and b - a in (1, a) for a, b in zip(found[:-2], found[1:-1], strict=True))
    if phases_ != "one" and scale > 2:
        assert found[0] == 2 and scale - found[-2] <= (1 if phases_ == "every multiple" else found[-2])


def test_ladders_are_the_documented():
    assert Settings(scale=2.5).ladder == [2, 2.5]
    assert Settings(scale=4).ladder == [2, 3, 4]
    assert Settings(scale=8, phases="doubling").ladder == [2, 4, 8]
    assert Settings(scale=5, phases="doubling").ladder == [2, 4, 5]
    assert Settings(scale=3, phases="one").ladder == [3]
    assert Settings(scale=1).ladder == Settings(scale=1, phases="doubling").ladder == [1]


@pytest.mark.parametrize(
    "size, scale, sizes",
    [
        ((8, 8), 1.5, [(8, 8), (12, 12)]),
        ((8, 6), 2.5, [(8, 6), (16, 12), (20, 15)]),
        ((7, 13), 2, [(7, 13), (14, 26)]),
        ((5, 9), 1.1, [(5, 9), (6, 10)]),  # of 5.5 and 9.9
        ((3, 4), 2, [(3, 4), (6, 8)]),  # no larger than a window
        ((8, 8), 1, [(8, 8)]),
        ((12, 20), 3, [(12, 20), (24, 40), (36, 60)]),  # a base larger than a window
    ],
)
def test_sizes(size, scale, sizes):
    model = stub()
    empty = upscale(model, torch.zeros(1, 4, *size), scale=scale)
    assert [tuple(x.shape[-2:]) for x in empty] == sizes
    given = upscale(stub(), picture(1, *size), scale=scale)
    assert [tuple(x.shape[-2:]) for x in given] == sizes + sizes[-1:] * (scale == 1)
    assert all(x.isfinite().all() for x in empty + given)
    computed = model.model.diffusion_model.sizes
    assert computed and all(h <= max(size[0], 8) and w <= max(size[1], 8) for h, w in computed)


@pytest.mark.parametrize("size, expected", [((24, 18), (8, 8)), ((48, 6), (16, 6)), ((24, 60), (8, 20))])
def test_memory_is_asked_for_a_window_or_a_view(size, expected):
    model = windows.attach_denoiser(stub(), Settings(window=64, overlap=24).denoiser(stub(), 2.5, 0))
    (prepare,) = model.get_wrappers(WrappersMP.PREPARE_SAMPLING, windows.KEY)
    assert prepare(lambda model, shape: shape, None, (2, 4, *size)) == [2, 4, *expected]


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_models(kind):
    model = stub(kind)
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", 4)
    channels, frames = KINDS[kind][2], (1,) * (kind == "video")
    found = upscale(model, torch.zeros(1, 4, 8, 6), sigmas=sigmas)  # with channels as other models have them
    assert [tuple(x.shape) for x in found] == [(1, channels, *frames, 8 * k, 6 * k) for k in (1, 2)]
    again = upscale(model, picture(2, 8, 6, channels).view(2, channels, *frames, 8, 6), sigmas=sigmas)
    assert again[-1].shape == (2, channels, *frames, 16, 12)
    assert all(x.isfinite().all() for x in found + again)


@pytest.mark.parametrize("kind", ["eps", "v", "flow"])
def test_a_pointwise_network_knows_no_views(kind):
    """Where each value is computed alone, windows and views must change nothing: v of what is sampled and no blur."""
    model, channels = patcher(Pointwise(), kind), KINDS[kind][2]
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", 6)
    latent = picture(1, 8, 6, channels)
    found = upscale(model, latent, sigmas=sigmas, sigma=0.01, skip_below=0)[-1]
    large = demofusion.resized(latent, (16, 12))
    sampler = iterative_mixing.iterative_mixing(sampler_object("euler"), 3, Interval(0, 1))
    plain = custom(model, large, sampler, sigmas, SEED + 1)
    assert relative_error(found, demofusion_denoiser.renormalised(plain, demofusion_denoiser.moments(latent))) < 1e-4


def custom(model, latent, sampler, sigmas, seed):
    """ComfyUI's own node."""
    prompts = [[[torch.zeros(1, 1, 8), {}]]] * 2
    latent = latent if isinstance(latent, dict) else {"samples": latent}
    return SamplerCustom.execute(model, True, seed, 7.5, *prompts, sampler, sigmas, latent).result[0]["samples"]


@pytest.mark.parametrize("name", ["euler", "euler_ancestral", "dpmpp_2m_sde"])
def test_the_base_is_plain_sampling(name):
    latent = {"samples": torch.zeros(2, 4, 8, 6), "batch_index": [1, 3], "downscale_ratio_spacial": 8}
    found = upscale(stub(), latent, name)
    assert torch.equal(found[0], custom(stub(), latent, sampler_object(name), SIGMAS, SEED))


def test_a_held_sampler_is_free_in_the_base():
    held = iterative_mixing.iterative_mixing(sampler_object("euler"), 0.5, Interval(0, 1))
    ours, plain = (upscale(stub(), torch.zeros(1, 4, 8, 8), sampler) for sampler in (held, "euler"))
    assert all(map(torch.equal, ours, plain))


@pytest.mark.parametrize("window", [64, 512])
def test_one_window_is_the_whole(window):
    """Where the views do not count, and a window holds all, the phase is ComfyUI's run with a held sampler."""
    latent, sigmas = picture(), torch.tensor([3.0, 1.0, 0.3, 0.0])
    found = upscale(stub(), latent, sigmas=sigmas, scale=1, window=window, dilated=100, skip_below=0.5)[-1]
    held = iterative_mixing.iterative_mixing(sampler_object("euler"), 3, Interval(0, 1))
    plain = custom(stub(), demofusion.resized(latent, (8, 8)), held, sigmas, SEED + 1)
    assert torch.equal(found, demofusion_denoiser.renormalised(plain, demofusion_denoiser.moments(latent)))


def test_later_phases_begin_later():
    counted = [len(Settings(start=start).later(torch.linspace(9, 0, 11))) - 1 for start in (1, 0.7, 0.34, 0.01)]
    assert counted == [10, 7, 3, 1]
    assert Settings(start=0.7).later(torch.linspace(10, 0, 11))[0] == 7
    settings = Settings(start=0.5, scale=3)
    planned = demofusion.plan(stub(), sampler_object("euler"), SIGMAS, SEED, settings, torch.zeros(1, 4, 8, 8))
    assert [phase.sigmas.tolist() for phase in planned] == [SIGMAS.tolist()] + [[2, 0.5, 0]] * 2
    assert upscale(stub(), torch.zeros(1, 4, 8, 8), start=0.5)[-1].isfinite().all()


# batches, seeds, other patches


def test_a_batch_is_its_pictures():
    latent = picture(2) * torch.tensor([1.0, 4.0]).view(2, 1, 1, 1) + torch.tensor([0.0, 2.0]).view(2, 1, 1, 1)
    settings = {"scale": 2.5, "jitter": True}
    both = upscale(stub(), {"samples": latent, "batch_index": [0, 1]}, **settings)
    for i in (0, 1):
        alone = upscale(stub(), {"samples": latent[i : i + 1], "batch_index": [i]}, **settings)
        assert all(relative_error(ours[i : i + 1], theirs) < 1e-5 for ours, theirs in zip(both, alone, strict=True))


@pytest.mark.parametrize(
    "name", ["euler", "euler_ancestral", "heun", "dpm_2_ancestral", "lms", "dpmpp_2m", "dpmpp_sde", "lcm", "ddim"]
)
@pytest.mark.filterwarnings("ignore:Should have t")
def test_same_seed_same_bits(name):
    first, again, other = (upscale(stub(), torch.zeros(1, 4, 8, 8), name, seed=seed, jitter=True) for seed in (5, 5, 6))
    assert all(map(torch.equal, first, again))
    assert first[-1].isfinite().all() and not torch.equal(first[-1], other[-1])


@pytest.mark.parametrize("name", ["karras", "normal", "sgm_uniform", "beta"])
def test_schedulers(name):
    sigmas = comfy.samplers.calculate_sigmas(stub().get_model_object("model_sampling"), name, 4)
    assert upscale(stub(), torch.zeros(1, 4, 8, 8), sigmas=sigmas)[-1].isfinite().all()


def test_jitter_moves_windows_and_other_phases_otherwise():
    still, moved = (upscale(stub(), picture(), jitter=jitter, overlap=32)[-1] for jitter in (False, True))
    assert not torch.equal(still, moved)
    denoisers = [Settings(overlap=512).denoiser(stub(), 3, seed) for seed in (1, 2)]
    plans = [denoiser.plan.windows(384, 384, sigma) for denoiser in denoisers for sigma in (1.0, 2.0)]
    places = {tuple(window.origin for window in plan) for plan in plans}
    assert len(places) == 4


def test_the_largest_seed_has_a_next():
    assert upscale(stub(), picture(), seed=2**64 - 1, jitter=True)[-1].isfinite().all()


def test_windowed_diffusion_on_the_model_gives_way():
    patched = windows.apply(stub(), "spot", 32, 0, True, 0, 0)
    ours, plain = (upscale(model, picture()) for model in (patched, stub()))
    assert all(map(torch.equal, ours, plain))


def test_easycache_is_refused_where_windows_move():
    model = stub()
    cached = EasyCacheNode.execute(model, 0.2, 0.15, 0.95, False).result[0]
    with pytest.raises(ValueError, match="DemoFusion Upscale moves its windows.*Turn jitter off"):
        upscale(cached, picture(), jitter=True)
    assert upscale(cached, picture())[-1].isfinite().all()


def demofusion_of(model, latent):
    """All phases' latents at the node's defaults."""
    prompts = [[[torch.zeros(1, 1, 8), {}]]] * 2
    return demofusion.demofusion(model, *prompts, sampler_object("euler"), SIGMAS, latent, 7.5, 0, Settings())


def test_settings_are_the_nodes_inputs():
    inputs = {entry.id: entry.default for entry in DemoFusion.GET_SCHEMA().inputs[-len(Settings._fields) :]}
    assert list(inputs.items()) == list(Settings()._asdict().items())


# masks


@pytest.mark.parametrize("mask_size", [(8, 8), (64, 64), (13, 29)])
def test_what_a_mask_keeps_is_the_picture_enlarged(mask_size):
    mask = torch.zeros(1, *mask_size)
    mask[:, :, mask_size[1] // 2 :] = 1
    latent = picture(2)
    found = upscale(stub(), {"samples": latent, "noise_mask": mask}, scale=3)
    assert len(found) == 3
    for x in found[1:]:
        enlarged, width = demofusion.resized(latent, tuple(x.shape[-2:])), x.shape[-1]
        kept, free = slice(0, width // 2 - width // 8), slice(width // 2 + width // 8, None)
        assert relative_error(x[..., kept], enlarged[..., kept]) < 1e-5
        assert relative_error(x[..., free], enlarged[..., free]) > 0.1


def test_a_mask_outside_0_and_1_is_clamped():
    mask = torch.linspace(-0.12, 1.23, 64).expand(1, 64, 64)  # as ComfyUI's bicubic resize makes them
    wild, clamped = (
        upscale(stub(), {"samples": picture(2), "noise_mask": m}, scale=2) for m in (mask, mask.clamp(0, 1))
    )
    assert all(map(torch.equal, wild, clamped))


def test_other_keys_go_along_and_an_empty_ones_ratio_does_not():
    latent = {"samples": torch.zeros(1, 4, 8, 8), "batch_index": [4], "downscale_ratio_spacial": 8, "other": "kept"}
    found = demofusion_of(stub(), latent)
    assert all(each.keys() == {"samples", "batch_index", "other"} for each in found)


# areas and boxes


class Told(Neighbours):
    """Of the text too."""

    def forward(self, x, t, context, **kwargs):
        return super().forward(x, t) + context.mean((1, 2)).view(-1, 1, 1, 1)


def told(value, **values):
    return [torch.full((1, 1, 8), value), values]


# a base of 8 x 12, and areas of it in percent and in latent pixels: height, width, top, left
AREAS = {
    "right half": ((1, 0.5, 0, 0.5), (8, 6, 0, 6)),
    "corner": ((0.5, 0.25, 0.5, 0.75), (4, 3, 4, 9)),
    "beyond the border": ((0.75, 1, 0.5, 0.25), (6, 12, 4, 3)),
}


@pytest.mark.parametrize("scale", [2, 2.5])
@pytest.mark.parametrize("percent, pixels", AREAS.values(), ids=AREAS)
def test_an_area_in_pixels_is_that_in_percent_in_every_phase(percent, pixels, scale):
    """In the base, windows and dilated views, with a strength and beside a mask."""

    def upscaled(area):
        mask = torch.zeros(1, 8, 12)
        mask[:, :4] = 1
        regions = [told(0.7, area=area, strength=0.6), told(-0.5, mask=mask, area=area), told(0.1)]
        prompts = regions, [told(-0.2, area=area), told(0.0)]
        before = frozen(prompts)
        latents = upscale(patcher(Told()), torch.zeros(1, 4, 8, 12), prompts=prompts, scale=scale)
        assert frozen(prompts) == before
        return latents

    ours, theirs = upscaled(pixels), upscaled(("percentage", *percent))
    assert all(map(torch.equal, ours, theirs))
    still = [[told(0.7, area=pixels), told(0.1)], [told(0.0)]]
    moved = upscale(patcher(Told()), torch.zeros(1, 4, 8, 12), prompts=still, scale=scale)
    plain = upscale(patcher(Told()), torch.zeros(1, 4, 8, 12), prompts=[still[0][1:], still[1]], scale=scale)
    assert relative_error(moved[-1], plain[-1]) > 1e-2, "the area does nothing here"


def test_an_area_of_a_frame(monkeypatch):
    """The latent of a frame has five dimensions, and the area has two of them."""
    found, sample_custom = [], comfy.sample.sample_custom

    def look(model, noise, cfg, sampler, sigmas, positive, *args, **kwargs):
        found.append(positive[0][1]["area"])
        return sample_custom(model, noise, cfg, sampler, sigmas, positive, *args, **kwargs)

    monkeypatch.setattr(comfy.sample, "sample_custom", look)
    model = stub("video")
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", 2)
    prompts = [told(0.7, area=(8, 3, 0, 3)), told(0.1)], [told(0.0)]
    result = upscale(model, torch.zeros(1, 16, 1, 8, 6), sigmas=sigmas, prompts=prompts, scale=2)
    assert found == [(8, 3, 0, 3), (16, 6, 0, 6)] and result[-1].isfinite().all()


class Gligen(torch.nn.Module):
    """In place of a GLIGEN: notes the latent's size and the boxes."""

    def __init__(self):
        super().__init__()
        self.noted = []

    def set_position(self, shape, positions, device):
        self.noted.append((tuple(shape[-2:]), *(tuple(box) for _, *box in positions)))
        return lambda x, options: x


@pytest.mark.parametrize("base", ["sampled", "given"])
def test_boxes_of_gligen_cover_the_same_part_in_every_phase(base):
    network = Gligen()
    gligen = comfy.model_patcher.ModelPatcher(network, torch.device("cpu"), torch.device("cpu"))
    right = (torch.zeros(1, 8), 8, 4, 0, 4)  # height, width, top, left
    prompts = [told(0.7, gligen=("position", gligen, [right]))], [told(0.0)]
    latent = torch.zeros(1, 4, 8, 8) if base == "sampled" else picture()

    def noted(window):
        network.noted.clear()
        upscale(stub(), latent, prompts=prompts, scale=2, window=window)
        return set(network.noted)

    first = {((8, 8), (8, 4, 0, 4))}  # of the base, and of views
    assert noted(512) == first | {((16, 16), (16, 8, 0, 8))}
    assert noted(64) == first | {((8, 8),), ((8, 8), (8, 5, 0, 3)), ((8, 8), (8, 8, 0, 0))}  # windows at 0, 5 and 8


# interrupted, refused


@pytest.mark.parametrize("call", [2, 7])
def test_an_interrupt_leaves_nothing_behind(sdxl, call):
    """In the base, and in a later phase."""
    before, calls = frozen(sdxl), []

    def stop(executor, x, *args, **kwargs):
        calls.append(1)
        if len(calls) == call:
            model_management.interrupt_current_processing()
        return torch.zeros_like(x)

    prompts = narrow.sdxl_prompts()
    model = sdxl.clone()
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "stop", stop)
    given = frozen(model)
    with pytest.raises(model_management.InterruptProcessingException):
        upscale(model, torch.zeros(1, 4, 8, 8), prompts=prompts, scale=3, jitter=True)
    assert len(calls) == call
    assert frozen(model) == given and frozen(sdxl) == before
    assert not model_management.processing_interrupted()
    once, fresh = (upscale(each, torch.zeros(1, 4, 8, 8), prompts=prompts) for each in (model, Counter(sdxl).model))
    assert all(map(torch.equal, once, fresh))


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"scale": 0.5}, "scale is 0.5.*1 or more"),
        ({"window": 512, "overlap": 512}, "overlap is 512 px and window 512 px"),
        ({"overlap": 1200}, "overlap is 1200 px and window 1024 px"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        upscale(stub(), picture(), **{"window": 1024, "overlap": 512} | settings)
    given = {"scale": 2.0, "window": 1024, "overlap": 512} | settings
    assert Settings(**settings).problem() == DemoFusion.validate_inputs(**given)
    assert DemoFusion.validate_inputs() is True
    assert DemoFusion.validate_inputs(overlap=2000) is True, "the window comes over a link"


def test_overlap_that_is_a_window_in_latent_pixels():
    with pytest.raises(ValueError, match="overlap is 62 px and window 64 px"):
        upscale(stub(), picture(), window=64, overlap=62)


def test_wrong_samplers_latents_and_conditionings():
    def never(*args, **kwargs):
        raise AssertionError("something was sampled before it was refused")

    model = stub()
    model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, "never", never)
    for name in ("dpm_fast", "dpm_adaptive", "uni_pc"):
        with pytest.raises(ValueError, match=f"DemoFusion Upscale cannot.* {name} "):
            upscale(model, torch.zeros(1, 4, 8, 8), name)
    with pytest.raises(ValueError, match=r"\(1, 16, 5, 8, 8\), of a video"):
        upscale(stub("video"), torch.zeros(1, 16, 5, 8, 8))
    wants = Needs(frozenset({kinds.identify(model).name}), "SD x4 Conditioning", size=(8, 8))
    pictured = needs([[torch.zeros(1, 1, 8), {}]], wants)
    with pytest.raises(ValueError, match="SD x4 Conditioning prepared a picture for a latent of 8 x 8.* 16 x 16"):
        upscale(model, torch.zeros(1, 4, 8, 8), prompts=[pictured, pictured])
    nested = NestedTensor([torch.zeros(1, 4, 8, 8), torch.zeros(1, 4, 20)])
    with pytest.raises(ValueError, match="several latents in one"):
        demofusion_of(model, {"samples": nested})
    with pytest.raises(ValueError, match="sigmas has no steps"):
        upscale(model, picture(), sigmas=torch.zeros(0))
