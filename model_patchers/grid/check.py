"""What is wrong with a grid, told before anything runs; the order of its axes; what it will cost."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from . import addresses
from .addresses import Graph, nearest
from .expand import Axis, Change, Chosen, Grid, shown

Info = dict[str, dict]
"""ComfyUI's /object_info: {class: {"input", "output", "output_node", ...}}."""

LIGHT = frozenset(  # types of outputs that are no models
    ("IMAGE", "MASK", "LATENT", "CONDITIONING", "INT", "FLOAT", "STRING", "BOOLEAN", "SIGMAS", "NOISE", "SAMPLER")
    + ("GUIDER", "BOUNDING_BOX", "AUDIO", "VIDEO", "*")
)
UPLOADS = ("image_upload", "video_upload", "audio_upload", "file_upload", "animated_image_upload", "remote")
MOST_CELLS = 1_000_000
KINDS = {"INT": "a whole number", "FLOAT": "a number", "BOOLEAN": "true or false", "STRING": "text"}


def _conflicts(grid: Grid) -> Iterator[str]:
    """Sentences on inputs that two axes set, on connected inputs, and on texts that are nowhere to be found."""
    setter: dict[tuple[str, str], str] = {}
    texts: dict[tuple[str, str], set[str]] = {}
    for axis in grid.axes:
        changes = [change for value in axis.values for change in value.changes]
        for node, name in dict.fromkeys((change.node, change.input) for change in changes):
            where = f"{addresses.name(grid.graph, node)}.{name}"
            present = grid.graph[node]["inputs"].get(name)
            if addresses.is_link(present, grid.graph):
                source = addresses.name(grid.graph, str(present[0]))
                yield _of(axis, f"{where} is connected to {source}. Disconnect it, or vary an input of {source}.")
        for place in dict.fromkeys((change.node, change.input) for change in changes if change.find is None):
            if place in setter:
                where = f"{addresses.name(grid.graph, place[0])}.{place[1]}"
                yield f"{axis.title} and {setter[place]} both set {where}, so one would undo the other."
            setter[place] = axis.title
        yield from _not_there(grid, axis, texts)


def _not_there(grid: Grid, axis: Axis, texts: dict[tuple[str, str], set[str]]) -> Iterator[str]:
    """Sentences on texts to find that the input never holds; `texts` grows by what the axis makes of an input."""
    after: dict[tuple[str, str], set[str]] = {}
    for value in axis.values:
        for change in value.changes:
            place = change.node, change.input
            before = texts.setdefault(place, {str(grid.graph[change.node]["inputs"].get(change.input, ""))})
            if change.find is None:
                after.setdefault(place, set()).add(str(change.value))
                continue
            if not any(change.find in text for text in (*before, *after.get(place, ()))):
                where = f"{addresses.name(grid.graph, change.node)}.{change.input}"
                yield _of(axis, f"{where} does not hold {shown(change.find)}, which is to be replaced.")
            made = {text.replace(change.find, str(change.value)) for text in before}
            after.setdefault(place, set()).update(made)
    for place, made in after.items():
        touched_by_all = all(any((c.node, c.input) == place for c in value.changes) for value in axis.values)
        texts[place] = made if touched_by_all else made | texts[place]


# Against ComfyUI's nodes


def faults(grid: Grid, info: Info) -> list[str]:
    """A sentence on each fault of a grid.

    Args:
        info: What the server that is to run it says of its nodes.
    """
    sentences = [*_conflicts(grid), *_base(grid, info)]
    if (size := grid.size()) > MOST_CELLS:
        sentences.append(f"The grid has {size} cells, and {MOST_CELLS} is the limit: shorten an axis, or skip values.")
    for axis in grid.axes:
        for value in axis.values:
            for change in value.changes if not value.skip else ():
                if change.find is None:
                    sentence = fault(grid.graph, info, change.node, change.input, change.value)
                    sentences += [_of(axis, sentence)] if sentence else []
                elif fault(grid.graph, info, change.node, change.input, "text") and not _is_text(grid, info, change):
                    where = f"{addresses.name(grid.graph, change.node)}.{change.input}"
                    sentences.append(f"{axis.title}: {where} holds no text in which something could be replaced.")
    return list(dict.fromkeys(sentences))


