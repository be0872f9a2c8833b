"""Grids in ComfyUI's server: the runs, and the routes by which the node speaks with them."""

import asyncio
import json
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from types import SimpleNamespace

import pytest
from execution import PromptQueue

from kit.grid import INFO, shown, spanned
from pentimento.model_patchers.grid import folder, run
from pentimento.model_patchers.grid.expand import GridError, digest
from pentimento.routes import grid, grid_runs
from pentimento.routes.refused import Refused

AXES = {"KSampler.seed": [1, 2, 3], "KSampler.cfg": [5, 6]}
USER = {"9": {"class_type": "SaveImage", "inputs": {}}}
PICTURE = {
    "1": {
        "class_type": "EmptyImage",
        "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0},
        "_meta": {"title": "Picture"},
    },
    "2": {
        "class_type": "SaveImage",
        "inputs": {"images": ["1", 0], "filename_prefix": "grid"},
        "_meta": {"title": "Result"},
    },
    "3": {"class_type": "PentimentoGrid", "inputs": {"grid": ""}, "_meta": {"title": "Infinite Grid"}},
}


# A server in this process: ComfyUI's queue, and a worker that runs a prompt when the test lets it


class Worker:
    """What `Runs` uses of ComfyUI's server. It runs `allowed` prompts and then waits.

    A picture's bytes are its prompt. Steps 13 are refused, cfg 66 fails, and cfg 77 is hooked by a pack with a fault.
    """

    def __init__(self, path, allowed=10**6):
        self.ran, self.events, self.output = [], [], path
        self.prompt_queue, self.loop = PromptQueue(self), asyncio.new_event_loop()
        self.routes = [
            SimpleNamespace(prefix="/static"),  # a folder that a pack serves
            SimpleNamespace(method="POST", path="/prompt", handler=self._post_prompt),
            SimpleNamespace(method="POST", path="/interrupt", handler=self._post_interrupt),
        ]
        self.allowed, self.ends = threading.Semaphore(allowed), False
        for work in (self.loop.run_forever, self._work):
            threading.Thread(target=work, daemon=True).start()

    def close(self):
        self.ends = True
        self.loop.call_soon_threadsafe(self.loop.stop)

    def queue_updated(self):
        pass

    def send_sync(self, event, data):
        self.events.append((event, data))

    async def _post_prompt(self, request):
        body = await request.json()
        inputs = body["prompt"]["6"]["inputs"]
        if inputs["cfg"] == 77:
            raise KeyError("cfg")
        if inputs["steps"] == 13:
            error = {"message": "Value not in list", "details": "steps: 13"}
            answer = {"error": {"message": "Prompt outputs failed"}, "node_errors": {"6": {"errors": [error, error]}}}
            return SimpleNamespace(status=400, text=json.dumps(answer))
        self.put(body["number"], body["prompt_id"], body["prompt"], body["extra_data"])
        return SimpleNamespace(status=200, text=json.dumps({"prompt_id": body["prompt_id"], "node_errors": {}}))

    async def _post_interrupt(self, request):
        return SimpleNamespace(status=200, text="")

    def put(self, number, prompt_id, prompt, extra):
        self.prompt_queue.put((number, prompt_id, prompt, extra, ["8"], {}))

    def _work(self):
        while not self.ends:
            if (item := self.prompt_queue.get(timeout=0.05)) is None:
                continue
            (_, prompt_id, prompt, *_), place = item
            while not self.allowed.acquire(timeout=0.05):
                if self.ends:
                    return
            self._run(prompt_id, prompt, place)

    def _run(self, prompt_id, prompt, place):
        self.ran.append(prompt)
        outputs, messages = {}, [("execution_start", {"timestamp": 1000}), ("execution_success", {"timestamp": 1500})]
        if prompt.get("6", {}).get("inputs", {}).get("cfg") == 66:
            failure = {"node_id": "6", "node_type": "KSampler", "exception_message": "unlucky\n", "timestamp": 1250}
            messages[1] = ("execution_error", failure)
        else:
            name = f"{len(self.ran)}.png"
            (self.output / name).write_text(json.dumps(prompt, sort_keys=True))
            outputs = {"8": {"images": [{"filename": name, "subfolder": "", "type": "output"}]}}
        status = PromptQueue.ExecutionStatus("success", True, messages)
        self.prompt_queue.task_done(place, {"outputs": outputs}, status, lambda item: item[:5])


