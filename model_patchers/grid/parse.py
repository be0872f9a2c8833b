"""Reads grid files: YAML or JSON to a `Grid`, with all faults at once."""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from . import addresses, values
from .addresses import Graph, nearest
from .expand import (
    Axis,
    Change,
    Grid,
    GridError,
    Value,
    applied,
    axis_index,
    shown,
    unknown_axis,
    unknown_value,
    value_index,
)
from .paths import distinct
from .text import fields
from .values import Scalar

FIELDS = ("title", "description", "author", "workflow", "interface", "out", "set", "axes", "view")
AXIS_FIELDS = ("title", "description", "input", "values", "default")
VALUE_FIELDS = ("title", "description", "value", "set", "replace", "skip")
SOURCES = ("lines", "files", "wildcards")
VIEW = ("x", "y", "super_x", "super_y")
SKIP = "SKIP:"
LONGEST_TITLE = 300  # letters of a title that is made from a text; the viewer shows the text itself, too

Library = Callable[[str], tuple[Graph, dict | None] | None]
"""From the name of a workflow to the workflow in the API's form and in ComfyUI's own, or None."""


def parse(text: str, folder: Path, library: Library = lambda name: None, default_out: str = "") -> Grid:
    """The grid that a file describes; as `read`, which collects the faults.

    Raises:
        GridError: With a sentence on each fault.
    """
    grid, faults = read(text, folder, library, default_out)
    if faults:
        raise GridError("\n".join(faults))
    return grid


def read(
    text: str, folder: Path, library: Library = lambda name: None, default_out: str = ""
) -> tuple[Grid, list[str]]:
    """The grid that a file describes, and a sentence on each fault; without faults the grid is whole.

    Args:
        text: YAML or JSON.
        folder: Where the file lies: the files that it names lie there, too.
        library: Gives bundled workflows by name.
        default_out: Folder of the results where the file names none.

    Raises:
        GridError: The text is no YAML and no JSON.
    """
    return build(fields(text), folder, library, default_out)


def build(data: dict, folder: Path, library: Library, default_out: str = "") -> tuple[Grid, list[str]]:
    """The grid of these fields; as `read`."""
    parser = _Parser(folder, library)
    grid = parser.grid(data, default_out)
    return grid, list(dict.fromkeys(parser.faults))


