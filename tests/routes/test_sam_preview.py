"""The live mask's route: against a real server, and how it gives way to the queue."""

import asyncio
import gc
import io
import json
import threading
import urllib.error
import urllib.request
import weakref
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import aiohttp.web
import numpy as np
import pytest
import torch
from comfy import model_management
from comfy.patcher_extension import CallbacksMP
from PIL import Image
from safetensors.torch import load_file, save_file

from kit import sam as small_sam
from pentimento.model_patchers.segment import sam as sam_model
from pentimento.model_patchers.segment.sam import load
from pentimento.routes import live, sam_preview
from pentimento.routes.live import LIMIT, WAITING, has_left, to_png
from pentimento.routes.refused import Refused
from pentimento.routes.sam_preview import NOT_ENCODED, Preview, Request, Turn

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
        ({"client": 7}, "not JSON with image"),
        ({"hover": 1}, "not JSON with image"),
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
        asyncio.run(live.read_body(Body()))
    assert refused.value.status == 413
    assert Endless.chunks == LIMIT // 4096 + 1


class Queue:
    """ComfyUI's queue, which runs a prompt from the `free`-th look on."""

    def __init__(self, free=10**9):
        self.free, self.looks, self.mutex = free, 0, threading.RLock()

    @property
    def currently_running(self):
        return {0: "a prompt"} if self.looks >= self.free else {}

    def get_tasks_remaining(self):
        self.looks += 1
        return int(self.looks > self.free)


@pytest.fixture
def request_of(model, host, monkeypatch):
    import folder_paths

    gc.collect()  # no Preview of an earlier test shares its SAM
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


def mask(preview, request, **turn):
    return preview.mask(request, Turn(preview.queue, **turn))


def test_one_encoder_pass_serves_every_request_on_a_picture(request_of, passes):
    preview = Preview(Queue())
    first, _ = mask(preview, request_of())
    once = len(passes)
    second, _ = mask(preview, request_of(picks='{"positive": [{"x": 9, "y": 9}]}'))
    assert len(passes) == once > 0
    assert first != second
    sam = preview.loaded[1]
    mask(preview, request_of(precision="bf16"))
    assert preview.loaded[1] is not sam  # one model, never two


def test_a_hover_costs_no_pass_of_the_encoder(request_of, passes):
    preview = Preview(Queue())
    for before in ("no model is loaded", "another picture was encoded"):
        with pytest.raises(Refused) as refused:
            mask(preview, request_of(hover=True))
        assert (refused.value.status, str(refused.value)) == (409, NOT_ENCODED), before
        mask(preview, request_of(picture="pentimento_astronaut.png [input]", picks='{"positive": [{"x": 9, "y": 9}]}'))
    once = len(passes)
    clicked = mask(preview, request_of())
    assert len(passes) == 2 * once
    assert mask(preview, request_of(hover=True)) == clicked
    assert len(passes) == 2 * once


def test_it_stops_when_a_prompt_comes(request_of, passes):
    preview = Preview(Queue())
    mask(preview, request_of())
    whole, looks = len(passes), preview.queue.looks
    passes.clear()
    preview.loaded = None  # and with it the embedding
    busy = Preview(Queue(free=2))  # a look before the work, one before the model is moved, one after each block
    with pytest.raises(Refused) as refused:
        mask(busy, request_of())
    assert refused.value.status == 409
    assert len(passes) == 1 < whole < looks
    with pytest.raises(Refused) as refused:
        asyncio.run(Preview(Queue(free=0)).answer(json.dumps({}).encode()))
    assert refused.value.status == 400


def test_it_stops_within_a_layer_when_the_client_leaves_or_asks_again(request_of, passes):
    looks = iter(range(100))
    with pytest.raises(Refused) as refused:
        mask(Preview(Queue()), request_of(), left=lambda: next(looks) > 1)
    assert refused.value.status == 429
    assert len(passes) == 1


@pytest.fixture
def after_a_block(monkeypatch):
    """Sets what happens once, right after the next block of an image encoder."""
    from pentimento.model_patchers.arch import sam_vit

    events, forward = [], sam_vit.ImageEncoder.forward

    def with_events(self, x, step):
        return forward(self, x, lambda *n: (step(*n), events and events.pop()()))

    monkeypatch.setattr(sam_vit.ImageEncoder, "forward", with_events)
    yield events.append
    model_management.interrupt_current_processing(False)


