"""A grid of a thousand cells over a server that runs a cell in no time: what the grid itself costs."""

import json
import tempfile
from pathlib import Path
from typing import Any

import _pack

AXES = {"Square.color": "1, ..., 10", "Square.width": "1, ..., 10", "Square.height": "1, ..., 10"}
CELLS = 1000
GRAPH = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 1, "height": 1, "color": 1}, "_meta": {"title": "Square"}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0]}, "_meta": {"title": "Result"}},
}
PICTURE = bytes(100_000)


def run() -> dict:
    fewer = _pack.call(__file__, "ours", 1)
    row = _pack.compare(
        __file__,
        title=f"The grid itself: {CELLS:,} cells over a server that takes no time, pictures of 100 kB",
        peer="a loop that writes the same pictures",
        note="",
        arguments=(10,),
    )
    cost = 1000 * row["ours"]["seconds"] / CELLS
    row["note"] = (
        f"{cost:.1f} ms a cell: the journal, the page's data, the digests and the pictures. Memory for "
        f"{CELLS // 10} cells: {fewer['peak_mb']:.1f} MB, for {CELLS:,}: {row['ours']['peak_mb']:.1f} MB."
    )
    return row


def main(side: str, colors: int) -> dict[str, float]:
    """Measures one side with this many values on the first axis."""
    _pack.load_package("model_patchers", _pack.PACK / "model_patchers")
    from model_patchers.grid import check, folder, parse, run

    class Server:
        """A ComfyUI in this process."""

        def queue(self, prompt_id: str, graph: dict, workflow: dict | None) -> None:
            pass

        def knows(self, prompt_id: str) -> bool:
            return False

        def finished(self, prompt_ids: list[str]) -> dict[str, Any]:
            images = [{"filename": "a.png", "subfolder": "", "type": "output"}]
            return {prompt_ids[0]: run.Outcome({"2": {"images": images}}, "", 0.1)}

        def fetch(self, file: dict[str, str]) -> bytes:
            return PICTURE

    text = json.dumps({"workflow": "w", "axes": {**AXES, "Square.color": f"1, ..., {colors}" if colors > 1 else "1"}})

    def ours() -> None:
        grid = parse.parse(text, Path(), lambda name: (GRAPH, None))
        with tempfile.TemporaryDirectory() as name:
            folder.claim(Path(name))
            results = folder.Folder(Path(name))
            progress = run.Runner(grid, results, Server(), {}, check.order(grid, {})).run()
            assert progress.done == 100 * colors

    def peer() -> None:
        with tempfile.TemporaryDirectory() as name:
            for number in range(100 * colors):
                (Path(name) / f"{number}.png").write_bytes(PICTURE)

    return _pack.measure(ours if side == "ours" else peer)
