"""Loads the pack as ComfyUI does: from its folder, under its own name, with ComfyUI on sys.path and the pack not."""

import functools
import gc
import os
import re
import runpy
import sys
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

load_package = runpy.run_path(str(Path(__file__).resolve().parents[1] / "host" / "load_package.py"))["load_package"]
load_package("kit", Path(__file__).with_name("kit"))

from kit.paths import HOST, PACK  # noqa: E402

sys.path[:] = [str(HOST)] + [path for path in sys.path if Path(path or ".").resolve() != PACK]

from comfy.cli_args import args  # noqa: E402

args.cpu = not torch.cuda.is_available()

import comfy.utils  # noqa: E402
import folder_paths  # noqa: E402

load_package("pentimento", PACK)
load_package("pentimento_host", PACK / "host")

from kit import second_device  # noqa: E402
from kit.nodes import node_classes as all_nodes  # noqa: E402
from kit.precision import HALVES, PRECISIONS, Precision  # noqa: E402
from pentimento_host import system  # noqa: E402

os.environ["no_proxy"] = ",".join(filter(None, ["127.0.0.1", os.environ.get("no_proxy")]))  # the tests' servers
ON_HOST = {"browser": "browser", "host": "host", "routes": "host"}  # folders of tests that use ComfyUI's files or a
# server, and which of them share a process: each process has a server of its own

# On a busy machine no example is in time. Where $CI is set, Hypothesis draws the same examples in every run.
settings.register_profile("busy", settings(deadline=None, suppress_health_check=[HealthCheck.too_slow]))
settings.load_profile("busy")

CHROMIUM = system.browser()
CHROMIUM_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--no-first-run",
    "--disable-component-update",
    "--disable-sync",
]


def pytest_addoption(parser):
    parser.addoption("--require-browser", action="store_true", help="fail, not skip, where there is no Chromium")
    parser.addoption(
        "--device",
        choices=["cpu", "second"],
        default="cpu",
        help="run the tests marked both_devices on a second device",
    )
    parser.addoption(
        "--loaded", type=float, default=1.0, metavar="SHARE", help="of each model's weights on the second device"
    )
    parser.addoption("--update-schemas", action="store_true", help="add new nodes and inputs to tests/schemas.json")
    parser.addoption("--update-docs", action="store_true", help="write docs/nodes.md and docs/models.md anew")
    parser.addoption(
        "--update-workflows", action="store_true", help="write workflows/api/ and the workflows' properties.models anew"
    )


def pytest_configure(config):
    """Processes side by side share the cores."""
    if workers := getattr(config, "workerinput", {}).get("workercount"):
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))
    config.addinivalue_line("markers", "both_devices: the test also runs with --device second")
    config.addinivalue_line("markers", "in_half(*precisions): it also runs there in fp16 and bf16, or in those named")
    if config.getoption("--device") == "second":
        if second_device.missing():
            return
        computing = second_device.computing(share=config.getoption("--loaded"), float64=False)
        computing.__enter__()
        config.add_cleanup(lambda: computing.__exit__(None, None, None))


def pytest_runtest_setup(item):
    """Of the processes side by side, those that have a server of ComfyUI wait most, and go first where they can."""
    beside = hasattr(item.config, "workerinput") or item.config.getoption("--device") == "second"
    if beside and not _on_host(item.path) and hasattr(os, "nice") and not os.nice(0):
        os.nice(10)


def pytest_ignore_collect(collection_path, config):
    """Modules without a test for the second device need not be imported there."""
    if config.getoption("--device") == "second" and collection_path.suffix == ".py":
        return True if "pytest.mark.both_devices" not in collection_path.read_text() else None
    return None


