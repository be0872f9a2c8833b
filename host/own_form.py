"""Turns a workflow in ComfyUI's own form, which File > Export writes, into the form of the API.

ComfyUI's server cannot do this: its page converts a workflow whenever it queues one. What the page makes up while it
queues, and subgraphs, are refused.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from .client import Graph
from .grid import GridError

# isort: split
from pentimento_model_patchers.grid.check import Info, declared, is_socket
from pentimento_model_patchers.grid.interface import listed

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


def to_api(workflow: dict, info: Info) -> Graph:
    """The workflow as the page would queue it.

    Args:
        info: What the server says of its nodes.

    Raises:
        GridError: It holds what is not converted; the text is a sentence for each such thing.
    """
    try:
        return _Converter(workflow, info).graph()
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise GridError(f"The workflow is damaged, or in a form that is not known. {ADVICE}") from error


class _Converter:
    def __init__(self, workflow: dict, info: Info):
        self._info = info
        self._nodes = {str(node["id"]): node for node in workflow["nodes"]}
        self._links = dict(map(_link, workflow["links"]))
        self._subgraphs = {item["id"]: item for item in workflow.get("definitions", {}).get("subgraphs", [])}

    def graph(self) -> Graph:
        wanted = {key: node for key, node in self._nodes.items() if self._runs(node)}
        if faults := list(dict.fromkeys(fault for node in wanted.values() for fault in self._faults(node))):
            raise GridError("\n".join(faults))
        return {key: self._converted(node) for key, node in wanted.items()}

    @staticmethod
    def _runs(node: dict) -> bool:
        return node["type"] not in (*NOTES, REROUTE, PRIMITIVE) and node.get("mode", 0) not in (MUTED, BYPASSED)

    def _faults(self, node: dict) -> Iterator[str]:
        name = self._title(node)
        if node["type"] in self._subgraphs:
            yield f"{name} is a subgraph, which is not converted. {ADVICE}"
        elif node["type"] not in self._info:
            yield f"ComfyUI has no node {node['type']}, which the workflow wants as {name}. Install its pack. {ADVICE}"
        elif self._is_unclear(node):
            yield f"{name} has inputs that come and go, and it is not clear which value belongs to which. {ADVICE}"
        else:
            for input_name, value in self._widgets(node).items():
                if self._is_prompt(node, input_name) and CHOICE.search(str(value)):
                    yield (
                        f"{name}.{input_name} has choices in braces, of which the page of ComfyUI takes one at random: "
                        "write one, and make an axis of them."
                    )
                elif input_name == "filename_prefix" and REPLACED.search(str(value)):
                    yield f"{name}.{input_name} has a part between %, which the page of ComfyUI replaces: take it out."

    def _title(self, node: dict) -> str:
        named = self._info.get(node["type"], {}).get("display_name") or self._subgraphs.get(node["type"], {}).get(
            "name"
        )
        return node.get("title") or named or node["type"]

    def _converted(self, node: dict) -> dict:
        inputs = {name: self._value(node, name, value) for name, value in self._widgets(node).items()}
        for item in node.get("inputs", []):
            if (source := self._source(item.get("link"), item["type"], set())) is not None:
                inputs[item["name"]] = source
        return {"class_type": node["type"], "inputs": inputs, "_meta": {"title": self._title(node)}}

    # Widgets

    def _widgets(self, node: dict) -> dict[str, object]:
        """{input: value} of a node's widgets, with the default of each that was added to the node since."""
        inputs = declared(self._info, _class(node))
        dynamic = tuple(f"{name}." for name, declaration in inputs.items() if _is_dynamic(declaration))
        widgets = {name: value for name, value in self._saved(node) if name in inputs or name.startswith(dynamic)}
        slots = {item["name"] for item in node.get("inputs", [])}
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
        """Whether inputs come and go with a value, and the saved values are not one for each widget that is saved."""
        dynamic = any(map(_is_dynamic, declared(self._info, _class(node)).values()))
        widgets = [item for item in node.get("inputs", []) if item.get("widget")]
        values = node.get("widgets_values") or []
        return dynamic and not isinstance(values, dict) and len(values) != len(widgets)

    def _is_prompt(self, node: dict, name: str) -> bool:
        kind, *options = declared(self._info, _class(node)).get(name, [None])
        return kind == "STRING" and bool(options) and bool(options[0].get("dynamicPrompts"))

    def _value(self, node: dict, name: str, value: object) -> object:
        if isinstance(value, list):
            return {"__value__": value}  # a bare list would be a link
        if self._is_prompt(node, name):
            return re.sub(r"\\([{}|])", r"\1", COMMENT.sub("", str(value)))
        return value

    # Links

    def _source(self, number: object, kind: str, seen: set) -> object:
        """What a link leads to: [node id, output], a primitive's value, or None where it leads nowhere."""
        if number is None or number in seen:
            return None
        seen.add(number)
        link = self._links[number]
        node = self._nodes[link.source]
        if node.get("mode", 0) == MUTED:
            return None
        if node.get("mode", 0) == BYPASSED:
            passed = _passed(node, link.output, kind)
            return None if passed is None else self._source(passed.get("link"), passed["type"], seen)
        if node["type"] == REROUTE:
            return self._source(node["inputs"][0].get("link"), kind, seen)
        if node["type"] == PRIMITIVE:
            return node["widgets_values"][0]
        return [link.source, link.output]


def _is_dynamic(declaration: list) -> bool:
    return str(declaration[0]).startswith("COMFY_")


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
