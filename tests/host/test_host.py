"""The host tool: setup that survives interruption, sharing, a user's checkout, downloads, queueing, the demo."""

import asyncio
import contextlib
import dataclasses
import hashlib
import http.server
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from PIL import Image

from kit.paths import PACK
from pentimento_host import client, demo, environment, models, photographs, standins
from pentimento_host import server as host_server

SMALL_SETUP = """
import runpy, sys
from pathlib import Path
folder, lock = map(Path, sys.argv[1:])
runpy.run_path(str(folder / "load_package.py"))["load_package"]("pentimento_host", folder)
from pentimento_host import environment
environment.LOCK = lock
environment.prepare(environment.locate(None))
"""


def clone(folder: Path) -> Path:
    """A second copy of the host tool, as in another clone of the pack."""
    shutil.copytree(PACK / "host", folder / "host", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def small_setup(pack: Path, home: Path, lock: Path) -> subprocess.Popen:
    """The real setup with a short lock file in place of gigabytes."""
    environ = {key: value for key, value in os.environ.items() if not key.startswith("PENTIMENTO")}
    return subprocess.Popen(
        [sys._base_executable, "-c", SMALL_SETUP, str(pack / "host"), str(lock)],
        env=environ | {"PENTIMENTO_HOST": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


@pytest.fixture
def lock(tmp_path):
    path = tmp_path / "lock.txt"
    pinned = [
        line for line in (PACK / "host" / "lock.txt").read_text().splitlines() if line.startswith(("tqdm", "yarl"))
    ]
    path.write_text("\n".join(pinned))
    return path


def test_setup_recovers_from_being_killed_and_then_does_nothing_twice(tmp_path, lock):
    home = tmp_path / "home"
    for seconds in (0.7, 1.5, 3.0):
        process = small_setup(PACK, home, lock)
        time.sleep(seconds)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    process = small_setup(PACK, home, lock)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert (home / "ComfyUI" / "main.py").exists()
    assert (home / "ComfyUI" / "custom_nodes" / "pentimento").resolve() == PACK
    subprocess.run([home / "venv" / "bin" / "python", "-c", "import tqdm"], check=True)

    def written() -> dict:
        return {path: path.lstat().st_mtime_ns for path in home.rglob("*") if not path.name.endswith(".lock")}

    before = written()
    again, _ = small_setup(PACK, home, lock).communicate(timeout=60)
    assert again == ""
    assert written() == before


def test_two_clones_share_a_host_and_wait_for_each_other(tmp_path, lock):
    home = tmp_path / "home"
    small_setup(PACK, home, lock).communicate(timeout=120)
    other = clone(tmp_path / "other")
    ours = environment.Host(home, home / "ComfyUI", home / "venv" / "bin" / "python", own=True)
    with environment.in_use(ours):
        waiting = small_setup(other, home, lock)
        assert "Waiting for another run" in waiting.stdout.readline()
        assert ours.link.resolve() == PACK
    assert waiting.wait(60) == 0
    assert ours.link.resolve() == other
    with environment.in_use(ours):
        assert ours.link.resolve() == PACK


def test_a_checkout_of_the_users_is_used_and_not_written_to(host, tmp_path, monkeypatch):
    checkout = tmp_path / "ComfyUI"
    shutil.copytree(
        host.comfyui,
        checkout,
        ignore=shutil.ignore_patterns("pentimento", "standin-*", "pentimento_*", "__pycache__", "output", "user"),
    )
    (checkout / "venv" / "bin").mkdir(parents=True)
    (checkout / "venv" / "bin" / "python").symlink_to(sys.executable)
    monkeypatch.setenv("PENTIMENTO_HOST", str(tmp_path / "home"))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    theirs = environment.locate(str(checkout))
    assert theirs.python == checkout / "venv" / "bin" / "python"
    theirs = dataclasses.replace(theirs, python=Path(sys.executable))  # a link to it finds no packages
    environment.prepare(theirs)
    before = sorted(checkout.rglob("*"))
    with host_server.serve(theirs) as address:
        info = json.loads(client.get(address, "object_info"))
    assert "PentimentoMagicWand" in info
    assert sorted(checkout.rglob("*")) == before


def test_a_folder_that_is_no_checkout_is_refused_by_name(tmp_path):
    with pytest.raises(environment.HostError, match=re.escape(str(tmp_path))):
        environment.locate(str(tmp_path))


class Files(http.server.BaseHTTPRequestHandler):
    """Serves `content`, by ranges when `ranges`, and drops the connection after `cut` bytes."""

    content, ranges, cut, asked = b"", True, None, []

    def do_GET(self):
        start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-")) if self.ranges else 0
        self.asked.append(start)
        self.send_response(206 if self.ranges else 200)
        self.send_header("Content-Length", str(len(self.content) - start))
        self.end_headers()
        self.wfile.write(self.content[start : self.cut])

    def log_message(self, *arguments):
        pass


@pytest.fixture
def publisher():
    """(server of one file on 127.0.0.1, the catalogue entry of that file)."""
    content = os.urandom(3 << 20)
    handler = type("Handler", (Files,), {"content": content, "asked": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    digest = hashlib.sha256(content).hexdigest()
    url = f"http://127.0.0.1:{server.server_port}/net.pt"
    yield handler, models.Model("net.pt", "inpaint", "lama", len(content), digest, "CC0", url)
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("ranges", [True, False])
def test_download_goes_on_where_it_stopped_and_verifies(publisher, tmp_path, ranges):
    handler, model = publisher
    handler.ranges, handler.cut = ranges, 1 << 20
    with pytest.raises(environment.HostError, match="1,048,576 of 3,145,728 bytes.*again"):
        models.download(model, tmp_path)
    assert not (tmp_path / "net.pt").exists()
    handler.cut = None
    path = models.download(model, tmp_path)
    assert path.read_bytes() == handler.content
    assert handler.asked == ([0, 1 << 20] if ranges else [0, 0])
    models.download(model, tmp_path)
    assert len(handler.asked) == 2


def test_a_download_of_another_file_is_refused_and_deleted(publisher, tmp_path):
    handler, model = publisher
    handler.content = handler.content[::-1]
    with pytest.raises(environment.HostError, match="not the published file"):
        models.download(model, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_is_not_there_is_a_sentence(publisher, tmp_path):
    _, model = publisher
    gone = dataclasses.replace(model, url="http://127.0.0.1:1/net.pt")
    with pytest.raises(environment.HostError, match="could not be fetched"):
        models.download(gone, tmp_path)


def test_every_wanted_model_is_in_the_catalogue_and_says_where_it_goes(host):
    listing = models.listing(host)
    for model in models.catalogue().values():
        assert f"models/{model.folder}/" in listing
        assert model.sha256 in listing
        assert hasattr(standins, model.standin)
    for graph in models.workflows().values():
        loaders = [node for node in graph.values() if node["class_type"].startswith("PentimentoLoad")]
        assert len(list(models.wanted(graph))) >= len(loaders)


def run(server, graph, changes=None, **keywords):
    return asyncio.run(client.run(server, demo.replace(graph, changes or {}), **keywords))


def test_a_workflow_runs_through_the_api_with_progress(server):
    shares = []
    graph = models.workflows()["remove_without_models"]
    outputs = run(server, graph, on_progress=shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert any(picture["type"] == "output" for node in outputs.values() for picture in node.get("images", []))


def test_the_host_says_what_is_wrong_before_it_runs(server):
    graph = models.workflows()["remove_without_models"]
    with pytest.raises(client.RunError, match="PentimentoMagicWand.*positive_coords"):
        run(server, graph, {"Magic Wand.positive_coords": "[{"})
    with pytest.raises(client.RunError, match="LoadImage.*nowhere.png"):
        run(server, graph, {"Photograph.image": "nowhere.png"})


def test_a_node_that_fails_is_named(server):
    graph = models.workflows()["remove_without_models"]
    with pytest.raises(client.RunError, match="PentimentoMagicWand: .*outside"):
        run(server, graph, {"Magic Wand.positive_coords": '[{"x": 99999, "y": 1}]'})


def test_the_demo_shows_its_workflows_and_fails_when_one_does(host, monkeypatch):
    """A few of them: .ci/run has the whole demo run before the tests."""
    played = {name: models.workflows()[name] for name in ("fill_anything", "lama_fill", "remove_without_models")}
    assert demo.demo(host, list(played)) == 0
    sheet = (host.home / "demo" / "index.html").read_text()
    for name, graph in played.items():
        assert name.replace("_", " ") in sheet
        if list(models.wanted(graph)) and not all(models.find(host, model) for _, _, model in models.wanted(graph)):
            assert "Stand-in with random weights" in sheet
    pictures = re.findall(r'<img src="([^"]+)"', sheet)
    assert len(pictures) >= 3 * len(played)
    for picture in pictures:
        Image.open(host.home / "demo" / picture).verify()
    assert "Photograph: " in sheet

    broken = demo.replace(models.workflows()["remove_without_models"], {"Photograph.image": "nowhere.png"})
    monkeypatch.setattr(models, "workflows", lambda: {"broken": broken})
    assert demo.demo(host, []) == 1
    assert "nowhere.png" in (host.home / "demo" / "index.html").read_text()


def test_a_painted_photograph_carries_its_hole_as_alpha(tmp_path):
    photographs.put(tmp_path)
    painted = {path.name.removesuffix("_painted.png"): path for path in tmp_path.glob("*_painted.png")}
    assert len(painted) == sum(bool(photograph.hole) for photograph in photographs.PHOTOGRAPHS) > 0
    for path in painted.values():
        assert Image.open(path).getchannel("A").getextrema() == (0, 255)
    for photograph in photographs.PHOTOGRAPHS:
        original = Image.open(photographs.FOLDER / photograph.file).convert("RGB")
        names = [
            path for path in tmp_path.iterdir() if photographs.credit(path.name) == [f"Photograph: {photograph.credit}"]
        ]
        assert len(names) == 1 + bool(photograph.hole)
        for path in names:
            assert Image.open(path).convert("RGB").tobytes() == original.tobytes()
