"""Iterative Mixing Sampler against DemoFusion's loop with diffusers' scheduler, and every sampler of ComfyUI held."""

import math

import comfy.model_base
import comfy.model_patcher
import comfy.model_sampling
import comfy.sample
import comfy.samplers
import comfy.supported_models
import pytest
import torch
from comfy.samplers import KSAMPLER_NAMES, calculate_sigmas, ksampler, sampler_object
from comfy_extras import nodes_advanced_samplers, nodes_ar_video, nodes_custom_sampler
from hypothesis import given, settings
from hypothesis import strategies as st

from kit import run as sampled
from kit.assertions import relative_error
from kit.tensors import rand, randn
from kit.toy_network import KINDS, Pointwise, patcher
from pentimento.model_patchers.comfyui.schedule import Interval, left
from pentimento.model_patchers.edit.differential_img2img import patch
from pentimento.model_patchers.upscale.iterative_mixing import cosine, draws_noise, iterative_mixing, mix
from pentimento.nodes.upscale.iterative_mixing import SkipResidual

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore:Should have t")]
CANNOT = {"dpm_fast", "dpm_adaptive", "uni_pc", "uni_pc_bh2"}
NAMES = sorted({*KSAMPLER_NAMES, "ddim"} - CANNOT)
CONDITIONING = [[torch.zeros(1, 1, 8), {}]]


def stub(kind="eps", denoise=None):
    """A toy model, or one of a function (x, sigma) -> the picture."""
    model = patcher(Pointwise(), kind)
    if denoise is not None:
        model.set_model_unet_function_wrapper(lambda _, call: denoise(call["input"], call["timestep"]))
    return model


def schedule(model, steps=6, scheduler="simple"):
    return calculate_sigmas(model.get_model_object("model_sampling"), scheduler, steps)


def held(sampler="euler", exponent=3.0, start=0.0, end=1.0):
    sampler = sampler_object(sampler) if isinstance(sampler, str) else sampler
    return iterative_mixing(sampler, exponent, Interval(start, end))


def run(model, sampler, noise, latent, sigmas=None, seed=3, mask=None):
    """The latent at the denoiser's scale, from one at that scale."""
    found = comfy.sample.sample_custom(
        model,
        noise,
        1.0,
        sampler_object(sampler) if isinstance(sampler, str) else sampler,
        schedule(model) if sigmas is None else sigmas,
        CONDITIONING,
        CONDITIONING,
        model.model.process_latent_out(latent),
        noise_mask=mask,
        disable_pbar=True,
        seed=seed,
    )
    return model.model.process_latent_in(found)


def pair(kind="eps", batch=1, size=8):
    """Noise and a smooth picture."""
    channels = KINDS[kind][2]
    y, x = torch.meshgrid(torch.linspace(-1, 1, size), torch.linspace(-1, 1, size), indexing="ij")
    picture = torch.stack([torch.sin(3 * x + i) * torch.cos(2 * y - i) for i in range(channels * batch)])
    return randn(batch, channels, size, size, seed=1), 1.5 * picture.view(batch, channels, size, size)


# the schedule of the mix


def test_progress_is_the_timestep_of_diffusers():
    scheduler = sampled.scheduler(50, timestep_spacing="leading", steps_offset=1)
    model_sampling = comfy.model_sampling.ModelSamplingDiscrete()
    ours = [left(model_sampling, sigma[None]) for sigma in scheduler.sigmas[:-1]]
    assert ours == pytest.approx((scheduler.timesteps / 1000).tolist())


def test_weights_are_the_papers():
    model_sampling = comfy.model_sampling.ModelSamplingDiscrete()
    weights = [cosine(left(model_sampling, model_sampling.sigmas[t : t + 1])) ** 3 for t in range(981, 200, -100)]
    assert weights == pytest.approx([0.997, 0.900, 0.696, 0.455, 0.245, 0.104, 0.032, 0.006], abs=6e-4)