@pytest.fixture
def output(tmp_path, monkeypatch):
    import folder_paths

    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path / "output"))
    monkeypatch.setattr(folder_paths, "input_directory", str(tmp_path / "input"))
    (tmp_path / "input").mkdir()
    (tmp_path / "output").mkdir()
    return tmp_path / "output"


@pytest.fixture
def worker(output):
    worker = Worker(output, allowed=0)
    yield worker
    worker.close()


@pytest.fixture
def runs(worker):
    return grid_runs.Runs(worker)


def wait(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def until(runs, state, key="a"):
    wait(lambda: runs.state(key)["state"] == state)
    return runs.state(key)


def let(worker, prompts=10**6):
    worker.allowed.release(prompts)


def queued(worker):
    running, waiting = worker.prompt_queue.get_current_queue_volatile()
    return [len(running), len(waiting)]


def test_a_grid_runs_whole_and_a_second_run_runs_nothing(runs, worker, output):
    spanning = spanned(AXES, title="T")
    assert runs.start("a", spanning, output / "g", INFO)["total"] == 6
    let(worker)
    state = until(runs, "done")
    assert (state["done"], state["failed"], state["folder"], state["title"]) == (6, 0, "g", "T")
    assert sorted(shown(output / "g")[1]) == list(range(6))
    assert len({digest(graph) for graph in worker.ran}) == 6
    assert all(event == "pentimento.grid" for event, _ in worker.events)
    assert worker.events[-1][1] == state
    runs.start("a", spanning, output / "g", INFO)
    assert until(runs, "done")["done"] == 6
    assert len(worker.ran) == 6


def test_what_the_user_queues_goes_first(runs, worker, output):
    runs.start("a", spanned(AXES), output / "g", INFO)
    wait(lambda: queued(worker) == [1, 1])
    worker.put(3, "user", USER, {})
    let(worker)
    until(runs, "done")
    assert worker.ran[1] == USER


def test_pause_ends_the_running_cell_and_run_goes_on(runs, worker, output):
    runs.start("a", spanned(AXES), output / "g", INFO)
    let(worker, 2)
    wait(lambda: len(worker.ran) == 2 and queued(worker) == [1, 1])
    assert runs.pause("a")["state"] == "pausing"
    wait(lambda: queued(worker) == [1, 0])
    with pytest.raises(GridError, match="This grid is running already"):
        runs.start("a", spanned(AXES), output / "g", INFO)
    let(worker)
    assert until(runs, "paused")["done"] == 3
    assert len(worker.ran) == 3
    assert shown(output / "g")[0]["progress"]["running"] is False
    runs.start("a", spanned(AXES), output / "g", INFO)
    assert until(runs, "done")["done"] == 6
    assert len(worker.ran) == len({digest(graph) for graph in worker.ran}) == 6


def test_pause_without_a_running_cell_ends_at_once(runs, worker, output):
    worker.put(0, "user", USER, {})
    wait(lambda: queued(worker) == [1, 0])
    runs.start("a", spanned(AXES), output / "g", INFO)
    wait(lambda: queued(worker) == [1, 2])
    runs.pause("a")
    assert until(runs, "paused")["done"] == 0
    assert queued(worker) == [1, 0]
    assert runs.pause("nobody") == {}


def test_grids_run_one_after_the_other(runs, worker, output):
    first, second = spanned(AXES), spanned({"KSampler.steps": [1, 2]})
    runs.start("a", first, output / "g", INFO)
    until(runs, "running")
    for key in ("b", "c"):
        runs.start(key, second, output / key, INFO)
    runs.pause("c")
    until(runs, "paused", "c")
    assert runs.state("b")["state"] == "waiting"
    let(worker)
    until(runs, "done", "b")
    assert runs.state("a")["state"] == "done"
    assert [graph["6"]["inputs"]["steps"] for graph in worker.ran] == [4] * 6 + [1, 2]


def test_failed_cells_are_said_and_the_others_go_on(runs, worker, output):
    axes = {"KSampler.cfg": [5, 66, 77], "KSampler.steps": [1, 13]}
    runs.start("a", spanned(axes), output / "g", INFO)
    let(worker)
    state = until(runs, "done")
    assert (state["done"], state["failed"]) == (1, 5)
    assert "66, 1: KSampler: unlucky" in state["failures"]
    assert "5, 13: KSampler: Value not in list (steps: 13)" in state["failures"]
    assert "77, 1: ComfyUI could not queue the workflow: 'cfg'" in state["failures"]
    assert shown(output / "g")[1][2] == {"error": "KSampler: unlucky", "seconds": 0.25}


def test_a_cell_taken_out_of_the_queue_stops_the_grid(runs, worker, output):
    runs.start("a", spanned(AXES), output / "g", INFO)
    wait(lambda: queued(worker) == [1, 1])
    worker.prompt_queue.wipe_queue()
    assert until(runs, "stopped")["sentence"] == "A cell was taken out of ComfyUI's queue, so the grid stops."


def test_a_fault_of_our_own_is_logged_and_said(runs, worker, output, caplog):
    runs.start("a", spanned(AXES), output / "g", {"KSampler": None})
    assert until(runs, "stopped")["sentence"].endswith("which ComfyUI's log shows.")
    assert "the grid Grid stopped" in caplog.text


def test_files_are_read_in_comfyuis_folders_alone(worker, output):
    here = grid_runs.Here(worker, threading.Event())
    (output.parent / "secret.png").write_bytes(b"secret")
    (output / "x.png").write_bytes(b"x")
    assert here.fetch({"filename": "x.png", "subfolder": "", "type": "output"}) == b"x"
    for name, subfolder, kind in (("../secret.png", "", "output"), ("y.png", "", "output"), ("", "", "temp")):
        with pytest.raises(grid_runs.Lost):
            here.fetch({"filename": name, "subfolder": subfolder, "type": kind})


# Folders


def test_another_grids_folder_and_a_foreign_one_are_refused(runs, worker, output):
    (output / "foreign").mkdir()
    (output / "foreign" / "index.html").write_text("mine")
    with pytest.raises(GridError, match="holds files that no grid made"):
        runs.start("a", spanned(AXES), output / "foreign", INFO)
    assert [file.name for file in (output / "foreign").iterdir()] == ["index.html"]
    folder.claim(output / "other", "b")
    with pytest.raises(GridError, match="holds another grid's results"):
        runs.start("a", spanned(AXES), output / "other", INFO)
    assert runs.state("a") == {}


def test_a_folder_is_one_runs_at_a_time(runs, worker, output):
    folder.claim(output / "g", "a")
    with run.alone(output / "g"):
        runs.start("a", spanned(AXES), output / "g", INFO)
        assert "Another run is writing to" in until(runs, "stopped")["sentence"]
    assert worker.ran == []


def test_a_node_keeps_its_folder_and_titles_get_folders_of_their_own(output):
    def place(key, **fields):
        return grid.results(output, spanned(AXES, path=output.parent, **fields), key)

    assert place("a", title="Cats") == output / "grids" / "Cats"
    folder.claim(output / "grids" / "Cats", "a")
    (output / "grids" / "cats 2").mkdir()
    assert place("a", title="Dogs") == output / "grids" / "Cats"
    assert place("b", title="Cats") == output / "grids" / "Cats 3"
    assert place("b", title="../../x").parent == output / "grids"
    assert place("b", title="Cats", out="mine/cats") == output / "mine" / "cats"
    with pytest.raises(GridError, match=r"out: \. is ComfyUI's output folder itself"):
        place("b", out=".")
    (output / "away").symlink_to(output.parent)
    with pytest.raises(GridError, match="out: .* leaves the folder"):
        place("b", out="away/x")


# Requests


def asked(text="axes: {Picture.color: '1, 2'}", **changes):
    return {"key": "graph:3", "name": "cats", "text": text, "prompt": PICTURE, "workflow": None, **changes}


def test_the_grid_is_over_the_graph_without_the_grid_node(output):
    request = grid.read_request(json.dumps(asked("axes: {Picture.color: '1, 2'}")).encode())
    spanning, faults = grid.read_grid(request)
    assert (faults, spanning.title, spanning.size(), sorted(spanning.graph)) == ([], "cats", 2, ["1", "2"])
    (output.parent / "input" / "colours.txt").write_text("7\n8\n9")
    text = "title: Mine\naxes:\n  Picture.color: {lines: colours.txt}"
    spanning, faults = grid.read_grid(grid.read_request(json.dumps(asked(text)).encode()))
    assert (faults, spanning.title, spanning.size()) == ([], "Mine", 3)


def test_english_names_hold_where_the_front_end_speaks_another_language(output):
    chinese = {key: {**node, "_meta": {"title": f"\u56fe{key}"}} for key, node in PICTURE.items()}
    body = asked("axes:\n  EmptyImage.color: 1, 2\n  Save Image.filename_prefix: a, b", prompt=chinese)
    spanning, faults = grid.read_grid(grid.read_request(json.dumps({**body, "untitled": ["1", "2"]}).encode()))
    assert faults == []
    assert spanning.size() == 4
    assert [node["_meta"]["title"] for node in spanning.graph.values()] == ["\u56fe1", "\u56fe2"]
    assert spanning.original == {key: chinese[key] for key in "12"}
    sentences = grid.read_grid(grid.read_request(json.dumps({**body, "untitled": ["1"]}).encode()))[1]
    assert [sentence.split(":")[0] for sentence in sentences] == ["Save Image.filename_prefix"]


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("workflow: x.json\naxes: {Picture.color: 1}", ["runs this graph: remove the field workflow."]),
        ("interface: x.json\naxes: {Picture.color: 1}", ["runs this graph: remove the field interface."]),
        ("out: ../x\naxes: {Picture.color: 1}", ["leaves the folder"]),
        ("axes: {Picture.color: {lines: ../secret.txt}}", ["leaves the folder"]),
        ("axes: {Infinite Grid.grid: 1}", ["no node is called Infinite Grid"]),
        ("axis: 1", ["has no field axis. Is it axes?", "The grid file has no axes"]),
    ],
)
def test_faults_of_the_text(output, text, faults):
    _, sentences = grid.read_grid(grid.read_request(json.dumps(asked(text)).encode()))
    assert len(sentences) == len(faults)
    assert all(fault in sentence for fault, sentence in zip(faults, sentences, strict=True))


