#!/usr/bin/env python3
"""Runs a workflow in ComfyUI from a command line or from Python: pictures go in, the results come back as files.

    python3 run.py lama_fill --image my.jpg --mask mask.png
    python3 run.py lama_fill --images "in/*.jpg" --mask masks --out out
    python3 run.py my_workflow.json --set "KSampler.steps=30"

It needs Python 3.10 and nothing else, and may be copied to any place. ComfyUI may run on another machine.
In Python: `import run`, then `run.load`, `run.replace`, `run.upload`, `run.run`, `run.save`.
"""

import argparse
import base64
import contextlib
import copy
import difflib
import functools
import glob
import http.client
import json
import os
import re
import shutil
import socket
import ssl
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

Graph = dict[str, dict]
"""A workflow in the API's form: {node id: {"class_type", "inputs", "_meta": {"title"}}}."""

HERE = Path(__file__).resolve().parent
SERVER = "http://127.0.0.1:8188"
FOLDER = "pentimento"  # of ComfyUI's input folder: uploads go there
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
POINTS = ("picks", "positive_coords", "negative_coords", "bboxes")  # inputs that hold places in one picture
TICK = 1.0  # seconds between two signs of life

DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # the websocket knows no proxy either


class RunError(Exception):
    """ComfyUI refused a workflow or failed to run it, or the user asked for what is not there; the text says why."""


class Gone(RunError):
    """The server does not answer: no other workflow would run either."""


# Workflows


def names() -> list[str]:
    """The workflows beside this file."""
    return sorted(path.stem for path in HERE.glob("*.json"))


def load(workflow: str) -> Graph:
    """A workflow by its name (a file beside this one) or by the path of a file.

    Raises:
        RunError: There is no such file, or it is no workflow in the API's form.
    """
    path = next((path for path in (Path(workflow), HERE / f"{workflow}.json") if path.is_file()), None)
    if path is None:
        known = f"There are {', '.join(names())}, or name a file." if names() else "Name a file."
        raise RunError(f"There is no workflow {workflow}.{_nearest(workflow, names())} {known}")
    try:
        graph = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunError(f"{path} is no JSON: {error}.") from error
    if not isinstance(graph, dict) or not all(
        isinstance(node, dict) and "class_type" in node for node in graph.values()
    ):
        raise RunError(f"{path} is not in the API's form. ComfyUI writes that form by File > Export (API).")
    return graph


def title(graph: Graph, node_id: str) -> str:
    """The title that a node has in the workflow; with its number where others have the same."""
    titles = Counter(map(_title, graph.values()))
    own = _title(graph[node_id])
    return own if titles[own] == 1 else f"{own} (node {node_id})"


def _title(node: dict) -> str:
    return node.get("_meta", {}).get("title") or node["class_type"]


def node_id(graph: Graph, name: str) -> str:
    """The node with this title or this number.

    Raises:
        RunError: There is none, or several have the title.
    """
    ids = [key for key, node in graph.items() if _title(node) == name] or [key for key in graph if key == name]
    if len(ids) > 1:
        raise RunError(f"The nodes {' and '.join(ids)} are titled {name}. Use the number in place of the title.")
    if not ids:
        titles = [title(graph, key) for key in graph]
        raise RunError(f"No node is titled {name}.{_nearest(name, titles)} There are {', '.join(titles)}.")
    return ids[0]


def place(graph: Graph, text: str) -> tuple[str, str]:
    """The node's number and the input that "<title>.<input>" names.

    Raises:
        RunError: There is no such node, or the dot is missing.
    """
    name, dot, input_name = text.rpartition(".")
    if not dot:
        raise RunError(f"{text} names no input: write the node's title, a dot and the input, as in KSampler.steps.")
    return node_id(graph, name), input_name


def replace(graph: Graph, changes: dict[str, object]) -> Graph:
    """A copy of a workflow with some inputs replaced: {"<title>.<input>": value}, a link being ["<number>", output].

    Raises:
        RunError: There is no such node.
    """
    graph = copy.deepcopy(graph)
    for text, value in changes.items():
        key, name = place(graph, text)
        graph[key]["inputs"][name] = value
    return graph


