"""Runs a grid: one prompt per cell, few in the queue, results saved at once, what is there left alone.

A cell that was queued when an earlier run was killed is taken over where the server still knows it. A cell that fails
keeps its error, and the next run tries it again.
"""

import contextlib
import errno
import math
import re
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from statistics import fmean
from typing import Protocol

from ..score import output
from . import addresses
from .addresses import Graph
from .check import Info
from .expand import Chosen, Grid, GridError, Index
from .folder import LOCK, Digests, Folder
from .interface import mirrored

WINDOWS = sys.platform == "win32"
if WINDOWS:
    import msvcrt
else:
    import fcntl

AHEAD = 2  # cells in the queue: the next one waits while one runs
INTERRUPTED = "The run was interrupted."
LONGEST_TEXT = 10_000  # letters of a text that a node shows, or of an error


class CellError(Exception):
    """A cell cannot be run, and others may; the text says why."""


class Lost(CellError):
    """The server no longer has a file that it has named."""


@dataclass(frozen=True)
class Outcome:
    """What came of a prompt.

    Attributes:
        outputs: {node id: {name: list of files, texts or scores}}.
        error: Why it failed, or nothing.
        seconds: How long it ran, where the server says so.
    """

    outputs: dict
    error: str = ""
    seconds: float | None = None


class Server(Protocol):
    """A ComfyUI that runs prompts. Errors that are no CellError end the run."""

    def queue(self, prompt_id: str, graph: Graph, workflow: dict | None) -> None:
        """Queues a prompt; `workflow` is what its pictures carry in ComfyUI's own form. May raise CellError."""

    def knows(self, prompt_id: str) -> bool:
        """Whether a prompt waits, runs or has run."""

    def finished(self, prompt_ids: list[str]) -> dict[str, Outcome]:
        """What came of those prompts that are over. Waits for one, a second at most."""

    def fetch(self, file: dict[str, str]) -> bytes:
        """The content of a file that a node has saved. May raise Lost."""

    def forget(self) -> None:
        """Has the server drop the results that it keeps, so that nodes run again and save files again."""

    def cancel(self, prompt_ids: list[str]) -> None:
        """Takes prompts out of the queue, and stops one that runs."""


@dataclass
class Progress:
    """Where a run stands: cells of the chosen part."""

    total: int
    done: int = 0
    failed: int = 0
    seconds_left: float | None = None
    running: bool = True

    @property
    def left(self) -> int:
        return self.total - self.done - self.failed


Report = Callable[[Progress, str], None]
"""Called with the progress, and with a sentence on a cell that failed."""


