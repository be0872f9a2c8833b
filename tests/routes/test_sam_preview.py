"""The live mask's route: against a real server, and how it gives way to the queue."""

import asyncio
import io
import json
import threading
import urllib.error
import urllib.request

import numpy as np
import pytest
import torch
from comfy import model_management
from PIL import Image

from kit import sam as small_sam
from pentimento.model_patchers.segment.sam import load
from pentimento.routes import sam_preview
from pentimento.routes.sam_preview import LIMIT, Preview, Refused, Request, to_png

MODEL = "pentimento-test.safetensors"
BOXES = [{"x": 20, "y": 10, "width": 200, "height": 150}]
PICKS = {"positive": [{"x": 100, "y": 90}, {"x": 30, "y": 20}], "boxes": BOXES}
COFFEE = {"filename": "pentimento_coffee.png", "subfolder": "", "type": "input"}


@pytest.fixture(scope="module")
def model(host):
    path = host.models / "sams" / MODEL
    small_sam.write(path)
    yield path
    path.unlink()


@pytest.fixture
def ask(model, server):  # in this order: the server lists the folders that are there when it starts
    """Posts a request; the status and what came back: a mask (H, W) with its score, or a sentence."""

    def ask(body=None, **changes):
        whole = {"image": COFFEE, "sam_name": MODEL, "picks": json.dumps(PICKS), **changes}
        body = json.dumps(whole).encode() if body is None else body
        request = urllib.request.Request(f"{server}/pentimento/sam/preview", body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                mask = np.array(Image.open(io.BytesIO(response.read())).convert("L"))
                return response.status, mask, float(response.headers["X-Pentimento-Score"])
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())["error"]

    return ask


def test_the_mask_is_the_nodes(ask, model, host, node_classes):
    status, mask, *score = ask()
    picture = np.array(Image.open(host.input / COFFEE["filename"]).convert("RGB")).astype(np.float32) / 255
    wanted, scores = (
        node_classes["PentimentoSAMSegment"]
        .execute(
            load(model), torch.from_numpy(picture)[None], "auto", 0, json.dumps(PICKS["positive"]), "", PICKS["boxes"]
        )
        .args
    )
    assert status == 200, mask
    assert 0.02 < (mask > 0).mean() < 0.98
    assert set(np.unique(mask)) == {0, 255}
    assert (mask > 0).mean() == pytest.approx(wanted.mean().item(), abs=1e-4)
    assert np.mean((mask > 0) != (wanted[0].numpy() > 0)) < 1e-4
    assert score[0] == pytest.approx(scores[0], abs=1e-3)


def test_the_choice_and_picks_of_another_size_are_heeded(ask):
    masks = {choice: ask(choice=choice)[1] for choice in ("1", "2", "3")}
    assert any(np.any(masks["1"] != masks[other]) for other in ("2", "3"))
    double = {"width": 1200, "height": 800, "positive": [{"x": 201, "y": 181}, {"x": 61, "y": 41}]}
    double["boxes"] = [{"x": 40, "y": 20, "width": 400, "height": 300}]
    assert np.array_equal(ask(picks=json.dumps(double))[1], ask()[1])


@pytest.mark.parametrize(
    ("image", "status"),
    [
        ({"filename": "../../main.py", "type": "input"}, 403),
        ({"filename": "main.py", "subfolder": "..", "type": "input"}, 403),
        ({"filename": "example.png", "subfolder": "a/../../input", "type": "input"}, 403),
        ({"filename": "passwd", "subfolder": "/etc", "type": "input"}, 403),
        ({"filename": "/etc/passwd", "type": "input"}, 403),
        ({"filename": COFFEE["filename"], "type": "models"}, 403),
        ({"filename": "", "type": "input"}, 404),
        ({"filename": ".", "type": "input"}, 403),
        ({"filename": "missing.png", "type": "input"}, 404),
        ({"filename": "x" * 9999 + ".png", "type": "input"}, 404),
        ({"filename": f"{COFFEE['filename']} [output]", "type": "input"}, 404),
        ({"filename": "a\0.png", "type": "input"}, 400),
        ({"filename": 7, "type": "input"}, 400),
        ("coffee.png", 400),
        (None, 400),
    ],
)
def test_pictures_outside_the_hosts_folders_are_refused(ask, image, status):
    found, sentence = ask(image=image)
    assert found == status
    assert sentence.endswith(".")


def test_files_that_are_no_pictures_are_refused(ask, host):
    for name, content, status in [("pentimento_test.txt", b"secret", 404), ("pentimento_test.png", b"secret", 400)]:
        (host.input / name).write_bytes(content)
        try:
            found, sentence = ask(image={"filename": name, "type": "input"})
        finally:
            (host.input / name).unlink()
        assert found == status
        assert "secret" not in sentence


@pytest.mark.parametrize("name", ["missing.pth", f"../sams/{MODEL}", "/etc/passwd", ""])
def test_unknown_models_are_refused(ask, name):
    assert ask(sam_name=name) == (404, f"There is no file {name!r} in models/sams.")