def _nearest(name: str, names: Iterable[str]) -> str:
    nearest = difflib.get_close_matches(name, list(names))
    return f" Is it {' or '.join(nearest)}?" if nearest else ""


# The server


def get(server: str, path: str, **query: str) -> bytes:
    """The body of GET server/path?query.

    Raises:
        RunError: The server does not answer, or answers with an error.
    """
    url = f"{server}/{urllib.parse.quote(path)}" + (f"?{urllib.parse.urlencode(query)}" if query else "")
    return _answer(urllib.request.Request(url))


def post(server: str, path: str, value: object) -> bytes:
    """The body of POST server/path with a value as JSON; it raises as `get` does."""
    headers = {"Content-Type": "application/json"}
    return _answer(urllib.request.Request(f"{server}/{path}", json.dumps(value).encode(), headers))


def _answer(request: urllib.request.Request) -> bytes:
    try:
        with DIRECT.open(request, timeout=60) as response:
            return response.read()
    except urllib.error.HTTPError as error:
        path = urllib.parse.urlsplit(request.full_url).path
        raise RunError(f"ComfyUI answered {error.code} {error.reason} to {path}.") from error
    except (OSError, http.client.HTTPException) as error:
        server = request.full_url.removesuffix(request.selector)
        raise Gone(_silence(server, error)) from error


def _silence(server: str, error: Exception) -> str:
    reason = getattr(error, "reason", error)
    return f"ComfyUI does not answer at {server}: {reason}. Is it running there? Else name its address by --server."


def upload(server: str, path: Path) -> str:
    """Sends a picture to ComfyUI's input folder, which keeps one of several equal files; what Load Image calls it."""
    name = re.sub(r'[\x00-\x1f"%;\\/]', "_", path.name)  # what a form's field cannot hold
    boundary = uuid.uuid4().hex
    body = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="subfolder"\r\n\r\n{FOLDER}\r\n'
        f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n'
        f"Content-Type: application/octet-stream\r\n\r\n"
    ).encode()
    body += path.read_bytes() + f"\r\n--{boundary}--\r\n".encode()
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    file = json.loads(_answer(urllib.request.Request(f"{server}/upload/image", body, headers)))
    return f"{file['subfolder']}/{file['name']}".lstrip("/")


