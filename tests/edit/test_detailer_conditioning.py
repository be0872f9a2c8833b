"""What Detailer makes of a conditioning for the whole picture, for a region."""

import pytest
import torch
from comfy.controlnet import ControlBase
from comfy.samplers import resolve_areas_and_cond_masks_multidim

import nodes
from kit.assertions import frozen
from kit.tensors import rand, randn
from kit.vae import tiny
from pentimento.model_patchers.comfyui.conditioning import Needs, needs
from pentimento.model_patchers.edit.crop_to_mask import cut as cut_picture
from pentimento.model_patchers.edit.detailer_conditioning import SKIP, Prompts, View, cut_to, merged, signature, split
from pentimento.model_patchers.pixels.boxes import Box

EDGE, SIZE = 64, (96, 128)  # of a crop, and of the picture
REGION = Box(32, 16, 32, 32)


def view(box=REGION, frames=1, size=SIZE):
    return View(
        pictures=list(range(frames)),
        boxes=[box] * frames,
        size=size,
        crops=rand(frames, EDGE, EDGE, 3),
        change=rand(frames, EDGE, EDGE, seed=1),
        samples=randn(1, 4, 8, 8),
        vae=tiny(),
    )


def cut(values, **where):
    """The values of the only entry of a conditioning for a region."""
    (entry,) = cut_to(view(**where), {"positive": [[randn(1, 77, 8), values]]})["positive"]
    return entry[1]


@pytest.mark.parametrize(
    "text, prompts",
    [
        ("", []),
        (" \n\n ", []),
        ("a\nb\n", ["a", "b"]),
        ("\na", ["", "a"]),
        (" a \n\n b ", ["a", "", "b"]),
        ("a,\nb [SEP] c", ["a,\nb", "c"]),
        ("[SEP] c", ["", "c"]),
        ("a[SEP]", ["a", ""]),
        ("[SKIP]\nb", [SKIP, "b"]),
    ],
)
def test_prompts_are_lines_or_separated(text, prompts):
    assert split(text) == prompts


class Words:
    """A text encoder that counts its work."""

    def __init__(self):
        self.texts = []

    def tokenize(self, text):
        return text

    def encode_from_tokens_scheduled(self, tokens):
        self.texts.append(tokens)
        return [[randn(1, 77, 8, seed=len(tokens)), {"pooled_output": randn(1, 8)}]]


def test_a_prompt_keeps_all_but_the_text_and_its_place():
    clip = Words()
    prompts = Prompts(["", "a cat", SKIP, "a dog"], clip)
    whole = [[randn(1, 77, 8, seed=50), {"pooled_output": randn(1, 8, seed=9), "guidance": 3.5, "mask": rand(1, 8, 8)}]]
    assert prompts.of(0, whole) is whole
    ((tokens, values),) = prompts.of(1, whole)
    assert torch.equal(tokens, randn(1, 77, 8, seed=5)) and values.keys() == {"pooled_output", "guidance"}
    assert torch.equal(values["pooled_output"], randn(1, 8))
    assert [prompts.skips(i) for i in range(6)] == [False, False, True, False, False, False]
    for number in (1, 3, 4, 5):
        prompts.of(number, whole)
    assert clip.texts == ["a cat", "a dog"], "each text is encoded once"
    assert not Prompts([], None).skips(0) and Prompts([], None).of(3, whole) is whole


