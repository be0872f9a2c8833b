"""Attention Couple against Regional Prompter's own cross-attention, in the same thin UNet."""

import copy
from functools import cache
from types import SimpleNamespace

import comfy.hooks
import comfy.sample
import comfy.sampler_helpers
import comfy.samplers
import numpy as np
import pytest
import torch
from comfy import model_management
from comfy.controlnet import ControlBase
from torch.nn import functional

from kit import kinds, narrow, toy_network
from kit import thin as thin_models
from kit.assertions import frozen, relative_error
from kit.golden import GOLDEN, maker
from kit.precision import FLOAT32
from kit.tensors import randn
from nodes import ConditioningCombine, ConditioningSetMask, ControlNetApplyAdvanced
from pentimento.model_patchers.prompt import attention_couple, attention_couple_unet, ella, regional_prompt
from pentimento.model_patchers.sample import hidiffusion
from pentimento.model_patchers.upscale import windows
from pentimento_host import standins

pytestmark = pytest.mark.usefixtures("one_thread")
make = maker("attention_couple")
CELL = attention_couple.CELL


def load(precision=FLOAT32):
    return toy_network.patcher(make.network(), "eps", precision.dtype)


@pytest.fixture(scope="module")
def thin(precision):
    return load(precision)


@pytest.fixture
def base(thin):
    """The thin UNet, which is as it was after the test."""
    before = frozen(thin)
    yield thin
    model_management.unload_all_models()
    assert frozen(thin) == before


