"""SAM Segment Everything against segment-anything's SamAutomaticMaskGenerator, on the same weights and answers."""

import sys
import threading
import types
from functools import partial

import numpy as np
import pytest
import torch
from comfy import model_management
from comfy_extras.nodes_images import ImageCropV2
from comfy_extras.nodes_rtdetr import DrawBBoxes
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from segment_anything import SamAutomaticMaskGenerator
from segment_anything.utils import amg
from skimage import measure, morphology

from kit.memory import held
from kit.nodes import run_node
from kit.sam import Reference, image, levels, load, reference, segment
from kit.tensors import rand
from pentimento.model_patchers.pixels.boxes import Box
from pentimento.model_patchers.segment import sam_everything as ours
from pentimento.model_patchers.segment import sam_frame
from pentimento.model_patchers.segment.sam_everything import Settings
from pentimento.nodes.segment.sam_everything import SAMSegmentEverything

pytestmark = pytest.mark.usefixtures("one_thread")


def lively():
    """A thin SAM that finds things: random weights give every point the same mask of the whole picture.

    The mean of the features that the masks are read from is taken out of what reads them, and put back as a threshold,
    so that masks are peaks. Scores are spread about 0.8.
    """
    sam = reference()
    decoder, fine = sam.mask_decoder, []
    for layer in decoder.transformer.layers:
        for attention in (layer.cross_attn_image_to_token, layer.cross_attn_token_to_image, layer.self_attn):
            attention.q_proj.weight.mul_(12)
    hook = decoder.output_upscaling.register_forward_hook(lambda module, given, result: fine.append(result))
    predictor = Reference(sam)
    predictor.set_image(levels(90, 120))
    scores = [predictor.ask(positive=[(x, y)])[1] for x in range(5, 120, 20) for y in range(5, 90, 20)]
    hook.remove()
    mean = torch.cat(fine).mean((0, 2, 3))
    along = mean / mean.norm() ** 2
    for perceptron in decoder.output_hypernetworks_mlps:
        last = perceptron.layers[-1]
        last.weight.sub_(along[:, None] * (mean @ last.weight)).mul_(150)
        last.bias.sub_(along * (mean @ last.bias)).mul_(150).sub_(60 * along)
    last, scores = decoder.iou_prediction_head.layers[-1], torch.tensor(np.array(scores))
    spread = scores.std(0) * 5
    last.bias[1:].sub_(scores.mean(0)).div_(spread).add_(0.8)
    last.weight[1:].div_(spread[:, None])
    return sam


@pytest.fixture(scope="module")
def thin():
    with torch.inference_mode():
        return lively()


@pytest.fixture
def sam(thin):
    return load(thin.state_dict())


def generator(model, given):
    return SamAutomaticMaskGenerator(
        model,
        points_per_side=given.points_per_side,
        pred_iou_thresh=given.pred_iou_thresh,
        stability_score_thresh=given.stability_score_thresh,
        crop_n_layers=given.crop_layers,
        min_mask_region_area=given.min_area,
    )


def largest_first(found):
    return sorted((one for one in found if one["area"]), key=lambda one: -one["area"])


def everything(sam, pictures, given=None, **kwargs):
    given = given or Settings(**kwargs)
    return run_node(SAMSegmentEverything, sam=sam, image=pictures, **vars(given))


def same(ours, theirs, wrong_pixels=0.0):
    """Whether both found the same, in the same order."""
    masks, (boxes,), _ = ours
    theirs = largest_first(theirs)
    if len(boxes) != len(theirs):
        return False
    for mask, box, other in zip(masks, boxes, theirs, strict=bool(theirs)):
        x, y, width, height = other["bbox"]
        near = (mask != torch.from_numpy(other["segmentation"])).float().mean() <= wrong_pixels
        if not near or [box[side] for side in Box._fields] != [x, y, width + 1, height + 1]:
            return False
        if abs(box["score"] - other["predicted_iou"]) > 1e-4:
            return False
    return True


# Against the generator, the whole network


@pytest.mark.parametrize(
    "size, layers",
    [
        pytest.param((90, 120), 0, marks=pytest.mark.both_devices),
        pytest.param((180, 101), 1, marks=pytest.mark.both_devices),
        ((85, 700), 1),
        ((300, 417), 0),
        ((500, 200), 0),
    ],
)
def test_equals_the_published_generator(thin, sam, size, layers):
    picture, given = levels(*size), Settings(8, 0.5, 0.5, layers)
    theirs = generator(thin, given).generate(picture)
    assert len(theirs) >= 5 and len({tuple(one["crop_box"]) for one in theirs}) > layers
    assert same(everything(sam, image(picture), given), theirs, wrong_pixels=1e-4)


