"""What the comparisons share: the pack loaded as ComfyUI loads it, and each side measured in a process of its own.

`python _pack.py <benchmark> <JSON list>` prints what the benchmark's `main` returns for these arguments, as JSON.
"""

import ctypes
import gc
import importlib
import json
import os
import runpy
import statistics
import subprocess
import sys
import timeit
from collections.abc import Callable
from pathlib import Path
from typing import Any

PACK = Path(__file__).resolve().parents[1]
HOST = Path(os.environ.get("COMFYUI_PATH", PACK / ".host" / "ComfyUI"))
load_package = runpy.run_path(str(PACK / "host" / "load_package.py"))["load_package"]


def load() -> None:
    """Imports the pack as `pentimento`, with ComfyUI on sys.path and the pack not."""
    load_comfyui()
    load_package("pentimento", PACK)


def load_comfyui() -> None:
    """Puts ComfyUI on sys.path. Without a GPU it runs on the CPU."""
    sys.path.insert(0, str(HOST))
    import torch
    from comfy.cli_args import args

    args.cpu = not torch.cuda.is_available()


def compare(
    file: str, *, title: str, peer: str, note: str, arguments: tuple[object, ...] = (), runs: int = 3
) -> dict[str, Any]:
    """A row of the table: what `main("ours", *arguments)` and `main("peer", *arguments)` of a benchmark measure.

    Args:
        file: The benchmark's path.
        title: What both sides do.
        peer: The name of the other side.
        note: What a reader must know about the figures.
        arguments: Passed to `main` after the side's name.
        runs: How often each side runs; the medians count.
    """
    ours, theirs = sides(file, ["ours", "peer"], *arguments, runs=runs)
    return {"title": title, "ours": ours, "peer": theirs, "peer_name": peer, "note": note}


def sides(file: str, names: list[str], *arguments: object, runs: int = 3) -> list[dict[str, float]]:
    """Runs `main(name, *arguments)` of a benchmark for each name in turn, `runs` times over, and takes the medians."""
    measured = [[call(file, name, *arguments) for name in names] for _ in range(runs)]
    return [
        {key: statistics.median(side[key] for side in each) for key in ("seconds", "peak_mb")}
        for each in zip(*measured, strict=True)
    ]


def call(file: str, *arguments: object) -> Any:
    """What `main` of a benchmark returns, run in a process of its own."""
    command = [sys.executable, __file__, Path(file).stem, json.dumps(arguments)]
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(answer.splitlines()[-1])


def measure(work: Callable[[], object], repeat: int = 1) -> dict[str, float]:
    """How long it takes at best, and the most memory that it held beyond what the process held before."""
    before = _resident()
    seconds = min(timeit.repeat(work, repeat=repeat, number=1))
    return {"seconds": seconds, "peak_mb": (_peak() - before) / 2**20}


def _peak() -> int:
    """The most bytes that this process has held in memory."""
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _resident() -> int:
    """Bytes in memory, without those that were freed and not yet given back to the system. Forgets earlier peaks."""
    import psutil

    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    return psutil.Process().memory_info().rss


if __name__ == "__main__":
    print(json.dumps(importlib.import_module(sys.argv[1]).main(*json.loads(sys.argv[2]))))