class Events:
    """What ComfyUI tells a client on its websocket (RFC 6455, the part that a listener needs)."""

    CONTINUED, TEXT, CLOSE, PING, PONG = 0, 1, 8, 9, 10

    def __init__(self, server: str, client_id: str):
        url = urllib.parse.urlsplit(server)
        secure = url.scheme == "https"
        self._socket = socket.create_connection((url.hostname, url.port or (443 if secure else 80)), timeout=60)
        self._buffer, self._kind, self._message = bytearray(), self.TEXT, bytearray()
        with contextlib.ExitStack() as stack:
            stack.callback(lambda: self._socket.close())
            if secure:
                self._socket = ssl.create_default_context().wrap_socket(self._socket, server_hostname=url.hostname)
            self._shake_hands(url.netloc.rpartition("@")[2], f"{url.path}/ws?clientId={client_id}")
            stack.pop_all()
        self._socket.settimeout(TICK)  # on Windows a longer wait would not feel Ctrl-C

    def __enter__(self) -> "Events":
        return self

    def __exit__(self, *error: object) -> None:
        self._socket.close()

    def _shake_hands(self, host: str, target: str) -> None:
        key = base64.b64encode(os.urandom(16)).decode()
        lines = [f"GET {target} HTTP/1.1", f"Host: {host}", "Upgrade: websocket", "Connection: Upgrade"]
        lines += [f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13", "", ""]
        self._socket.sendall("\r\n".join(lines).encode())
        while b"\r\n\r\n" not in self._buffer:
            self._fill(len(self._buffer) + 1)
        head, _, rest = bytes(self._buffer).partition(b"\r\n\r\n")
        status = head.split(b"\r\n")[0].decode(errors="replace")
        if " 101" not in status:
            raise ConnectionError(f"it opens no websocket ({status})")
        self._buffer = bytearray(rest)

    def _fill(self, size: int) -> None:
        while len(self._buffer) < size:
            data = self._socket.recv(1 << 16)
            if not data:
                raise ConnectionError("it closed the connection")
            self._buffer += data

    def _frame(self) -> tuple[bool, int, bytes]:
        """(whether it ends the message, its kind, its bytes). After a TimeoutError the call may be repeated."""
        self._fill(2)
        final, kind = bool(self._buffer[0] & 0x80), self._buffer[0] & 0x0F
        size = self._buffer[1] & 0x7F
        longer = {126: 2, 127: 8}.get(size, 0)  # bytes of a size that does not fit into 7 bits
        self._fill(2 + longer)
        if longer:
            size = int.from_bytes(self._buffer[2 : 2 + longer], "big")
        end = 2 + longer + size
        self._fill(end)
        payload = bytes(self._buffer[2 + longer : end])
        del self._buffer[:end]
        return final, kind, payload

    def next(self) -> dict | None:
        """The next event, or None where none came in TICK seconds.

        Raises:
            OSError: The connection has ended.
        """
        while True:
            try:
                final, kind, payload = self._frame()
            except TimeoutError:
                return None
            if kind == self.CLOSE:
                raise ConnectionError("it closed the connection")
            if kind == self.PING:
                mask = os.urandom(4)
                masked = bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))
                self._socket.sendall(bytes([0x80 | self.PONG, 0x80 | len(payload)]) + mask + masked)
            elif kind != self.PONG:
                if kind != self.CONTINUED:
                    self._kind, self._message = kind, bytearray()
                self._message += payload
                if final and self._kind == self.TEXT:  # the others are previews
                    return json.loads(self._message)


def run(server: str, graph: Graph, on_progress: Callable[[float], None] = lambda share: None) -> dict:
    """Runs a workflow to its end. KeyboardInterrupt stops it in ComfyUI, too.

    Args:
        server: Such as http://127.0.0.1:8188.
        graph: The workflow in the API's form.
        on_progress: Called with the done share, 0..1, at every step and at least each second.

    Returns:
        {node id: what the node showed or saved}.

    Raises:
        RunError: ComfyUI refused the workflow or a part of it, a node failed, or the run was interrupted.
        Gone: The server does not answer, or its connection ended.
    """
    client_id, prompt_id = uuid.uuid4().hex, str(uuid.uuid4())
    try:
        with Events(server, client_id) as events:
            queue(server, graph, client_id, prompt_id)
            _follow(events, graph, prompt_id, on_progress)
        return json.loads(get(server, f"history/{prompt_id}"))[prompt_id]["outputs"]
    except OSError as error:
        raise Gone(_silence(server, error)) from error
    except KeyboardInterrupt:
        cancel(server, prompt_id)
        raise


def queue(server: str, graph: Graph, client_id: str, prompt_id: str, **more: object) -> None:
    """Queues a workflow; `more` are further fields of ComfyUI's /prompt, such as extra_data.

    Raises:
        RunError: ComfyUI refused the workflow or a part of it.
        Gone: The server does not answer.
    """
    body = json.dumps({"prompt": graph, "client_id": client_id, "prompt_id": prompt_id, **more}).encode()
    request = urllib.request.Request(f"{server}/prompt", body, {"Content-Type": "application/json"})
    try:
        answer = json.loads(_answer(request))
    except RunError as error:
        if not isinstance(error.__cause__, urllib.error.HTTPError):
            raise
        with contextlib.suppress(ValueError):  # the answer is no JSON, as that of a proxy
            raise RunError("\n".join(refusals(graph, json.loads(error.__cause__.read())))) from error
        raise
    if answer["node_errors"]:  # ComfyUI would run the rest, without the result that was asked for
        cancel(server, prompt_id)
        raise RunError("\n".join(refusals(graph, answer)))