@pytest.mark.parametrize(
    "changes",
    [
        {"key": ""},
        {"key": "x" * 201},
        {"key": 5},
        {"text": None},
        {"text": "\0"},
        {"prompt": []},
        {"prompt": {"1": {"class_type": 5, "inputs": {}}}},
        {"prompt": {"1": {}}},
        {"workflow": {}},
        {"workflow": 3},
        {"places": {"1": {"color": ["", "1"]}}},
        {"places": {"1": {"color": ["", "1", "0"]}}},
        {"places": {"1": {"color": ["", 1, 0]}}},
        {"places": []},
        {"untitled": [1]},
    ],
)
def test_malformed_requests_are_refused(changes):
    for body in (json.dumps(asked(**changes)).encode(), b"[", b"3"):
        with pytest.raises(Refused) as refusal:
            grid.read_request(body)
        assert refusal.value.status == 400


def test_a_graph_of_the_grid_alone_is_refused():
    with pytest.raises(Refused, match="no node beside the grid"):
        grid.read_request(json.dumps(asked(prompt={"3": PICTURE["3"]})).encode())


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, True),
        ({"Sec-Fetch-Site": "same-origin"}, True),
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": "same-site"}, False),
        ({"Origin": "http://comfy:8188", "Host": "comfy:8188"}, True),
        ({"Origin": "http://comfy:8189", "Host": "comfy:8188"}, False),
        ({"Origin": "http://evil", "Host": "comfy:8188"}, False),
        ({"Origin": "null", "Host": "comfy:8188"}, False),
        ({"Origin": "http://evil"}, False),
    ],
)
def test_only_comfyuis_own_page_may_change_anything(headers, expected):
    assert grid.same_origin(headers) is expected


