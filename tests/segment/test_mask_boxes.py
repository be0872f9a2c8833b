"""Boxes to Mask against ComfyUI's crops, Mask to Boxes against scikit-image, and both in a circle."""

import json
from math import ceil

import numpy as np
import pytest
import torch
from comfy import model_management
from comfy_extras.nodes_rtdetr import DrawBBoxes
from comfy_extras.nodes_sdpose import CropByBBoxes
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from skimage import measure

from kit.nodes import run_node
from kit.pictures import box_mask
from kit.tensors import rand
from pentimento.nodes.segment.mask_boxes import BoxesToMask, MaskToBoxes

HEIGHT, WIDTH = 12, 17
SIDES = st.integers(1, 20)
BINARY = hnp.arrays(np.float32, st.tuples(SIDES, SIDES), elements=st.sampled_from((0.0, 1.0)))
LIMITS = settings(max_examples=80)


def as_box(x, y, width, height):
    return {"x": x, "y": y, "width": width, "height": height}


A, B, C = as_box(1, 2, 4, 3), as_box(9, 0, 3, 12), as_box(14, 8, 3, 4)


@st.composite
def whole_boxes(draw):
    """A box of whole pixels inside the picture."""
    x, y = draw(st.integers(0, WIDTH - 1)), draw(st.integers(0, HEIGHT - 1))
    return as_box(x, y, draw(st.integers(1, WIDTH - x)), draw(st.integers(1, HEIGHT - y)))


@st.composite
def detected_boxes(draw):
    """A box as a detector gives it: with fractions, here eighths, and beyond the borders."""
    eighths = st.integers(-3 * 8, WIDTH * 8 - 1), st.integers(-3 * 8, HEIGHT * 8 - 1)
    x, y = (draw(values) / 8 for values in eighths)
    width = draw(st.integers(int(max(1 - 8 * x, 8)), 8 * 25)) / 8
    height = draw(st.integers(int(max(1 - 8 * y, 8)), 8 * 25)) / 8
    return as_box(x, y, width, height)


def picture(count=1, channels=3):
    return rand(count, HEIGHT, WIDTH, channels)


def filled(bboxes, image=None, each="one mask"):
    return run_node(BoxesToMask, bboxes=bboxes, image=picture() if image is None else image, each=each)[0]


def boxes_around(mask, min_area=0, padding=0):
    (boxes,) = run_node(MaskToBoxes, mask=mask, min_area=min_area, padding=padding)
    return boxes


def drawn(*boxes):
    """(1, H, W), by hand."""
    return box_mask(HEIGHT, WIDTH, *(tuple(box.values())[:4] for box in boxes))


def cropped_by_comfyui(box):
    """The pixels that Crop By Bounding Boxes takes, (H, W)."""
    numbers = torch.arange(HEIGHT * WIDTH, dtype=torch.float32).reshape(1, HEIGHT, WIDTH, 1)
    x, y = max(int(box["x"]), 0), max(int(box["y"]), 0)
    size = min(int(box["x"] + box["width"]), WIDTH) - x, min(int(box["y"] + box["height"]), HEIGHT) - y
    (crop,) = CropByBBoxes.execute(numbers, [[box]], *size, 0).result
    return torch.isin(numbers[0, ..., 0], crop).float()


def with_edges(box, first, last):
    """The mask of a box whose first and last edges are rounded by `first` and `last`."""
    mask = torch.zeros(1, HEIGHT, WIDTH)
    left, top = max(first(box["x"]), 0), max(first(box["y"]), 0)
    mask[:, top : max(last(box["y"] + box["height"]), 0), left : max(last(box["x"] + box["width"]), 0)] = 1
    return mask


@LIMITS
@given(detected_boxes())
def test_a_box_with_fractions_selects_what_comfyui_crops(box):
    mask = filled(box)
    if int(box["x"] + box["width"]) > max(int(box["x"]), 0) and int(box["y"] + box["height"]) > max(int(box["y"]), 0):
        assert torch.equal(mask[0], cropped_by_comfyui(box))
    assert mask.sum() >= 1


