"""Runs every bundled workflow on photographs through ComfyUI's API and lays the pictures out on one page."""

import html
import io
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from . import client, models, photographs
from .client import Graph, replace
from .environment import Host, whole
from .server import serve

STANDIN_LIMITS = {"steps": 2, "megapixels": 0.1}
STANDIN_SECONDS = 0.5  # of a video
SMALL_WINDOWS = {"Windowed Diffusion.window": 256, "Windowed Diffusion.overlap": 64}
STANDIN_CHANGES = {
    "attention_couple": {"Size.width": 384, "Size.height": 256},
    "anti_burn": {"Size.width": 256, "Size.height": 256},
    "dynamic_thresholding": {"Size.width": 256, "Size.height": 256},
    "symmetry": {"Size.width": 256, "Size.height": 256},
    "regional_prompt": {"Size.width": 384, "Size.height": 256},
    "wildcards": {"Size.width": 256, "Size.height": 256},
    "upscale_sd_x4": {"Small picture.megapixels": 0.01},
    "unclip_variations": {"Size.width": 256, "Size.height": 256},
    "colour_grade": {"Size.width": 256, "Size.height": 256},
    "detail_faces": {"Detailer.size": 256},
    "detail_hands_by_mask": {"Detailer.size": 256},
    "demofusion": {
        "Size.width": 256,
        "Size.height": 192,
        "DemoFusion Upscale.window": 256,
        "DemoFusion Upscale.overlap": 128,
    },
    "iterative_mixing": {"Twice as large.scale_by": 0.8} | SMALL_WINDOWS,
    "sd_x4_any_size": {"A megapixel.megapixels": 0.01} | SMALL_WINDOWS,
    "sd_upscale": {"Half of that.scale_by": 0.2} | SMALL_WINDOWS,
    "hidiffusion": {"Size.width": 256, "Size.height": 256, "HiDiffusion.preset": "sd15 2048"},
    "hdr": {"Size.width": 128, "Size.height": 128},
    "hires_fix": {"Size.width": 256, "Size.height": 192} | SMALL_WINDOWS,
    "Upscale Any Size": {"A megapixel.megapixels": 0.01} | SMALL_WINDOWS,
}
SAVED = ("SaveImage", "SaveImageAdvanced", "SaveVideo")
SHEET_ORDER = ("LoadImage", "LoadVideo", "MaskPreview", "PreviewImage", *SAVED)
LOADED = {"LoadImage": "image", "LoadVideo": "file"}  # {node: the input that names its file}
VIDEO_SUFFIX = ".mp4"

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Pentimento demo</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 2rem clamp(1rem, 3vw, 3rem); background: #f7f7f5; color: #222 }}
header {{ max-width: 50rem }}
section {{ margin: 2.5rem 0 }}
h2 {{ margin-bottom: .3rem; font-size: 1.3rem }}
.mark {{ font: bold .8rem/1 system-ui, sans-serif; padding: .25rem .5rem; border-radius: 1rem; vertical-align: middle }}
.real {{ background: #d1f0d9; color: #0b4a1e }}
.stand-in {{ background: #fff0c2; color: #5c4300 }}
.failed {{ background: #f8d7da; color: #6b0f1a }}
.note {{ margin: .3rem 0 .6rem; color: #555; overflow-wrap: anywhere }}
.row {{ display: flex; flex-wrap: wrap; gap: 1rem }}
figure {{ margin: 0; max-width: 31rem; flex: 1 1 17rem }}
img {{ width: 100%; display: block }}
figcaption {{ font-size: .9rem; color: #555 }}
.compare {{ position: relative; --at: 50% }}
.compare:focus-within {{ outline: 3px solid #2962d9 }}
.compare .before {{ position: absolute; inset: 0; height: 100%; clip-path: inset(0 calc(100% - var(--at)) 0 0) }}
.compare::after {{ content: ""; position: absolute; inset: 0 auto 0 var(--at); width: 2px; margin-left: -1px;
  background: #fff; box-shadow: 0 0 3px #000 }}
.compare input {{ position: absolute; z-index: 1; inset: 0; width: 100%; height: 100%; margin: 0; opacity: 0;
  cursor: ew-resize }}
</style>
<header>
<h1>Pentimento demo</h1>
<p>Each row is a workflow of Pentimento that ComfyUI ran on this machine: what went in, the mask where there is one, and
what came out. Move the mouse or a finger over <em>Before and after</em>, or use the arrow keys there, to
compare.</p>
{counts}
<p>{progress}</p>
</header>
{sections}
<script>
for (const input of document.querySelectorAll(".compare input")) {{
  const show = () => input.parentNode.style.setProperty("--at", input.value + "%");
  input.addEventListener("input", show);
  input.addEventListener("pointermove", (event) => {{
    input.value = (100 * event.offsetX) / input.offsetWidth;
    show();
  }});
}}
</script>
</html>
"""

MARKS = {
    "real": "what the workflow does.",
    "stand-in": "made with random weights in place of model files that are not here. It shows that the workflow runs, "
    "and its pictures mean nothing. <code>python3 host models</code> says where the files come from.",
    "failed": "an error, and the row says which.",
}
SAME_SHAPE = 0.03  # of the ratio of the sides: two pictures that differ more are not laid over each other


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
    compared: tuple[str, str] | None = None  # file names of the first picture that went in and the last that came out

    @property
    def mark(self) -> str:
        """What the result is: a key of MARKS."""
        return "failed" if self.error else "stand-in" if self.standins else "real"


def demo(host: Host, only: list[str], folder: Path) -> int:
    """Runs the bundled workflows (or those named in `only`) and writes the contact sheet; 0 when all succeeded.

    Args:
        folder: The sheet's own. The sheet of an earlier run stays in it until the server is up, and then all that it
            holds makes way. The new sheet grows with each result.
    """
    runs = list(_runs(only))
    photographs.put(host.input)
    models.make_standins(host, [run.graph for run in runs])
    for run in runs:
        run.standins = models.fill_in(host, run.graph)
        if run.standins:
            run.graph = _shortened(run)
    runs.sort(key=lambda run: bool(run.standins))
    print("Starting ComfyUI ...", flush=True)
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
    for name, graph in (models.workflows() | models.blueprints()).items():
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
    return _trimmed(graph)


def _trimmed(graph: Graph) -> Graph:
    """With Trim Video behind each Load Video."""
    clips = [key for key, node in graph.items() if node["class_type"] == "LoadVideo"]
    for node in graph.values():
        for name, value in node["inputs"].items():
            if isinstance(value, list) and value[0] in clips:
                node["inputs"][name] = [f"{value[0]} trimmed", 0]
    part = {"start_time": 0.0, "duration": STANDIN_SECONDS, "strict_duration": False}
    trims = {
        f"{key} trimmed": {
            "class_type": "Video Slice",
            "inputs": {"video": [key, 0], **part},
            "_meta": {"title": "Trim Video"},
        }
        for key in clips
    }
    return graph | trims


def _play(server: str, run: Run, folder: Path, number: str) -> None:
    with tqdm(total=100, desc=f"{run.title:44}", bar_format="{desc}{bar:30} {percentage:3.0f} %  {elapsed}") as bar:

        def show(fraction: float) -> None:
            bar.update(round(100 * fraction) - bar.n)

        try:
            outputs = client.run(server, run.graph, show)
            for node, picture in _pictures(run.graph, outputs):
                stem = f"{number}_{run.workflow}_{len(run.pictures)}"
                if picture["filename"].endswith(VIDEO_SUFFIX):
                    name = f"{stem}.webp"
                    _write_animation(folder / name, client.get(server, "view", **picture))
                else:
                    name = f"{stem}.png"
                    (folder / name).write_bytes(client.get(server, "view", channel="rgb", **picture))
                run.pictures.append((node["_meta"]["title"], name))
                run.credits += photographs.credit(picture["filename"])
            run.compared = _compared(run, folder)
        except client.RunError as error:
            run.error = str(error)
            bar.write(f"{run.title} failed: {error}")


def _pictures(graph: Graph, outputs: dict) -> Iterator[tuple[dict, dict]]:
    """The photograph that a workflow loads, then what it shows, then what it saves: (node, the picture's reference)."""
    of_video = any(node["class_type"] == "LoadVideo" for node in graph.values())
    for kind in SHEET_ORDER:
        for key, node in graph.items():
            if node["class_type"] != kind:
                continue
            if kind in LOADED:
                yield node, {"filename": node["inputs"][LOADED[kind]], "subfolder": "", "type": "input"}
            shown = outputs.get(key, {}).get("images", [])
            for picture in shown[:1] if of_video else shown:  # a mask for each frame would fill the page
                yield node, picture


def _write_animation(path: Path, video: bytes) -> None:
    """A video as an animated picture, which a page plays by itself and the slider lays over another."""
    import av

    with av.open(io.BytesIO(video)) as container:
        rate = container.streams.video[0].average_rate
        frames = [frame.to_image() for frame in container.decode(video=0)]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=round(1000 / rate), loop=0, quality=80)


def _compared(run: Run, folder: Path) -> tuple[str, str] | None:
    """The pictures to lay over each other: the first that went in and the last that came out, where shapes agree."""
    kinds = {node["_meta"]["title"]: node["class_type"] for node in run.graph.values()}
    before = [name for caption, name in run.pictures if kinds[caption] in LOADED]
    after = [name for caption, name in run.pictures if kinds[caption] in SAVED]
    if not before or not after:
        return None
    ratios = [width / height for width, height in (Image.open(folder / n).size for n in (before[0], after[-1]))]
    return (before[0], after[-1]) if abs(ratios[0] / ratios[1] - 1) < SAME_SHAPE else None


def _write_sheet(folder: Path, runs: list[Run], planned: int) -> None:
    """Writes the contact sheet of the runs so far."""
    progress = f"{len(runs)} of {planned} runs are on this page." if len(runs) < planned else ""
    counts = Counter(run.mark for run in runs)
    lines = [
        f'<p><b class="mark {mark}">{mark}</b> {counts[mark]} row{"s" * (counts[mark] != 1)}: {meaning}</p>'
        for mark, meaning in MARKS.items()
        if counts[mark]
    ]
    page = PAGE.format(progress=progress, counts="\n".join(lines), sections="\n".join(map(_section, runs)))
    with whole(folder / "index.html") as part:
        part.write_text(page, encoding="utf-8")


def _section(run: Run) -> str:
    title = html.escape(run.title)
    note = ""
    if run.error:
        note = f'<p class="note">It failed: {html.escape(run.error)}</p>'
    elif run.standins:
        note = f'<p class="note">Random weights for {html.escape(", ".join(run.standins))}.</p>'
    figures = "".join(
        f'<figure><img src="{name}" alt="{caption}" loading="lazy"><figcaption>{caption}</figcaption></figure>'
        for caption, name in ((html.escape(caption), name) for caption, name in run.pictures)
    )
    if run.compared:
        before, after = run.compared
        figures += (
            f'<figure><div class="compare"><img src="{after}" alt="After" loading="lazy">'
            f'<img src="{before}" alt="Before" class="before" loading="lazy">'
            f'<input type="range" aria-label="{title}: before and after"></div>'
            "<figcaption>Before and after</figcaption></figure>"
        )
    credits = "".join(f'<p class="note"><small>{html.escape(credit)}</small></p>' for credit in run.credits)
    heading = f'<h2>{title} <span class="mark {run.mark}">{run.mark}</span></h2>'
    return f'<section>{heading}{note}<div class="row">{figures}</div>{credits}</section>'
