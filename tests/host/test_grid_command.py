"""python3 host grid, on a ComfyUI of the standard library and on a real one."""

import json
import signal
import subprocess
import sys

import pytest
from PIL import Image

from kit.fake_comfyui import FakeComfyUI
from kit.grid import node, pictures, shown, written
from kit.grid_command import SQUARES, arguments, call, start, wait
from kit.process import kill_tree
from pentimento.model_patchers.grid.expand import digest
from pentimento_host import client
from pentimento_host import grid as command
from pentimento_host.environment import HostError

FILE = """
title: Cats
workflow: workflow.json
axes:
  KSampler.seed: 1, 2, ..., 4
  KSampler.cfg: 5, 6
  Model.ckpt_name: a.safetensors, b.safetensors
"""


@pytest.fixture
def fake():
    with FakeComfyUI() as server:
        yield server


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "cats.yaml").write_text(FILE)
    return written(tmp_path)


def test_check_says_the_count_and_the_cost(fake, folder):
    status, output, complaints = call("check", fake.address, cwd=folder)
    assert (status, complaints) == (0, "")
    assert output.splitlines() == [
        "Cats: 16 cells (Model.ckpt_name: 2, KSampler.cfg: 2, KSampler.seed: 4; the last axis changes first).",
        "All cells together run 57 of 128 nodes: ComfyUI keeps what does not change.",
        "Models are loaded by Model 2 times, LoRA 2 times.",
        "No cell has run yet, so the time is not known.",
        f"The results go to {folder / 'cats'}.",
    ]
    assert not (folder / "cats").exists()
    call("run", fake.address, "--only", "KSampler.seed=1", cwd=folder)
    lines = call("check", fake.address, cwd=folder)[1].splitlines()
    assert lines[1] == "4 of them are there, and 12 are left."
    assert lines[4] == "Those that are left take about 6 s, 0.5 s a cell as in 4 cells."


def test_check_names_all_faults_at_once(fake, folder):
    (folder / "bad.yaml").write_text(
        "workflow: workflow.json\nout: ../x\n"
        "axes: {KSampler.cfg: '-1, 5', Nobody.x: '1', KSampler.sampler_name: 'eulr'}"
    )
    for action in ("check", "run"):
        status, output, complaints = call(action, fake.address, "--only", "A=b", cwd=folder, file="bad.yaml")
        assert (status, output) == (1, "")
        assert len(complaints.splitlines()) == 5
    assert sorted(path.name for path in folder.iterdir()) == ["bad.yaml", "cats.yaml", "workflow.json"]


def test_a_run_saves_all_cells_and_says_so(fake, folder):
    status, output, complaints = call("run", fake.address, cwd=folder)
    assert status == 0
    assert output == f"Cats: 16 of 16 cells done. The results are in {folder / 'cats'}.\n"
    assert complaints.startswith("1 of 16 cells, ")
    assert len(pictures(folder / "cats")) == len(fake.ran) == 16
    assert call("run", fake.address, cwd=folder)[0] == 0
    assert len(fake.ran) == 16


