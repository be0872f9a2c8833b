"""workflows/api/run.py as a user calls it: in a plain Python, from a command line, on a server."""

import contextlib
import copy
import io
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from PIL import Image

from kit.paths import PACK
from pentimento_host import client, models

runner = sys.modules["pentimento_run"]
RUN = PACK / "workflows" / "api" / "run.py"
REMOVE = models.workflows()["remove_without_models"]
QUICK = (
    "--set",
    "Fill Without a Model.method=harmonic",
    "--set",
    "Tune Mask.remove_specks=0",
    "--set",
    "Tune Mask.grow=8",
)
MASK = ("--mask", "Tune Mask.mask=mask.png")


def command(*arguments, file=RUN):
    return [sys._base_executable, "-I", "-S", str(file), *map(str, arguments)]


def call(*arguments, cwd=None, file=RUN):
    """(exit status, what it printed, its complaints)."""
    environ = os.environ | {"http_proxy": "http://127.0.0.1:9"}
    result = subprocess.run(command(*arguments, file=file), cwd=cwd, env=environ, capture_output=True, text=True)
    return result.returncode, result.stdout, result.stderr


@pytest.fixture
def folder(tmp_path):
    """A red square on noise: my.jpg; its mask; in/ with two such pictures and one that is none."""
    noise = np.random.default_rng(0).integers(90, 110, (48, 64, 3), dtype=np.uint8)
    noise[6:16, 14:30] = 220, 20, 20
    picture, mask = Image.fromarray(noise), Image.new("L", (64, 48))
    mask.paste(255, (10, 4, 34, 20))
    mask.save(tmp_path / "mask.png")
    (tmp_path / "in").mkdir()
    for name in ("my.png", "in/a.png", "in/c.png"):
        picture.save(tmp_path / name)
    (tmp_path / "in" / "b.png").write_text("not a picture")
    return tmp_path


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def redness(path):
    picture = pixels(path)
    return (picture[..., 0] - picture[..., 1]).max()


PICKED = {
    "class_type": "PentimentoPickPoints",
    "inputs": {"picks": '{"positive": [{"x": 1, "y": 2}]}', "image": ["1", 0]},
    "_meta": {"title": "Pick Points"},
}


@pytest.fixture(params=["Magic Wand.positive_coords", "Pick Points.picks"])
def places(request, folder):
    """The input that holds the places in remove.json: points as text, or picks that feed the wand."""
    graph = {key: node for key, node in copy.deepcopy(REMOVE).items() if node["class_type"] != PICKED["class_type"]}
    points = {"positive_coords": '[{"x": 1, "y": 2}]', "negative_coords": ""}
    if request.param == "Pick Points.picks":
        graph["99"] = PICKED
        points = {"positive_coords": ["99", 0], "negative_coords": ["99", 1]}
    graph[runner.node_id(graph, "Magic Wand")]["inputs"] |= points
    (folder / "remove.json").write_text(json.dumps(graph))
    return request.param


@pytest.mark.parametrize(
    ("places", "setting"),
    [
        ("Magic Wand.positive_coords", "Magic Wand.positive_coords"),
        ("Pick Points.picks", "Magic Wand.positive_coords"),
        ("Pick Points.picks", "Pick Points.picks"),
    ],
    indirect=["places"],
)
def test_a_picture_goes_in_and_the_result_comes_back(server, folder, places, setting):
    point = [{"x": 20, "y": 10}]
    value = json.dumps({"positive": point} if setting == "Pick Points.picks" else point)
    status, output, complaints = call(
        *("remove.json", "--image", "my.png", "--set", f"{setting}={value}", *QUICK, "--server", server), cwd=folder
    )
    assert (status, complaints) == (0, "")
    assert output.startswith("my.png -> out/my.png  (0:0")
    assert redness(folder / "my.png") == 200
    assert redness(folder / "out" / "my.png") < 30
    kept = np.s_[30:]
    assert np.array_equal(pixels(folder / "out" / "my.png")[kept], pixels(folder / "my.png")[kept])


def test_a_copy_runs_a_file_with_a_mask_and_replaces_no_result(server, folder):
    copied = shutil.copy(RUN, folder / "copied.py")
    shutil.copy(RUN.with_name("remove_without_models.json"), folder / "mine.json")
    arguments = ["mine.json", "--image", "my.png", *MASK, *QUICK, "--server", server.removeprefix("http://")]
    for result in ("out/my.png", "out/my_2.png"):
        status, output, complaints = call(*arguments, cwd=folder, file=copied)
        assert (status, complaints) == (0, "")
        assert f"-> {result} " in output
        assert redness(folder / result) < 30


