"""The node Infinite Grid: checks, runs and shows the grid of the graph that the node stands in.

    POST /pentimento/grid/check    what is wrong with a grid, or how many cells it has and what they cost
    POST /pentimento/grid/run      runs the cells that are not there yet; the state of the run
    POST /pentimento/grid/pause    {"key"}: ends the run after the cell that runs; its state
    GET  /pentimento/grid?key=...  the state of a node's last run, {} where there was none
    GET  /pentimento/grid/view/... a file of a grid's folder, such as the page with the results

The body of check and run is JSON: {"key": a name of the node, "name": of the workflow, "text": of the grid, "prompt":
the graph in the API's form, "workflow": the same in ComfyUI's own, "places": where it holds the graph's values, and
"untitled": nodes without a title, both as in web/lib/grid_inputs.js}, and {"quick": true} asks check for the count
alone. An answer is {"error": a sentence} or {"faults": sentences}; or what check or `Run.described` say.

Files of values are read from ComfyUI's input folder. Everything is written below its output folder: into the folder
that the field `out` names, else into one of grids/ that the node keeps for as long as its results lie there. A folder
with files that are not this grid's is refused.
"""

import asyncio
import json
import mimetypes
import statistics
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import folder_paths

from ..model_patchers.grid import check, parse, values
from ..model_patchers.grid.addresses import Graph
from ..model_patchers.grid.expand import Grid, GridError
from ..model_patchers.grid.folder import CELLS, MARKER, VIEWER, Folder, owner_of
from ..model_patchers.grid.interface import Place, Places
from ..model_patchers.grid.paths import key as file_name
from ..model_patchers.grid.run import Runner
from ..model_patchers.grid.text import fields as read_fields
from .grid_runs import Runs, handler
from .live import read_body, reading, text
from .refused import Refused

ROUTE = "/pentimento/grid"
NODE = "PentimentoGrid"
GRIDS = "grids"  # the folder in ComfyUI's output folder
LIMIT = 16 << 20  # bytes of a request: a workflow may hold pictures
OTHER = "application/octet-stream"
LONGEST_NAME = 200  # letters
PAGE = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}  # on Windows programs change these types
DRAWN = ("image/", "video/", "audio/")  # what a page of results may show; SVG, which may hold scripts, comes as a file


@dataclass(frozen=True)
class Request:
    """A checked request.

    Attributes:
        key: Names the node of the graph whose grid it is.
        name: Of the workflow.
        text: Of the grid, not checked.
        graph: Without the nodes Infinite Grid.
        interface: The workflow in ComfyUI's own form.
        places: Where it holds the graph's values.
        untitled: The nodes that are called by their class's name in the front end's language.
    """

    key: str
    name: str
    text: str
    graph: Graph
    interface: dict | None
    places: Places
    untitled: frozenset[str] = frozenset()
    quick: bool = False


def read_key(fields: dict) -> str:
    """The name of a node in a request.

    Raises:
        ValueError: There is none, or it is too long.
    """
    key = text(fields["key"])
    if not 0 < len(key) <= LONGEST_NAME:
        raise ValueError
    return key


def read_request(body: bytes) -> Request:
    """The request in a body, checked. No file is opened.

    Raises:
        Refused: The body is malformed, or the graph is empty.
    """
    with reading("key, name, text, prompt and workflow"):
        fields = json.loads(body)
        graph, interface, quick = fields["prompt"], fields.get("workflow"), fields.get("quick", False)
        grid, name = text(fields["text"]), text(fields["name"])[:LONGEST_NAME]
        key = read_key(fields)
        if interface is not None and not isinstance(interface["nodes"], list):
            raise TypeError
        graph = {node_id: node for node_id, node in graph.items() if node["class_type"] != NODE}
        if graph and not parse.is_workflow(graph):
            raise TypeError
        untitled = frozenset(map(text, fields.get("untitled", [])))
        places = {node: dict(map(_place, inputs.items())) for node, inputs in fields.get("places", {}).items()}
    if not graph:
        raise Refused(400, "The graph has no node beside the grid. Add the workflow that the grid is to run.")
    return Request(key, name, grid, graph, interface, places, untitled, bool(quick))


def _place(entry: tuple[str, list]) -> tuple[str, Place]:
    name, (subgraph, node, index) = entry
    if type(index) is not int:
        raise TypeError
    return name, (text(subgraph), text(node), index)