@pytest.mark.parametrize("name", ["Discrete", "ContinuousEDM", "ContinuousV", "CosmosRFlow"])
@pytest.mark.parametrize("percent", [0.2, 0.5, 0.9])
def test_progress_is_the_hosts_percent(name, percent):
    model_sampling = getattr(comfy.model_sampling, f"ModelSampling{name}")()
    sigma = torch.tensor([model_sampling.percent_to_sigma(percent)])
    assert left(model_sampling, sigma) == pytest.approx(1 - percent, abs=0.002)


def test_progress_of_a_cascade_and_of_a_flow():
    cascade = comfy.model_sampling.StableCascadeSampling()
    assert left(cascade, torch.tensor([cascade.percent_to_sigma(0.3)])) == pytest.approx(0.7, abs=0.002)
    flow = stub("video").get_model_object("model_sampling")
    assert left(flow, torch.tensor([0.4])) == pytest.approx(0.4)


# the mix


def demofusion(scheduler, network, latent, noise, exponent, by_step=False, late=0):
    """One phase of pipeline_demofusion_sdxl.py in one window: its lines on diffusers' scheduler, with a toy UNet."""
    steps = len(scheduler.timesteps)
    noised = [scheduler.add_noise(latent, noise, t[None]) for t in scheduler.timesteps]
    x = noised[0]
    for i, t in enumerate(scheduler.timesteps):
        cosine_factor = 0.5 * (1 + math.cos(math.pi * (i / steps if by_step else float(1000 - t) / 1000)))
        c1 = cosine_factor**exponent
        x = x * (1 - c1) + noised[max(i - late, 0)] * c1
        x = scheduler.step(network(scheduler.scale_model_input(x, t), t), t, x).prev_sample
    return x


@pytest.mark.both_devices
@pytest.mark.in_half
@pytest.mark.parametrize("exponent", [1.0, 3.0])
def test_euler_is_demofusions_loop(exponent, precision):
    noise, latent = pair(size=16)
    settings = {"timestep_spacing": "leading", "steps_offset": 1}
    model = patcher(Pointwise(), dtype=precision.dtype)
    ours = run(model, held(exponent=exponent), noise, latent, sampled.scheduler(10, **settings).sigmas)

    def loop(network, **wrong):
        return demofusion(sampled.scheduler(10, **settings), network, latent, noise, exponent, **wrong)

    expected = loop(Pointwise())
    near = precision.tolerance(1e-5, expected, lambda: loop(precision.lowered(Pointwise())))
    assert relative_error(ours, expected) < near
    assert relative_error(ours, loop(Pointwise(), by_step=True)) > max(near, 1e-3)
    assert relative_error(ours, loop(Pointwise(), late=1)) > max(near, 1e-2)


@settings(max_examples=40)
@given(r=st.floats(0, 1), c=st.floats(0, 1), sigma=st.floats(0.05, 50), drawn=st.floats(-2, 2))
def test_mix_has_as_much_noise(r, c, sigma, drawn):
    e, other, clean = (randn(2, 4, 64, 64, seed=seed) for seed in (1, 2, 3))
    x = clean + drawn * sigma + sigma * (r * e + (1 - r**2) ** 0.5 * other)
    found = mix(x, clean, clean + sigma * e, c)
    noise = (found - clean) / sigma - (1 - c) * drawn
    assert noise.std().item() == pytest.approx(1, abs=0.02)
    assert (noise * e).mean().item() > (1 - (1 - c) * (1 - r)) - 0.05  # never further from e than the plain sum


@pytest.mark.parametrize("c", [0.0, 0.3, 1.0])
def test_mix_of_one_noise_is_the_plain_sum(c):
    e, clean, drawn = (randn(2, 4, 16, 16, seed=seed).double() for seed in (1, 2, 3))
    x, noised = clean + 3 * e, clean + 3 * e
    assert mix(x, clean, noised, c) == pytest.approx(noised, abs=1e-12)
    drawn -= (drawn * e).sum((1, 2, 3), True) / e.square().sum((1, 2, 3), True) * e  # a picture without noise in it
    assert mix(x + drawn, clean, noised, c) == pytest.approx((1 - c) * (x + drawn) + c * noised, abs=1e-12)


