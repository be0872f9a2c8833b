"""The verbs of `python3 host`."""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile

from . import bench, child, client, system
from .environment import PACK, Host, HostError, in_use, known, locate, make_room, prepare

ON_SECOND = ("--device", "second", "--loaded", "0.5")
INSIDE = "PENTIMENTO_INSIDE_HOST"  # set when this process already runs in the host's Python


def main() -> int:
    """Parses the command line, makes the host and runs the verb in the host's Python; the exit status."""
    options, rest = _parser().parse_known_args()
    if rest and options.verb != "test":
        _parser().error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        _check_names(options)
        return _run(locate(options.comfyui), options, rest)
    except HostError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _run(host: Host, options: argparse.Namespace, rest: list[str]) -> int:
    try:
        if INSIDE in os.environ:
            return VERBS[options.verb](host, options, rest)
        if options.verb == "grid":  # needs no ComfyUI of ours
            return _grid_outside(host, options, rest)
        prepare(host, options.verb == "setup" and options.ray)
    except OSError as error:
        if system.is_full(error):
            raise HostError(f"The disk is full. {make_room(host)}") from error
        raise
    if options.verb == "setup":
        print(f"Ready: ComfyUI in {host.comfyui}, Python in {host.python}.")
        return 0
    return _inside(host)


def _inside(host: Host) -> int:
    command = child.command(host.python, PACK / "host", *sys.argv[1:])
    return subprocess.call(command, env=os.environ | {INSIDE: "1"})


def _check_names(options: argparse.Namespace) -> None:
    """Checks the names that the user wrote, before anything is made or deleted.

    Raises:
        HostError: One does not exist.
    """
    if options.verb == "demo":
        blueprints = [path.stem for path in (PACK / "subgraphs" / "api").glob("*.json")]
        known("workflow", options.workflow, client.names() + blueprints)
    elif options.verb == "bench":
        known("benchmark", options.name, bench.benchmarks())
    elif options.verb == "models" and options.download is not None:
        known("model", [options.download], json.loads((PACK / "host" / "models.json").read_text(encoding="utf-8")))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python3 host", description="A ComfyUI to run the pack in.")
    parser.add_argument(
        "--comfyui", metavar="PATH", help="use this ComfyUI checkout and its Python; nothing in it is changed"
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    setup = verbs.add_parser("setup", help="make the virtual environment, ComfyUI and the link to this pack")
    setup.add_argument("--ray", action="store_true", help="install Ray, too, which runs a grid on several machines")
    demo = verbs.add_parser("demo", help="run every bundled workflow on photographs and write a contact sheet")
    demo.add_argument("workflow", nargs="*", help="only these workflows")
    serve = verbs.add_parser("serve", help="run ComfyUI with the pack in it")
    serve.add_argument("--port", type=int, default=8188, help="of its address http://127.0.0.1:PORT (8188)")
    verbs.add_parser("test", help="run the tests; further arguments go to pytest", add_help=False)
    bench = verbs.add_parser("bench", help="compare with peers side by side; a run of all writes docs/speed.md")
    bench.add_argument("name", nargs="*", help="only these benchmarks, into bench.md beside the virtual environment")
    grid = verbs.add_parser("grid", help="run a workflow over axes of values")
    grid.add_argument(
        "action", choices=["check", "run", "view"], help="say what is wrong and what it costs; run it; open the results"
    )
    grid.add_argument("file", metavar="FILE", help="the grid file, YAML or JSON")
    grid.add_argument(
        "--server",
        action="append",
        default=[],
        metavar="URL",
        help=f"ComfyUI's address ({client.SERVER}); with --ray it may be repeated",
    )
    grid.add_argument(
        "--ray",
        nargs="?",
        const="local",
        metavar="ADDRESS",
        help="with run, after FILE: run on the Ray cluster at this address, or on one that is started here",
    )
    grid.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="AXIS[=VALUE]",
        help="this value of the axis alone, or this axis with the others at their defaults; may be repeated",
    )
    models = verbs.add_parser("models", help="list the model files that the workflows want")
    models.add_argument("--download", metavar="NAME", help="fetch this one, verified")
    return parser


def _demo(host: Host, options: argparse.Namespace, rest: list[str]) -> int:
    from .demo import demo

    return demo(host, options.workflow, host.home / "demo")


def _serve(host: Host, options: argparse.Namespace, rest: list[str]) -> int:
    from . import photographs
    from .server import command

    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", options.port)) == 0:
            raise HostError(
                f"Port {options.port} is taken, perhaps by another ComfyUI. Name another: "
                f"python3 host serve --port {options.port + 1}."
            )
    photographs.put(host.input)
    with in_use(host):
        return subprocess.call(command(host, options.port, host.home / "serve"), cwd=host.comfyui)


def _test(host: Host, options: argparse.Namespace, rest: list[str]) -> int:
    environment = os.environ | {"COMFYUI_PATH": str(host.comfyui)}
    command = child.command(host.python, "-m", "pytest", *rest)
    chosen = [*command, *_side_by_side(rest)]
    with in_use(host):
        if set(rest) <= {"--require-browser"}:  # all tests
            return _on_both(chosen, [*command, *ON_SECOND], environment)
        return subprocess.call(chosen, cwd=PACK, env=environment)


def _on_both(tests: list[str], second: list[str], environment: dict[str, str]) -> int:
    """Runs all tests, and meanwhile those of the second device: the first often wait for a server or a browser.

    Three processes and the tests' server compute at a time. More threads than cores would wait for each other.
    """
    environment = environment | {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // 3))}
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output,
        subprocess.Popen(second, cwd=PACK, env=environment, stdout=output, stderr=output) as meanwhile,
    ):
        status = subprocess.call(tests, cwd=PACK, env=environment)
        print("The tests marked both_devices, on a second device with half of each model loaded:", flush=True)
        status = meanwhile.wait() or status
        output.seek(0)
        print(output.read(), flush=True)
    return status


def _side_by_side(arguments: list[str]) -> list[str]:
    """pytest's arguments for all tests in three processes, of which one often waits; a choice runs sooner in one."""
    chosen = any((PACK / argument.split("::")[0]).exists() for argument in arguments)
    return [] if chosen or (os.cpu_count() or 1) < 2 else ["-n", "3"]


def _bench(host: Host, options: argparse.Namespace, rest: list[str]) -> int:
    return bench.bench(host, options.name)


def _models(host: Host, options: argparse.Namespace, rest: list[str]) -> int:
    from . import models

    if options.download is None:
        print(models.listing(host))
        return 0
    model = models.catalogue()[options.download]
    print(f"{models.download(model, host.comfyui / 'models' / model.folder)} is in place.")
    return 0


def _grid(host: Host, options: argparse.Namespace, rest: list[str]) -> int:
    from . import grid

    return grid.command(options)


def _grid_outside(host: Host, options: argparse.Namespace, rest: list[str]) -> int:
    """In the host's Python where there is one, since it has PyYAML, and else in this one."""
    return _inside(host) if host.python.exists() else _grid(host, options, rest)


VERBS = {"demo": _demo, "serve": _serve, "test": _test, "bench": _bench, "models": _models, "grid": _grid}
