"""Regional Prompt against the regions of the extension Regional Prompter, and against ComfyUI's own nodes for masks."""

import json
import re
from zlib import crc32

import comfy.sample
import comfy.samplers
import numpy as np
import pytest
import torch

import nodes
from kit import narrow, toy_network
from kit.assertions import frozen, relative_error
from kit.golden import GOLDEN, maker
from kit.tensors import rand, randn
from pentimento.model_patchers.comfyui import progress
from pentimento.model_patchers.prompt import regional_prompt
from pentimento.nodes.prompt.regional_prompt import RegionalPrompt

pytestmark = pytest.mark.usefixtures("one_thread")
make = maker("regional_prompter")


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "regional_prompter.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def theirs(golden):
    """(case, cells, map, prompts, BREAKs inside regions) of the extension."""
    cases = make.cases()
    cells = np.split(golden["cells"], golden["counts"].cumsum()[:-1])
    maps = np.split(golden["maps"], np.cumsum([case["height"] * case["width"] for case in cases])[:-1])
    maps = [values.reshape(case["height"], case["width"]) for values, case in zip(maps, cases, strict=True)]
    return list(zip(cases, cells, maps, json.loads(str(golden["prompts"])), golden["breaks"].tolist(), strict=True))


def numbered(masks):
    """Masks as one map: the region's number, from 1, and 0 where there is none."""
    return (masks.numpy() * np.arange(1, len(masks) + 1)[:, None, None]).sum(0)


def tidy(prompt):
    """A prompt without what is different between two ways of joining."""
    return ", ".join(filter(None, (part.strip() for part in prompt.split(","))))


def prompts(regions):
    """All that is encoded, in the extension's order."""
    parts = regions.parts
    return [parts.with_common(prompt) for prompt in ([] if parts.base is None else [parts.base]) + parts.prompts]


def refusal(case):
    try:
        regional_prompt.of_cells(**case)
    except ValueError as error:
        return str(error)
    return ""


def test_regions_are_those_of_the_extension_for_200_texts(theirs):
    compared = 0
    for case, cells, numbers, encoded, breaks in theirs:
        if breaks or refusal(case):
            continue
        ours = regional_prompt.of_cells(**case)
        assert np.abs(np.array(ours.cells) - cells).max() <= 1e-12, case
        uncovered = numbers == 0  # by the extension, whose last region ends at 0.9999999 of the picture
        assert np.array_equal(numbered(ours.masks)[~uncovered], numbers[~uncovered]), case
        assert not uncovered[:-1, :-1].any()
        assert (ours.masks.sum(0) == 1).all()
        assert [tidy(prompt) for prompt in prompts(ours)] == [tidy(prompt) for prompt in encoded], case
        compared += 1
    assert compared >= 200


def test_only_texts_that_lose_a_prompt_or_a_region_in_the_extension_are_refused(theirs):
    """It leaves surplus BREAKs inside a region and then encodes its first part alone; a region of no pixel is none."""
    for case, cells, numbers, encoded, breaks in theirs:
        reason = refusal(case)
        absent = set(range(1, len(cells) + 1)) - set(np.unique(numbers).tolist())
        lost = breaks or len(encoded) - ("ADDBASE" in case["text"]) != len(cells)
        assert bool(reason) == bool(absent or lost), (reason, case)


def heights_as_columns(lines):
    def wrong(separators, ratios, marks):
        return [(share, [share, *shares][: len(shares)]) for share, shares in lines(separators, ratios, marks)]

    return wrong


def not_normalised(shares):
    ends = np.cumsum(shares).clip(max=1).tolist()
    return list(zip([0.0, *ends], ends, strict=False))