def read_grid(request: Request) -> tuple[Grid, list[str]]:
    """The grid of a request, and a sentence on each fault; `grid.out` is what the field `out` says.

    Raises:
        GridError: The text is no YAML and no JSON.
    """
    fields = read_fields(request.text)
    faults = [
        f"A grid in a graph runs this graph: remove the field {name}."
        for name in ("workflow", "interface")
        if name in fields
    ]
    fields = {"title": request.name or "Grid", **fields, "workflow": "graph", "interface": None}
    sources = Path(folder_paths.get_input_directory())
    grid, more = parse.build(fields, sources, lambda name: (request.graph, request.interface))
    if more:  # the text may have been written where the front end spoke English
        english, none = parse.build(fields, sources, lambda name: (in_english(request), request.interface))
        grid, more = (titled_as(request.graph, english), none) if not none else (grid, more)
    return replace(grid, places=request.places), [*faults, *more]


def in_english(request: Request) -> Graph:
    """The graph with the English names of those nodes that have no title."""
    from nodes import NODE_DISPLAY_NAME_MAPPINGS as NAMES

    return {
        key: {**node, "_meta": {"title": NAMES.get(node["class_type"])}} if key in request.untitled else node
        for key, node in request.graph.items()
    }


def titled_as(graph: Graph, grid: Grid) -> Grid:
    """The grid with the titles of `graph`."""
    titled = [
        {key: {**node, "_meta": graph[key].get("_meta", {})} for key, node in part.items()}
        for part in (grid.graph, grid.original)
    ]
    return replace(grid, graph=titled[0], original=titled[1])


def results(output: Path, grid: Grid, key: str) -> Path:
    """The folder of a grid's results.

    Raises:
        GridError: The field `out` leads out of ComfyUI's output folder.
    """
    if grid.out:
        try:
            path = values.inside(output, grid.out)
        except ValueError as error:
            raise GridError(f"out: {error}") from error
        if path == output:
            raise GridError(f"out: {grid.out} is ComfyUI's output folder itself. Name a folder below it.")
        return path
    grids = output / GRIDS
    folders = sorted(grids.iterdir()) if grids.is_dir() else []
    own = next((folder for folder in folders if owner_of(folder) == key), None)
    return own or grids / _free(file_name(grid.title), {folder.name.casefold() for folder in folders})


def _free(name: str, used: set[str]) -> str:
    number = 1
    while (numbered := name if number == 1 else f"{name} {number}").casefold() in used:
        number += 1
    return numbered