@cache
def golden():
    with np.load(GOLDEN / "attention_couple.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


def rectangle(cell, size):
    """The mask of a region at the picture's size, as Regional Prompt makes it."""
    (height, width), (top, bottom, left, right) = size, cell
    mask = torch.zeros(1, height, width)
    mask[:, int(height * top) : int(height * bottom), int(width * left) : int(width * right)] = 1
    return mask


def regions(case, name):
    """A prompt's conditioning, in the form of Regional Prompt."""
    side, texts = make.sides(case)[name]
    if len(texts) == 1:
        return [[texts[0], {}]]
    entries, strength = [], 1.0
    if side.base is not None:
        entries, strength = [[texts[0], {"strength": side.base}]], 1 - side.base
        texts = texts[1:]
    size = 8 * case.size[0], 8 * case.size[1]
    if case.ratios:
        places = [
            {"mask": rectangle(cell, size), CELL: tuple(cell)} for cell in golden()[f"{case.name}, cells"].tolist()
        ]
    else:
        places = [{"mask": mask[None]} for mask in make.masks(case)]
    values = {"mask_strength": strength, "set_area_to_bounds": False}
    return entries + [[text, values | place] for text, place in zip(texts, places, strict=True)]


def prompts_of(case):
    return [regions(case, name) for name in ("positive", "negative")]


def predicted(model, prompts, x, sigma=make.SIGMA):
    """The denoised latent for each prompt, by a model with its wrappers, in ComfyUI's way."""
    model_management.load_models_gpu([model])
    device, options = model.load_device, model.model_options.copy()
    options["transformer_options"] = {**options["transformer_options"], "wrappers": model.wrappers}
    conds = {str(number): comfy.sampler_helpers.convert_cond(prompt) for number, prompt in enumerate(prompts)}
    x, sigmas = x.to(device), torch.tensor([sigma] * len(x), device=device)
    conds = comfy.samplers.process_conds(model.model, x, conds, device, x, latent_shapes=[x.shape])
    model.model.current_patcher = model
    return [
        each.cpu() for each in comfy.samplers.calc_cond_batch(model.model, list(conds.values()), x, sigmas, options)
    ]


def coupled(model, prompts, x, **options):
    prompts = [attention_couple.couple(prompt) for prompt in prompts]
    return predicted(attention_couple.attach_to(model), [stripped(prompt) for prompt in prompts], x, **options)


def stripped(prompt):
    """Without the check of the model, which sampling takes out."""
    return [[text, {name: value for name, value in values.items() if name != "control"}] for text, values in prompt]


def errors(case, model, **options):
    results = coupled(model, prompts_of(case), make.latent(case), **options)
    names = ("positive", "negative")
    return [relative_error(ours, golden()[f"{case.name}, {name}"]) for ours, name in zip(results, names, strict=True)]


@pytest.fixture(scope="module")
def tolerance(precision):
    """In half precision by the error of the network without regions."""

    def predict(precision):
        case = make.CASES[0]
        return predicted(load(precision), [[[make.texts(case.positive, 10)[0], {}]]], make.latent(case))[0]

    return precision.tolerance(1e-5, predict(FLOAT32), lambda: predict(precision)) if precision.is_half else 1e-5


@pytest.mark.both_devices
@pytest.mark.in_half
@pytest.mark.parametrize("case", make.CASES, ids=lambda case: case.name)
def test_equals_regional_prompter(case, base, tolerance):
    assert max(errors(case, base)) <= tolerance


def changed(change):
    """A mistake in the conditionings: `change` makes a prompt's entries of the right ones."""
    return lambda patch, prompts=prompts_of: patch.setitem(globals(), "prompts_of", lambda case: change(*prompts(case)))


def every(entry):
    return lambda positive, negative: [[entry(*each) for each in prompt] for prompt in (positive, negative)]


def rounded(fraction, length):
    return round(length * fraction)


def floored(self, size, whole, weight=attention_couple_unet.Region.weight):
    """At the size of a layer that loses an odd row or column."""
    halvings = round(np.log2(whole[0] / size[0]))
    smaller = whole[0] >> halvings, whole[1] >> halvings
    return attention_couple_unet.nearest(weight(self, smaller, whole), size)


def from_the_latent(self, size, whole, weight=attention_couple_unet.Region.weight):
    return attention_couple_unet.nearest(weight(self, whole, whole), size)


def bilinear(masks, size):
    return functional.interpolate(masks[:, None], size, mode="bilinear")[:, 0]


def cut_texts(patch):
    def with_texts(self, first):
        chunks = zip(first.chunk(len(self.texts)), self.texts, strict=True)
        return torch.cat([text[:, : make.CHUNK] for chunk, texts in chunks for text in (chunk, *texts)])

    patch.setattr(attention_couple_unet.Attention, "_with_texts", with_texts)


TWICE = {"mask_strength": 1.0}  # regions as strong as without a base
UNET, REGION = attention_couple_unet, attention_couple_unet.Region
MISTAKES = {  # and a case in which each matters
    "cells rounded to the nearest": ("odd columns", lambda patch: patch.setattr(UNET, "_border", rounded)),
    "layers halved without rounding up": ("rows and columns", lambda p: p.setattr(REGION, "weight", floored)),
    "cells of the latent's size, resized": ("rows and columns", lambda p: p.setattr(REGION, "weight", from_the_latent)),
    "interpolated masks": ("masks", lambda patch: patch.setattr(UNET, "nearest", bilinear)),
    "the base counted twice": ("odd columns", changed(every(lambda text, values: [text, values | TWICE]))),
    "no base": ("base", changed(lambda positive, negative: [positive[1:], negative[1:]])),
    "a negative that is not divided": ("base", changed(lambda positive, negative: [positive, negative[:1]])),
    "cut texts": ("texts of several lengths", cut_texts),
    "mixed after the network": ("two columns", lambda patch: patch.setattr(attention_couple, "couple", list)),
}  # fmt: skip


@pytest.mark.in_half
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_far_from_regional_prompter(mistake, base, tolerance, monkeypatch):
    name, make_mistake = MISTAKES[mistake]
    make_mistake(monkeypatch)
    case = next(case for case in make.CASES if case.name == name)
    assert max(errors(case, base)) > max(1e-2, tolerance)


# Whole runs


def sample(
    model,
    positive,
    negative,
    size=(16, 24),
    cfg=3.0,
    sampler="euler",
    scheduler="karras",
    steps=3,
    noise=None,
    sigmas=None,
):
    """A whole run."""
    if sigmas is None:
        sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), scheduler, steps)
    noise = randn(1, 4, *size, seed=3) if noise is None else noise
    sampler = comfy.samplers.sampler_object(sampler)
    latent = torch.zeros_like(noise)
    return comfy.sample.sample_custom(
        model, noise, cfg, sampler, sigmas, positive, negative, latent, disable_pbar=True, seed=7
    )