def test_a_folder_goes_on_after_a_failure_and_skips_what_is_done(server, folder):
    arguments = ["remove_without_models", "--images", "in/*.png", *MASK, *QUICK, "--server", server, "--out", "out"]
    status, output, complaints = call(*arguments, cwd=folder)
    assert status == 1
    assert "2 done, 1 failed." in output
    assert complaints.count("\n") == 1
    assert complaints.startswith("in/b.png failed: Photograph: cannot identify image file")
    results = sorted(path.name for path in (folder / "out").iterdir())
    assert results == ["a.png", "c.png"]

    Image.open(folder / "my.png").save(folder / "in" / "b.png")
    before = (folder / "out" / "a.png").stat().st_mtime_ns
    status, output, complaints = call(*arguments, cwd=folder)
    assert (status, complaints) == (0, "")
    assert "1 done, 2 done before." in output
    assert (folder / "out" / "a.png").stat().st_mtime_ns == before

    status, output, _ = call(*arguments, "--again", cwd=folder)
    assert (status, output.splitlines()[-1]) == (0, "3 done.")
    assert (folder / "out" / "a.png").stat().st_mtime_ns > before


def test_each_picture_of_a_folder_gets_its_own_mask(server, folder):
    (folder / "masks").mkdir()
    Image.new("L", (64, 48)).save(folder / "masks" / "a.png")
    shutil.copy(folder / "mask.png", folder / "masks" / "b.png")
    (folder / "in" / "b.png").unlink()
    Image.open(folder / "my.png").save(folder / "in" / "b.jpg", quality=95)
    status, output, complaints = call(
        *("remove_without_models", "--images", "in", "--mask", "Tune Mask.mask=masks", *QUICK, "--server", server),
        cwd=folder,
    )
    assert status == 1
    assert "2 done, 1 failed." in output
    assert complaints == "in/c.png failed: No picture in the folder masks is named as c.png.\n"
    assert redness(folder / "out" / "a.png") == 200
    assert redness(folder / "out" / "b.png") < 60


def test_refusals_are_sentences_and_nothing_runs(server, folder):
    wrong = {
        'Magic Wand.positive_coords=[{"x"': "Magic Wand: positive_coords is not a list of points: got '[{\"x\"', need "
        'JSON such as [{"x": 120, "y": 80}].',
        "Magic Wand.tolerance=7": "Magic Wand: tolerance is 7.0, and the most is 1.0.",
        "Tune Mask.grow=wide": 'Tune Mask: grow is "wide", and a whole number is needed.',
        "Tune Mask.feather=-1": "Tune Mask: feather is -1, and the least is 0.",
        'Tune Mask.mask=["1", 0]': "Tune Mask: mask takes MASK, and IMAGE is connected.",
        "Fill Without a Model.method=patch": 'Fill Without a Model: method is "patch", and ComfyUI has none of that '
        "name. Is it patchmatch? There are patchmatch, harmonic.",
        "Photograph.image=nowhere.png": "Photograph: Invalid image file: nowhere.png",
    }
    settings = [argument for text in wrong for argument in ("--set", text)]
    status, output, complaints = call("remove_without_models", *settings, "--server", server, cwd=folder)
    assert (status, output) == (1, "")
    apart = {'Tune Mask.mask=["1", 0]', "Photograph.image=nowhere.png"}  # the wand hides behind the wrong link
    shown = [sentence for text, sentence in wrong.items() if text not in apart]
    status, output, complaints = call(
        "remove_without_models",
        *(argument for text in wrong if text not in apart for argument in ("--set", text)),
        *("--server", server),
        cwd=folder,
    )
    assert (status, output) == (1, "")
    assert sorted(complaints.splitlines()) == sorted(shown)
    for text in apart:
        status, output, complaints = call("remove_without_models", "--set", text, "--server", server, cwd=folder)
        assert (status, output, complaints) == (1, "", f"{wrong[text]}\n")
    assert not (folder / "out").exists()


def test_a_refused_part_is_a_refusal(server, folder):
    """ComfyUI would run the rest: show the mask and save nothing."""
    with pytest.raises(client.RunError, match="Fill Without a Model: method is"):
        client.run(server, client.replace(REMOVE, {"Fill Without a Model.method": "patch"}))
    while any(json.loads(client.get(server, "queue")).values()):
        time.sleep(0.1)