class _Parser:
    """Collects faults while it reads."""

    def __init__(self, folder: Path, library: Library):
        self.folder, self.bundled, self.faults = folder, library, []
        self.graph: Graph = {}

    def grid(self, data: dict, default_out: str) -> Grid:
        self._known(data, FIELDS, "The grid file")
        original, interface = self._workflow(data)
        self.graph = original
        if original:
            self.graph = self._with(original, self._set(data.get("set", {}), "set"))
        axes = self._axes(data.get("axes"))
        out = self._text(data, "out", "The grid file") or default_out
        if out:
            self._try(values.inside, self.folder, out)
        return Grid(
            title=self._text(data, "title", "The grid file") or default_out or "Grid",
            description=self._text(data, "description", "The grid file"),
            graph=self.graph,
            axes=axes,
            out=out,
            original=original,
            interface=interface,
            view=self._view(data.get("view", {}), axes),
        )

    # Parts

    def _workflow(self, data: dict) -> tuple[Graph, dict | None]:
        name = self._text(data, "workflow", "The grid file")
        if not name:
            self.faults.append("The grid file names no workflow: add the field workflow with a file in the API's form.")
            return {}, None
        if not name.lower().endswith(".json") and (workflow := self.bundled(name)):
            return workflow
        graph = self._json(name)
        if isinstance(graph, dict) and isinstance(graph.get("nodes"), list):
            self.faults.append(
                f"{name} is in ComfyUI's own form. File > Export (API) writes the form that a grid needs."
            )
            return {}, None
        if graph is not None and not is_workflow(graph):
            self.faults.append(f"{name} is no workflow in the API's form. ComfyUI writes it by File > Export (API).")
            return {}, None
        interface = self._json(data["interface"]) if self._text(data, "interface", "The grid file") else None
        if interface is not None and not (isinstance(interface, dict) and isinstance(interface.get("nodes"), list)):
            self.faults.append(f"{data['interface']} is no workflow in ComfyUI's own form, which File > Export writes.")
        return graph or {}, interface

    def _json(self, name: str) -> object:
        text = self._try(values.read, self.folder, name)
        if text is None:
            return None
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            self.faults.append(f"{name} is no JSON: {error}.")
            return None

    def _axes(self, data: object) -> tuple[Axis, ...]:
        if isinstance(data, dict):
            items = [(str(name), axis) for name, axis in data.items()]
        elif isinstance(data, list):
            items = [("", axis) for axis in data]
        else:
            items = []
        if not items:
            self.faults.append("The grid file has no axes: add the field axes with at least one axis.")
        parsed = [self._axis(name, axis, number + 1) for number, (name, axis) in enumerate(items)]
        axes = [axis for axis in parsed if axis]
        keys = distinct([axis.title for axis in axes], [repr(axis.values) for axis in axes])
        return tuple(replace(axis, key=key) for axis, key in zip(axes, keys, strict=True))

    def _axis(self, name: str, data: object, number: int) -> Axis | None:
        """An axis of {name: axis} or of a list; short values stand for an axis, whose name is the input's address."""
        where, before = name or f"Axis {number}", len(self.faults)
        if not isinstance(data, dict) or (name and data.keys() & {*SOURCES} and "values" not in data):
            data = {"values": data}
        where = self._text(data, "title", where) or where
        self._known(data, AXIS_FIELDS, where)
        address = self._text(data, "input", where) or name
        place = None
        if self.graph and ("input" in data or not self._all_set(data.get("values"))):
            place = self._place(address, where) if address else self._missing_input(where)
        parsed = self._values(data.get("values"), place, where)
        if not parsed:
            if len(self.faults) == before:  # else its values have faults of their own
                self.faults.append(f"{where} has no values: add the field values.")
            return None
        if all(value.skip for value in parsed):
            self.faults.append(f"{where} skips all its values, so no cell is left.")
        return Axis(where, where, parsed, self._text(data, "description", where), self._default(data, parsed, where))

    def _missing_input(self, where: str) -> None:
        self.faults.append(f"{where} says no input: add the field input, such as KSampler.cfg.")

    @staticmethod
    def _all_set(items: object) -> bool:
        """Whether each value says by itself what it sets."""
        parts = [_unskipped(item)[0] for item in items] if isinstance(items, list) else [items]
        return all(
            isinstance(part, dict) and part.keys() & {"set", "replace"} and "value" not in part for part in parts
        )

    def _values(self, data: object, place: tuple[str, str] | None, where: str) -> tuple[Value, ...]:
        items: list = []
        if isinstance(data, dict):
            items = self._sourced(data, where)
        elif isinstance(data, list):
            for item in data:
                items += self._sourced(item, where) if isinstance(item, dict) and item.keys() & {*SOURCES} else [item]
        elif isinstance(data, str):
            items = self._try(values.short_list, data) or []
        elif data is not None:
            items = [data]
        parsed = [value for value in (self._value(item, place, where) for item in items) if value]
        contents = [repr(value.changes) for value in parsed]
        for (title, _), times in Counter((value.title, repr(value.changes)) for value in parsed).items():
            if times > 1:
                self.faults.append(f"{where} has the value {shown(title)} {times} times.")
        keys = distinct([value.title for value in parsed], contents)
        return tuple(replace(value, key=key) for value, key in zip(parsed, keys, strict=True))

    def _sourced(self, data: dict, where: str) -> list:
        """Values that files give; each a text, or a mapping with a title."""
        if len(data) != 1 or not data.keys() <= {*SOURCES}:
            self.faults.append(f"{where}: the field values takes a list, or one of {', '.join(SOURCES)}.")
            return []
        ((source, name),) = data.items()
        if not isinstance(name, str):
            self.faults.append(f"{where}: {source} takes the name of a file.")
            return []
        found = self._try(
            {"lines": values.lines, "wildcards": values.wildcards}.get(source, values.files), self.folder, name
        )
        if source == "files":
            return [{"title": title, "value": text} for title, text in found or []]
        return [{"value": text} for text in found or []]

    def _value(self, item: object, place: tuple[str, str] | None, where: str) -> Value | None:
        item, skip = _unskipped(item)
        before = len(self.faults)
        if not isinstance(item, dict):
            item = {"value": item}
        self._known(item, VALUE_FIELDS, f"A value of {where}")
        changes = self._set(item.get("set", {}), f"A value of {where}: set")
        changes += self._replace(item.get("replace", {}), f"A value of {where}: replace")
        value = item.get("value")
        if value is not None and not _is_scalar(value):
            self.faults.append(f"{where}: a value is {_kind(value)}. It is a text, a number, true or false.")
            return None
        if value is not None and place:
            changes = [self._change(place, value), *changes]
        if value is None and not changes:
            if self.graph and len(self.faults) == before:
                self.faults.append(f"{where}: a value is empty. Give a text, a number, or the field set.")
            return None
        if not isinstance(item.get("skip", False), bool):
            self.faults.append(f"A value of {where}: skip is true or false.")
        title = self._text(item, "title", f"A value of {where}") or _title(value, changes)
        return Value(
            title=title,
            key="",
            changes=tuple(changes),
            description=self._text(item, "description", f"A value of {where}"),
            skip=skip or item.get("skip") is True,
        )

    def _change(self, place: tuple[str, str], value: Scalar) -> Change:
        """The change that a value of a list stands for: find => replace in an input of text."""
        present = self.graph[place[0]]["inputs"].get(place[1])
        if isinstance(value, str) and isinstance(present, str) and (pair := values.replacement(value)):
            return Change(*place, pair[1], find=pair[0])
        return Change(*place, values.typed(value, present))

    def _set(self, data: object, where: str) -> list[Change]:
        """Changes of {address: value}."""
        changes = []
        for address, value in self._mapping(data, where):
            if not _is_scalar(value):
                self.faults.append(f"{where}: {address} is {_kind(value)}. It is a text, a number, true or false.")
            elif place := self._place(address, where):
                changes.append(Change(*place, values.typed(value, self.graph[place[0]]["inputs"].get(place[1]))))
        return changes

    def _replace(self, data: object, where: str) -> list[Change]:
        """Changes of {address: {find: replace}}."""
        changes = []
        for address, pairs in self._mapping(data, where):
            place = self._place(address, where)
            for find, by in self._mapping(pairs, f"{where}: {address}"):
                if not find or not _is_scalar(by):
                    self.faults.append(f"{where}: {address} takes texts to find and their replacements.")
                elif place:
                    changes.append(Change(*place, str(by), find=find))
        return changes

    def _default(self, data: dict, parsed: tuple[Value, ...], where: str) -> int:
        first = next((index for index, value in enumerate(parsed) if not value.skip), 0)
        if "default" not in data:
            return first
        index = value_index(parsed, str(data["default"]))
        if index is None:
            self.faults.append(unknown_value(where, parsed, str(data["default"])))
        return first if index is None else index

    def _view(self, data: object, axes: tuple[Axis, ...]) -> dict[str, int]:
        self._known(data if isinstance(data, dict) else {}, VIEW, "view")
        view = {}
        for place, name in self._mapping(data, "view"):
            index = axis_index(axes, str(name))
            if index is None:
                self.faults.append(f"view: {unknown_axis(axes, str(name))}")
            else:
                view[place] = index
        return view

    # Helpers

    def _with(self, graph: Graph, changes: list[Change]) -> Graph:
        graph = {key: {**node, "inputs": dict(node["inputs"])} for key, node in graph.items()}
        for change in changes:
            graph[change.node]["inputs"][change.input] = applied(change, graph[change.node])
        return graph

    def _place(self, address: str, where: str) -> tuple[str, str] | None:
        if not self.graph:
            return None
        try:
            return addresses.resolve(self.graph, address)
        except ValueError as error:
            self.faults.append(f"{where}: {error}" if where != address else str(error))
            return None

    def _mapping(self, data: object, where: str) -> Iterator[tuple[str, object]]:
        if not isinstance(data, dict):
            self.faults.append(f"{where} is {_kind(data)}. It has the form NAME: VALUE.")
            return
        yield from data.items()

    def _known(self, data: dict, fields: tuple[str, ...], where: str) -> None:
        for name in data:
            if name not in fields:
                self.faults.append(f"{where} has no field {name}.{nearest(name, fields)} It has {', '.join(fields)}.")

    def _text(self, data: dict, name: str, where: str) -> str:
        value = data.get(name)
        if value is None or _is_scalar(value):
            return "" if value is None else _word(value).strip()
        self.faults.append(f"{where}: {name} is {_kind(value)}. It is a text.")
        return ""

    def _try(self, function: Callable, *arguments: object) -> Any:
        try:
            return function(*arguments)
        except ValueError as error:
            self.faults.append(str(error))
            return None


