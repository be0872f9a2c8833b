"""Detailer against the same steps by hand with ComfyUI's own nodes, and what it must leave alone."""

import functools

import comfy.sample
import comfy.samplers
import pytest
import torch
import torch.nn.functional as F
from comfy import model_management
from comfy.model_patcher import ModelPatcher
from comfy_execution.graph_utils import ExecutionBlocker
from comfy_extras.nodes_custom_sampler import BasicGuider, CFGGuider, DualCFGGuider, RandomNoise, SamplerCustomAdvanced
from comfy_extras.nodes_edit_model import ReferenceLatent
from comfy_extras.nodes_ip2p import InstructPixToPixConditioning

import nodes
from kit import kinds, thin, toy_network
from kit.assertions import frozen, relative_error
from kit.nodes import run_node
from kit.pictures import photograph
from kit.run import prompts
from kit.tensors import rand, randn
from kit.vae import fill, tiny
from kit.vae import thin as thin_vae
from pentimento.model_patchers.edit import crop_to_mask, detailer, differential_img2img
from pentimento.model_patchers.edit.paste_back import ramp
from pentimento.model_patchers.pixels.boxes import Box
from pentimento.model_patchers.pixels.resample import resize, resize_back
from pentimento.nodes.condition.instruct_pix2pix import IP2PConditioning
from pentimento.nodes.edit.detailer import Detailer

pytestmark = pytest.mark.usefixtures("one_thread")
SEED, EDGE, FEATHER, PADDING = 7, 64, 4, 0.5
BOXES = [Box(10, 12, 24, 20), Box(60, 40, 28, 26), Box(30, 20, 22, 24)]  # the third overlaps the first
ROUNDED = 1e-4  # a network rounds a batch otherwise than its pictures alone; the nearest wrong variant is 0.003 off
FAR = [Box(4, 4, 24, 20), Box(90, 60, 20, 26)]  # each outside the other's crop


@pytest.fixture(scope="module")
def vae(precision):
    return tiny()


@pytest.fixture(scope="module")
def sd15(precision):
    return thin.host_model("sd15")


def toy(network=toy_network.Prompted):
    return toy_network.patcher(network())


def say(value):
    """A prompt for the toy model."""
    return [[torch.full((1, 1, 8), value), {}]]


def sigmas_of(model, scheduler="normal", steps=3, denoise=0.6):
    sampling = model.get_model_object("model_sampling")
    return comfy.samplers.calculate_sigmas(sampling, scheduler, round(steps / denoise))[-(steps + 1) :]


def sampler(name="euler"):
    return comfy.samplers.sampler_object(name)


def as_dicts(boxes):
    return [{**box._asdict(), "label": "face", "score": 0.9} for box in boxes]


def detailed(image, vae, boxes=None, model=None, **inputs):
    """Detailer's results, by default with the toy model."""
    if "guider" not in inputs:
        model = model or toy()
        inputs = {"positive": say(0.8), "negative": say(-0.4)} | inputs | {"model": model}
    else:
        model = inputs["guider"].model_patcher
    inputs = {"sampler": sampler(), "sigmas": sigmas_of(model), "noise_seed": SEED} | inputs
    inputs = {"size": EDGE, "feather": FEATHER, "padding": PADDING} | inputs
    if boxes is not None:
        inputs["bboxes"] = as_dicts(boxes)
    return run_node(Detailer, image=image, vae=vae, **inputs)


# The same by hand


def around(box, size, padding=PADDING):
    margin = round(padding * max(box.width, box.height))
    return crop_to_mask.region(box, size, margin, EDGE, EDGE)