def test_wrong_variants_give_other_regions(theirs, monkeypatch):
    right = [case for case, *_, breaks in theirs if not breaks and not refusal(case)]
    cells = {id(case): regional_prompt.of_cells(**case).cells for case in right}

    def changed(cases, **change):
        return sum(
            regional_prompt.cells(
                regional_prompt.parse(change.get("text", str)(case["text"])), case["ratios"], case["splitting"]
            )[1]
            != cells[id(case)]
            for case in cases
        )

    with_base = [case for case in right if "ADDBASE" in case["text"] and "ADDCOL" in case["text"]]
    assert changed(with_base, text=lambda text: text.replace("ADDBASE", "ADDCOL")) == len(with_base) > 20
    two_dimensions = [case for case in right if ";" in case["ratios"]]
    with monkeypatch.context() as patch:
        patch.setattr(regional_prompt, "_lines", heights_as_columns(regional_prompt._lines))
        assert changed(two_dimensions) > len(two_dimensions) / 2
    with monkeypatch.context() as patch:
        patch.setattr(regional_prompt, "_ranges", not_normalised)
        assert changed(right) > len(right) * 0.9


def test_colours_are_those_of_the_extension(golden):
    assert regional_prompt.colours(len(golden["colours"])) == [tuple(colour) for colour in golden["colours"].tolist()]


# The text


def layout(text, ratios="1,1", splitting="columns"):
    parts, cells = regional_prompt.cells(regional_prompt.parse(text), ratios, splitting)
    return parts.prompts, [tuple(round(edge, 4) for edge in cell) for cell in cells]


LEFT, RIGHT = (0.0, 1.0, 0.0, 0.5), (0.0, 1.0, 0.5, 1.0)
TOP, BOTTOM = (0.0, 0.5, 0.0, 1.0), (0.5, 1.0, 0.0, 1.0)


@pytest.mark.parametrize(
    ("text", "ratios", "splitting", "expected"),
    [
        ("a BREAK b", "1,1", "columns", (["a", "b"], [LEFT, RIGHT])),
        ("a BREAK b", "1,1", "rows", (["a", "b"], [TOP, BOTTOM])),
        ("a\nBREAK\n\nb\n", "1,1", "columns", (["a", "b"], [LEFT, RIGHT])),
        ("a,BREAK,b,", "1,1", "columns", (["a", "b"], [LEFT, RIGHT])),
        ("a BREAK b BREAK", "1,1", "columns", (["a", "b"], [LEFT, RIGHT])),  # nothing follows
        ("a BREAK b BREAK \n BREAK", "1,1", "columns", (["a", "b"], [LEFT, RIGHT])),
        ("a BREAK", "1,1", "columns", (["a", ""], [LEFT, RIGHT])),  # an empty region
        ("BREAK b", "1,1", "columns", (["", "b"], [LEFT, RIGHT])),
        ("a BREAK b", "1,1,1", "columns", (["a", "b"], [LEFT, RIGHT])),  # fewer prompts than ratios
        ("a ADDCOL b", "1", "columns", (["a", "b"], [LEFT, RIGHT])),  # more: the last is repeated
        ("a ADDROW b", "1,1", "columns", (["a", "b"], [TOP, BOTTOM])),
        ("a ADDCOL b", "1,1", "rows", (["a", "b"], [LEFT, RIGHT])),
        ("a BREAK b", " 0.1 , 0.1 ", "columns", (["a", "b"], [LEFT, RIGHT])),
        ("a BREAK b", "\uff0c", "columns", (["a", "b"], [LEFT, RIGHT])),  # a Chinese comma, numbers left out
        ("\u732bBREAK\u72ac", "1,1", "columns", (["\u732b", "\u72ac"], [LEFT, RIGHT])),
        ("a cat on a break", "1,1", "columns", (["a cat on a break"], [(0, 1, 0, 1)])),  # lower case is plain text
        ("BREAKFAST at Tiffany's", "1,1", "columns", (["BREAKFAST at Tiffany's"], [(0, 1, 0, 1)])),
        ("salt AND pepper", "1,1", "columns", (["salt AND pepper"], [(0, 1, 0, 1)])),
        ("", "1,1", "columns", ([""], [(0, 1, 0, 1)])),
        ("(a:1.2) BREAK (b, \\(c\\):0.8)", "1,1", "columns", (["(a:1.2)", "(b, \\(c\\):0.8)"], [LEFT, RIGHT])),
        (
            "sky BREAK hair BREAK fish BREAK desk BREAK sofa",
            "1,2,1,1;2,4,6",
            "columns",
            (
                ["sky", "hair", "fish", "desk", "sofa"],
                [
                    (0.0, 0.3333, 0.0, 0.5),
                    (0.0, 0.3333, 0.5, 0.75),
                    (0.0, 0.3333, 0.75, 1.0),
                    (0.3333, 1.0, 0.0, 0.4),
                    (0.3333, 1.0, 0.4, 1.0),
                ],
            ),
        ),
    ],
)
def test_what_people_write(text, ratios, splitting, expected):
    assert layout(text, ratios, splitting) == expected