def cancel(server: str, prompt_id: str) -> None:
    """Takes a workflow out of the queue, or stops it where it runs."""
    with contextlib.suppress(RunError):
        post(server, "queue", {"delete": [prompt_id]})
        post(server, "interrupt", {"prompt_id": prompt_id})


def _follow(events: Events, graph: Graph, prompt_id: str, on_progress: Callable[[float], None]) -> None:
    cached, failure, share = set(), "", 0.0
    while True:
        event = events.next()
        if event is None:
            on_progress(share)
            continue
        data = event["data"]
        if data.get("prompt_id") != prompt_id:
            continue
        if event["type"] == "execution_cached":
            cached = set(data["nodes"])
        elif event["type"] == "progress_state":
            done = sum(node["value"] / (node["max"] or 1) for node in data["nodes"].values())
            share = max(share, min((done + len(cached - set(data["nodes"]))) / len(graph), 1.0))
            on_progress(share)
        elif event["type"] == "execution_error":
            failure = failed(graph, data)
        elif event["type"] == "execution_interrupted":
            failure = INTERRUPTED
        elif event["type"] == "executing" and data["node"] is None:  # over, and in the history
            if failure:
                raise RunError(failure)
            on_progress(1.0)
            return


INTERRUPTED = "The run was interrupted."


def failed(graph: Graph, data: dict) -> str:
    """A sentence on the node that failed, from what ComfyUI says of an `execution_error`."""
    key = data["node_id"]
    return f"{title(graph, key) if key in graph else data['node_type']}: {data['exception_message'].strip()}"


def refusals(graph: Graph, answer: dict) -> list[str]:
    """Sentences on why ComfyUI refused a workflow, from its answer's `node_errors` or else `error`."""
    sentences = {
        f"{title(graph, key)}: {_refusal(error)}": None  # ComfyUI repeats what a node says for each of its inputs
        for key, node in answer.get("node_errors", {}).items()
        for error in node["errors"]
    }
    if sentences:
        return list(sentences)
    error = answer.get("error", answer)
    return [error["message"] if isinstance(error, dict) and "message" in error else str(error)]


def _refusal(error: dict) -> str:
    extra = error.get("extra_info", {})
    name, value = extra.get("input_name"), extra.get("received_value")
    kind, options = extra.get("input_config") or (None, {})
    if error["type"] == "required_input_missing":
        return f"{name} is missing."
    if error["type"] == "invalid_input_type":
        return f"{name} is {_short(value)}, and {KINDS.get(kind, kind)} is needed."
    if error["type"] == "value_smaller_than_min":
        return f"{name} is {value}, and the least is {options['min']}."
    if error["type"] == "value_bigger_than_max":
        return f"{name} is {value}, and the most is {options['max']}."
    if error["type"] == "return_type_mismatch":
        return f"{name} takes {kind}, and {extra['received_type']} is connected."
    if error["type"] == "value_not_in_list":
        choices = kind if isinstance(kind, list) else options.get("options")
        there = f" There are {', '.join(map(str, choices))}." if choices else ""
        return (
            f"{name} is {_short(value)}, and ComfyUI has none of that name.{_nearest(str(value), choices or [])}{there}"
        )
    if error["type"] == "custom_validation_failed":
        return error["details"].removeprefix(f"{name} - ")
    return ": ".join(filter(None, (error["message"], error["details"])))


KINDS = {"INT": "a whole number", "FLOAT": "a number", "BOOLEAN": "true or false", "STRING": "text"}


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:79]}..."


def saved(outputs: dict) -> Iterator[tuple[str, dict[str, str]]]:
    """The files that a run wrote to ComfyUI's output folder: (node id, {"filename", "subfolder", "type"})."""
    for key, node in outputs.items():
        for files in node.values():
            for file in files if isinstance(files, list) else []:
                if isinstance(file, dict) and file.get("type") == "output":
                    yield key, {name: file.get(name, "") for name in ("filename", "subfolder", "type")}