def by_hand(
    image,
    vae,
    guider_of,
    boxes,
    sampler,
    sigmas,
    enlarge=resize,
    shrink=resize_back,
    noise_of=lambda j: RandomNoise.execute(SEED + j)[0],
    hard_paste=False,
    hard_mask=False,
    rule="paper",
):
    """One region after another with ComfyUI's nodes. Each region is a square inside the picture.

    Args:
        guider_of: (crop, patch) -> a guider, whose model went through `patch`.
    """
    result, size = image.clone(), tuple(image.shape[1:3])
    for j, box in enumerate(boxes):
        region = around(box, size)
        assert region.width == region.height
        hole = torch.zeros(size)
        hole[box.slices] = 1
        alpha = (hole * ramp(hole.bool(), FEATHER))[region.slices]
        before = result[0][region.slices]
        crop = enlarge(before, EDGE, EDGE).clamp(0, 1)[None]
        change = F.interpolate(alpha[None, None], (EDGE, EDGE), mode="bilinear", antialias=True)[0]
        change = (change > 0).float() if hard_mask else change
        latent = nodes.SetLatentNoiseMask().set_mask(nodes.VAEEncode().encode(vae, crop)[0], change)[0]
        guider = guider_of(crop, lambda model: differential_img2img.patch(model, rule))
        sampled = SamplerCustomAdvanced.execute(noise_of(j), guider, sampler, sigmas.clone(), latent)[0]
        edited = nodes.VAEDecode().decode(vae, sampled)[0][0].to(before)
        back = shrink(edited, region.height, region.width)
        alpha = (alpha > 0).to(alpha) if hard_paste else alpha
        pasted = torch.where(alpha[..., None] > 0, torch.lerp(before, back, alpha[..., None]), before)
        result[0][region.slices] = pasted
    return result


def cfg_guider(model, positive, negative, cfg=7.0):
    return lambda crop, patch: CFGGuider.execute(patch(model), positive, negative, cfg)[0]


def both_ways(vae, sd15):
    """Detailer's result and the one by hand, on a thin UNet."""
    positive, negative = prompts(768)
    image, how = photograph(96, 112), {"sampler": sampler(), "sigmas": sigmas_of(sd15, steps=2)}
    ours = detailed(image, vae, BOXES, sd15, positive=positive, negative=negative, cfg=2.0, **how)[0]
    assert relative_error(ours, image) > 0.1
    return ours, by_hand(image, vae, cfg_guider(sd15, positive, negative, 2.0), BOXES, *how.values())


@pytest.mark.in_half
@pytest.mark.both_devices
def test_equals_the_steps_by_hand(vae, sd15, monkeypatch):
    """One region at a time, as the reference samples them: half precision rounds a batch otherwise."""
    monkeypatch.setattr(detailer, "MOST", 1)
    ours, expected = both_ways(vae, sd15)
    assert relative_error(ours, expected) < 1e-5


def test_regions_in_one_batch_equal_the_steps_by_hand(vae, sd15):
    ours, expected = both_ways(vae, sd15)
    assert relative_error(ours, expected) < ROUNDED


def test_a_flow_model_with_a_vae_of_16_channels_equals_the_steps_by_hand():
    vae, model, image = thin_vae("flux"), toy_network.patcher(toy_network.Prompted(), "flow"), photograph(96, 112)
    sigmas = sigmas_of(model, "simple")
    guider = cfg_guider(model, say(0.8), say(-0.4), 2.0)
    ours = detailed(image, vae, BOXES[:1], model, sigmas=sigmas, cfg=2.0)[0]
    assert relative_error(ours, by_hand(image, vae, guider, BOXES[:1], sampler(), sigmas)) < 1e-5


SAMPLERS = [("dpmpp_2m_sde", "karras"), ("ddim", "ddim_uniform"), ("heun", "simple"), ("uni_pc", "sgm_uniform")]


@pytest.mark.parametrize("kind", ["eps", "v"])
@pytest.mark.parametrize("name, scheduler", SAMPLERS)
def test_every_sampler_and_scheduler_equals_the_steps_by_hand(name, scheduler, kind, vae):
    model, image = toy_network.patcher(toy_network.Prompted(), kind), photograph(96, 112)
    sigmas = sigmas_of(model, scheduler)
    ours = detailed(image, vae, BOXES, model, sampler=sampler(name), sigmas=sigmas, cfg=2.0)[0]
    guider = cfg_guider(model, say(0.8), say(-0.4), 2.0)
    assert relative_error(ours, by_hand(image, vae, guider, BOXES, sampler(name), sigmas)) < 1e-5