def test_the_files_of_a_grid_are_served_and_no_others(output):
    answers = grid.Answers(SimpleNamespace(prompt_queue=None, routes=[]))
    folder.claim(output / "a" / "g", "x")
    for name in ("index.html", "data.js", "cells/1.png", "cells/2.svg", "cells/3.html", "cells/4.mp4", "cells/5.js"):
        (output / "a" / "g" / name).parent.mkdir(exist_ok=True)
        (output / "a" / "g" / name).write_text("x")
    (output / "mine.png").write_text("x")
    (output.parent / "secret.png").write_text("x")
    (output / "a" / "g" / "link.png").symlink_to(output.parent / "secret.png")
    kinds = {name: answers.file(f"a/g/{name}")[1] for name in ("index.html", "cells/1.png", "cells/4.mp4")}
    assert [*kinds.values()] == ["text/html", "image/png", "video/mp4"]
    assert answers.file("a/g/data.js")[1] == "text/javascript"
    for name in ("cells/2.svg", "cells/3.html", "cells/5.js"):
        assert answers.file(f"a/g/{name}")[1] == "application/octet-stream"
    for name, status in (
        ("mine.png", 404),
        ("a/g/cells", 404),
        ("a/g/none.png", 404),
        ("../secret.png", 403),
        ("a/g/../../../secret.png", 403),
        ("a/g/link.png", 403),
        (str(output.parent / "secret.png"), 403),
        ("a\0", 403),
    ):
        with pytest.raises(Refused) as refusal:
            answers.file(name)
        assert refusal.value.status == status, name