def save(server: str, graph: Graph, outputs: dict, target: Path) -> list[Path]:
    """Fetches what a run saved, whole or not at all: a single file as `target` with a suffix, several into a folder.

    Raises:
        RunError: The run saved nothing, or ComfyUI has lost it.
    """
    files = list(saved(outputs))
    if not files:
        raise RunError("The workflow ran and saved nothing: it needs a node such as Save Image.")
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    if len(files) == 1:
        path = target.with_name(target.name + Path(files[0][1]["filename"]).suffix)
        part.write_bytes(get(server, "view", **files[0][1]))
        part.replace(path)
        return [path]
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    written = []
    for key, file in files:
        name = re.sub(r'[\x00-\x1f<>:"/\\|?*]', "_", title(graph, key))  # what a file's name cannot hold
        number = sum(path.name.startswith(f"{name} ") for path in written) + 1
        written.append(part / f"{name} {number}{Path(file['filename']).suffix}")
        written[-1].write_bytes(get(server, "view", **file))
    shutil.rmtree(target, ignore_errors=True)
    part.replace(target)
    return [target / path.name for path in written]


# The command


@dataclass(frozen=True)
class Job:
    """One run: the picture that goes in, if any, and the results' path without suffix."""

    picture: Path | None
    target: Path

    @property
    def done(self) -> bool:
        """Whether the results are there."""
        files = self.target.parent.glob(f"{glob.escape(self.target.name)}.*")
        return self.target.is_dir() or any(file.stem == self.target.name for file in files if file.suffix != ".part")

    @property
    def name(self) -> str:
        return str(self.picture or self.target.name)


def jobs(patterns: list[str], out: Path) -> list[Job]:
    """A run for each picture of these patterns, folders or files; below `out` they keep the folders below a pattern's.

    Raises:
        RunError: There is no picture, or the results would lie among the pictures.
    """
    bases = {}  # picture -> the folder that `out` stands for
    for pattern in patterns:
        path = Path(pattern).expanduser()
        if path.is_file():
            pictures = [path]
        elif path.is_dir():
            pictures = [file for file in sorted(path.glob("[!.]*")) if file.suffix.lower() in PICTURES]
        else:
            matches = glob.glob(str(path), recursive=True)  # noqa: PTH207  # Path.glob finds hidden files, too
            pictures = [file for file in map(Path, sorted(matches)) if file.is_file()]
        if not pictures:
            raise RunError(f"No picture is at {pattern}.")
        fixed = path if path.is_dir() else path.parent
        while glob.has_magic(str(fixed)):
            fixed = fixed.parent
        bases |= dict.fromkeys(pictures, fixed)
    targets = {picture: out / picture.relative_to(base).with_suffix("") for picture, base in bases.items()}
    times = Counter(targets.values())
    for picture, target in targets.items():
        if target.parent.resolve() == picture.parent.resolve():
            raise RunError(f"{out} is the folder of the pictures. Name another one by --out.")
        if times[target] > 1:  # such as a.jpg and a.png
            targets[picture] = target.with_name(picture.name)
    return [Job(picture, target) for picture, target in targets.items()]


def _job(picture: Path | None, workflow: str, out: Path) -> Job:
    """A run whose results replace no earlier ones."""
    name, number = (picture or Path(workflow)).stem, 1
    job = Job(picture, out / name)
    while job.done:
        number += 1
        job = Job(picture, out / f"{name}_{number}")
    return job


def loader(graph: Graph) -> str:
    """The Load Image node that takes the user's picture.

    Raises:
        RunError: There is none, or it is not clear which.
    """
    ids = [key for key, node in graph.items() if node["class_type"] == "LoadImage"]
    chosen = [key for key in ids if _title(graph[key]) == "Photograph"] if len(ids) > 1 else ids
    if len(chosen) == 1:
        return chosen[0]
    if not ids:
        raise RunError("The workflow takes no picture: it has no node Load Image.")
    titles = " or ".join(title(graph, key) for key in ids)
    raise RunError(f'Several nodes load pictures. Say which: --image "TITLE=FILE", where TITLE is {titles}.')


