"""A grid on a cluster of Ray: its actors have a ComfyUI each, and this process writes the folder of the results.

Ray places the actors and starts them again elsewhere. What is ours is the choice of the actor that runs a cell: one
that holds the cell's models.
"""

import contextlib
import os
import socket
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from . import environment, server
from .client import Graph
from .environment import PACK, HostError
from .grid import Remote, nodes  # loads the package of the next lines

# isort: split
from pentimento_model_patchers.grid import addresses, check
from pentimento_model_patchers.grid.expand import Chosen, GridError, Index, digest
from pentimento_model_patchers.grid.run import CellError, Lost, Outcome, Runner, saved_files

AHEAD = 2  # cells at an actor: the next one waits while one runs
LOCAL = "local"  # in place of a cluster's address: one is started here
MOST_TRIES = 3  # how often a cell runs whose ComfyUI ends
PATIENCE = 600.0  # seconds without any ComfyUI until the run stops
WAIT = 1.0  # seconds until a look at what happened
WORTH = 4  # cells that are left of some models when a second actor loads them, too

Models = dict[str, str]
"""{node that reads a model: what it reads}. An actor holds those of the cell that it got last."""


class Worker:
    """A ComfyUI on a machine of the cluster, in an actor.

    Args:
        comfyui: As the option --comfyui.
        address: Of a ComfyUI that runs. None starts one here, with folders of its own and the machine's models.
    """

    def __init__(self, comfyui: str | None, address: str | None):
        self._comfyui, self._given = comfyui, address
        self._stack, self._remote, self._running = contextlib.ExitStack(), None, ""

    def start(self) -> dict:
        """What ComfyUI says of its nodes, once it answers; it is started anew where it had ended.

        Raises:
            HostError: It did not start.
            RunError: It does not answer.
        """
        with contextlib.suppress(HostError):  # it says that ComfyUI ended
            self._stack.close()
        address = self._given or self._stack.enter_context(server.serve(environment.locate(self._comfyui)))
        info = nodes(address)
        self._remote = self._stack.enter_context(Remote(address, str(uuid.uuid4())))
        return info

    def run(self, prompt_id: str, graph: Graph, workflow: dict | None) -> tuple[Outcome, list[bytes | None]]:
        """Runs a cell: what came of it, and the files that it saved; None is one that ComfyUI no longer has."""
        self._running = prompt_id
        try:
            if not self._remote.knows(prompt_id):  # else an actor queued it and ended
                self._remote.queue(prompt_id, graph, workflow)
            while not (outcomes := self._remote.finished([prompt_id])):
                pass
        except CellError as error:
            return Outcome({}, str(error)), []
        outcome = outcomes[prompt_id]
        return outcome, [self._fetched(file) for file in saved_files(outcome.outputs)]

    def _fetched(self, file: dict[str, str]) -> bytes | None:
        with contextlib.suppress(Lost):
            return self._remote.fetch(file)

    def forget(self) -> None:
        """As `Server`."""
        self._remote.forget()

    def stop(self) -> None:
        """Stops the cell that runs, and the ComfyUI that was started here."""
        if self._remote:
            self._remote.cancel([self._running])
        self._stack.close()


def _class(ray: Any, pack: str) -> Any:
    """The class of the actors: `Worker`, from the pack as it lies on the actor's machine.

    Ray sends a class that stands in a function whole. One that stands in a module is looked for on sys.path.
    """

    class GridWorker:
        def __init__(self, *arguments: object):
            import runpy
            from pathlib import Path

            runpy.run_path(f"{pack}/host/load_package.py")["load_package"]("pentimento_host", Path(pack) / "host")
            from pentimento_host import grid_ray

            self._worker = grid_ray.Worker(*arguments)

        def start(self) -> dict:
            return self._worker.start()

        def run(self, *arguments: object) -> tuple:
            return self._worker.run(*arguments)

        @ray.method(concurrency_group="control")
        def forget(self) -> None:
            self._worker.forget()

        @ray.method(concurrency_group="control")
        def stop(self) -> None:
            self._worker.stop()

    return ray.remote(concurrency_groups={"control": 1}, max_restarts=-1)(GridWorker)


@dataclass(frozen=True)
class _Job:
    """A cell that was queued."""

    arguments: tuple[str, Graph, dict | None]
    models: Models
    tries: int = 0