def test_other_roundings_select_other_pixels():
    box = as_box(2.6, 3.6, 5.3, 4.3)  # from 2.6 and 3.6 to 7.9 and 7.9
    assert torch.equal(filled(box), drawn(as_box(2, 3, 5, 4)))
    variants = {"nearest": (round, round), "all touched": (int, ceil), "last pixel too": (int, lambda x: int(x) + 1)}
    for name, (first, last) in variants.items():
        assert (with_edges(box, first, last) - filled(box)).abs().sum() >= 5, name
    assert torch.equal(with_edges(box, int, int), filled(box))


def test_a_box_inside_one_pixel_selects_that_pixel():
    assert torch.equal(filled(as_box(4.25, 6.5, 0.5, 0.25)), drawn(as_box(4, 6, 1, 1)))
    assert torch.equal(filled(as_box(16.5, 11.75, 9, 9)), drawn(as_box(16, 11, 1, 1)))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_the_three_forms_of_boxes(channels):
    image = picture(2, channels)
    assert torch.equal(filled(A, image), drawn(A).expand(2, -1, -1))
    assert torch.equal(filled([A, B], image), drawn(A, B).expand(2, -1, -1))
    assert torch.equal(filled([[A, B], [C]], image), torch.cat((drawn(A, B), drawn(C))))
    assert torch.equal(filled([[A], []], image), torch.cat((drawn(A), drawn())))


def test_one_mask_per_box_keeps_their_order():
    image = picture(2)
    assert torch.equal(filled([C, A], image[:1], "one per box"), torch.cat((drawn(C), drawn(A))))
    assert torch.equal(filled([[C, A], [B]], image, "one per box"), torch.cat((drawn(C), drawn(A), drawn(B))))
    assert torch.equal(filled([[], [B]], image, "one per box"), drawn(B))
    assert torch.equal(filled(A, image, "one per box"), torch.cat((drawn(A), drawn(A))))


@pytest.mark.parametrize("boxes", [[], [[]], [[], []]])
def test_no_box_gives_blank_masks(boxes):
    assert torch.equal(filled(boxes, picture(2)), torch.zeros(2, HEIGHT, WIDTH))
    assert torch.equal(filled(boxes, picture(2), "one per box"), torch.zeros(1, HEIGHT, WIDTH))


def test_overlapping_boxes_are_one_white_area():
    over = as_box(3, 3, 8, 4)
    mask = filled([A, over])
    assert torch.equal(mask, torch.maximum(drawn(A), drawn(over)))
    assert boxes_around(mask) == [[as_box(1, 2, 10, 5)]]


def test_boxes_are_cut_at_the_borders():
    assert torch.equal(filled(as_box(-5, -5, 8, 9)), drawn(as_box(0, 0, 3, 4)))
    assert torch.equal(filled(as_box(-100, -100, 1000, 1000)), torch.ones(1, HEIGHT, WIDTH))


def test_labels_and_scores_do_not_disturb():
    labelled = [A | {"label": "person", "score": 0.25}, B | {"metadata": {"type": "obj"}}]
    assert torch.equal(filled(labelled, each="one per box"), filled([A, B], each="one per box"))


@LIMITS
@given(st.lists(st.lists(whole_boxes(), max_size=4), min_size=1, max_size=3))
def test_boxes_come_back_as_they_went_in(frames):
    image, boxes = picture(len(frames)), [box for frame in frames for box in frame]
    masks = filled(frames, image, "one per box")
    assert boxes_around(masks) == ([[box] for box in boxes] or [[]])
    apart = [A, C, as_box(6, 0, 2, 1)]
    assert boxes_around(filled(apart)) == [sorted(apart, key=lambda box: (box["y"], box["x"]))]


@LIMITS
@given(BINARY, st.integers(0, 12))
def test_the_boxes_are_those_of_scikit_image(mask, min_area):
    regions = measure.regionprops(measure.label(mask, connectivity=2))
    corners = sorted(region.bbox for region in regions if region.area >= min_area)
    theirs = [as_box(left, top, right - left, bottom - top) for top, left, bottom, right in corners]
    ours = boxes_around(torch.from_numpy(mask)[None], min_area)[0]
    assert sorted(ours, key=lambda box: tuple(box.values())) == sorted(theirs, key=lambda box: tuple(box.values()))
    assert ours == sorted(ours, key=lambda box: (box["y"], box["x"]))


