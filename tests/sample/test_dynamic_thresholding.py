"""Dynamic Thresholding against sd-dynamic-thresholding's own code, and beside other guidance."""

import comfy.model_sampling
import numpy as np
import pytest
import torch
from comfy.samplers import sampler_object
from comfy_extras.nodes_custom_sampler import Noise_RandomNoise, SamplerCustom
from comfy_extras.nodes_model_advanced import RescaleCFG

from kit import run as sampled
from kit import thin
from kit.assertions import frozen, relative_error
from kit.golden import GOLDEN, maker
from kit.nodes import with_defaults
from kit.precision import FACTOR
from kit.run import guided
from kit.tensors import rand, randn
from kit.toy_network import Prompted, patcher
from kit.vae import tiny
from pentimento.model_patchers.sample import dynamic_thresholding
from pentimento.model_patchers.sample.dynamic_thresholding import MODES, Rule, Scale, part, quantile, threshold
from pentimento.nodes.condition.instruct_pix2pix import IP2PConditioning, IP2PGuiderNode, IP2PPatch
from pentimento.nodes.sample.dynamic_thresholding import DynamicThresholding
from pentimento.nodes.sample.sampler_history import SamplerHistory

pytestmark = pytest.mark.usefixtures("one_thread")
MAKER = maker("dynamic_thresholding")
CFG, MIMIC = MAKER.CFG, MAKER.MIMIC


@pytest.fixture(scope="module")
def golden():
    return dict(np.load(GOLDEN / "dynamic_thresholding.npz").items())


def node(model, **settings):
    return DynamicThresholding.execute(**with_defaults(DynamicThresholding, {"model": model, **settings})).result[0]


def rules(golden):
    for percentile, separate, startpoint, measure, phi in golden["rules"]:
        names = MAKER.STARTPOINTS[int(startpoint)], MAKER.MEASURES[int(measure)]
        yield Rule(float(percentile), bool(separate), *names, float(phi))


def predictions(golden):
    cond, uncond = torch.tensor(golden["cond"]), torch.tensor(golden["uncond"])
    return [uncond + scale * (cond - uncond) for scale in (CFG, MIMIC)]


# the equation


def test_every_rule_is_the_references_for_each_picture(golden):
    guided_, mimicked = predictions(golden)
    for rule, single, batch in zip(rules(golden), golden["single"], golden["batch"], strict=True):
        ours = threshold(guided_, mimicked, rule)
        assert relative_error(ours, single) < 2e-6, rule
        if not rule.separate:  # the reference's one spread for the whole batch
            assert relative_error(ours, batch) > 1e-3, rule


def test_what_a_user_changes_changes_the_result(golden):
    guided_, mimicked = predictions(golden)
    base = Rule(0.93)
    for change in ({"percentile": 1.0}, {"separate": False}, {"startpoint": "ZERO"}, {"measure": "STD"}, {"phi": 0.7}):
        assert relative_error(threshold(guided_, mimicked, base._replace(**change)), golden["single"][16]) > 0.01


def test_every_schedule_is_the_references(golden):
    assert list(MODES) == [str(name) for name in golden["modes"]]
    for mode, table in zip(MODES, golden["scales"], strict=True):
        for (value, least, s), scales in zip(golden["settings"], table, strict=True):
            ours = [Scale(value, least, mode, s).at(at / 998) for at in golden["steps"]]
            assert ours == pytest.approx(list(scales), abs=1e-9), mode


def test_the_schedule_follows_timesteps():
    sampling = comfy.model_sampling.ModelSamplingDiscrete()
    for t in (999, 640, 2, 0):
        assert part(sampling, sampling.sigmas[t : t + 1]) == pytest.approx((999 - t) / 998)


@pytest.mark.parametrize("name", ["DiscreteFlow", "Flux", "ContinuousEDM", "ContinuousV", "CosmosRFlow"])
def test_the_schedule_spans_the_run_of_every_kind(name):
    sampling = getattr(comfy.model_sampling, f"ModelSampling{name}")()
    parts = [part(sampling, torch.tensor([float(sampling.percent_to_sigma(p))])) for p in (0.0, 0.5, 0.999)]
    assert parts[0] < 0.01 and parts[0] < parts[1] < parts[2] and parts[2] > 0.7
    assert all(np.isfinite(Scale(7, 3, mode, 0.25).at(p)) for mode in MODES for p in parts)


