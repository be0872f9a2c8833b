"""Cells of a grid: how many, in which order, under which paths."""

import json
import math
import unicodedata
from pathlib import PurePosixPath, PureWindowsPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.grid import GRAPH, spanned
from pentimento.model_patchers.grid import expand, paths
from pentimento.model_patchers.grid.expand import GridError

HARD = [
    "a/b",
    "..",
    "../../etc",
    "CON",
    "nul.txt",
    "a\\b",
    "x" * 300,
    "x" * 299 + "y",
    "",
    " ",
    ".",
    "A",
    "a",
    "\u732b",
    "~",
]
TITLES = st.one_of(st.sampled_from(HARD), st.text(max_size=60))
PLACES = ["KSampler.seed", "KSampler.steps", "Size.width", "Size.height", "KSampler.cfg"]


@st.composite
def files(draw):
    """Axes of a grid file: up to four, each over an input of its own, with titles of every kind and skipped values."""
    axes = []
    for place in draw(st.lists(st.sampled_from(PLACES), min_size=1, max_size=4, unique=True)):
        numbers = draw(st.lists(st.integers(1, 50), min_size=1, max_size=4, unique=True))
        values = [{"title": draw(TITLES), "value": number, "skip": draw(st.booleans())} for number in numbers]
        values[0]["skip"] = False
        axes.append({"title": draw(TITLES), "input": place, "values": values})
    return axes


@given(files(), st.randoms(use_true_random=False))
@settings(max_examples=60)
def test_every_cell_is_reached_once_in_any_order(axes, random):
    grid = spanned(axes)
    used = [[v["value"] for v in axis["values"] if not v["skip"]] for axis in axes]
    order = [*range(len(axes))]
    random.shuffle(order)
    cells = list(grid.cells(tuple(order)))
    assert grid.size() == len(cells) == len(set(cells)) == math.prod(map(len, used))
    assert sorted(cells) == list(grid.cells())
    numbers = {grid.number(cell) for cell in cells}
    assert len(numbers) == len(cells)
    assert max(numbers) < math.prod(len(axis["values"]) for axis in axes)
    seen = set()
    for cell in cells:
        workflow = grid.workflow(cell)
        values = []
        for axis in axes:
            name, _, field = axis["input"].rpartition(".")
            (node,) = [node for node in workflow.values() if node["_meta"]["title"] == name]
            values.append(node["inputs"][field])
        seen.add(tuple(values))
    assert len(seen) == len(cells)
    changes = [sum(a[order[0]] != b[order[0]] for a, b in zip(cells, cells[1:], strict=False))]
    assert changes == [len(used[order[0]]) - 1]


@given(files())
@settings(max_examples=60)
def test_paths_are_distinct_and_safe_on_every_system(axes):
    grid = spanned(axes)
    names = [grid.path(cell, expand.digest(grid.workflow(cell))) for cell in grid.cells()]
    assert len({name.casefold() for name in names}) == len(names)
    for name in names:
        assert len(name) < 220
        name.encode("utf-8")
        assert not PureWindowsPath(name).is_absolute()
        assert not set('<>:"\\|?*') & set(name)
        for part in PurePosixPath(name).parts:
            assert part not in (".", "..")
            assert part == part.strip(" .")
            assert len(part.encode("utf-8")) < 240
            assert not paths.RESERVED.fullmatch(part.lower())
    assert all(name.count("/") < len(axes) for name in names)


@given(files(), st.randoms(use_true_random=False))
@settings(max_examples=40)
def test_more_axes_values_and_other_titles_leave_cells_what_they_are(axes, random):
    before = spanned(axes)
    digests = [expand.digest(before.workflow(cell)) for cell in before.cells()]
    more = json.loads(json.dumps(axes))
    for axis in more:
        axis["values"] += [{"title": "new", "value": 60}, {"title": "new", "value": 61}]
        random.shuffle(axis["values"])
        axis["title"] = "other"
    more.append({"title": "Sampler", "input": "KSampler.sampler_name", "values": ["heun", "euler"]})
    after = spanned(more)
    later = {expand.digest(after.workflow(cell)) for cell in after.cells()}
    assert set(digests) <= later
    assert len(later) == after.size()


