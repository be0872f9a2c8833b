"""Side-by-side comparisons with peers, each file of benchmarks/ measured in one run and written as a table."""

import json
import os
import subprocess

from .environment import PACK, Host, HostError

BENCHMARKS = PACK / "benchmarks"
HEADER = "| comparison | ours | peer | time: peer / ours | memory: ours / peer |\n|---|---|---|---|---|"


def bench(host: Host, only: list[str]) -> int:
    """Runs the benchmarks (or those named in `only`), prints their table and writes it to bench.md."""
    names = [path.stem for path in sorted(BENCHMARKS.glob("[a-z]*.py"))]
    if unknown := set(only) - set(names):
        raise HostError(f"There is no benchmark named {', '.join(sorted(unknown))}; there are {', '.join(names)}.")
    rows = [HEADER]
    print(HEADER, flush=True)
    for name in only or names:
        rows += map(_row, _measure(host, name))
        print("\n".join(rows[-1:]), flush=True)
    (host.home / "bench.md").write_text("\n".join(rows) + "\n")
    return 0


def _measure(host: Host, name: str) -> list[dict]:
    script = f"import json, {name}; print(json.dumps({name}.run()))"
    environment = os.environ | {"COMFYUI_PATH": str(host.comfyui), "PYTHONPATH": str(BENCHMARKS)}
    answer = subprocess.run([str(host.python), "-c", script], env=environment, stdout=subprocess.PIPE, text=True)
    if answer.returncode:
        raise HostError(f"The benchmark {name} failed; the messages above say why.")
    found = json.loads(answer.stdout.splitlines()[-1])
    return found if isinstance(found, list) else [found]


def _row(comparison: dict) -> str:
    ours, peer = comparison["ours"], comparison["peer"]
    return (
        f"| {comparison['title']} | {_figures(ours)} | {comparison['peer_name']}: {_figures(peer)} "
        f"| {peer['seconds'] / ours['seconds']:.1f} | {_memory(ours, peer)} |"
    )


def _figures(side: dict) -> str:
    return f"{side['seconds']:.3g} s" + (f", {side['peak_mb']:,.0f} MB" if "peak_mb" in side else "")


def _memory(ours: dict, peer: dict) -> str:
    return f"{ours['peak_mb'] / peer['peak_mb']:.2f}" if "peak_mb" in ours else ""
