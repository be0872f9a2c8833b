"""Pick Points in Python: the text of picks, other sizes, what goes out."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from kit.paths import PACK
from pentimento.model_patchers.comfyui.boxes import boxes_per_picture
from pentimento.model_patchers.comfyui.points import parse_points
from pentimento.model_patchers.comfyui.temp import save_picture
from pentimento.model_patchers.pixels.boxes import Box
from pentimento.model_patchers.segment.pick_points import Picks, fit, parse_picks, prompts

TEXT = (
    '{"width": 20, "height": 10, "positive": [{"x": 3, "y": 4}, {"x": 19, "y": 9}], "negative": [{"x": 0, "y": 0}], '
    '"boxes": [{"x": 2, "y": 1, "width": 18, "height": 9}]}'
)
sides = st.integers(1, 5000)


@st.composite
def picks(draw):
    width, height = draw(sides), draw(sides)
    points = st.lists(st.tuples(st.integers(0, width - 1), st.integers(0, height - 1)), max_size=4)
    positive, negative, corners, others = (draw(points) for _ in range(4))
    boxes = [
        Box(min(a, c), min(b, d), abs(a - c) + 1, abs(b - d) + 1)
        for (a, b), (c, d) in zip(corners, others, strict=False)
    ]
    return Picks(width, height, positive, negative, boxes)


def test_picks_are_read():
    boxes = [Box(2, 1, 18, 9)]
    assert parse_picks(TEXT) == Picks(20, 10, [(3, 4), (19, 9)], [(0, 0)], boxes)
    assert parse_picks("  ") == Picks(None, None, [], [], [])
    assert parse_picks('{"positive": [{"x": 3.9, "y": 0}]}').positive == [(3, 0)]


@pytest.mark.parametrize(
    "text",
    [
        "{", "[]", "7", "null", '"points"', "[" * 100_000, '{"boxes":' * 100_000, '{"positive": 3}',
        '{"positive": [[1, 2]]}',
        '{"positive": [{"x": 1}]}', '{"positive": [{"x": "1", "y": 2}]}', '{"boxes": [{"x": 1, "y": 2}]}',
        '{"positive": [{"x": NaN, "y": 2}]}', '{"positive": [{"x": Infinity, "y": 2}]}', '{"width": 20}',
        '{"width": 0, "height": 5}', '{"width": -1, "height": -1}',
    ],
)  # fmt: skip
def test_malformed_picks_are_refused_before_a_run(text, node_classes):
    sentence = node_classes["PentimentoPickPoints"].validate_inputs(picks=text)
    assert sentence.startswith(f"picks is {text[:80]!r}, need JSON such as")
    assert len(sentence) < 400
    example = sentence[sentence.index("{", sentence.index("such as")) : sentence.rindex("}") + 1]
    assert parse_picks(example).positive


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"positive": [{"x": 20, "y": 0}]}, r"the point \(20, 0\), which does not lie in the 20 x 10 picture"),
        ({"negative": [{"x": 0, "y": -1}]}, r"the point \(0, -1\)"),
        ({"negative": [{"x": -0.5, "y": 0}]}, r"the point \(-1, 0\)"),
        ({"boxes": [{"x": 3, "y": 0, "width": 18, "height": 2}]}, r"the box of 18 x 2 pixels at \(3, 0\)"),
        ({"boxes": [{"x": 3, "y": 0, "width": 0, "height": 2}]}, r"a box of 0 x 2 pixels at \(3, 0\), which holds no"),
        ({"boxes": [{"x": 3, "y": 3, "width": 2, "height": -2}]}, "at least 1"),
    ],
)
def test_what_is_outside_or_empty_is_refused(change, part):
    sized = {"width": 20, "height": 10, **change}
    with pytest.raises(ValueError, match=part):
        parse_picks(json.dumps(sized))
    with pytest.raises(ValueError, match=part):
        fit(parse_picks(json.dumps(change)), 20, 10)


@given(picks())
def test_picks_fit_their_own_picture_as_they_are(found):
    assert fit(found, found.width, found.height) == found
    assert fit(found._replace(width=None, height=None), found.width, found.height) == found


@given(picks(), sides, sides)
def test_picks_of_another_size_stay_in_place(found, width, height):
    fitted = fit(found, width, height)
    sx, sy = width / found.width, height / found.height
    for (x, y), (x2, y2) in zip(found.positive + found.negative, fitted.positive + fitted.negative, strict=True):
        assert 0 <= x2 < width
        assert 0 <= y2 < height
        assert x2 <= (x + 0.5) * sx + 1e-6 < x2 + 1 + 2e-6  # the pixel that the centre falls into
        assert y2 <= (y + 0.5) * sy + 1e-6 < y2 + 1 + 2e-6
    for old, new in zip(found.boxes, fitted.boxes, strict=True):
        assert new.width >= 1
        assert new.height >= 1
        assert new.x >= 0
        assert new.y >= 0
        assert new.x + new.width <= width
        assert new.y + new.height <= height
        assert abs(new.x - old.x * sx) <= 1
        assert abs(new.x + new.width - (old.x + old.width) * sx) <= 1


@given(picks(), st.integers(1, 7))
def test_a_whole_multiple_and_back_changes_nothing(found, scale):
    large = fit(found, scale * found.width, scale * found.height)
    assert large.boxes == [Box(*(scale * side for side in box)) for box in found.boxes]
    assert fit(large, found.width, found.height) == found


def test_what_goes_out_is_what_the_other_nodes_read(node_classes):
    image = torch.rand(2, 20, 40, 3)
    positive, negative, boxes = node_classes["PentimentoPickPoints"].execute(image, TEXT).args
    assert parse_points(positive, "positive_coords", 40, 20) == [(7, 9), (39, 19)]
    assert parse_points(negative, "negative_coords", 40, 20) == [(1, 1)]
    assert boxes_per_picture(boxes, "bboxes", 2, 40, 20)[0] == [Box(4, 2, 36, 18)]
    assert [json.loads(text) for text in (positive, negative)] == [
        [{"x": 7, "y": 9}, {"x": 39, "y": 19}],
        [{"x": 1, "y": 1}],
    ]
    assert prompts(parse_picks("")) == ("[]", "[]", [])
    assert boxes_per_picture([], "bboxes", 2, 40, 20) in ([[]], [[], []])


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_the_picture_is_kept_for_the_widget_once(channels, tmp_path, monkeypatch, node_classes):
    import folder_paths

    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path / "temp"))
    levels = np.random.default_rng(0).integers(0, 256, (2, 9, 14, channels))
    image = torch.from_numpy(levels).float() / 255
    found = node_classes["PentimentoPickPoints"].execute(image, "").ui["pentimento_picture"][0]
    assert (found["subfolder"], found["type"]) == ("", "temp")
    saved = np.array(Image.open(tmp_path / "temp" / found["filename"]))
    assert np.array_equal(saved, np.broadcast_to(levels[0, ..., :3], (9, 14, 3)))
    assert save_picture(image) == found
    assert save_picture(1 - image) != found
    assert len(list((tmp_path / "temp").iterdir())) == 2


def test_picks_without_end_are_refused_unread():
    text = json.dumps({"positive": [{"x": 1, "y": 2}] * 60_000})
    with pytest.raises(ValueError, match=r"^picks has 1,\d{3},\d{3} characters, and at most 1,000,000 are read"):
        parse_picks(text)


def test_the_picks_of_the_workflow_without_models_are_three_points_of_the_badge():
    graph = json.loads((PACK / "workflows" / "api" / "remove_without_models.json").read_text())
    (picks,) = (node["inputs"]["picks"] for node in graph.values() if node["class_type"] == "PentimentoPickPoints")
    (wand,) = (node["inputs"] for node in graph.values() if node["class_type"] == "PentimentoMagicWand")
    positive, negative, _ = prompts(fit(parse_picks(picks), 512, 512))
    badge = '[{"x": 170, "y": 390}, {"x": 160, "y": 370}, {"x": 185, "y": 400}]'
    assert (positive, negative) == (badge, "[]")
    assert wand["tolerance"] == 0.25
