"""The host tool: setup that survives interruption, sharing, a user's checkout, downloads, queueing, the demo."""

import argparse
import contextlib
import dataclasses
import errno
import hashlib
import http.server
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from PIL import Image

from kit.paths import PACK
from kit.process import kill_tree
from pentimento.model_patchers.comfyui.standins import MARK
from pentimento_host import child, cli, client, demo, environment, models, photographs, standins, system
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
        with contextlib.suppress(psutil.NoSuchProcess):
            kill_tree(process)
        process.communicate()
    process = small_setup(PACK, home, lock)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert (home / "ComfyUI" / "main.py").exists()
    assert (home / "ComfyUI" / "custom_nodes" / "pentimento").resolve() == PACK
    subprocess.run([system.python_in(home / "venv"), "-c", "import tqdm"], check=True)

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
    ours = environment.Host(home, home / "ComfyUI", system.python_in(home / "venv"), own=True)
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


def test_a_model_without_a_checksum_is_to_be_fetched_by_hand(publisher, tmp_path):
    handler, model = publisher
    by_hand = dataclasses.replace(model, size=0, sha256="")
    with pytest.raises(environment.HostError, match=f"net.pt has no checksum.* Fetch it in a browser from {model.url}"):
        models.download(by_hand, tmp_path)
    assert not handler.asked


def test_a_server_that_is_not_there_is_a_sentence(publisher, tmp_path):
    _, model = publisher
    gone = dataclasses.replace(model, url="http://127.0.0.1:1/net.pt")
    with pytest.raises(environment.HostError, match="could not be fetched"):
        models.download(gone, tmp_path)


def test_two_downloads_of_one_file_wait_for_each_other(publisher, tmp_path):
    handler, model = publisher
    begun, go_on = threading.Event(), threading.Event()
    send = handler.do_GET

    def do_GET(self):  # noqa: N802
        begun.set()
        go_on.wait()
        send(self)

    handler.do_GET = do_GET
    paths = []
    runs = [threading.Thread(target=lambda: paths.append(models.download(model, tmp_path))) for _ in range(2)]
    runs[0].start()
    begun.wait()
    runs[1].start()
    time.sleep(0.3)  # for the second to come to the file
    go_on.set()
    for run in runs:
        run.join()
    assert paths == [tmp_path / "net.pt"] * 2
    assert paths[0].read_bytes() == handler.content
    assert handler.asked == [0]
    assert list(tmp_path.iterdir()) == [tmp_path / "net.pt"]


def test_a_file_that_is_written_whole_never_stands_half_written(tmp_path):
    path = tmp_path / "page"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), environment.whole(path) as part:
        part.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    with environment.whole(path) as part:
        part.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_stand_in_that_is_interrupted_is_made_again(here, monkeypatch):
    monkeypatch.setattr(models, "find", lambda host, model: None)
    graph = demo.replace(models.workflows()["lama_fill"], {})

    def interrupted(path):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(standins, "lama", interrupted)
        with pytest.raises(KeyboardInterrupt):
            models.fill_in(here, graph)
    assert not [path for path in here.models.rglob("*") if path.is_file()]
    models.fill_in(here, graph)
    assert [path for path in here.models.rglob("standin-*") if path.stat().st_size > 4]


def test_a_stand_in_without_the_mark_of_stand_ins_is_made_again(tmp_path, monkeypatch):
    here = environment.Host(tmp_path, tmp_path / "ComfyUI", Path(sys.executable), own=True)
    monkeypatch.setattr(models, "find", lambda host, model: None)
    path = here.models / "inpaint" / "standin-big-lama.pt"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"an earlier version's")
    for _ in range(2):
        models.fill_in(here, demo.replace(models.workflows()["lama_fill"], {}))
        made = path.stat()
        assert made.st_size > 1000
    models.fill_in(here, demo.replace(models.workflows()["lama_fill"], {}))
    assert path.stat() == made


def test_each_missing_stand_in_is_made_once_with_a_line_of_progress(here, monkeypatch, capsys):
    monkeypatch.setattr(models, "find", lambda host, model: None if model.folder in ("sams", "inpaint") else Path())
    made = []
    for name in ("sam", "lama"):
        monkeypatch.setattr(standins, name, lambda path: (made.append(path.name), path.write_text(MARK)))
    graphs = [models.workflows()[name] for name in ("lama_fill", "remove_anything", "segment_everything")]
    models.make_standins(here, graphs)
    assert len(made) == 2
    complaints = capsys.readouterr().err
    assert "Stand-in for big-lama.pt" in complaints
    assert "2 of 2" in complaints
    models.make_standins(here, graphs)
    assert len(made) == 2
    assert capsys.readouterr().err == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize("name", ["lama", "unclip_statistics", "sd2_vae"])