@pytest.mark.parametrize("text", ["all ADDCOMM whole ADDBASE a BREAK b", "whole ADDBASE all,\nADDCOMM, a BREAK b"])
def test_common_and_base_prompts_in_either_order(text):
    parts = regional_prompt.parse(text)
    assert (parts.common, parts.base, parts.prompts) == ("all", "whole", ["a", "b"])
    assert [parts.with_common(prompt) for prompt in ("whole", "a", "")] == ["all, whole", "all, a", "all"]


@pytest.mark.parametrize(
    ("text", "ratios", "sentence"),
    [
        ("a BREAK b BREAK c", "1,1", r'BREAK divides the text into 3 regions.*"1,1" have 2 regions.*"1,1,1"'),
        ("a BREAK b", "", "have 1 region. Give a ratio for each"),
        ("a BREAK b ADDBASE c", "1,1", "ADDBASE after the first region"),
        ("a ADDBASE b ADDBASE c", "1,1", "ADDBASE twice"),
        ("a BREAK b ADDCOMM c", "1,1", "ADDCOMM after the first region"),
        ("(a BREAK b:1.2)", "1,1", r"BREAK inside brackets.*\(a:1.2\) BREAK \(b:1.2\)"),
        ("((a) ADDCOL b BREAK c)", "1,1", "BREAK inside brackets"),
        ("a BREAK b", "1,two", '"two", which is no number'),
        ("a BREAK b", "1,0", '"0", which is no number above 0'),
        ("a BREAK b", "1,-1", '"-1", which is no number'),
        ("a BREAK b", "1,nan", '"nan", which is no number'),
        ("a BREAK b", "1e999,1", '"1e999", which is no number'),
        ("a BREAK b", "1,9999", "region 1 is thinner than a pixel of a picture of 64 x 48"),
    ],
)
def test_what_cannot_be_meant_is_refused(text, ratios, sentence):
    with pytest.raises(ValueError, match=f"(?s){sentence}"):
        regional_prompt.of_cells(text, ratios, "columns", 48, 64)


def test_the_text_is_checked_before_anything_runs():
    assert RegionalPrompt.validate_inputs("a BREAK b") is True
    assert "twice" in RegionalPrompt.validate_inputs("a ADDBASE b ADDBASE c")
    assert RegionalPrompt.validate_inputs(None) is True  # over a link


# The conditioning