def test_mix_is_of_each_picture_alone():
    x, clean, noised = (randn(3, 4, 8, 8, seed=seed) for seed in (1, 2, 3))
    singles = [mix(x[i : i + 1], clean[i : i + 1], noised[i : i + 1], 0.4) for i in range(3)]
    assert torch.equal(mix(x, clean, noised, 0.4), torch.cat(singles))


# every sampler


def noise_levels(kind, sampler, steps=12):
    """Spread of the noise in what the model is shown over that of the noise level that it is told, call by call.

    The model always answers 0 and the latent is all 1: what is not noise has no spread.
    """
    levels = []
    noise = randn(1, KINDS[kind][2], *((64, 64) if KINDS[kind][2] == 4 else (32, 32)), seed=1)

    def denoise(x, sigma):
        levels.append(float(x.std() / noise.std() / sigma[0]))
        return torch.zeros_like(x)

    model = stub(kind, denoise)
    sigmas = schedule(model, steps, "simple" if kind == "flow" else "karras")
    run(model, sampler, noise, torch.ones_like(noise), sigmas)
    return levels


@pytest.mark.parametrize("kind", ["eps", "flow"])
@pytest.mark.parametrize("name", NAMES)
def test_noise_level_is_right_for_every_sampler(name, kind):
    levels = noise_levels(kind, held(name))
    assert min(levels) > 0.97 and max(levels) < 1.03


@pytest.mark.parametrize("name", ["euler", "heun", "dpm_2", "heunpp2"])
def test_noise_level_is_right_with_churn(name):
    levels = noise_levels("eps", held(ksampler(name, {"s_churn": 6.0})))
    assert min(levels) > 0.97 and max(levels) < 1.03


def test_the_old_rule_misses_the_noise_level():
    """ComfyUI-Iterative-Mixer's: after the step, at the noise level before it, with other noise each time."""
    model, steps = stub(), 20
    sigmas = schedule(model, steps, "karras")
    noised = [sigma * randn(1, 4, 64, 64, seed=i) for i, sigma in enumerate(sigmas)]
    x, levels = noised[0], []
    for i in range(steps - 1):
        x = x * sigmas[i + 1] / sigmas[i]  # an Euler step to 0
        c = (0.5 * (1 + math.cos(math.pi * (steps - i) / steps))) ** 2.4
        x = (1 - c) * noised[i] + c * x
        levels.append(float(x.std() / sigmas[i + 1]))
    assert max(levels) > 1.25 and min(levels) < 0.6


def test_the_plain_sum_loses_the_noise_of_samplers_that_draw_their_own(monkeypatch):
    monkeypatch.setattr("pentimento.model_patchers.upscale.iterative_mixing.draws_noise", lambda sampler: False)
    assert min(noise_levels("eps", held("lcm"))) < 0.75
    assert min(noise_levels("flow", held("euler_ancestral"))) < 0.92


MADE = {
    "ancestral, eta 0": lambda: ksampler("euler_ancestral", {"eta": 0.0, "s_noise": 1.0}),
    "sde, s_noise 0": lambda: ksampler("dpmpp_2m_sde", {"eta": 1.0, "s_noise": 0.0}),
    "er_sde, ODE": lambda: nodes_custom_sampler.SamplerER_SDE.execute("ODE", 3, 1.0, 1.0)[0],
    "er_sde": lambda: nodes_custom_sampler.SamplerER_SDE.execute("ER-SDE", 3, 1.0, 1.0)[0],
    "seeds_2, eta 0": lambda: nodes_custom_sampler.SamplerSEEDS2.execute("phi_2", 0.0, 1.0, 1.0)[0],
    "cfg++": lambda: nodes_advanced_samplers.SamplerEulerCFGpp.execute("alternative")[0],
    "lcm": lambda: nodes_advanced_samplers.SamplerLCM.execute(1.0, 1.0, 0.0)[0],
}


