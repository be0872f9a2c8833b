"""Latent Mirror against dfaker's script for A1111, and symmetric to the bit."""

import numpy as np
import pytest
import torch
from comfy.nested_tensor import NestedTensor
from comfy.samplers import calculate_sigmas, sampler_object
from comfy_extras.nodes_custom_sampler import SamplerCustom

from kit import narrow
from kit import run as sampled
from kit.assertions import frozen, relative_error
from kit.golden import GOLDEN
from kit.nodes import with_defaults
from kit.run import guided
from kit.tensors import rand, randn
from kit.toy_network import Neighbours, Prompted, patcher
from pentimento.model_patchers.comfyui import conditioning
from pentimento.model_patchers.comfyui.patching import attach
from pentimento.model_patchers.sample import dynamic_thresholding
from pentimento.model_patchers.sample.dynamic_thresholding import Rule, Scale
from pentimento.model_patchers.sample.latent_mirror import SYMMETRIES, mirrored, panned, symmetric
from pentimento.nodes.sample.latent_mirror import LatentMirror

pytestmark = pytest.mark.usefixtures("one_thread")
EXACT = {  # what a picture of each symmetry looks the same under
    "left-right": [lambda x: x.flip(-1)],
    "up-down": [lambda x: x.flip(-2)],
    "both": [lambda x: x.flip(-1), lambda x: x.flip(-2)],
    "half turn": [lambda x: x.rot90(2, (-2, -1))],
    "quarter turn": [lambda x: x.rot90(1, (-2, -1)), lambda x: x.rot90(-1, (-2, -1))],
}


@pytest.fixture(scope="module")
def golden():
    return dict(np.load(GOLDEN / "latent_mirror.npz").items())


def node(model, **settings):
    return LatentMirror.execute(**with_defaults(LatentMirror, {"model": model, **settings})).result[0]


class Recording(Neighbours):
    """Keeps what it is shown."""

    def __init__(self):
        super().__init__()
        self.shown = []

    def forward(self, x, t, **kwargs):
        self.shown.append(x.clone())
        return super().forward(x, t, **kwargs)


# the references' modes


def test_every_style_mode_and_pan_is_the_references(golden):
    x = torch.tensor(golden["x"])
    assert {*map(str, golden["styles"])} == {*SYMMETRIES}
    for mode in ("alternate", "blend"):
        for style, results in zip(golden["styles"], golden[mode], strict=True):
            for pan, expected in zip(golden["pans"], results, strict=True):
                ours = panned(mirrored(x, str(style), mode), *map(float, pan))
                assert np.array_equal(ours, expected), (mode, style, pan)
                if pan.any():
                    swapped = panned(mirrored(x, str(style), mode), *map(float, pan[::-1]))
                    assert not np.array_equal(swapped, expected)


def test_a_quarter_turn_is_counterclockwise_as_the_references(golden):
    x, expected = torch.tensor(golden["x"]), golden["alternate"][list(golden["styles"]).index("quarter turn"), 0]
    assert np.array_equal(x.rot90(1, (2, 3)), expected)
    assert not np.array_equal(x.rot90(-1, (2, 3)), expected)


@pytest.mark.both_devices
@pytest.mark.in_half
@pytest.mark.parametrize("mode", ["alternate", "blend"])
@pytest.mark.parametrize("symmetry", ["left-right", "quarter turn", "channels", "none"])
def test_the_model_sees_the_changed_input_and_its_answer_is_used(mode, symmetry, precision):
    """Of Euler's x, which itself is not changed: two of eight steps."""
    network = Recording()
    model, noise = patcher(network, dtype=precision.dtype), randn(2, 4, 6, 6, seed=1)
    sigmas = calculate_sigmas(model.get_model_object("model_sampling"), "karras", 8)
    settings = {"where": "input", "symmetry": symmetry, "mode": mode, "pan_x": 0.4}
    ours = guided(node(model, **settings), sigmas=sigmas, noise=noise)
    shown = [x.float().cpu() for x in network.shown]
    sampling = model.get_model_object("model_sampling")

    def loop(network, wrong=False):
        """Euler's method: the result, and what the network is shown. A wrong one changes the sampler's own x too."""
        x, seen = sampling.noise_scaling(sigmas[0], noise, torch.zeros_like(noise), True), []
        for i, (sigma, after) in enumerate(zip(sigmas[:-1], sigmas[1:], strict=True)):
            changed = panned(mirrored(x, symmetry, mode), 0.4, 0.0) if i < 2 else x
            seen.append(changed / (sigma**2 + 1) ** 0.5)
            denoised = changed - sigma * network(seen[-1], None)
            x = denoised + ((changed if wrong else x) - denoised) * after / sigma
        return model.model.process_latent_out(x), seen

    expected, seen = loop(Neighbours())
    near = precision.tolerance(1e-4, expected, lambda: loop(precision.lowered(Neighbours()))[0])
    assert relative_error(ours, expected) < near
    assert relative_error(shown[0], seen[0]) < max(near, 1e-5)
    assert relative_error(loop(Neighbours(), wrong=True)[0], expected) > max(near, 0.01)