def _unskipped(item: object) -> tuple[object, bool]:
    """A value without its mark `SKIP:`, which YAML reads as a mapping, and whether it had one."""
    if isinstance(item, str) and item.startswith(SKIP):
        return item.removeprefix(SKIP).strip(), True
    if isinstance(item, dict) and [*item] == [SKIP.rstrip(":")]:
        return item[SKIP.rstrip(":")], True
    return item, False


def is_workflow(graph: object) -> bool:
    """Whether data is a workflow in the API's form."""
    return (
        isinstance(graph, dict)
        and bool(graph)
        and all(
            isinstance(node, dict)
            and isinstance(node.get("class_type"), str)
            and isinstance(node.get("inputs"), dict)
            and isinstance(node.get("_meta", {}), dict)
            for node in graph.values()
        )
    )


def _is_scalar(value: object) -> bool:
    return isinstance(value, (str, bool, int)) or (isinstance(value, float) and math.isfinite(value))


def _kind(value: object) -> str:
    if isinstance(value, dict):
        return "a mapping"
    return "a list" if isinstance(value, list) else "nothing" if value is None else str(value)


def _title(value: Scalar | None, changes: list[Change]) -> str:
    text = _word(value) if value is not None else ", ".join(_word(change.value) for change in changes)
    return text if len(text) <= LONGEST_TITLE else f"{text[: LONGEST_TITLE - 3]}..."


def _word(value: Scalar) -> str:
    return json.dumps(value) if isinstance(value, bool) else str(value)
