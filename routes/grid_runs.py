"""Grids that run in ComfyUI's own server, one after the other, each in a thread.

A cell is queued by ComfyUI's own handler of POST /prompt, called in this process: so a cell goes the way of a prompt
that a browser sends, and neither the server's address nor TLS, a proxy or a login stands between.
"""

import asyncio
import json
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import folder_paths

from ..model_patchers.grid import addresses, check, values
from ..model_patchers.grid.addresses import Graph
from ..model_patchers.grid.expand import Grid, GridError
from ..model_patchers.grid.folder import Folder, claim
from ..model_patchers.grid.run import CellError, Lost, Outcome, Progress, Runner, alone, outcome

EVENT = "pentimento.grid"  # of ComfyUI's websocket, with the state of a run
LOOK = 0.02  # seconds between two looks at ComfyUI's queue, which tells nobody of a prompt's end
WAIT = 1.0  # seconds after which a look for an end gives up
OFTEN = 0.25  # seconds between two events on a run's progress
SENTENCES = 20  # on failed cells that are kept, the last ones
LONGEST_SENTENCE = 500  # letters; the page of the results has whole errors
ENDED = ("done", "paused", "stopped")


class Paused(Exception):
    """The user has paused the run, and no cell of it runs any longer."""


@dataclass(frozen=True)
class Request:
    """What ComfyUI's handlers of routes read of a request."""

    body: dict
    headers: dict = field(default_factory=dict)

    async def json(self) -> dict:
        return json.loads(json.dumps(self.body))  # as over the wire: the handlers may write to it


def handler(server: Any, method: str, path: str) -> Callable:
    """The function by which ComfyUI's server answers one of its own routes."""
    own = (route for route in server.routes if getattr(route, "method", "") == method)  # folders have none
    return next(route.handler for route in own if route.path == path)


class Here:
    """The ComfyUI of this process, as `Runner` wants one.

    Args:
        server: ComfyUI's PromptServer.
        pausing: Set when the user pauses: waiting cells leave the queue, and a cell that runs comes to its end.
    """

    def __init__(self, server: Any, pausing: threading.Event):
        self._server, self._prompts, self._pausing = server, server.prompt_queue, pausing

    def queue(self, prompt_id: str, graph: Graph, workflow: dict | None) -> None:
        """As `Server`. The number, by which ComfyUI sorts its queue, puts what the user queues before the cells.

        Raises:
            Paused: No cell of the run is in the queue.
        """
        if self._pausing.is_set():
            raise Paused
        extra = {"extra_pnginfo": {"workflow": workflow}} if workflow else {}
        body = {"prompt": graph, "prompt_id": prompt_id, "number": time.time(), "extra_data": extra}
        status, answer = self._post("/prompt", body)
        if answer.get("node_errors") or status != 200:
            self.cancel([prompt_id])  # ComfyUI would run the rest
            raise CellError(refusal(graph, answer))

    def _post(self, path: str, body: dict) -> tuple[int, dict]:
        async def answer() -> tuple[int, dict]:
            response = await handler(self._server, "POST", path)(Request(body))
            return response.status, json.loads(response.text or "{}")

        try:
            return asyncio.run_coroutine_threadsafe(answer(), self._server.loop).result()
        except Exception as error:  # of whatever a pack hooks into the queue
            raise CellError(f"ComfyUI could not queue the workflow: {error}") from error

    def knows(self, prompt_id: str) -> bool:
        """As `Server`."""
        with self._prompts.mutex:
            return bool(self._prompts.get_history(prompt_id=prompt_id)) or prompt_id in self._waiting_or_running()

    def finished(self, prompt_ids: list[str]) -> dict[str, Outcome]:
        """As `Server`.

        Raises:
            Paused: The user has paused, and none of these runs.
            GridError: Somebody took a cell out of the queue.
        """
        end = time.monotonic() + WAIT
        while True:
            with self._prompts.mutex:
                entries = {key: self._prompts.get_history(prompt_id=key).get(key) for key in prompt_ids}
                if over := {key: outcome(entry) for key, entry in entries.items() if entry}:
                    return over
                if self._pausing.is_set():
                    self._withdraw(prompt_ids)
                queued = [key in self._waiting_or_running() for key in prompt_ids]
                if self._pausing.is_set() and not any(queued):
                    raise Paused
                if not self._pausing.is_set() and not all(queued):
                    raise GridError("A cell was taken out of ComfyUI's queue, so the grid stops.")
            if time.monotonic() > end:
                return {}
            time.sleep(LOOK)

    def _waiting_or_running(self) -> set[str]:
        return {item[1] for items in self._prompts.get_current_queue_volatile() for item in items}

    def _withdraw(self, prompt_ids: list[str]) -> None:
        for prompt_id in prompt_ids:
            self._prompts.delete_queue_item(lambda item, prompt_id=prompt_id: item[1] == prompt_id)

    def fetch(self, file: dict[str, str]) -> bytes:
        """As `Server`."""
        folder = folder_paths.get_directory_by_type(file["type"])
        try:
            return values.inside(Path(folder, file["subfolder"]), file["filename"]).read_bytes()
        except (ValueError, OSError) as error:
            raise Lost(f"ComfyUI no longer has the file {file['filename']}.") from error

    def forget(self) -> None:
        """As `Server`."""
        self._prompts.set_flag("free_memory", True)

    def cancel(self, prompt_ids: list[str]) -> None:
        """As `Server`."""
        self._withdraw(prompt_ids)
        for prompt_id in prompt_ids:
            self._post("/interrupt", {"prompt_id": prompt_id})