def run(model, positive, negative, **options):
    """A whole run with Attention Couple."""
    prompts = [attention_couple.couple(prompt) for prompt in (positive, negative)]
    return sample(attention_couple.attach_to(model), *prompts, **options)


def text(seed, tokens=77):
    return randn(1, tokens, make.TEXT, seed=seed)


def halves(size=(128, 192), share=0.5):
    left = torch.zeros(1, *size)
    left[..., : int(size[1] * share)] = 1
    return left, 1 - left


LEFT, RIGHT = halves()
NEGATIVE = [[text(9), {}]]


def two(first=1, second=2, **values):
    """A prompt of two halves."""
    return [[text(first), {"mask": LEFT, **values}], [text(second), {"mask": RIGHT, **values}]]


@pytest.mark.parametrize(
    "sampler, scheduler", [("dpmpp_2m", "karras"), ("uni_pc", "normal"), ("dpmpp_sde", "sgm_uniform")]
)
def test_regions_with_one_text_are_as_no_regions(sampler, scheduler, base):
    negative = [[text(9), {"strength": 0.3}], [text(9), {"mask": LEFT, "mask_strength": 0.7}]]
    options = {"sampler": sampler, "scheduler": scheduler, "size": (17, 23)}
    result = run(base, two(1, 1), negative, **options)
    assert relative_error(result, sample(base, [[text(1), {}]], NEGATIVE, **options)) < 1e-5
    assert relative_error(run(base, two(), negative, **options), result) > 0.05


@pytest.mark.parametrize("values", [{}, {"mask": torch.ones(1, 64, 64), "mask_strength": 0.4}, {"strength": 0.3}])
def test_one_region_of_the_whole_picture_is_as_no_region(values, base):
    result = run(base, [[text(1), values]], NEGATIVE)
    assert relative_error(result, sample(base, [[text(1), {}]], NEGATIVE)) < 1e-6


def test_a_patched_model_samples_other_prompts_as_before(base):
    prompts = [[text(1), {}]], two(2, 3)
    assert torch.equal(sample(attention_couple.attach_to(base), *prompts), sample(base, *prompts))


def test_patching_and_coupling_twice_is_once(base):
    positive = [copy.deepcopy(entry) for entry in attention_couple.couple(two())]  # as some packs hand them on
    twice = attention_couple.attach_to(attention_couple.attach_to(base))
    again = attention_couple.couple(positive)
    assert torch.equal(sample(twice, again, NEGATIVE), run(base, two(), NEGATIVE))


def test_the_same_run_has_the_same_bits(base):
    positive, model = attention_couple.couple(two()), attention_couple.attach_to(base)
    assert torch.equal(sample(model, positive, NEGATIVE), sample(model, positive, NEGATIVE))


@pytest.mark.parametrize("cfg", [1.0, 4.0])
def test_pictures_of_a_batch_are_as_alone(cfg, base):
    """With masks of their own, too."""
    masks, noise = torch.cat([LEFT, RIGHT]), randn(2, 4, 16, 24, seed=3)

    def positive(*numbers):
        return [[text(1), {"mask": masks[[*numbers]]}], [text(2), {"mask": masks.flip(0)[[*numbers]]}]]

    both = run(base, positive(0, 1), two(3, 4), noise=noise, cfg=cfg)
    for number in (0, 1):
        alone = run(base, positive(number), two(3, 4), noise=noise[[number]], cfg=cfg)
        assert relative_error(alone, both[[number]]) < 1e-5
    assert relative_error(both[0], both[1]) > 0.05


def test_more_masks_than_pictures(base):
    """ComfyUI takes the first masks."""
    masks = torch.cat([LEFT, RIGHT, RIGHT])
    positive = [[text(1), {"mask": masks}], [text(2), {"mask": 1 - masks}]]
    assert torch.equal(run(base, positive, NEGATIVE), run(base, two(), NEGATIVE))


