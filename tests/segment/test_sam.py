"""SAM against segment-anything, MobileSAM and SAM-HQ on the same random weights; and what is done with every prompt."""

import copy
import gc
import json
import logging
import os
import subprocess
import sys
import weakref
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from comfy import model_management
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file
from segment_anything import sam_model_registry
from segment_anything.build_sam import _build_sam
from segment_anything.utils.onnx import SamOnnxModel

from kit.assertions import relative_error
from kit.golden import GOLDEN, maker
from kit.paths import HOST, PACK
from kit.sam import Reference, box, image, levels, load, reference, seeded, segment
from pentimento.model_patchers.arch import sam_decoder, sam_vit
from pentimento.model_patchers.pixels.boxes import Box
from pentimento.model_patchers.segment import sam as ours
from pentimento.model_patchers.segment import sam_frame, sam_prompts
from pentimento.nodes.segment.sam import LoadSAM, SAMSegment
from pentimento_host import standins

pytestmark = pytest.mark.usefixtures("one_thread")
make_sam = maker("sam")


@pytest.fixture(scope="session")
def thin():
    return reference()


@pytest.fixture
def sam(thin, precision):
    return load(thin.state_dict(), precision=precision.name)


@pytest.fixture
def predictor(thin):
    return Reference(thin)


CLICK, CLICKS, AWAY = [(30.0, 40.0)], [(30, 40.5), (62, 20)], [(10, 70)]
PROMPTS = {
    "click": {"positive": CLICK},
    "clicks": {"positive": CLICKS},
    "negative": {"positive": CLICK, "negative": AWAY},
    "box": {"box": box(20, 10, 50, 40)},
    "box and click": {"positive": CLICK, "box": box(20, 10, 50, 40)},
    "all": {"positive": CLICKS, "negative": AWAY, "box": box(0, 0, 80, 60)},
}


def our_answer(sam, picture, prompt, mask=None):
    """{"embedding", "logits", "scores", "full" logits}: a prompt's answer, the single mask before the three."""
    height, width = picture.shape[:2]
    embedding = sam.embed(picture)
    given = {"positive": [], "negative": [], "box": None} | prompt
    if given["box"]:
        given["box"] = Box(**given["box"])
    drawn = None if mask is None else torch.from_numpy(mask)[None]
    tokens = sam_prompts.prompt_tokens(*given.values(), height, width, sam.frame)
    logits, scores = sam.decode(embedding, sam_decoder.Prompts(*tokens, drawn))
    full = sam_frame.postprocess(logits, height, width, sam.frame)
    return {"embedding": embedding.features, "logits": logits[0], "scores": scores[0], "full": full[0]}


def their_answer(predictor, picture, prompt, mask=None):
    """The same of segment-anything."""
    predictor.set_image(picture)
    three = predictor.ask(**prompt, mask=mask)
    one = predictor.ask(**prompt, mask=mask, multimask=False)
    full, scores, logits = (np.concatenate(both) for both in zip(one, three, strict=True))
    return {"embedding": predictor.features, "logits": logits, "scores": scores, "full": full}


def compare(sam, predictor, picture, prompt, mask=None):
    """The differences of both answers to one prompt, and both full logits."""
    ours, theirs = our_answer(sam, picture, prompt, mask), their_answer(predictor, picture, prompt, mask)
    found = {name: relative_error(value, theirs[name]) for name, value in ours.items()}
    return found, ours["full"].cpu(), torch.from_numpy(theirs["full"])


def assert_equal(found, full, masks):
    assert max(found.values()) < 1e-4, found
    near = masks.abs() < 1e-3 * masks.abs().max()
    assert torch.equal((full > 0) | near, (masks > 0) | near)
    assert near.float().mean() < 0.05 and 0.02 < (masks > 0).float().mean() < 0.98


@pytest.fixture
def tolerances(thin, predictor, precision):
    """(float32, picture, prompt) -> how far each part of an answer may be off. Load SAM lowers the encoder alone."""

    def of(float32, *asked):
        exact = own = their_answer(predictor, *asked)
        if precision.is_half:
            lowered = copy.copy(thin)
            lowered._modules = thin._modules | {"image_encoder": precision.lowered(thin.image_encoder)}
            own = their_answer(Reference(lowered), *asked)
        return {name: precision.tolerance(float32, exact[name], lambda name=name: own[name]) for name in exact}

    return of


@pytest.mark.both_devices
@pytest.mark.parametrize("size", [(90, 120), (120, 90), (256, 256), (85, 700), (333, 101), (64, 65)])
def test_equals_segment_anything_at_any_size(sam, predictor, size):
    assert_equal(*compare(sam, predictor, levels(*size), PROMPTS["click"]))


