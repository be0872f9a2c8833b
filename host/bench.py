"""Side-by-side comparisons with peers, each file of benchmarks/ measured in one run and written as a table."""

import json
import os
import platform
import subprocess
from pathlib import Path

from . import system
from .environment import PACK, Host, HostError, whole

BENCHMARKS = PACK / "benchmarks"
PAGE = PACK / "docs" / "speed.md"
TABLE = "\n## Table\n"  # the heading in PAGE below which a full run writes
HEADER = "| comparison | ours | peer | time: peer / ours | memory: ours / peer | note |\n|---|---|---|---|---|---|"


def bench(host: Host, only: list[str]) -> int:
    """Runs the benchmarks (or those named in `only`) and prints their table.

    It goes to bench.md in the host's folder, where it grows by each benchmark. A run of all also writes docs/speed.md.
    """
    names = benchmarks()
    rows = [HEADER]
    print(HEADER, flush=True)
    for name in only or names:
        measured = [*map(_row, _measure(host, name))]
        rows += measured
        print(*measured, sep="\n", end="\n" * bool(measured), flush=True)
        _write(host.home / "bench.md", "\n".join(rows) + "\n")
    if not only:
        _write(PAGE, page(PAGE.read_text(encoding="utf-8"), "\n".join(rows) + "\n", machine()))
    return 0


def benchmarks() -> list[str]:
    """The names of all benchmarks."""
    return sorted(path.stem for path in BENCHMARKS.glob("[a-z]*.py"))


def _write(path: Path, text: str) -> None:
    with whole(path) as part:
        part.write_text(text, encoding="utf-8")


def page(text: str, table: str, machine: str) -> str:
    """docs/speed.md with another table, measured on `machine`."""
    return f"{text.split(TABLE)[0]}{TABLE}\nMeasured on {machine}.\n\n{table}"


def machine() -> str:
    """The names of the GPU, where torch finds one, and of the processor, its cores, and the version of torch."""
    import torch

    gpu = f"{torch.cuda.get_device_name()}, " if torch.cuda.is_available() else ""
    return f"{gpu}{_processor()}, {os.cpu_count()} cores, torch {torch.__version__}"


def _processor() -> str:
    return system.processor() or f"an unnamed {platform.machine()} processor"


def _measure(host: Host, name: str) -> list[dict]:
    script = f"import json, {name}; print(json.dumps({name}.run()))"
    environment = os.environ | {"COMFYUI_PATH": str(host.comfyui), "PYTHONPATH": str(BENCHMARKS)}
    answer = subprocess.run([str(host.python), "-c", script], env=environment, stdout=subprocess.PIPE, text=True)
    if answer.returncode:
        raise HostError(f"The benchmark {name} failed; the messages above say why.")
    comparisons = json.loads(answer.stdout.splitlines()[-1])
    return comparisons if isinstance(comparisons, list) else [comparisons]


def _row(comparison: dict) -> str:
    ours, peer = comparison["ours"], comparison["peer"]
    ratio = peer["seconds"] / ours["seconds"]
    return (
        f"| {comparison['title']} | {_figures(ours)} | {comparison['peer_name']}: {_figures(peer)} "
        f"| {ratio:.{1 if ratio >= 1 else 2}f} | {_memory(ours, peer)} "
        f"| {comparison['note']} |"
    )


def _figures(side: dict) -> str:
    return f"{side['seconds']:.3g} s" + (f", {side['peak_mb']:,.0f} MB" if "peak_mb" in side else "")


def _memory(ours: dict, peer: dict) -> str:
    return f"{ours['peak_mb'] / peer['peak_mb']:.2f}" if "peak_mb" in ours else ""