def test_a_mask_is_that_of_the_region():
    mask = torch.zeros(1, 96, 128)
    mask[:, 16:32, 32:64] = 1  # the upper half of the region
    for scale in (1, 2):
        small = mask[:, ::scale, ::scale]
        for form in (small, small[0]):
            ours = cut({"mask": form, "mask_strength": 0.5})
            assert ours["mask"].shape[-2:] == (EDGE, EDGE) and ours["mask"].ndim == form.ndim
            assert ours["mask_strength"] == 0.5
            upper, lower = ours["mask"][..., 8 : EDGE // 2 - 8, 8:-8], ours["mask"][..., EDGE // 2 + 8 :, :]
            assert (upper > 0.99).all() and (lower < 0.01).all()


@pytest.mark.parametrize("form", ["percentage", "latent"])
def test_an_area_is_its_part_in_the_region(form):
    """An area from x = 48 to 128 and from y = 0 to 24 pixels: the right half of the region's upper fourth."""
    area = ("percentage", 24 / 96, 80 / 128, 0, 48 / 128) if form == "percentage" else (3, 10, 0, 6)
    resolved = [{"area": cut({"area": area, "strength": 0.7})["area"]}]
    resolve_areas_and_cond_masks_multidim(resolved, (8, 8), "cpu")
    assert resolved[0]["area"] == (2, 4, 0, 4)


def test_an_area_outside_the_region_is_left_out():
    left, right = ({"area": ("percentage", 1, 0.25, 0, x)} for x in (0, 0.75))
    middle = {"area": ("percentage", 1, 0.5, 0, 0.25)}
    prompt = [[randn(1, 1, 8, seed=i), values] for i, values in enumerate((left, middle, right))]
    ours = cut_to(view(), {"positive": prompt, "negative": [prompt[0], prompt[2]]})
    (entry,) = ours["positive"]
    assert entry[0] is prompt[1][0] and entry[1]["area"] == ("percentage", 1, 1, 0, 0)
    assert [(entry[0] is own[0], entry[1]) for entry, own in zip(ours["negative"], prompt[::2], strict=True)] == [
        (True, {}),
        (True, {}),
    ], "a region outside all areas is left to all prompts"


def test_a_region_that_does_not_fill_its_crop_has_its_area_in_the_middle():
    """A picture of 32 x 64 pixels, cut whole: it fills the crop's middle half."""
    where = {"box": Box(0, 0, 64, 32), "size": (32, 64)}
    assert cut({"area": ("percentage", 1, 0.5, 0, 0.5)}, **where)["area"] == ("percentage", 0.5, 0.5, 0.25, 0.5)


def test_gligen_boxes_are_cut_and_those_outside_left_out():
    inside, outside = (randn(1, 8), 2, 2, 2, 5), (randn(1, 8), 2, 2, 0, 0)
    kind, model, boxes = cut({"gligen": ("position", "model", [inside, outside])})["gligen"]
    assert (kind, model) == ("position", "model")
    assert [box[1:] for box in boxes] == [(4, 4, 0, 2)] and boxes[0][0] is inside[0]


class WithoutNetwork(ControlBase):
    """A ControlNet's pictures alone."""

    def copy(self):
        copied = WithoutNetwork()
        self.copy_to(copied)
        return copied


def test_each_frame_has_its_own_part_of_a_controlnets_pictures():
    control = WithoutNetwork()
    hints, extra = rand(3, 3, *SIZE), rand(1, 1, *SIZE, seed=1)
    control.set_cond_hint(hints, extra_concat=[extra])
    where = view(frames=2)._replace(pictures=[2, 4], boxes=[REGION, Box(50, 20, 32, 32)])  # 4: the hints again
    (entry,) = cut_to(where, {"positive": [[randn(1, 1, 8), {"control": control}]]})["positive"]
    ours = entry[1]["control"]
    for whole, parts, numbers in ((hints, ours.cond_hint_original, (2, 1)), (extra, ours.extra_concat_orig[0], (0, 0))):
        assert parts.shape == (2, whole.shape[1], EDGE, EDGE)
        for part, number, box in zip(parts, numbers, where.boxes, strict=True):
            expected = cut_picture(whole[number].movedim(0, -1), box, EDGE, EDGE).movedim(-1, 0)
            assert torch.equal(part, expected)
    assert control.cond_hint_original is hints and control.extra_concat_orig[0] is extra


def test_prompts_with_one_controlnet_share_its_copy():
    """ComfyUI batches the positive and the negative prompt only where their ControlNets are one object."""
    control = WithoutNetwork().set_cond_hint(rand(1, 3, *SIZE))
    ours = cut_to(view(), {name: [[randn(1, 1, 8), {"control": control}]] for name in ("positive", "negative")})
    assert ours["positive"][0][1]["control"] is ours["negative"][0][1]["control"] is not control


def test_the_crop_is_the_first_reference_latent():
    first, second = randn(1, 4, 12, 16), randn(1, 4, 9, 9)
    ours = cut({"reference_latents": [first, second], "reference_latents_method": "index"})
    assert torch.equal(ours["reference_latents"][0], view().samples) and ours["reference_latents"][1] is second
    assert ours["reference_latents_method"] == "index" and "reference_latents" not in cut({})


def test_an_inpainting_model_reads_the_region():
    """As core's Inpaint Model Conditioning makes it of the crop and its mask."""
    where = view()
    whole = nodes.InpaintModelConditioning().encode(
        [[randn(1, 1, 8), {}]], [], rand(1, 96, 128, 3), where.vae, rand(1, 96, 128)
    )[0]
    ours = cut_to(where, {"positive": whole})["positive"][0][1]
    core = nodes.InpaintModelConditioning().encode([[randn(1, 1, 8), {}]], [], where.crops, where.vae, where.change)[0]
    expected = core[0][1]
    assert torch.allclose(ours["concat_latent_image"], expected["concat_latent_image"], atol=1e-5)
    assert torch.equal(ours["concat_mask"], expected["concat_mask"])


def test_a_picture_beside_the_latent_of_a_video_is_refused():
    with pytest.raises(ValueError, match="cannot cut it out of a video. Remove the node .* or set batch to 'pictures'"):
        cut({"concat_latent_image": randn(1, 4, 2, 8, 8)}, frames=2)


def test_a_check_of_the_size_stays_where_the_picture_is_not_cut():
    wants = Needs(frozenset(["a kind"]), "A Node", size=(12, 16), pictures=2)
    ((_, plain),) = needs([[randn(1, 1, 8), {}]], wants)
    assert cut(plain)["control"].needs == wants
    edits = cut({**plain, "concat_latent_image": randn(1, 4, 12, 16)})["control"].needs
    assert edits == wants._replace(size=None, pictures=1)


def test_nothing_is_written_to_and_the_rest_stays():
    prompt = [[randn(1, 77, 8), {"mask": rand(1, 96, 128), "guidance": 3.5, "hooks": object(), "width": 1024}]]
    before = frozen(prompt)
    ours = cut_to(view(), {"positive": prompt})["positive"][0]
    assert frozen(prompt) == before
    assert ours[0] is prompt[0][0]
    assert {key: ours[1][key] for key in ("guidance", "hooks", "width")} == {
        key: prompt[0][1][key] for key in ("guidance", "hooks", "width")
    }


def test_values_of_regions_become_a_batch_only_where_they_fit():
    shared = randn(1, 4)
    a = {"x": [[randn(1, 3), {"pooled": randn(1, 2), "both": shared, "strength": 1.0}]]}
    b = {"x": [[randn(1, 3, seed=1), {"pooled": randn(1, 2, seed=2), "both": shared, "strength": 1.0}]]}
    assert signature(a) == signature(b)
    ((tokens, values),) = merged([a, b])["x"]
    assert tokens.shape == (2, 3) and values["pooled"].shape == (2, 2) and values["both"] is shared
    for change in (
        {"strength": 0.5},
        {"pooled": randn(1, 3)},
        {"pooled": randn(2, 2)},
        {"control": object()},
        {"area": (1, 2, 3, 4)},
    ):
        assert signature({"x": [[b["x"][0][0], {**b["x"][0][1], **change}]]}) != signature(a)