def test_an_interrupt_without_a_prompt_does_not_stop_it(request_of, after_a_block):
    expected = mask(Preview(Queue()), request_of())
    after_a_block(model_management.interrupt_current_processing)
    assert mask(Preview(Queue()), request_of()) == expected


def test_an_interrupt_is_handed_on_to_the_prompt_that_it_is_meant_for(request_of, after_a_block):
    preview = Preview(Queue())

    def start_and_interrupt():
        preview.queue.free = preview.queue.looks
        model_management.interrupt_current_processing()

    after_a_block(start_and_interrupt)
    with pytest.raises(Refused) as refused:
        mask(preview, request_of())
    assert refused.value.status == 409
    assert model_management.processing_interrupted()


def test_interrupts_of_the_server_drop_no_connection(ask, server):
    expected = ask()
    for number in range(3):
        urllib.request.urlopen(urllib.request.Request(f"{server}/interrupt", b"{}", method="POST")).read()
        again = ask(picks=json.dumps(PICKS), precision=["auto", "fp32", "bf16"][number])
        assert again[0] == 200
    assert np.array_equal(ask()[1], expected[1])


class Answers:
    """A Preview in which each request takes until the test lets it go on, or until it is refused."""

    def __init__(self, monkeypatch):
        self.preview, self.go_on = Preview(Queue()), threading.Event()
        monkeypatch.setattr(sam_preview, "read_request", lambda body: SimpleNamespace(client=body.decode()))
        monkeypatch.setattr(self.preview, "mask", self.mask)

    def mask(self, request, turn):
        while not self.go_on.wait(0.01):
            turn()
        turn()
        return request.client

    async def all_of(self, *clients, left=lambda: False):
        """What each client got, asking in this order; those before the last one before any is answered."""
        tasks = []
        for client in clients:
            tasks.append(asyncio.create_task(self.preview.answer(client.encode(), left)))
            await asyncio.sleep(0)
        self.go_on.set()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        return [answer.status if isinstance(answer, Refused) else answer for answer in answers]


def test_of_a_clients_requests_the_newest_is_answered(monkeypatch):
    answers = asyncio.run(Answers(monkeypatch).all_of("a", "b", "a", "", "", "a"))
    assert answers == [429, "b", 429, "", "", "a"]


def test_the_queue_of_requests_is_bounded(monkeypatch):
    clients = [str(number) for number in range(WAITING)]
    answers = asyncio.run(Answers(monkeypatch).all_of(*clients, "late", "0"))
    assert answers == [429, *clients[1:], 503, "0"]


def test_requests_whose_clients_left_take_no_place(monkeypatch):
    several = Answers(monkeypatch)

    async def leave_and_ask():
        gone = [asyncio.create_task(several.preview.answer(b"", lambda: True)) for _ in range(3 * WAITING)]
        await asyncio.sleep(0)
        return await several.all_of("here"), await asyncio.gather(*gone, return_exceptions=True)

    (here,), gone = asyncio.run(leave_and_ask())
    assert here == "here"
    assert {refused.status for refused in gone} == {429}
    assert several.preview.line.turns == []


def test_a_closed_connection_is_noticed_while_its_request_runs():
    entered, noticed = asyncio.Event(), asyncio.Event()

    async def handler(request):
        await live.read_body(request)
        assert not has_left(request)
        entered.set()
        while not has_left(request):
            await asyncio.sleep(0.01)
        noticed.set()

    async def leave():
        app = aiohttp.web.Application()
        app.router.add_post("/", handler)
        runner = aiohttp.web.AppRunner(app)  # as ComfyUI does, which does not cancel handlers
        await runner.setup()
        await aiohttp.web.TCPSite(runner, "127.0.0.1", 0).start()
        _, writer = await asyncio.open_connection(*runner.addresses[0])
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
        await entered.wait()
        writer.close()
        await asyncio.wait_for(noticed.wait(), 60)
        await runner.cleanup()

    asyncio.run(leave())