@given(files())
@settings(max_examples=40)
def test_values_that_are_added_change_no_key(axes):
    before = spanned(axes)
    for axis in axes:
        axis["values"].append({"title": axis["values"][0]["title"], "value": 60})
    after = spanned(axes)
    for old, new in zip(before.axes, after.axes, strict=True):
        assert [value.key for value in old.values] == [value.key for value in new.values][:-1]
        assert len({value.key.casefold() for value in new.values}) == len(new.values)


def test_keys_differ_where_the_case_of_letters_counts_for_nothing():
    keys = paths.distinct(["A", "a", "a", "\u00e9", "e\u0301"], ["1", "2", "3", "4", "5"])
    assert keys[0] == "A"
    assert len({unicodedata.normalize("NFC", key).casefold() for key in keys}) == 5


def test_readable_titles_are_keys_as_they_are():
    grid = spanned({"Sampler": {"input": "KSampler.sampler_name", "values": "euler, heun"}, "KSampler.cfg": "1, 7.5"})
    digest = expand.digest(grid.workflow((1, 1)))
    assert grid.path((1, 1), digest) == f"heun/7.5.{digest[:8]}"


def test_a_cell_changes_its_inputs_and_no_workflow():
    copy = json.loads(json.dumps(GRAPH))
    grid = spanned({"Seed": {"input": "KSampler.seed", "values": [5, 6]}}, set={"KSampler.steps": 9})
    workflows = [grid.workflow(cell) for cell in grid.cells()]
    assert [graph["6"]["inputs"]["seed"] for graph in workflows] == [5, 6]
    assert [graph["6"]["inputs"]["steps"] for graph in workflows] == [9, 9]
    assert workflows[0]["8"] is grid.graph["8"]
    assert copy == GRAPH


def test_digests_tell_inputs_apart_and_not_titles_or_forms_of_numbers():
    def changed(**inputs):
        return {**GRAPH, "6": {**GRAPH["6"], "inputs": {**GRAPH["6"]["inputs"], **inputs}}}

    assert expand.digest(changed(cfg=7)) == expand.digest(GRAPH)
    assert expand.digest({**GRAPH, "8": {**GRAPH["8"], "_meta": {"title": "other"}}}) == expand.digest(GRAPH)
    assert expand.digest(dict(reversed(GRAPH.items()))) == expand.digest(GRAPH)
    different = [GRAPH, changed(cfg=7.5), changed(seed=True), changed(seed="1"), changed(seed=2**64 - 1)]
    assert len({expand.digest(graph) for graph in different}) == len(different)


def test_texts_are_replaced_in_the_order_of_the_axes():
    axes = {
        "Prompt.text": ["a red cat", "a red dog"],
        "Colour": {"input": "Prompt.text", "values": "red => blue || red => green || SKIP: red => black"},
    }
    grid = spanned(axes)
    texts = [grid.workflow(cell)["3"]["inputs"]["text"] for cell in grid.cells()]
    assert texts == ["a blue cat", "a green cat", "a blue dog", "a green dog"]


AXES = {
    "Seed": {"input": "KSampler.seed", "values": "1, 2, ..., 5", "default": 3},
    "A=B": {"input": "KSampler.cfg", "values": [1, {"SKIP": 2}, 3]},
    "KSampler.steps": [4, 8],
}


@pytest.mark.parametrize(
    ("only", "size"),
    [
        ([], 20),
        (["Seed=2"], 4),
        (["Seed=2", "Seed=3", "KSampler.steps=8"], 4),
        (["A=B=3"], 10),
        (["Seed"], 5),
        (["Seed", "A=B=3"], 5),
        (["Seed", "KSampler.steps"], 10),
    ],
)
def test_a_part_of_a_grid_is_chosen(only, size):
    grid = spanned(AXES)
    chosen = expand.part(grid, only)
    cells = list(grid.cells(chosen=chosen))
    assert len(cells) == grid.size(chosen) == size
    assert set(cells) <= set(grid.cells())


def test_other_axes_stand_at_their_defaults():
    grid = spanned(AXES)
    assert list(grid.cells(chosen=expand.part(grid, ["KSampler.steps"]))) == [(2, 0, 0), (2, 0, 1)]


def test_all_faults_of_a_part_come_at_once():
    with pytest.raises(GridError) as error:
        expand.part(spanned(AXES), ["Sed", "Seed=9", "A=B=2"])
    assert str(error.value).splitlines() == [
        "There is no axis Sed. Is it Seed? There are Seed, A=B, KSampler.steps.",
        "Seed has no value 9. There are 1, 2, 3, 4, 5.",
        "A=B: the file skips the value 2.",
    ]