@dataclass(eq=False)
class Actor:
    """An actor as this process sees it.

    Attributes:
        start: Becomes ready when its ComfyUI does; None from then on.
        tasks: {result to come: prompt id}, in the order in which they run.
    """

    handle: Any
    start: Any
    tasks: dict[Any, str] = field(default_factory=dict)
    models: Models = field(default_factory=dict)


class Cluster:
    """The ComfyUIs of a cluster, as `Runner` wants a server.

    Args:
        address: Of a cluster, or LOCAL, which starts one on this machine for as long as this process runs.
        servers: Addresses of ComfyUIs, as the cluster's machines reach them. Without any, the actors start theirs: one
            for each GPU, or one on each machine where the cluster has no GPU.
        comfyui: As the option --comfyui.
        tell: Called with a sentence on an actor that is given up.

    Raises:
        GridError: There is no such cluster, or none of its ComfyUIs starts.
    """

    def __init__(
        self,
        address: str,
        servers: list[str],
        comfyui: str | None = None,
        tell: Callable[[str], None] = lambda sentence: None,
    ):
        self._ray, self._tell = _connect(address), tell
        self._jobs: dict[str, _Job] = {}
        self._waiting: list[str] = []  # prompt ids of cells that no actor has
        self._contents: dict[tuple[str, ...], bytes | None] = {}  # of the cell that ended last
        self._source: Actor | None = None  # of these
        self._idle_since = time.monotonic()
        self._last = ""  # sentence on an actor that was given up
        self.info: check.Info = {}
        worker = _class(self._ray, str(PACK))
        self.actors = [self._made(worker.options(**options), comfyui, url) for url, options in self._places(servers)]
        count = len(self.actors)
        tell(f"Ray waits for {count} ComfyUIs ..." if count > 1 else "Ray waits for a ComfyUI ...")

    def __enter__(self) -> "Cluster":
        try:
            while not self.info:
                self._look()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        """Ends the actors and their ComfyUIs, and a cluster that was started here."""
        stops = [actor.handle.stop.remote() for actor in self.actors if not actor.start]
        self._ray.wait(stops, num_returns=len(stops), timeout=20) if stops else None
        self._ray.shutdown()

    def _places(self, servers: list[str]) -> list[tuple[str | None, dict]]:
        """(address of a ComfyUI, what Ray has to know) of each actor."""
        if servers:
            return [(url, {"num_cpus": 0, "scheduling_strategy": "SPREAD"}) for url in servers]
        if gpus := int(self._ray.cluster_resources().get("GPU", 0)):
            return [(None, {"num_cpus": 0, "num_gpus": 1})] * gpus
        machines = [node["NodeID"] for node in self._ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
        there = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
        return [(None, {"num_cpus": 1, "scheduling_strategy": there(machine, soft=False)}) for machine in machines]

    @staticmethod
    def _made(worker: Any, *arguments: object) -> Actor:
        handle = worker.remote(*arguments)
        return Actor(handle, handle.start.remote())

    # What a runner asks for

    def queue(self, prompt_id: str, graph: Graph, workflow: dict | None) -> None:
        """As `Server`."""
        self._jobs[prompt_id] = _Job((prompt_id, graph, workflow), models(graph, self.info))
        self._waiting.append(prompt_id)
        self._assign()

    def knows(self, prompt_id: str) -> bool:
        """As `Server`. The actors of an earlier run have ended with it."""
        return False

    def finished(self, prompt_ids: list[str]) -> dict[str, Outcome]:
        """As `Server`: one cell at a time, whose files `fetch` then gives.

        Raises:
            GridError: No ComfyUI is left, or somebody took a cell out of the queue of one.
        """
        return self._look()

    def fetch(self, file: dict[str, str]) -> bytes:
        """As `Server`."""
        content = self._contents.get(tuple(file.values()))
        if content is None:
            raise Lost(f"ComfyUI no longer has the file {file['filename']}, which it has named.")
        return content

    def forget(self) -> None:
        """As `Server`, of the ComfyUI whose cell ended last."""
        self._source.handle.forget.remote()

    def cancel(self, prompt_ids: list[str]) -> None:
        """As `Server`. They stop with their ComfyUIs, or when those that were named are left."""
        self._waiting.clear()

    def free(self) -> list[Actor]:
        """The actors that take a cell, those with the fewest first."""
        return sorted((actor for actor in self.ready if len(actor.tasks) < AHEAD), key=lambda actor: len(actor.tasks))

    @property
    def ready(self) -> list[Actor]:
        """The actors whose ComfyUI runs."""
        return [actor for actor in self.actors if not actor.start]

    def wait(self) -> None:
        """Waits until an actor is ready.

        Raises:
            GridError: As `finished`.
        """
        while not self.ready:
            self._look()

    # Actors and their cells

    def _assign(self, to_idle: bool = False) -> None:
        """Gives cells to actors that hold their models; with `to_idle` also to those that have nothing to do."""
        for prompt_id in [*self._waiting]:
            job = self._jobs[prompt_id]
            actors = [actor for actor in self.free() if actor.models == job.models or (to_idle and not actor.tasks)]
            if actor := min(actors, key=lambda actor: actor.models != job.models, default=None):
                self._waiting.remove(prompt_id)
                actor.models = job.models
                actor.tasks[actor.handle.run.remote(*job.arguments)] = prompt_id

    def _look(self) -> dict[str, Outcome]:
        """Waits for something to happen, a second at most; what came of a cell that ended."""
        self._assign(to_idle=True)
        results = {result: actor for actor in self.actors for result in [actor.start, *actor.tasks] if result}
        if not results:
            raise GridError(f"No ComfyUI of the cluster is left. {self._last}")
        over, _ = self._ray.wait([*results], timeout=WAIT)
        outcomes = {}
        for result in over:
            actor = results[result]
            outcomes = self._ended(actor, result) if result in actor.tasks else self._started(actor)
        if self.ready:
            self._idle_since = time.monotonic()
        elif time.monotonic() - self._idle_since > PATIENCE:
            raise GridError(f"The cluster had no ComfyUI for {PATIENCE / 60:.0f} minutes. {self._last}")
        return outcomes

    def _started(self, actor: Actor) -> dict:
        try:
            self.info, actor.start = self._ray.get(actor.start), None
            self._assign(to_idle=True)
        except (self._ray.exceptions.RayTaskError, self._ray.exceptions.ActorDiedError) as error:
            self._give_up(actor, str(getattr(error, "cause", None) or "Its machine has left the cluster."))
        except self._ray.exceptions.RayError:
            actor.start = actor.handle.start.remote()  # where Ray has made the actor anew
        return {}

    def _give_up(self, actor: Actor, reason: str) -> None:
        self.actors.remove(actor)
        self._last = f"One of the ComfyUIs is left out: {reason}"
        self._tell(self._last)

    def _ended(self, actor: Actor, result: Any) -> dict[str, Outcome]:
        prompt_id = actor.tasks[result]
        try:
            outcome, contents = self._ray.get(result)
        except self._ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None)
            if isinstance(cause, GridError):
                raise cause from error
            return self._lost(actor)
        del actor.tasks[result], self._jobs[prompt_id]
        names = [tuple(file.values()) for file in saved_files(outcome.outputs)]
        self._contents, self._source = dict(zip(names, contents, strict=True)), actor
        return {prompt_id: outcome}

    def _lost(self, actor: Actor) -> dict[str, Outcome]:
        """Has the cells of an actor run again; a cell in which ComfyUI ends each time fails."""
        prompt_id = next(iter(actor.tasks.values()))  # of the cell that ran
        self._waiting[:0] = actor.tasks.values()
        actor.start, actor.tasks, actor.models = actor.handle.start.remote(), {}, {}
        job = self._jobs[prompt_id]
        self._jobs[prompt_id] = _Job(job.arguments, job.models, job.tries + 1)
        if job.tries + 1 < MOST_TRIES:
            return {}
        self._waiting.remove(prompt_id)
        del self._jobs[prompt_id]
        return {prompt_id: Outcome({}, f"ComfyUI, or its machine, ended {MOST_TRIES} times while this cell ran.")}