@pytest.mark.parametrize("name", [*NAMES, *MADE])
def test_who_draws_noise(name):
    """Told from the sampler's function and settings: with another seed for the same noise, only theirs differ."""
    sampler = MADE[name]() if name in MADE else sampler_object(name)
    model, (noise, latent) = stub(), pair(size=4)
    first, second = (run(model, sampler, noise, latent, schedule(model, 4), seed) for seed in (3, 4))
    assert draws_noise(sampler) == (not torch.equal(first, second))


def test_churn_draws_noise():
    assert draws_noise(ksampler("euler", {"s_churn": 1.0}))
    assert not draws_noise(sampler_object("euler"))


@pytest.mark.parametrize("name", [*NAMES, *MADE])
def test_reached_and_free_without_a_step(name):
    """Held, a sampler gives another picture; in a range that holds no step, its own to the bit."""
    sampler = MADE[name]() if name in MADE else sampler_object(name)
    for kind in ("eps", "flow"):
        model, (noise, latent) = stub(kind), pair(kind, size=4)
        free = run(model, sampler, noise, latent)
        assert relative_error(run(model, held(sampler), noise, latent), free) > 0.01
        for start, end in ((0.0, 0.0), (1.0, 1.0), (0.501, 0.502)):
            assert torch.equal(run(model, held(sampler, 3.0, start, end), noise, latent), free)


def gaussian(power, flow):
    """The denoiser that knows no more of pictures than their power spectrum: Wiener's filter."""

    def denoise(x, sigma):
        signal, sigma = (1 - sigma[0] if flow else 1), sigma[0]
        gain = signal * power / (signal**2 * power + sigma**2)
        return torch.fft.ifft2(gain * torch.fft.fft2(x)).real

    return denoise


def smooth_model(kind):
    y, x = torch.meshgrid(torch.fft.fftfreq(16), torch.fft.fftfreq(16), indexing="ij")
    return stub(kind, gaussian(0.02 / (x**2 + y**2 + 0.01) ** 1.5, kind == "flow"))


def likeness(found, latent):
    return torch.corrcoef(torch.stack([found.flatten(), latent.flatten()]))[0, 1].item()


@pytest.mark.parametrize("name", ["euler", "dpmpp_2m", "dpmpp_2m_sde", "lcm", "sa_solver"])
@pytest.mark.parametrize("kind", ["eps", "v", "flow"])
def test_keeps_the_picture(name, kind):
    """A free sampler at full denoise forgets the picture, a held one does not; held longer, it comes closer."""
    noise, latent = pair(kind, size=16)
    model = smooth_model(kind)
    free, ours, longer = (
        likeness(run(model, sampler, noise, latent, schedule(model, 12)), latent)
        for sampler in (name, held(name), held(name, 1.0))
    )
    assert abs(free) < 0.15 and longer > 0.4 and longer > ours > free + (0.1 if name in ("lcm", "sa_solver") else 0.4)


def test_the_old_formula_loses_a_flow_models_picture():
    """Its z' = x + sigma noise, x the latent as ComfyUI hands it on with add_noise off: (1 - 1) of the picture."""
    noise, latent = pair("flow", size=16)
    model = smooth_model("flow")
    sigmas, sampling = schedule(model, 12), model.get_model_object("model_sampling")
    handed_on = sampling.noise_scaling(sigmas[0], torch.zeros_like(noise), latent)
    x = handed_on + sigmas[0] * noise
    denoise = model.model_options["model_function_wrapper"]
    for sigma, after in zip(sigmas[:-1], sigmas[1:], strict=True):
        c = cosine(float(sigma)) ** 3
        x = (1 - c) * x + c * (handed_on + sigma * noise)
        picture = denoise(None, {"input": x, "timestep": sigma[None]})
        x = picture + (x - picture) * after / sigma
    assert abs(likeness(x, latent)) < 0.15
    assert likeness(run(model, held(), noise, latent, sigmas), latent) > 0.6


