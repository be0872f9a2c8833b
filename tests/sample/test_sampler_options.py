"""Sampler Options against k-diffusion's functions, their formulas, and A1111's rule for the noise of the steps."""

import inspect

import pytest
import torch
from comfy.k_diffusion import sampling
from comfy.samplers import SAMPLER_NAMES, calculate_sigmas, sampler_object

from kit.assertions import relative_error
from kit.nodes import with_defaults
from kit.run import guided
from kit.tensors import randn
from kit.toy_network import Prompted, patcher
from pentimento.model_patchers.sample import sampler_options
from pentimento.model_patchers.upscale.iterative_mixing import draws_noise
from pentimento.nodes.sample.sampler_options import SamplerOptions
from pentimento.nodes.upscale.iterative_mixing import SkipResidual

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore:Should have t")]
ENSD, SEED, STEPS = 31337, 3, 5
CHURNING = ["euler", "heun", "heunpp2", "dpm_2", "ddim"]
CHURN = {"s_churn": 1.0, "s_tmin": 0.5, "s_tmax": 9.0, "s_noise": 1.02}


@pytest.fixture(scope="module")
def model():
    return patcher(Prompted())


def node(sampler_name, **options):
    return SamplerOptions.execute(**with_defaults(SamplerOptions, {"sampler_name": sampler_name, **options})).result[0]


def run(model, sampler, noise=None, seed=SEED):
    return guided(model, 4.0, sampler, STEPS, seed=seed, noise=randn(2, 4, 6, 6) if noise is None else noise)


def recorded(monkeypatch, name):
    """What k-diffusion's function is called with."""
    calls, function = [], getattr(sampling, f"sample_{name}")

    def record(*args, **kwargs):
        calls.append(inspect.signature(function).bind(*args, **kwargs).arguments)
        return function(*args, **kwargs)

    record.__signature__ = inspect.signature(function)
    monkeypatch.setattr(sampling, f"sample_{name}", record)
    return calls


# options


@pytest.mark.parametrize("name", SAMPLER_NAMES)
def test_defaults_are_the_sampler_itself(name, model):
    if name != "dpm_adaptive":  # whose eta is 0
        assert torch.equal(run(model, node(name)), run(model, name))


@pytest.mark.parametrize(
    "name, options",
    [*((name, CHURN) for name in CHURNING if name != "ddim"), ("euler_ancestral", {"eta": 0.6, "s_noise": 1.03})]
    + [("dpm_adaptive", {"eta": 0.5, "s_noise": 0.9}), ("er_sde", {"s_noise": 0.9}), ("sa_solver", {"s_noise": 1.1})],
)
def test_options_reach_k_diffusions_function(name, options, model, monkeypatch):
    calls = recorded(monkeypatch, name)
    result = run(model, node(name, **options))
    (call,) = calls
    assert {option: call[option] for option in options} == options
    assert relative_error(run(model, name), result) > 1e-4
    without = node(name, **{option: value for option, value in options.items() if option in ("s_churn", "eta")})
    assert relative_error(run(model, without), result) > 1e-4


def churned(noises, denoise, x, sigmas, s_churn, s_tmin, s_tmax, s_noise, order=1):
    """Karras et al., algorithm 2, with Euler's step or with Heun's correction."""
    for sigma, after in zip(sigmas[:-1], sigmas[1:], strict=True):
        gamma = min(s_churn / (len(sigmas) - 1), 2**0.5 - 1) if s_tmin <= sigma <= s_tmax else 0
        hat = sigma * (1 + gamma)
        if gamma:
            x = x + (hat**2 - sigma**2) ** 0.5 * s_noise * next(noises)
        d = (x - denoise(x, hat)) / hat
        step = x + (after - hat) * d
        if order == 2 and after > 0:
            step = x + (after - hat) * (d + (step - denoise(step, after)) / after) / 2
        x = step
    return x


def stream(seed, shape):
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield torch.randn(shape, generator=generator)


