"""A server under mixed work for two minutes: runs, interrupts, freed memory, live masks answered and abandoned.

Memory is judged after a first part in which everything has run, by the median of what each further part adds: a leak
adds in every part, while a thread that the server starts late costs its heap once.

.ci/run names this file; pytest does not collect it by itself. `python3 host test tests/host/soak.py` runs it.
"""

import io
import json
import socket
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from itertools import cycle, pairwise
from statistics import median

from PIL import Image

from kit import sam as small_sam
from kit.process import resident
from pentimento_host import client, demo, models, photographs
from pentimento_host import server as host_server

RUNS, INTERRUPTED, FREED = 120, 5, 20  # every fifth run is interrupted, memory is freed after every twentieth
GROWTH = 0.03  # of the memory after the first part, from there to the last
MODEL = "pentimento-soak.safetensors"
PHOTOGRAPH = {"filename": "pentimento_coffee.png", "type": "input"}
PICKS = [json.dumps({"positive": [{"x": x, "y": 200}]}) for x in (100, 365)]
WAND, CLICK = models.workflows()["remove_without_models"], models.workflows()["remove_anything"]
WORK = [
    (WAND, {"Fill Without a Model.method": "harmonic"}),
    (CLICK, {"Pick Points.picks": PICKS[0], "Load SAM.sam_name": MODEL}),
    (WAND, {"Fill Without a Model.seed": 1}),
    (CLICK, {"Pick Points.picks": PICKS[1], "Load SAM.sam_name": MODEL, "LaMa Fill.area": "whole picture"}),
]
LONG = [
    (WAND, {"Fill Without a Model.seed": 77}),
    (CLICK, {"Pick Points.picks": PICKS[0], "Load SAM.sam_name": MODEL, "LaMa Fill.refine_steps": 500}),
]
TEXT = "Pick Points.picks"


class Soak:
    """Asks a server and compares what comes back with what came back first.

    Attributes:
        first: {what was asked: what came back first}.
        count: Of what was done.
    """

    def __init__(self, server, host):
        self.server, self.host, self.first, self.count = server, host, {}, Counter()

    def same(self, question, answer):
        same = self.first.setdefault(question, answer) == answer
        assert same, f"{question} was answered in other bytes than before"

    def run(self, number, graph, changes, on_progress=lambda fraction: None):
        """The pixels that a run saved. `number` blanks in a text have ComfyUI compute anew what is in its cache."""
        title, name = TEXT.split(".")
        (text,) = (node["inputs"][name] for node in graph.values() if node["_meta"]["title"] == title)
        text = changes.get(TEXT, text) + " " * number
        graph = demo.replace(graph, changes | {TEXT: text, "Result.filename_prefix": "pentimento/soak"})
        models.fill_in(self.host, graph)
        shown = client.run(self.server, graph, on_progress)
        files = [file for node in shown.values() for file in node.get("images", []) if file["type"] == "output"]
        return [Image.open(io.BytesIO(client.get(self.server, "view", **file))).tobytes() for file in files]

    def post(self, path, value):
        body = json.dumps(value).encode()
        request = urllib.request.Request(f"{self.server}/{path}", body, {"Content-Type": "application/json"})
        return urllib.request.urlopen(request, timeout=60).read()

    def interrupted(self, number, graph, changes):
        def interrupt_inside(fraction):
            if fraction > (len(graph) - 3) / len(graph):  # a preview and the saving come after
                self.live_mask(PICKS[0])
                self.post("interrupt", {})

        try:
            self.run(number, graph, changes, interrupt_inside)
        except client.RunError as error:
            assert "interrupted" in str(error)
            self.count["interrupts"] += 1

    def live_mask(self, picks):
        """Asks for a live mask, which an interrupt meant for no run must not stop."""
        try:
            mask = self.post("pentimento/sam/preview", {"image": PHOTOGRAPH, "sam_name": MODEL, "picks": picks})
        except urllib.error.HTTPError as error:
            assert error.code == 409, error.read()
            self.count["live masks that gave way"] += 1
        else:
            self.same(picks, mask)
            self.count["live masks"] += 1

    def leave(self, picks):
        """Asks for a live mask and closes the connection at once."""
        address = urllib.parse.urlsplit(self.server)
        body = json.dumps({"image": PHOTOGRAPH, "sam_name": MODEL, "picks": picks}).encode()
        head = f"POST /pentimento/sam/preview HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Length: {len(body)}\r\n\r\n"
        with socket.create_connection((address.hostname, address.port)) as connection:
            connection.sendall(head.encode() + body)
        self.count["live masks abandoned"] += 1


def test_two_minutes_of_mixed_work_leave_the_server_as_it_was(host):
    photographs.put(host.input)
    model = host.models / "sams" / MODEL
    small_sam.write(model)
    sizes, work, long = [], cycle(WORK), cycle(LONG)
    try:
        with host_server.serve(host, "--cache-classic") as server:  # which keeps the last run's results alone
            soak = Soak(server, host)
            for number in range(1, RUNS + 1):
                if number % 7 == 0:
                    soak.post("interrupt", {})
                soak.leave(PICKS[number % 2])
                soak.live_mask(PICKS[number % 2])
                if number % INTERRUPTED == 0:
                    soak.interrupted(number, *next(long))
                else:
                    graph, changes = next(work)
                    soak.same(str(changes), soak.run(number, graph, changes))
                    soak.count["runs"] += 1
                if number % FREED == 0:
                    soak.post("free", {"unload_models": True, "free_memory": True})
                    soak.run(number, *WORK[0])
                    sizes.append(resident(server))
    finally:
        model.unlink()
    assert soak.count["interrupts"] == RUNS // INTERRUPTED
    assert soak.count["live masks"] >= RUNS
    assert soak.count["live masks that gave way"] > 0  # all but those asked for just after a run
    added = median(later - earlier for earlier, later in pairwise(sizes)) * (len(sizes) - 1)
    assert added < GROWTH * sizes[0], f"{[size >> 20 for size in sizes]} MB"