# One call


def one(model, *prompts, x=None, sigma=5.0):
    """The denoised latents of coupled prompts in one call."""
    return coupled(model, prompts, 5 * randn(1, 4, 16, 24, seed=3) if x is None else x, sigma=sigma)


def test_places_without_a_region_get_no_text(base):
    """As in Regional Prompter's mask mode."""
    holes = torch.zeros(1, 128, 192)
    (result,) = one(base, [[text(1), {"mask": holes}], [text(2), {"mask": holes}]])
    silent = base.clone()
    silent.set_model_attn2_output_patch(lambda out, options: torch.zeros_like(out))
    (expected,) = predicted(silent, [NEGATIVE], 5 * randn(1, 4, 16, 24, seed=3))
    assert relative_error(result, expected) < 1e-6


def test_overlaps_are_divided(base):
    whole = torch.ones(1, 128, 192)
    (result,) = one(base, [[text(1), {"mask": whole}], [text(2), {"mask": whole}], [text(3), {"mask": 0 * whole}]])
    (expected,) = one(base, [[text(1), {"strength": 0.5}], [text(2), {"strength": 0.5}]])
    assert relative_error(result, expected) < 1e-5


def test_a_mask_of_nan_selects_nothing(base):
    positive = [*two(), [text(3), {"mask": torch.full((1, 128, 192), torch.nan)}]]
    assert torch.equal(one(base, positive)[0], one(base, two())[0])


@pytest.mark.parametrize("area", [(16, 12, 0, 12), ("percentage", 1.0, 0.5, 0.0, 0.5)])
def test_an_area_is_a_mask(area, base):
    positive = [[text(1), {"mask": LEFT}], [text(2), {"area": area, "strength": 1.0}]]
    assert torch.equal(one(base, positive)[0], one(base, two())[0])


def test_a_default_conditioning_is_what_regions_leave_over(base):
    positive = [[text(1), {"mask": LEFT}], [text(2), {"default": True}]]
    assert relative_error(one(base, positive)[0], one(base, two())[0]) < 1e-5


def test_a_mask_that_was_set_after_the_cell_counts(base):
    stale = [[words, {**values, CELL: (0.0, 1.0, 0.0, 0.25)}] for words, values in two()]
    assert torch.equal(one(base, stale)[0], one(base, two())[0])


class Encoder:
    """A text encoder that Regional Prompt takes."""

    def tokenize(self, words):
        return words

    def encode_from_tokens_scheduled(self, tokens):
        return [[text(1), {}]]


def test_cells_of_regional_prompt_are_known():
    """Else they would be masks, which layers resize."""
    regions = regional_prompt.of_cells("a ADDCOL b ADDROW c ADDCOL d ADDCOL e", "1,1,2;3,1,3,1.7", "columns", 136, 184)
    entries = regional_prompt.conditioning(Encoder(), regions, 0.2)
    coupled_regions = [values[attention_couple.REGION] for _, values in attention_couple.couple(entries)]
    assert [region.cell for region in coupled_regions] == regions.cells
    assert len(regions.cells) == 5


@pytest.mark.parametrize("sigma, holds", [(5.0, True), (4.0, False), (0.2, False), (9.0, False)])
def test_a_region_has_its_range_of_timesteps(sigma, holds, base):
    third = [text(3), {"timestep_start": 8.0, "timestep_end": 4.5}]
    expected = one(base, [*two(), [third[0], {}]] if holds else two(), sigma=sigma)[0]
    conds = [attention_couple.couple([*two(), [third[0], {}]])]
    conds[0][2][1].update(third[1])
    model = attention_couple.attach_to(base)
    assert torch.equal(
        predicted(model, [stripped(conds[0])], 5 * randn(1, 4, 16, 24, seed=3), sigma=sigma)[0], expected
    )


# With other nodes


