"""`python3 host grid`: checks and runs grid files on a ComfyUI, here or elsewhere, and opens the results."""

import argparse
import contextlib
import json
import shutil
import statistics
import sys
import time
import webbrowser
from collections.abc import Callable, Iterator
from pathlib import Path

from . import client
from .client import Graph
from .environment import PACK, HostError
from .load_package import load_package

load_package("pentimento_model_patchers", PACK / "model_patchers")

from pentimento_model_patchers.grid import check, parse  # noqa: E402
from pentimento_model_patchers.grid.expand import Chosen, Grid, GridError, part  # noqa: E402
from pentimento_model_patchers.grid.folder import MARKER, VIEWER, Folder, claim  # noqa: E402
from pentimento_model_patchers.grid.run import CellError, Lost, Outcome, Progress, Runner, alone, outcome  # noqa: E402

WAIT = 1.0  # seconds until a look whether all cells are still in the queue
SELDOM = 10.0  # seconds between two lines of progress where nobody sees a line change


class Remote:
    """A ComfyUI at an address, as `Runner` wants one.

    Args:
        client_id: The same in each run of a grid, so that ComfyUI tells this run of cells that an earlier one queued.
    """

    def __init__(self, server: str, client_id: str):
        self._server, self._client_id = server, client_id
        self._over: dict[str, dict] = {}  # prompt id -> what the history says, of prompts that were taken over
        try:
            self._events = client.Events(server, client_id)
        except OSError as error:
            raise client.Gone(f"ComfyUI opens no websocket at {server}: {error}.") from error

    def __enter__(self) -> "Remote":
        return self

    def __exit__(self, *error: object) -> None:
        self._events.__exit__(*error)

    def queue(self, prompt_id: str, graph: Graph, workflow: dict | None) -> None:
        """As `Server`. The number, by which ComfyUI sorts its queue, puts what the user queues before the cells."""
        extra = {"extra_pnginfo": {"workflow": workflow}} if workflow else {}
        with self._refusals(CellError):
            client.queue(self._server, graph, self._client_id, prompt_id, number=time.time(), extra_data=extra)

    def knows(self, prompt_id: str) -> bool:
        """As `Server`."""
        if entry := self._history(prompt_id):
            self._over[prompt_id] = entry
        return bool(entry) or prompt_id in self._queued()

    def finished(self, prompt_ids: list[str]) -> dict[str, Outcome]:
        """As `Server`.

        Raises:
            GridError: Somebody took a cell out of the queue.
            Gone: The connection ended.
        """
        if over := {key: outcome(self._over.pop(key)) for key in prompt_ids if key in self._over}:
            return over
        end = time.monotonic() + WAIT
        while time.monotonic() < end:
            try:
                event = self._events.next()
            except OSError as error:
                raise client.Gone(f"The connection to ComfyUI at {self._server} ended: {error}.") from error
            data = event["data"] if event else {}
            if event and event["type"] == "executing" and data["node"] is None and data["prompt_id"] in prompt_ids:
                return {data["prompt_id"]: outcome(self._history(data["prompt_id"]))}
        return self._look(prompt_ids)

    def _look(self, prompt_ids: list[str]) -> dict[str, Outcome]:
        """Asks for each prompt, since an event may have gone to another connection."""
        queued = self._queued()
        entries = {key: self._history(key) for key in prompt_ids if key not in queued}
        if not all(entries.values()):
            raise GridError("A cell was taken out of ComfyUI's queue, so the grid stops.")
        return {key: outcome(entry) for key, entry in entries.items()}

    def fetch(self, file: dict[str, str]) -> bytes:
        """As `Server`."""
        with self._refusals(Lost):
            return client.get(self._server, "view", **file)

    def forget(self) -> None:
        """As `Server`."""
        client.post(self._server, "free", {"free_memory": True})

    def cancel(self, prompt_ids: list[str]) -> None:
        """As `Server`. The last one first, else it would start when the one before it stops."""
        for prompt_id in reversed(prompt_ids):
            client.cancel(self._server, prompt_id)

    def _history(self, prompt_id: str) -> dict:
        return json.loads(client.get(self._server, f"history/{prompt_id}")).get(prompt_id, {})

    def _queued(self) -> set[str]:
        queue = json.loads(client.get(self._server, "queue"))
        return {item[1] for items in (queue["queue_running"], queue["queue_pending"]) for item in items}

    @contextlib.contextmanager
    def _refusals(self, kind: type[CellError]) -> Iterator[None]:
        try:
            yield
        except client.Gone:
            raise
        except client.RunError as error:
            raise kind(str(error)) from error