class Encoder:
    """A text encoder whose tokens and pooled output are random numbers, the same for the same text."""

    def __init__(self, width=8, pooled=8, entries=1):
        self.width, self.pooled, self.entries, self.texts = width, pooled, entries, []

    def tokenize(self, text):
        return text

    def encode_from_tokens_scheduled(self, text):
        self.texts.append(text)
        tokens = 77 * (1 + len(text) // 40)
        return [self.entry(tokens, crc32(text.encode()) + place) for place in range(self.entries)]

    def entry(self, tokens, seed):
        return [randn(1, tokens, self.width, seed=seed), {"pooled_output": randn(1, self.pooled, seed=seed)}]


def regional(clip, text, base_ratio=0.2, size=(48, 64), ratios="1,1", masks=None):
    height, width = size
    return RegionalPrompt.execute(clip, text, width, height, ratios, base_ratio, masks).result


def by_hand(clip, texts, masks, base=None, base_ratio=0.0):
    """The same with ComfyUI's nodes."""
    encode, combine = nodes.CLIPTextEncode().encode, nodes.ConditioningCombine().combine
    whole = []
    if base_ratio:
        (whole,) = nodes.ConditioningSetAreaStrength().append(encode(clip, base)[0], base_ratio)
    for text, mask in zip(texts, masks, strict=True):
        (region,) = nodes.ConditioningSetMask().append(encode(clip, text)[0], mask, "default", 1 - base_ratio)
        (whole,) = combine(whole, region)
    return whole


def sample(model, positive, shape, sampler="euler", scheduler="normal", steps=2, cfg=1.0, seed=0):
    noise = randn(*shape, seed=seed)
    sampling = model.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, scheduler, steps)
    tokens, values = positive[0]
    negative = [[-tokens, {"pooled_output": -values["pooled_output"]}]]
    return comfy.sample.sample_custom(
        model,
        noise,
        cfg,
        comfy.samplers.sampler_object(sampler),
        sigmas,
        positive,
        negative,
        torch.zeros_like(noise),
        disable_pbar=True,
        seed=seed,
    )


def flux():
    model, generator = narrow.flux(), torch.Generator().manual_seed(4)
    for weight in model.model.parameters():
        weight.data.normal_(0, 0.2, generator=generator)
    return model


MODELS = {  # the model, the widths of its tokens and of its pooled output, and a latent of a picture of 64 x 48
    "sd15": (lambda dtype: narrow.host_model("sd15", dtype), 64, 8, (2, 4, 6, 8)),
    "sdxl": (lambda dtype: narrow.host_model("sdxl", dtype), 64, 1280, (1, 4, 6, 8)),
    "flux": (lambda _: flux(), 64, 32, (2, 16, 6, 8)),
    "video": (lambda dtype: toy_network.patcher(toy_network.Prompted(), "video", dtype), 8, 8, (1, 16, 3, 6, 8)),
}


@pytest.fixture(scope="module", params=MODELS)
def kind(request, precision):
    make_model, width, pooled, shape = MODELS[request.param]
    return make_model(precision.dtype), Encoder(width, pooled), shape


TEXT = "good ADDCOMM a park ADDBASE a cat BREAK a dog with a very long prompt of more than one chunk of tokens"
CAT, DOG = "good, a cat", "good, a dog with a very long prompt of more than one chunk of tokens"


@pytest.mark.both_devices
@pytest.mark.in_half
@pytest.mark.parametrize("base_ratio", [0.2, 0.0])
def test_equals_set_mask_and_combine_by_hand(kind, base_ratio):
    model, clip, shape = kind
    before = frozen(model)
    positive, masks, _ = regional(clip, TEXT, base_ratio)
    theirs = by_hand(clip, (CAT, DOG), masks.split(1), "good, a park", base_ratio)
    for settings in ({}, {"sampler": "dpmpp_2m_sde", "scheduler": "karras", "steps": 3, "cfg": 4.0}):
        assert torch.equal(sample(model, positive, shape, **settings), sample(model, theirs, shape, **settings))
    assert frozen(model) == before


@pytest.mark.both_devices
def test_a_prompt_reaches_its_region_alone(kind):
    model, clip, shape = kind
    positive, _, _ = regional(clip, "a cat BREAK a dog")
    mixed = sample(model, positive, shape, steps=1)
    cat, dog = (sample(model, clip.encode_from_tokens_scheduled(text), shape, steps=1) for text in ("a cat", "a dog"))
    assert relative_error(mixed[..., :4], cat[..., :4]) <= 1e-5
    assert relative_error(mixed[..., 4:], dog[..., 4:]) <= 1e-5
    assert relative_error(mixed[..., :4], dog[..., :4]) > 1e-3


