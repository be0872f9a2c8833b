"""Sample with History against ComfyUI's node and its callback; Merge History against NumPy."""

import numpy as np
import pytest
import torch
from comfy import model_management
from comfy.nested_tensor import NestedTensor
from comfy.samplers import CFGGuider, calculate_sigmas, sampler_object
from comfy_extras.nodes_custom_sampler import Noise_RandomNoise, SamplerCustomAdvanced

from kit.assertions import frozen, relative_error
from kit.tensors import rand, randn
from kit.toy_network import Prompted, patcher
from pentimento.model_patchers.comfyui.schedule import Interval
from pentimento.model_patchers.edit import differential_img2img
from pentimento.model_patchers.sample import sampler_history
from pentimento.model_patchers.sample.sampler_history import merge
from pentimento.model_patchers.upscale.iterative_mixing import iterative_mixing
from pentimento.nodes.sample.sampler_history import MergeHistory, SamplerHistory

pytestmark = pytest.mark.usefixtures("one_thread")
STEPS = 6


def guider(model, cfg=4.0):
    made = CFGGuider(model)
    made.set_conds(*([[torch.full((1, 1, 8), value), {}]] for value in (0.8, -0.4)))
    made.set_cfg(cfg)
    return made


def sigmas(model, steps=STEPS):
    return calculate_sigmas(model.get_model_object("model_sampling"), "simple", steps)


def run(model, sampler="euler", latent=None, steps=STEPS, keep=3, skip=0, **changes):
    sampler = sampler_object(sampler) if isinstance(sampler, str) else sampler
    latent = {"samples": torch.zeros(1, 4, 6, 8)} if latent is None else latent
    values = changes.get("sigmas", sigmas(model, steps))
    return SamplerHistory.execute(Noise_RandomNoise(3), guider(model), sampler, values, latent, keep, skip).result


def predictions(model, sampler="euler", latent=None, steps=STEPS):
    """What ComfyUI's callback is shown at each step, at the scale of results."""
    seen = []
    sampler = sampler_object(sampler) if isinstance(sampler, str) else sampler
    latent = torch.zeros(1, 4, 6, 8) if latent is None else latent
    noise = Noise_RandomNoise(3).generate_noise({"samples": latent})
    guider(model).sample(
        noise, latent, sampler, sigmas(model, steps), callback=lambda i, x0, x, n: seen.append(x0.clone()), seed=3
    )
    return [model.model.process_latent_out(x0) for x0 in seen]


@pytest.fixture(scope="module")
def model():
    return patcher(Prompted())


# the history


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m_sde", "heun", "uni_pc", "lms", "ddim", "dpm_2_ancestral"])
@pytest.mark.parametrize("batch", [1, 2])
def test_the_history_is_the_last_predictions_oldest_first(sampler, batch, model):
    latent = torch.zeros(batch, 4, 6, 8)
    ours = run(model, sampler, {"samples": latent})
    expected = predictions(model, sampler, latent)
    assert ours[2]["samples"].shape == (3 * batch, 4, 6, 8)
    assert torch.equal(ours[2]["samples"], torch.cat(expected[-3:]))
    assert not torch.equal(ours[2]["samples"], torch.cat(expected[-3:][::-1]))
    core = SamplerCustomAdvanced.execute(
        Noise_RandomNoise(3), guider(model), sampler_object(sampler), sigmas(model), {"samples": latent}
    ).result
    for mine, theirs in zip(ours, core, strict=False):
        assert torch.equal(mine["samples"], theirs["samples"]) and mine.keys() == theirs.keys()


@pytest.mark.parametrize("keep, skip", [(1, 0), (3, 2), (64, 0), (2, 5), (64, 24), (1, 6)])
def test_keep_and_skip_are_those_of_anti_burn(keep, skip, model):
    """`latents[:-skip]` of a queue of keep + skip; with fewer steps than skip the result itself."""
    output, _, history = run(model, keep=keep, skip=skip)
    queue = predictions(model)[-(keep + skip) :]
    expected = (queue[:-skip] if skip else queue) or [output["samples"]]
    assert torch.equal(history["samples"], torch.cat(expected))