@pytest.mark.both_devices
@pytest.mark.in_half
@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS)
def test_equals_segment_anything_for_any_prompt(sam, predictor, precision, tolerances, prompt):
    compared = compare(sam, predictor, levels(90, 120), prompt)
    if precision.is_half:
        near = tolerances(1e-4, levels(90, 120), prompt)
        assert max(compared[0][name] / near[name] for name in near) < 1
    else:
        assert_equal(*compared)


@pytest.mark.both_devices
@pytest.mark.parametrize("prompt", [PROMPTS["click"], PROMPTS["box"], {}], ids=["click", "box", "mask alone"])
def test_equals_segment_anything_with_an_earlier_mask(sam, predictor, prompt):
    picture = levels(90, 120)
    predictor.set_image(picture)
    earlier = predictor.ask(**PROMPTS["box"], multimask=False)[2]
    assert_equal(*compare(sam, predictor, picture, prompt, earlier))


def test_equals_segment_anything_in_a_frame_of_1024():
    thin = reference(size=1024, width=32, depth=2)
    assert_equal(*compare(load(thin.state_dict()), Reference(thin), levels(300, 417), PROMPTS["negative"]))


def test_equals_segment_anything_with_blocks_of_vit_b():
    """Two of the twelve, one in windows and one global; `test_the_stand_in_is_a_vit_b` has the whole."""
    with torch.device("meta"):
        vit_b = _build_sam(768, 2, 12, (1,))
    vit_b = seeded(vit_b)
    vit_b.pixel_mean, vit_b.pixel_std = (torch.tensor(v).view(3, 1, 1) for v in (sam_frame.MEAN, sam_frame.SPREAD))
    sam = load(vit_b.state_dict())
    assert_equal(*compare(sam, Reference(vit_b), levels(480, 640), PROMPTS["clicks"]))


@pytest.mark.both_devices
def test_a_batch_is_each_picture_alone(sam, predictor):
    pictures = levels(90, 120), levels(90, 120, seed=1)
    masks, scores = segment(sam, image(*pictures), positive=CLICK)
    for picture, mask, score in zip(pictures, masks, scores, strict=True):
        predictor.set_image(picture)
        logits, iou, _ = predictor.ask(positive=CLICK)
        best = iou.argmax()
        assert score == pytest.approx(iou[best], rel=1e-4)
        near = np.abs(logits[best]) < 1e-3 * np.abs(logits).max()
        assert np.array_equal((mask.numpy() > 0) | near, (logits[best] > 0) | near)
    assert not torch.equal(*masks)


# The comparison would notice


def relative_of_scaled_queries(q, *tables):
    return sam_vit_relative(q * q.shape[-1] ** -0.5, *tables)


def pad_before_normalising(picture, frame):
    height, width = sam_frame.frame_size(*picture.shape[:2], frame)
    resized = np.array(Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR))
    x = F.pad(torch.from_numpy(resized).float(), (0, 0, 0, frame - width, 0, frame - height))
    return ((x - torch.tensor(sam_frame.MEAN)) / torch.tensor(sam_frame.SPREAD)).movedim(-1, 0)[None]


def resize_floats(picture, frame):
    size = sam_frame.frame_size(*picture.shape[:2], frame)
    x = F.interpolate(torch.from_numpy(picture).float().movedim(-1, 0)[None], size, mode="bilinear")
    x = (x - torch.tensor(sam_frame.MEAN)[:, None, None]) / torch.tensor(sam_frame.SPREAD)[:, None, None]
    return F.pad(x, (0, frame - size[1], 0, frame - size[0]))


class NoHalfPixel(sam_decoder.PromptEncoder):
    def forward(self, prompts):
        return super().forward(sam_decoder.Prompts(prompts.coords - 0.5, prompts.labels, prompts.mask))


class PositionsInTheFirstLayer(sam_decoder.TwoWayLayer):
    def forward(self, x, x_pe, image, image_pe):
        attention = self.self_attn.forward
        self.self_attn.forward = lambda q, k, v: attention(q + x_pe, k + x_pe, v)
        return super().forward(x, x_pe, image, image_pe)


sam_vit_relative = sam_vit.relative


