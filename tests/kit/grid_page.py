"""The page of a grid in Chromium: folders of results to show, and what a test reads off the page."""

import contextlib
import functools
import http.server
import io
import json
import re
import threading
import time

from PIL import Image
from playwright.sync_api import Error

from pentimento.model_patchers.grid import folder

from .grid import Fake

XSS = '<img src=x onerror="window.attacked=1">'


class Pictures(Fake):
    """Each picture has a colour of its own. An error holds markup."""

    def fetch(self, file):
        graph, _ = json.loads(super().fetch(file))
        inputs = graph["6"]["inputs"]
        return picture(
            (60 * inputs["seed"], int(20 * inputs["cfg"]) % 256, 0 if inputs["sampler_name"] == "euler" else 255)
        )

    def _ran(self, graph, workflow):
        outcome = super()._ran(graph, workflow)
        return type(outcome)({}, f"No {XSS}", 0.5) if outcome.error else outcome


def picture(colour, size=(32, 24)):
    """The bytes of a PNG of one colour."""
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def axis(title, *values, **more):
    """An axis of data.js; a value is a title or a mapping of what it has beside the usual."""
    usual = {"description": "", "skip": False, "sets": {}}
    values = [value if isinstance(value, dict) else {"title": value} for value in values]
    values = [{"key": value["title"], **usual, **value} for value in values]
    return {"key": title, "title": title, "description": "", "default": 0, "values": values, **more}


def written(path, axes, cells, files=(), title="Test", running=False, thumbs=True):
    """A folder of results whose data.js holds these cells, {number: record}; files are {path: content}."""
    files, records = dict(files), {}
    results = folder_of(path)
    for name, content in files.items():
        results.put(name.removeprefix("cells/").rsplit(".", 1)[0], [(f".{name.rsplit('.', 1)[1]}", content)], 1)
    for number, record in cells.items():
        shown = {"files": [], "thumbs": thumbs} if "error" not in record else {}
        records[number] = shown | record
    head = {"version": 1, "title": title, "description": "", "axes": axes, "view": {}}
    progress = {"total": 9, "done": len(cells), "failed": 0, "seconds_left": None, "running": running}
    data = head | {"progress": progress | {"written": time.time()}, "cells": [*records.items()]}
    (path / "data.js").write_text(f"pentimentoGrid({json.dumps(data)});\n")
    results.write_viewer()
    return path


def folder_of(path):
    """The folder, claimed by a grid."""
    folder.claim(path)
    return folder.Folder(path)


@contextlib.contextmanager
def opened(browser, path, fragment="", **more):
    """The page of a folder. Nothing from elsewhere is asked for, no script fails, and no foreign text runs."""
    page = browser.new_page(**{"viewport": {"width": 1200, "height": 800}, **more})
    page.problems = []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    allowed = ("file:", "data:", "blob:", "http://127.0.0.1:")
    page.on("request", lambda request: request.url.startswith(allowed) or page.problems.append(request.url))
    visit(page, path, fragment)
    yield page
    assert page.evaluate("window.attacked") is None
    assert page.problems == []
    page.close()


def visit(page, path, fragment=""):
    """Opens the page, of a folder or at an address."""
    page.goto("about:blank")
    address = path if isinstance(path, str) else (path / "index.html").as_uri()
    page.goto(f"{address}{fragment}")
    page.wait_for_selector(".cell")


@contextlib.contextmanager
def served(path):
    """The address of the page on a plain server of files."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/index.html"
    server.shutdown()
    server.server_close()


def link(page):
    """The part of the address that holds the view."""
    return page.evaluate("writeHashNow() ?? location.hash")


def headings(page, place="x"):
    """The titles of the values that stand at a place, in their order on the screen."""
    headings = page.locator(f".heading.{place}").evaluate_all(
        "all => all.map((each) => [each.offsetLeft + each.offsetTop, each.innerText])"
    )
    return [text for _, text in sorted(headings)]


def options(page, place, title):
    """Puts an axis at a place."""
    page.locator(f"#{place}").select_option(label=title)


def facts(page):
    """All that the open cell says, without empty lines."""
    return re.sub("\n+", "\n", page.locator("#facts").inner_text())


def values(page):
    """The value on each axis of the open cell."""
    return page.locator("#facts .value").all_inner_texts()


def cell(page, row, column):
    """A cell of the table."""
    return page.locator(f"#cell-{row}-{column}")


def colour(page, locator):
    """In the middle of an element, as the browser shows it."""
    try:
        bits = locator.screenshot()
    except Error:  # the page drew the table anew meanwhile
        bits = locator.screenshot()
    shot = Image.open(io.BytesIO(bits)).convert("RGB")
    return shot.getpixel((shot.width // 2, shot.height // 2))


def near(one, other):
    """Whether two colours are alike up to the losses of JPEG."""
    return max(abs(a - b) for a, b in zip(one, other, strict=True)) <= 6