def test_no_more_than_needed_is_kept_and_apart_from_the_models_memory(model, monkeypatch):
    recorder = []

    class Watched(sampler_history.Recorder):
        def keep(self, x0):
            super().keep(x0)
            recorder.append((len(self.last), {x.device for x in self.last}, x0.data_ptr() == self.last[-1].data_ptr()))

    monkeypatch.setattr(sampler_history, "Recorder", Watched)
    run(model, steps=9, keep=2, skip=1)
    assert [held for held, _, _ in recorder] == [1, 2, 3, 3, 3, 3, 3, 3, 3]
    assert {device for _, devices, _ in recorder for device in devices} == {model_management.intermediate_device()}
    assert not any(same for *_, same in recorder)


def test_dpm_fast_and_adaptive_end_with_their_result(model):
    for sampler in ("dpm_fast", "dpm_adaptive"):
        output, _, history = run(model, sampler, keep=2)
        expected = [predictions(model, sampler)[-1], output["samples"]]
        assert relative_error(history["samples"], torch.cat(expected)) < 1e-6


def test_a_run_without_steps_gives_what_came():
    model, latent = patcher(Prompted()), {"samples": randn(1, 4, 6, 8)}
    for made in run(model, latent=latent, sigmas=torch.zeros(0)):
        assert torch.equal(made["samples"], latent["samples"])


def test_a_video_and_a_flow_model():
    model = patcher(Prompted(), "video")
    latent = torch.zeros(1, 16, 3, 4, 6)
    _, _, history = run(model, latent={"samples": latent}, keep=2)
    assert torch.equal(history["samples"], torch.cat(predictions(model, latent=latent)[-2:]))


def test_a_latent_of_several_parts():
    model = patcher(Prompted())
    parts = NestedTensor([randn(1, 16, 2, 4, 6), randn(1, 8, 5)])
    output, _, history = run(model, latent={"samples": parts}, keep=2)
    shapes = [tuple(part.shape) for part in history["samples"].unbind()]
    assert shapes == [(2, 16, 2, 4, 6), (2, 8, 5)]
    for last, part in zip(history["samples"].unbind(), output["samples"].unbind(), strict=True):
        torch.testing.assert_close(last[-1:], part, rtol=1e-4, atol=1e-4)  # Euler ends at its last prediction


def test_entries_of_the_latent_stay_where_they_fit(model):
    latent = {
        "samples": randn(2, 4, 6, 8),
        "noise_mask": rand(2, 1, 48, 64).round(),
        "batch_index": [4, 5],
        "type": "x",
    }
    output, denoised, history = run(model, latent=latent)
    assert output.keys() == denoised.keys() == latent.keys()
    assert history.keys() == {"samples", "type"}
    assert history["samples"].shape == (6, 4, 6, 8)


def test_nothing_is_written_to_and_twice_is_the_same(model):
    made, latent = guider(model), {"samples": randn(1, 4, 6, 8)}
    before = frozen([made.__dict__, model, latent])
    inputs = Noise_RandomNoise(3), made, sampler_object("dpmpp_2m_sde"), sigmas(model), latent, 3, 1
    first, second = (SamplerHistory.execute(*inputs).result for _ in range(2))
    assert frozen([made.__dict__, model, latent]) == before
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one["samples"], other["samples"])


def test_the_schedule_stays_though_uni_pc_writes_to_its_own(model):
    schedule = sigmas(model)
    before = schedule.clone()
    inputs = (
        Noise_RandomNoise(3),
        guider(model),
        sampler_object("uni_pc"),
        schedule,
        {"samples": randn(1, 4, 6, 8)},
        3,
        1,
    )
    SamplerHistory.execute(*inputs)
    assert torch.equal(schedule, before)


