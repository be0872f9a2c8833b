"""A cell's workflow in ComfyUI's own form, so that a picture that is dropped into ComfyUI opens the cell's graph."""

from collections.abc import Iterator

from .addresses import Graph
from .check import Info, declared, is_socket

CONTROLS = ("fixed", "increment", "decrement", "randomize", "increment-wrap")
SEEDS = ("seed", "noise_seed")  # ComfyUI's front end adds a control after these


def mirrored(interface: dict, original: Graph, graph: Graph, info: Info) -> dict | None:
    """The workflow `interface` with the widgets of `graph` where it differs from `original`; what is equal is shared.

    Returns:
        None where a changed input has no widget in the workflow, as one in a subgraph or one that a primitive feeds.
        ComfyUI then lays out the picture's prompt.
    """
    nodes = list(interface["nodes"])
    for key, inputs in _changes(original, graph):
        place = next((place for place, node in enumerate(nodes) if str(node.get("id")) == key), None)
        places = {} if place is None else _places(nodes[place], original[key], info)
        if not inputs.keys() <= places.keys():
            return None
        values = nodes[place]["widgets_values"]
        values = dict(values) if isinstance(values, dict) else list(values)
        for name, value in inputs.items():
            values[places[name]] = value
        nodes[place] = {**nodes[place], "widgets_values": values}
    return {**interface, "nodes": nodes}


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