def test_the_command_runs_from_a_shell(fake, folder):
    result = subprocess.run(arguments("check", fake.address), cwd=folder, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("Cats: 16 cells")


def test_a_run_that_is_killed_goes_on(fake, folder):
    fake.seconds = 0.02
    process = start("run", fake.address, cwd=folder)
    wait(lambda: len(fake.ran) >= 5)
    kill_tree(process)
    process.communicate()
    assert not call("run", fake.address, cwd=folder)[0]
    assert len(pictures(folder / "cats")) == len(fake.ran) == 16
    assert [data["1"]["inputs"]["ckpt_name"] for data in fake.ran] == ["a.safetensors"] * 8 + ["b.safetensors"] * 8


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends Ctrl-C to all processes of a console")
def test_ctrl_c_empties_the_queue_and_says_how_to_go_on(fake, folder):
    fake.open.clear()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = start("run", fake.address, cwd=folder)
    finally:
        signal.signal(signal.SIGINT, before)
    wait(lambda: len(fake.pending) == 2)
    process.send_signal(signal.SIGINT)
    _, complaints = process.communicate()
    assert process.returncode == 130
    assert "Interrupted. The same command goes on." in complaints
    assert fake.pending == []


def test_failed_cells_are_said_and_the_others_go_on(fake, folder):
    (folder / "cats.yaml").write_text(FILE.replace("5, 6", "5, 66").replace("title", "set: {KSampler.steps: 4}\ntitle"))
    status, output, complaints = call("run", fake.address, cwd=folder)
    assert status == 1
    assert "Cats: 8 of 16 cells done, 8 failed." in output
    assert "The same command tries those that failed again." in output
    assert "Failed: 1, 66, a.safetensors: KSampler: unlucky\n" in complaints
    (folder / "cats.yaml").write_text(
        FILE.replace("5, 6", "5").replace("Model.ckpt_name: a", "KSampler.steps: 13, 4 #")
    )
    assert "Failed: 1, 5, 13: KSampler: 13 is one too many\n" in call("run", fake.address, cwd=folder)[2]
    _, cells = shown(folder / "cats")
    assert cells[0] == {"error": "KSampler: 13 is one too many"}


def test_what_the_user_queues_comes_first(fake, folder):
    fake.open.clear()
    process = start("run", fake.address, cwd=folder)
    wait(lambda: len(fake.pending) == 2)
    with fake.changed:
        fake.pending.append((3, "mine", {"6": {"inputs": {"cfg": 1, "own": True}}}, {"client_id": "me"}))
    fake.open.set()
    assert process.wait() == 0
    process.communicate()
    assert [graph["6"]["inputs"].get("own", False) for graph in fake.ran].index(True) <= 1


def test_a_cell_that_is_taken_out_of_the_queue_stops_the_grid(fake, folder):
    fake.open.clear()
    process = start("run", fake.address, cwd=folder)
    wait(lambda: len(fake.pending) == 2)
    with fake.changed:
        fake.pending.clear()
    _, complaints = process.communicate()
    assert process.returncode == 1
    sentence = "A cell was taken out of ComfyUI's queue, so the grid stops. 0 of 16 cells done, 16 left."
    assert complaints.endswith(f"{sentence} The same command goes on.\n")


def test_events_that_went_elsewhere_are_asked_for(fake, folder, monkeypatch):
    monkeypatch.setattr(fake, "tell", lambda client_id, event: None)
    monkeypatch.setattr(command, "WAIT", 0.05)
    assert call("run", fake.address, "--only", "KSampler.seed=1", "--only", "KSampler.cfg=5", cwd=folder)[0] == 0


def test_a_lost_file_is_made_again(fake, folder):
    fake.gone = {"0.png"}
    assert call("run", fake.address, cwd=folder)[0] == 0
    assert (fake.freed, len(fake.ran)) == (1, 17)


def test_a_server_that_is_not_there_is_said(folder):
    status, _, complaints = call("check", "127.0.0.1:9", cwd=folder)
    assert status == 1
    assert complaints.startswith("ComfyUI does not answer at http://127.0.0.1:9")


def test_a_second_run_at_the_same_time_is_refused(fake, folder):
    (folder / "cats").mkdir()
    with command.alone(folder / "cats"):
        status, _, complaints = call("run", fake.address, cwd=folder)
    assert (status, complaints) == (
        1,
        f"Another run is writing to {folder / 'cats'}. Wait for its end, or stop it.\n",
    )
    assert call("run", fake.address, cwd=folder)[0] == 0


def test_a_full_disk_is_said(fake, folder, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device", "cats/a.png")

    monkeypatch.setattr(command.Folder, "put", full)
    status, _, complaints = call("run", fake.address, cwd=folder)
    assert status == 1
    assert complaints.endswith("cats/a.png: No space left on device. The same command goes on.\n")


def test_view_opens_the_page(fake, folder, monkeypatch):
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    status, _, complaints = call("view", "127.0.0.1:9", cwd=folder)
    assert (status, opened) == (1, [])
    assert complaints.startswith("No cell has run yet")
    call("run", fake.address, cwd=folder)
    assert call("view", "127.0.0.1:9", cwd=folder)[:2] == (0, f"{folder / 'cats' / 'index.html'}\n")
    assert opened == [(folder / "cats" / "index.html").as_uri()]


def test_what_ray_needs_is_said(folder, monkeypatch):
    """A right file, Ray in this Python, and a cluster at the address."""
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(HostError, match=r"Ray is not installed in .* python3 host setup --ray\."):
        call("run", None, "--ray", cwd=folder)
    with pytest.raises(HostError, match="Several ComfyUIs run a grid with Ray alone: add --ray"):
        call("run", "one", "--server", "another", cwd=folder)
    (folder / "cats.yaml").write_text("workflow: workflow.json")
    assert call("run", None, "--ray", cwd=folder)[2].startswith("The grid file has no axes")


def test_times_are_words():
    assert [command.duration(seconds) for seconds in (5, 89, 600, 9000)] == ["5 s", "89 s", "10 min", "2 h 30 min"]


REAL = """
title: Squares
workflow: squares.json
interface: squares_ui.json
axes:
  Square.color: 1, 200, 60000
  Square.width: 16, 24, 32, 40
  Noise.seed: 1, 2
  Square.batch_size: 1, 2
"""
MORE = REAL.replace("60000", "60000, 70000") + "  Noise.strength: 0.25, 0.5\n"


def widgets(number, class_type, values, **links):
    names = [*links, *values]
    inputs = [
        {"name": name, "link": links.get(name)} | ({"widget": {"name": name}} if name in values else {})
        for name in names
    ]
    return {"id": number, "type": class_type, "inputs": inputs, "widgets_values": [*values.values()]}


SQUARES_UI = {
    "version": 0.4,
    "nodes": [
        widgets(1, "EmptyImage", {"width": 16, "height": 16, "batch_size": 1, "color": 1}),
        widgets(2, "ImageAddNoise", {"seed": 1, "control": "fixed", "strength": 0.5}, image=1),
        widgets(3, "SaveImage", {"filename_prefix": "grid/squares"}, images=2),
    ],
}
SQUARES_UI["nodes"][1]["inputs"].pop(2)  # the control of a seed is no input


def ran(server):
    """The digest of each prompt over squares that ran."""
    history = json.loads(client.get(server, "history")).values()
    graphs = [entry["prompt"][2] for entry in history]
    return [
        digest(graph)
        for graph in graphs
        if graph.get("3", {}).get("inputs", {}).get("filename_prefix") == "grid/squares"
    ]


def test_a_grid_on_a_real_comfyui_that_is_killed_and_extended(server, tmp_path):
    """No cell twice, none missing, the bytes of an undisturbed run; then a value and an axis run new cells alone."""
    folders = [tmp_path / "killed", tmp_path / "undisturbed"]
    for folder in folders:
        folder.mkdir()
        (folder / "squares.yaml").write_text(REAL)
        (folder / "squares.json").write_text(json.dumps(SQUARES))
        (folder / "squares_ui.json").write_text(json.dumps(SQUARES_UI))
    killed, undisturbed = folders
    process = start("run", server, cwd=killed, file="squares.yaml")
    wait(lambda: len(pictures(killed)) >= 3 or process.poll() is not None)
    kill_tree(process)
    process.communicate()
    assert len(pictures(killed)) < 72
    status, _, complaints = call("run", server, cwd=killed, file="squares.yaml")
    assert status == 0, complaints
    first = ran(server)
    assert len(first) == len(set(first)) == 48

    assert call("run", server, cwd=undisturbed, file="squares.yaml")[0] == 0
    before = pictures(killed)
    assert len(before) == 72  # half of the cells have two
    assert pictures(undisturbed) == before

    _, cells = shown(killed / "squares")
    picture = Image.open(killed / "squares" / cells[47]["files"][1])
    prompt, workflow = (json.loads(picture.info[name]) for name in ("prompt", "workflow"))
    assert (prompt["1"]["inputs"]["color"], prompt["1"]["inputs"]["width"], prompt["2"]["inputs"]["seed"]) == (
        60000,
        40,
        2,
    )
    assert workflow["nodes"][0]["widgets_values"] == [40, 16, 2, 60000]
    assert workflow["nodes"][1]["widgets_values"] == [2, "fixed", 0.5]
    assert picture.size == (40, 16)

    (killed / "squares.yaml").write_text(MORE)
    total = len(ran(server))
    assert call("run", server, cwd=killed, file="squares.yaml")[0] == 0
    new = ran(server)[total:]
    assert len(new) == len(set(new)) == 4 * 4 * 2 * 2 * 2 - 48
    assert not set(new) & set(first)
    assert pictures(killed).items() > before.items()
    assert len(shown(killed / "squares")[1]) == 128


BROKEN = """
title: Photographs
workflow: photographs.json
axes:
  Photograph.image: grid_there.png, grid_not_there.png
"""
PHOTOGRAPHS = {
    "1": node("LoadImage", "Photograph", image="grid_there.png"),
    "2": node("SaveImage", "Result", images=["1", 0], filename_prefix="grid/photographs"),
}


def test_a_cell_that_fails_on_a_real_comfyui_keeps_its_sentence(server, host, tmp_path):
    """The picture is not there at first. The page says so of this cell alone, and the next run makes it."""
    (tmp_path / "photographs.yaml").write_text(BROKEN)
    (tmp_path / "photographs.json").write_text(json.dumps(PHOTOGRAPHS))
    there, missing = (host.input / f"grid_{name}.png" for name in ("there", "not_there"))
    Image.new("RGB", (8, 8)).save(there)
    try:
        status, output, complaints = call("run", server, cwd=tmp_path, file="photographs.yaml")
        assert (status, output.count("1 of 2 cells done, 1 failed.")) == (1, 1)
        sentence = shown(tmp_path / "photographs")[1][1]["error"]
        assert f"Failed: grid_not_there.png: {sentence}" in complaints
        assert "Photograph" in sentence
        assert "grid_not_there.png" in sentence
        there.rename(missing)
        assert call("run", server, cwd=tmp_path, file="photographs.yaml")[0] == 0
    finally:
        there.unlink(missing_ok=True)
        missing.unlink(missing_ok=True)
    assert all(cell["files"] for cell in shown(tmp_path / "photographs")[1].values())
