"""Points as text."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pentimento.model_patchers.comfyui.points import LONGEST, parse_points, read_points

COORDINATE = st.integers(0, 99) | st.floats(0, 100, exclude_max=True)


@given(st.lists(st.tuples(COORDINATE, COORDINATE)))
def test_what_json_wrote_is_read(points):
    text = json.dumps([{"x": x, "y": y} for x, y in points])
    assert parse_points(text, "positive_coords", 100, 100) == points


@pytest.mark.parametrize("text", ["", " \n", "[]", " [ ] "])
def test_no_points(text):
    assert parse_points(text, "positive_coords", 10, 10) == []


def test_further_fields_do_no_harm():
    assert read_points('[{"x": 1, "y": 2.5, "label": 1}]', "positive_coords") == [(1, 2.5)]


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "points",
        "null",
        "3",
        '""',
        "{}",
        '{"x": 1, "y": 2}',
        "[1, 2]",
        "[[1, 2]]",
        '[{"x": 1}]',
        '[{"x": "left", "y": 1}]',
        '[{"x": null, "y": 1}]',
        '[{"x": 1, "y": 2},]',
        '[{"x": 1' + "0" * 400 + ', "y": 1}]',
        "[" * 100_000,
        "[" * 100_000 + "]" * 100_000,
        '[{"x": ' * 100_000,
    ],
)
def test_anything_else_is_refused_by_name_with_an_example(text):
    with pytest.raises(ValueError) as error:
        read_points(text, "negative_coords")
    message = str(error.value)
    assert message.startswith("negative_coords is not a list of points: got ")
    assert repr(text[:80]) in message and '[{"x": 120, "y": 80}]' in message
    assert len(message) < 250, "a long text is not shown whole"


def test_a_text_without_end_is_refused_unread():
    text = json.dumps([{"x": 1, "y": 2}] * 60_000)
    assert len(text) > LONGEST
    with pytest.raises(ValueError, match=r"positive_coords has 1,\d{3},\d{3} characters, and at most 1,000,000"):
        read_points(text, "positive_coords")
    assert len(read_points(json.dumps([{"x": 1, "y": 2}] * 40_000), "positive_coords")) == 40_000


@pytest.mark.parametrize(
    "point", [(10, 0), (0, 20), (-1, 0), (0, -0.5), (1e300, 0), (float("nan"), 0), (0, float("inf"))]
)
def test_points_outside_are_refused(point):
    text = json.dumps([{"x": 1, "y": 1}, {"x": point[0], "y": point[1]}])
    with pytest.raises(ValueError, match=r"positive_coords has the point \(.*outside the 10 x 20 picture"):
        parse_points(text, "positive_coords", 10, 20)


def test_the_corners_are_inside():
    text = json.dumps([{"x": 0, "y": 0}, {"x": 9.99, "y": 19.99}])
    assert parse_points(text, "positive_coords", 10, 20) == [(0, 0), (9.99, 19.99)]
