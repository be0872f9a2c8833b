"""unCLIP Encode and unCLIP-L Statistics against diffusers' StableUnCLIPImg2ImgPipeline and Stability's formula."""

import functools
import random
from types import SimpleNamespace

import folder_paths
import pytest
import torch
from diffusers import DDPMScheduler, StableUnCLIPImg2ImgPipeline
from diffusers.models.embeddings import get_timestep_embedding
from diffusers.pipelines.stable_diffusion import StableUnCLIPImageNormalizer
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

import nodes as host_nodes
from kit import run as sampled
from kit import thin
from kit.assertions import frozen, relative_error
from kit.tensors import rand, randn
from pentimento.model_patchers.comfyui.conditioning import FEED
from pentimento.model_patchers.condition.unclip import (
    Pictures,
    adm,
    alphas_cumprod,
    read_statistics,
    read_weights,
)
from pentimento.nodes.condition.unclip import UnCLIPEncode, UnCLIPStats

pytestmark = pytest.mark.usefixtures("one_thread")
SIZE = 4, 6  # of the latent
CFG = 10.0
NOISE_SEED = 11
DIM = {"unclip_l": 768, "unclip_h": 1024}
LEVELS = [0, 50, 500]
COSINE = DDPMScheduler(beta_schedule="squaredcos_cap_v2")


class Vision:
    """A CLIP vision model: as many embeddings as pictures, of the spread that ViT-L/14's have."""

    def __init__(self, dim, seed=8):
        self.dim, self.seed, self.calls = dim, seed, []

    def encode_image(self, image, crop=True):
        self.calls.append((image.shape, crop))
        return SimpleNamespace(image_embeds=0.6 * randn(len(image), self.dim, seed=self.seed) + 0.1)


@pytest.fixture(scope="module", params=["unclip_l", "unclip_h"])
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def models(precision):
    return {kind: thin.host_model(kind) for kind in DIM}


@pytest.fixture(scope="module")
def unets():
    return {kind: thin.diffusers_unet(kind) for kind in DIM}


@pytest.fixture(scope="module")
def stats():
    """As ViT-L/14's: mean (1, 768), standard deviation (1, 768)."""
    return 0.2 * randn(1, 768, seed=9), 0.3 + 0.5 * rand(1, 768, seed=10)


@pytest.fixture
def folder(node_classes, tmp_path, monkeypatch):
    """models/unclip as the pack registers it, empty."""
    paths, extensions = folder_paths.folder_names_and_paths["unclip"]
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "unclip", ([str(tmp_path)], extensions))
    return tmp_path


@pytest.fixture
def with_stats(models, stats, folder):
    """The unCLIP-L model through the node."""
    torch.save(stats, folder / "ViT-L-14_stats.th")
    return UnCLIPStats.execute(models["unclip_l"], "ViT-L-14_stats.th").result[0]


def encode(conditioning, vision, count=1, weights="", level=0, merge=50, seed=NOISE_SEED, crop="center"):
    image = rand(count, 10, 12, 3, seed=3)
    return UnCLIPEncode.execute(conditioning, vision, image, weights, level, merge, seed, crop).result[0]


def condition(vision, **settings):
    positive, negative = sampled.prompts()
    return encode(positive, vision, **settings), negative


def run(model, prompts, batch=1, seed=7, steps=sampled.STEPS):
    noise = randn(batch, 4, *SIZE, seed=5)
    return sampled.sample(model, *prompts, noise, sampled.scheduler(steps).sigmas, CFG, seed=seed)


class Pipeline(StableUnCLIPImg2ImgPipeline):
    _execution_device = torch.device("cpu")
    mixed = None

    def noise_image_embeddings(self, *args, **kwargs):
        return super().noise_image_embeddings(*args, **kwargs) if self.mixed is None else self.mixed


def diffusers_pipeline(normalizer, unet=None, steps=sampled.STEPS):
    encoder = torch.nn.Identity()
    encoder.register_parameter("any", torch.nn.Parameter(torch.zeros(1)))
    return Pipeline(None, encoder, normalizer, COSINE, None, None, unet, sampled.scheduler(steps), None)