def _titled(graph: Graph, text: str, dot: str) -> tuple[str, str]:
    """("TITLE", "rest") of "TITLE<dot>rest" for a title or number in the workflow, or ("", text)."""
    heads = (head for key, node in graph.items() for head in (_title(node), key) if text.startswith(head + dot))
    head = max(heads, key=len, default="")
    return (head, text[len(head) + len(dot) :]) if head else ("", text)


def setting(graph: Graph, text: str) -> tuple[str, str, str]:
    """(node id, input, value) of "TITLE.INPUT=VALUE".

    Raises:
        RunError: There is no such node, or the text has another form.
    """
    head, rest = _titled(graph, text, ".")
    name, equals, value = rest.partition("=")
    if not equals:
        raise RunError(f"{text} has no value: write TITLE.INPUT=VALUE, as in KSampler.steps=30.")
    return (*place(graph, f"{head}.{name}" if head else name), value)


def _declaration(server: str, graph: Graph, key: str, name: str) -> tuple[object, dict]:
    """(type, options) of a node's input; (None, {}) where ComfyUI does not know the node, and will say so.

    Raises:
        RunError: The node has no such input. ComfyUI would ignore it silently.
    """
    node = graph[key]
    info = json.loads(get(server, f"object_info/{node['class_type']}")).get(node["class_type"], {"input": {}})
    declared = info["input"].get("required", {}) | info["input"].get("optional", {})
    if declared and name not in declared.keys() | node["inputs"].keys():
        there = ", ".join(declared)
        raise RunError(f"{title(graph, key)} has no input {name}.{_nearest(name, declared)} It has {there}.")
    kind, *options = declared.get(name, [None])
    return kind, options[0] if options else {}


def _value(server: str, graph: Graph, key: str, name: str, text: str) -> object:
    """What a setting gives to an input: a link, text where the input takes text, else JSON where the text is JSON.

    Raises:
        RunError: The node has no such input, or it takes true or false.
    """
    kind, options = _declaration(server, graph, key, name)
    try:
        value = json.loads(text.lower() if kind == "BOOLEAN" else text)
    except ValueError:
        value = text
    if isinstance(value, list) and len(value) == 2 and isinstance(value[1], int) and str(value[0]) in graph:
        return value
    if kind == "BOOLEAN" and not isinstance(value, bool):  # ComfyUI would take any text for true
        raise RunError(f"{title(graph, key)}: {name} is {_short(text)}, and {KINDS[kind]} is needed.")
    choices = kind if isinstance(kind, list) else options.get("options", ())
    return text if kind == "STRING" or text in choices or isinstance(value, list) else value  # other lists are text


def _links(graph: Graph) -> Iterator[tuple[str, str, list]]:
    for key, node in graph.items():
        for name, value in node["inputs"].items():
            if isinstance(value, list):
                yield key, name, value


def connect_mask(graph: Graph, at: tuple[str, str] | None, pictures: list[str]) -> str:
    """Adds a node that loads a mask, white where it selects; its id.

    Args:
        at: The input that takes it, or None for all inputs that take the transparent part of `pictures`.
        pictures: Ids of Load Image nodes.

    Raises:
        RunError: Nothing takes their transparent part.
    """
    inputs = [at] if at else [(key, name) for key, name, link in _links(graph) if link[0] in pictures and link[1] == 1]
    if not inputs:
        raise RunError('The workflow uses no mask of the picture. Say which input takes it: --mask "TITLE.INPUT=FILE".')
    new = str(max((int(key) for key in graph if key.isdecimal()), default=0) + 1)
    graph[new] = {
        "class_type": "LoadImageMask",
        "inputs": {"image": "", "channel": "red"},
        "_meta": {"title": "Mask file"},
    }
    for key, name in inputs:
        graph[key]["inputs"][name] = [new, 0]
    return new


def points(graph: Graph, results: list[str]) -> list[str]:
    """The inputs that hold places in one picture, "TITLE.INPUT", among those that the nodes `results` depend on."""
    used, todo = set(), list(results)
    while todo:
        if (key := todo.pop()) not in used:
            used.add(key)
            todo += [value[0] for value in graph[key]["inputs"].values() if isinstance(value, list)]
    return [
        f"{title(graph, key)}.{name}"
        for key in graph
        for name, value in graph[key]["inputs"].items()
        if key in used and name in POINTS and value and not isinstance(value, list)
    ]


