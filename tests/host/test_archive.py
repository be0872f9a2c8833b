"""The archive that users install: what is in it, and that a fresh ComfyUI runs it on its own requirements."""

import io
import json
import os
import shutil
import subprocess
import sys
import urllib.request
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

from kit import first_click, history
from kit.front_end import PATIENCE
from kit.paths import HOST, PACK
from pentimento_host import client, environment, models, server

CANVASES = {"classic": False, "nodes2": True}

HIDE = """
import sys
from importlib.machinery import PathFinder

HIDDEN = {hidden}


class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.split(".")[0] in HIDDEN else super().find_spec(name, path, target)


sys.meta_path[sys.meta_path.index(PathFinder)] = Finder
"""


def git_files(*options):
    command = ["git", "ls-files", "--cached", "--others", *options]
    return set(subprocess.run(command, cwd=PACK, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines())


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """The pack as `comfy node publish` packs it, alone in a new base directory of ComfyUI."""
    folder = tmp_path_factory.mktemp("base") / "custom_nodes" / "pentimento"
    for path in git_files("--exclude-standard") - git_files("--ignored", "--exclude-from=.comfyignore"):
        if (PACK / path).is_file():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(PACK / path, folder / path)
    return folder


def installed_by(lines):
    """The names of the distributions that these requirements install here."""
    names, todo = set(), [Requirement(line) for line in lines]
    while todo:
        requirement = todo.pop()
        key = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if key in names:
            continue
        names.add(key)
        try:
            further = map(Requirement, metadata.requires(requirement.name) or [])
        except metadata.PackageNotFoundError:
            continue
        extras = {"", *requirement.extras}
        todo += [each for each in further if not each.marker or any(each.marker.evaluate({"extra": e}) for e in extras)]
    return {name for name, _ in names}


def modules(distributions):
    """The names under which these distributions are imported."""
    files = [file for name in distributions for file in metadata.files(name) or ()]
    return {file.parts[0].split(".")[0] for file in files if file.suffix in (".py", ".so", ".pyd")}


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """The environment of a process that imports only what ComfyUI's requirements install."""
    lines = (line.split("#")[0].strip() for line in (HOST / "requirements.txt").read_text().splitlines())
    needed = installed_by(filter(None, lines))
    present = {canonicalize_name(distribution.name) for distribution in metadata.distributions()}
    hidden = modules(present - needed) - modules(present & needed)
    assert {"segment_anything", "diffusers", "skimage", "pytest"} <= hidden
    folder = tmp_path_factory.mktemp("hidden")
    (folder / "sitecustomize.py").write_text(HIDE.replace("{hidden}", repr(hidden)))
    return os.environ | {"PYTHONPATH": str(folder)}


@pytest.fixture(scope="module")
def address(archive, fresh):
    """A ComfyUI with the archive and nothing else."""
    base = archive.parents[1]
    (base / "input").mkdir()
    host = environment.Host(base, HOST, Path(sys.executable), own=False)
    with server.running(host, ["--base-directory", str(base)], base / "server.log", fresh) as address:
        yield address


def test_it_holds_what_users_need_and_nothing_else(archive):
    top = {path.name for path in archive.iterdir()}
    assert {"__init__.py", "nodes", "model_patchers", "routes", "web", "locales", "workflows", "subgraphs"} <= top
    assert (archive / "workflows" / "api" / "run.py").is_file()
    assert {"pyproject.toml", "README.md", "LICENSE"} <= top
    assert (
        not {"tests", "host", "benchmarks", "docs", "CONTRIBUTING.md", ".ci", ".github", ".gitignore", ".gitattributes"}
        & top
    )


def test_what_comfyui_does_not_require_is_hidden(fresh):
    def imported(name):
        return subprocess.run([sys.executable, "-c", f"import {name}"], env=fresh, stderr=subprocess.DEVNULL).returncode

    assert imported("numpy") == 0
    assert imported("segment_anything") != 0


def test_all_nodes_load(address, node_classes):
    info = json.loads(client.get(address, "object_info"))
    ours = {name for name, node in info.items() if node["python_module"] == "custom_nodes.pentimento"}
    assert ours == set(node_classes)


def test_the_web_folder_is_served(address, archive):
    files = [path for path in (archive / "web").rglob("*") if path.is_file()]
    names = {path.relative_to(archive / "web").as_posix() for path in files}
    assert {"pick_points.js", "docs/PentimentoMagicWand.md", "docs/PentimentoMagicWand.jpg"} <= names
    for name in names:
        assert client.get(address, f"extensions/pentimento/{name}") == (archive / "web" / name).read_bytes()


def test_chinese_is_served(address, node_classes):
    assert json.loads(client.get(address, "i18n"))["zh"]["nodeDefs"].keys() == set(node_classes)


def test_the_workflow_templates_are_served(address):
    names = json.loads(client.get(address, "workflow_templates"))["pentimento"]
    assert set(names) == models.workflows().keys()
    for name in names:
        for suffix in ("json", "jpg"):
            file = PACK / "workflows" / f"{name}.{suffix}"
            assert client.get(address, f"api/workflow_templates/pentimento/{name}.{suffix}") == file.read_bytes()


def test_the_blueprints_are_served(address):
    served = json.loads(client.get(address, "global_subgraphs"))
    ours = {
        entry["name"]: key for key, entry in served.items() if entry["info"]["node_pack"] == "custom_nodes.pentimento"
    }
    assert ours.keys() == models.blueprints().keys()
    for name, key in ours.items():
        file = PACK / "subgraphs" / f"{name}.json"
        assert json.loads(client.get(address, f"global_subgraphs/{key}"))["data"] == file.read_text(encoding="utf-8")


def test_the_folders_of_missing_models_are_known_by_name(address):
    folders = json.loads(client.get(address, "internal/folder_paths"))
    assert {model.folder for model in models.catalogue().values()} <= folders.keys()


def test_a_workflow_runs_to_its_end(address, archive):
    base = archive.parents[1]
    client.run(address, models.workflows()["remove_without_models"])
    (picture,) = (base / "output" / "pentimento").iterdir()
    photograph = Image.open(base / "input" / "pentimento_astronaut.png")
    assert Image.open(picture).size == photograph.size
    assert Image.open(picture).tobytes() != photograph.tobytes()


# The tests from here on use the browser, and asyncio.run is refused while it runs.

OPEN = """async (name) => {
    const response = await fetch(`/api/workflow_templates/pentimento/${name}.json`);
    await window.app.loadGraphData(await response.json(), true, true, name, { openSource: "template" });
}"""
PHOTOGRAPHS_SHOW = """() => window.app.graph.nodes.filter((node) => node.type === "LoadImage")
    .every((node) => node.imgs?.[0]?.naturalWidth > 0)"""
ERRORS = """() => [...document.querySelectorAll('[data-testid^="error-group-"]')].map((group) => group.dataset.testid)
    .filter((id) => id !== "error-group-display-message")"""
OFFERED = """() => [...document.querySelectorAll('[data-testid="missing-model-download"]')]
    .map((button) => button.getAttribute("aria-label").replace("Download ", "")).sort()"""


NOT_OFFERED = {"ViT-L-14_stats.th", "OSTrack_ep0300.pth.tar", "sttn.pth"}  # see docs/models.md


def test_every_template_opens_with_its_photographs_and_misses_nothing_but_models(address, browser):
    page = browser.new_page(viewport={"width": 1600, "height": 1000})
    page.set_default_timeout(PATIENCE)
    page.goto(f"{address}/?template=lama_fill&source=pentimento")
    page.get_by_test_id("error-overlay").wait_for()  # the template is open
    for name, graph in models.workflows().items():
        page.evaluate(OPEN, name)
        missing = {model.name for _, _, model in models.wanted(graph)} - NOT_OFFERED
        page.wait_for_function(PHOTOGRAPHS_SHOW)
        if missing:
            page.get_by_test_id("error-overlay-see-errors").click()
            page.wait_for_function(f"(names) => String(({OFFERED})()) === names", arg=",".join(sorted(missing)))
            assert page.evaluate(ERRORS) == ["error-group-missing-model"], name
        else:
            assert not page.get_by_test_id("panel-tab-errors").count(), name
    page.close()


@pytest.fixture(params=zip(CANVASES, first_click.LANGUAGES, strict=True), ids="-".join)
def newcomer(address, archive, browser, request):
    """A tab of a user who was never here, and what the pack's texts are in the user's language."""
    canvas, language = request.param
    (archive.parents[1] / "user" / "default" / "comfy.settings.json").unlink(missing_ok=True)
    nodes2 = json.dumps(CANVASES[canvas]).encode()
    urllib.request.urlopen(urllib.request.Request(f"{address}/settings/Comfy.VueNodes.Enabled", nodes2, method="POST"))
    context = browser.new_context(viewport={"width": 1600, "height": 1000}, locale=language)
    context.set_default_timeout(PATIENCE)
    yield context.new_page(), lambda text: first_click.LANGUAGES[language].get(text, text)
    context.close()


def colour(page, frame, x, y):
    """The colour on the screen at a place of an element, (x, y) from 0 to 1."""
    left, top = first_click.inside(frame, x, y)
    shot = page.screenshot(clip={"x": int(left), "y": int(top), "width": 1, "height": 1})
    return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB"))[0, 0].astype(int)


def test_a_newcomer_clicks_an_object_in_an_own_picture_and_it_is_gone(newcomer, address, tmp_path, request):
    page, t = newcomer
    file = tmp_path / f"own_{request.node.callspec.id}.png"
    first_click.own_picture().save(file)
    before = history.prompt_ids(address)

    first_click.open_gallery(page, address)
    first_click.choose_category(page, page.mouse)
    first_click.choose_template(page, page.mouse)
    assert not page.get_by_test_id("error-overlay").count()
    first_click.upload(page, page.mouse, file)
    x, y, radius = first_click.DISC
    place = (x + 0.5) / first_click.WIDTH, (y + 0.5) / first_click.HEIGHT
    picture = page.locator(".pentimento-frame > img")
    page.mouse.move(*first_click.inside(picture, *place))
    page.locator(".pentimento-hover").wait_for()
    red, green, blue = colour(page, picture, place[0] - 0.05, place[1])
    assert red > green + 60 > blue + 120, "hovering does not show orange"
    page.mouse.click(*first_click.inside(picture, *place))
    share = t("{percent} % selected").format(percent=f"{100 * first_click.disc().mean():.1f}")
    first_click.status(page, f"{t('1 point')} \u00b7 {share}").wait_for()
    page.locator(".pentimento-mask").wait_for()
    first_click.run(page, page.mouse)

    outputs = history.run_since(address, before)["outputs"]
    (saved,) = [image for output in outputs.values() for image in output.get("images", ()) if image["type"] == "output"]
    result = np.asarray(Image.open(io.BytesIO(client.get(address, "view", **saved))).convert("RGB")).astype(int)
    original, object_ = np.asarray(first_click.own_picture()).astype(int), first_click.disc()
    assert np.abs(result - original)[object_].max(-1).min() > 50  # the red is gone, everywhere
    assert (result.max(-1) - result.min(-1)).max() < 8  # and grey came
    far = np.hypot(*(np.indices(object_.shape) - np.array([y, x])[:, None, None])) > radius + 12
    assert np.array_equal(result[far], original[far])

    frame = first_click.compared(page)
    first_click.drag(page.mouse, frame, 0.5, 0.9)
    assert first_click.slider(frame) == pytest.approx(90, abs=1)
    assert np.abs(colour(page, frame, *place) - first_click.RED).max() < 8  # the first picture
    page.keyboard.press("Shift+ArrowLeft")
    assert first_click.slider(frame) == pytest.approx(80, abs=1)
    first_click.drag(page.mouse, frame, 0.8, 0.2)
    assert np.ptp(colour(page, frame, *place)) < 8  # the second