def test_a_stand_in_on_a_full_disk_is_an_error_of_the_disk(name):
    """TorchScript, a pickle, safetensors."""
    with pytest.raises(OSError) as full:
        getattr(standins, name)(Path("/dev/full"))
    assert system.is_full(full.value)


def test_a_full_disk_is_a_sentence_and_no_traceback(here, monkeypatch, capsys):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setenv("PENTIMENTO_HOST", str(here.home))
    monkeypatch.setattr(sys, "argv", ["host", "demo"])
    for step in ("prepare", "VERBS"):
        with monkeypatch.context() as patch:
            patch.setattr(cli, step, full if step == "prepare" else {"demo": full})
            patch.delenv(cli.INSIDE, raising=False)  # which `host test` set
            if step == "VERBS":
                patch.setenv(cli.INSIDE, "1")
            assert cli.main() == 1
        complaint = capsys.readouterr().err
        assert complaint.startswith("The disk is full. ")
        assert f"{here.home} has " in complaint and "B left; " in complaint
        assert f"Delete what you do not need, such as {here.home / 'demo'}" in complaint


def test_stand_ins_that_the_disk_cannot_hold_are_refused_before_the_first(here, monkeypatch, capsys):
    monkeypatch.setattr(models, "find", lambda host, model: None)
    graphs = [models.workflows()[name] for name in ("demofusion", "lama_fill")]
    needed = sum(model.standin_mb for graph in graphs for _, _, model in models.wanted(graph))
    monkeypatch.setattr(environment, "free", lambda folder: 1e6 * needed - 1)
    with pytest.raises(environment.HostError, match=rf"stand-ins need {needed} MB. {re.escape(str(here.home))} has"):
        models.make_standins(here, graphs)
    assert f"take {needed} MB in {here.models}" in capsys.readouterr().out
    assert not here.models.exists()


def test_a_setup_that_fails_on_a_nearly_full_disk_says_so(here, monkeypatch):
    def fails(host):
        raise environment.HostError("Installing uv failed.")

    monkeypatch.setattr(environment, "_install_uv", fails)
    monkeypatch.setattr(environment, "free", lambda folder: 1e9)
    with pytest.raises(environment.HostError, match="(?s)uv failed.*nearly full.* has 1.0 GB left"):
        environment.prepare(here)
    monkeypatch.setattr(environment, "free", lambda folder: 1e12)
    with pytest.raises(environment.HostError, match="^Installing uv failed.$"):
        environment.prepare(here)


def test_a_download_that_the_disk_cannot_hold_is_refused(publisher, tmp_path, monkeypatch):
    handler, model = publisher
    monkeypatch.setattr(models, "free", lambda folder: model.size - 1)
    with pytest.raises(environment.HostError, match=rf"net.pt needs 3 MB, and {re.escape(str(tmp_path))} has 3 MB"):
        models.download(model, tmp_path)
    assert not handler.asked


def test_stand_ins_take_no_more_of_the_disk_than_is_said(server, host, tmp_path):
    with (tmp_path / "hole").open("wb") as file:
        file.truncate(1 << 20)
    if sys.platform == "win32" or taken(tmp_path / "hole") == 1 << 20:
        pytest.skip("this disk makes no holes in files")
    made = {model: models._standin(host, model) for model in models.catalogue().values()}
    sizes = {model: taken(path) / 1e6 for model, path in made.items() if path.exists()}
    assert sizes
    assert not {model.name: size for model, size in sizes.items() if size > model.standin_mb}


def taken(path):
    """Bytes on the disk."""
    return 512 * path.stat().st_blocks


MEETING = """
import sys, time
from pathlib import Path
mine, other, status = sys.argv[1:]
Path(mine).touch()
deadline = time.monotonic() + 60
while not Path(other).exists():
    assert time.monotonic() < deadline, "alone"
    time.sleep(0.05)
print(Path(mine).name, "ran", flush=True)
sys.exit(int(status))
"""


@pytest.mark.parametrize("statuses", [(0, 0), (1, 0), (0, 2)])
def test_the_second_device_is_tested_meanwhile_and_told_of_afterwards(tmp_path, capfd, statuses):
    places = [str(tmp_path / "first"), str(tmp_path / "second")]
    commands = [
        [sys.executable, "-c", MEETING, mine, other, str(status)]
        for mine, other, status in zip(places, places[::-1], statuses, strict=True)
    ]
    assert cli._on_both(*commands, dict(os.environ)) == sum(statuses)
    said = capfd.readouterr().out
    assert said.index("first ran") < said.index("on a second device") < said.index("second ran")


