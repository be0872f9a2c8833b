"""The page of a grid with 10,000 cells, scrolled in Chromium, against a plain table of the same pictures."""

import json
import os
import sys
import tempfile
import time
from pathlib import Path

import _pack

SIDE, PICTURE, PICTURES = 100, 512, 20  # cells across and down, px of a picture, and how many different ones
EMPTY = "<main style='height: 90vh; overflow: auto'><div style='height: 20000px; width: 20000px'></div></main>"
SIZES = (160, 48)  # px of a cell
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
SCROLL = """async (step) => {
    const main = document.querySelector('main'), times = [];
    let last = await new Promise(requestAnimationFrame);
    for (const [x, y] of [[0, 1], [0, -1], [1, 1], [-1, -1]]) {
        for (let moved = 0; moved < 60; moved++) {
            main.scrollBy(x * step, y * step);
            const now = await new Promise(requestAnimationFrame);
            times.push(now - last);
            last = now;
        }
    }
    return times;
}"""
JUMP = """async () => {
    const main = document.querySelector('main'), times = [];
    let last = await new Promise(requestAnimationFrame);
    for (let jump = 0; jump < 30; jump++) {
        main.scrollTo((jump * 7919) % main.scrollWidth, (jump * 104729) % main.scrollHeight);
        for (let frame = 0; frame < 4; frame++) {
            const now = await new Promise(requestAnimationFrame);
            times.push(now - last);
            last = now;
        }
    }
    return times;
}"""


def run() -> dict | list:
    """Each side's longest frame; nothing where there is no Chromium."""
    if not Path(browser()).exists():
        print(f"grid_viewer is left out: there is no Chromium at {browser()}.", file=sys.stderr)
        return []
    with tempfile.TemporaryDirectory() as folder:
        ours, peer = (_pack.call(__file__, name, folder) for name in ("ours", "peer"))
    figures = (
        f"{name}: median frame {side['median'] * 1000:.0f} ms, most processor time of a task of the page "
        f"{side['task'] * 1000:.0f} ms, first picture after {side['start']:.1f} s"
        for name, side in (("Ours", ours), ("peer", peer))
    )
    return {
        "title": f"Longest frame while {SIDE * SIDE:,} cells of {PICTURE} x {PICTURE} px scroll past",
        "ours": {"seconds": ours["seconds"]},
        "peer": {"seconds": peer["seconds"]},
        "peer_name": "a plain table, pictures loaded lazily",
        "note": f"Chromium without a GPU, 240 steps of 3 cells and 30 jumps, {SIZES[0]} px a cell, ours also "
        f"{SIZES[1]} px. {'; '.join(figures)}. "
        f"An empty page's longest frame, just before: {ours['empty'] * 1000:.0f} ms.",
    }


def browser() -> str:
    """The path of Chromium, be it there or not."""
    _pack.load_package("pentimento_host", _pack.PACK / "host")
    from pentimento_host import system

    return system.browser()