def test_a_conditioning_that_is_combined_later_stays_its_own(base):
    """ComfyUI mixes the results of the network, and masks hold for all regions."""
    coupled_two, other = stripped(attention_couple.couple(two())), [[text(3), {}]]
    (masked,) = ConditioningSetMask().append(coupled_two, LEFT, "default", 1.0)
    (masked_other,) = ConditioningSetMask().append(other, RIGHT, "default", 1.0)
    (combined,) = ConditioningCombine().combine(masked, masked_other)
    x = 5 * randn(1, 4, 16, 24, seed=3)
    (result,) = predicted(attention_couple.attach_to(base), [combined], x)
    regions, alone = one(base, two())[0], predicted(base, [other], x)[0]
    assert relative_error(result, torch.cat([regions[..., :12], alone[..., 12:]], -1)) < 1e-5


def test_prompts_that_are_combined_are_divided_each_by_itself(base):
    prompts = [stripped(attention_couple.couple(prompt)) for prompt in (two(), two(3, 4))]
    (result,) = predicted(attention_couple.attach_to(base), [prompts[0] + prompts[1]], 5 * randn(1, 4, 16, 24, seed=3))
    first, second = one(base, two(), two(3, 4))
    assert relative_error(result, (first + second) / 2) < 1e-5


@pytest.fixture
def lora(base):
    """A LoRA as hooks of a conditioning, and the model that has it."""
    name = "diffusion_model.middle_block.0.in_layers.2.weight"
    change = 0.2 * randn(*base.model.state_dict()[name].shape)
    hook = comfy.hooks.WeightHook(strength_model=1.0)
    hook.need_weight_init, hook.weights = False, {name: ("diff", (change,))}
    hooks, model = comfy.hooks.HookGroup(), base.clone()
    hooks.add(hook)
    model.add_patches({name: ("diff", (change,))})
    return SimpleNamespace(hooks=hooks, model=model)


ONE_STEP = {"cfg": 1.0, "steps": 1}


def test_a_region_with_a_lora_of_its_own_is_computed_by_itself(base, lora):
    left, right = ([entry] for entry in two())
    hooked = [[words, {**values, "hooks": lora.hooks}] for words, values in right]
    result = run(base, left + hooked, NEGATIVE, **ONE_STEP)
    alone = run(base, left, NEGATIVE, **ONE_STEP), run(lora.model, right, NEGATIVE, **ONE_STEP)
    assert relative_error(result, torch.cat([alone[0][..., :12], alone[1][..., 12:]], -1)) < 1e-5
    assert relative_error(alone[1], run(base, right, NEGATIVE, **ONE_STEP)) > 0.01


def test_regions_with_one_lora_are_computed_together(base, lora):
    prompts = [
        comfy.hooks.set_hooks_for_conditioning(attention_couple.couple(prompt), lora.hooks)
        for prompt in (two(), NEGATIVE)
    ]
    result = sample(attention_couple.attach_to(base), *prompts, steps=1)
    assert relative_error(result, run(lora.model, two(), NEGATIVE, steps=1)) < 1e-5


@pytest.mark.parametrize("boxes, calls", [(("a", "a"), 1), (("a", "b"), 2)])
def test_regions_with_the_same_gligen_boxes_are_computed_together(boxes, calls, base):
    """ComfyUI's node makes a list for each entry, with the same box in it."""
    gligen, called = SimpleNamespace(), []
    gligen.model = SimpleNamespace(set_position=lambda *place: lambda x, options: x)
    box = {name: (name, 4, 4, 0, 0) for name in boxes}
    model = base.clone()
    model.set_model_output_block_patch(lambda h, skip, options: called.append(options["block"]) or (h, skip))
    positive = [
        [words, {**values, "gligen": ("position", gligen, [box[name]])}]
        for name, (words, values) in zip(boxes, two(), strict=True)
    ]
    one(model, positive)
    assert called.count(("output", 0)) == calls


class Telling(ControlBase):
    """A ControlNet that notes the text."""

    texts = []

    def copy(self):
        copied = Telling()
        self.copy_to(copied)
        return copied

    def get_control(self, x, t, cond, batched_number, transformer_options):
        self.texts.append((tuple(x.shape), cond["c_crossattn"].clone()))


