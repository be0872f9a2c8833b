"""What a user does to a running server: queues twice, interrupts, queues for hours, frees memory."""

import io
import json
import urllib.request

import numpy as np
import pytest
from PIL import Image

from kit.process import resident
from pentimento_host import client, demo, models

REMOVE = models.workflows()["remove_without_models"]
LAMA = models.workflows()["lama_fill"]
DEMOFUSION = models.workflows()["demofusion"]
MEGABYTE = 1 << 20


@pytest.fixture
def lama_graph(host):
    graph = demo.replace(LAMA, {})
    models.fill_in(host, graph)
    return graph


def run(server, graph, changes=None, on_progress=lambda fraction: None):
    return client.run(server, demo.replace(graph, changes or {}), on_progress)


def result(server, graph, changes=None):
    """The pixels that the workflow saved."""
    (picture,) = [
        picture
        for node in run(server, graph, changes).values()
        for picture in node.get("images", [])
        if picture["type"] == "output"
    ]
    return np.asarray(Image.open(io.BytesIO(client.get(server, "view", **picture))))


def post(server, path, value):
    request = urllib.request.Request(
        f"{server}/{path}", json.dumps(value).encode(), {"Content-Type": "application/json"}
    )
    urllib.request.urlopen(request).read()


def test_the_same_graph_gives_the_same_bits_and_another_seed_does_not(server):
    first = result(server, REMOVE, {"Fill Without a Model.seed": 1, "Result.filename_prefix": "a"})
    other = result(server, REMOVE, {"Fill Without a Model.seed": 2, "Result.filename_prefix": "b"})
    again = result(server, REMOVE, {"Fill Without a Model.seed": 1, "Result.filename_prefix": "c"})
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("node", ["Fill Without a Model", "LaMa Fill"])
def test_an_interrupted_fill_leaves_nothing_behind(server, lama_graph, node):
    graph, slow, again = {
        "Fill Without a Model": (REMOVE, {"Fill Without a Model.seed": 77}, {"Result.filename_prefix": "after"}),
        "LaMa Fill": (lama_graph, {"LaMa Fill.refine_steps": 500}, {"LaMa Fill.refine_steps": 2}),
    }[node]
    expected = result(server, graph, again)

    def interrupt_inside(fraction):
        # The mask preview, the save and the comparison come after the fill.
        if fraction > (len(graph) - 4) / len(graph):
            post(server, "interrupt", {})

    with pytest.raises(client.RunError, match="interrupted"):
        run(server, graph, slow, interrupt_inside)
    assert json.loads(client.get(server, "queue")) == {"queue_running": [], "queue_pending": []}
    assert np.array_equal(result(server, graph, again | {"Result.filename_prefix": "again"}), expected)


def test_an_interrupted_phase_leaves_nothing_behind(server, host):
    """DemoFusion's second phase, on a stand-in of SD 1.5: then as before, in bits and in bytes."""
    changes = {"Model.ckpt_name": "v1-5-pruned-emaonly-fp16.safetensors", "Size.width": 128, "Size.height": 96}
    changes |= {"DemoFusion Upscale.window": 128, "DemoFusion Upscale.overlap": 64, "Basic Scheduler.steps": 2}
    graph = demo.replace(DEMOFUSION, changes)
    models.fill_in(host, graph)
    phases = []

    def pictures(prefix):
        found = run(server, graph, {"Result.filename_prefix": prefix})
        files = [client.get(server, "view", **picture) for node in found.values() for picture in node["images"]]
        return [Image.open(io.BytesIO(file)).tobytes() for file in files]

    def interrupt_inside(fraction):
        if fraction > (len(graph) - 4.5) / len(graph):  # two decodings, a preview and the saving come after
            phases.append(fraction)
            post(server, "interrupt", {})

    expected, before = pictures("before"), resident(server)
    with pytest.raises(client.RunError, match="interrupted"):
        run(server, graph, {"Basic Scheduler.steps": 30}, interrupt_inside)
    assert phases
    assert json.loads(client.get(server, "queue")) == {"queue_running": [], "queue_pending": []}
    assert resident(server) < 1.05 * before
    run(server, graph, {"DemoFusion Upscale.noise_seed": 5})  # else the host shows what it has kept
    assert pictures("after") == expected


def test_thirty_runs_do_not_grow_the_server(server, lama_graph):
    def one(number):
        run(server, REMOVE, {"Fill Without a Model.method": "harmonic", "Tune Mask.grow": 2 + number % 3})
        run(server, lama_graph, {"LaMa Fill.context": 64 + number % 7})

    for number in range(7):
        one(number)
    before = resident(server)
    for number in range(15):
        one(number)
    assert resident(server) < 1.05 * before


def test_the_server_returns_to_its_size_when_the_host_unloads_models(server, lama_graph):
    run(server, lama_graph)
    post(server, "free", {"unload_models": True, "free_memory": True})
    run(server, demo.replace(REMOVE, {"Fill Without a Model.method": "harmonic"}))
    before = resident(server)
    run(server, lama_graph, {"LaMa Fill.context": 200})
    post(server, "free", {"unload_models": True, "free_memory": True})
    run(server, demo.replace(REMOVE, {"Fill Without a Model.method": "harmonic"}))
    assert resident(server) < 1.05 * before + 8 * MEGABYTE