def test_quantiles_of_more_than_16_million_numbers():
    x = torch.arange(2**24 + 100, 0, -1).float().div(2**24)[None]
    with pytest.raises(RuntimeError, match="too large"):
        torch.quantile(x, 0.93)
    for q, expected in ((1, x[0, 0]), (0.93, x[0, round(0.07 * (x.shape[1] - 1))])):
        assert float(quantile(x, q)) == pytest.approx(float(expected), abs=2e-7)
    small = randn(3, 2, 37)
    for q in (0.0, 0.5, 0.93, 1.0):
        torch.testing.assert_close(quantile(small, q), torch.quantile(small, q, dim=-1, keepdim=True))


@pytest.mark.parametrize("rule", [Rule(0.5), Rule(measure="STD"), Rule(startpoint="ZERO"), Rule(separate=False)])
def test_channels_without_a_spread_stay_numbers(rule):
    flat = torch.full((1, 4, 8, 8), 0.25)
    torch.testing.assert_close(threshold(flat, 2 * flat, rule), flat)
    assert threshold(randn(1, 4, 1, 1), randn(1, 4, 1, 1, seed=1), rule).isfinite().all()


# in ComfyUI


def settings(run):
    mimic_mode, mimic_min, cfg_mode, cfg_min, value, _ = run
    return {
        "mimic_scale": MIMIC,
        "threshold_percentile": 0.95,
        "mimic_mode": mimic_mode,
        "mimic_scale_min": mimic_min,
        "cfg_mode": cfg_mode,
        "cfg_scale_min": cfg_min,
        "sched_val": value,
    }


@pytest.mark.both_devices
@pytest.mark.in_half
@pytest.mark.parametrize("run", range(len(MAKER.RUNS)))
def test_whole_runs_are_those_of_the_references_node(run, golden, monkeypatch, precision):
    model, (*_, sampler) = patcher(Prompted(), dtype=precision.dtype), MAKER.RUNS[run]
    near = FACTOR * golden[f"{precision.name} errors"][run] if precision.is_half else 3e-4
    before = frozen(model)
    patched = node(model, **settings(MAKER.RUNS[run]))
    expected = golden["runs"][run]
    assert relative_error(guided(patched, CFG, sampler, MAKER.STEPS), expected) < near
    assert frozen(model) == before
    assert relative_error(guided(model, CFG, sampler, MAKER.STEPS), expected) > max(near, 0.1)
    if run:  # a schedule over the steps, not the timesteps
        steps = iter(np.linspace(0, 1, 2 * MAKER.STEPS))
        monkeypatch.setattr(dynamic_thresholding, "part", lambda sampling, sigma: next(steps))
        assert relative_error(guided(patched, CFG, sampler, MAKER.STEPS), expected) > 0.01