@pytest.mark.parametrize("name, order", [("euler", 1), ("heun", 2)])
def test_churn_is_the_papers_formula(name, order, model):
    noise = randn(1, 4, 6, 6)
    ours = run(model, node(name, **CHURN), noise)
    base = model.get_model_object("model_sampling")
    sigmas = calculate_sigmas(base, "karras", STEPS)
    network = Prompted()
    prompts = [torch.full((1, 1, 8), value) for value in (0.8, -0.4)]

    def denoise(x, sigma):
        scaled = x / (sigma**2 + 1) ** 0.5
        positive, negative = (x - sigma * network(scaled, None, prompt) for prompt in prompts)
        return negative + 4.0 * (positive - negative)

    def expected(seed, **changes):
        x = base.noise_scaling(sigmas[0], noise, torch.zeros_like(noise), True)
        settings = CHURN | changes
        return model.model.process_latent_out(
            churned(stream(seed, noise.shape), denoise, x, sigmas, order=order, **settings)
        )

    assert relative_error(ours, expected(SEED + 1)) < 1e-4
    for wrong in ({"s_churn": 2.0}, {"s_tmin": 0.0, "s_tmax": 99.0}, {"s_noise": 1.0}):
        assert relative_error(expected(SEED + 1, **wrong), ours) > 1e-3
    assert relative_error(expected(SEED), ours) > 1e-3  # the run's first noise once more
    ensd = run(model, node(name, **CHURN, noise_seed_offset=ENSD), noise)
    assert relative_error(ensd, expected(SEED + ENSD)) < 1e-4


def test_s_tmax_of_0_is_no_bound(model):
    ours = run(model, node("euler", s_churn=3.0))
    assert torch.equal(ours, run(model, node("euler", s_churn=3.0, s_tmax=1000.0)))
    assert relative_error(run(model, node("euler", s_churn=3.0, s_tmax=0.5)), ours) > 1e-3


@pytest.mark.parametrize("name", CHURNING)
def test_churn_depends_on_the_seed_alone(name, model):
    """KSampler's own churn goes on in torch's global stream."""
    sampler = node(name, **CHURN)
    torch.manual_seed(1)
    first = run(model, sampler)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert torch.equal(run(model, sampler), first)
    if name != "ddim":  # for which ComfyUI itself seeds the stream
        assert torch.equal(torch.get_rng_state(), state)
    assert relative_error(run(model, sampler, seed=SEED + 1), first) > 1e-3


# noise of the steps


def with_a1111s_noise(name, seed, offset, per_picture=True):
    """The sampler with each picture's noise from a generator of its own, as in A1111's ImageRNG."""
    sampler = sampler_object(name)
    function = sampler.sampler_function

    def sample(model, x, sigmas, **kwargs):
        if per_picture:
            generators = [torch.Generator().manual_seed(seed + i + offset) for i in range(len(x))]
            kwargs["noise_sampler"] = lambda *_: torch.stack(
                [torch.randn(x.shape[1:], generator=generator) for generator in generators]
            )
        else:
            generator = torch.Generator().manual_seed(seed + offset)
            kwargs["noise_sampler"] = lambda *_: torch.randn(x.shape, generator=generator)
        return function(model, x, sigmas, **kwargs)

    sampler.sampler_function = sample
    return sampler


@pytest.mark.parametrize("name", ["euler_ancestral", "dpmpp_2s_ancestral", "lcm", "ddpm", "er_sde", "dpm_2_ancestral"])
def test_the_offset_is_a1111s_ensd(name, model):
    ours = run(model, node(name, noise_seed_offset=ENSD))
    assert torch.equal(ours, run(model, with_a1111s_noise(name, SEED, ENSD)))
    for wrong in (
        with_a1111s_noise(name, SEED, ENSD + 1),  # ComfyUI's seed on a CPU
        with_a1111s_noise(name, SEED, ENSD, per_picture=False),
        with_a1111s_noise(name, SEED, 0),
    ):
        assert relative_error(run(model, wrong), ours) > 1e-3