def test_a_controlnet_is_called_once_and_reads_the_base(base):
    prompts = [*two(), [text(5), {"strength": 0.2}]], NEGATIVE
    prompts = [attention_couple.couple(prompt) for prompt in prompts]
    image = torch.zeros(1, 128, 192, 3)
    prompts = ControlNetApplyAdvanced().apply_controlnet(*prompts, Telling(), image, 1.0, 0.0, 1.0)
    Telling.texts.clear()
    sample(attention_couple.attach_to(base), *prompts, steps=1)
    ((shape, seen),) = Telling.texts
    assert shape == (2, 4, 16, 24)
    assert sorted(map(float, seen[:, 0, 0])) == sorted(map(float, (text(5)[0, 0, 0], text(9)[0, 0, 0])))


@pytest.mark.parametrize("couple_first", [False, True])
def test_windows_cut_the_regions(couple_first, base):
    """Each window is as a picture of its own with the window's part of the masks."""
    windowed = windows.apply(base, "average", 64, 0, False, 0, 3)
    if couple_first:
        model = windows.apply(attention_couple.attach_to(base), "average", 64, 0, False, 0, 3)
    else:
        model = attention_couple.attach_to(windowed)
    left, right = halves(share=0.42)
    cell = {CELL: (0.0, 1.0, 0.0, 0.42)}
    positive = [[text(1), {"mask": left, **cell}], [text(2), {"mask": right}], [text(3), {"strength": 0.1}]]
    noise = randn(1, 4, 16, 24, seed=3)
    result = sample(model, attention_couple.couple(positive), NEGATIVE, noise=noise, **ONE_STEP)
    for y, x in ((0, 0), (0, 8), (8, 16)):
        place = (..., slice(y, y + 8), slice(x, x + 8))
        part = [[words, dict(values)] for words, values in positive]
        del part[0][1][CELL]
        for mask, values in zip((left, right), part, strict=False):
            values[1]["mask"] = mask[:, ::8, ::8][place]
        assert relative_error(run(base, part, NEGATIVE, noise=noise[place], **ONE_STEP), result[place]) < 1e-5


@pytest.mark.parametrize("size", [(16, 24), (17, 23)])
def test_hidiffusion_has_layers_of_other_sizes(size, base):
    smaller = hidiffusion.HiDiffusion("sd", 512, True, False, "sd15 1024", 0, False)
    model = hidiffusion.attach_to(base, smaller)
    sizes = set()
    model.set_model_attn2_patch(lambda q, k, v, options: sizes.add(options["activations_shape"][-1]) or (q, k, v))
    result = run(model, two(1, 1), NEGATIVE, size=size)
    assert len(sizes) == 4
    assert relative_error(result, sample(model, [[text(1), {}]], NEGATIVE, size=size)) < 1e-5
    assert relative_error(run(model, two(), NEGATIVE, size=size), result) > 0.01


def test_adapters_find_each_text_by_cond_or_uncond(base):
    """IP-Adapter adds to the result of each chunk, and its number of chunks is the length of that list."""

    def adapter(q, k, v, options):
        rows = len(q) // len(options["cond_or_uncond"])
        assert len(q) == len(k) == len(v) == rows * len(options["cond_or_uncond"])
        out = comfy.ldm.modules.attention.optimized_attention(q, k, v, options["n_heads"])
        return out + 0.5 * torch.cat([q.new_ones(rows, 1, 1) * (1 - 2 * part) for part in options["cond_or_uncond"]])

    chunks = []
    model = base.clone()
    model.set_model_attn2_replace(adapter, "middle", 0)
    model.set_model_attn2_output_patch(lambda out, options: chunks.append((len(out), options["cond_or_uncond"])) or out)
    result = run(model, two(1, 1), NEGATIVE, noise=randn(3, 4, 8, 12))
    assert all(rows == 3 * len(parts) == 6 for rows, parts in chunks)
    expected = sample(model, [[text(1), {}]], NEGATIVE, noise=randn(3, 4, 8, 12))
    assert relative_error(result, expected) < 1e-5
    assert relative_error(result, sample(base, [[text(1), {}]], NEGATIVE, noise=randn(3, 4, 8, 12))) > 0.01