@pytest.mark.both_devices
def test_equals_the_published_generator_where_all_are_kept(thin, sam):
    picture, given = levels(120, 90), Settings(8, 0.0, 0.0)
    theirs = generator(thin, given).generate(picture)
    assert any(one["area"] == 0 for one in theirs)  # blank masks, which ours drops
    assert same(everything(sam, image(picture), given), theirs, wrong_pixels=1e-4)


# Against the generator, the same answers to both: exactly equal


def answers(coords):
    """Three blobs with ragged edges for each point (P, 2) of a frame of 256: logits (P, 3, 64, 64), scores (P, 3)."""
    random = torch.Generator().manual_seed(5)
    centres = torch.rand(40, 2, generator=random) * 256
    radii = 4 + 90 * torch.rand(40, 3, generator=random) ** 3
    coords = (coords.float() * 16).round() / 16
    nearest = torch.cdist(coords, centres).argmin(1)
    wobble = torch.sin(coords @ torch.tensor([[12.9898], [78.233]])) * 43758.5453  # differs from point to point
    luck = (wobble + torch.tensor([0.0, 0.31, 0.77])) % 1
    middle = centres[nearest] + 4 * (luck[:, :2] - 0.5)
    y, x = torch.meshgrid(torch.arange(64) * 4 + 2.0, torch.arange(64) * 4 + 2.0, indexing="ij")
    distance = ((x - middle[:, :1, None]) ** 2 + (y - middle[:, 1:, None]) ** 2).sqrt()
    ragged = 3 * torch.sin(x * 0.61) * torch.sin(y * 0.53) * (1 + luck[..., None, None])
    logits = (radii[nearest][..., None, None] - distance[:, None]) * (0.3 + luck[..., None, None]) + ragged
    return logits, 0.7 + 0.3 * luck


class Answers:
    """What SAM Segment Everything knows of a SAM."""

    frame, grid, steps = 256, 16, 4
    device = torch.device("cpu")

    def load(self, prompts):
        assert prompts == 64

    def embed(self, levels, step):
        step(self.steps)

    def decode(self, embedding, prompts):
        assert prompts.labels.tolist() == [[1, -1]] * len(prompts.coords) and not prompts.coords[:, 1].any()
        logits, scores = answers(prompts.coords[:, 0])
        single = torch.full_like(logits[:, :1], 5.0), torch.ones(len(logits), 1)
        return torch.cat((single[0], logits), 1), torch.cat((single[1], scores), 1)


def same_answers(model, given):
    """The published generator with `answers` for its network."""
    peer = generator(model, given)
    predictor = peer.predictor

    def set_image(picture):
        predictor.original_size = picture.shape[:2]
        predictor.input_size = sam_frame.frame_size(*picture.shape[:2], 256)

    def predict_torch(coords, labels, **kwargs):
        logits, scores = answers(coords[:, 0])
        return model.postprocess_masks(logits, predictor.input_size, predictor.original_size), scores, logits

    predictor.set_image, predictor.predict_torch = set_image, predict_torch
    return peer


@pytest.fixture(scope="module")
def cv2():
    """What the published generator wants of OpenCV, from scikit-image."""

    def connected_components_with_stats(mask, connectivity):
        labels = measure.label(mask, connectivity={4: 1, 8: 2}[connectivity])
        areas = np.bincount(labels.ravel())
        return len(areas), labels, np.stack([np.zeros_like(areas)] * 4 + [areas], axis=1), None

    sys.modules["cv2"] = types.SimpleNamespace(connectedComponentsWithStats=connected_components_with_stats)
    yield
    del sys.modules["cv2"]


@pytest.mark.parametrize(
    "size, given",
    [
        ((256, 256), Settings(16)),
        ((301, 417), Settings(16)),
        ((700, 90), Settings(12, 0.8, 0.5)),
        ((90, 700), Settings(12, 0.8, 0.5, 1)),
        ((260, 330), Settings(8, 0.85, 0.8, 2)),
        ((33, 47), Settings(9, 0.8, 0.5, 1)),
        ((301, 217), Settings(12, 0.8, 0.5, 1, 60)),
        ((200, 150), Settings(12, 0.8, 0.5, 0, 5000)),
        ((64, 65), Settings(1, 0.0, 0.0, 2)),
    ],
)
def test_equals_the_published_generator_exactly(thin, cv2, size, given):
    picture = levels(*size)
    theirs = same_answers(thin, given).generate(picture)
    assert len(theirs) >= 5
    assert same(everything(Answers(), image(picture), given), theirs)