# A real server


def ask(server, path, body=None, **headers):
    """(status, answer) of a request."""
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(f"{server}{path}", data, {"Content-Type": "application/json", **headers})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def answered(server, path, body=None):
    status, answer = ask(server, f"/pentimento/grid{path}", body)
    assert status == 200, answer
    return json.loads(answer)


def test_check_run_and_view_on_a_server(server):
    text = "title: Colours\naxes:\n  Picture.color: 1, 2, 3\n  Picture.width: 8, 16"
    body = asked(text, key=f"route:{time.time()}")
    counted, checked = answered(server, "/check", {**body, "quick": True}), answered(server, "/check", body)
    assert counted["cells"] == 6
    assert counted["inputs"] == checked["inputs"] == ["1.color", "1.width"]
    assert (checked["cells"], checked["missing"], checked["page"], checked["seconds"]) == (6, 6, False, None)
    assert checked["runs"] == checked["nodes"] == 12
    assert [axis["title"] for axis in checked["axes"]] == ["Picture.width", "Picture.color"]
    bad = answered(server, "/check", asked("axes: {Picture.colour: 1, Picture.width: '-3'}"))["faults"]
    assert len(bad) == 2
    assert answered(server, "/run", body)["total"] == 6
    key = urllib.parse.urlencode({"key": body["key"]})
    wait(lambda: answered(server, f"?{key}")["state"] == "done")
    state = answered(server, f"?{key}")
    assert (state["done"], state["failed"]) == (6, 0)
    place = urllib.parse.quote(state["folder"])
    for route in ("", "/api"):
        status, page = ask(server, f"{route}/pentimento/grid/view/{place}/index.html")
        assert (status, page[:9].lower()) == (200, b"<!doctype")
    data = ask(server, f"/pentimento/grid/view/{place}/data.js")[1].decode()
    cells = dict(json.loads(data.removeprefix("pentimentoGrid(").removesuffix(");\n"))["cells"])
    assert sorted(cells) == list(range(6))
    assert ask(server, f"/pentimento/grid/view/{place}/{urllib.parse.quote(cells[5]['files'][0])}")[1][:4] == b"\x89PNG"
    assert answered(server, "/check", body)["missing"] == 0


def test_the_server_refuses_other_pages_long_bodies_and_ways_out(server):
    for headers in ({"Origin": "http://evil"}, {"Sec-Fetch-Site": "same-site"}, {"Content-Type": "text/plain"}):
        assert ask(server, "/pentimento/grid/run", asked(), **headers)[0] == 403
    assert ask(server, "/pentimento/grid/pause", b" " * (grid.LIMIT + 1))[0] == 413
    assert ask(server, "/pentimento/grid/pause", b"{}")[0] == 400
    for path in ("..%2f..%2fserver.log", "%2fetc%2fpasswd", "grids/none/index.html"):
        assert ask(server, f"/pentimento/grid/view/{path}")[0] in (403, 404)
    assert answered(server, "?key=nobody") == {}