def test_other_rules_give_other_boxes():
    mask = drawn(as_box(2, 2, 3, 3), as_box(5, 5, 2, 2))  # they touch by a corner
    ours = boxes_around(mask)[0]
    assert ours == [as_box(2, 2, 5, 5)]
    by_edges = measure.regionprops(measure.label(mask[0].numpy(), connectivity=1))
    assert len(by_edges) == 2
    rows, columns = np.nonzero(mask[0].numpy())
    assert (np.ptp(columns), np.ptp(rows)) != (ours[0]["width"], ours[0]["height"]), "without the last pixels"


def test_a_region_of_min_area_stays():
    mask = drawn(as_box(0, 0, 3, 3), as_box(8, 8, 5, 2))
    assert len(boxes_around(mask, 9)[0]) == 2
    assert boxes_around(mask, 10) == [[as_box(8, 8, 5, 2)]]
    assert boxes_around(mask, 11) == [[]]


def test_the_padding_ends_at_the_borders():
    mask = drawn(as_box(0, 5, 4, 3), as_box(9, 9, 2, 2))
    assert boxes_around(mask, padding=2)[0] == [as_box(0, 3, 6, 7), as_box(7, 7, 6, 5)]
    assert boxes_around(mask, padding=500)[0] == [as_box(0, 0, WIDTH, HEIGHT)] * 2


def test_each_mask_has_its_own_boxes():
    masks = torch.cat((drawn(A), drawn(), drawn(B, C), torch.ones(1, HEIGHT, WIDTH)))
    assert boxes_around(masks) == [[A], [], [B, C], [as_box(0, 0, WIDTH, HEIGHT)]]
    assert boxes_around(masks[0]) == [[A]]
    assert boxes_around(masks[:, None]) == boxes_around(masks)


def test_soft_edges_belong_to_a_box_and_noise_has_none():
    mask = torch.zeros(1, HEIGHT, WIDTH)
    mask[0, 3:8, 4:10] = 5 / 255
    mask[0, 4:7, 5:9] = 1
    mask[0, 0, 16] = 10 / 255
    mask[0, 11, 0] = torch.nan
    assert boxes_around(mask) == [[as_box(4, 3, 6, 5)]]


def test_the_boxes_are_plain_numbers_that_comfyui_draws():
    boxes = boxes_around(torch.cat((drawn(A), drawn(C))))
    assert json.loads(json.dumps(boxes)) == boxes
    (image,) = DrawBBoxes.execute(boxes, torch.zeros(2, HEIGHT, WIDTH, 3)).result
    assert image[0, A["y"], A["x"], 0] == 1
    assert image[1, A["y"], A["x"], 0] == 0
    assert torch.equal(filled(boxes, image), torch.cat((drawn(A), drawn(C))))


def test_the_interrupt_is_heard(monkeypatch):
    monkeypatch.setattr(model_management, "interrupt_processing", True)
    with pytest.raises(model_management.InterruptProcessingException):
        boxes_around(drawn(A))


@pytest.mark.parametrize(
    ("bboxes", "sentence"),
    [
        (as_box(3, 3, 0, 5), "bboxes has the box (3, 3), 0 x 5, which is empty. Drag it larger"),
        (as_box(30, 3, 4, 5), "bboxes has the box (30, 3), 4 x 5, which lies outside the 17 x 12 picture"),
        (as_box(-9, 3, 9, 5), "which lies outside the 17 x 12 picture"),
        (as_box(float("nan"), 3, 4, 5), "which lies outside the 17 x 12 picture"),
        ([A, {"x": 1}], "which is no box. A box is written as"),
        ("1, 2, 3, 4", "bboxes is no box"),
        ([[A], [A], [A]], "bboxes has boxes for 3 pictures but image is a batch of 2"),
    ],
)
def test_wrong_boxes(bboxes, sentence):
    with pytest.raises(ValueError) as error:
        filled(bboxes, picture(2))
    assert sentence in str(error.value)
