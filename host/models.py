"""The real model files that the workflows want: where they go, what they are, whether they are here."""

import functools
import json
import os
import runpy
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from tqdm import tqdm

from . import standins
from .client import Graph
from .environment import PACK, Host, HostError, free, locked, need_room, readable, sha256, whole

API_WORKFLOWS = PACK / "workflows" / "api"
BLUEPRINTS = PACK / "subgraphs"
CHUNK = 1 << 20
_standins = runpy.run_path(str(PACK / "model_patchers" / "comfyui" / "standins.py"))

FOLDERS_SCRIPT = """
import json, os, sys
sys.path.insert(0, os.getcwd())
import folder_paths
from utils.extra_config import load_extra_path_config
if os.path.exists("extra_model_paths.yaml"):
    load_extra_path_config("extra_model_paths.yaml")
json.dump({name: paths for name, (paths, _) in folder_paths.folder_names_and_paths.items()}, sys.stdout)
"""


@dataclass(frozen=True)
class Model:
    """A model file as its publisher gives it out.

    Attributes:
        folder: The folder of ComfyUI's models/ that it goes to.
        standin: The function of `standins` that writes its stand-in.
        size: In bytes; 0 where it is not known.
        sha256: "" where it is not known. A user fetches such a file by hand.
        mirror: The same file at Hugging Face, where `url` leads to a place that ComfyUI does not offer downloads from.
        instead: Other files that the workflows take, as a phrase.
        standin_mb: What its stand-in takes on the disk at most, in megabytes.
    """

    name: str
    folder: str
    standin: str
    size: int
    sha256: str
    licence: str
    url: str
    mirror: str = ""
    instead: str = ""
    standin_mb: int = 10


def catalogue() -> dict[str, Model]:
    """Every model file that a bundled workflow may name."""
    entries = json.loads((PACK / "host" / "models.json").read_text(encoding="utf-8"))
    return {name: Model(name, **entry) for name, entry in entries.items()}


def workflows() -> dict[str, Graph]:
    """The bundled workflows in the API's form, by name."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(API_WORKFLOWS.glob("*.json"))}


def blueprints() -> dict[str, Graph]:
    """The bundled blueprints, each with a photograph and a result, in the API's form, by name."""
    return {
        path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted((BLUEPRINTS / "api").glob("*.json"))
    }


def wanted(graph: Graph) -> Iterator[tuple[dict, str, Model]]:
    """The inputs of a workflow that name a model file: (inputs of the node, input id, model)."""
    models = catalogue()
    for node in graph.values():
        for name, value in node["inputs"].items():
            if isinstance(value, str) and value in models:
                yield node["inputs"], name, models[value]


def embed(workflow: Any) -> None:
    """Has a saved workflow say where its models come from: ComfyUI's list of missing models reads `properties.models`.

    Args:
        workflow: In the front end's form, or a part of it. Its nodes, those of subgraphs too, are changed.
    """
    if isinstance(workflow, list):
        for part in workflow:
            embed(part)
    elif isinstance(workflow, dict):
        embed(list(workflow.values()))
        if isinstance(workflow.get("widgets_values"), list):
            _embed_in(workflow)


def _embed_in(node: dict) -> None:
    models = catalogue()
    names = [value for value in node["widgets_values"] if isinstance(value, str) and value in models]
    wanted = [models[name] for name in names if models[name].sha256]
    node.get("properties", {}).pop("models", None)
    if wanted:
        node["properties"]["models"] = [
            {
                "name": model.name,
                "url": model.mirror or model.url,
                "hash": model.sha256,
                "hash_type": "SHA256",
                "directory": model.folder,
            }
            for model in wanted
        ]


def users(model: Model) -> list[str]:
    """The names of the workflows that want a model file."""
    return [name for name, graph in workflows().items() if model in [entry for _, _, entry in wanted(graph)]]


def find(host: Host, model: Model) -> Path | None:
    """The model's file in the host's folders, the user's extra_model_paths.yaml included."""
    folders = [Path(path) for path in _folders(host).get(model.folder, [])]
    folders += [host.comfyui / "models" / model.folder, host.models / model.folder]
    return next((folder / model.name for folder in folders if (folder / model.name).exists()), None)


@functools.cache
def _folders(host: Host) -> dict[str, list[str]]:
    command = [str(host.python), "-c", FOLDERS_SCRIPT]
    return json.loads(subprocess.run(command, cwd=host.comfyui, check=True, stdout=subprocess.PIPE).stdout)


