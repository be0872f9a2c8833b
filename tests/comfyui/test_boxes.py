"""Boxes as nodes pass them: the three forms, and what is no box."""

import numpy as np
import pytest

from pentimento.model_patchers.comfyui.boxes import boxes_per_picture, no_box
from pentimento.model_patchers.pixels.boxes import Box

BOX = {"x": 1, "y": 2, "width": 3, "height": 4}


def read(boxes, pictures=2):
    return boxes_per_picture(boxes, "bboxes", pictures, 20, 10)


def nested(depth):
    boxes = BOX
    for _ in range(depth):
        boxes = [boxes]
    return boxes


def test_the_three_forms():
    box = Box(1, 2, 3, 4)
    assert read(BOX) == read([BOX]) == read([[BOX]]) == [[box], [box]]
    assert read([[BOX], []]) == [[box], []]
    assert read({name: np.float32(value) for name, value in BOX.items()}) == [[box], [box]]


@pytest.mark.parametrize("boxes", [None, [], (), [[]], [[], []], [[], [], []], ([], ())])
def test_a_detector_that_detected_nothing_gives_no_box(boxes):
    """However many pictures it looked at."""
    assert no_box(boxes)
    assert read(boxes) == [[], []]
    assert not no_box(BOX) and not no_box([[], [BOX]]) and not no_box("")


@pytest.mark.parametrize(
    "box",
    [
        {name: str(value) for name, value in BOX.items()},
        BOX | {"x": "1"},
        BOX | {"height": "4"},
        BOX | {"width": None},
        BOX | {"y": [2]},
        BOX | {"x": 10**400},
        {"x": 1, "y": 2},
        (1, 2, 3, 4),
        "1, 2, 3, 4",
    ],
)
def test_what_is_no_box_is_shown_with_an_example(box):
    with pytest.raises(ValueError) as error:
        read([BOX, box])
    message = str(error.value)
    assert message.startswith("bboxes has ") and "which is no box. A box is written as" in message
    assert "without quotation marks" in message
    assert len(message) < 300, "a long value is not shown whole"


@pytest.mark.parametrize("boxes", [nested(3), nested(100_000), [nested(100_000)], "5", 7])
def test_what_is_no_list_of_boxes_is_refused_however_deep(boxes):
    with pytest.raises(ValueError, match="bboxes (has .*which is no box|is no box)") as error:
        read(boxes)
    assert len(str(error.value)) < 300