def by_bicubic(picture, height, width):
    return F.interpolate(picture.movedim(-1, 0)[None], (height, width), mode="bicubic")[0].movedim(0, -1)


def of_the_whole_batch(j):
    """All regions from one seed, as sampling them as a batch of one noise would."""

    class Noise:
        seed = SEED

        def generate_noise(self, latent):
            shape = latent["samples"].shape
            return comfy.sample.prepare_noise(torch.zeros(len(BOXES), *shape[1:]), SEED)[j : j + 1]

    return Noise()


WRONG = {
    "one noise for all": {"noise_of": of_the_whole_batch},
    "the same noise for each": {"noise_of": lambda j: RandomNoise.execute(SEED)[0]},
    "pasted hard": {"hard_paste": True},
    "sampled with a hard mask": {"hard_mask": True},
    "enlarged by another filter": {"enlarge": by_bicubic},
    "shrunk by another filter": {"shrink": by_bicubic},
}


@pytest.fixture(scope="module")
def toy_run(vae):
    """Detailer's result on the toy model, and the steps by hand, to be changed."""
    model, image = toy(), photograph(96, 112)
    sigmas = sigmas_of(model)
    by_steps = functools.partial(by_hand, image, vae, cfg_guider(model, say(0.8), say(-0.4)), BOXES, sampler(), sigmas)
    return detailed(image, vae, BOXES, model, sigmas=sigmas)[0], by_steps


def test_a_toy_model_equals_the_steps_by_hand(toy_run):
    ours, by_steps = toy_run
    assert relative_error(ours, by_steps()) < 1e-5


@pytest.mark.parametrize("wrong", WRONG)
def test_other_steps_are_not(wrong, toy_run):
    ours, by_steps = toy_run
    assert relative_error(ours, by_steps(**WRONG[wrong])) > 1e-3


# What stays


SHAPES = {
    "overlapping": (96, 112, BOXES),
    "at edges": (90, 70, [Box(0, 0, 20, 30), Box(50, 70, 20, 20), Box(54, 0, 16, 90)]),
    "larger than the picture": (40, 130, [Box(-20, -20, 200, 200)]),
    "odd": (57, 83, [Box(3, 5, 17, 23)]),
}


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("shape", SHAPES)
def test_outside_the_regions_every_bit_stays(shape, channels, vae):
    height, width, boxes = SHAPES[shape]
    image = rand(2, height, width, channels)
    result, crops, mask = detailed(image, vae, boxes)
    assert result.shape == image.shape and mask.shape == image.shape[:3] and len(crops) == 2 * len(boxes)
    assert torch.equal(result[mask == 0], image[mask == 0])
    assert torch.equal(result[..., 3:], image[..., 3:]), "the alpha channel"
    assert (result[mask > 0.9] != image[mask > 0.9]).any(-1).float().mean() > 0.5
    inside = torch.zeros(height, width, dtype=torch.bool)
    for box in boxes:
        inside[max(box.y, 0) : box.y + box.height, max(box.x, 0) : box.x + box.width] = True
    assert torch.equal(mask > 0, inside.expand_as(mask))
    assert all(crop.shape == (1, EDGE, EDGE, 3) for crop in crops)


@pytest.mark.parametrize("count", [0, 1])
def test_denoise_0_returns_the_picture_and_shows_the_regions(count, vae):
    image = rand(2, 96, 112, 4)
    result, crops, mask = detailed(image, vae, BOXES, sigmas=torch.ones(count))
    assert torch.equal(result, image)
    assert len(crops) == 6 and mask.max() == 1
    assert not any(torch.equal(crops[i], crops[i + 1]) for i in range(5))


