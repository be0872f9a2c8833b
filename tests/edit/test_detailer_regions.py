"""Which regions Detailer edits, in which order, and how it follows them through a video."""

import pytest
import torch

from kit.tensors import rand
from pentimento.model_patchers.edit.crop_to_mask import region
from pentimento.model_patchers.edit.detailer_regions import GAP, Choice, Part, follow, jobs, labelled, steady
from pentimento.model_patchers.pixels.boxes import Box

CHOICE = Choice(edge=64, min_side=1)
BOXES = [(30, 5, 10, 10), (5, 6, 30, 20), (60, 40, 16, 12)]


def as_dicts(boxes, label="face"):
    return [{**Box(*box)._asdict(), "label": label} for box in boxes]


def planned(boxes=BOXES, mask=None, pictures=1, clips=False, size=(64, 80), **choice):
    boxes = boxes if boxes is None else as_dicts(boxes) if boxes and isinstance(boxes[0], tuple) else boxes
    return jobs(rand(pictures, *size, 3), boxes, mask, CHOICE._replace(**choice), clips)


def boxes_of(plan):
    return [tuple(job.regions[0].part.box) for job in plan]


@pytest.mark.parametrize(
    "choice, expected",
    [
        ({}, [0, 1, 2]),
        ({"order": "largest first"}, [1, 2, 0]),
        ({"order": "left to right"}, [1, 0, 2]),
        ({"top": 2}, [1, 2]),
        ({"top": 2, "order": "left to right"}, [1, 2]),
        ({"top": 1}, [1]),
        ({"top": 9}, [0, 1, 2]),
        ({"min_side": 12}, [1, 2]),
        ({"min_side": 13}, [1]),
        ({"min_side": 99}, []),
    ],
)
def test_the_largest_are_chosen_and_then_ordered(choice, expected):
    plan = planned(**choice)
    assert boxes_of(plan) == [BOXES[i] for i in expected]
    assert [(job.number, job.seed) for job in plan] == [(i, i) for i in range(len(expected))]


def test_a_region_is_that_of_crop_to_mask():
    for job, box in zip(planned(padding=0.5), BOXES, strict=True):
        assert job.regions[0].box == region(Box(*box), (64, 80), round(max(box[2:]) / 2), 64, 64)


def test_each_picture_counts_its_own_regions():
    per_picture = [as_dicts(BOXES[:1]), [], as_dicts(BOXES[1:])]
    plan = planned(per_picture, pictures=3)
    assert [(job.number, job.seed, job.regions[0].picture) for job in plan] == [(0, 0, 0), (0, 2, 2), (1, 3, 2)]
    assert len(planned(BOXES, pictures=3)) == 9, "boxes for all pictures"


def test_boxes_of_broken_numbers_and_beyond_the_picture_become_whole_pixels_of_it():
    assert boxes_of(planned([(10.4, 5.5, 9.7, 8.2)])) == [(10, 5, 11, 9)]
    assert boxes_of(planned([(-5, -7.5, 200, 300)])) == [(0, 0, 80, 64)]


@pytest.mark.parametrize(
    "labels, expected",
    [("", [0, 1, 2]), ("face", [0, 2]), (" Hand ,", [1]), ("FACE, hand", [0, 1, 2]), ("dog", []), (" , ", [0, 1, 2])],
)
def test_labels_choose_boxes(labels, expected):
    boxes = [*as_dicts(BOXES[:1]), *as_dicts(BOXES[1:2], "hand"), *as_dicts(BOXES[2:], "Face")]
    for form in (boxes, [boxes]):
        assert boxes_of(planned(form, labels=labels)) == [BOXES[i] for i in expected]
    assert labelled(boxes[0], "hand") == [] and labelled(boxes[0], "face") == boxes[0]
    assert labelled([], "face") == [] and labelled([[], boxes[:1]], "hand") == [[], []]


# Masks


def mask_of(*boxes, value=1.0):
    mask = torch.zeros(1, 64, 80)
    for box in boxes:
        mask[0][Box(*box).slices] = value
    return mask


def test_each_connected_part_of_a_mask_is_a_region():
    mask = mask_of(BOXES[1], BOXES[2], value=0.5)
    mask[0, 50:52, 2:4] = 0.04  # noise
    plan = planned(None, mask)
    assert boxes_of(plan) == BOXES[1:]
    assert all((job.regions[0].part.mask == 0.5).all() for job in plan)


def test_parts_whose_boxes_overlap_stay_apart():
    mask = torch.zeros(1, 64, 80)
    mask[0, 10:40, 10] = mask[0, 39, 10:40] = 1  # an L with a spot within
    mask[0, 15:20, 20:25] = 1
    corner, spot = planned(None, mask)
    assert tuple(corner.regions[0].part.box) == (10, 10, 30, 30) and corner.regions[0].part.mask.sum() == 59
    assert tuple(spot.regions[0].part.box) == (20, 15, 5, 5)