@pytest.fixture(scope="module")
def connector(tmp_path_factory):
    file = tmp_path_factory.mktemp("ella") / "ella.safetensors"
    standins.ella(file)
    return ella.load(file)


@pytest.mark.parametrize("couple_first", [False, True])
def test_ella_makes_the_tokens_of_each_region_at_each_timestep(couple_first, connector):
    base = thin_models.host_model("sd15")
    if couple_first:
        model = ella.apply(attention_couple.attach_to(base), connector)
    else:
        model = attention_couple.attach_to(ella.apply(base, connector))
    connector.load()
    features = [randn(1, 6, connector.config.text_width, seed=seed) for seed in (1, 2, 3)]
    starts, now = ([connector(each, torch.tensor([float(t)])).cpu() for each in features] for t in (999, 600))
    places = ({"mask": LEFT}, {"mask": RIGHT}, {"strength": 0.3})
    positive = [
        [start, {**place, "model_conds": {ella.KEY: ella.Text(each, start)}}]
        for start, each, place in zip(starts, features, places, strict=True)
    ]
    sampling = base.get_model_object("model_sampling")
    options = {"cfg": 1.0, "sigmas": torch.stack([sampling.sigma(torch.tensor(600.0)), torch.tensor(0.0)])}
    result = sample(model, attention_couple.couple(positive), positive, **options)
    expected = run(base, [[*pair] for pair in zip(now, places, strict=True)], positive, **options)
    assert relative_error(result, expected) < 1e-5
    first = run(base, [[*pair] for pair in zip(starts, places, strict=True)], positive, **options)
    assert relative_error(result, first) > 1e-4


def test_sdxl_has_the_pooled_text_of_the_base():
    model = narrow.host_model("sdxl")

    def result(*pooled):
        places = ({"mask": LEFT}, {"mask": RIGHT}, {"strength": 0.3})
        positive = [
            [randn(1, 7, narrow.WIDTH, seed=number), {**place, "pooled_output": randn(1, 1280, seed=seed)}]
            for number, (place, seed) in enumerate(zip(places, pooled, strict=True))
        ]
        return run(model, positive, narrow.sdxl_prompts()[1], steps=1)

    assert torch.equal(result(1, 2, 3), result(4, 5, 3))
    assert relative_error(result(1, 2, 3), result(1, 2, 4)) > 1e-3


# What is refused


def test_the_node(node_classes):
    model = thin_models.host_model("sd15")
    positive = [[randn(1, 77, 768, seed=seed), {"mask": mask}] for seed, mask in ((1, LEFT), (2, RIGHT))]
    negative = [[randn(1, 77, 768, seed=3), {"pooled_output": None}]]
    before = frozen([positive, negative])
    outputs = node_classes["PentimentoAttentionCouple"].execute(model, positive, negative).result
    assert sample(*outputs, steps=1).isfinite().all()
    assert frozen([positive, negative]) == before


@pytest.mark.parametrize("name", ["flux", "x4", "refiner", "zero123"])
def test_other_models_are_refused_by_name(name):
    sentence = (
        "Attention Couple works with Stable Diffusion 1.x, 2.x and SDXL, and the model here is .* Remove Attention "
    )
    with pytest.raises(ValueError, match=sentence):
        attention_couple.apply(kinds.models()[name], [], [])


@pytest.mark.parametrize(
    "name", ["sd15", "inpaint", "ip2p", "sd2", "depth", "unclip_h", "sdxl", "cosxl_edit", "ic_light_fc"]
)
def test_models_of_these_kinds_fit(name):
    attention_couple.apply(kinds.models()[name], [], [])


def test_a_text_of_another_model_is_told():
    with pytest.raises(
        ValueError, match="negative of Attention Couple holds a text that is 2048 wide, and Stable Diff"
    ):
        attention_couple.apply(kinds.models()["sd15"], [[randn(1, 77, 768), {}]], [[randn(1, 77, 2048), {}]])


def test_a_model_that_was_not_patched_is_told_before_the_first_step(base):
    with pytest.raises(ValueError, match="Connect the model of Attention Couple to the sampler too"):
        sample(base, attention_couple.couple(two()), NEGATIVE)