@dataclass(frozen=True)
class _Flight:
    """A cell in the server's queue."""

    cell: Index
    digest: str
    again: bool = False  # whether it runs for the second time since a file was lost


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Holds a folder of results.

    Raises:
        GridError: Another run holds it.
    """
    with (path / LOCK).open("ab") as lock:
        try:
            if WINDOWS:
                msvcrt.locking(lock.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                fcntl.flock(lock, fcntl.LOCK_NB | fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK):
                raise
            raise GridError(f"Another run is writing to {path}. Wait for its end, or stop it.") from None
        yield  # the lock ends with the file


class Runner:
    """A run of a grid or a part of it.

    Args:
        folder: Of the results.
        info: What the server says of its nodes.
        order: The axes, the one that changes least first.
        chosen: The part of the grid.
    """

    def __init__(
        self,
        grid: Grid,
        folder: Folder,
        server: Server,
        info: Info,
        order: tuple[int, ...],
        chosen: Chosen | None = None,
    ):
        self.grid, self.folder, self.server, self.info = grid, folder, server, info
        self.order, self.chosen = order, chosen
        self.digests = Digests(grid)
        self.progress = Progress(grid.size(chosen))
        self.flights: dict[str, _Flight] = {}  # prompt id -> cell
        self._failed: set[str] = set()  # digests
        self._shared: set[str] = set()  # digests of several cells that were done in this run
        self._twins: dict[str, int] = {}  # digest -> further cells with it, of those in the queue

    def missing(self) -> int:
        """How many cells are not there."""
        return sum(not self.folder.is_done(self.digests[cell]) for cell in self.grid.cells(chosen=self.chosen))

    def run(self, report: Report = lambda progress, sentence: None) -> Progress:
        """Runs the cells that are not there.

        Raises:
            Exception: As the server's methods, when it goes; or KeyboardInterrupt, which stops the cells, too.
        """
        self.report, self._start, self._ended = report, time.monotonic(), 0
        self.progress = Progress(self.progress.total, done=self.progress.total - self.missing())
        self.begin()
        self._write(now=True)
        self.folder.write_viewer()
        try:
            while self._fill():
                for prompt_id, outcome in self.server.finished(list(self.flights)).items():
                    self._end(self.flights.pop(prompt_id), outcome)
                    self._write()
                self.report(self.progress, "")
        except KeyboardInterrupt:
            self.server.cancel(list(self.flights))
            raise
        finally:
            self.progress.running = False
            self._write(now=True)
            self.folder.write_scores(self.grid, self.digests)
        return self.progress

    def begin(self) -> None:
        """Prepares for `take`."""
        self._cells = self.todo(self.chosen)

    def take(self) -> tuple[Index, str] | None:
        """The next cell to queue and its digest, or None as long as enough are in the queue and when none is left."""
        return next(self._cells, None) if len(self.flights) < AHEAD else None

    def todo(self, chosen: Chosen | None) -> Iterator[tuple[Index, str]]:
        """The cells of a part that are not there, and their digests."""
        for cell in self.grid.cells(self.order, chosen):
            digest = self.digests[cell]
            if not self.folder.is_done(digest):
                yield cell, digest
            elif digest in self._shared:
                self.progress.done += 1

    def _fill(self) -> bool:
        """Queues cells until enough are there; whether any is."""
        while item := self.take():
            cell, digest = item
            if digest in self._failed:
                self.progress.failed += 1
            elif any(flight.digest == digest for flight in self.flights.values()):
                self._twins[digest] = self._twins.get(digest, 0) + 1
            else:
                if not self._take_over(cell, digest):
                    self._queue(_Flight(cell, digest))
        return bool(self.flights)

    def _take_over(self, cell: Index, digest: str) -> bool:
        """Whether an earlier run has queued the cell and the server still knows it."""
        record = self.folder.record(digest)
        if record.get("status") != "queued" or not self.server.knows(record["prompt_id"]):
            return False
        self.flights[record["prompt_id"]] = _Flight(cell, digest)
        return True

    def _queue(self, flight: _Flight) -> None:
        graph, prompt_id = self.grid.workflow(flight.cell), str(uuid.uuid4())
        self.folder.add(flight.digest, "queued", prompt_id=prompt_id)
        self.flights[prompt_id] = flight  # before the server has it: an interrupt in between cancels it too
        try:
            self.server.queue(prompt_id, graph, self._interface(graph))
        except CellError as error:
            del self.flights[prompt_id]
            self._fail(flight, str(error), None)

    def _interface(self, graph: Graph) -> dict | None:
        grid = self.grid
        return mirrored(grid.interface, grid.original, graph, self.info, grid.places) if grid.interface else None

    def _end(self, flight: _Flight, outcome: Outcome) -> None:
        if outcome.error:
            self._fail(flight, outcome.error, outcome.seconds)
            return
        try:
            self._save(flight, outcome)
        except Lost as error:
            if flight.again:
                self._fail(flight, str(error), outcome.seconds)
            else:
                self.server.forget()
                self._queue(_Flight(flight.cell, flight.digest, again=True))
        except CellError as error:
            self._fail(flight, str(error), outcome.seconds)
        else:
            self._count(flight, "done")

    def _save(self, flight: _Flight, outcome: Outcome) -> None:
        files, texts = saved_files(outcome.outputs), saved_texts(outcome.outputs, self.grid.graph)
        scores = saved_scores(outcome.outputs, self.grid.graph)
        if not files and not texts and not scores:
            raise CellError("The workflow ran and saved nothing.")
        contents = ((suffix(file["filename"]), self.server.fetch(file)) for file in files)
        names = self.folder.put(self.grid.path(flight.cell, flight.digest), contents, len(files))
        more = ({"texts": texts} if texts else {}) | ({"scores": scores} if scores else {})
        self.folder.add(flight.digest, "done", files=names, seconds=outcome.seconds, **more)

    def _fail(self, flight: _Flight, error: str, seconds: float | None) -> None:
        self._failed.add(flight.digest)
        error = error[:LONGEST_TEXT]
        self.folder.add(flight.digest, "failed", error=error, seconds=seconds)
        self._count(flight, "failed")
        names = ", ".join(value.title for value in self.grid.values(flight.cell))
        self.report(self.progress, f"{names}: {error}")

    def _count(self, flight: _Flight, what: str) -> None:
        if flight.digest in self.digests.shared and what == "done":
            self._shared.add(flight.digest)
        cells = 1 + self._twins.pop(flight.digest, 0)
        setattr(self.progress, what, getattr(self.progress, what) + cells)
        self._ended += cells
        self.progress.seconds_left = (time.monotonic() - self._start) / self._ended * self.progress.left

    def _write(self, now: bool = False) -> None:
        self.folder.write_data(self.grid, self.digests, asdict(self.progress), now)


def outcome(entry: dict) -> Outcome:
    """What ComfyUI's history says of a prompt."""
    messages, graph = dict(entry["status"]["messages"]), entry["prompt"][2]
    times = [data["timestamp"] for data in messages.values() if "timestamp" in data]
    error = ""
    if failure := messages.get("execution_error"):
        key = failure["node_id"]
        name = addresses.name(graph, key) if key in graph else failure["node_type"]
        error = f"{name}: {failure['exception_message'].strip()}"
    elif "execution_interrupted" in messages:
        error = INTERRUPTED
    return Outcome(entry["outputs"], error, (max(times) - min(times)) / 1000 if times else None)