def test_the_second_picture_of_a_batch_is_that_of_the_next_seed(model):
    sampler, noise = node("euler_ancestral", noise_seed_offset=ENSD), randn(2, 4, 6, 6)
    both = run(model, sampler, noise)
    single = run(model, sampler, noise[1:], seed=SEED + 1)
    torch.testing.assert_close(both[1:], single, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["dpmpp_sde", "dpmpp_2m_sde", "dpmpp_3m_sde_gpu", "dpmpp_2m_sde_heun"])
def test_a_brownian_tree_gets_the_seed_with_the_offset(name, model):
    sampler = node(name, noise_seed_offset=5)
    assert sampler_options.has_tree(name)
    assert torch.equal(run(model, sampler), run(model, name, seed=SEED + 5))
    assert relative_error(run(model, name), run(model, sampler)) > 1e-3


def test_only_the_samplers_with_a_brownian_tree_are_known_as_such():
    source = {name: inspect.getsource(sampler_object(name).sampler_function) for name in SAMPLER_NAMES}
    ours = {name for name in SAMPLER_NAMES if sampler_options.has_tree(name)}
    with_tree = {name for name, text in source.items() if "BrownianTreeNoiseSampler" in text}
    assert with_tree | {"dpmpp_2m_sde_heun"} == ours  # which calls dpmpp_2m_sde


def test_seeds_at_the_limit(model):
    for name in ("euler_ancestral", "dpmpp_sde"):
        assert run(model, node(name, noise_seed_offset=ENSD), seed=2**64 - 2).isfinite().all()
        assert run(model, node(name, noise_seed_offset=-5), seed=0).isfinite().all()
    assert run(model, node("euler", s_churn=2.0), seed=2**64 - 1).isfinite().all()


# what a sampler does not have


CHANGES = {"s_churn": 3.0, "s_noise": 1.2, "eta": 0.5, "noise_seed_offset": 7, "s_tmin": 2.0, "s_tmax": 2.0}


@pytest.mark.parametrize("name", [name for name in SAMPLER_NAMES if name != "dpm_adaptive"])  # tested above, and slow
def test_an_option_is_refused_or_has_an_effect(name, model):
    plain = run(model, node(name))
    for option, value in CHANGES.items():
        churn = {"s_churn": 3.0} if "s_churn" in sampler_options.names(name) and option != "s_churn" else {}
        try:
            changed = run(model, node(name, **churn, **{option: value}))
        except ValueError as error:
            assert f"the sampler {name} has no {option}, so {value:g} would do nothing" in str(error)
            continue
        before = run(model, node(name, **churn)) if churn else plain
        assert not torch.equal(changed, before), option


def test_the_refusal_names_samplers_that_have_the_option():
    with pytest.raises(ValueError, match="sampler dpmpp_2m has no s_churn, so 5 would do nothing. Set s_churn to 0"):
        node("dpmpp_2m", s_churn=5.0)
    with pytest.raises(ValueError, match="has no eta.*such as euler_ancestral"):
        node("euler", eta=0.5)
    with pytest.raises(ValueError, match="only where s_churn is above 0"):
        node("euler", noise_seed_offset=ENSD)
    node("euler", noise_seed_offset=ENSD, s_churn=1.0)


# other nodes


def test_other_nodes_know_the_sampler(model):
    """Iterative Mixing Sampler reads its function's name and options."""
    for name, options in (("euler_ancestral", {"noise_seed_offset": ENSD}), ("euler", {"s_churn": 2.0})):
        sampler = node(name, **options)
        assert sampler.sampler_function.__name__ == f"sample_{name}" and draws_noise(sampler)
        held = SkipResidual.execute(sampler, 3.0, 0.0, 1.0).result[0]
        assert relative_error(run(model, held), run(model, sampler)) > 0.01
    assert not draws_noise(node("euler"))
    with pytest.raises(ValueError, match="dpm_adaptive"):
        SkipResidual.execute(node("dpm_adaptive", eta=0.5), 3.0, 0.0, 1.0)