@pytest.mark.in_half
@pytest.mark.parametrize(
    "where, name, wrong",
    [
        (sam_vit, "relative", relative_of_scaled_queries),
        (ours, "preprocess", pad_before_normalising),
        pytest.param(ours, "preprocess", resize_floats, marks=pytest.mark.in_half("fp32")),  # too near for halves
        (ours, "PromptEncoder", NoHalfPixel),
        (sam_frame, "frame_size", lambda h, w, frame: (h * frame // max(h, w), w * frame // max(h, w))),
    ],
)
def test_a_wrong_variant_is_told(thin, predictor, precision, tolerances, monkeypatch, where, name, wrong):
    asked = levels(101, 333), PROMPTS["clicks"]
    far = tolerances(1e-3, *asked)
    monkeypatch.setattr(where, name, wrong)
    found, _, _ = compare(load(thin.state_dict(), precision=precision.name), predictor, *asked)
    assert max(found[name] / far[name] for name in far) > 1


def test_positions_in_the_first_layer_are_told(sam, predictor):
    sam.network.mask_decoder.transformer.layers[0].__class__ = PositionsInTheFirstLayer
    found, _, _ = compare(sam, predictor, levels(90, 120), PROMPTS["clicks"])
    assert max(found.values()) > 1e-3


# MobileSAM and SAM-HQ


@pytest.mark.both_devices
@pytest.mark.parametrize("name", ["mobile", "hq"])
def test_equals_the_published_code_of(name):
    golden = np.load(GOLDEN / f"sam_{name}.npz")
    sam = load(make_sam.weights(json.loads(str(golden["shapes"]))))
    picture = make_sam.picture()
    embedding = sam.embed(picture)
    assert relative_error(embedding.features[0, :, ::8, ::8], golden["embedding"]) < 1e-4
    x, y, right, bottom = make_sam.BOX
    points = [tuple(point) for point in make_sam.POINTS]
    prompts = {
        "click": (points[:1], [], None),
        "points": (points[:1], points[1:], None),
        "box": ([], [], Box(x, y, right - x, bottom - y)),
    }
    for key, prompt in prompts.items():
        tokens = sam_prompts.prompt_tokens(*prompt, *picture.shape[:2], sam.frame)
        (logits,), (scores,) = sam.decode(embedding, sam_decoder.Prompts(*tokens))
        full = sam_frame.postprocess(logits[None], *picture.shape[:2], sam.frame)[0]
        best = 1 + scores[1:].argmax()
        three = slice(best, best + 1) if name == "hq" else slice(1, 4)  # SAM-HQ gives the best of the three alone
        for kind, chosen in (("one", slice(0, 1)), ("three", three)):
            assert relative_error(logits[chosen, ::8, ::8], golden[f"{key}_{kind}_low"]) < 1e-4
            assert relative_error(scores[chosen], golden[f"{key}_{kind}_scores"]) < 1e-4
            assert relative_error(full[chosen, ::8, ::8], golden[f"{key}_{kind}_full"]) < 1e-4


# The choice and the refinement


@settings(max_examples=200)
@given(st.lists(st.floats(-2, 2, width=32), min_size=4, max_size=4), st.integers(0, 9))
def test_auto_is_the_rule_of_the_onnx_model(scores, tokens):
    model = SamOnnxModel.__new__(SamOnnxModel)
    torch.nn.Module.__init__(model)
    model.model = torch.nn.Module()
    model.model.mask_decoder = torch.nn.Module()
    model.model.mask_decoder.num_mask_tokens = 4
    scores = torch.tensor([scores])
    mask, score = model.select_masks(torch.arange(4.0).view(1, 4, 1, 1), scores, tokens)
    chosen = sam_prompts.choose(scores, tokens, "auto")
    assert chosen.item() == mask.item() and scores[0, chosen[0]] == score


@pytest.mark.parametrize(
    "prompt, multimask",
    [("click", True), ("box", True), ("clicks", False), ("negative", False), ("box and click", False)],
)
def test_auto_takes_the_best_of_three_or_the_one(sam, predictor, prompt, multimask):
    prompt = dict(PROMPTS[prompt])
    picture = levels(90, 120)
    predictor.set_image(picture)
    logits, iou, _ = predictor.ask(**prompt, multimask=multimask)
    boxes = prompt.pop("box", None)
    mask, score = segment(sam, image(picture), boxes=boxes, **prompt)
    assert score == [pytest.approx(iou.max(), rel=1e-4)]
    assert ((mask[0].numpy() > 0) != (logits[iou.argmax()] > 0)).mean() < 1e-3


def test_choices(sam, predictor):
    picture = levels(90, 120)
    predictor.set_image(picture)
    logits, iou, _ = predictor.ask(positive=CLICKS)
    every, scores = segment(sam, image(picture), positive=CLICKS, choice="all")
    assert every.shape == (3, 90, 120) and scores == pytest.approx(iou.tolist(), rel=1e-4)
    for i, mask in enumerate(every):
        assert ((mask.numpy() > 0) != (logits[i] > 0)).mean() < 1e-3
        one, score = segment(sam, image(picture), positive=CLICKS, choice=str(i + 1))
        assert torch.equal(one[0], mask) and score == [scores[i]]
    best, score = segment(sam, image(picture), positive=CLICKS, choice="best")
    assert torch.equal(best[0], every[iou.argmax()]) and score == [max(scores)]


BOXES = [(40, 30, 40, 30), (0, 0, 20, 80), (10, 10, 30, 30), (50, 40, 6, 6)]


def clip_and_boxes():
    """Pictures of a moving texture, and a box on each."""
    texture = levels(120, 160)
    pictures = [texture[4 * t : 4 * t + 90, 6 * t : 6 * t + 120].copy() for t in range(len(BOXES))]
    return pictures, [[box(*sides)] for sides in BOXES]


def seeds_choice(predictor, pictures, boxes):
    """Remove Anything Video's loop over the frames without its dilation: the masks, and the numbers of the chosen."""
    chosen, numbers = [], []
    for picture, (each,) in zip(pictures, boxes, strict=True):
        predictor.set_image(picture)
        logits, iou, _ = predictor.ask(box=each)
        masks = logits > 0
        if chosen:
            number = ((masks.astype(np.int32) - chosen[-1].astype(np.int32)) ** 2).mean((-2, -1)).argmin()
        else:
            number = iou.argmax()
        chosen.append(masks[number])
        numbers.append(int(number))
    return np.stack(chosen), numbers


def undecided():
    """A SAM whose best mask is one on the first picture of `clip_and_boxes`, and another on others."""
    model, leads = reference(), []
    for picture, (each,) in zip(*clip_and_boxes(), strict=True):
        predictor = Reference(model)
        predictor.set_image(picture)
        _, iou, _ = predictor.ask(box=each)
        leads.append(iou[2] - iou[0])
    assert leads[0] < max(leads)
    model.mask_decoder.iou_prediction_head.layers[-1].bias.data[1] += float(leads[0] + max(leads)) / 2
    return model


def test_previous_is_the_choice_of_remove_anything_video():
    """The mask that was chosen before is compared as it is. The seed compares with that mask dilated."""
    pictures, boxes = clip_and_boxes()
    model = undecided()
    expected, numbers = seeds_choice(Reference(model), pictures, boxes)
    assert numbers == [0, 0, 0, 0]
    mask, best = (
        segment(load(model.state_dict()), image(*pictures), boxes=boxes, choice=choice)[0].numpy() > 0
        for choice in ("previous", "best")
    )
    assert (mask != expected).mean((1, 2)).max() < 1e-3
    assert (best != expected).mean((1, 2)).max() > 0.1


def test_previous_of_the_first_picture_is_the_best(sam):
    pictures, boxes = clip_and_boxes()
    ours, best = (segment(sam, image(pictures[0]), boxes=boxes[0], choice=choice) for choice in ("previous", "best"))
    assert torch.equal(ours[0], best[0]) and ours[1] == best[1]


def test_previous_goes_over_pictures_without_a_box(sam):
    pictures, boxes = clip_and_boxes()
    without = segment(sam, image(*pictures), boxes=[boxes[0], [], *boxes[2:]], choice="previous")
    left_out = segment(sam, image(*pictures[:1], *pictures[2:]), boxes=[boxes[0], *boxes[2:]], choice="previous")
    assert not without[0][1].any() and without[1][1] == 0
    assert torch.equal(without[0][[0, 2, 3]], left_out[0])


def test_previous_chooses_in_every_pass_of_the_refinement(sam):
    pictures, boxes = clip_and_boxes()
    mask, _ = segment(sam, image(*pictures), boxes=boxes, choice="previous", refine=1)
    assert mask.shape == (4, 90, 120) and mask.flatten(1).any(1).all()


def test_nearest_has_the_least_mean_squared_difference():
    previous = torch.zeros(4, 5, dtype=torch.bool)
    previous[1:3, 1:4] = True
    masks = torch.zeros(4, 4, 5, dtype=torch.bool)
    masks[0] = previous  # the answer to an unambiguous prompt
    masks[1], masks[2, 1:3, 1:3], masks[3, 2:, 2:] = True, True, True
    assert sam_prompts.nearest(masks, previous).item() == 2


def test_refinement_feeds_the_chosen_logits_back(sam, predictor):
    picture = levels(90, 120)
    predictor.set_image(picture)
    _, iou, low = predictor.ask(positive=CLICK)
    for _ in range(2):
        logits, iou, low = predictor.ask(positive=CLICK, mask=low[iou.argmax()][None])
    mask, score = segment(sam, image(picture), positive=CLICK, refine=2)
    assert score == [pytest.approx(iou.max(), rel=1e-4)]
    assert ((mask[0].numpy() > 0) != (logits[iou.argmax()] > 0)).mean() < 1e-3


def test_refinement_of_all_refines_each(sam, predictor):
    picture = levels(90, 120)
    predictor.set_image(picture)
    _, _, low = predictor.ask(positive=CLICK)
    masks, scores = segment(sam, image(picture), positive=CLICK, choice="all", refine=1)
    for i in range(3):
        logits, iou, _ = predictor.ask(positive=CLICK, mask=low[i][None])
        assert scores[i] == pytest.approx(iou[i], rel=1e-4)
        assert ((masks[i].numpy() > 0) != (logits[i] > 0)).mean() < 1e-3


def test_a_mask_prompt_lies_where_it_was_drawn():
    mask = torch.zeros(90, 120)
    mask[30:60, 40:100] = 1
    logits = sam_frame.mask_logits(mask, 1024, 256)
    assert logits.shape == (1, 1, 256, 256) and logits.min() == -10 and logits.max() == 10
    assert (logits[..., 192:, :] == -10).all()  # below the picture
    back = sam_frame.postprocess(logits, 90, 120, 1024)[0, 0]
    assert ((back > 0).float() - mask).abs().mean() < 0.01


def test_a_mask_prompt_is_used_and_a_blank_one_is_not(sam):
    picture = image(levels(90, 120))
    mask = torch.zeros(1, 90, 120)
    mask[:, 20:60, 30:80] = 1
    alone, _ = segment(sam, picture, positive=CLICK)
    assert not torch.equal(segment(sam, picture, positive=CLICK, mask=mask)[0], alone)
    assert torch.equal(segment(sam, picture, positive=CLICK, mask=torch.zeros(1, 64, 64))[0], alone)
    assert segment(sam, picture, mask=mask)[0].any()


# Boxes


def test_the_three_forms_of_boxes(sam):
    pictures, one = image(levels(90, 120), levels(90, 120, seed=1)), box(20, 10, 50, 40)
    shared = segment(sam, pictures, boxes=one)
    assert torch.equal(segment(sam, pictures, boxes=[one])[0], shared[0])
    assert torch.equal(segment(sam, pictures, boxes=[[one], [one]])[0], shared[0])
    other = box(60, 30, 40, 50)
    masks, scores = segment(sam, pictures, boxes=[[one], [other]])
    assert torch.equal(masks[0], shared[0][0]) and torch.equal(masks[1], segment(sam, pictures[1:], boxes=other)[0][0])
    masks, scores = segment(sam, pictures, boxes=[[], [other]])
    assert not masks[0].any() and masks[1].any() and scores[0] == 0.0


def test_several_boxes_are_joined(sam):
    picture, boxes = image(levels(90, 120)), [box(20, 10, 30, 40), box(70, 30, 40, 50)]
    inside, outside, away = (75, 40), (5, 80), (60, 60)
    masks, scores = segment(sam, picture, boxes=boxes, positive=[inside, outside], negative=[away])
    parts = [
        segment(sam, picture, boxes=boxes[0], negative=[away]),
        segment(sam, picture, boxes=boxes[1], positive=[inside], negative=[away]),
        segment(sam, picture, positive=[outside], negative=[away]),
    ]
    assert torch.equal(masks, torch.stack([mask for mask, _ in parts]).amax(0))
    assert scores == [min(score[0] for _, score in parts)]
    assert segment(sam, picture, boxes=boxes, choice="all")[0].shape == (3, 90, 120)


def test_a_box_over_the_border_is_cut_there(sam):
    picture = image(levels(90, 120))
    cut = segment(sam, picture, boxes=box(100, 60, 20, 30))[0]
    assert torch.equal(segment(sam, picture, boxes=box(100, 60, 50, 50))[0], cut)


def test_an_unconnected_box_is_none():
    boxes = next(entry for entry in SAMSegment.GET_SCHEMA().inputs if entry.id == "bboxes")
    assert boxes.optional and boxes.as_dict().get("default") is None and boxes.as_dict()["forceInput"] is True


# What cannot be used is told


@pytest.mark.parametrize(
    "prompt, message",
    [
        ({}, "nothing to segment by"),
        ({"negative": AWAY}, "nothing to segment by"),
        ({"boxes": []}, "bboxes has no box and .* Click on the object"),
        ({"boxes": [[], []]}, "bboxes has no box and .* Click on the object"),
        ({"boxes": [[], [], []], "negative": AWAY}, "bboxes has no box and .* Click on the object"),
        ({"boxes": [], "mask": torch.zeros(1, 90, 120)}, "nothing to segment by"),
        ({"mask": torch.zeros(1, 90, 120)}, "nothing to segment by"),
        ({"positive": [(120, 5)]}, r"positive_coords has the point \(120, 5\), which lies outside the 120 x 90"),
        ({"positive": CLICK, "negative": [(0, -1)]}, "negative_coords has the point"),
        ({"boxes": box(5, 5, 0, 10)}, "is empty"),
        ({"boxes": [[box(5, 5, 10, -1)]]}, "is empty"),
        ({"boxes": box(120, 5, 10, 10)}, "outside the 120 x 90 picture"),
        ({"boxes": box(-20, 5, 20, 10)}, "outside the 120 x 90 picture"),
        ({"boxes": [[box(5, 5, 9, 9)]] * 3}, "for 3 pictures but image is a batch of 2"),
        ({"boxes": "5, 5, 9, 9"}, "bboxes is no box"),
        ({"boxes": [(5, 5, 9, 9)]}, "is no box"),
        ({"boxes": {"x": 5, "y": 5}}, "is no box"),
        ({"boxes": box("5", 5, 9, 9)}, "is no box"),
        ({"boxes": box("5", "5", "9", "9")}, "is no box"),
        ({"positive": CLICK, "mask": torch.ones(1, 90, 90)}, "^mask_prompt is 90 x 90 .* the proportions differ"),
        ({"positive": CLICK, "mask": torch.ones(3, 90, 120)}, "^mask_prompt is a batch of 3 but image is a batch of 2"),
    ],
)
def test_prompts_that_cannot_be_used(sam, prompt, message):
    with pytest.raises(ValueError, match=message):
        segment(sam, image(levels(90, 120), levels(90, 120)), **prompt)


@pytest.mark.parametrize("coords", ["[", '{"x": 1, "y": 2}', "[[1, 2]]", '[{"x": "a", "y": 1}]'])
@pytest.mark.parametrize("name", ["positive_coords", "negative_coords"])
def test_text_that_is_no_points_is_told_before_the_run(name, coords):
    assert f"{name} is not a list of points" in SAMSegment.validate_inputs(**{name: coords})
    assert SAMSegment.validate_inputs() is True


def transformers_weights(kind):
    import transformers

    config = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "global_attn_indexes": [0]}
    with torch.device("meta"):
        if kind == "SamModel":
            model = transformers.SamModel(transformers.SamConfig(vision_config=config))
        else:
            model = transformers.Sam2Model(transformers.Sam2Config())
    return dict(model.state_dict())


@pytest.mark.parametrize(
    "weights, message",
    [
        (partial(transformers_weights, "SamModel"), "layout of Hugging Face"),
        (partial(transformers_weights, "Sam2Model"), "SAM 2"),
        ({"image_encoder.trunk.blocks.0.norm1.weight": 1, "sam_mask_decoder.iou_token.weight": 1}, "SAM 2"),
        ({"detector.backbone.vision_backbone.trunk.blocks.0.attn.qkv.weight": 1}, "SAM 3"),
        ({"image_encoder.stages.0.0.token_mixer.weight": 1, "mask_decoder.iou_token.weight": 1}, "relative of SAM"),
        ({"model.diffusion_model.out.0.weight": 1}, "1 tensors such as 'model.diffusion_model.out.0.weight'"),
    ],
)
def test_other_networks_are_named(weights, message):
    weights = weights() if callable(weights) else {name: torch.zeros(1) for name in weights}
    with pytest.raises(ValueError, match=message) as error:
        ours.sam_weights(weights, "other.pth")
    assert "'other.pth'" in str(error.value) and "sam_vit_b_01ec64.pth" in str(error.value)


def test_incomplete_and_altered_files_are_told(thin):
    weights = dict(thin.state_dict())
    del weights["mask_decoder.iou_prediction_head.layers.2.bias"]
    with pytest.raises(ValueError, match="lacks 1 tensors such as 'mask_decoder.iou_prediction_head.layers.2.bias'"):
        load(weights)
    with pytest.raises(
        ValueError, match="1 tensors that SAM does not have, such as 'image_encoder.blocks.0.adapter.w'"
    ):
        load(thin.state_dict() | {"image_encoder.blocks.0.adapter.w": torch.zeros(1)})


# Files and precision


@pytest.mark.parametrize("form", ["pth", "safetensors", "nested"])
def test_files(thin, form, tmp_path, monkeypatch, sam):
    weights = {name: value.contiguous() for name, value in thin.state_dict().items()}
    path = tmp_path / f"sam.{'safetensors' if form == 'safetensors' else 'pth'}"
    if form == "safetensors":
        save_file(weights, path)
    else:
        torch.save(weights if form == "pth" else {"model": {f"module.{k}": v for k, v in weights.items()}}, path)
    import folder_paths

    monkeypatch.setitem(folder_paths.folder_names_and_paths, "sams", ([str(tmp_path)], {".pth", ".safetensors"}))
    loaded = LoadSAM.execute(path.name, "auto").result[0]
    picture = image(levels(90, 120))
    assert torch.equal(segment(loaded, picture, positive=CLICK)[0], segment(sam, picture, positive=CLICK)[0])
    with pytest.raises(FileNotFoundError, match="models/sams"):
        LoadSAM.execute("none.pth", "auto")


def test_the_stand_in_is_a_vit_b(tmp_path):
    path = tmp_path / "standin-sam_vit_b_01ec64.pth"
    standins.sam(path)
    weights = torch.load(path, weights_only=True)
    with torch.device("meta"):
        published = sam_model_registry["vit_b"]().state_dict()
    assert weights.keys() == published.keys()
    assert all(value.ndim == published[name].ndim for name, value in weights.items())
    mask, _ = segment(ours.load(path), image(levels(90, 120)), positive=CLICK)
    assert mask.shape == (1, 90, 120) and path.stat().st_size < 4e6


def test_bf16_is_of_the_encoder_alone_and_close(thin, sam):
    half = load(thin.state_dict(), precision="bf16")
    types = {name.split(".")[0]: value.dtype for name, value in half.network.named_parameters()}
    assert types == {
        "image_encoder": torch.bfloat16,
        "prompt_encoder": torch.float32,
        "mask_decoder": torch.float32,
    }
    picture = levels(90, 120)
    assert 1e-4 < relative_error(half.embed(picture).features, sam.embed(picture).features) < 0.1
    assert half.embed(picture).features.dtype == torch.float32
    assert load(thin.state_dict(), precision="fp32").dtype == torch.float32


def test_fp16_for_vit_h_is_warned_about(caplog):
    with caplog.at_level(logging.WARNING):
        load(reference(size=32, width=320, depth=2).state_dict(), precision="fp16")
        assert "fp16" not in caplog.text
        load(reference(size=32, width=1280, depth=2, heads=16).state_dict(), precision="fp16")
    assert "'test.pth' is a ViT-H, which gives garbage in fp16" in caplog.text


# Embeddings are kept, and memory is given back


@pytest.fixture
def encoded(sam):
    """How many pictures the encoder was shown, as a list that grows."""
    shown = []
    sam.network.image_encoder.register_forward_hook(lambda *_: shown.append(1))
    return shown


def test_another_click_costs_no_encoder_pass(sam, encoded):
    pictures = image(levels(90, 120), levels(90, 120, seed=1))
    first = segment(sam, pictures, positive=CLICK)
    assert len(encoded) == 2
    segment(sam, pictures.flip(0), positive=CLICKS, boxes=box(5, 5, 50, 50))
    again = segment(sam, pictures.clone(), positive=CLICK)
    assert len(encoded) == 2
    assert torch.equal(first[0], again[0]) and first[1] == again[1]
    pictures[0, 0, 0, 0] = 1 - pictures[0, 0, 0, 0]
    segment(sam, pictures, positive=CLICK)
    assert len(encoded) == 3
    turned = pictures.reshape(2, 120, 90, 3)  # the same numbers, another picture
    segment(sam, turned, positive=CLICK)
    assert len(encoded) == 5


def test_the_cache_respects_its_bound_and_drops_the_oldest(thin):
    one = load(thin.state_dict()).embed(levels(32, 32)).nbytes
    sam = load(thin.state_dict(), keep=3 * one)
    for seed in (0, 1, 2, 0, 3):
        sam.embed(levels(32, 32, seed))
        assert sam.cache.nbytes <= 3 * one
    assert sam.cache.nbytes == 3 * one
    kept = [sam.cache.get(ours.content_key(levels(32, 32, seed))) is not None for seed in range(4)]
    assert kept == [True, False, True, True]
    none = load(thin.state_dict(), keep=one - 1)
    none.embed(levels(32, 32))
    assert none.cache.nbytes == 0


def test_embeddings_go_when_the_host_unloads_and_with_the_model(sam):
    sam.embed(levels(90, 120))
    model_management.unload_all_models()
    assert sam.cache.nbytes == 0
    sam.load()
    embedding = weakref.ref(sam.embed(levels(90, 120)))
    network, cache = weakref.ref(sam.network), weakref.ref(sam.cache)
    assert embedding() and embedding().features.device == model_management.intermediate_device()
    alone = load(sam.network.state_dict())
    kept = weakref.ref(alone.embed(levels(90, 120)))
    del alone
    gc.collect()
    assert kept() is None and network() and cache()


def test_weights_stay_bit_identical(thin, sam):
    segment(sam, image(levels(90, 120)), positive=CLICK, refine=1, choice="all")
    model_management.unload_all_models()
    after = sam.network.state_dict()
    assert after.keys() == thin.state_dict().keys()
    assert all(torch.equal(after[name], value) for name, value in thin.state_dict().items())


UNLOAD = """
import gc, psutil, sys, torch
sys.path.insert(0, sys.argv[1])
import conftest
from kit.sam import image, levels, load, reference, segment
from comfy import model_management

def rss():
    gc.collect()
    return psutil.Process().memory_info().rss

def use(weights):
    sam = load(weights)
    segment(sam, image(levels(300, 400)), positive=[(30, 40)])
    return sam

with torch.inference_mode():
    use(reference(size=1024, width=32, depth=2).state_dict())
    weights = reference(size=512, width=1024, depth=3, heads=16).state_dict()
    model_management.unload_all_models()
    before = rss()
    sam = use(weights)
    held = rss()
    model_management.unload_all_models()
    del sam
    print(before, held, rss())
"""


def test_memory_is_given_back():
    command = [sys.executable, "-c", UNLOAD, str(PACK / "tests")]
    # Without the variable, the C library keeps what is freed for the next tensor.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    answer = subprocess.run(command, check=True, capture_output=True, text=True, cwd=HOST, env=environment).stdout
    before, held, after = map(int, answer.split()[-3:])
    assert held > before + 150e6 and after < 1.05 * before


# Manners


def test_same_bits_every_time(thin):
    pictures, mask = image(levels(90, 120), levels(90, 120, seed=1)), torch.rand(1, 90, 120)
    state = torch.get_rng_state()
    runs = [segment(load(thin.state_dict()), pictures, positive=CLICK, mask=mask, refine=1) for _ in range(2)]
    assert torch.equal(runs[0][0], runs[1][0]) and runs[0][1] == runs[1][1]
    assert torch.equal(torch.get_rng_state(), state)


def test_results_are_masks_and_a_score_for_each(sam):
    masks, scores = segment(sam, image(levels(90, 120), levels(90, 120, seed=1)), positive=CLICK, choice="all")
    assert masks.shape == (6, 90, 120) and masks.dtype == torch.float32
    assert masks.device == model_management.intermediate_device()
    assert set(masks.unique().tolist()) == {0.0, 1.0}
    assert len(scores) == 6 and all(isinstance(score, float) for score in scores)
    assert SAMSegment.GET_SCHEMA().outputs[1].is_output_list


def test_grey_and_transparent_pictures(sam):
    picture = image(levels(90, 120))
    expected = segment(sam, picture, positive=CLICK)[0]
    assert torch.equal(segment(sam, torch.cat((picture, torch.rand(1, 90, 120, 1)), -1), positive=CLICK)[0], expected)
    grey = picture[..., :1]
    assert torch.equal(
        segment(sam, grey, positive=CLICK)[0], segment(sam, grey.expand(-1, -1, -1, 3), positive=CLICK)[0]
    )


def test_the_smallest_and_the_longest_picture(sam):
    for size in ((1, 1), (1, 300), (300, 2)):
        assert segment(sam, image(levels(*size)), positive=[(0, 0)])[0].shape == (1, *size)


def test_the_user_can_interrupt(sam):
    model_management.interrupt_current_processing(True)
    with pytest.raises(model_management.InterruptProcessingException):
        segment(sam, image(levels(90, 120)), positive=CLICK)
    assert sam.cache.nbytes == 0
    assert segment(sam, image(levels(90, 120)), positive=CLICK)[0].shape == (1, 90, 120)


def test_progress_ends_at_its_total(sam, bars):
    pictures = image(levels(90, 120), levels(90, 120, seed=1))
    for _ in range(2):
        segment(sam, pictures, boxes=[[box(5, 5, 20, 20), box(40, 40, 20, 20)], []], refine=2)
    assert [(bar.values[-1], bar.total) for bar in bars] == [(4 + 2 * 3, 4 + 2 * 3)] * 2