def _of(axis: Axis, sentence: str) -> str:
    return sentence if sentence.startswith(axis.title) else f"{axis.title}: {sentence}"


def _is_text(grid: Grid, info: Info, change: Change) -> bool:
    return isinstance(grid.graph[change.node]["inputs"].get(change.input), str)


def _base(grid: Grid, info: Info) -> Iterator[str]:
    """Sentences on the workflow itself, without the inputs that axes set."""
    varied = {(change.node, change.input) for axis in grid.axes for value in axis.values for change in value.changes}
    for key, node in grid.graph.items():
        if node["class_type"] not in info:
            name = addresses.name(grid.graph, key)
            yield (
                f"ComfyUI has no node {node['class_type']}, which the workflow wants as {name}. Install its pack, "
                "and restart ComfyUI."
            )
            continue
        for name, value in node["inputs"].items():
            if (key, name) not in varied and name in declared(info, node) and not isinstance(value, (list, dict)):
                sentence = fault(grid.graph, info, key, name, value)
                if sentence:
                    yield f"The workflow: {sentence}"
    if grid.graph and not any(info.get(node["class_type"], {}).get("output_node") for node in grid.graph.values()):
        yield "The workflow saves nothing: it needs a node such as Save Image."


def declared(info: Info, node: dict) -> dict[str, list]:
    """{input: [type, options]} of a node's class."""
    inputs = info.get(node["class_type"], {}).get("input", {})
    return {**inputs.get("required", {}), **inputs.get("optional", {})}


def fault(graph: Graph, info: Info, key: str, name: str, value: object) -> str:
    """A sentence on why an input does not take a value, or nothing."""
    node = graph[key]
    if node["class_type"] not in info:
        return ""  # said for the node
    inputs, where = declared(info, node), f"{addresses.name(graph, key)}.{name}"
    if name not in inputs:
        if name in node["inputs"]:  # of a dynamic input, which the class does not list
            return ""
        there = ", ".join(input_name for input_name in inputs if not is_socket(inputs[input_name]))
        return f"{addresses.name(graph, key)} has no input {name}.{nearest(name, inputs)} It has {there or 'none'}."
    kind, *rest = inputs[name]
    options = rest[0] if rest and isinstance(rest[0], dict) else {}
    if isinstance(kind, list) or kind == "COMBO":
        return _combo_fault(where, kind if isinstance(kind, list) else options.get("options", []), options, value)
    if kind in ("INT", "FLOAT"):
        return _number_fault(where, kind, options, value)
    if kind == "BOOLEAN" and not isinstance(value, bool):
        return f"{where} is {_word(value)}, and {KINDS[kind]} is needed."
    if kind == "STRING" and not isinstance(value, str):
        return f"{where} is {_word(value)}, and text is needed: put it in quotation marks."
    if is_socket(inputs[name]) and kind != "STRING":
        return f"{where} takes a connection of the type {kind}, and no value can be set there."
    return ""


def is_socket(declaration: list) -> bool:
    """Whether an input takes a connection alone."""
    kind, *rest = declaration
    options = rest[0] if rest and isinstance(rest[0], dict) else {}
    if options.get("forceInput") is True:
        return True
    widget = not isinstance(kind, str) or kind in KINDS or kind == "COMBO" or "default" in options or "," in kind
    return not widget and kind != "*" and not kind.startswith("COMFY_")  # those are dynamic inputs, with widgets