def test_the_steps_are_the_references(golden):
    """A1111 counts a step only after the model was called, so there one more step is changed."""
    network = Recording()
    model = patcher(network)
    plain = guided(model, steps=10)
    baseline = [x.clone() for x in network.shown]
    for fraction, calls in zip(golden["fractions"], golden["calls"], strict=True):
        network.shown.clear()
        settings = {"where": "input", "mode": "alternate", "max_fraction": float(fraction)}
        first = guided(node(model, **settings), steps=10)
        assert torch.equal(network.shown[0], baseline[0].flip(-1)) == calls[0]
        assert torch.equal(first, plain) == (not calls.any())

        counted = []

        def count(executor, x, *args, counted=counted):
            counted.append(x.clone())
            return executor(x, *args)

        outer = attach(model, "count", {"predict_noise": count})
        guided(node(outer, **settings), steps=10)
        inner = attach(node(model, **settings), "count", {"predict_noise": count})
        guided(inner, steps=10)
        outside, inside = counted[:10], counted[10:]
        assert [not torch.equal(*pair) for pair in zip(outside, inside, strict=True)] == list(calls)


# exact symmetry


@pytest.mark.both_devices
@pytest.mark.parametrize("symmetry", EXACT)
@pytest.mark.parametrize("shape, kind", [((2, 4, 7, 7), "eps"), ((1, 16, 3, 6, 6), "video"), ((2, 16, 5, 5), "flow")])
def test_a_whole_run_is_symmetric_to_the_bit(symmetry, shape, kind):
    """Though the noise and the network are not. dpmpp_2m ends with the prediction itself."""
    model, noise = patcher(Neighbours(), kind), randn(*shape, seed=2)
    before = frozen(model)
    patched = node(model, symmetry=symmetry, max_fraction=1.0)
    result = guided(patched, 1.0, "dpmpp_2m", 4, "simple", noise=noise).cpu()
    assert frozen(model) == before
    for same in EXACT[symmetry]:
        assert torch.equal(same(result), result)
    free = guided(model, 1.0, "dpmpp_2m", 4, "simple", noise=noise).cpu()
    assert all(relative_error(same(free), free) > 0.1 for same in EXACT[symmetry])
    assert relative_error(result, free) > 0.1


@pytest.mark.parametrize("size", [(5, 8), (8, 5), (1, 6)])
@pytest.mark.parametrize("symmetry", ["left-right", "up-down", "both", "half turn"])
def test_pictures_that_are_not_square(symmetry, size):
    model = node(patcher(Prompted()), symmetry=symmetry, max_fraction=1.0)
    result = guided(model, 7.0, "dpmpp_2m", 4, noise=randn(1, 4, *size))
    assert all(torch.equal(same(result), result) for same in EXACT[symmetry])


@pytest.mark.parametrize(
    "sampler", ["euler", "heun", "euler_ancestral", "dpmpp_2m_sde", "uni_pc", "lcm", "dpmpp_3m_sde"]
)
def test_other_samplers_end_symmetric(sampler):
    result = guided(node(patcher(Prompted()), max_fraction=1.0), 5.0, sampler, 6)
    assert relative_error(result.flip(-1), result) < 1e-4


def test_the_mean_of_noises_would_lose_half_of_the_variance():
    """What blurs in the reference's blend, and why a prediction is made symmetric instead."""
    x = randn(4, 4, 64, 64)
    assert mirrored(x, "left-right", "blend").var() < 0.55 and symmetric(x, "both").var() < 0.3

    network = Recording()
    guided(node(patcher(network), max_fraction=1.0), noise=randn(1, 4, 64, 64), steps=3)
    assert all(0.9 < x.std() < 1.1 for x in network.shown[:1])