@pytest.mark.parametrize("width", [440, 1600])
def test_before_and_after_follow_the_mouse_and_the_keys(browser, tmp_path, width):
    shutil.copy(PACK / "host" / "photographs" / "grass.png", tmp_path / "a.png")
    run = demo.Run("lama_fill", "grass", {}, pictures=[("Photograph", "a.png")], compared=("a.png", "a.png"))
    demo._write_sheet(tmp_path, [run], 1)
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.goto((tmp_path / "index.html").as_uri())

    def shown():
        return page.locator(".compare").evaluate("compare => compare.style.getPropertyValue('--at')")

    slider = page.get_by_role("slider", name="grass: before and after")
    box = slider.bounding_box()
    slider.hover(position={"x": box["width"] / 4, "y": 10})
    assert shown() == "25%"
    slider.press("ArrowRight")
    assert shown() == "26%"
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.close()


def test_the_sheet_says_what_it_shows_and_marks_each_row(tmp_path):
    """Pictures of another shape are not laid over each other."""
    for name, size in {"a.png": (64, 48), "b.png": (129, 96), "c.png": (96, 48)}.items():
        Image.new("RGB", size).save(tmp_path / name)
    graph = models.workflows()["lama_fill"]

    def row(title, result, **fields):
        run = demo.Run("lama_fill", title, graph, pictures=[("Photograph", "a.png"), ("Result", result)], **fields)
        run.compared = demo._compared(run, tmp_path)
        return run

    runs = [row("twice as large", "b.png"), row("wider", "c.png"), row("noise", "b.png", standins=["x.pt"])]
    demo._write_sheet(tmp_path, [*runs, demo.Run("ella", "ella", {}, error="No <file>.")], 4)
    page = (tmp_path / "index.html").read_text()
    assert page.index("Each row is a workflow of Pentimento") < page.index("<section>")
    head, *rows = page.split("<section>")
    assert [re.search('<span class="mark .*?">(.*?)</span>', each)[1] for each in rows] == [
        "real",
        "real",
        "stand-in",
        "failed",
    ]
    for line in ("real</b> 2 rows: what", "stand-in</b> 1 row: made with random weights", "failed</b> 1 row: an error"):
        assert line in head
    assert ["Before and after" in each for each in rows] == [True, False, True, False]
    assert "Random weights for x.pt." in rows[2]
    assert "It failed: No &lt;file&gt;." in rows[3]


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
    return client.run(server, demo.replace(graph, changes or {}), **keywords)