def test_a_mask_in_a_box_says_what_is_edited():
    mask = mask_of((0, 0, 20, 30), value=0.7)
    (job,) = planned(BOXES[1:], mask)  # the other box holds none of it
    part = job.regions[0].part
    assert tuple(part.box) == BOXES[1]
    assert torch.equal(part.mask, mask[0][Box(*BOXES[1]).slices])


def test_several_masks_in_a_box_are_one_part():
    masks = torch.cat((mask_of((6, 8, 5, 5)), mask_of((20, 10, 5, 5), value=0.5)))
    (job,) = planned(BOXES[1:2], masks)
    assert torch.equal(job.regions[0].part.mask, masks.amax(0)[Box(*BOXES[1]).slices])


def test_one_mask_serves_all_pictures_and_several_one_picture():
    masks = torch.cat([mask_of(box) for box in BOXES])
    assert boxes_of(planned(None, masks)) == BOXES, "the masks of three things in one picture"
    assert [job.regions[0].picture for job in planned(None, masks, pictures=3)] == [0, 1, 2]
    assert [job.regions[0].picture for job in planned(None, masks[:1], pictures=3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="mask is a batch of 3 but image is a batch of 2"):
        planned(None, masks, pictures=2)


def test_too_many_regions_are_refused():
    mask = torch.zeros(1, 64, 80)
    mask[0, ::3, ::3] = 1
    with pytest.raises(ValueError, match="There are 594 regions in one picture, and 256 is the most"):
        planned(None, mask)
    assert len(planned(None, mask, top=5)) == 5
    assert planned(None, mask, min_side=2) == []


# Videos


def walk(frames, dx=4, start=(5, 10), side=12):
    """The boxes of a thing that walks and grows by a pixel every other frame."""
    return [(start[0] + dx * i, start[1], side + i % 2, side) for i in range(frames)]


def video(*things, frames):
    """Per frame the boxes of those things that are not None in it."""
    return [as_dicts([thing[i] for thing in things if thing[i] is not None]) for i in range(frames)]


def test_a_region_keeps_its_number_although_the_boxes_change_places():
    right, left = walk(8), walk(8, dx=-4, start=(50, 40))
    frames = [as_dicts([right[i], left[i]][:: 1 - 2 * (i % 2)]) for i in range(8)]
    plan = planned(frames, pictures=8, batch="video")
    assert len(plan) == 16
    for number, thing in enumerate((right, left)):
        track = [job for job in plan if job.number == number]
        assert boxes_of(track) == thing
        assert [job.regions[0].picture for job in track] == list(range(8))
        assert {job.seed for job in track} == {number}, "the same noise in every frame"


def test_all_crops_of_a_region_have_one_size_and_hold_their_box():
    things = walk(16), walk(16, dx=3, start=(0, 44), side=19)
    for size in ((64, 80), (63, 40)):
        cut_off = [[box if box[0] < size[1] - 3 else None for box in thing] for thing in things]
        plan = planned(video(*cut_off, frames=16), pictures=16, size=size, batch="video")
        for number in {job.number for job in plan}:
            regions = [job.regions[0] for job in plan if job.number == number]
            assert len({(each.box.width, each.box.height) for each in regions}) == 1
            for each in regions:
                (top, bottom), (left, right) = (
                    (side.start, side.stop) for side in (each.box.slices[0], each.box.slices[1])
                )
                assert top >= 0 and left >= 0 and bottom <= size[0] and right <= size[1]
                part = each.part.box
                assert top <= part.y and part.y + part.height <= bottom
                assert left <= part.x and part.x + part.width <= right


def test_a_trembling_box_does_not_make_the_crop_tremble():
    track = [(i, Part(Box(30 + 4 * (i % 2), 20, 16, 16), torch.ones(16, 16))) for i in range(12)]
    places = {each.box.x for each in steady(track, (64, 80), CHOICE)}
    assert max(places) - min(places) <= 2  # at the ends of the clip
    exact = {region(part.box, (64, 80), 8, 64, 64).x for _, part in track}
    assert max(exact) - min(exact) == 4


def test_a_region_may_be_missing_for_a_while():
    for missing, tracks in ((GAP, 1), (GAP + 1, 2)):
        frames = [[part()], *[[]] * missing, [part()]]
        assert len(follow(frames)) == tracks
    assert len(follow([[part()], [part(x=60)]])) == 2, "a box elsewhere is another region"


def part(x=30):
    return Part(Box(x, 20, 16, 16), torch.ones(16, 16))


def test_a_video_model_gets_runs_of_frames_without_a_gap():
    thing = [(20, 20, 16, 16) if i not in (3, 4) else None for i in range(9)]
    plan = planned(video(thing, frames=9), pictures=9, batch="video", clips=True)
    assert [[each.picture for each in job.regions] for job in plan] == [[0, 1, 2], [5, 6, 7, 8]]
    assert [job.number for job in plan] == [0, 0]
