"""A cell's workflow in ComfyUI's own form."""

import json

import pytest

from kit.grid import INFO
from kit.paths import PACK
from pentimento.model_patchers.grid.interface import mirrored

NAMES = sorted(path.stem for path in (PACK / "workflows").glob("*.json"))


def read(name):
    folder = PACK / "workflows"
    return json.loads((folder / f"{name}.json").read_text()), json.loads((folder / "api" / f"{name}.json").read_text())


def replaced(graph, key, name, value):
    return {**graph, key: {**graph[key], "inputs": {**graph[key]["inputs"], name: value}}}


def another(value):
    return not value if isinstance(value, bool) else value + 1 if isinstance(value, (int, float)) else f"{value}!"


@pytest.mark.parametrize("name", NAMES)
def test_each_widget_of_the_bundled_workflows_is_set(name):
    """The one changed widget changes, and nothing else."""
    interface, graph = read(name)
    before, reached = json.dumps(interface), 0
    for key, node in graph.items():
        for input_name, value in node["inputs"].items():
            if isinstance(value, (list, dict)):
                continue
            new = mirrored(interface, graph, replaced(graph, key, input_name, another(value)), {})
            if new is None:
                continue
            reached += 1
            changed = [
                (a, b)
                for one, other in zip(interface["nodes"], new["nodes"], strict=True)
                for a, b in zip(one.get("widgets_values") or [], other.get("widgets_values") or [], strict=True)
                if a != b or isinstance(a, bool) != isinstance(b, bool)
            ]
            assert changed == [(value, another(value))]
    assert json.dumps(interface) == before
    assert reached >= 2


WIDGETS = {
    "id": 6,
    "type": "KSampler",
    "inputs": [{"name": name, "widget": {"name": name}, "link": None} for name in ("seed", "steps", "cfg")],
    "widgets_values": [1, "randomize", 4, 7.0],
}
NODE = {"class_type": "KSampler", "inputs": {"seed": 1, "steps": 4, "cfg": 7.0}}


def mirror(node, inputs, original=None):
    original = original or NODE
    graph = {"6": {**original, "inputs": {**original["inputs"], **inputs}}}
    new = mirrored({"nodes": [node], "links": []}, {"6": original}, graph, INFO)
    return new and new["nodes"][0]["widgets_values"]


def test_the_control_of_a_seed_is_stepped_over():
    assert mirror(WIDGETS, {"steps": 9}) == [1, "randomize", 9, 7.0]
    assert mirror(WIDGETS, {"seed": 5, "cfg": 1.5}) == [5, "randomize", 4, 1.5]


def test_a_workflow_without_names_of_all_widgets_takes_those_of_the_class():
    old = {**WIDGETS, "inputs": [], "widgets_values": [1, "fixed", 4, 7.0, "euler", False]}
    assert mirror(old, {"cfg": 2.0}) == [1, "fixed", 4, 2.0, "euler", False]
    connected = {"name": "steps", "widget": {"name": "steps"}, "link": 3}
    assert mirror({**old, "inputs": [connected]}, {"cfg": 2.0}) == [1, "fixed", 4, 2.0, "euler", False]


def test_values_by_name_are_set_by_name():
    assert mirror({**WIDGETS, "widgets_values": {"seed": 1, "steps": 4, "cfg": 7.0}}, {"cfg": 2.0})["cfg"] == 2.0


@pytest.mark.parametrize(
    "node",
    [
        {**WIDGETS, "id": 7},
        {**WIDGETS, "widgets_values": [2, "randomize", 4, 7.0]},
        {**WIDGETS, "widgets_values": None},
        {**WIDGETS, "widgets_values": [1]},
        {
            **WIDGETS,
            "inputs": [{"name": name, "widget": {"name": name}, "link": 3} for name in ("seed", "steps", "cfg")],
        },
    ],
)
def test_a_widget_that_is_not_there_leaves_the_picture_its_prompt_alone(node):
    assert mirror(node, {"steps": 9}) is None


def test_equal_workflows_are_the_same():
    assert mirror({**WIDGETS, "widgets_values": None}, {}) is None
    assert mirrored({"nodes": [WIDGETS]}, {"6": NODE}, {"6": NODE}, INFO) == {"nodes": [WIDGETS]}


# Where the front end says which widget holds a value

HELD = {
    "nodes": [
        {"id": 1, "type": "PrimitiveNode", "widgets_values": [7, "fixed"]},
        {"id": 2, "type": "A", "widgets_values": [7, 3]},
        {"id": 3, "type": "sub", "widgets_values": ["a"]},
    ],
    "definitions": {"subgraphs": [{"id": "sub", "nodes": [{"id": 4, "type": "B", "widgets_values": ["a", 5]}]}]},
}
ORIGINAL = {
    "2": {"class_type": "A", "inputs": {"seed": 7, "cfg": 3}},
    "5": {"class_type": "A", "inputs": {"seed": 7}},
    "3:4": {"class_type": "B", "inputs": {"text": "a", "steps": 5}},
}
PLACES = {
    "2": {"seed": ("", "1", 0), "cfg": ("", "2", 1)},
    "5": {"seed": ("", "1", 0)},
    "3:4": {"text": ("", "3", 0), "steps": ("sub", "4", 1)},
}


def held(*changes, places=PLACES):
    """{place: value} of what differs in the workflow; None where it cannot be set."""
    graph, before = ORIGINAL, json.dumps(HELD)
    for change in changes:
        graph = replaced(graph, *change)
    new = mirrored(HELD, ORIGINAL, graph, {}, places)
    assert json.dumps(HELD) == before
    if new is None:
        return None
    pairs = [("", HELD, new), ("sub", *(whole["definitions"]["subgraphs"][0] for whole in (HELD, new)))]
    return {
        (subgraph, str(one["id"]), index): value
        for subgraph, *parts in pairs
        for one, other in zip(*(part["nodes"] for part in parts), strict=True)
        for index, value in enumerate(other["widgets_values"])
        if value != one["widgets_values"][index]
    }


def test_values_in_a_subgraph_on_a_subgraph_node_and_of_a_primitive_node_are_set():
    assert held(("2", "cfg", 4)) == {("", "2", 1): 4}
    assert held(("3:4", "steps", 9), ("3:4", "text", "b")) == {("sub", "4", 1): 9, ("", "3", 0): "b"}
    assert held(("2", "seed", 8), ("5", "seed", 8)) == {("", "1", 0): 8}


def test_a_value_that_its_widget_cannot_have_alone_is_none():
    assert held(("2", "seed", 8)) is None, "the primitive node sets another input, too"
    assert held(("2", "seed", 8), ("5", "seed", 9)) is None


@pytest.mark.parametrize(
    "place", [("", "2", 0), ("", "2", -1), ("", "2", 9), ("", "9", 0), ("x", "2", 1), ("", "1", 1)]
)
def test_a_place_that_holds_another_value_is_none(place):
    assert held(("2", "cfg", 4), places={"2": {"cfg": place}}) is None