def test_the_base_counts_by_its_ratio(kind):
    model, clip, shape = kind
    positive, _, _ = regional(clip, "a park ADDBASE a cat BREAK a dog", 0.3)
    mixed = sample(model, positive, shape, steps=1)
    park, cat, dog = (
        sample(model, clip.encode_from_tokens_scheduled(text), shape, steps=1) for text in ("a park", "a cat", "a dog")
    )
    expected = 0.3 * park + 0.7 * torch.cat((cat[..., :4], dog[..., 4:]), -1)
    assert relative_error(mixed, expected) <= 1e-5
    twice = (0.3 * park + expected) / 1.3
    assert relative_error(twice, expected) > 1e-4


def test_without_a_base_the_ratio_is_ignored():
    clip = Encoder()
    whole, without = (regional(clip, "a BREAK b", ratio)[0] for ratio in (0.7, 0.0))
    assert frozen(whole) == frozen(without)
    assert [entry["mask_strength"] for _, entry in whole] == [1, 1]


def test_all_entries_of_a_hooked_encoder_get_the_mask():
    positive, masks, _ = regional(Encoder(entries=2), "p ADDBASE a BREAK b")
    assert [entry.get("strength") for _, entry in positive] == [0.2, 0.2, None, None, None, None]
    assert [torch.equal(entry["mask"], masks[place // 2][None]) for place, (_, entry) in enumerate(positive[2:])]


def test_rectangles_travel_with_their_conditioning():
    positive, _, _ = regional(Encoder(), "p ADDBASE a BREAK b", ratios="1,3")
    assert [entry.get("pentimento_cell") for _, entry in positive] == [None, (0, 1, 0, 0.25), (0, 1, 0.25, 1)]
    assert all(entry["set_area_to_bounds"] is False for _, entry in positive[1:])


def test_the_same_inputs_give_the_same_bits():
    first, second = (regional(Encoder(), TEXT) for _ in range(2))
    assert frozen(first) == frozen(second)


def test_an_interrupt_stops_between_prompts(monkeypatch):
    def interrupted():
        raise progress.model_management.InterruptProcessingException

    clip = Encoder()
    monkeypatch.setattr(progress.model_management, "throw_exception_if_processing_interrupted", interrupted)
    with pytest.raises(progress.model_management.InterruptProcessingException):
        regional(clip, TEXT)
    assert not clip.texts


# Masks


def painted(*boxes, size=(24, 32)):
    masks = torch.zeros(len(boxes), *size)
    for mask, (top, bottom, left, right) in zip(masks, boxes, strict=True):
        mask[top:bottom, left:right] = 1
    return masks


HALVES = painted((0, 24, 0, 16), (0, 24, 16, 32))
TWO = painted((2, 20, 2, 12), (2, 20, 20, 30))


def test_masks_take_the_place_of_ratios():
    clip = Encoder()
    positive, masks, _ = regional(clip, "p ADDBASE a ADDCOL b BREAK ", masks=HALVES, ratios="nonsense")
    assert clip.texts == ["p", "a", "b"]
    assert torch.equal(masks, HALVES)
    assert all("pentimento_cell" not in entry for _, entry in positive)


def test_where_masks_overlap_each_gets_its_part():
    clip, overlapping = Encoder(), painted((0, 24, 0, 20), (0, 24, 12, 32))
    positive, masks, _ = regional(clip, "p ADDBASE a BREAK b", 0.25, masks=overlapping)
    assert (masks.sum(0) == 1).all()
    assert (masks[:, :, 12:20] == 0.5).all()
    model = toy_network.patcher(toy_network.Prompted())
    shape = (1, 4, 24, 32)
    mixed = sample(model, positive, shape, steps=1)
    park, a, b = (sample(model, clip.encode_from_tokens_scheduled(text), shape, steps=1) for text in "pab")
    assert relative_error(mixed[..., 12:20], (0.25 * park + 0.375 * (a + b))[..., 12:20]) <= 1e-5


@pytest.mark.parametrize(
    ("text", "base_ratio", "owner"),
    [
        ("p ADDBASE a BREAK b", 0.2, "p"),
        ("p ADDBASE a BREAK b", 0.0, "p"),
        ("q ADDCOMM p ADDBASE a BREAK b", 0.0, "q, p"),
        ("q ADDCOMM a BREAK b", 0.2, "q"),
        ("a BREAK b", 0.2, "a"),
    ],
)
def test_what_no_mask_covers_gets_the_base_else_the_common_else_the_first_prompt(text, base_ratio, owner):
    """ComfyUI alone would give it 0, a grey picture."""
    clip, model, shape = Encoder(), toy_network.patcher(toy_network.Prompted()), (1, 4, 24, 32)
    positive, masks, _ = regional(clip, text, base_ratio, masks=TWO)
    rest = TWO.sum(0) == 0
    mixed = sample(model, positive, shape, steps=1)
    alone = sample(model, clip.encode_from_tokens_scheduled(owner), shape, steps=1)
    assert relative_error(mixed[..., rest], alone[..., rest]) <= 1e-5
    assert torch.equal(masks[1], TWO[1])
    assert torch.equal(masks[0], TWO[0] + rest if owner == "a" else TWO[0])
    bare = sample(model, by_hand(clip, ("a", "b"), TWO.split(1)), shape, steps=1)
    assert bare[..., rest].abs().max() <= 1e-4


def test_one_mask_two_dimensional_and_masks_as_load_image_gives_them():
    assert regional(Encoder(), "p ADDBASE a", masks=TWO[0])[1].shape == (1, 24, 32)
    assert regional(Encoder(), "p ADDBASE a BREAK b", masks=TWO[:, None])[1].shape == (2, 24, 32)


@pytest.mark.parametrize(
    ("text", "masks", "sentence"),
    [
        ("a BREAK b BREAK c", TWO, "masks is a batch of 2, but the text has prompts for 3 regions"),
        ("a", TWO, "masks is a batch of 2, but the text has prompts for 1 regions"),
        ("a BREAK b", TWO * torch.tensor([1.0, 0.0]).view(2, 1, 1), "Mask 2 of masks selects nothing"),
        ("a BREAK b", TWO * torch.tensor([torch.nan, 1.0]).view(2, 1, 1), "Mask 1 of masks selects nothing"),
        ("a BREAK b", TWO[:0], "empty batch"),
        ("a BREAK b", rand(1, 8, 8, 3), "masks are"),
    ],
)
def test_masks_that_do_not_fit_are_refused(text, masks, sentence):
    with pytest.raises(ValueError, match=sentence):
        regional(Encoder(), text, masks=masks)


def test_preview_shows_regions_in_their_colours_on_white():
    _, _, preview = regional(Encoder(), "p ADDBASE a BREAK b", masks=TWO)
    assert preview.shape == (1, 24, 32, 3)
    values = (255 * preview[0]).numpy().astype(np.uint8)  # as Save Image
    assert values[10, 5].tolist() == [128, 64, 64]
    assert values[10, 25].tolist() == [64, 128, 128]
    assert values[0, 0].tolist() == [255, 255, 255]


def test_help_page_and_tooltips_name_every_separator():
    tooltips = " ".join(entry.tooltip for entry in RegionalPrompt.GET_SCHEMA().inputs)
    assert set(re.findall(r"ADD[A-Z]+|BREAK", tooltips)) == {"ADDBASE", "ADDCOL", "ADDCOMM", "ADDROW", "BREAK"}