def pytest_generate_tests(metafunc):
    """On the second device a test runs in float32, and one that is marked in_half in half precision too."""
    if metafunc.config.getoption("--device") == "second":
        chosen = PRECISIONS if metafunc.definition.get_closest_marker("in_half") else ["fp32"]
        metafunc.parametrize("precision", chosen, indirect=True, scope="module")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """A file's tests go to one process, and so do those of all files of a kind that use ComfyUI's files or its server.

    These take longest, so they begin first, and after them the files with the most tests.
    """
    from xdist.scheduler import LoadScopeScheduling

    config.option.loadscopereorder = False  # pytest_collection_modifyitems has the order

    class Files(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            file = nodeid.split("::")[0]
            path = config.rootpath / file
            return ON_HOST[path.parent.name] if _on_host(path) else file

    return Files(config, log)


@functools.cache
def _on_host(file):
    """Whether a test file lies in ON_HOST and has the fixture host or server; others there need a browser at most."""
    return file.parent.name in ON_HOST and bool(re.search(r"def .*\b(host|server)\b", file.read_text(encoding="utf-8")))


def pytest_collection_modifyitems(config, items):
    """Chooses tests for --device; refuses some that would use ComfyUI's files or a server in two processes at once."""
    if config.getoption("--device") == "second":
        _choose_for_second_device(config, items)
    for item in items:
        used = {"host", "server", "browser"}.intersection(item.fixturenames)
        if used and item.path.parent.name not in ON_HOST:
            folders = " or ".join(f"tests/{name}" for name in ON_HOST)
            raise pytest.UsageError(f"{item.nodeid} uses {' and '.join(sorted(used))}: move it to {folders}.")
    if hasattr(config, "workerinput"):
        size = Counter(item.path for item in items)
        items.sort(key=lambda item: (0, 0) if _on_host(item.path) else (1, -size[item.path]))


def pytest_collection_finish(session):
    """Python's collector need not look at millions of imported objects again, which takes a third of a second."""
    gc.collect()
    gc.freeze()


def _choose_for_second_device(config, items):
    """Leaves only the tests for the second device, which are skipped by name where there is none."""
    by_function = {}
    for item in items:
        by_function.setdefault((item.function, item.callspec.params["precision"]), []).append(item)
    chosen = {id(item) for (_, name), cases in by_function.items() for item in _on_second_device(name, cases)}
    config.hook.pytest_deselected(items=[item for item in items if id(item) not in chosen])
    items[:] = [item for item in items if id(item) in chosen]
    if missing := second_device.missing():
        for item in items:
            item.add_marker(pytest.mark.skip(reason=missing))


def _on_second_device(precision, cases):
    """Those of a test's cases that run there in this precision.

    Of a test that is marked both_devices, float32 has so many cases that every value of every parameter occurs, and
    half precision has the first. Wrong variants run in fp16 alone: their distance is larger beside its rounding.
    """
    both = [item for item in cases if item.get_closest_marker("both_devices")]
    if precision == "fp32":
        return _with_every_value(both)
    if both:
        cases = [min(both, key=lambda item: [*item.callspec.indices.values()])]
    elif precision != "fp16":
        return []
    return _with_every_value(
        [item for item in cases if all(precision in (mark.args or HALVES) for mark in item.iter_markers("in_half"))]
    )


def _with_every_value(cases):
    """Few of a test's cases, in which every value of every parameter occurs, the first case among them."""
    values = {id(item): {(name, id(value)) for name, value in item.callspec.params.items()} for item in cases}
    chosen, left = [], set().union(*values.values())
    while left:
        chosen.append(max(cases, key=lambda item: len(left & values[id(item)])))
        left -= values[id(chosen[-1])]
    return chosen


@pytest.fixture(scope="session")
def host():
    """The host tool's description of the ComfyUI under test."""
    from pentimento_host import environment

    ours = environment.locate(None)
    host = ours if ours.comfyui == HOST.resolve() else environment.locate(str(HOST))
    environment.prepare(host)
    return host


@pytest.fixture(scope="session")
def server(host):
    """The address of a real ComfyUI with the pack, photographs and stand-ins in it."""
    from pentimento_host import models, photographs
    from pentimento_host import server as host_server

    photographs.put(host.input)
    for graph in models.workflows().values():
        models.fill_in(host, graph)
    with host_server.serve(host) as address:
        yield address


@pytest.fixture(scope="module")
def browser(request):
    """Chromium; skipped by name where there is none. Not for the session: while it runs, asyncio.run is refused."""
    if not Path(CHROMIUM).exists():
        message = f"no browser at {CHROMIUM}: install Chromium (Debian: apt-get install chromium) or set $CHROMIUM"
        (pytest.fail if request.config.getoption("--require-browser") else pytest.skip)(message)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGUMENTS)


@pytest.fixture(scope="session")
def node_classes():
    return all_nodes()


@pytest.fixture(scope="module")
def node_inputs(node_classes, tmp_path_factory):
    """Inputs for every node, with the files that they name in ComfyUI's folders."""
    from kit.node_inputs import NodeInputs, put_files

    folder = tmp_path_factory.mktemp("models")
    put_files(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folder_paths, "temp_directory", str(folder))
        for name in ("diffusion_models", "ella", "inpaint", "lpips", "text_encoders", "unclip"):
            extensions = folder_paths.folder_names_and_paths[name][1]
            patch.setitem(folder_paths.folder_names_and_paths, name, ([str(folder)], extensions))
        yield NodeInputs(node_classes)


@pytest.fixture(autouse=True)
def inference_mode():
    """Nodes run in inference mode, as under ComfyUI's executor."""
    with torch.inference_mode():
        yield


@pytest.fixture(autouse=True)
def files_listed_anew():
    """ComfyUI remembers what folders hold, those of a test too, which goes away with its folder."""
    yield
    folder_paths.filename_list_cache.clear()


@pytest.fixture(scope="module", autouse=True)
def precision(request):
    """What networks compute in: float32, and on the second device half precision too. Models are made for it."""
    name = getattr(request, "param", "fp32")
    with ExitStack() as stack:
        if name != "fp32":
            share = request.config.getoption("--loaded")
            stack.enter_context(second_device.computing(half=PRECISIONS[name], share=share, float64=False))
        yield Precision(PRECISIONS[name])


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="module")
def one_thread():
    """For small tensors: on a busy machine, threads that wait for each other take longer than one.

    Also for sums in one order: Adam divides each gradient by its size and so enlarges the smallest difference.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def bars(monkeypatch):
    """ComfyUI's progress bars that a test makes, each with the `values` and `previews` that it was to show."""
    bars = []

    class Bar(comfy.utils.ProgressBar):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.values, self.previews = [], []
            bars.append(self)

        def update_absolute(self, value, total=None, preview=None):
            self.values.append(value)
            self.previews.append(preview)
            super().update_absolute(value, total, preview)

    monkeypatch.setattr(comfy.utils, "ProgressBar", Bar)
    return bars