@dataclass(frozen=True)
class Plan:
    """A workflow with all settings, and its loaders' files: {node id: a picture, or a folder with one for each}."""

    graph: Graph
    files: dict[str, Path]
    main: str | None  # the loader that takes a job's picture

    def of(self, server: str, job: Job) -> Graph:
        """The workflow for a job, with its pictures uploaded."""
        graph = copy.deepcopy(self.graph)
        for key, path in (self.files | ({self.main: job.picture} if self.main and job.picture else {})).items():
            graph[key]["inputs"]["image"] = _uploaded(server, _partner(path, job.picture))
        return graph


_uploaded = functools.cache(upload)


def _partner(path: Path, picture: Path | None) -> Path:
    """The file itself, or that of a folder which has the picture's name."""
    if path.is_file():
        return path
    if picture is None:
        raise RunError(f"{path} is a folder: name a file, or pictures by --images.")
    files = [file for file in path.iterdir() if file.stem == picture.stem and file.suffix.lower() in PICTURES]
    if not files:
        raise RunError(f"No picture in the folder {path} is named as {picture.name}.")
    return files[0]


def _path(text: str) -> Path:
    path = Path(text).expanduser()
    if not path.exists():
        raise RunError(f"There is no file {text}.")
    return path


def plan(options: argparse.Namespace) -> Plan:
    """What the command line asks for.

    Raises:
        RunError: The workflow, a file, a node or an input is not there, or the points are those of another picture.
    """
    graph = load(options.workflow)
    results = sorted(graph.keys() - {link[0] for _, _, link in _links(graph)})
    files = {}
    for text in options.image:
        head, file = _titled(graph, text, "=")
        if not head and "=" in text and not Path(text).exists():
            head, _, file = text.partition("=")
        files[node_id(graph, head) if head else loader(graph)] = path = _path(file)
        if path.is_dir() and not options.images:
            raise RunError(f"{path} is a folder: --images runs the workflow for each picture in it.")
    main = loader(graph) if options.images else next(iter(files), None)
    settings = [setting(graph, text) for text in options.set]
    masks = []
    for text in options.mask:
        *at, file = setting(graph, text) if "=" in text and not Path(text).exists() else (text,)
        masks.append((tuple(at), _path(file)))
    for key, name, text in settings:
        graph[key]["inputs"][name] = _value(options.server, graph, key, name, text)
    pictures = [key for key in [main, *files] if key] or [k for k, n in graph.items() if n["class_type"] == "LoadImage"]
    for at, path in masks:
        if at:
            _declaration(options.server, graph, *at)
        files[connect_mask(graph, at or None, pictures)] = path
    places = points(graph, results) if main else []
    if places and not any(name in POINTS for _, name, _ in settings):
        raise RunError(
            f"{' and '.join(places)} of {options.workflow} hold places in another picture. Give those in yours, in "
            f'pixels: --set "{places[0]}={EXAMPLES[places[0].rpartition(".")[2]]}".'
        )
    return Plan(graph, files, main)


LIST = '[{\\"x\\": 120, \\"y\\": 80}]'
EXAMPLES = dict.fromkeys(POINTS, LIST) | {
    "picks": f'{{\\"positive\\": {LIST}}}',
    "bboxes": '{\\"x\\": 80, \\"y\\": 40, \\"width\\": 120, \\"height\\": 90}',
}


class Bar:
    """A line with the share that is done, where somebody sees it."""

    def __init__(self, name: str):
        self.name, self.start, self.shown = name, time.monotonic(), sys.stderr.isatty()

    def __call__(self, share: float) -> None:
        if self.shown:
            filled = "#" * round(30 * share)
            line = f"{self.name}  {filled:.<30} {100 * share:3.0f} %  {self.elapsed}"
            width = shutil.get_terminal_size().columns - 1
            print(f"\r{line[-width:]:{width}}", end="", file=sys.stderr, flush=True)

    @property
    def elapsed(self) -> str:
        seconds = round(time.monotonic() - self.start)
        return f"{seconds // 60}:{seconds % 60:02}"

    def clear(self) -> None:
        if self.shown:
            print(f"\r{'':{shutil.get_terminal_size().columns - 1}}\r", end="", file=sys.stderr, flush=True)