def reference(unet, embeds, level=0, stats=None, batch=1, mixed=None, steps=sampled.STEPS):
    normalizer = StableUnCLIPImageNormalizer(embeds.shape[-1])
    if stats is not None:
        normalizer.mean.copy_(stats[0])
        normalizer.std.copy_(stats[1])
    pipeline = diffusers_pipeline(normalizer, unet, steps)
    pipeline.mixed = mixed
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(
        image_embeds=embeds,
        noise_level=level,
        height=8 * SIZE[0],
        width=8 * SIZE[1],
        num_inference_steps=steps,
        guidance_scale=CFG,
        num_images_per_prompt=batch,
        latents=randn(batch, 4, *SIZE, seed=5) * pipeline.scheduler.init_noise_sigma,
        generator=torch.Generator().manual_seed(NOISE_SEED),
        output_type="latent",
        **sampled.embeds(*sampled.prompts(), 1),
    ).images


def stability(pictures, merge, merge_noise, mean=0.0, std=1.0):
    """scripts/streamlit/stableunclip.py: the mean of noised embeddings with their levels, noised again.

    pictures: (embedding (1, dim), weight, level, noise (1, dim)) of each.
    """

    def augment(x, level, noise):
        z = COSINE.add_noise((x - mean) / std, noise, torch.tensor([level])) * std + mean
        emb = get_timestep_embedding(torch.tensor([level]), x.shape[-1], flip_sin_to_cos=True, downscale_freq_shift=0)
        return torch.cat((z, emb), 1)

    vectors = [weight * augment(x, level, noise) for x, weight, level, noise in pictures]
    mixed = torch.stack(vectors).sum(0) / sum(weight for _, weight, _, _ in pictures)
    if len(pictures) > 1 and merge is not None:
        mixed = augment(mixed[:, : mixed.shape[1] // 2], merge, merge_noise)
    return mixed


def noises(count, dim, seed=NOISE_SEED):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(1, dim, generator=generator) for _ in range(count)]


@pytest.mark.both_devices
@pytest.mark.in_half
@pytest.mark.parametrize("level", LEVELS)
def test_one_picture_is_equal_to_diffusers(models, unets, precision, kind, level, stats, with_stats):
    model, theirs = (with_stats, stats) if kind == "unclip_l" else (models[kind], None)
    vision, batch = Vision(DIM[kind]), 2 if level == 50 else 1
    ours = run(model, condition(vision, level=level, weights="0.3"), batch)
    embeds = vision.encode_image(torch.empty(1)).image_embeds
    expected = reference(unets[kind], embeds, level, theirs, batch)
    near = precision.tolerance(
        1e-4, expected, lambda: reference(precision.lowered(unets[kind]), embeds, level, theirs, batch)
    )
    assert relative_error(ours, expected) < near


@pytest.mark.parametrize("level", [0, 37, 500, 999])
def test_the_vector_is_equal_to_diffusers(kind, level, stats):
    dim = DIM[kind]
    mean, std = stats if kind == "unclip_l" else (torch.zeros(1, dim), torch.ones(1, dim))
    normalizer = StableUnCLIPImageNormalizer(dim)
    normalizer.mean.copy_(mean)
    normalizer.std.copy_(std)
    x, noise = Vision(dim).encode_image(torch.empty(1)).image_embeds, randn(1, dim, seed=11)
    theirs = diffusers_pipeline(normalizer).noise_image_embeddings(x, level, noise)
    picture = Pictures(x, torch.ones(1, 1, dtype=torch.float64), noise, level, noise, -1)
    ours = adm([picture], mean, std)
    assert relative_error(ours[:, :dim], theirs[:, :dim]) <= 1e-6
    assert relative_error(ours[:, dim:], theirs[:, dim:]) <= 1e-6


@pytest.mark.both_devices
@pytest.mark.parametrize("merge", [-1, 0, 50])
@pytest.mark.parametrize("weights", ["", "1, 0.25, 3"])
def test_several_pictures_are_equal_to_stabilitys_formula(unets, with_stats, stats, merge, weights):
    """The vector itself; and the whole run, once with noise on the mean and once without."""
    vision, level = Vision(768), 100
    prompts = condition(vision, count=3, weights=weights, level=level, merge=merge)
    embeds = vision.encode_image(torch.empty(3)).image_embeds
    *noise, merge_noise = noises(4, 768)
    pictures = zip(embeds.split(1), read_weights(weights) or [1, 1, 1], [level] * 3, noise, strict=True)
    theirs = stability(list(pictures), None if merge < 0 else merge, merge_noise, *stats)

    supply = prompts[0][0][1]["model_conds"][FEED]
    vector = supply({}, with_stats, torch.device("cpu"))["y"].cond
    assert relative_error(vector[:, :768], theirs[:, :768]) < 1e-5
    assert relative_error(vector[:, 768:], theirs[:, 768:]) < 1e-6
    if weights and merge:
        ours = run(with_stats, prompts)
        assert relative_error(ours, reference(unets["unclip_l"], embeds[:1], mixed=theirs)) < 1e-4


def test_pictures_of_nodes_in_a_row_are_mixed(models):
    """Each with its own level, weight and seed; the last decides about the noise on the mean."""
    first, second, dim = Vision(1024), Vision(1024, seed=12), 1024
    prompt = encode(sampled.prompts()[0], first, count=2, weights="1 2", level=10, merge=-1)
    prompt = encode(prompt, second, weights="4", level=200, merge=70, seed=5)
    supply = prompt[0][1]["model_conds"][FEED]
    vector = supply({}, models["unclip_h"], torch.device("cpu"))["y"].cond

    a, b = first.encode_image(torch.empty(2)).image_embeds.split(1)
    c = second.encode_image(torch.empty(1)).image_embeds
    (m, n, _), (o, merge_noise) = noises(3, dim), noises(2, dim, seed=5)
    theirs = stability([(a, 1, 10, m), (b, 2, 10, n), (c, 4, 200, o)], 70, merge_noise)
    assert relative_error(vector, theirs) < 1e-4


def hosts(dim, count, level):
    """The wiring with ComfyUI's own nodes: one unCLIPConditioning for each picture."""
    positive, negative = sampled.prompts()
    for embeds in Vision(dim).encode_image(torch.empty(count)).image_embeds.split(1):
        output = SimpleNamespace(image_embeds=embeds)
        (positive,) = host_nodes.unCLIPConditioning().apply_adm(positive, output, 1.0, level / 999)
    return positive, negative


@pytest.mark.in_half
def test_wrong_variants_are_far_off(models, unets, precision, stats):
    vision, level, model, unet = Vision(768), 500, models["unclip_l"], unets["unclip_l"]
    one, *_ = embeds = vision.encode_image(torch.empty(2)).image_embeds.split(1)

    def tolerances(expected, **given):
        again = functools.cache(lambda: reference(precision.lowered(unet), one, steps=2, **given))
        return [precision.tolerance(float32, expected, again) for float32 in (1e-4, 1e-2)]

    theirs, without = (reference(unet, one, level, numbers, steps=2) for numbers in (stats, None))
    near, far = tolerances(without, level=level)
    ours = run(model, condition(vision, level=level), steps=2)
    assert relative_error(ours, theirs) > far, "without statistics"
    assert relative_error(ours, without) < near, "and only by them"
    assert relative_error(run(model, hosts(768, 1, level), steps=2), without) > far, "ComfyUI's noise"

    *noise, merge_noise = noises(3, 768)
    pictures = [(x, 1, 0, n) for x, n in zip(embeds, noise, strict=True)]
    vector = stability(pictures, 50, merge_noise)
    mixed = reference(unet, one, mixed=vector, steps=2)
    near, far = tolerances(mixed, mixed=vector)
    assert relative_error(run(model, condition(vision, count=2), steps=2), mixed) < near
    assert relative_error(run(model, condition(vision, count=2, merge=-1), steps=2), mixed) > far, (
        "no noise on the mean"
    )
    assert relative_error(run(model, hosts(768, 2, 0), steps=2), mixed) > far, "ComfyUI's sum"


def test_missing_statistics_are_told_in_the_log(models, with_stats, caplog):
    for model, vision in ((with_stats, Vision(768)), (models["unclip_h"], Vision(1024))):
        run(model, condition(vision), steps=1)
    assert "statistics" not in caplog.text
    run(models["unclip_l"], condition(Vision(768)), steps=1)
    assert "unCLIP-L without statistics gets twice the noise" in caplog.text


def test_each_picture_has_noise_of_its_own(models):
    """ComfyUI gives all the same, so that it does not average out."""
    supply = condition(Vision(1024), count=16, level=999, merge=-1)[0][0][1]["model_conds"][FEED]
    vector = supply({}, models["unclip_h"], torch.device("cpu"))["y"].cond
    assert float(vector[:, :1024].std()) == pytest.approx(1 / 4, rel=0.1)


def test_the_noise_has_its_own_seed_and_leaves_the_global_state(models):
    model, vision = models["unclip_h"], Vision(1024)
    torch.manual_seed(1)
    rng = torch.get_rng_state()
    first = run(model, condition(vision, count=2), seed=1, steps=1)
    assert torch.equal(torch.get_rng_state(), rng)
    assert torch.equal(run(model, condition(vision, count=2), seed=2, steps=1), first)
    assert not torch.equal(run(model, condition(vision, count=2, seed=2**64 - 1), steps=1), first)
    run(model, hosts(1024, 1, 0), seed=1, steps=1)
    assert not torch.equal(torch.get_rng_state(), rng), "ComfyUI sets it: the check above can fail"


def watched(model):
    """A clone, and what its denoiser is given."""
    calls = []

    def watch(apply, options):
        calls.append(options)
        return apply(options["input"], options["timestep"], **options["c"])

    model = model.clone()
    model.set_model_unet_function_wrapper(watch)
    return model, calls


def test_the_negative_prompt_has_no_picture_and_runs_in_the_same_batch(models):
    before = frozen(models["unclip_h"])
    model, calls = watched(models["unclip_h"])
    run(model, condition(Vision(1024)), batch=3)
    assert len(calls) == sampled.STEPS
    for call in calls:
        empty = [not y.any() for y in call["c"]["y"]]
        assert empty == [kind == 1 for kind in call["cond_or_uncond"] for _ in range(3)]
        assert FEED not in call["c"]
    assert frozen(models["unclip_h"]) == before


def test_pictures_for_parts_of_the_latent(models):
    """ComfyUI copies a condition with an area to the other prompt: there, without the picture."""
    model, calls = watched(models["unclip_h"])
    positive, negative = condition(Vision(1024))
    (left,) = host_nodes.ConditioningSetArea().append(positive, 24, 32, 0, 0, 1.0)
    run(model, (left + sampled.prompts()[0], negative), steps=1)
    shown = {
        (part.shape[-1], bool(y.any()), kind)
        for call in calls
        for part, y, kind in zip(call["input"], call["c"]["y"], call["cond_or_uncond"], strict=True)
    }
    assert shown == {(3, True, 0), (3, False, 1), (6, False, 0), (6, False, 1)}


def test_copies_of_the_check_supply_the_pictures_too(models):
    """Samplers in tiles copy every ControlNet on a prompt, and the check travels as one."""
    [[text, values]], negative = condition(Vision(1024))
    copied = [[text, {**values, "control": values["control"].copy()}]]
    ours, theirs = (run(models["unclip_h"], (one, negative), steps=1) for one in (copied, [[text, values]]))
    assert torch.equal(ours, theirs)
    assert not torch.equal(ours, run(models["unclip_h"], sampled.prompts(), steps=1))


@pytest.mark.both_devices
@pytest.mark.parametrize("host_first", [True, False])
def test_with_the_hosts_node_on_the_same_prompt(models, host_first):
    host = host_nodes.unCLIPConditioning()
    output = SimpleNamespace(image_embeds=randn(1, 1024, seed=1))
    positive, negative = sampled.prompts()
    with pytest.raises(ValueError, match="unCLIP Encode and unCLIPConditioning are on the same conditioning"):
        if host_first:
            encode(host.apply_adm(positive, output, 1.0, 0.0)[0], Vision(1024))
        else:
            (positive,) = host.apply_adm(encode(positive, Vision(1024)), output, 1.0, 0.0)
            run(models["unclip_h"], (positive, negative))


@pytest.mark.parametrize("crop", ["center", "none"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_clip_vision_sees_colours_cropped_as_asked(crop, channels):
    vision = Vision(768)
    image = torch.rand(2, 10, 12, channels)
    UnCLIPEncode.execute(sampled.prompts()[0], vision, image, "", 0, 50, 0, crop)
    assert vision.calls == [((2, 10, 12, 3), crop == "center")]


def test_the_prompts_own_keys_stay():
    positive, _ = sampled.prompts()
    positive[0][1] |= {"strength": 0.5, "model_conds": {"other": 1}}
    ours = encode(positive * 2, Vision(768))
    assert [values["strength"] for _, values in ours] == [0.5, 0.5]
    assert all(values["model_conds"]["other"] == 1 for _, values in ours)
    assert positive[0][1] == {"strength": 0.5, "model_conds": {"other": 1}}, "an input was written to"


@pytest.mark.parametrize(
    "kind, dim, message",
    [
        ("unclip_h", 768, "unCLIP Encode works with Stable unCLIP-L, and .* is Stable unCLIP-H"),
        ("unclip_l", 1024, "unCLIP Encode works with Stable unCLIP-H, and .* is Stable unCLIP-L"),
        ("sd2", 768, "unCLIP Encode works with Stable unCLIP-L, and .* is Stable Diffusion 2 "),
    ],
)
def test_another_model_is_refused_before_sampling(models, kind, dim, message):
    with pytest.raises(ValueError, match=message):
        run(models.get(kind) or thin.host_model(kind), condition(Vision(dim)))


@pytest.mark.parametrize("dim", [512, 1152, 1280])
def test_another_clip_vision_model_is_refused(dim):
    with pytest.raises(ValueError, match=f"clip_vision makes embeddings of {dim} numbers"):
        encode(sampled.prompts()[0], Vision(dim))


def test_two_clip_vision_models_on_one_prompt_are_refused():
    with pytest.raises(ValueError, match="embeddings of 1024 numbers, but conditioning has .* makes 768"):
        encode(encode(sampled.prompts()[0], Vision(768)), Vision(1024))


@pytest.mark.parametrize(
    "weights, message",
    [
        ("1", "weights has 1 numbers but image has 2 pictures"),
        ("1, 2, 3", "weights has 3 numbers but image has 2 pictures"),
        ("1, much", "weights is '1, much', and that holds more than numbers"),
        ("1, -0.5", "no weight may be negative"),
        ("1, nan", "no weight may be negative or infinite"),
        ("1, inf", "no weight may be negative or infinite"),
        ("1e308, 1e308", "no weight may be negative or infinite"),
        ("0, 0", "weights is '0, 0', so no picture has any"),
        ("0,5", "weights is '0,5', in which a comma may stand for a decimal point"),
        ("1,5; 0,5", "a comma may stand for a decimal point"),
        ("1,5 2,5", "a comma may stand for a decimal point"),
        ("1; 2,5", "a comma may stand for a decimal point"),
    ],
)
def test_wrong_weights_are_refused(weights, message):
    with pytest.raises(ValueError, match=message):
        encode(sampled.prompts()[0], Vision(768), count=2, weights=weights)
    if "pictures" not in message:
        assert message in UnCLIPEncode.validate_inputs(weights=weights)


def test_weights_that_are_right_or_not_known_yet_are_valid():
    for weights in ("", " ", "1", "1,2.5", "1,2", "1,0,1", "0, 5", "0,1.0", "1, 2, 3", "5e-324,1e-05 3", None):
        assert UnCLIPEncode.validate_inputs(weights=weights) is True


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=5).filter(any), st.randoms(use_true_random=False))
def test_weights_are_read_as_they_are_written(weights, rng: random.Random):
    text = "".join(f"{weight!r}{rng.choice([', ', ' ', ',', ';', chr(10)])}" for weight in weights)
    assert read_weights(rng.choice(["", " "]) + text) == weights


def test_schedule_and_levels_are_diffusers():
    assert (COSINE.alphas_cumprod - alphas_cumprod()).abs().max() < 1e-6
    assert float((1 - alphas_cumprod()[0]) ** 0.5) == pytest.approx(0.006425, abs=1e-5), "level 0 has noise"
    for level in (0, 37, 500, 999):
        theirs = get_timestep_embedding(torch.tensor([level]), 768, flip_sin_to_cos=True, downscale_freq_shift=0)
        x = torch.zeros(1, 768)
        (ours,) = adm([Pictures(x, torch.ones(1, 1), x, level, x, -1)], x, x + 1).split(768, 1)[1:]
        assert relative_error(ours, theirs) <= 1e-6


def test_a_vector_is_of_one_or_more_groups(models):
    """Whatever the weights are multiplied with."""
    supplies = [
        condition(Vision(1024), count=2, weights=weights)[0][0][1]["model_conds"][FEED]
        for weights in ("1, 3", "10, 30")
    ]
    identity = torch.zeros(1, 1024), torch.ones(1, 1024)
    ours, other = (adm(supply.groups, *identity) for supply in supplies)
    assert ours.shape == (1, 2048)
    assert (ours - other).abs().max() < 1e-5


def save_zip(pair, path):
    torch.save(pair, path)


def save_legacy(pair, path):
    torch.save(list(pair), path, _use_new_zipfile_serialization=False)


def save_flat(pair, path):
    torch.save(tuple(tensor[0].double() for tensor in pair), path)


def save_normalizer(pair, path):
    save_file(dict(zip(("mean", "std"), pair, strict=True)), path)


@pytest.mark.parametrize(
    "save, name",
    [
        (save_zip, "ViT-L-14_stats.th"),
        (save_legacy, "ViT-L-14_stats.th"),
        (save_flat, "stats.pt"),
        (save_normalizer, "diffusion_pytorch_model.safetensors"),
    ],
)
def test_statistics_in_every_form(models, stats, folder, save, name):
    save(stats, folder / name)
    model = UnCLIPStats.execute(models["unclip_l"], name).result[0]
    for patch, value in zip(("mean", "std"), stats, strict=True):
        assert torch.equal(model.get_model_object(f"noise_augmentor.data_{patch}"), value)


def test_the_folder_lists_statistics(folder):
    for name in ("ViT-L-14_stats.th", "image_normalizer.safetensors", "notes.txt"):
        (folder / name).touch()
    assert set(folder_paths.get_filename_list("unclip")) == {"ViT-L-14_stats.th", "image_normalizer.safetensors"}


def test_the_base_model_stays_as_it_was(models, stats, with_stats, folder):
    """Two clones with other statistics take turns, through this pack's node and through ComfyUI's."""
    base = models["unclip_l"]
    torch.save((stats[0] + 1, 2 * stats[1]), folder / "other.th")
    other = UnCLIPStats.execute(base, "other.th").result[0]
    with_stats.unpatch_model()  # as another test may have left it
    before = frozen(base)
    for prompts in (condition(Vision(768), level=300), hosts(768, 1, 300)):
        first = [run(model, prompts, steps=1) for model in (base, with_stats, other)]
        assert relative_error(first[1], first[0]) > 1e-3
        assert relative_error(first[2], first[1]) > 1e-3
        again = [run(model, prompts, steps=1) for model in (other, base, with_stats)]
        assert all(map(torch.equal, first, (*again[1:], again[0])))
        del first, again
    with_stats.unpatch_model()
    other.unpatch_model()
    assert frozen(base) == before


@pytest.mark.parametrize("kind, name", [("unclip_h", "Stable unCLIP-H"), ("sd2", "Stable Diffusion 2 ")])
def test_statistics_for_another_model_are_refused(models, stats, folder, kind, name):
    torch.save(stats, folder / "stats.th")
    with pytest.raises(ValueError, match=f"unCLIP-L Statistics works with Stable unCLIP-L, and .* is {name}"):
        UnCLIPStats.execute(models.get(kind) or thin.host_model(kind), "stats.th")


@pytest.mark.parametrize(
    "content, message",
    [
        ({"mean": torch.zeros(1, 1024), "std": torch.ones(1, 1024)}, r"'mean' \(1, 1024\), 'std' \(1, 1024\).*needs"),
        ({"mean": torch.zeros(1, 768)}, "holds 1 tensors: 'mean'"),
        ((torch.zeros(768),), "holds 1 tensors: '0'"),
        ({"a": torch.zeros(768), "b": torch.zeros(768)}, "holds 2 tensors: 'a'"),
        ((torch.zeros(768), torch.zeros(768)), "a standard deviation that is not above 0"),
        ((torch.full((768,), torch.nan), torch.ones(768)), "hold NaN or infinity, such as '0'"),
    ],
)
def test_another_file_is_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "wrong.th")
    with pytest.raises(ValueError, match=f"'wrong.th' .*{message}"):
        read_statistics(tmp_path / "wrong.th")


def test_a_file_that_would_run_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return eval, ("1 + 1",)

    torch.save((torch.zeros(768), Evil()), tmp_path / "evil.th")
    with pytest.raises(ValueError, match="'evil.th' is a pickle that would run code"):
        read_statistics(tmp_path / "evil.th")