@pytest.mark.parametrize("sampler", ["euler_ancestral", "dpmpp_2m_sde", "uni_pc", "lcm", "euler_cfg_pp"])
@pytest.mark.parametrize("separate", [True, False])
def test_a_batch_is_its_pictures(sampler, separate):
    """With samplers that draw no noise. The others run."""
    noise = randn(2, 4, 6, 5, seed=4) * torch.tensor([1.0, 2.0]).view(2, 1, 1, 1)
    model = node(patcher(Prompted()), separate_feature_channels=separate, threshold_percentile=0.9)
    both = guided(model, CFG, sampler, noise=noise)
    assert both.isfinite().all()
    if sampler in ("uni_pc", "euler_cfg_pp"):
        singles = [guided(model, CFG, sampler, noise=noise[i : i + 1]) for i in (0, 1)]
        torch.testing.assert_close(both, torch.cat(singles), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind, shape", [("v", (1, 4, 5, 7)), ("flow", (2, 16, 4, 4)), ("video", (1, 16, 3, 4, 5))])
def test_other_kinds_of_models(kind, shape):
    model = patcher(Prompted(), kind)
    ours = guided(node(model, mimic_mode="Power Up", sched_val=0.3), CFG, "dpmpp_2m", 4, "simple", noise=randn(*shape))
    assert ours.shape == shape and ours.isfinite().all()
    assert relative_error(ours, guided(model, CFG, "dpmpp_2m", 4, "simple", noise=randn(*shape))) > 0.01


def test_without_guidance_nothing_changes_and_nothing_more_is_computed():
    network = Prompted()
    rows = []
    network.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    model = patcher(network)
    plain = guided(model, 1.0)
    assert torch.equal(guided(node(model, variability_measure="STD"), 1.0), plain)
    assert set(rows) == {1}
    model.disable_model_cfg1_optimization()  # another patch wants both predictions
    assert relative_error(guided(node(model, variability_measure="STD"), 1.0), plain) > 0.01


def test_equal_scales_are_no_special_case():
    """The reference returns the plain guidance where cfg == mimic, whatever the schedules and percentiles say."""
    model = patcher(Prompted())
    plain = guided(model, MIMIC)
    assert relative_error(guided(node(model), MIMIC), plain) < 1e-5
    for change in ({"mimic_mode": "Linear Up"}, {"scaling_startpoint": "ZERO", "threshold_percentile": 0.9}):
        assert relative_error(guided(node(model, **change), MIMIC), plain) > 0.01


def one_call(model, cfg):
    """The guided prediction of the first step, and the two that it is made of."""
    seen = {}
    watched = model.clone()
    watched.set_model_sampler_post_cfg_function(lambda args: seen.setdefault("args", args)["denoised"])
    guided(watched, cfg, sigmas=torch.tensor([9.0, 0.0]))
    return seen["args"]


@pytest.mark.parametrize("cfg_mode", ["Constant", "Linear Up"])
def test_rescale_cfg_acts_in_either_order(cfg_mode):
    """D(s) is RescaleCFG's, at the scheduled and at the mimicked scale."""
    rescaled = RescaleCFG().patch(patcher(Prompted()), 0.7)[0]
    change = {"cfg_mode": cfg_mode, "cfg_scale_min": 3.0, "mimic_scale": 5.0}
    after = node(rescaled, **change)
    before = RescaleCFG().patch(node(patcher(Prompted()), **change), 0.7)[0]
    result = guided(after, CFG)
    assert torch.equal(result, guided(before, CFG))
    for alone in (rescaled, node(patcher(Prompted()), **change)):
        assert relative_error(result, guided(alone, CFG)) > 0.01

    done = part(rescaled.model.model_sampling, torch.tensor([9.0]))
    by_hand = [one_call(rescaled, scale)["denoised"] for scale in (Scale(CFG, 3.0, cfg_mode).at(done), 5.0)]
    assert relative_error(one_call(after, CFG)["denoised"], threshold(*by_hand, Rule())) < 1e-5


def test_other_post_cfg_functions_come_after_in_either_order():
    def brighter(args):
        return args["denoised"] + 0.5

    model = patcher(Prompted())
    first, second = model.clone(), node(model)
    first.set_model_sampler_post_cfg_function(brighter)
    second.set_model_sampler_post_cfg_function(brighter)
    assert torch.equal(guided(node(first), CFG), guided(second, CFG))
    assert relative_error(guided(second, CFG), guided(node(model), CFG)) > 0.01


def test_twice_is_once_with_the_later_settings():
    model = patcher(Prompted())
    twice = node(node(model, mimic_scale=3.0), mimic_scale=8.0)
    assert torch.equal(guided(twice, CFG), guided(node(model, mimic_scale=8.0), CFG))
    assert len(twice.model_options["sampler_post_cfg_function"]) == 1


@pytest.mark.parametrize("by_guider", [False, True])
def test_instruct_pix2pix_keeps_its_pictures_scale(by_guider):
    """D(s) is equation 3 of that paper at the text scale s."""
    model, image_scale, sigmas = thin.host_model("ip2p"), 2.0, torch.tensor([9.0, 0.0])
    prompts = IP2PConditioning.execute(*sampled.prompts(768), tiny(), rand(1, 64, 64, 3), "multiple of 8")

    def denoised(model, scale):
        positive, negative, latent = prompts.result
        sampler = sampler_object("euler")
        if by_guider:
            guider = IP2PGuiderNode.execute(model, positive, negative, scale, image_scale, 0.0, 0.0, 1.0).result[0]
            run = SamplerHistory.execute(Noise_RandomNoise(3), guider, sampler, sigmas, latent, 1, 0)
        else:
            model = IP2PPatch.execute(model, image_scale).result[0]
            run = SamplerCustom.execute(model, True, 3, scale, positive, negative, sampler, sigmas, latent)
        return model.model.process_latent_in(run.result[0]["samples"])

    ours = denoised(node(model, mimic_scale=5.0), CFG)
    guided_, mimicked = (denoised(model, scale) for scale in (CFG, 5.0))
    assert relative_error(ours, threshold(guided_, mimicked, Rule())) < 1e-4
    assert relative_error(guided_, ours) > 0.1