class Answers:
    """Answers requests.

    Args:
        server: ComfyUI's PromptServer.
    """

    def __init__(self, server: Any):
        self._server, self.runs = server, Runs(server)

    async def _info(self, request: Any) -> check.Info:
        response = await handler(self._server, "GET", "/object_info")(request)
        return await asyncio.to_thread(json.loads, response.text)

    async def post_check(self, body: bytes, request: Any) -> dict:
        """What is wrong with a grid, or its count and cost."""
        return await self._with_grid(body, request, self._estimate)

    async def post_run(self, body: bytes, request: Any) -> dict:
        """Starts a run."""
        return await self._with_grid(body, request, self._start)

    async def post_pause(self, body: bytes, request: Any) -> dict:
        """Ends a run after the cell that runs."""
        with reading("key"):
            key = read_key(json.loads(body))
        return self.runs.pause(key)

    async def _with_grid(self, body: bytes, request: Any, work: Callable) -> dict:
        asked = await asyncio.to_thread(read_request, body)
        info = {} if asked.quick else await self._info(request)
        try:
            return await asyncio.to_thread(self._whole, asked, info, work)
        except GridError as error:
            return {"faults": str(error).splitlines()}

    def _whole(self, asked: Request, info: check.Info, work: Callable) -> dict:
        grid, faults = read_grid(asked)
        faults += check.faults(grid, info) if not asked.quick else []
        if faults:
            return {"faults": list(dict.fromkeys(faults))}
        path = results(self.runs.output, grid, asked.key)
        if asked.quick:
            return {"cells": grid.size(), "axes": _axes(grid), "inputs": _inputs(grid), **self._place(path)}
        return work(asked, grid, info, path)

    def _start(self, asked: Request, grid: Grid, info: check.Info, path: Path) -> dict:
        return self.runs.start(asked.key, grid, path, info)

    def _estimate(self, asked: Request, grid: Grid, info: check.Info, path: Path) -> dict:
        order = check.order(grid, info)
        cost = check.cost(grid, info, order)
        folder = Folder(path) if (path / MARKER).is_file() else None
        seconds = folder.seconds() if folder else []
        return {
            **asdict(cost),
            "nodes": len(grid.graph) * cost.cells,
            "missing": Runner(grid, folder, None, info, order).missing() if folder else cost.cells,
            "axes": [_axes(grid)[axis] for axis in order],
            "inputs": _inputs(grid),
            "seconds": statistics.median(seconds) if seconds else None,
            **self._place(path),
        }

    def _place(self, path: Path) -> dict:
        """A folder as named from ComfyUI's output folder, and whether the page with results is in it."""
        return {"folder": path.relative_to(self.runs.output).as_posix(), "page": (path / VIEWER.name).is_file()}

    def file(self, name: str) -> tuple[Path, str]:
        """A file of a grid's folder, and its type; of a type that a browser would run as a page only the page itself.

        Raises:
            Refused: There is none.
        """
        try:
            path = values.inside(self.runs.output, name)
        except ValueError:
            raise Refused(403, "The path leads out of ComfyUI's output folder.") from None
        folders = [folder for folder in path.parents if folder.is_relative_to(self.runs.output)]
        folder = next((folder for folder in folders if (folder / MARKER).is_file()), None)
        if folder is None or not path.is_file():
            raise Refused(404, "There is no such file of a grid.")
        kind = mimetypes.guess_type(path.name)[0] or OTHER
        if path.relative_to(folder).parts[0] != CELLS:
            return path, PAGE.get(path.suffix, kind)
        return path, kind if kind.startswith(DRAWN) and "svg" not in kind else OTHER


def _axes(grid: Grid) -> list[dict]:
    return [{"title": axis.title, "count": len(axis.used)} for axis in grid.axes]


def _inputs(grid: Grid) -> list[str]:
    """The inputs that the axes set, each as the number of its node, a dot and its name."""
    changes = (change for axis in grid.axes for value in axis.values for change in value.changes)
    return sorted({f"{change.node}.{change.input}" for change in changes})


def same_origin(headers: Any) -> bool:
    """Whether a request comes from ComfyUI's own page, or from no page.

    ComfyUI itself refuses other pages, unless --enable-cors-header lets them in. Browsers leave Sec-Fetch-Site out
    where the page came without TLS from another machine.
    """
    if site := headers.get("Sec-Fetch-Site"):
        return site == "same-origin"
    origin = headers.get("Origin")
    return origin is None or urlsplit(origin).netloc.lower() == headers.get("Host", "").lower()


def add_route() -> None:
    """Adds the routes to ComfyUI's server, if it runs."""
    from aiohttp import web
    from server import PromptServer

    server = getattr(PromptServer, "instance", None)
    if server is None:  # ComfyUI's nodes are used without its server
        return
    answers = Answers(server)

    def post(path: str, answer: Callable[[bytes, Any], Awaitable[dict]]) -> None:
        @server.routes.post(f"{ROUTE}/{path}")
        async def post_(request: web.Request) -> web.Response:
            try:
                if not same_origin(request.headers) or request.content_type != "application/json":
                    raise Refused(403, "Only ComfyUI's own page may ask for this, and by JSON.")
                return web.json_response(await answer(await read_body(request, LIMIT), request))
            except Refused as refused:
                return web.json_response({"error": str(refused)}, status=refused.status)

    for path in ("check", "run", "pause"):
        post(path, getattr(answers, f"post_{path}"))

    @server.routes.get(ROUTE)
    async def get(request: web.Request) -> web.Response:
        return web.json_response(answers.runs.state(request.query.get("key", "")))

    @server.routes.get(ROUTE + "/view/{name:.+}")
    async def view(request: web.Request) -> web.StreamResponse:
        try:
            path, kind = await asyncio.to_thread(answers.file, request.match_info["name"])
        except Refused as refused:
            return web.json_response({"error": str(refused)}, status=refused.status)
        # a picture may be made again under its name, and the data change as the grid runs
        headers = {"Content-Type": kind, "Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff"}
        return web.FileResponse(path, headers=headers)