@pytest.fixture
def graph(request_of, model, host, node_classes, monkeypatch):
    """Runs Load Image, Load SAM and SAM Segment as a graph's run does, and counts what it and the live mask load."""
    import folder_paths

    from nodes import LoadImage

    names = folder_paths.folder_names_and_paths
    monkeypatch.setitem(names, "sams", ([str(model.parent)], names["sams"][1]))
    reads, read = [], sam_model.read_model
    monkeypatch.setattr(sam_model, "read_model", lambda path: (reads.append(path), read(path))[1])

    def run():
        sam = node_classes["PentimentoLoadSAM"].execute(model.name, "fp32").args[0]
        (image, _) = LoadImage().load_image(f"{COFFEE['filename']} [input]")
        points = json.dumps(PICKS["positive"])
        node_classes["PentimentoSAMSegment"].execute(sam, image, "auto", 0, points, "", PICKS["boxes"])
        return sam

    run.reads = reads
    return run


@pytest.mark.parametrize("first", ["live mask", "graph"])
def test_the_live_mask_and_the_graph_share_one_model_and_one_embedding(graph, request_of, passes, first):
    preview, kept = Preview(Queue()), []
    asks = [lambda: mask(preview, request_of()), lambda: kept.append(graph())]
    for ask in asks if first == "live mask" else reversed(asks):
        ask()
        once = len(passes)
    assert len(graph.reads) == 1
    assert preview.loaded[1] is kept[0]
    assert len(passes) == once == kept[0].steps


def test_the_live_mask_and_the_graph_at_once_encode_once(graph, request_of, passes, after_a_block):
    executor, runs = ThreadPoolExecutor(), []
    run = torch.inference_mode()(graph)
    after_a_block(lambda: runs.append(executor.submit(run)))  # while the live mask encodes
    mask(Preview(Queue()), request_of())
    runs[0].result()
    assert len(graph.reads) == 1
    assert len(passes) == graph().steps


def test_the_model_is_shared_after_the_host_unloaded_it(graph, request_of):
    preview, sam = Preview(Queue()), graph()
    mask(preview, request_of())
    model_management.unload_all_models()
    preview.line.worker.submit(lambda: None).result()
    assert preview.loaded is None
    mask(preview, request_of())
    assert preview.loaded[1] is sam
    assert len(graph.reads) == 1
    assert sam.patcher.get_all_callbacks(CallbacksMP.ON_DETACH).count(preview.on_detach) == 1


def test_a_model_that_nobody_uses_goes(graph):
    sam = weakref.ref(graph())
    gc.collect()
    assert sam() is None


def test_a_replaced_file_is_another_model(graph, request_of, model):
    preview = Preview(Queue())
    before = mask(preview, request_of()), graph()
    content = model.read_bytes()
    weights = load_file(model)
    save_file({name: weight.flip(0) if weight.dim() == 2 else weight for name, weight in weights.items()}, model)
    try:
        after = mask(preview, request_of()), graph()
        assert before[0] != after[0]
        assert before[1] is not after[1] is preview.loaded[1]
    finally:
        model.write_bytes(content)


def test_it_lets_the_model_go_when_the_host_unloads_it(request_of):
    preview = Preview(Queue())
    mask(preview, request_of())
    assert preview.loaded
    model_management.unload_all_models()
    preview.line.worker.shutdown()
    assert preview.loaded is None


def test_it_works_beside_the_event_loop(request_of, monkeypatch):
    preview, threads = Preview(Queue()), []
    monkeypatch.setattr(sam_preview, "read_request", lambda body: request_of())
    monkeypatch.setattr(preview, "mask", lambda request, turn: threads.append(threading.current_thread()))
    asyncio.run(preview.answer(b""))
    assert threads[0].name.startswith("pentimento-preview")


def test_a_mask_is_a_png_of_one_bit_that_lets_black_through():
    mask = np.random.default_rng(0).random((13, 21)) > 0.5
    png = Image.open(io.BytesIO(to_png(mask)))
    assert png.mode == "1"
    assert np.array_equal(np.array(png.convert("L")) > 0, mask)
    assert np.array_equal(np.array(png.convert("RGBA"))[..., 3] > 0, mask)