def _connect(address: str) -> Any:
    """Ray, connected to a cluster.

    Raises:
        HostError: Ray is not installed.
        GridError: There is no such cluster.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray reports to its makers unless it is told not to
    try:
        import ray
        import ray.util.scheduling_strategies
    except ImportError as error:
        raise HostError(
            f"Ray is not installed in {sys.executable}. In the tool's own Python this installs it: python3 host setup "
            "--ray. In that of another ComfyUI: pip install ray."
        ) from error
    _reach(address)
    here = {"include_dashboard": False, "_node_ip_address": "127.0.0.1"} if address == LOCAL else {}
    try:
        ray.init(address=address, logging_level="error", log_to_driver=False, **here)
    except (OSError, RuntimeError, ValueError) as error:
        raise GridError(f"Ray has no cluster at {address}: {error}") from error
    return ray


def _reach(address: str) -> None:
    """Tries an address, since Ray tries for minutes.

    Raises:
        GridError: Nobody answers.
    """
    host, colon, port = address.rpartition(":")
    if colon and port.isdecimal() and "://" not in address:
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except OSError as error:
            raise GridError(f"Ray has no cluster at {address}: {error}.") from error


def models(graph: Graph, info: check.Info) -> Models:
    """What the nodes read that load models and follow on no other such node; a LoRA on a checkpoint is none."""
    loaders = {key for key, node in graph.items() if check.is_loader(node, info)}
    before = {key: _before(graph, key) for key in loaders}
    return {key: digest(before[key]) for key in sorted(loaders) if len(before[key].keys() & loaders) == 1}


def _before(graph: Graph, key: str) -> Graph:
    """A node and all that it depends on."""
    part, todo = {}, [key]
    while todo:
        if (key := todo.pop()) not in part:
            part[key] = graph[key]
            links = (value for value in graph[key]["inputs"].values() if addresses.is_link(value, graph))
            todo += [str(link[0]) for link in links]
    return part


@dataclass(eq=False)
class _Lane:
    """The cells of a grid that want the same models."""

    models: Models
    left: int
    cells: Iterator[tuple[Index, str]]


class Spread(Runner):
    """A run over the actors of a cluster. An actor goes on with the models that it holds as long as cells want them."""

    server: Cluster

    def begin(self) -> None:
        """Divides the cells by their models."""
        reached = check.reached_nodes(self.grid)
        axes = [axis for axis in self.order if reached[axis] & models(self.grid.graph, self.info).keys()]
        self._lanes = [self._lane(part) for part in self._parts(axes)]
        self._worth = WORTH if models(self.grid.graph, self.info) else 1

    def _parts(self, axes: list[int]) -> Iterator[Chosen]:
        chosen = self.chosen or {}
        used = [[value for value in self.grid.axes[axis].used if value in chosen.get(axis, {value})] for axis in axes]
        for values in product(*used):
            yield chosen | {axis: {value} for axis, value in zip(axes, values, strict=True)}

    def _lane(self, part: Chosen) -> _Lane:
        cells = self.grid.cells(chosen=part)
        first = next(self.grid.cells(chosen=part))
        left = sum(not self.folder.is_done(self.digests[cell]) for cell in cells)
        return _Lane(models(self.grid.workflow(first), self.info), left, self.todo(part))

    def take(self) -> tuple[Index, str] | None:
        """The next cell for an actor that has room."""
        if not self.flights:
            self.server.wait()
        for actor in self.server.free():
            while lane := self._for(actor):
                if item := next(lane.cells, None):
                    actor.models = lane.models
                    lane.left -= 1
                    return item
                lane.left = 0
        return None

    def _for(self, actor: Actor) -> _Lane | None:
        """Where an actor goes on: with the models that it holds, else with those that no other holds, else to help."""
        lanes = [lane for lane in self._lanes if lane.left > 0]
        others = [other.models for other in self.server.ready if other is not actor]
        if own := [lane for lane in lanes if lane.models == actor.models]:
            return own[0]
        if unclaimed := [lane for lane in lanes if lane.models not in others]:
            return max(unclaimed, key=lambda lane: _alike(lane.models, actor.models) - self._most(lane, others))
        lane = max(lanes, key=lambda lane: lane.left, default=None)
        return lane if lane and lane.left >= self._worth else None

    @staticmethod
    def _most(lane: _Lane, others: list[Models]) -> int:
        return max((_alike(lane.models, other) for other in others), default=0)


def _alike(one: Models, other: Models) -> int:
    """How many models are the same."""
    return len(one.items() & other.items())