def test_an_interrupted_run_ends_as_comfyuis_and_leaves_nothing(model, bars):
    calls = []

    def interrupt(args):
        calls.append(1)
        if len(calls) == 3:
            model_management.interrupt_current_processing()
            model_management.throw_exception_if_processing_interrupted()
        return args["denoised"]

    interrupted = model.clone()
    interrupted.set_model_sampler_post_cfg_function(interrupt)
    with pytest.raises(model_management.InterruptProcessingException):
        run(interrupted)
    assert run(model)[2]["samples"].shape[0] == 3
    assert bars[-1].values == [*range(1, STEPS + 1)]


def test_samplers_that_other_nodes_change_are_recorded(model):
    """Differential Img2Img changes the sampler as the run begins, if it knows its kind."""
    latent = {"samples": randn(1, 4, 6, 8), "noise_mask": rand(1, 1, 48, 64)}
    patched = differential_img2img.patch(model, "paper")
    ours = run(patched, latent=latent)
    core = SamplerCustomAdvanced.execute(
        Noise_RandomNoise(3), guider(patched), sampler_object("euler"), sigmas(model), latent
    ).result[0]
    assert torch.equal(ours[0]["samples"], core["samples"])

    mixed = iterative_mixing(sampler_object("euler"), 3.0, Interval(0, 1))
    image = randn(1, 4, 6, 8)
    assert torch.equal(
        run(model, mixed, {"samples": image})[2]["samples"], torch.cat(predictions(model, mixed, image)[-3:])
    )


# the merge


def anti_burn(pictures):
    """Anti-Burn's lines: (mean + median) / 2 of K pictures (H, W, C)."""
    return (np.mean(pictures, 0) + np.median(pictures, 0)) / 2


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_the_merge_is_numpys(count, channels):
    images = rand(count, 9, 7, channels)
    references = {"mean and median": anti_burn, "mean": lambda x: x.mean(0), "median": lambda x: np.median(x, 0)}
    for rule, reference in references.items():
        ours = MergeHistory.execute(images, rule).result[0]
        assert ours.shape == (1, 9, 7, channels)
        assert np.abs(ours[0].numpy() - reference(images.numpy())).max() < 2e-7
    if count % 2 == 0:  # torch takes the lower of the two in the middle
        assert np.abs(images.median(0).values.numpy() - np.median(images.numpy(), 0)).max() > 0.05


def test_one_picture_keeps_every_bit_and_equal_ones_too():
    image = rand(1, 8, 9, 3)
    for rule in sampler_history.RULES:
        assert torch.equal(merge(image, rule), image)
        assert torch.equal(merge(image.expand(4, -1, -1, -1), rule), image)


def test_each_picture_of_a_batch_is_merged_with_its_own_steps():
    images = rand(6, 5, 4, 3)
    ours = merge(images, "mean and median", 2)
    for i in (0, 1):
        assert torch.equal(ours[i : i + 1], merge(images[i::2], "mean and median"))
    with pytest.raises(ValueError, match="got 6 images, which is no multiple of the batch_size 4"):
        MergeHistory.execute(images, "mean", 4)


def test_bands_do_not_change_the_merge(monkeypatch):
    images = rand(4, 11, 6, 3)
    whole = {rule: merge(images, rule, 2) for rule in sampler_history.RULES}
    monkeypatch.setattr(sampler_history, "BAND", 200)
    assert all(torch.equal(merge(images, rule, 2), expected) for rule, expected in whole.items())


def test_the_whole_way_is_anti_burns(model):
    """Decoding is the identity here."""
    _, _, history = run(model, keep=3, skip=1)
    queue = predictions(model)[-4:-1]
    images = history["samples"].movedim(1, -1)
    ours = MergeHistory.execute(images, "mean and median").result[0]
    assert relative_error(ours, anti_burn(torch.cat(queue).movedim(1, -1).numpy())[None]) < 1e-6
    other = anti_burn(torch.cat(predictions(model)[-3:]).movedim(1, -1).numpy())[None]
    assert relative_error(other, ours) > 1e-3