def _play(server: str, plan: Plan, job: Job) -> None:
    bar = Bar(job.name)
    bar(0.0)
    try:
        graph = plan.of(server, job)
        paths = save(server, graph, run(server, graph, bar), job.target)
    except OSError as error:  # of a file here: those of the server are RunErrors
        raise RunError(f"{error.filename}: {error.strerror}.") from error
    finally:
        bar.clear()
    print(f"{job.name} -> {', '.join(map(str, paths))}  ({bar.elapsed})", flush=True)


def _play_all(server: str, plan: Plan, jobs: list[Job], again: bool) -> int:
    """Runs a job for each picture, goes on after one that fails, and says how many were done; the exit status."""
    counts, todo = Counter(), [job for job in jobs if again or not job.done]
    try:
        for job in todo:
            try:
                _play(server, plan, job)
                counts["done"] += 1
            except Gone:
                raise
            except RunError as error:
                counts["failed"] += 1
                print(f"{job.name} failed: {error}", file=sys.stderr, flush=True)
    finally:
        left = len(todo) - counts.total()
        numbers = {
            "done": counts["done"],
            "done before": len(jobs) - len(todo),
            "failed": counts["failed"],
            "left": left,
        }
        print(", ".join(f"{number} {what}" for what, number in numbers.items() if number) + ".")
        if left or counts["failed"]:
            print("The same command goes on with those that are not done.")
    return 1 if counts["failed"] else 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python3 run.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workflow", help=f"a file in the API's form, or one of {', '.join(names())}")
    parser.add_argument(
        "--image",
        action="append",
        default=[],
        metavar="[TITLE=]FILE",
        help="the picture that goes in; with the title of a Load Image node where there are several",
    )
    parser.add_argument(
        "--images",
        nargs="+",
        default=[],
        metavar="PATTERN",
        help='a run for each of these pictures: "in/*.jpg", "in/**/*.png" or a folder. Those whose results are there '
        "are skipped",
    )
    parser.add_argument(
        "--mask",
        action="append",
        default=[],
        metavar="[TITLE.INPUT=]FILE",
        help="a picture that is white where the mask is, in place of the picture's transparent part or for this input; "
        "or a folder with one of the same name for each picture",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="TITLE.INPUT=VALUE",
        help='an input of the node with this title (or number), as text or JSON; ["2", 0] connects output 0 of node 2',
    )
    parser.add_argument("--out", default="out", metavar="FOLDER", help="where the results go (out)")
    parser.add_argument("--again", action="store_true", help="with --images: also those whose results are there")
    parser.add_argument("--inputs", action="store_true", help="list what --set can set, and run nothing")
    parser.add_argument("--server", default=SERVER, type=address, metavar="URL", help=f"ComfyUI's address ({SERVER})")
    return parser


def address(text: str) -> str:
    """ComfyUI's address as a user writes it, with http:// where it was left out."""
    return (text if "://" in text else f"http://{text}").rstrip("/")


def _listing(graph: Graph) -> str:
    return "\n".join(
        f"{title(graph, key)}.{name} = {value if isinstance(value, str) else json.dumps(value)}"
        for key, node in graph.items()
        for name, value in node["inputs"].items()
        if not isinstance(value, list)
    )


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; the exit status: 0 when everything was saved, 130 after Ctrl-C, else 1."""
    options = parser().parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # a Windows console may lack the letters of a name
    try:
        if options.inputs:
            print(_listing(load(options.workflow)))
            return 0
        work, out = plan(options), Path(options.out).expanduser()
        if options.images:
            return _play_all(options.server, work, jobs(options.images, out), options.again)
        _play(options.server, work, _job(work.files.get(work.main), options.workflow, out))
        return 0
    except RunError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted: ComfyUI stops the run, too.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
