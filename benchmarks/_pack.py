"""What the comparisons share: the pack loaded as the host loads it, and each side measured in its own process."""

import ctypes
import gc
import json
import os
import resource
import runpy
import statistics
import subprocess
import sys
import timeit
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

PACK = Path(__file__).resolve().parents[1]
HOST = Path(os.environ.get("COMFYUI_PATH", PACK / ".host" / "ComfyUI"))
load_package = runpy.run_path(str(PACK / "host" / "load_package.py"))["load_package"]


def load() -> ModuleType:
    """Imports the pack under its name, with ComfyUI on sys.path and the pack not; sets the host to what it runs on."""
    sys.path.insert(0, str(HOST))
    import torch
    from comfy.cli_args import args

    args.cpu = not torch.cuda.is_available()
    return load_package("pentimento", PACK)


def sides(file: str, names: list[str], *arguments: object, runs: int = 3) -> list[dict[str, float]]:
    """Runs `python file <name> <arguments>` for each name in turn, `runs` times over, and takes the medians.

    Each process must print what `measure` returns.
    """
    found = {name: [] for name in names}
    for _ in range(runs):
        for name in names:
            command = [sys.executable, file, name, *map(str, arguments)]
            answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            found[name].append(json.loads(answer.splitlines()[-1]))
    return [
        {key: statistics.median(run[key] for run in found[name]) for key in ("seconds", "peak_mb")} for name in names
    ]


def measure(work: Callable[[], object], repeat: int = 1) -> str:
    """JSON: how long it takes at best, and the most memory that it held beyond what the process held before."""
    before = _resident()
    seconds = min(timeit.repeat(work, repeat=repeat, number=1))
    scale = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
    return json.dumps({"seconds": seconds, "peak_mb": (peak - before) / 2**20})


def _resident() -> int:
    """Bytes in memory, without those that were freed and not yet given back to the system. Forgets earlier peaks."""
    import psutil

    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    return psutil.Process().memory_info().rss