@pytest.mark.parametrize("boxes", [[], [[], []], ()])
def test_without_regions_the_picture_stays_and_nodes_after_crops_do_not_run(boxes, vae):
    image = rand(2, 40, 48, 3)
    result, crops, mask = detailed(image, vae, bboxes=boxes)
    assert torch.equal(result, image) and not mask.any()
    assert len(crops) == 1 and isinstance(crops[0], ExecutionBlocker)
    result, _, mask = detailed(image, vae, mask=torch.zeros(1, 64, 64))
    assert torch.equal(result, image) and not mask.any()


def test_the_guider_and_the_model_are_not_written_to(vae):
    model = toy()
    positive, negative = say(0.8), say(-0.4)
    guider = CFGGuider.execute(model, positive, negative, 7.0)[0]
    before = frozen([model, guider.original_conds, guider.model_options])
    by_guider = detailed(rand(1, 96, 112, 3), vae, BOXES, guider=guider)[0]
    assert frozen([model, guider.original_conds, guider.model_options]) == before
    by_prompts = detailed(rand(1, 96, 112, 3), vae, BOXES, model, positive=positive, negative=negative)[0]
    assert torch.equal(by_guider, by_prompts)


def test_the_same_seed_gives_the_same_bits(vae):
    runs = [detailed(rand(1, 96, 112, 3), vae, BOXES[:2], noise_seed=seed)[0] for seed in (5, 5, 6)]
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])


def test_each_picture_of_a_batch_has_noise_of_its_own(vae):
    picture = photograph(96, 112)
    both = detailed(picture.expand(2, -1, -1, -1), vae, FAR)[0]
    for i in range(2):
        assert relative_error(both[i : i + 1], detailed(picture, vae, FAR, noise_seed=SEED + i)[0]) < 1e-5
    assert relative_error(both[1], both[0]) > 1e-3


def test_seeds_go_on_after_the_largest(vae):
    last, first = (detailed(rand(1, 96, 112, 3), vae, FAR, noise_seed=seed)[0] for seed in (2**64 - 1, 0))
    assert not torch.equal(last, first)
    alone = detailed(rand(1, 96, 112, 3), vae, FAR[1:], noise_seed=0)[0]
    at = (0, *FAR[1].slices)
    assert relative_error(last[at], alone[at]) < 1e-5


# Regions and each other


def test_each_region_sees_the_former_ones(vae):
    image = photograph(96, 112)
    together = detailed(image, vae, BOXES)[0]
    step = image
    for j, box in enumerate(BOXES):
        step = detailed(step, vae, [box], noise_seed=SEED + j)[0]
    assert torch.equal(together, step)
    reverse = detailed(image, vae, BOXES[::-1])[0]
    assert relative_error(reverse, together) > 0.01


class Counting(toy_network.Prompted):
    """Notes how many latents it is called with."""

    def __init__(self):
        super().__init__()
        self.rows = []

    def forward(self, x, t, context, **kwargs):
        self.rows.append(len(x))
        return super().forward(x, t, context, **kwargs)


@pytest.mark.parametrize("name, rows", [("euler", 4), ("euler_ancestral", 2), ("ddim", 2), ("dpmpp_2m", 4), ("lcm", 2)])
def test_a_region_does_not_depend_on_those_of_its_batch(name, rows, vae):
    """Rows: the positive and the negative of each region. Samplers that draw noise draw it for the whole batch."""
    image, model = photograph(96, 112), toy(Counting)
    together = detailed(image, vae, FAR, model, sampler=sampler(name))[0]
    assert set(model.model.diffusion_model.rows) == {rows}
    alone = detailed(image, vae, FAR, toy(), sampler=sampler(name), prompts="[SKIP]\n\n[SKIP]")[0]
    at = Box(88, 58, 24, 30).slices
    assert relative_error(together[0][at], alone[0][at]) < 1e-5
    assert torch.equal(alone[0][FAR[0].slices], image[0][FAR[0].slices])


