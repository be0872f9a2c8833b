"""A conditioning's check of the model reaches the sampler, refuses what does not fit, and else changes nothing."""

import comfy.conds
import comfy.controlnet
import comfy.hooks
import comfy.model_base
import comfy.model_detection
import comfy.model_management
import comfy.sampler_helpers
import comfy.samplers
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from comfy_extras import nodes_custom_sampler, nodes_hooks, nodes_perpneg
from node_helpers import conditioning_set_values

import nodes as host_nodes
from kit import thin as thin_models
from kit.run import links
from pentimento.model_patchers.comfyui.conditioning import ModelCheck, Needs, feed, needs

pytestmark = pytest.mark.usefixtures("one_thread")

IP2P = {"instruct-pix2pix"}


class Spy:
    """A model whose forward records what it is given."""

    def __init__(self, model):
        self.model, self.calls = model.clone(), []
        self.model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "spy", self.forward)

    def forward(self, executor, x, t, c_concat, c_crossattn, control, transformer_options, **kwargs):
        self.calls.append((x, t, c_concat, c_crossattn, control, transformer_options["cond_or_uncond"], kwargs))
        return x / 2 + c_crossattn.mean((1, 2))[:, None, None, None]


@pytest.fixture(scope="module")
def thin():
    return {kind: thin_models.host_model(kind) for kind in ("sd15", "ip2p")}


def prompt(seed, width=768, size=8):
    generator = torch.Generator().manual_seed(seed)
    values = {"concat_latent_image": torch.full((1, 4, size, size), 3.0)}
    return [[torch.randn(1, 77, width, generator=generator), values]]


def latent(height=8, width=8):
    return {"samples": torch.zeros(1, 4, height, width)}


def checked(conditioning, size=(8, 8)):
    return needs(conditioning, Needs(frozenset(IP2P), "Some Node", size))


def k_sampler(model, positive, negative, latent, _null):
    return host_nodes.common_ksampler(model, 1, 2, 7.5, "euler", "normal", positive, negative, latent)


def sampler_custom(model, positive, negative, latent, _null):
    sigmas, sampler = torch.tensor([14.0, 3.0, 0.0]), comfy.samplers.sampler_object("euler")
    return nodes_custom_sampler.SamplerCustom.execute(model, True, 1, 7.5, positive, negative, sampler, sigmas, latent)


def advanced(guider):
    def run(model, positive, negative, latent, null):
        (built,) = guider(model, positive, negative, null).args
        sigmas, sampler = torch.tensor([14.0, 3.0, 0.0]), comfy.samplers.sampler_object("euler")
        noise = nodes_custom_sampler.Noise_RandomNoise(1)
        return nodes_custom_sampler.SamplerCustomAdvanced.execute(noise, built, sampler, sigmas, latent)

    return run


SAMPLERS = {
    "KSampler": k_sampler,
    "SamplerCustom": sampler_custom,
    "CFGGuider": advanced(lambda model, p, n, null: nodes_custom_sampler.CFGGuider.execute(model, p, n, 7.5)),
    "BasicGuider": advanced(lambda model, p, n, null: nodes_custom_sampler.BasicGuider.execute(model, p)),
    "DualCFGGuider": advanced(
        lambda model, p, n, null: nodes_custom_sampler.DualCFGGuider.execute(model, p, n, null, 7.5, 1.5, "regular")
    ),
    "PerpNegGuider": advanced(
        lambda model, p, n, null: nodes_perpneg.PerpNegGuider.execute(model, p, n, null, 7.5, 1.0)
    ),
}
BATCHES = {"BasicGuider": 1, "DualCFGGuider": 3, "PerpNegGuider": 3}


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_check_passes_and_changes_nothing(thin, name):
    positive, negative, null = prompt(1), prompt(2), prompt(3)
    calls = []
    for p, n in ((positive, negative), (checked(positive), checked(negative))):
        spy = Spy(thin["ip2p"])
        options = repr(spy.model.model_options)
        SAMPLERS[name](spy.model, p, n, latent(), null)
        assert repr(spy.model.model_options) == options
        calls.append(spy.calls)

    assert len(calls[0]) == len(calls[1]) == 2  # one for each step
    for plain, ours in zip(*calls, strict=True):
        assert len(ours[0]) == BATCHES.get(name, 2)
        for a, b in zip(plain, ours, strict=True):
            assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_wrong_model_is_refused_before_its_first_forward(thin, name):
    spy = Spy(thin["sd15"])
    with pytest.raises(ValueError, match="Some Node works with InstructPix2Pix .* is Stable Diffusion 1.5"):
        SAMPLERS[name](spy.model, checked(prompt(1)), checked(prompt(2)), latent(), prompt(3))
    assert spy.calls == []


@pytest.mark.parametrize("name", SAMPLERS)
def test_another_size_is_refused_before_the_first_forward(thin, name):
    spy = Spy(thin["ip2p"])
    with pytest.raises(ValueError, match="Some Node .* latent of 8 x 8 .* 16 x 24"):
        SAMPLERS[name](spy.model, checked(prompt(1)), checked(prompt(2)), latent(24, 16), prompt(3))
    assert spy.calls == []