WRONG = {
    "a grid from edge to edge": ("point_grid", lambda n: ours_point_grid(n) * n / (n - 1) - 0.5 / (n - 1)),
    "crops that overlap less": ("OVERLAP", 0.25),
    "masks at crops' edges": ("NEAR", -1),
    "masks at the picture's edges": ("cut_off", lambda box, crop, width, height: ours_cut_off(box, crop, 10**6, 10**6)),
    "a stricter idea of duplicates": ("DUPLICATE", 0.6),
    "another range for stability": ("OFFSET", 0.9),
    "pieces that do not touch by corners": ("EIGHT", None),
    "boxes one larger": ("nms", lambda boxes, *rest: nms(boxes + torch.tensor([0, 0, 1, 1]), *rest)),
    "duplicates by area": ("nms", lambda boxes, scores, most: nms(boxes, -boxes[:, 2] + boxes[:, 0], most)),
    "large crops first": ("distinct", lambda found, first: ours_distinct(found, [-f if f < 0.1 else f for f in first])),
    "mended masks first": ("distinct", lambda found, first: ours_distinct(found, [f % 1 or 1 - f for f in first])),
    "pieces before holes": ("mend", lambda mask, area: pieces_before_holes(mask, area)),
}
ours_point_grid, ours_cut_off, ours_distinct = ours.point_grid, ours.cut_off, ours.distinct


def nms(boxes, scores, most):
    import torchvision

    return torchvision.ops.boxes.nms(boxes, scores, most)


def pieces_before_holes(mask, area):
    whole = morphology.remove_small_objects(mask, max_size=area - 1, connectivity=2)
    mended = morphology.remove_small_holes(whole if whole.any() else mask, max_size=area - 1, connectivity=2)
    return mended, bool((mended != mask).any())


@pytest.fixture(scope="module")
def told(thin, cv2):
    """A picture, settings in which everything matters, and what the published generator finds."""
    given, picture = Settings(12, 0.8, 0.5, 1, 60), levels(181, 240)
    theirs = same_answers(thin, given).generate(picture)
    assert same(everything(Answers(), image(picture), given), theirs)
    return picture, given, theirs


@pytest.mark.parametrize("name, wrong", WRONG.values(), ids=WRONG)
def test_a_wrong_variant_is_told(told, monkeypatch, name, wrong):
    picture, given, theirs = told
    wrong = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], dtype=bool) if name == "EIGHT" else wrong
    monkeypatch.setattr("torchvision.ops.nms" if name == "nms" else f"{ours.__name__}.{name}", wrong)
    assert not same(everything(Answers(), image(picture), given), theirs)


@pytest.mark.parametrize("chosen", [slice(0, 3), slice(0, 1), slice(1, 3)])
def test_other_answers_are_told(thin, chosen):
    class Others(Answers):
        def decode(self, embedding, prompts):
            logits, scores = super().decode(embedding, prompts)
            return torch.cat((logits[:, :1], logits[:, chosen]), 1), torch.cat((scores[:, :1], scores[:, chosen]), 1)

    given, picture = Settings(12, 0.8, 0.5), levels(90, 120)
    assert not same(everything(Others(), image(picture), given), same_answers(thin, given).generate(picture))


# The parts


def test_the_grid():
    for n in (1, 2, 7, 32):
        assert np.allclose(ours.point_grid(n), amg.build_point_grid(n), rtol=0, atol=1e-15)


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(0, 4))
def test_crops(height, width, layers):
    boxes, _ = amg.generate_crop_boxes((height, width), layers, 512 / 1500)
    boxes = [[x, y, right, bottom] for x, y, right, bottom in boxes if x < right and y < bottom]
    found = ours.crop_boxes(height, width, layers)
    assert [[b.x, b.y, b.x + b.width, b.y + b.height] for b in found] == boxes


sides = st.integers(0, 120)