def test_the_model_is_shown_the_noised_latent_of_its_kind():
    noise, latent = pair("flow")
    shown = []

    def denoise(x, sigma):
        shown.append((float(sigma[0]), x.clone()))
        return torch.zeros_like(x)

    run(stub("flow", denoise), held(exponent=0.0), noise, latent)
    assert len(shown) == 6
    for sigma, x in shown:
        torch.testing.assert_close(x, (1 - sigma) * latent + sigma * noise)


# latents, masks, other nodes


def test_video_is_its_frames():
    noise, latent = randn(1, 16, 3, 6, 6, seed=1), randn(1, 16, 3, 6, 6, seed=2)
    model = stub("video")
    video = run(model, held(), noise, latent)
    frames = run(model, held(), *(frame[0].transpose(0, 1)[:, :, None] for frame in (noise, latent)))
    torch.testing.assert_close(video[0].transpose(0, 1)[:, :, None], frames, rtol=1e-6, atol=1e-6)
    assert run(model, held("euler_ancestral"), noise, latent).shape == noise.shape


@pytest.mark.parametrize("name", ["euler", "dpmpp_2m", "lms"])
def test_batch_is_its_pictures(name):
    noise, latent = pair(batch=2)
    both = run(stub(), held(name), noise, latent)
    singles = [run(stub(), held(name), noise[i : i + 1], latent[i : i + 1]) for i in (0, 1)]
    torch.testing.assert_close(both, torch.cat(singles), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["euler", "dpmpp_2m_sde", "lcm", "seeds_2"])
def test_same_seed_same_bits(name):
    noise, latent = pair()
    before = noise.clone(), latent.clone(), torch.get_rng_state()
    first, second = (run(stub(), held(name), noise, latent) for _ in range(2))
    assert torch.equal(first, second)
    assert all(map(torch.equal, before, (noise, latent, torch.get_rng_state())))


@pytest.mark.parametrize("name", ["dpmpp_2m", "dpmpp_3m_sde", "ddim", "lcm"])
def test_a_mask_keeps_what_it_keeps(name):
    """The mask is applied after the mix; ddim's own noise under a mask is not the run's."""
    noise, latent = pair()
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 3:] = 1
    free, ours = (run(stub(), sampler, noise, latent, mask=mask) for sampler in (sampler_object(name), held(name)))
    if name != "ddim":
        assert torch.equal(free[..., :3], ours[..., :3])
    torch.testing.assert_close(ours[..., :3], latent[..., :3], rtol=0, atol=1e-5)
    assert relative_error(ours[..., 3:], free[..., 3:]) > 0.01


def test_the_mix_has_the_runs_noise_under_ddims_mask():
    noise, latent = pair()
    shown = []

    def denoise(x, sigma):
        shown.append((float(sigma[0]), x.clone()))
        return torch.zeros_like(x)

    mask = torch.ones(1, 1, 8, 8)
    mask[..., :3] = 0
    run(stub("eps", denoise), held("ddim", exponent=0.0), noise, latent, mask=mask)
    assert len(shown) == 6
    for sigma, x in shown:
        torch.testing.assert_close(x[..., 3:], (latent + sigma * noise)[..., 3:])
        assert relative_error(x[..., :3], (latent + sigma * noise)[..., :3]) > 0.01


@pytest.mark.parametrize("rule", ["paper", "timestep"])
def test_with_differential_img2img(rule):
    noise, latent = pair()
    change = torch.linspace(0, 1, 8).expand(1, 1, 8, 8).contiguous()
    model = patch(stub(), rule)
    free, ours, none = (
        run(model, sampler, noise, latent, mask=change)
        for sampler in (sampler_object("dpmpp_2m"), held("dpmpp_2m"), held("dpmpp_2m", end=0.0))
    )
    assert torch.equal(free, none)
    assert torch.equal(free[..., 0], ours[..., 0])
    assert relative_error(ours[..., -1], free[..., -1]) > 0.01