def main(side: str, folder: str) -> dict:
    """Of one side: the longest and the median frame, the longest task, and when a picture is there."""
    from playwright.sync_api import sync_playwright

    page_file = {"ours": ours, "peer": peer}[side](Path(folder, side))
    times, task = [], 0.0
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser(), args=ARGUMENTS)
        page = chromium.new_page(viewport={"width": 1600, "height": 1000})
        page.set_content(EMPTY)
        empty = max(page.evaluate(SCROLL, 3 * SIZES[0]))
        start = time.perf_counter()
        page.goto(page_file.as_uri())
        page.wait_for_function("document.querySelector('main img[src]')?.complete")
        started = time.perf_counter() - start
        for size in SIZES if side == "ours" else SIZES[:1]:
            page.evaluate("(size) => { if (window.resize) { state.size = size; resize(); } }", size)
            page.wait_for_timeout(1000)
            frames = page.evaluate(SCROLL, 3 * size) + page.evaluate(JUMP)
            chromium.start_tracing(page=page, categories=["toplevel"])
            page.evaluate(SCROLL, 3 * size)
            task = max(task, longest_task(json.loads(chromium.stop_tracing())["traceEvents"]))
            print(f"{side}, {size} px: longest frame {max(frames):.0f} ms, longest task {task:.3f} s", file=sys.stderr)
            times += frames
        chromium.close()
    median = sorted(times)[len(times) // 2]
    figures = {"seconds": max(times), "median": median, "empty": empty}
    return {name: took / 1000 for name, took in figures.items()} | {"task": task, "start": started}


def longest_task(events: list[dict]) -> float:
    """The most processor time that a task of the page's main thread took, in seconds; other processes do not count."""
    threads = {
        (e["pid"], e["tid"]) for e in events if e["name"] == "thread_name" and e["args"]["name"] == "CrRendererMain"
    }
    tasks = (e for e in events if e["name"].endswith("RunTask") and (e["pid"], e["tid"]) in threads)
    return max(e.get("tdur", 0) for e in tasks) / 1e6


def pictures() -> list[bytes]:
    """Noise and gradients, which a PNG hardly compresses."""
    import io

    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    contents = []
    for number in range(PICTURES):
        levels = np.linspace(0, 200, PICTURE)[:, None, None] + rng.integers(0, 55, (PICTURE, PICTURE, 3))
        buffer = io.BytesIO()
        Image.fromarray(np.roll(levels, 30 * number, 0).astype(np.uint8)).save(buffer, "PNG", compress_level=1)
        contents.append(buffer.getvalue())
    return contents


def filled(path: Path) -> list[str]:
    """10,000 pictures below cells/, of which most are links to the first ones; their paths."""
    contents, names = pictures(), []
    for number in range(SIDE * SIDE):
        name = f"cells/{number // SIDE}/{number % SIDE}.png"
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if number < PICTURES:
            file.write_bytes(contents[number])
        else:
            os.link(path / names[number % PICTURES], file)
        names.append(name)
    return names


def ours(path: Path) -> Path:
    """A folder of results as a run leaves it."""
    _pack.load()
    from pentimento.model_patchers.grid import folder

    names, scripts = filled(path), []
    for number, name in enumerate(names):
        if number < PICTURES:
            scripts.append(folder.thumbnail(name, (path / name).read_bytes()))
        small = path / folder.thumbnail_of(name)
        small.parent.mkdir(parents=True, exist_ok=True)
        small.write_bytes(scripts[number % PICTURES].replace(names[number % PICTURES].encode(), name.encode(), 1))
    value = {"description": "", "skip": False, "sets": {}}
    values = [{"key": str(number), "title": str(number), **value} for number in range(SIDE)]
    axes = [{"key": name, "title": name, "description": "", "default": 0, "values": values} for name in ("y", "x")]
    progress = {"total": 10000, "done": 10000, "failed": 0, "seconds_left": None, "running": False, "written": 1.0}
    cells = [[number, {"files": [name], "seconds": 1.0, "thumbs": True}] for number, name in enumerate(names)]
    data = {"title": "Ten thousand", "description": "", "axes": axes, "view": {"y": 0, "x": 1}, "progress": progress}
    (path / "data.js").write_text(f"pentimentoGrid({json.dumps(data | {'cells': cells})});\n", encoding="utf-8")
    (path / "index.html").write_text(folder.page(), encoding="utf-8")
    return path / "index.html"


def peer(path: Path) -> Path:
    """The same pictures in a table of HTML."""
    names = filled(path)
    row = "".join
    cell = '<td><img loading="lazy" decoding="async" width="160" height="160" src="{}"></td>'.format
    lines = (row(cell(name) for name in names[first : first + SIDE]) for first in range(0, len(names), SIDE))
    table = "".join(f"<tr>{line}</tr>" for line in lines)
    style = "<style>main { height: 90vh; overflow: auto }</style>"
    (path / "index.html").write_text(f"<!doctype html>{style}<main><table>{table}</table></main>", encoding="utf-8")
    return path / "index.html"