def refusal(graph: Graph, answer: dict) -> str:
    """Sentences on why ComfyUI refused a prompt."""
    sentences = dict.fromkeys(
        f"{addresses.name(graph, key)}: {error['message']} ({error['details']})"
        for key, node in answer.get("node_errors", {}).items()
        for error in node["errors"]
    )
    return "\n".join(sentences) or str(answer.get("error", {}).get("message", "ComfyUI refused the workflow."))


@dataclass
class Run:
    """A grid that waits, runs or has run.

    Attributes:
        key: Names the node of the graph whose grid it is.
        state: "waiting" for another grid's end, "running", "pausing", or one of ENDED.
        sentence: Why it stopped.
        failures: Sentences on cells that failed, the last ones.
    """

    key: str
    title: str
    folder: Path
    progress: Progress
    state: str = "waiting"
    sentence: str = ""
    failures: deque[str] = field(default_factory=lambda: deque(maxlen=SENTENCES))
    pausing: threading.Event = field(default_factory=threading.Event)

    def described(self, output: Path) -> dict[str, object]:
        """The run for a web page, with its folder as named from ComfyUI's output folder."""
        return {
            "key": self.key,
            "title": self.title,
            "folder": self.folder.relative_to(output).as_posix(),
            "state": self.state,
            "sentence": self.sentence,
            "failures": list(self.failures),
            **asdict(self.progress),
        }


class Runs:
    """The grids of a server: one runs, and others wait for its end."""

    def __init__(self, server: Any):
        self._server, self._runs = server, {}
        self._turn, self._lock = threading.Lock(), threading.Lock()
        self.output = Path(folder_paths.get_output_directory()).resolve()

    def state(self, key: str) -> dict[str, object]:
        """What became of the last run of a node; empty where there was none."""
        run = self._runs.get(key)
        return run.described(self.output) if run else {}

    def start(self, key: str, grid: Grid, path: Path, info: check.Info) -> dict[str, object]:
        """Starts a run; its state.

        Raises:
            GridError: The node's grid is running, or the folder is not the grid's or cannot be used.
        """
        with self._lock:
            if (before := self._runs.get(key)) and before.state not in ENDED:
                raise GridError("This grid is running already.")
            claim(path, key)
            run = self._runs[key] = Run(key, grid.title, path, Progress(grid.size()))
        threading.Thread(target=self._work, args=(run, grid, info), daemon=True, name="pentimento-grid").start()
        return run.described(self.output)

    def pause(self, key: str) -> dict[str, object]:
        """Has a run end after the cell that runs; its state."""
        if (run := self._runs.get(key)) and run.state not in ENDED:
            run.pausing.set()
            self._tell(run, "pausing")
        return self.state(key)

    def _work(self, run: Run, grid: Grid, info: check.Info) -> None:
        try:
            with self._one_at_a_time(run), alone(run.folder):
                self._tell(run, "running")
                here, order = Here(self._server, run.pausing), check.order(grid, info)
                run.progress = Runner(grid, Folder(run.folder), here, info, order).run(self._reporter(run))
            self._tell(run, "done")
        except Paused:
            self._tell(run, "paused")
        except GridError as error:
            self._tell(run, "stopped", str(error))
        except OSError as error:
            self._tell(run, "stopped", f"{error.filename or 'A file'}: {error.strerror}.")
        except Exception:
            logging.exception("Pentimento: the grid %s stopped.", run.title)
            self._tell(run, "stopped", "The grid stopped by an error of its own, which ComfyUI's log shows.")

    @contextmanager
    def _one_at_a_time(self, run: Run) -> Iterator[None]:
        """
        Raises:
            Paused: The user has paused the run before its turn.
        """
        while not self._turn.acquire(timeout=WAIT / 4):
            if run.pausing.is_set():
                raise Paused
        try:
            yield
        finally:
            self._turn.release()

    def _reporter(self, run: Run) -> Callable[[Progress, str], None]:
        told = 0.0

        def report(progress: Progress, sentence: str) -> None:
            nonlocal told
            run.progress = progress
            if sentence:
                run.failures.append(sentence[:LONGEST_SENTENCE])
            if time.monotonic() - told > OFTEN:
                told = time.monotonic()
                self._tell(run)

        return report

    def _tell(self, run: Run, state: str = "", sentence: str = "") -> None:
        """Tells all web pages of a run, whose state may be new."""
        run.state, run.sentence = state or run.state, sentence or run.sentence
        self._server.send_sync(EVENT, run.described(self.output))