def test_one_checked_conditioning_is_enough(thin):
    for positive, negative in ((checked(prompt(1)), prompt(2)), (prompt(1), checked(prompt(2)))):
        with pytest.raises(ValueError, match="Some Node"):
            k_sampler(thin["sd15"], positive, negative, latent(), None)
        spy = Spy(thin["ip2p"])
        k_sampler(spy.model, positive, negative, latent(), None)
        assert [call[5] for call in spy.calls] == [[1, 0]] * 2


def test_a_conditioning_serves_any_number_of_runs(thin):
    positive, negative = checked(prompt(1)), checked(prompt(2))
    for _ in range(2):
        k_sampler(Spy(thin["ip2p"]).model, positive, negative, latent(), None)
        with pytest.raises(ValueError, match="Some Node"):
            k_sampler(thin["sd15"], positive, negative, latent(), None)


def test_the_input_is_not_written_to():
    plain = prompt(1)
    before = dict(plain[0][1])
    ours = checked(plain)
    assert plain[0][1] == before
    assert ours[0][0] is plain[0][0]


def test_nothing_says_that_there_are_hooks():
    """Or ComfyUI loads a second copy of a model under dynamic VRAM."""
    assert not comfy.sampler_helpers.cond_has_hooks(checked(prompt(1)))


def test_also_asks_the_model_that_samples(thin):
    asked = []
    positive, negative = (needs(prompt(i), Needs(frozenset(IP2P), "Some Node", also=asked.append)) for i in (1, 2))
    spy = Spy(thin["ip2p"])
    k_sampler(spy.model, positive, negative, latent(), None)
    assert asked == [spy.model]  # once for both
    assert [len(call[0]) for call in spy.calls] == [2, 2]


def dual_model(model, second, positive, negative, cfg=7.5):
    """The second model samples the negative prompt."""
    run = advanced(lambda *_: nodes_custom_sampler.DualModelGuider.execute(model, positive, cfg, second, negative))
    return run(model, positive, negative, latent(), None).args[0]["samples"]


def test_each_model_of_the_dual_model_guider_is_checked(thin):
    fits, other = (Spy(thin[kind]) for kind in ("ip2p", "sd15"))
    for first, second in ((fits, other), (other, fits)):
        with pytest.raises(ValueError, match="Some Node works with InstructPix2Pix .* is Stable Diffusion 1.5"):
            dual_model(first.model, second.model, checked(prompt(1)), checked(prompt(2)))
    assert fits.calls == other.calls == []
    both = [dual_model(fits.model, fits.model, check(prompt(1)), check(prompt(2))) for check in (checked, lambda p: p)]
    assert torch.equal(*both)
    assert dual_model(fits.model, other.model, checked(prompt(1)), prompt(2)).isfinite().all()


def test_each_model_of_the_dual_model_guider_is_fed(thin):
    """The tensors for the negative prompt are made for the model that samples it."""

    def concatenated(value, models):
        def inputs(cond, model, device):
            models.append(model)
            return {"c_concat": comfy.conds.CONDNoiseShape(torch.full((1, 4, 8, 8), value))}

        return inputs

    first, second, seen = thin["ip2p"].clone(), thin["ip2p"].clone(), []
    model = Spy(first)
    positives, negatives = [], []
    fed = feed(prompt(1), concatenated(0.25, positives)), feed(prompt(2), concatenated(0.5, negatives))
    for _ in range(2):
        dual_model(model.model, second, *fed)
    seen = [float(call[2].mean()) for call in model.calls]
    assert seen == [0.25, 0.5] * 4
    assert {id(each) for each in positives} == {id(model.model)} and {id(each) for each in negatives} == {id(second)}


# ------------------------------------------------------------------ what ComfyUI's nodes do to conditionings after it


def concatenated(p, n):
    node = host_nodes.ConditioningConcat()
    return node.concat(p, prompt(7))[0], node.concat(n, prompt(8))[0]


def averaged(p, n):
    node = host_nodes.ConditioningAverage()
    return node.addWeighted(p, prompt(7), 0.5)[0], node.addWeighted(n, prompt(8), 0.5)[0]