@given(sides, sides, sides, sides, st.integers(40, 120), st.integers(40, 120))
def test_masks_cut_off_by_a_crop(x, y, left, top, crop_width, crop_height):
    width, height = 200, 180
    crop = Box(x, y, min(crop_width, width - x), min(crop_height, height - y))
    assume(left < crop.width and top < crop.height)
    box = left, top, crop.width - 1 - left // 2, crop.height - 1 - top // 3
    theirs = amg.is_box_near_crop_edge(
        torch.tensor([box]), [crop.x, crop.y, crop.x + crop.width, crop.y + crop.height], [0, 0, width, height]
    )
    moved = box[0] + x, box[1] + y, box[2] + x, box[3] + y
    assert ours.cut_off(moved, crop, width, height) == theirs.item()


def test_stability(rng):
    for shift in (-20, -3, 0, 5):
        logits = torch.randn(40, 50, generator=rng) * 4 + shift
        theirs = amg.calculate_stability_score(logits[None], 0.0, 1.0).nan_to_num().item()
        assert ours.stability(logits) == pytest.approx(theirs, abs=1e-6)
    assert ours.stability(torch.full((5, 5), -1.0)) == 0.0 == ours.stability(torch.zeros(0, 0))


@given(st.integers(1, 400), st.integers(1, 400), st.integers(0, 2**32), st.floats(0, 0.2))
def test_only_where_there_is_something(height, width, seed, share):
    random = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, 64, 64, generator=random) * 3
    logits[torch.rand(3, 64, 64, generator=random) > share**3] = -5
    logits[:2, :, 40:] = -5
    enlarge = ours.Enlarger(height, width, 256, 64, torch.device("cpu"))
    whole = sam_frame.postprocess(logits[None], height, width, 256)[0]
    for (part, x, y), expected in zip(enlarge(logits), whole, strict=True):
        inside = expected[y : y + part.shape[0], x : x + part.shape[1]]
        assert torch.allclose(part, inside, atol=1e-4)
        outside = expected.clone()
        outside[y : y + part.shape[0], x : x + part.shape[1]] = -9
        assert outside.max() <= -1 + 1e-4


def test_and_not_much_else():
    logits = torch.full((2, 64, 64), -5.0)
    logits[0, 10:12, 20:25] = 3
    (part, x, y), (none, _, _) = ours.Enlarger(512, 512, 256, 64, torch.device("cpu"))(logits)
    assert part.shape[0] <= 8 * 4 and part.shape[1] <= 8 * 7 and y >= 8 * 9 and x >= 8 * 19 and not none.numel()


masks = st.builds(
    lambda height, width, seed, share, coarse: np.kron(
        np.random.default_rng(seed).random((height, width)) < share, np.ones((coarse, coarse), dtype=bool)
    ).astype(bool),
    st.integers(1, 16),
    st.integers(1, 16),
    st.integers(0, 2**32),
    st.floats(0.05, 0.95),
    st.integers(1, 3),
)


@settings(max_examples=300)
@given(masks, st.integers(1, 60))
def test_mending(mask, area):
    filled = morphology.remove_small_holes(mask, max_size=area - 1, connectivity=2)
    expected = morphology.remove_small_objects(filled, max_size=area - 1, connectivity=2)
    if filled.any() and not expected.any():
        labels = measure.label(filled, connectivity=2)
        expected = labels == np.bincount(labels.ravel())[1:].argmax() + 1
    found, altered = ours.mend(mask, area)
    assert np.array_equal(found, expected) and (altered or np.array_equal(found, mask))
    segment = ours.Segment.of(mask, 0, 0, 0.5)
    if segment:
        mended, said = ours.mend_segment(segment, area, mask.shape[1], mask.shape[0])
        assert said == altered and np.array_equal(ours.masks_of([mended], *mask.shape)[0].numpy() > 0, expected)


@given(masks, st.integers(0, 9), st.integers(0, 9))
def test_segments_are_masks(mask, x, y):
    segment = ours.Segment.of(mask, x, y, 0.5)
    assert (segment is None) == (not mask.any())
    if segment:
        whole = np.zeros((mask.shape[0] + y, mask.shape[1] + x), dtype=bool)
        whole[y:, x:] = mask
        assert np.array_equal(ours.masks_of([segment], *whole.shape)[0].numpy() > 0, whole)
        assert segment.area == mask.sum() and segment.bits.nbytes <= mask.size / 8 + 1
        assert torch.equal(amg.batched_mask_to_box(torch.from_numpy(whole)), torch.tensor(segment.corners))