def test_a_file_that_is_no_sam_is_refused_with_the_loaders_sentence(ask, model):
    path = model.with_name("pentimento-other.safetensors")
    path.write_bytes(b"nothing")
    try:
        status, sentence = ask(sam_name=path.name)
    finally:
        path.unlink()
    assert status == 400
    assert path.name in sentence


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b"{}", b"\xff\xfe", b"[" * 50_000, b'{"image": {}}', b"1" * 9000],
    ids=["empty", "cut", "list", "null", "bare", "binary", "deep", "no names", "number"],
)
def test_malformed_bodies_are_refused(ask, body):
    assert ask(body) == (400, "The request is not JSON with image, sam_name and picks.")


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"picks": "{"}, "need JSON such as"),
        ({"picks": "[" * 20_000}, "need JSON such as"),
        ({"picks": '{"positive": [{"x": 600, "y": 0}]}'}, "does not lie in the 600 x 400 picture"),
        ({"picks": '{"boxes": [{"x": 1, "y": 1, "width": 0, "height": 5}]}'}, "holds no pixel"),
        ({"picks": ""}, "no positive point and no box"),
        ({"precision": "int4"}, "precision"),
        ({"choice": "4"}, "choice"),
        ({"refine_iterations": 10_000}, "refine_iterations"),
    ],
)
def test_bad_prompts_are_refused(ask, changes, part):
    status, sentence = ask(**changes)
    assert status == 400
    assert part in sentence


def test_long_bodies_are_read_no_further_than_the_limit(ask, server):
    assert ask(b" " * (LIMIT + 1))[0] == 413

    class Endless:
        chunks = 0

        async def readany(self):
            Endless.chunks += 1
            return b"x" * 4096

    class Body:
        content = Endless()

    with pytest.raises(Refused) as refused:
        asyncio.run(sam_preview.read_body(Body()))
    assert refused.value.status == 413
    assert Endless.chunks == LIMIT // 4096 + 1


class Queue:
    """ComfyUI's queue, which holds a prompt from the `free`-th look on."""

    def __init__(self, free=10**9):
        self.free, self.looks, self.mutex = free, 0, threading.RLock()

    def get_tasks_remaining(self):
        self.looks += 1
        return int(self.looks > self.free)


@pytest.fixture
def request_of(model, host, monkeypatch):
    import folder_paths

    monkeypatch.setattr(folder_paths, "input_directory", str(host.input))

    def request_of(**changes):
        fields = {"precision": "fp32", "choice": "auto", "refine_iterations": 0, "picks": json.dumps(PICKS)}
        return Request(**{"picture": f"{COFFEE['filename']} [input]", "model": str(model), **fields, **changes})

    return request_of


@pytest.fixture
def passes(monkeypatch):
    """How many blocks of image encoders ran."""
    from pentimento.model_patchers.arch import sam_vit

    ran, forward = [], sam_vit.ImageEncoder.forward
    monkeypatch.setattr(
        sam_vit.ImageEncoder, "forward", lambda self, x, step: forward(self, x, lambda *n: (ran.append(1), step(*n)))
    )
    return ran


def test_one_encoder_pass_serves_every_request_on_a_picture(request_of, passes):
    preview = Preview(Queue())
    first, _ = preview.mask(request_of())
    once = len(passes)
    second, _ = preview.mask(request_of(picks='{"positive": [{"x": 9, "y": 9}]}'))
    assert len(passes) == once > 0
    assert first != second
    sam = preview.loaded[1]
    preview.mask(request_of(precision="bf16"))
    assert preview.loaded[1] is not sam  # one model, never two


def test_it_stops_when_a_prompt_comes(request_of, passes):
    preview = Preview(Queue())
    preview.mask(request_of())
    whole, looks = len(passes), preview.queue.looks
    passes.clear()
    busy = Preview(Queue(free=2))  # a look before the work, one before the model is moved, one after each block
    with pytest.raises(Refused) as refused:
        busy.mask(request_of())
    assert refused.value.status == 409
    assert len(passes) == 1 < whole < looks
    with pytest.raises(Refused) as refused:
        asyncio.run(Preview(Queue(free=0)).answer(json.dumps({}).encode()))
    assert refused.value.status == 400


def test_it_lets_the_model_go_when_the_host_unloads_it(request_of):
    preview = Preview(Queue())
    preview.mask(request_of())
    assert preview.loaded
    model_management.unload_all_models()
    preview.worker.shutdown()
    assert preview.loaded is None


def test_it_works_beside_the_event_loop(request_of, monkeypatch):
    preview, threads = Preview(Queue()), []
    monkeypatch.setattr(sam_preview, "read_request", lambda body: request_of())
    monkeypatch.setattr(preview, "mask", lambda request: threads.append(threading.current_thread()))
    asyncio.run(preview.answer(b""))
    assert threads[0].name.startswith("pentimento-preview")


def test_a_mask_is_a_png_of_one_bit_that_lets_black_through():
    mask = np.random.default_rng(0).random((13, 21)) > 0.5
    png = Image.open(io.BytesIO(to_png(mask)))
    assert png.mode == "1"
    assert np.array_equal(np.array(png.convert("L")) > 0, mask)
    assert np.array_equal(np.array(png.convert("RGBA"))[..., 3] > 0, mask)