def test_a_node_that_fails_is_named_by_its_title(server):
    points = '[{"x": 99999, "y": 1}]'
    with pytest.raises(client.RunError, match=r"^Magic Wand: positive_coords has the point \(99999, 1\).*outside"):
        client.run(server, client.replace(REMOVE, {"Magic Wand.positive_coords": points}))


def test_wrong_names_get_the_nearest(server, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)

    for setting, sentence in {
        "Magc Wand.tolerance=1": "No node is titled Magc Wand. Is it Magic Wand? There are Photograph, Magic Wand,",
        "Magic Wand.tolerence=1": "Magic Wand has no input tolerence. Is it tolerance? It has image, ",
        "Tune Mask.invert=off": 'Tune Mask: invert is "off", and true or false is needed.',
        "tolerance=1": "tolerance names no input: write the node's title, a dot and the input, as in KSampler.steps.",
        "Magic Wand.tolerance": "Magic Wand.tolerance has no value: write TITLE.INPUT=VALUE, as in KSampler.steps=30.",
    }.items():
        assert runner.main(["remove_without_models", "--set", setting, "--server", server]) == 1
        assert capsys.readouterr().err.startswith(sentence)
    for option, argument, sentence in (
        ("--mask", "Tune Mask.maks=mask.png", "Tune Mask has no input maks. Is it mask? It has mask, grow, "),
        ("--mask", "Tun Mask.mask=mask.png", "No node is titled Tun Mask. Is it Tune Mask or "),
        ("--mask", "masc.png", "There is no file masc.png."),
        ("--image", "Photo=my.png", "No node is titled Photo. Is it Photograph? "),
        ("--image", "in", "in is a folder: --images runs the workflow for each picture in it."),
    ):
        assert runner.main(["remove_without_models", option, argument, "--server", server]) == 1
        assert capsys.readouterr().err.startswith(sentence)


def test_a_file_that_cannot_be_written_is_a_sentence(server, folder):
    (folder / "out").write_text("a file")
    status, output, complaints = call("remove_without_models", *QUICK, "--server", server, cwd=folder)
    assert (status, output) == (1, "")
    assert re.match("out.*: (File exists|Not a directory).", complaints)


def test_several_results_lie_in_a_folder_and_none_is_a_failure(server, folder):
    graph = copy.deepcopy(REMOVE)
    result, photograph = (runner.node_id(graph, name) for name in ("Result", "Photograph"))
    inputs = {"filename_prefix": "pentimento/photograph", "images": [photograph, 0]}
    graph["99"] = {"class_type": "SaveImage", "inputs": inputs, "_meta": {"title": "The photograph"}}
    (folder / "two.json").write_text(json.dumps(graph))
    arguments = ["--image", "my.png", *MASK, *QUICK, "--server", server]
    status, output, complaints = call("two.json", *arguments, cwd=folder)
    assert (status, complaints) == (0, "")
    assert sorted(path.name for path in (folder / "out" / "my").iterdir()) == ["Result 1.png", "The photograph 1.png"]
    assert redness(folder / "out" / "my" / "The photograph 1.png") == 200
    del graph[result], graph["99"]
    (folder / "none.json").write_text(json.dumps(graph))
    status, output, complaints = call("none.json", *arguments, cwd=folder)
    assert (status, output) == (1, "")
    assert complaints == "The workflow ran and saved nothing: it needs a node such as Save Image.\n"


def queue(server):
    answer = json.loads(client.get(server, "queue"))
    return len(answer["queue_running"]), len(answer["queue_pending"])


def wait_for(server, lengths):
    while queue(server) != lengths:
        time.sleep(0.05)