# What comes out


def test_masks_boxes_and_preview_belong_together(sam):
    pictures = image(levels(300, 417))
    masks, boxes, preview = everything(
        sam, pictures, points_per_side=8, pred_iou_thresh=0.6, stability_score_thresh=0.7
    )
    assert masks.dtype == torch.float32 and set(masks.unique().tolist()) == {0.0, 1.0}
    assert masks.device == preview.device == model_management.intermediate_device()
    areas = masks.sum((1, 2)).tolist()
    assert areas == sorted(areas, reverse=True) and len(areas) == len(boxes[0]) > 4
    for mask, box in zip(masks, boxes[0], strict=True):
        rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
        assert (box["x"], box["y"]) == (columns.min(), rows.min())
        assert (
            ImageCropV2.execute(mask[None, ..., None].expand(-1, -1, -1, 3), box).result[0][..., 0].sum() == mask.sum()
        )
    assert preview.shape == pictures.shape
    assert DrawBBoxes.execute(bboxes=boxes, image=pictures).result[0].shape == pictures.shape
    assert segment(sam, pictures, boxes=boxes)[0].shape == (1, 300, 417)


def test_the_preview():
    picture = rand(8, 10, 3, seed=0)
    large, small = np.zeros((2, 8, 10), dtype=bool)
    large[1:7, 1:7], small[3:6, 3:9] = True, True
    segments = [ours.Segment.of(mask, 0, 0, 1.0) for mask in (large, small)]
    drawn = ours.preview(picture, segments)
    assert torch.equal(drawn[~(large | small)], picture[~(large | small)])
    assert (drawn[large | small] != picture[large | small]).any(-1).all()
    colours = drawn[1, 1], drawn[3, 3]  # corners, which are opaque
    assert not torch.equal(*colours) and torch.equal(drawn[5, 8], colours[1]) and torch.equal(drawn[6, 6], colours[0])
    assert torch.allclose(drawn[4, 6], (picture[4, 6] + colours[1]) / 2)  # inside, the small one on top
    assert torch.allclose(drawn[5, 2] * 2 - picture[5, 2], colours[0]) or torch.equal(drawn[5, 2], colours[0])
    assert torch.equal(ours.preview(picture, []), picture)


def test_colours_differ():
    rows = [ours.Segment.of(np.ones((1, 3), dtype=bool), 0, y, 1.0) for y in range(60)]
    drawn = ours.preview(torch.zeros(60, 3, 3), rows)[:, 0]
    assert len(drawn.unique(dim=0)) == 60
    assert (drawn[1:] - drawn[:-1]).abs().amax(1).min() > 0.4


def test_several_pictures(sam):
    kwargs = {"points_per_side": 6, "pred_iou_thresh": 0.6, "stability_score_thresh": 0.7}
    pictures = image(levels(90, 120), levels(90, 120, seed=1), levels(90, 120, seed=2))
    alone = [everything(sam, picture[None], **kwargs) for picture in pictures]
    masks, boxes, preview = everything(sam, pictures, **kwargs)
    assert boxes == [one[1][0] for one in alone] and len({len(one) for one in boxes}) > 1
    assert torch.equal(masks, torch.cat([one[0] for one in alone]))
    assert torch.equal(preview, torch.cat([one[2] for one in alone]))


class Blind(Answers):
    """Sees nothing in a dark picture."""

    def embed(self, levels, step):
        return levels.mean() < 128

    def decode(self, dark, prompts):
        logits, scores = super().decode(None, prompts)
        return (logits - 1000 if dark else logits), scores


def test_nothing_found(caplog):
    dark, bright = torch.zeros(1, 90, 120, 3), torch.ones(1, 90, 120, 3)
    for layers in (0, 1):
        masks, boxes, preview = everything(Blind(), dark, points_per_side=4, crop_layers=layers)
        assert masks.shape == (1, 90, 120) and not masks.any() and boxes == [[]] and torch.equal(preview, dark)
    assert "found nothing in picture 1. Lower pred_iou_thresh" in caplog.text
    alone, found, _ = everything(Blind(), bright, points_per_side=4, min_area=9)
    masks, boxes, preview = everything(Blind(), torch.cat((dark, bright, dark)), points_per_side=4, min_area=9)
    assert torch.equal(masks, alone) and boxes == [[], found[0], []] and preview.shape == (3, 90, 120, 3)
    masks, boxes, _ = everything(Blind(), dark.expand(2, -1, -1, -1), points_per_side=4)
    assert masks.shape == (1, 90, 120) and boxes == [[], []]


