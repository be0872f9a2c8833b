"""Turns a workflow in ComfyUI's own form, which File > Export writes, into the form of the API.

ComfyUI's server cannot do this: its page converts a workflow whenever it queues one. What the page makes up while it
queues is refused.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from .client import Graph
from .grid import GridError

# isort: split
from pentimento_model_patchers.grid.check import UPLOADS, Info, declared, is_socket
from pentimento_model_patchers.grid.interface import CONTROLS, listed

MUTED, BYPASSED = 2, 4  # modes of nodes
NOTES = ("Note", "MarkdownNote")
REROUTE, PRIMITIVE = "Reroute", "PrimitiveNode"
COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)  # the page takes them out of prompts
CHOICE = re.compile(r"(?<!\\)\{")
REPLACED = re.compile(r"%date(:[^%]*)?%|%[^%.\s]+\.[^%]+%")
ADVICE = "File > Export (API) in ComfyUI writes the form that a grid needs."


@dataclass(frozen=True)
class _Link:
    source: str
    output: int
    kind: str


@dataclass(frozen=True)
class _Given:
    """A value in the place of a link."""

    value: object


class _Level:
    """The workflow, or the inside of a subgraph.

    Attributes:
        prefix: Of the ids of its nodes in the API's form.
        outer: The level in which the subgraph stands, and `host` its node there.
    """

    def __init__(self, content: dict, prefix: str = "", outer: "_Level | None" = None, host: dict | None = None):
        self.content, self.prefix, self.outer, self.host = content, prefix, outer, host
        self.nodes = {str(node["id"]): node for node in content["nodes"]}
        self.links = dict(map(_link, content["links"]))
        self.entry = str(content["inputNode"]["id"]) if outer else None
        self.inner: dict[str, _Level] = {}  # of the nodes that are subgraphs


_Place = tuple[_Level, dict]
"""A node and where it stands."""


def to_api(workflow: dict, info: Info) -> Graph:
    """The workflow as the page would queue it.

    Args:
        info: What the server says of its nodes.

    Raises:
        GridError: It holds what is not converted; the text is a sentence for each such thing.
    """
    try:
        return _Converter(workflow, info).graph()
    except (KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        raise GridError(f"The workflow is damaged, or in a form that is not known. {ADVICE}") from error


class _Converter:
    def __init__(self, workflow: dict, info: Info):
        self._info = info
        self._subgraphs = {item["id"]: item for item in workflow.get("definitions", {}).get("subgraphs", [])}
        self._top = _Level(workflow)

    def graph(self) -> Graph:
        places = [*self._places(self._top)]
        if faults := list(dict.fromkeys(fault for place in places for fault in self._faults(*place))):
            raise GridError("\n".join(faults))
        return {f"{level.prefix}{node['id']}": self._converted(level, node) for level, node in places}

    def _places(self, level: _Level) -> Iterator[_Place]:
        """The nodes that run, and those of the subgraphs that do."""
        for key, node in level.nodes.items():
            if node["type"] in (*NOTES, REROUTE, PRIMITIVE) or node.get("mode", 0) in (MUTED, BYPASSED):
                continue
            if node["type"] in self._subgraphs:
                content = self._subgraphs[node["type"]]
                level.inner[key] = _Level(content, f"{level.prefix}{key}:", level, node)
                yield from self._places(level.inner[key])
            else:
                yield level, node

    def _faults(self, level: _Level, node: dict) -> Iterator[str]:
        name = self._title(node)
        if level.host and level.host.get("properties", {}).get("proxyWidgets"):
            yield f"{self._title(level.host)} is a subgraph of an earlier ComfyUI: save it in a newer one. {ADVICE}"
        elif level.host and len(_promoted(level)) != len(level.host.get("widgets_values") or _promoted(level)):
            yield f"{self._title(level.host)} is a subgraph, and it is not clear which value belongs to which. {ADVICE}"
        elif level.host and _has_primitive(level):
            yield f"{self._title(level.host)} is a subgraph, and a primitive feeds it: write the value into its widget."
        elif node["type"] not in self._info:
            yield f"ComfyUI has no node {node['type']}, which the workflow wants as {name}. Install its pack. {ADVICE}"
        elif self._is_unclear(node):
            yield f"{name} has values of which it is not clear to which input they belong. {ADVICE}"
        else:
            for input_name, value in self._values(level, node).items():
                if self._is_prompt(node, input_name) and CHOICE.search(str(value)):
                    yield (
                        f"{name}.{input_name} has choices in braces, of which the page of ComfyUI takes one at random: "
                        "write one, and make an axis of them."
                    )
                elif input_name == "filename_prefix" and REPLACED.search(str(value)):
                    yield f"{name}.{input_name} has a part between %, which the page of ComfyUI replaces: take it out."

    def _title(self, node: dict) -> str:
        kind = self._info.get(node["type"], {}).get("display_name") or self._subgraphs.get(node["type"], {}).get("name")
        return node.get("title") or kind or node["type"]

    def _converted(self, level: _Level, node: dict) -> dict:
        inputs = {name: self._plain(node, name, value) for name, value in self._values(level, node).items()}
        inputs |= {name: source for name, source in self._sources(level, node) if isinstance(source, list)}
        return {"class_type": node["type"], "inputs": inputs, "_meta": {"title": self._title(node)}}

    def _values(self, level: _Level, node: dict) -> dict[str, object]:
        given = {name: source.value for name, source in self._sources(level, node) if isinstance(source, _Given)}
        return self._widgets(node) | given

    def _sources(self, level: _Level, node: dict) -> Iterator[tuple[str, list | _Given | None]]:
        for item in node.get("inputs", []):
            yield item["name"], self._source(level, item.get("link"), item["type"], set())

    # Widgets

    def _widgets(self, node: dict) -> dict[str, object]:
        """{input: value} of a node's widgets, with the default of each that was added to the node since."""
        inputs = declared(self._info, _class(node))
        dynamic = tuple(f"{name}." for name, declaration in inputs.items() if _is_dynamic(declaration))
        widgets = {name: value for name, value in self._saved(node) if name in inputs or name.startswith(dynamic)}
        slots = {item["name"] for item in node.get("inputs", []) if "widget" not in item}
        for name, declaration in inputs.items():
            if name not in widgets and name not in slots and not is_socket(declaration):
                for value in _defaults(declaration):
                    widgets[name] = value
        return widgets

    def _saved(self, node: dict) -> Iterator[tuple[str, object]]:
        values = node.get("widgets_values") or []
        if isinstance(values, dict):
            yield from values.items()
        else:
            yield from ((name, values[place]) for name, place in listed(node, _class(node), values, self._info))

    def _is_unclear(self, node: dict) -> bool:
        """Whether a value may belong to a widget of the page alone, or to an input that comes with another's value."""
        inputs, values = declared(self._info, _class(node)), node.get("widgets_values") or []
        saved = dict(self._saved(node))
        names = saved.keys() | {item["name"] for item in node.get("inputs", [])}
        if any(not names.issuperset(_dependent(name, inputs[name], saved.get(name))) for name in inputs):
            return True
        if isinstance(values, dict) or not saved:
            return False
        place = max(place for _, place in listed(node, _class(node), values, self._info))
        rest = [value for value in values[place + 1 :] if value not in CONTROLS]
        uploads = any(option in UPLOADS for _, *options in inputs.values() for each in options for option in each)
        return len(rest) > (2 if uploads else 0)  # a button, and a player of sounds

    def _is_prompt(self, node: dict, name: str) -> bool:
        kind, *options = declared(self._info, _class(node)).get(name, [None])
        return kind == "STRING" and bool(options) and bool(options[0].get("dynamicPrompts"))

    def _plain(self, node: dict, name: str, value: object) -> object:
        if isinstance(value, list):
            return {"__value__": value}  # a bare list would be a link
        if self._is_prompt(node, name):
            return re.sub(r"\\([{}|])", r"\1", COMMENT.sub("", str(value)))
        return value

    # Links

    def _source(self, level: _Level, number: object, kind: str, seen: set) -> list | _Given | None:
        """What a link leads to: [node id, output], a value, or None where it leads nowhere."""
        if number is None or (level.prefix, number) in seen:
            return None
        seen.add((level.prefix, number))
        link = level.links[number]
        if link.source == level.entry:
            return self._from_outside(level, link.output, kind, seen)
        node = level.nodes[link.source]
        if node.get("mode", 0) == MUTED:
            return None
        if node.get("mode", 0) == BYPASSED:
            passed = _passed(node, link.output, kind)
            return None if passed is None else self._source(level, passed.get("link"), passed["type"], seen)
        if node["type"] == REROUTE:
            return self._source(level, node["inputs"][0].get("link"), kind, seen)
        if node["type"] == PRIMITIVE:
            return _Given(node["widgets_values"][0])
        if inner := level.inner.get(link.source):
            (number, *_) = inner.content["outputs"][link.output]["linkIds"] or [None]
            return self._source(inner, number, kind, seen)
        return [f"{level.prefix}{link.source}", link.output]

    def _from_outside(self, level: _Level, slot: int, kind: str, seen: set) -> list | _Given | None:
        """What an input of a subgraph is connected to; else the value of its widget, where the node has one."""
        name = level.content["inputs"][slot]["name"]
        item = next((item for item in level.host.get("inputs", []) if item["name"] == name), {})
        if item.get("link") is not None:
            return self._source(level.outer, item["link"], kind, seen)
        values = dict(zip(_promoted(level), level.host.get("widgets_values") or [], strict=False))
        return _Given(values[name]) if name in values else None