TRANSFORMS = {
    "Combine": lambda p, n: (p + prompt(7), prompt(8) + n),
    "Concat": concatenated,
    "Average": averaged,
    "SetTimestepRange": lambda p, n: (host_nodes.ConditioningSetTimestepRange().set_range(p, 0.0, 1.0)[0], n),
    "SetArea": lambda p, n: (host_nodes.ConditioningSetArea().append(p, 64, 64, 0, 0, 1.0)[0], n),
    "SetMask": lambda p, n: (host_nodes.ConditioningSetMask().append(p, torch.ones(1, 64, 64), "default", 1.0)[0], n),
    "SetValues": lambda p, n: (conditioning_set_values(p, {"strength": 0.5}), n),
    "ZeroOut": lambda p, n: (p, host_nodes.ConditioningZeroOut().zero_out(p)[0]),
    "SetProperties": lambda p, n: nodes_hooks.PairConditioningSetProperties().set_properties(p, n, 1.0, "default"),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_the_check_survives(thin, name):
    calls = []
    for check in (lambda p: p, checked):
        spy = Spy(thin["ip2p"])
        k_sampler(spy.model, *TRANSFORMS[name](check(prompt(1)), check(prompt(2))), latent(), None)
        calls.append([call[5] for call in spy.calls])
    assert calls[0] == calls[1]
    with pytest.raises(ValueError, match="Some Node"):
        k_sampler(thin["sd15"], *TRANSFORMS[name](checked(prompt(1)), checked(prompt(2))), latent(), None)


class ControlNet(comfy.controlnet.ControlBase):
    """What a ControlNet gives, without a network: the names along its chain."""

    def __init__(self, name):
        super().__init__()
        self.name = name

    def copy(self):
        copied = ControlNet(self.name)
        self.copy_to(copied)
        return copied

    def get_control(self, x, t, cond, batched, transformer_options):
        before = self.previous_controlnet and self.previous_controlnet.get_control(
            x, t, cond, batched, transformer_options
        )
        return [*(before or []), self.name]


def with_control(name, positive, negative):
    node = host_nodes.ControlNetApplyAdvanced()
    return node.apply_controlnet(positive, negative, ControlNet(name), torch.zeros(1, 8, 8, 3), 1.0, 0.0, 1.0)


@pytest.mark.parametrize("order", ["before", "after", "between"])
def test_with_control_nets(thin, order):
    pair = prompt(1), prompt(2)
    if order in ("before", "between"):
        pair = with_control("a", *pair)
    pair = tuple(map(checked, pair))
    if order in ("after", "between"):
        pair = with_control("b", *pair)
    expected = {"before": ["a"], "after": ["b"], "between": ["a", "b"]}[order]
    chain = pair[0][0][1]["control"]

    spy = Spy(thin["ip2p"])
    k_sampler(spy.model, *pair, latent(), None)

    assert [(call[4], call[5]) for call in spy.calls] == [(expected, [1, 0])] * 2
    assert pair[0][0][1]["control"] is chain
    assert any(isinstance(link, ModelCheck) for link in links(chain))
    with pytest.raises(ValueError, match="Some Node"):
        k_sampler(thin["sd15"], *pair, latent(), None)


def test_a_control_net_for_the_positive_prompt_serves_the_negative_too(thin):
    """The older Apply ControlNet: ComfyUI gives it to a negative prompt that has none of its own."""
    pair = checked(prompt(1)), checked(prompt(2))
    (positive,) = host_nodes.ControlNetApply().apply_controlnet(pair[0], ControlNet("a"), torch.zeros(1, 8, 8, 3), 1.0)
    spy = Spy(thin["ip2p"])
    k_sampler(spy.model, positive, pair[1], latent(), None)
    assert [(call[4], call[5]) for call in spy.calls] == [(["a"], [1, 0])] * 2


@pytest.mark.parametrize("where", ["positive", "both"])
def test_with_hooked_loras(thin, where):
    """Hooks of others stay, and neither side trips over the other."""
    name = "output_blocks.0.0.out_layers.3.bias"
    hooks = comfy.hooks.create_hook_lora({f"diffusion_model.{name}.diff": torch.ones(320)}, 1.0, 0.0)
    calls = []
    for check in (lambda p: p, checked):
        positive, negative = check(prompt(1)), check(prompt(2))
        if where == "both":
            positive, negative = comfy.hooks.set_conds_props([positive, negative], 1.0, "default", hooks=hooks)
        else:
            (positive,) = comfy.hooks.set_conds_props([positive], 1.0, "default", hooks=hooks)
        spy = Spy(thin["ip2p"])
        k_sampler(spy.model, positive, negative, latent(), None)
        calls.append([call[5] for call in spy.calls])
        assert not spy.model.hook_patches
    assert calls[0] == calls[1] == [[[1, 0]] * 2, [[0], [1]] * 2][where == "positive"]
    with pytest.raises(ValueError, match="Some Node"):
        k_sampler(thin["sd15"], positive, negative, latent(), None)


def test_samplers_in_tiles_can_copy_it_and_crop_its_picture():
    """UltimateSDUpscale copies every link of the chain and crops every link's hint."""
    (positive, _) = with_control("a", checked(prompt(1)), checked(prompt(2)))
    _, *rest = links(positive[0][1]["control"])
    assert rest
    for link in rest:
        assert link.copy() == link
        assert link.cond_hint_original.ndim == 4


def test_a_sampler_of_others_that_skips_the_check_is_not_disturbed():
    check = checked(prompt(1))[0][1]["control"]
    assert check.get_control(None, None, None, 1, {}) is None
    assert check.get_models() == []
    check.pre_run(None, lambda percent: percent)
    check.cleanup()
