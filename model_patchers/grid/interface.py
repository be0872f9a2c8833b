"""A cell's workflow in ComfyUI's own form, so that a picture that is dropped into ComfyUI opens the cell's graph."""

from collections.abc import Iterator

from .addresses import Graph
from .check import Info, declared, is_socket

CONTROLS = ("fixed", "increment", "decrement", "randomize", "increment-wrap")
SEEDS = ("seed", "noise_seed")  # ComfyUI's front end adds a control after these


Place = tuple[str, str, int]
"""Where a workflow in ComfyUI's own form holds a value: a subgraph's id or "", a node's id, index of a widget."""

Places = dict[str, dict[str, Place]]
"""{node id: {input: place}}, as the front end knows it, which follows subgraphs and primitive nodes."""


def mirrored(interface: dict, original: Graph, graph: Graph, info: Info, places: Places | None = None) -> dict | None:
    """The workflow `interface` with the widgets of `graph` where it differs from `original`; what is equal is shared.

    Returns:
        None where a changed input has no widget in the workflow that is its own. Without `places` these are the inputs
        in a subgraph and those that a primitive node feeds. ComfyUI then lays out the picture's prompt.
    """
    whole = interface
    for key, inputs in _changes(original, graph):
        own = next((node for node in interface["nodes"] if str(node.get("id")) == key), None)
        listed = _places(own, original[key], info) if own else {}
        for name, value in inputs.items():
            if place := (places or {}).get(key, {}).get(name):
                alike = _fed(places or {}, place, graph, value)
                whole = _put(whole, place, original[key]["inputs"].get(name), value) if alike else None
            elif name in listed:
                whole = _put(whole, ("", key, listed[name]), original[key]["inputs"].get(name), value)
            else:
                whole = None
            if whole is None:
                return None
    return whole


def _fed(places: Places, place: Place, graph: Graph, value: object) -> bool:
    """Whether all inputs that the widget sets have this value."""
    fed = [(key, name) for key, inputs in places.items() for name, other in inputs.items() if other == place]
    return not any(_differs(graph[key]["inputs"].get(name), value) for key, name in fed if key in graph)


def _put(workflow: dict, place: tuple[str, str, int | str], before: object, value: object) -> dict | None:
    """The workflow with a widget's value; None where the widget does not hold the value `before`, or this one."""
    subgraph, node_id, index = place
    if subgraph:
        definitions = workflow.get("definitions", {})
        parts = definitions.get("subgraphs", [])
        at = next((at for at, part in enumerate(parts) if part.get("id") == subgraph), None)
        part = None if at is None else _put(parts[at], ("", node_id, index), before, value)
        if part is None:
            return None
        return {**workflow, "definitions": {**definitions, "subgraphs": [*parts[:at], part, *parts[at + 1 :]]}}
    nodes = workflow["nodes"]
    at = next((at for at, node in enumerate(nodes) if str(node.get("id")) == node_id), None)
    values = None if at is None else nodes[at].get("widgets_values")
    values = dict(values) if isinstance(values, dict) else list(values or [])
    present = values.get(index) if isinstance(values, dict) else dict(enumerate(values)).get(index)
    if at is None or (_differs(present, before) and _differs(present, value)):  # the value: by another of its inputs
        return None
    values[index] = value
    return {**workflow, "nodes": [*nodes[:at], {**nodes[at], "widgets_values": values}, *nodes[at + 1 :]]}


def _changes(original: Graph, graph: Graph) -> Iterator[tuple[str, dict]]:
    """(node id, {input: value}) of the nodes that differ."""
    for key, node in graph.items():
        before = original[key]["inputs"]
        if node["inputs"] is not before:
            changed = {name: value for name, value in node["inputs"].items() if _differs(before.get(name), value)}
            if changed:
                yield key, changed


def _differs(one: object, other: object) -> bool:
    return one != other or isinstance(one, bool) != isinstance(other, bool)


def _places(node: dict, original: dict, info: Info) -> dict[str, int | str]:
    """Where the values of a node's widgets stand: {input: place}; empty where the node does not match the workflow."""
    values, inputs = node.get("widgets_values"), original["inputs"]
    if isinstance(values, dict):
        places: dict[str, int | str] = {name: name for name in values}
    elif isinstance(values, list):
        places = dict(listed(node, original, values, info))
    else:
        return {}
    connected = {item["name"] for item in node.get("inputs", []) if item.get("link") is not None}
    places = {name: place for name, place in places.items() if name in inputs and name not in connected}
    match = all(not _differs(inputs[name], values[place]) for name, place in places.items())
    return places if match else {}


def listed(node: dict, original: dict, values: list, info: Info) -> Iterator[tuple[str, int]]:
    """(input, place of its value) of a node's widgets. Values without an input follow seeds, or stand at the end."""
    inputs, place = declared(info, original), 0
    for name in _widgets(node, inputs):
        if place == len(values):
            return
        yield name, place
        place += 1
        options = inputs[name][1] if len(inputs.get(name, ())) > 1 and isinstance(inputs[name][1], dict) else {}
        controlled = options.get("control_after_generate") or name in SEEDS
        if controlled and place < len(values) and values[place] in CONTROLS:
            place += 1


def _widgets(node: dict, inputs: dict[str, list]) -> list[str]:
    """The inputs that have a widget. A file may name all of them, or those alone that are connected."""
    slots = node.get("inputs", [])
    named = [item["widget"]["name"] for item in slots if item.get("widget")]
    sockets = {item["name"] for item in slots if not item.get("widget")}
    widgets = [name for name in inputs if not is_socket(inputs[name]) and name not in sockets]
    return named if set(widgets) <= set(named) else widgets