def test_memory_bounds_the_batch(vae, monkeypatch):
    image = photograph(96, 300)
    boxes = [Box(20 + 70 * i, 30, 16, 16) for i in range(4)]
    counts = {}
    for memory in (2**40, 1):
        monkeypatch.setattr(model_management, "get_total_memory", lambda *_, memory=memory: memory)
        model = toy(Counting)
        counts[memory] = detailed(image, vae, boxes, model)[0], set(model.model.diffusion_model.rows)
    assert [rows for _, rows in counts.values()] == [{8}, {2}]
    assert relative_error(*(result for result, _ in counts.values())) < 1e-5
    many = toy(Counting)
    monkeypatch.setattr(model_management, "get_total_memory", lambda *_: 2**50)
    detailed(photograph(96, 110, b=9), vae, FAR[:1], many)
    assert max(many.model.diffusion_model.rows) == 2 * detailer.MOST


class Words:
    """A text encoder that makes a toy prompt of a number."""

    def tokenize(self, text):
        return text

    def encode_from_tokens_scheduled(self, tokens):
        return say(float(tokens))


def test_each_prompt_reaches_its_region_alone(vae):
    image, left, right = photograph(96, 112), Box(0, 0, 40, 60).slices, Box(80, 50, 32, 46).slices
    run = functools.partial(detailed, image, vae, FAR, clip=Words())
    plain, own = run()[0], run(prompts="0.8\n-2.5")[0]
    assert torch.equal(own[0][left], plain[0][left])
    assert relative_error(own[0][right], plain[0][right]) > 0.01
    both = run(prompts="-2.5")[0]
    assert torch.equal(both, run(positive=say(-2.5))[0]), "the last prompt serves all further regions"
    assert torch.equal(own[0][right], both[0][right])
    assert torch.equal(run(prompts="\n-2.5")[0], own), "an empty line is the connected conditioning"
    assert torch.equal(run(prompts="\n0.8[SEP]\n-2.5")[0], own)
    skipped = run(prompts="[SKIP]\n-2.5")[0]
    assert torch.equal(skipped[0][left], image[0][left]) and torch.equal(skipped[0][right], own[0][right])


def test_the_order_says_which_prompt_a_region_gets(vae):
    image = photograph(96, 112)
    run = functools.partial(detailed, image, vae, FAR[::-1], clip=Words(), prompts="-2.5\n[SKIP]")
    changed = {order: [(run(order=order)[0] != image)[0][box.slices].any() for box in FAR] for order in ORDERED}
    assert {order: [bool(x) for x in pair] for order, pair in changed.items()} == ORDERED


ORDERED = {"as given": [False, True], "largest first": [False, True], "left to right": [True, False]}


# Guiders, models and conditionings


def test_any_guider_samples(vae):
    model, image = toy(), photograph(96, 112)
    sigmas = sigmas_of(model)
    makers = {
        "basic": lambda model: BasicGuider.execute(model, say(0.8))[0],
        "dual": lambda model: DualCFGGuider.execute(model, say(0.8), say(0.2), say(-0.4), 3.0, 2.0, "regular")[0],
    }
    for maker in makers.values():
        ours = detailed(image, vae, BOXES, guider=maker(model), sigmas=sigmas)[0]
        expected = by_hand(image, vae, lambda crop, patch, m=maker: m(patch(model)), BOXES, sampler(), sigmas)
        assert relative_error(ours, expected) < 1e-5


def test_an_edit_model_reads_the_crop(vae):
    """InstructPix2Pix, by core's node and by ours: its picture is the crop, not the resized whole picture."""
    model, image = thin.host_model("ip2p"), photograph(96, 112)
    positive, negative = prompts(768)
    sigmas = sigmas_of(model, steps=1)

    def guider_of(crop, patch):
        prompted = InstructPixToPixConditioning.execute(positive, negative, crop, vae)
        return CFGGuider.execute(patch(model), prompted[0], prompted[1], 2.0)[0]

    expected = by_hand(image, vae, guider_of, BOXES[:2], sampler(), sigmas)
    for prompted in (
        InstructPixToPixConditioning.execute(positive, negative, image, vae).result[:2],
        run_node(IP2PConditioning, positive=positive, negative=negative, vae=vae, image=image, fit="multiple of 8")[:2],
    ):
        whole = dict(zip(("positive", "negative"), prompted, strict=True))
        ours = detailed(image, vae, BOXES[:2], model, **whole, sigmas=sigmas, cfg=2.0)[0]
        assert relative_error(ours, expected) < ROUNDED