def make_standins(host: Host, graphs: Iterable[Graph]) -> None:
    """Makes the stand-ins that these workflows lack, with a line of progress.

    Raises:
        HostError: The disk has too little room.
    """
    missing = {model for graph in graphs for _, _, model in wanted(graph) if not find(host, model)}
    todo = sorted((model for model in missing if not _is_made(host, model)), key=lambda model: model.name)
    if todo:
        needed = sum(model.standin_mb for model in todo) * 10**6
        print(f"Stand-ins with random weights take {readable(needed)} in {host.models}.", flush=True)
        need_room(host, needed, "The stand-ins")
        with tqdm(todo, bar_format="{desc} {bar:30} {n} of {total}  {elapsed}") as bar:
            for model in bar:
                bar.set_description_str(f"{f'Stand-in for {model.name}':43.43}")
                _make(host, model)


def fill_in(host: Host, graph: Graph) -> list[str]:
    """Makes stand-ins for the model files that a workflow wants and the host lacks, and names them in the graph.

    Returns:
        The names of the files that are stood in for.
    """
    missing = [(inputs, name, model) for inputs, name, model in wanted(graph) if not find(host, model)]
    for inputs, name, model in missing:
        _make(host, model)
        inputs[name] = _standin(host, model).name
    return [model.name for _, _, model in missing]


def _standin(host: Host, model: Model) -> Path:
    return host.models / model.folder / f"{_standins['PREFIX']}{model.name}"


def _is_made(host: Host, model: Model) -> bool:
    """No where it is missing, or of an earlier version of this tool."""
    return _standins["is_standin"](_standin(host, model))


def _make(host: Host, model: Model) -> None:
    path = _standin(host, model)
    if not _is_made(host, model):
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as part:
            getattr(standins, model.standin)(part)


def listing(host: Host) -> str:
    """The table of `host models`."""
    rows = []
    for model in catalogue().values():
        here = find(host, model)
        rows += [
            f"{model.name}  ({'here: ' + str(here) if here else 'missing'})",
            *([f"    for      {', '.join(names)}"] if (names := users(model)) else []),
            f"    goes to  models/{model.folder}/",
            f"    size     {f'{model.size / 1e6:,.1f} MB' if model.size else 'not stated'}",
            f"    sha256   {model.sha256 or 'not stated'}",
            f"    licence  {model.licence}",
            f"    from     {model.url}",
            *([f"    or from  {model.mirror}"] if model.mirror else []),
            *([f"    instead  {model.instead}"] if model.instead else []),
        ]
    return "\n".join([*rows, "", "Nothing is downloaded unasked. `python3 host models --download NAME` fetches one."])


def download(model: Model, folder: Path) -> Path:
    """Fetches a model file with a progress bar, going on where an earlier try stopped, and verifies it.

    One process at a time: another that wants the same file waits, and then finds it.

    Raises:
        HostError: The server refused, or the file is not the published one (it is deleted), or none can be verified.
    """
    if not model.sha256:
        raise HostError(
            f"{model.name} has no checksum that could verify it. Fetch it in a browser from {model.url} and put it "
            f"into {folder}."
        )
    folder.mkdir(parents=True, exist_ok=True)
    path, part = folder / model.name, folder / f"{model.name}.part"
    while not path.exists():
        with locked(part) as file:
            if _is(part, file):  # else another run has moved or deleted it
                if path.exists():
                    part.unlink()
                else:
                    _complete(model, part, file)
                    part.rename(path)
    return path


def _is(path: Path, file: BinaryIO) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _complete(model: Model, part: Path, file: BinaryIO) -> None:
    missing = model.size - part.stat().st_size
    if missing > free(part.parent):
        raise HostError(
            f"{model.name} needs {readable(missing)}, and {part.parent} has {readable(free(part.parent))} left. "
            "Delete what you do not need on that disk, then run the command again."
        )
    if missing > 0:
        _fetch(model, file)
    if (size := part.stat().st_size) < model.size:
        raise HostError(f"The connection ended after {size:,} of {model.size:,} bytes. Run the command again to go on.")
    if (digest := sha256(part)) != model.sha256:
        part.unlink()
        raise HostError(
            f"{model.name} from {model.url} is not the published file: sha256 {digest}, expected {model.sha256}. "
            "It was deleted; try again, or fetch it from elsewhere."
        )


def _fetch(model: Model, file: BinaryIO) -> None:
    begun = os.fstat(file.fileno()).st_size
    request = urllib.request.Request(model.url, headers={"Range": f"bytes={begun}-"})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            resumed = response.status == 206
            bar = tqdm(total=model.size, initial=begun if resumed else 0, unit="B", unit_scale=True, desc=model.name)
            if not resumed:
                file.truncate(0)
            with bar:
                while chunk := response.read(CHUNK):
                    file.write(chunk)
                    bar.update(len(chunk))
            file.flush()
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        raise HostError(f"{model.url} could not be fetched: {error}. Run the command again to go on.") from error