# The command


def library(name: str) -> tuple[Graph, dict | None] | None:
    """A bundled workflow by its name."""
    if name not in client.names():
        return None
    folder = PACK / "workflows"
    interface = folder / f"{name}.json"
    graph = json.loads((folder / "api" / f"{name}.json").read_text(encoding="utf-8"))
    return graph, json.loads(interface.read_text(encoding="utf-8")) if interface.is_file() else None


def command(options: argparse.Namespace) -> int:
    """Runs `python3 host grid`; the exit status: 0 where all is well, else 1, and 130 after Ctrl-C."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # a Windows console may lack the letters of a title
    try:
        return {"check": check_grid, "run": run_grid, "view": view_grid}[options.action](options)
    except (GridError, client.RunError) as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:  # of a file here: those of the server are RunErrors
        print(f"{error.filename or 'A file'}: {error.strerror}. The same command goes on.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted. The same command goes on.", file=sys.stderr)
        return 130


def load(options: argparse.Namespace, info: dict) -> tuple[Grid, Chosen, Path]:
    """The grid of a file, the part that is asked for, and the results' folder.

    Args:
        info: What the server says of its nodes.

    Raises:
        GridError: With a sentence on each fault.
        HostError: There is no such file.
    """
    from . import own_form

    grid, faults, path = read(options.file, lambda workflow: own_form.to_api(workflow, info))
    faults += check.faults(grid, info)
    try:
        chosen = part(grid, options.only)
    except GridError as error:
        faults += str(error).splitlines()
    if faults:
        raise GridError("\n".join(faults))
    return grid, chosen, path


def address(options: argparse.Namespace) -> str:
    """The address of the one ComfyUI that is to be used.

    Raises:
        HostError: Several are named.
    """
    if len(options.server) > 1:
        raise HostError("Several ComfyUIs run a grid with Ray alone: add --ray after the file.")
    return client.address(options.server[0] if options.server else client.SERVER)


def nodes(server: str) -> dict:
    """What a server says of its nodes."""
    return json.loads(client.get(server, "object_info"))


def read(name: str, convert: parse.Convert = lambda workflow: {}) -> tuple[Grid, list[str], Path]:
    """The grid of a file, what is wrong with the file, and the results' folder.

    Args:
        convert: Of a workflow in ComfyUI's own form, for which a server has to be asked. Without it the axes are not
            compared with such a workflow.

    Raises:
        HostError: There is no such file.
    """
    file = Path(name).expanduser().resolve()
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise HostError(f"{name} is no text in UTF-8.") from error
    except OSError as error:
        raise HostError(f"{name} cannot be read: {error.strerror}.") from error
    grid, faults = parse.read(text, file.parent, library, file.stem, convert)
    return grid, faults, file.parent / grid.out


def check_grid(options: argparse.Namespace) -> int:
    """Says what is wrong with a grid, or how many cells it has and what they cost; the exit status."""
    info = nodes(address(options))
    grid, chosen, path = load(options, info)
    folder = Folder(path) if (path / MARKER).is_file() else None
    print("\n".join(estimate(grid, info, chosen, folder)))
    print(f"The results go to {path}.")
    return 0


def estimate(grid: Grid, info: dict, chosen: Chosen, folder: Folder | None) -> Iterator[str]:
    """Lines on the count of cells and their cost."""
    order = check.order(grid, info)
    cost = check.cost(grid, info, order, chosen)
    counts = [f"{grid.axes[axis].title}: {len(chosen.get(axis, grid.axes[axis].used))}" for axis in order]
    yield f"{grid.title}: {_count(cost.cells, 'cell')} ({', '.join(counts)}; the last axis changes first)."
    missing = Runner(grid, folder, None, info, order, chosen).missing() if folder else cost.cells
    if missing < cost.cells:
        yield f"{cost.cells - missing} of them are there, and {missing} are left."
    nodes = len(grid.graph) * cost.cells
    yield f"All cells together run {cost.runs} of {_count(nodes, 'node')}: ComfyUI keeps what does not change."
    if cost.loads:
        loads = (f"{name} {_count(times, 'time')}" for name, times in cost.loads.items())
        yield f"Models are loaded by {', '.join(loads)}."
    seconds = folder.seconds() if folder else []
    if seconds and missing:
        median = statistics.median(seconds)
        basis = f"{median:.1f} s a cell as in {_count(len(seconds), 'cell')}"
        yield f"Those that are left take about {duration(missing * median)}, {basis}."
    elif missing:
        yield "No cell has run yet, so the time is not known."


def run_grid(options: argparse.Namespace) -> int:
    """Runs a grid; the exit status."""
    show = Line()
    if not options.ray:
        server = address(options)
        return _run(options, nodes(server), lambda folder: Remote(server, folder.id), Runner, show)
    from . import grid_ray

    _, faults, _ = read(options.file)
    if faults:  # said before a cluster starts
        raise GridError("\n".join(faults))
    servers = [client.address(server) for server in options.server]
    with grid_ray.Cluster(options.ray, servers, options.comfyui, show.say) as cluster:
        return _run(options, cluster.info, lambda folder: contextlib.nullcontext(cluster), grid_ray.Spread, show)


def _run(
    options: argparse.Namespace,
    info: dict,
    opened: Callable[[Folder], contextlib.AbstractContextManager],
    kind: type[Runner],
    show: "Line",
) -> int:
    """Runs a grid.

    Args:
        info: What the server says of its nodes.
        opened: Gives the server for a folder of results.
        kind: Of runner.
    """
    grid, chosen, path = load(options, info)
    claim(path)
    with alone(path):
        folder = Folder(path)
        with opened(folder) as server:
            runner = kind(grid, folder, server, info, check.order(grid, info), chosen)
            try:
                progress = runner.run(show)
            except (GridError, client.Gone) as error:
                raise type(error)(f"{error} {_done(runner.progress)} The same command goes on.") from error
            finally:
                show.clear()
    print(f"{grid.title}: {_done(progress)} The results are in {path}.")
    if progress.failed:
        print("The same command tries those that failed again.")
    return 1 if progress.failed else 0


def view_grid(options: argparse.Namespace) -> int:
    """Opens the page with the results; the exit status."""
    _, faults, path = read(options.file)
    if faults:
        raise GridError("\n".join(faults))
    page = path / VIEWER.name
    if not (path / MARKER).is_file() or not page.is_file():
        raise GridError(f"No cell has run yet: {path} holds no results. python3 host grid run makes them.")
    print(page)
    webbrowser.open(page.as_uri())
    return 0


class Line:
    """A line on how far a run is, and one for each cell that failed."""

    def __init__(self) -> None:
        self._seen, self._next = sys.stderr.isatty(), 0.0

    def __call__(self, progress: Progress, sentence: str) -> None:
        if sentence:
            self.say(f"Failed: {sentence}")
        if self._seen:
            width = shutil.get_terminal_size().columns - 1
            print(f"\r{_state(progress)[:width]:{width}}", end="", file=sys.stderr, flush=True)
        elif time.monotonic() >= self._next:
            self._next = time.monotonic() + SELDOM
            print(_state(progress), file=sys.stderr, flush=True)

    def say(self, sentence: str) -> None:
        """Writes a sentence above the line."""
        self.clear()
        print(sentence, file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Takes the line away."""
        if self._seen:
            print(f"\r{'':{shutil.get_terminal_size().columns - 1}}\r", end="", file=sys.stderr, flush=True)


def _state(progress: Progress) -> str:
    failed = f", {progress.failed} failed" if progress.failed else ""
    left = "" if progress.seconds_left is None else f", {duration(progress.seconds_left)} left"
    return f"{progress.done} of {_count(progress.total, 'cell')}{failed}{left}"


def _done(progress: Progress) -> str:
    failed = f", {progress.failed} failed" if progress.failed else ""
    left = f", {progress.left} left" if progress.left else ""
    return f"{progress.done} of {_count(progress.total, 'cell')} done{failed}{left}."


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def duration(seconds: float) -> str:
    """A time in words."""
    if seconds < 90:
        return f"{round(seconds)} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