def _combo_fault(where: str, choices: list, options: dict, value: object) -> str:
    if any(options.get(upload) for upload in UPLOADS):  # takes files that the list does not name
        return ""
    values = value if isinstance(value, list) and options.get("multiselect") else [value]
    if all(item in choices and type(item) in map(type, choices) for item in values):
        return ""
    words = [str(choice) for choice in choices]
    there = f" There are {', '.join(words[:20])}{', ...' if len(words) > 20 else ''}." if words else ""
    return f"{where} is {_word(value)}, and ComfyUI has none of that name.{nearest(str(value), words)}{there}"


def _number_fault(where: str, kind: str, options: dict, value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return f"{where} is {_word(value)}, and {KINDS[kind]} is needed."
    if kind == "INT" and value != int(value):
        return f"{where} is {_word(value)}, and {KINDS[kind]} is needed."
    if "min" in options and value < options["min"]:
        return f"{where} is {_word(value)}, and the least is {options['min']}."
    if "max" in options and value > options["max"]:
        return f"{where} is {_word(value)}, and the most is {options['max']}."
    return ""


def _word(value: object) -> str:
    return ("true" if value else "false") if isinstance(value, bool) else shown(str(value)) or "empty"


# The order of axes


def order(grid: Grid, info: Info) -> tuple[int, ...]:
    """The axes, the slowest outermost: those that touch loaders, then those that touch most of the graph.

    ComfyUI runs a node again when an input of it or of a node before it changes, and keeps the rest. So an axis whose
    changes reach many nodes should change least. Among equals, the axis with fewer values stands outside, which makes
    the fewest changes, and else the file's order holds.
    """
    reached = reached_nodes(grid)
    loaders = {key for key in grid.graph if is_loader(grid.graph[key], info)}
    ranks = [
        (-len(reached[number] & loaders), -len(reached[number]), len(axis.used), number)
        for number, axis in enumerate(grid.axes)
    ]
    return tuple(rank[-1] for rank in sorted(ranks))


def reached_nodes(grid: Grid) -> list[set[str]]:
    """For each axis, the nodes that run again when its value changes."""
    after: dict[str, set[str]] = {key: set() for key in grid.graph}
    for key, node in grid.graph.items():
        for value in node["inputs"].values():
            if addresses.is_link(value, grid.graph):
                after[str(value[0])].add(key)
    reached = []
    for axis in grid.axes:
        todo = {change.node for value in axis.values for change in value.changes}
        nodes: set[str] = set()
        while todo:
            key = todo.pop()
            nodes.add(key)
            todo |= after[key] - nodes
        reached.append(nodes)
    return reached


def is_loader(node: dict, info: Info) -> bool:
    """Whether a node reads a model: it gives one, and is called a loader or has nothing before it."""
    description = info.get(node["class_type"], {})
    models = [kind for kind in description.get("output", []) if isinstance(kind, str) and kind not in LIGHT]
    named = "load" in node["class_type"].lower()
    return bool(models) and (named or not _has_links(node))


def _has_links(node: dict) -> bool:
    return any(isinstance(value, list) for value in node["inputs"].values())


# The cost


@dataclass(frozen=True)
class Cost:
    """What a grid asks of ComfyUI.

    Attributes:
        cells: All cells of the chosen part.
        runs: How many nodes run, with those left out whose results ComfyUI still has.
        loads: {title of a loader: how often it runs}.
    """

    cells: int
    runs: int
    loads: dict[str, int]


def cost(grid: Grid, info: Info, axes: tuple[int, ...], chosen: Chosen | None = None) -> Cost:
    """What the cells cost when no cell is there yet and the axes change in this order."""
    reached = reached_nodes(grid)
    chosen = chosen or {}
    counts = [len(set(axis.used) & chosen.get(number, set(axis.used))) for number, axis in enumerate(grid.axes)]
    runs = {}
    for key in grid.graph:
        inner = max((place for place, axis in enumerate(axes) if key in reached[axis]), default=-1)
        runs[key] = math.prod(counts[axis] for axis in axes[: inner + 1])
    loads = {addresses.name(grid.graph, key): runs[key] for key in grid.graph if is_loader(grid.graph[key], info)}
    return Cost(grid.size(chosen), sum(runs.values()), loads)