def node_run(sampler, add_noise, advanced):
    model, latent = stub(), {"samples": rand(1, 4, 8, 8, seed=1)}
    sigmas = schedule(model)
    if not advanced:
        node = nodes_custom_sampler.SamplerCustom
        return node.execute(model, add_noise, 5, 1.0, CONDITIONING, CONDITIONING, sampler, sigmas, latent)[0]
    noise = (nodes_custom_sampler.RandomNoise if add_noise else nodes_custom_sampler.DisableNoise).execute
    guider = nodes_custom_sampler.BasicGuider.execute(model, CONDITIONING)[0]
    node = nodes_custom_sampler.SamplerCustomAdvanced
    return node.execute(noise(5)[0] if add_noise else noise()[0], guider, sampler, sigmas, latent)[0]


@pytest.mark.parametrize("advanced", [False, True])
def test_in_the_hosts_sampler_nodes(advanced):
    sampler = SkipResidual.execute(sampler_object("dpmpp_2m"), 3.0, 0.0, 1.0)[0]
    ours, free = (node_run(s, True, advanced)["samples"] for s in (sampler, sampler_object("dpmpp_2m")))
    assert ours.shape == free.shape and relative_error(ours, free) > 0.01
    with pytest.raises(ValueError, match="add_noise on"):
        node_run(sampler, False, advanced)


# what it takes


@pytest.mark.parametrize("name", sorted(CANNOT))
def test_refused_by_name(name):
    with pytest.raises(ValueError, match=rf"{name} .*Choose another"):
        held(name)


def test_refused_by_name_from_other_nodes():
    with pytest.raises(ValueError, match="ar_video"):
        held(nodes_ar_video.SamplerARVideo.execute(1)[0])
    with pytest.raises(ValueError, match="SamplerLCMUpscale"):
        held(nodes_advanced_samplers.SamplerLCMUpscale.execute(2.0, -1, "bislerp")[0])
    with pytest.raises(ValueError, match="of the kind Other"):
        held(type("Other", (comfy.samplers.Sampler,), {})())


def test_the_sampler_given_is_not_changed():
    base = ksampler("euler_ancestral", {"eta": 0.7})
    before = dict(vars(base)), dict(base.extra_options)
    noise, latent = pair()
    free = run(stub(), base, noise, latent)
    run(stub(), held(base), noise, latent)
    assert (vars(base), base.extra_options) == before
    assert torch.equal(run(stub(), base, noise, latent), free)


def test_the_later_takes_the_place_of_the_earlier():
    noise, latent = pair()
    twice = held(held("dpmpp_2m", 1.0, 0.0, 0.5), 3.0)
    assert torch.equal(run(stub(), twice, noise, latent), run(stub(), held("dpmpp_2m"), noise, latent))


def test_the_samplers_options_hold():
    noise, latent = pair()
    first, second = (held(ksampler("euler_ancestral", {"eta": eta})) for eta in (1.0, 0.3))
    assert relative_error(run(stub(), first, noise, latent), run(stub(), second, noise, latent)) > 0.01


@pytest.mark.parametrize("end", [0.25, 0.5])
def test_range_is_the_hosts(end):
    """Held in the part of the timesteps that a ControlNet's or a prompt's range of the same numbers covers."""
    noise, latent = pair("flow")
    shown = []

    def denoise(x, sigma):
        clean, mixed = float(sigma[0]), latent * (1 - sigma[0]) + noise * sigma[0]
        shown.append((clean, torch.allclose(x, mixed, atol=1e-5)))
        return 0 * x - 1

    model = stub("flow", denoise)
    run(model, held(exponent=0.0, end=end), noise, latent, schedule(model, 12))
    edge = model.get_model_object("model_sampling").percent_to_sigma(end)
    assert all(mixed == bool(torch.tensor(sigma) >= edge) for sigma, mixed in shown), "both ends, in float32"
    assert {mixed for _, mixed in shown} == {True, False}