def _promoted(level: _Level) -> list[str]:
    """The inputs of the subgraph's node that have a widget there."""
    return [item["name"] for item in level.host.get("inputs", []) if item.get("widget")]


def _has_primitive(level: _Level) -> bool:
    """Whether a primitive feeds the subgraph's node, for which the page uses the value inside."""
    links = [item["link"] for item in level.host.get("inputs", []) if item.get("link") is not None]
    sources = [level.outer.nodes.get(level.outer.links[link].source, {}) for link in links]
    return any(source.get("type") == PRIMITIVE for source in sources)


def _is_dynamic(declaration: list) -> bool:
    return str(declaration[0]).startswith("COMFY_")


def _dependent(name: str, declaration: list, value: object) -> list[str]:
    """The inputs that a value of a dynamic input brings with it."""
    options = declaration[1].get("options", []) if _is_dynamic(declaration) and len(declaration) > 1 else []
    parts = [option["inputs"] for option in options if isinstance(option, dict) and option.get("key") == value]
    return [f"{name}.{inner}" for part in parts for inputs in part.values() for inner in inputs]


def _defaults(declaration: list) -> list:
    """The value that a new node has, where it has one."""
    kind, options = declaration[0], declaration[1] if len(declaration) > 1 else {}
    choices = kind if isinstance(kind, list) else options.get("options", []) if kind == "COMBO" else []
    return [options["default"]] if "default" in options else choices[:1]


def _class(node: dict) -> dict:
    return {"class_type": node["type"]}


def _link(link: list | dict) -> tuple[int, _Link]:
    """A link of a workflow of version 0.4, or of version 1."""
    if isinstance(link, dict):
        return link["id"], _Link(str(link["origin_id"]), link["origin_slot"], link["type"])
    number, source, output, _, _, kind = link
    return number, _Link(str(source), output, kind)


def _passed(node: dict, output: int, kind: str) -> dict | None:
    """The input of a bypassed node whose value takes the place of an output's, for an input of this type."""
    inputs, made = node.get("inputs", []), node["outputs"][output]["type"]
    if kind in ("*", ""):
        return inputs[output if output < len(inputs) else 0] if inputs else None
    fitting = [item for item in inputs if _fits(item["type"], made) and _fits(item["type"], kind)]
    if output < len(inputs) and inputs[output] in fitting:
        return inputs[output]
    exact = [item for item in inputs if item["type"] == kind]
    return next(iter(exact or fitting), None)


def _fits(one: str, other: str) -> bool:
    """Whether the page connects two types; a type may be a list of several."""
    ones, others = str(one).lower().split(","), str(other).lower().split(",")
    return "*" in ones + others or not set(ones).isdisjoint(others)