def saved_files(outputs: dict) -> list[dict[str, str]]:
    """The files that a prompt saved, {"filename", "subfolder", "type"}; its previews where it saved none."""
    files = [
        {name: str(file.get(name, "")) for name in ("filename", "subfolder", "type")}
        for node in outputs.values()
        for items in node.values()
        for file in (items if isinstance(items, list) else [])
        if isinstance(file, dict) and file.get("filename")
    ]
    return [file for file in files if file["type"] == "output"] or [file for file in files if file["type"] == "temp"]


def saved_texts(outputs: dict, graph: Graph) -> dict[str, str]:
    """{node: text} of the nodes that show text."""
    texts = {}
    for key, node in outputs.items():
        lines = node.get("text", [])
        lines = [line for line in (lines if isinstance(lines, list) else [lines]) if isinstance(line, str)]
        if lines:
            texts[addresses.name(graph, key) if key in graph else key] = "\n".join(lines)[:LONGEST_TEXT]
    return texts


def saved_scores(outputs: dict, graph: Graph) -> dict[str, float]:
    """{name: number} of the nodes that score; the mean where a node ran over a list.

    A name that several nodes give is "NODE: name" for each of them.
    """
    means = {}
    for key, node in outputs.items():
        items = node.get(output.NAME, [])
        items = [item for item in (items if isinstance(items, list) else []) if isinstance(item, dict)]
        for name in dict.fromkeys(name for item in items for name in item):
            if numbers := [item[name] for item in items if _is_number(item.get(name))]:
                means[key, name] = fmean(numbers)
    times = Counter(name for _, name in means)
    return {
        name if times[name] == 1 else f"{addresses.name(graph, key) if key in graph else key}: {name}": mean
        for (key, name), mean in means.items()
    }


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def suffix(filename: str) -> str:
    """The ending of a file, where it is one."""
    ending = PurePosixPath(filename).suffix
    return ending.lower() if re.fullmatch(r"\.[A-Za-z0-9]{1,10}", ending) else ".bin"