def thin_flux():
    config = kinds.flux_config()
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, "", device=torch.device("cpu"))
    fill(model.diffusion_model)
    return ModelPatcher(model, model_management.get_torch_device(), model_management.unet_offload_device())


def test_an_edit_model_with_reference_latents_reads_the_crop():
    vae, model, image = thin_vae("flux"), thin_flux(), photograph(96, 112)
    sigmas = sigmas_of(model, "simple", steps=2)
    prompt = [[randn(1, 5, 8), {"pooled_output": randn(1, 8, seed=1)}]]

    def referring(picture):
        return ReferenceLatent.execute(prompt, nodes.VAEEncode().encode(vae, picture)[0])[0]

    def run(conditioning):
        return detailed(image, vae, FAR, guider=BasicGuider.execute(model, conditioning)[0], sigmas=sigmas)[0]

    def guider_of(crop, patch):
        return BasicGuider.execute(patch(model), referring(crop))[0]

    expected = by_hand(image, vae, guider_of, FAR, sampler(), sigmas)
    assert relative_error(run(referring(image)), expected) < ROUNDED
    assert relative_error(run(prompt), expected) > 0.01


def test_the_picture_of_a_controlnet_is_cut_to_the_region(sd15, vae):
    control, hint, image = thin.controlnet(), rand(1, 96, 112, 3, seed=4), photograph(96, 112)
    positive, negative = prompts(768)
    sigmas = sigmas_of(sd15, steps=1)
    apply = nodes.ControlNetApplyAdvanced().apply_controlnet
    regions = iter([around(box, (96, 112)) for box in BOXES[:1]])

    def guider_of(crop, patch):
        of_region = resize(hint[0][next(regions).slices], EDGE, EDGE)[None]
        prompted = apply(positive, negative, control, of_region, 1.0, 0.0, 1.0)
        return CFGGuider.execute(patch(sd15), *prompted, 2.0)[0]

    expected = by_hand(image, vae, guider_of, BOXES[:1], sampler(), sigmas)
    whole = apply(positive, negative, control, hint, 1.0, 0.0, 1.0)
    run = functools.partial(detailed, image, vae, BOXES[:1], sd15, sigmas=sigmas, cfg=2.0)
    assert relative_error(run(positive=whole[0], negative=whole[1])[0], expected) < ROUNDED
    without = run(positive=positive, negative=negative)[0]
    assert relative_error(without, expected) > 1e-3


# A video


class VideoVAE:
    """Makes one latent frame of the first frame and of every four further ones, as Wan's VAE does."""

    latent_dim, not_video, downscale_ratio = 3, False, (4, 8, 8)

    def spacial_compression_encode(self):
        return 8

    def temporal_compression_decode(self):
        return 4

    def vae_encode_crop_pixels(self, pixels):
        return pixels

    def encode(self, pixels):
        assert len(pixels) % 4 == 1
        groups = torch.cat((pixels[:1], pixels[1:].unflatten(0, (-1, 4)).mean(1)))
        small = F.avg_pool2d(groups.movedim(-1, 1), 8).movedim(1, 0)[None]  # (1, 3, T', h, w)
        return small.repeat(1, 6, 1, 1, 1)[:, :16]

    def decode(self, samples):
        frames = samples[:, :3].repeat_interleave(torch.tensor([1] + [4] * (samples.shape[2] - 1)), 2)
        return F.interpolate(frames, scale_factor=(1, 8, 8)).movedim(1, -1)


class Tall(toy_network.Prompted):
    """Notes the shapes of its latents."""

    def __init__(self):
        super().__init__()
        self.shapes = []

    def forward(self, x, t, context, **kwargs):
        self.shapes.append(tuple(x.shape))
        return super().forward(x, t, context, **kwargs)


