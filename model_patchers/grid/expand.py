"""A grid: axes with values over a workflow, and the cells that they span. Pure Python.

A cell is known by its workflow: two cells whose nodes and inputs are equal have the same digest. So a cell stays what
it is when axes or values are added, renamed or moved.
"""

import hashlib
import itertools
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from .addresses import Graph, nearest
from .paths import cell_path
from .values import Scalar


class GridError(Exception):
    """A grid file that cannot be used; the text holds a sentence on each fault, one a line."""


@dataclass(frozen=True)
class Change:
    """One input of a node is set; or, where `find` is not None, `value` takes the place of `find` in its text."""

    node: str
    input: str
    value: Scalar
    find: str | None = None


@dataclass(frozen=True)
class Value:
    """A value of an axis.

    Attributes:
        key: Names it in paths and in the viewer's address; unique in its axis.
        skip: Whether no cell has it.
    """

    title: str
    key: str
    changes: tuple[Change, ...]
    description: str = ""
    skip: bool = False


@dataclass(frozen=True)
class Axis:
    """An axis with its values.

    Attributes:
        default: Index of the value that stands where other axes alone vary.
    """

    title: str
    key: str
    values: tuple[Value, ...]
    description: str = ""
    default: int = 0

    @property
    def used(self) -> tuple[int, ...]:
        """The indices of the values that are not skipped."""
        return tuple(index for index, value in enumerate(self.values) if not value.skip)


Index = tuple[int, ...]
"""A cell: the index of its value on each axis, in the file's order."""

Chosen = dict[int, set[int]]
"""A part of a grid: {axis: values}; an axis that is not in it has all its values."""


@dataclass(frozen=True)
class Grid:
    """What a grid file says.

    Attributes:
        graph: The workflow with the file's `set`.
        original: The workflow as it was read; `interface` is the same in ComfyUI's own form, or None.
        places: Where `interface` holds the values of `original`, as `interface.Places`, where the front end says so.
        out: The folder of the results, as named from the file's folder.
        view: {"x" | "y" | "super_x" | "super_y": index of the axis that the viewer shows there at first}.
    """

    title: str
    graph: Graph
    axes: tuple[Axis, ...]
    description: str = ""
    out: str = ""
    original: Graph = field(default_factory=dict)
    interface: dict | None = None
    places: dict = field(default_factory=dict)
    view: dict[str, int] = field(default_factory=dict)

    def size(self, chosen: Chosen | None = None) -> int:
        """How many cells there are."""
        return math.prod(len(values) for values in self._values(chosen))

    def cells(self, order: tuple[int, ...] | None = None, chosen: Chosen | None = None) -> Iterator[Index]:
        """All cells, one after the other; none is held.

        Args:
            order: The axes, the one that changes least first; the file's order where it is None.
            chosen: The part of the grid.
        """
        order = tuple(range(len(self.axes))) if order is None else order
        values = self._values(chosen)
        places = [order.index(axis) for axis in range(len(self.axes))]
        for combination in itertools.product(*(values[axis] for axis in order)):
            yield tuple(combination[place] for place in places)

    def _values(self, chosen: Chosen | None) -> list[list[int]]:
        chosen = chosen or {}
        return [
            [index for index in axis.used if number not in chosen or index in chosen[number]]
            for number, axis in enumerate(self.axes)
        ]

    def values(self, cell: Index) -> list[Value]:
        """A cell's value on each axis."""
        return [axis.values[index] for axis, index in zip(self.axes, cell, strict=True)]

    def workflow(self, cell: Index) -> Graph:
        """A cell's workflow. Nodes that no value touches are those of `graph` itself: do not write to them."""
        graph = dict(self.graph)
        for value in self.values(cell):
            for change in value.changes:
                node = graph[change.node]
                graph[change.node] = {**node, "inputs": {**node["inputs"], change.input: applied(change, node)}}
        return graph

    def number(self, cell: Index) -> int:
        """The cell's place when all values count, the skipped ones too, and the last axis changes first."""
        place = 0
        for axis, index in zip(self.axes, cell, strict=True):
            place = place * len(axis.values) + index
        return place

    def path(self, cell: Index, digest: str) -> str:
        """The path of the cell's files below the results' folder, without suffix."""
        return cell_path([value.key for value in self.values(cell)], digest)


def applied(change: Change, node: dict) -> Scalar:
    """What an input holds after a change."""
    if change.find is None:
        return change.value
    return str(node["inputs"].get(change.input, "")).replace(change.find, str(change.value))


def digest(graph: Graph) -> str:
    """What tells workflows apart: classes and inputs, not titles. 8 and 8.0 are the same number."""
    plain = {key: [node["class_type"], _plain(node["inputs"])] for key, node in graph.items()}
    return hashlib.sha256(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:32]


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


# Parts of a grid


def axis_index(axes: tuple[Axis, ...], name: str) -> int | None:
    """The axis that a user names by its title or key."""
    return next((index for index, axis in enumerate(axes) if name in (axis.title, axis.key)), None)


def value_index(items: tuple[Value, ...], name: str) -> int | None:
    """The value that a user names by its key or title."""
    by_key = next((index for index, value in enumerate(items) if name == value.key), None)
    return next((index for index, value in enumerate(items) if name == value.title), by_key)


def shown(text: str) -> str:
    """A text, or its beginning, for a sentence."""
    return text if len(text) <= 60 else f"{text[:57]}..."


def unknown_axis(axes: tuple[Axis, ...], name: str) -> str:
    """A sentence on an axis that is not there."""
    titles = [axis.title for axis in axes]
    return f"There is no axis {name}.{nearest(name, titles)} There are {', '.join(titles)}."


def unknown_value(where: str, items: tuple[Value, ...], name: str) -> str:
    """A sentence on a value that is not there."""
    titles = [value.title for value in items]
    there = ", ".join(map(shown, titles[:20])) + (", ..." if len(titles) > 20 else "")
    return f"{where} has no value {name}.{nearest(name, titles)} There are {there}."


def part(grid: Grid, only: list[str]) -> Chosen:
    """The part of a grid that `AXIS=VALUE` and `AXIS` choose, as a user writes them.

    AXIS=VALUE keeps one value of the axis, and several such keep several. AXIS alone varies this axis, with the default
    values of all others that are not named.

    Raises:
        GridError: There is no such axis or value, or the value is skipped.
    """
    chosen: Chosen = {}
    varied, faults = set(), []
    for text in only:
        title = max(
            (a.title for a in grid.axes if text == a.title or text.startswith(f"{a.title}=")), key=len, default=""
        )
        head, equals, name = (
            (title, text[len(title) : len(title) + 1], text[len(title) + 1 :]) if title else text.partition("=")
        )
        number = axis_index(grid.axes, head)
        if number is None:
            faults.append(unknown_axis(grid.axes, head))
        elif not equals:
            varied.add(number)
        elif (index := value_index(grid.axes[number].values, name)) is None:
            faults.append(unknown_value(head, grid.axes[number].values, name))
        elif index not in grid.axes[number].used:
            faults.append(f"{head}: the file skips the value {name}.")
        else:
            chosen.setdefault(number, set()).add(index)
    if faults:
        raise GridError("\n".join(faults))
    if varied:
        for number, axis in enumerate(grid.axes):
            if number not in varied:
                chosen.setdefault(number, {axis.default})
    return chosen