@pytest.fixture
def heard():
    """Processes that a test starts hear Ctrl-C, also where this one ignores it, as a job in a shell's background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends Ctrl-C to all processes of a console")
def test_ctrl_c_stops_the_run_in_comfyui_or_takes_it_out_of_the_queue(server, folder, heard):
    Image.effect_noise((800, 600), 60).convert("RGB").save(folder / "large.png")
    arguments = ["remove_without_models", "--image", "large.png", *MASK, "--server", server]

    def start(seed):
        started = command(*arguments, "--set", f"Fill Without a Model.seed={seed}")
        process = stack.enter_context(subprocess.Popen(started, cwd=folder, stderr=subprocess.PIPE, text=True))
        stack.callback(process.kill)
        return process

    with contextlib.ExitStack() as stack:
        running = start(11)
        wait_for(server, (1, 0))
        waiting = start(12)
        wait_for(server, (1, 1))
        waiting.send_signal(signal.SIGINT)
        assert waiting.communicate()[1] == "Interrupted: ComfyUI stops the run, too.\n"
        assert waiting.returncode == 130
        assert queue(server) == (1, 0)
        running.send_signal(signal.SIGINT)
        assert running.wait() == 130
        wait_for(server, (0, 0))
    assert not (folder / "out").exists()


def test_a_server_that_is_not_there_ends_a_folder(folder):
    status, output, complaints = call(
        *("lama_fill", "--images", "in", "--mask", "mask.png", "--server", "127.0.0.1:9"), cwd=folder
    )
    assert status == 1
    assert output.startswith("3 left.")
    assert complaints.startswith("ComfyUI does not answer at http://127.0.0.1:9: ")
    assert complaints.count("\n") == 1


def planned(*arguments):
    return runner.plan(runner.parser().parse_args(arguments))


INFOS = json.dumps(
    {
        "PentimentoMagicWand": {"input": {"required": {"positive_coords": ["STRING", {}]}}},
        "PentimentoTuneMask": {
            "input": {"required": {"mask": ["MASK"], "grow": ["INT", {}], "invert": ["BOOLEAN", {}]}}
        },
        "PentimentoPickPoints": {"input": {"required": {"picks": ["STRING", {}]}}},
        "SaveImage": {"input": {"required": {"filename_prefix": ["STRING", {}]}}},
    }
)


@pytest.fixture
def offline(places, folder, monkeypatch):
    monkeypatch.setattr(runner, "get", lambda server, path: INFOS)
    monkeypatch.chdir(folder)


def test_the_places_in_another_picture_are_refused(places, offline):
    with pytest.raises(client.RunError) as refusal:
        planned("remove.json", "--image", "my.png")
    assert str(refusal.value).startswith(f"{places} of remove.json hold places in another picture. Give those in yours")
    (example,) = shlex.split(str(refusal.value).split("--set ")[1].removesuffix("."))
    graph = planned("remove.json", "--image", "my.png", "--set", example).graph
    key, name, value = runner.setting(graph, example)
    assert graph[key]["inputs"][name] == value
    assert {"x": 120, "y": 80} in (json.loads(value)["positive"] if name == "picks" else json.loads(value))
    for arguments in (["--set", "Magic Wand.positive_coords=[]"], MASK):
        planned("remove.json", "--image", "my.png", *arguments)
    planned("remove.json")


def test_a_link_is_set_as_json_and_text_stays_text(offline):
    graph = runner.load("remove.json")
    inputs = {
        "Tune Mask.mask": '["1", 1]',
        "Tune Mask.grow": "3",
        "Result.filename_prefix": "a.b=c",
        "Tune Mask.invert": "True",
    }
    inputs["Magic Wand.positive_coords"] = '[{"x": 1, "y": 2}, {"x": 3, "y": 4}]'
    settings = [runner.setting(graph, f"{place}={text}") for place, text in inputs.items()]
    values = [runner._value("", graph, *setting) for setting in settings]
    assert values == [["1", 1], 3, "a.b=c", True, inputs["Magic Wand.positive_coords"]]


def test_nodes_with_one_title_are_told_apart_by_number():
    node = {"class_type": "CLIPTextEncode", "inputs": {"text": ""}}
    graph = {"6": node, "7": node}
    with pytest.raises(client.RunError, match="The nodes 6 and 7 are titled CLIPTextEncode. Use the number"):
        client.replace(graph, {"CLIPTextEncode.text": "a"})
    assert client.replace(graph, {"7.text": "a"})["7"]["inputs"] == {"text": "a"}
    assert runner.title(graph, "7") == "CLIPTextEncode (node 7)"


def test_which_node_takes_the_picture():
    with pytest.raises(client.RunError, match="takes no picture"):
        runner.loader(models.workflows()["ella"])
    graph = models.workflows()["unclip_variations"]
    titles = [node["_meta"]["title"] for node in graph.values() if node["class_type"] == "LoadImage"]
    assert len(titles) == 2
    with pytest.raises(client.RunError, match=f"Say which.*{' or '.join(titles)}"):
        runner.loader(graph)


def test_a_file_that_is_no_api_workflow_is_refused(tmp_path):
    with pytest.raises(
        client.RunError, match="There is no workflow remove_anythin. Is it remove_anything.*or name a f"
    ):
        runner.load("remove_anythin")
    with pytest.raises(client.RunError, match=r"not in the API's form. ComfyUI writes that form by File > Export"):
        runner.load(str(PACK / "workflows" / "ella.json"))
    (tmp_path / "half.json").write_text('{"1": ')
    with pytest.raises(client.RunError, match="half.json is no JSON"):
        runner.load(str(tmp_path / "half.json"))


def test_results_keep_folders_and_names_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("in/a.jpg", "in/a.png", "in/deep/a.jpg", "in/d.2024.jpg", "in/._hidden.jpg", "in/[1].jpg", "in/x.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    out = runner.Path("out")

    def results(*patterns):
        return {str(job.picture): str(job.target) for job in runner.jobs(list(patterns), out)}

    deep = {"in/deep/a.jpg": "out/deep/a"}
    flat = {"in/[1].jpg": "out/[1]", "in/a.jpg": "out/a", "in/d.2024.jpg": "out/d.2024"}
    assert results("in/**/*.jpg") == deep | flat
    assert results("in") == flat | {"in/a.jpg": "out/a.jpg", "in/a.png": "out/a.png"}
    assert results("in/[1].jpg") == {"in/[1].jpg": "out/[1]"}
    with pytest.raises(client.RunError, match="No picture is at nowhere"):
        results("in", "nowhere/*.jpg")
    with pytest.raises(client.RunError, match="in is the folder of the pictures"):
        runner.jobs(["in/*.jpg"], runner.Path("in"))

    out.mkdir()
    job = runner.Job(None, out / "d")
    for other in ("d.2024.png", "d.part", "dd.png"):
        (out / other).touch()
    assert not job.done
    (out / "d.webp").touch()
    assert job.done


def frame(kind, payload, final=True):
    size = len(payload)
    longer = b"" if size < 126 else size.to_bytes(2, "big") if size < 1 << 16 else size.to_bytes(8, "big")
    return bytes([kind | 0x80 * final, {0: size, 2: 126, 8: 127}[len(longer)]]) + longer + payload


def test_the_websocket_reads_frames_of_any_form(monkeypatch):
    texts = [json.dumps({"a": "x" * size}).encode() for size in (1, 200, 70000)]
    frames = [frame(1, text) for text in texts]
    frames += [frame(2, b"a preview", final=False), frame(9, b"ping"), frame(0, b"that goes on")]
    frames += [frame(1, texts[0][:3], final=False), frame(0, texts[0][3:5], final=False), frame(0, texts[0][5:])]
    frames += [frame(10, b""), frame(8, b"")]
    requests, pong = [], []

    def serve():
        connection, _ = listener.accept()
        with connection, connection.makefile("rb") as stream:
            for line in stream:
                requests.append(line)
                if line == b"\r\n":
                    break
            answer = b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + b"".join(frames)
            connection.sendall(answer[:45])
            slow.wait()  # until a tick has passed in the middle of a frame
            connection.sendall(answer[45:])
            pong.append(stream.read(10))

    monkeypatch.setattr(runner, "TICK", 0.05)
    slow = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        with runner.Events(f"http://127.0.0.1:{listener.getsockname()[1]}/behind", "me") as events:
            assert events.next() is None
            slow.set()
            shown = []
            with pytest.raises(ConnectionError, match="closed the connection"):
                while True:
                    shown += filter(None, [events.next()])
        thread.join()
    assert shown == [json.loads(text) for text in [*texts, texts[0]]]
    assert requests[0] == b"GET /behind/ws?clientId=me HTTP/1.1\r\n"
    mask, masked = pong[0][2:6], pong[0][6:]
    assert (pong[0][:2], bytes(a ^ b for a, b in zip(mask, masked, strict=True))) == (b"\x8a\x84", b"ping")


def test_a_server_without_a_websocket_is_a_sentence():
    def serve():
        connection, _ = listener.accept()
        with connection:
            connection.recv(1000)
            connection.sendall(b"HTTP/1.1 404 Not Found\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        with pytest.raises(client.RunError, match=r"it opens no websocket \(HTTP/1.1 404 Not Found\)"):
            client.run(f"http://127.0.0.1:{listener.getsockname()[1]}", REMOVE)
        thread.join()


def test_the_bar_shows_the_share_where_somebody_sees_it(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    bar = runner.Bar("a.jpg")
    bar(0.5)
    assert "a.jpg  ###############...............  50 %  0:00" in sys.stderr.getvalue()
    bar.clear()
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    runner.Bar("a.jpg")(0.5)
    assert sys.stderr.getvalue() == ""


def test_what_can_be_set_is_listed():
    status, output, _ = call("remove_without_models", "--inputs")
    assert status == 0
    assert "Fill Without a Model.method = patchmatch\n" in output
    assert "Tune Mask.invert = false\n" in output