def test_a_video_model_samples_the_frames_of_a_region_together():
    network = Tall()
    model, image = toy_network.patcher(network, "video"), rand(6, 80, 120, 3)
    moving = [[{"x": 20 + 3 * i, "y": 30, "width": 20 + i % 2, "height": 18, "label": "face"}] for i in range(6)]
    result, crops, mask = detailed(image, VideoVAE(), model=model, bboxes=moving, batch="video")
    assert {shape[1:] for shape in network.shapes} == {(16, 3, 8, 8)}, "6 frames are filled up to 9: 3 latent frames"
    assert [crop.shape for crop in crops] == [(6, EDGE, EDGE, 3)]
    assert torch.equal(result[mask == 0], image[mask == 0]) and (result != image).any((1, 2, 3)).all()
    network.shapes.clear()
    result, crops, _ = detailed(image, VideoVAE(), model=model, bboxes=moving)
    assert {shape[1:] for shape in network.shapes} == {(16, 1, 8, 8)} and len(crops) == 6


def test_a_picture_model_gives_a_still_video_still_results(vae):
    image = photograph(96, 112).expand(3, -1, -1, -1)
    run = functools.partial(detailed, image, vae, FAR)
    still = run(batch="video")[0]
    assert max(relative_error(still[i], still[0]) for i in (1, 2)) < 1e-5
    assert relative_error(run()[0][1], still[1]) > 1e-3, "pictures have noise of their own"


# Progress, interruption and errors


def test_progress_covers_all_regions(vae, bars):
    detailed(photograph(96, 112), vae, [*BOXES, *FAR])
    (bar,) = (bar for bar in bars if bar.values)
    assert bar.values == sorted(bar.values) and bar.values[-1] == 3 * 5 == bar.total


def test_an_interrupted_run_stops(vae):
    class Interrupts(toy_network.Prompted):
        def forward(self, x, t, context, **kwargs):
            model_management.interrupt_current_processing()
            return super().forward(x, t, context, **kwargs)

    with pytest.raises(model_management.InterruptProcessingException):
        detailed(photograph(96, 112), vae, BOXES, toy(Interrupts))


class Overflows(toy_network.Prompted):
    def forward(self, x, t, context, **kwargs):
        return x * torch.nan


def test_what_cannot_work_is_refused(vae):
    image, model = photograph(96, 112), toy()
    guider = CFGGuider.execute(model, say(0.8), say(-0.4), 7.0)[0]
    run = functools.partial(detailed, image, vae, BOXES)
    with pytest.raises(ValueError, match="needs regions: connect bboxes of a detector or of Pick Points, or a mask"):
        detailed(image, vae)
    with pytest.raises(ValueError, match="guider and model, positive are connected"):
        run_node(
            Detailer,
            image=image,
            vae=vae,
            sampler=sampler(),
            sigmas=sigmas_of(model),
            noise_seed=0,
            guider=guider,
            model=model,
            positive=say(1.0),
        )
    with pytest.raises(ValueError, match="positive, negative is not connected"):
        run(positive=None, negative=None)
    with pytest.raises(ValueError, match="prompts has text, but clip is not connected"):
        run(prompts="a cat")
    assert run(prompts="[SKIP]")[0].equal(image)
    with pytest.raises(ValueError, match="makes latents of 16 channels, but the model's latents have 4"):
        detailed(image, thin_vae("flux"), BOXES)
    with pytest.raises(ValueError, match="region 1, as the VAE decodes it, has NaN or infinity"):
        run(model=toy(Overflows))
    with pytest.raises(ValueError, match="no box of bboxes has a label"):
        detailed(image, vae, bboxes=[Box(1, 2, 30, 40)._asdict()], labels="face")


def test_the_crops_have_whole_latent_pixels():
    vae = thin_vae("flux2")
    model = toy_network.patcher(toy_network.Prompted(), "eps")
    model.model.latent_format.latent_channels = randn(1).numel() * vae.latent_channels
    _, crops, _ = detailed(photograph(96, 112), vae, BOXES[:1], model, size=72)
    assert crops[0].shape == (1, 64, 64, 3)
