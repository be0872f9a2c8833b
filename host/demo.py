"""Runs every bundled workflow on photographs through ComfyUI's API and lays the pictures out on one page."""

import asyncio
import copy
import html
import shutil
import urllib.error
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from . import client, models, photographs
from .client import Graph
from .environment import Host, known, whole
from .server import serve

STANDIN_LIMITS = {"steps": 2, "megapixels": 0.1}
SMALL_WINDOWS = {"Windowed Diffusion.window": 256, "Windowed Diffusion.overlap": 64}
STANDIN_CHANGES = {
    "upscale_sd_x4": {"Small picture.megapixels": 0.01},
    "unclip_variations": {"Size.width": 256, "Size.height": 256},
    "demofusion": {
        "Size.width": 256,
        "Size.height": 192,
        "DemoFusion Upscale.window": 256,
        "DemoFusion Upscale.overlap": 128,
    },
    "iterative_mixing": {"Twice as large.scale_by": 0.8} | SMALL_WINDOWS,
    "sd_x4_any_size": {"A megapixel.megapixels": 0.01} | SMALL_WINDOWS,
    "sd_upscale": {"Half of that.scale_by": 0.2} | SMALL_WINDOWS,
    "hires_fix": {"Size.width": 256, "Size.height": 192} | SMALL_WINDOWS,
}
SHEET_ORDER = ("LoadImage", "MaskPreview", "PreviewImage", "SaveImage")

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Pentimento demo</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 2rem; background: #f7f7f5; color: #222 }}
section {{ margin-bottom: 3rem }}
.row {{ display: flex; flex-wrap: wrap; gap: 1rem }}
figure {{ margin: 0; max-width: 31rem; flex: 1 1 18rem }}
img {{ width: 100%; display: block }}
figcaption {{ font-size: .9rem; color: #555 }}
.standin {{ background: #fff3cd; padding: .5rem .8rem; display: inline-block }}
.failed {{ background: #f8d7da; padding: .5rem .8rem; display: inline-block }}
</style>
<h1>Pentimento demo</h1>
<p>{progress}</p>
{sections}
</html>
"""


@dataclass
class Run:
    """One workflow on one photograph, and what came of it."""

    workflow: str
    title: str
    graph: Graph
    standins: list[str] = field(default_factory=list)
    pictures: list[tuple[str, str]] = field(default_factory=list)  # caption, file name
    credits: list[str] = field(default_factory=list)
    error: str = ""


def demo(host: Host, only: list[str]) -> int:
    """Runs the bundled workflows (or those named in `only`) and writes the contact sheet; 0 when all succeeded.

    The sheet of an earlier run stays until the server is up. The new sheet grows with each result.
    """
    folder = host.home / "demo"
    runs = list(_runs(only))
    photographs.put(host.input)
    for run in runs:
        run.standins = models.fill_in(host, run.graph)
        if run.standins:
            run.graph = _shortened(run)
    runs.sort(key=lambda run: bool(run.standins))
    with serve(host) as server:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)  # on Windows a folder that is shown somewhere stays
        _write_sheet(folder, [], len(runs))
        for number, run in enumerate(runs):
            _play(server, run, folder, f"{number:02d}")
            _write_sheet(folder, runs[: number + 1], len(runs))
    failed = [run for run in runs if run.error]
    standing = sorted({name for run in runs for name in run.standins})
    if standing:
        print(
            f"Stand-ins with random weights took the place of {', '.join(standing)}: those results mean nothing as "
            "pictures, and take few steps. `python3 host models` says where the real files come from."
        )
    print(f"{len(runs) - len(failed)} of {len(runs)} runs succeeded. Look at {folder / 'index.html'}")
    return 1 if failed else 0


def _runs(only: list[str]) -> Iterator[Run]:
    graphs = models.workflows()
    known("workflow", only, graphs)
    for name, graph in graphs.items():
        if only and name not in only:
            continue
        yield Run(name, name.replace("_", " "), graph)
        for title, changes in photographs.VARIATIONS.get(name, {}).items():
            yield Run(name, f"{name.replace('_', ' ')}: {title}", replace(graph, changes))


def _shortened(run: Run) -> Graph:
    """A copy that asks little of a stand-in, whose pictures mean nothing at any size and after any number of steps."""
    graph = replace(run.graph, STANDIN_CHANGES.get(run.workflow, {}))
    for node in graph.values():
        for name, limit in STANDIN_LIMITS.items():
            if isinstance(node["inputs"].get(name), (int, float)):
                node["inputs"][name] = min(node["inputs"][name], limit)
    return graph


def replace(graph: Graph, changes: dict[str, object]) -> Graph:
    """A copy of a workflow with some inputs replaced: {"<node title>.<input id>": value}."""
    graph = copy.deepcopy(graph)
    by_title = {node["_meta"]["title"]: node for node in graph.values()}
    for place, value in changes.items():
        title, name = place.rsplit(".", 1)
        by_title[title]["inputs"][name] = value
    return graph


def _play(server: str, run: Run, folder: Path, number: str) -> None:
    with tqdm(total=100, desc=f"{run.title:44}", bar_format="{desc}{bar:30} {percentage:3.0f} %  {elapsed}") as bar:

        def show(fraction: float) -> None:
            bar.update(round(100 * fraction) - bar.n)

        try:
            outputs = asyncio.run(client.run(server, run.graph, show))
            for node, picture in _pictures(run.graph, outputs):
                name = f"{number}_{run.workflow}_{len(run.pictures)}.png"
                (folder / name).write_bytes(client.get(server, "view", channel="rgb", **picture))
                run.pictures.append((node["_meta"]["title"], name))
                run.credits += photographs.credit(picture["filename"])
        except (client.RunError, urllib.error.URLError) as error:
            run.error = str(error)
            bar.write(f"{run.title} failed: {error}")


def _pictures(graph: Graph, outputs: dict) -> Iterator[tuple[dict, dict]]:
    """The photograph that a workflow loads, then what it shows, then what it saves: (node, the picture's reference)."""
    for kind in SHEET_ORDER:
        for key, node in graph.items():
            if node["class_type"] != kind:
                continue
            if kind == "LoadImage":
                yield node, {"filename": node["inputs"]["image"], "subfolder": "", "type": "input"}
            for picture in outputs.get(key, {}).get("images", []):
                yield node, picture


def _write_sheet(folder: Path, runs: list[Run], planned: int) -> None:
    """Writes the contact sheet of the runs so far."""
    progress = f"{len(runs)} of {planned} runs are on this page." if len(runs) < planned else ""
    page = PAGE.format(progress=progress, sections="\n".join(map(_section, runs)))
    with whole(folder / "index.html") as part:
        part.write_text(page, encoding="utf-8")


def _section(run: Run) -> str:
    notes = ""
    if run.error:
        notes += f'<p class="failed">Failed: {html.escape(run.error)}</p>'
    if run.standins:
        names = html.escape(", ".join(run.standins))
        notes += (
            f'<p class="standin">Stand-in with random weights for {names}: the result means nothing as a picture.</p>'
        )
    figures = "".join(
        f'<figure><img src="{name}" alt="{caption}"><figcaption>{caption}</figcaption></figure>'
        for caption, name in ((html.escape(caption), name) for caption, name in run.pictures)
    )
    credits = "".join(f"<p><small>{html.escape(credit)}</small></p>" for credit in run.credits)
    return f'<section><h2>{html.escape(run.title)}</h2>{notes}<div class="row">{figures}</div>{credits}</section>'