def test_grey_and_transparent_pictures(sam):
    run = partial(everything, sam, given=Settings(6, 0.6, 0.7))
    picture = image(levels(90, 120))
    for other, colours in (
        (torch.cat((picture, torch.rand(1, 90, 120, 1)), -1), picture),
        (picture[..., :1], picture[..., :1].expand(-1, -1, -1, 3)),
    ):
        found, expected = run(other), run(colours.contiguous())
        assert torch.equal(found[0], expected[0]) and found[1] == expected[1] and torch.equal(found[2], expected[2])


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 2), (3, 5)])
def test_the_smallest_and_the_longest_picture(sam, size):
    for layers in (0, 2):
        found = everything(Answers(), image(levels(*size)), Settings(4, 0.0, 0.0, layers, 3))
        assert found[0].shape[1:] == size and found[0].any() and found[2].shape == (1, *size, 3)
    assert everything(sam, image(levels(*size)), Settings(2, 0.0, 0.0))[0].shape[1:] == size


def test_same_bits_every_time(thin):
    pictures, state = image(levels(90, 120)), torch.get_rng_state()
    one, two = (everything(load(thin.state_dict()), pictures, Settings(6, 0.6, 0.7, 1, 4)) for _ in range(2))
    assert torch.equal(one[0], two[0]) and one[1] == two[1] and torch.equal(one[2], two[2])
    assert torch.equal(torch.get_rng_state(), state)


def test_the_encoder_runs_once_for_each_crop_and_not_again(sam):
    shown = []
    sam.network.image_encoder.register_forward_hook(lambda *_: shown.append(1))
    pictures = image(levels(90, 120))
    everything(sam, pictures, Settings(3, 0.6, 0.7, 1))
    assert len(shown) == 5
    everything(sam, pictures, Settings(2, 0.5, 0.6, 1, 5))
    assert len(shown) == 5


# Manners


@pytest.mark.parametrize("when", ["before", "between batches", "while mending"])
def test_the_user_can_interrupt(monkeypatch, when):
    sam, asked = Answers(), []

    def stop(*_):
        asked.append(1)
        model_management.interrupt_current_processing(True)
        return decode(*_) if when == "between batches" else mend(*_)

    decode, mend = sam.decode, ours.mend_segment
    if when == "before":
        model_management.interrupt_current_processing(True)
    elif when == "between batches":
        monkeypatch.setattr(sam, "decode", stop)
    else:
        monkeypatch.setattr(ours, "mend_segment", stop)
    with pytest.raises(model_management.InterruptProcessingException):
        everything(sam, image(levels(90, 120)), points_per_side=9, pred_iou_thresh=0.7, min_area=20)
    assert len(asked) == (when != "before")
    monkeypatch.undo()
    assert everything(sam, image(levels(90, 120)), points_per_side=4)[0].any()


def test_progress_ends_at_its_total(sam, bars):
    pictures = image(levels(90, 120), levels(90, 120, seed=1))
    for _ in range(2):
        everything(sam, pictures, Settings(9, 0.6, 0.7, 1, 10))
    assert [(bar.values[-1], bar.total) for bar in bars] == [(2 * 5 * (4 + 2), 2 * 5 * (4 + 2))] * 2


def test_memory_does_not_grow_with_the_answers():
    picture, seen, done = np.zeros((2000, 3000, 3), dtype=np.uint8), [], threading.Event()

    def watch():
        while not done.wait(0.002):
            seen.append(held())

    watcher, before = threading.Thread(target=watch), held()
    watcher.start()
    found = ours.segment_picture(Answers(), picture, Settings(8, 0.7, 0.5), lambda steps: None)
    done.set()
    watcher.join()
    one = picture[..., 0].size * 4  # bytes of one mask's logits: the published generator holds 192 of them at a time
    assert len(found) >= 10 and max(seen) < before + 6 * one


def test_the_host_makes_room_for_the_answers(sam, monkeypatch):
    asked = []
    monkeypatch.setattr(
        model_management, "load_models_gpu", lambda models, memory_required: asked.append(memory_required)
    )
    sam.load()
    sam.load(10**6)
    answer = sam.embed(levels(90, 120)).features.nbytes + 3 * 64**2 * 4
    assert asked[0] < 10**6 * answer < asked[1]