def test_one_mean_over_four_is_not_symmetric_to_the_bit():
    x = randn(1, 4, 32, 32)
    turns = sum(x.rot90(i, (-2, -1)) for i in range(4)) / 4
    assert not torch.equal(turns.rot90(1, (-2, -1)), turns)
    ours = symmetric(x, "quarter turn")
    torch.testing.assert_close(ours, turns)
    assert torch.equal(ours.rot90(1, (-2, -1)), ours)


def test_after_max_fraction_a_run_is_free():
    model = patcher(Neighbours())
    results = [guided(node(model, max_fraction=part), 1.0, "dpmpp_2m", 8) for part in (0.0, 0.25, 0.75, 1.0)]
    assert torch.equal(results[0], guided(model, 1.0, "dpmpp_2m", 8))
    apart = [relative_error(result.flip(-1), result) for result in results]
    assert apart[0] > apart[1] > apart[2] > apart[3] == 0


def test_alternate_on_the_denoised_is_the_mirror_image_of_each_prediction():
    seen = []

    def watch(executor, *args):
        seen.append(executor(*args))
        return seen[-1]

    settings = {"mode": "alternate", "max_fraction": 1.0, "symmetry": "up-down"}
    model = patcher(Neighbours())
    guided(attach(node(model, **settings), "watch", {"predict_noise": watch}), steps=1)  # within
    guided(node(attach(model, "watch", {"predict_noise": watch}), **settings), steps=1)  # outside
    assert torch.equal(seen[0].flip(-2), seen[1])


# other patches, and what has no symmetry


def test_twice_is_once_and_other_patches_come_before():
    def brighter(args):
        return args["denoised"] + torch.linspace(0, 1, 8)  # from left to right

    model = patcher(Prompted())
    twice = node(node(model, symmetry="up-down"), max_fraction=1.0)
    twice.set_model_sampler_post_cfg_function(brighter)
    once = model.clone()
    once.set_model_sampler_post_cfg_function(brighter)
    result = guided(twice, 4.0, "dpmpp_2m")
    assert torch.equal(result, guided(node(once, max_fraction=1.0), 4.0, "dpmpp_2m"))
    assert torch.equal(result.flip(-1), result)
    assert not torch.equal(result.flip(-2), result)


def test_with_a_controlnet_and_dynamic_thresholding_in_either_order():
    model, control = narrow.host_model("sd15"), narrow.controlnet().set_cond_hint(rand(1, 3, 64, 64), 0.9)
    plain = sampled.prompts(narrow.WIDTH)
    controlled = conditioning.both(plain, {"control": control})

    def run(model, prompts):
        sigmas, latent = (
            calculate_sigmas(model.get_model_object("model_sampling"), "karras", 2),
            torch.zeros(1, 4, 8, 8),
        )
        run = SamplerCustom.execute(
            model, True, 3, 12.0, *prompts, sampler_object("dpmpp_2m"), sigmas, {"samples": latent}
        )
        return run.result[0]["samples"]

    def tamed(model):
        return dynamic_thresholding.patch(model, Scale(3.0), "Constant", 0.0, Rule())

    result = run(node(tamed(model), max_fraction=1.0), controlled)
    assert torch.equal(result, run(tamed(node(model, max_fraction=1.0)), controlled))
    assert torch.equal(result.flip(-1), result)
    assert relative_error(run(node(tamed(model), max_fraction=1.0), plain), result) > 1e-3
    assert relative_error(run(node(model, max_fraction=1.0), controlled), result) > 1e-3


def test_a_quarter_turn_needs_a_square():
    with pytest.raises(ValueError, match=r"needs a square, but the latent of this run is 8 x 6 \(width x height"):
        guided(node(patcher(Neighbours()), symmetry="quarter turn"), noise=randn(1, 4, 6, 8))


def test_latents_without_pictures_are_refused():
    model = node(patcher(Prompted()))
    with pytest.raises(ValueError, match="no height and width"):
        guided(model, noise=randn(1, 4, 9))
    video_and_sound = NestedTensor([randn(1, 4, 2, 6, 6), randn(1, 4, 9)])
    with pytest.raises(ValueError, match="2 parts, such as a video and its sound"):
        guided(model, noise=video_and_sound, latent=video_and_sound)