def test_a_workflow_runs_through_the_api_with_progress(server):
    shares = []
    graph = models.workflows()["remove_without_models"]
    outputs = run(server, graph, on_progress=shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert any(picture["type"] == "output" for node in outputs.values() for picture in node.get("images", []))


PNG = (PACK / "host" / "photographs" / "grass.png").read_bytes()
PICTURE = {"filename": "result.png", "subfolder": "", "type": "output"}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A host in an empty folder, whose server is not started: the demo finds all models and no picture but one."""
    (tmp_path / "ComfyUI").mkdir()
    monkeypatch.setattr(demo, "serve", lambda host: contextlib.nullcontext("http://127.0.0.1:1"))
    monkeypatch.setattr(models, "find", lambda host, model: host.comfyui / model.name)
    monkeypatch.setattr(photographs, "put", lambda folder: None)
    monkeypatch.setattr(client, "get", lambda server, path, **query: PNG)
    return environment.Host(tmp_path, tmp_path / "ComfyUI", Path(sys.executable), own=True)


def earlier_sheet(folder):
    sheet = folder / "index.html"
    sheet.parent.mkdir()
    sheet.write_text("an earlier run")
    return sheet


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["demo", "ella", "lama_fil"], "There is no workflow named lama_fil. Is it lama_fill? There are anti_burn, "),
        (["demo", "xyzzy"], "There is no workflow named xyzzy. There are anti_burn, "),
        (["bench", "sam_clik"], "There is no benchmark named sam_clik. Is it sam_click"),
        (["models", "--download", "big_lama.pt"], "There is no model named big_lama.pt. Is it big-lama.pt"),
    ],
)
def test_a_wrong_name_is_refused_before_anything_is_made(tmp_path, arguments, sentence):
    """In a plain Python, and before the gigabytes of a first setup."""
    environ = os.environ | {"PENTIMENTO_HOST": str(tmp_path / "home")}
    command = [sys._base_executable, "-S", str(PACK / "host"), *arguments]
    tool = subprocess.run(command, env=environ, capture_output=True, text=True)
    assert (tool.returncode, tool.stdout) == (1, "")
    assert tool.stderr.startswith(sentence)
    assert not (tmp_path / "home").exists()


def test_a_port_that_is_taken_is_a_sentence(here):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(environment.HostError, match=rf"Port {port} is taken.*serve --port {port + 1}\."):
            cli._serve(here, argparse.Namespace(port=port), [])


def test_a_server_that_does_not_start_leaves_the_sheet(here, monkeypatch):
    @contextlib.contextmanager
    def no_server(host):
        raise environment.HostError("ComfyUI did not start.")
        yield

    monkeypatch.setattr(demo, "serve", no_server)
    sheet = earlier_sheet(here.home / "demo")
    with pytest.raises(environment.HostError, match="did not start"):
        demo.demo(here, ["lama_fill"], here.home / "demo")
    assert sheet.read_text() == "an earlier run"


def test_the_sheet_grows_with_each_result_and_outlives_the_demo(here, monkeypatch):
    names = ["differential_img2img", "fill_anything", "lama_fill"]
    sheet, sheets = earlier_sheet(here.home / "demo"), []

    def run(server, graph, on_progress):
        sheets.append(sheet.read_text())
        if len(sheets) == 3:
            raise SystemExit("killed")
        return {key: {"images": [PICTURE]} for key, node in graph.items() if node["class_type"] == "SaveImage"}

    monkeypatch.setattr(client, "run", run)
    with pytest.raises(SystemExit):
        demo.demo(here, names, here.home / "demo")
    assert [[name.replace("_", " ") in page for name in names] for page in sheets] == [
        [False, False, False],
        [True, False, False],
        [True, True, False],
    ]
    assert "2 of 3 runs are on this page." in sheet.read_text() == sheets[-1]
    assert sheet.read_text().count('aria-label="') == 2  # before and after
    for picture in re.findall(r'<img src="([^"]+)"', sheet.read_text()):
        assert (sheet.parent / picture).read_bytes() == PNG


def test_a_server_that_is_gone_is_a_failed_run_and_not_the_end_of_the_sheet(here, capsys):
    assert demo.demo(here, ["lama_fill", "fill_anything"], here.home / "demo") == 1
    assert "0 of 2 runs succeeded" in capsys.readouterr().out
    assert (here.home / "demo" / "index.html").read_text().count("ComfyUI does not answer at http://127.0.0.1:1") == 2


MORTAL = """
import http.server, sys

class Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        if self.path == "/die":
            print("The last words.", flush=True)
            self.server.running = False

port = int(sys.argv[sys.argv.index("--port") + 1])
server = http.server.HTTPServer(("127.0.0.1", port), Answers)
server.running = True
while server.running:
    server.handle_request()
sys.exit(3)
"""


def test_a_server_that_stops_by_itself_is_reported_with_its_log(tmp_path):
    (tmp_path / "main.py").write_text(MORTAL)
    host = environment.Host(tmp_path, tmp_path, Path(sys.executable), own=True)
    with (
        pytest.raises(environment.HostError, match=r"(?s)stopped by itself \(exit status 3\).*The last words\."),
        host_server.running(host, [], tmp_path / "log") as address,
    ):
        client.get(address, "die")
        while True:  # until nobody listens
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", int(address.rsplit(":", 1)[1]))):
                    break
        time.sleep(0.5)


CHAIN = """
import runpy, signal, subprocess, sys, time
from pathlib import Path
signal.signal(signal.SIGINT, signal.SIG_IGN)
folder, rest = Path(sys.argv[1]), sys.argv[2:]
runpy.run_path(str(folder / "load_package.py"))["load_package"]("pentimento_host", folder)
from pentimento_host import child
if not rest:
    print("started", flush=True)
    time.sleep(3600)
process = subprocess.Popen(child.command(sys.executable, __file__, str(folder), *rest[1:]))
try:
    process.wait()
finally:
    Path(rest[0]).write_text("cleaned up")
"""


def test_what_the_tool_starts_ends_when_the_tool_is_killed(tmp_path):
    """The tool starts itself in the host's Python, which starts a server: the last two end, and clean up.

    Also where SIGINT is ignored, as in jobs that a shell starts in the background.
    """
    (tmp_path / "chain.py").write_text(CHAIN)
    names = [str(tmp_path / "first"), str(tmp_path / "second")]
    command = [sys.executable, str(tmp_path / "chain.py"), str(PACK / "host"), *names]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as tool:
        assert tool.stdout.readline() == "started\n"
        started = psutil.Process(tool.pid).children(recursive=True)
        assert len(started) >= 2  # on Windows each Python is started by another
        tool.kill()
        gone, alive = psutil.wait_procs(started, timeout=60)
        for process in alive:
            process.kill()
    assert not alive
    assert not (tmp_path / "first").exists()  # it was killed
    if sys.platform != "win32":  # where nothing ends a process's wait for another
        assert (tmp_path / "second").read_text() == "cleaned up"


def test_a_program_under_the_watch_sees_itself_as_without(tmp_path):
    program = tmp_path / "program.py"
    program.write_text("import json, sys; print(json.dumps([__name__, __file__, sys.argv, sys.path[0]])); sys.exit(7)")
    (tmp_path / "__main__.py").write_text(program.read_text())
    for arguments in ([str(program), "--a", "b"], [str(tmp_path), "c"], ["-m", "program", "d"]):
        plain = subprocess.run([sys.executable, *arguments], cwd=tmp_path, stdout=subprocess.PIPE)
        watched = subprocess.run(child.command(Path(sys.executable), *arguments), cwd=tmp_path, stdout=subprocess.PIPE)
        assert plain.returncode == watched.returncode == 7
        assert json.loads(plain.stdout) == json.loads(watched.stdout)


def test_a_killed_demo_leaves_no_server(host, tmp_path):
    command = [str(host.python), str(PACK / "host"), "--comfyui", str(host.comfyui), "demo", "remove_without_models"]
    environ = os.environ | {"PENTIMENTO_INSIDE_HOST": "1", "PENTIMENTO_HOST": str(tmp_path)}
    with subprocess.Popen(command, env=environ, start_new_session=True) as tool:
        servers = []
        while not servers and tool.poll() is None:
            children = psutil.Process(tool.pid).children(recursive=True)
            servers = [process for process in children if str(host.comfyui / "main.py") in process.cmdline()]
        tool.kill()
        gone, alive = psutil.wait_procs(servers, timeout=60)
        for process in alive:
            process.kill()
    assert servers and not alive


def test_the_demo_shows_its_workflows_and_fails_when_one_does(host, monkeypatch, tmp_path):
    """A few of them: .ci/run has the whole demo run before the tests."""
    variation = {"a hole in grass": photographs.VARIATIONS["remove_without_models"]["a hole in grass"]}
    monkeypatch.setattr(photographs, "VARIATIONS", {"remove_without_models": variation})
    played = {name: models.workflows()[name] for name in ("lama_fill", "remove_without_models")}
    assert demo.demo(host, list(played), tmp_path) == 0
    sheet = (tmp_path / "index.html").read_text()
    for name, graph in played.items():
        assert name.replace("_", " ") in sheet
        if list(models.wanted(graph)) and not all(models.find(host, model) for _, _, model in models.wanted(graph)):
            assert "Random weights for " in sheet
    pictures = re.findall(r'<img src="([^"]+)"', sheet)
    assert len(pictures) >= 3 * len(played)
    for picture in pictures:
        Image.open(tmp_path / picture).verify()
    assert "Photograph: " in sheet

    broken = demo.replace(models.workflows()["remove_without_models"], {"Photograph.image": "nowhere.png"})
    monkeypatch.setattr(models, "workflows", lambda: {"broken": broken})
    assert demo.demo(host, ["broken"], tmp_path) == 1
    assert "nowhere.png" in (tmp_path / "index.html").read_text()


def test_a_painted_photograph_carries_its_hole_as_alpha(tmp_path):
    photographs.put(tmp_path)
    painted = {path.name.removesuffix("_painted.png"): path for path in tmp_path.glob("*_painted.png")}
    assert len(painted) == sum(bool(photograph.hole) for photograph in photographs.PHOTOGRAPHS) > 0
    for path in painted.values():
        assert Image.open(path).getchannel("A").getextrema() == (0, 255)
    for photograph in photographs.PHOTOGRAPHS:
        original = Image.open(photograph.file).convert("RGB")
        names = [
            path
            for path in tmp_path.glob("*.png")
            if photographs.credit(path.name) == [f"Photograph: {photograph.credit}"]
        ]
        assert len(names) == 1 + bool(photograph.hole)
        for path in names:
            assert Image.open(path).convert("RGB").tobytes() == original.tobytes()
