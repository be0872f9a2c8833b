"""Who may import whom inside the pack, how large files and folders may grow, and what loading the pack imports."""

import ast
import json
import re
import subprocess
import sys
from collections import Counter
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from kit.paths import HOST, PACK

# Importer -> what it may import. A folder stands for all that lies in it, a folder of model_patchers/ is called by its
# own name, and \1 is the area on the left.
AREA = "(segment|fill|edit|condition|prompt|sample|colour|upscale|video|grid|score)"
INSIDE = (
    "arch -> arch",
    "pixels -> pixels",
    "comfyui -> (comfyui|pixels)",
    rf"{AREA} -> (\1|arch|pixels|comfyui)",
    "edit -> (fill|segment)",
    "video -> (segment|fill|edit)",
    "grid -> score",
    rf"nodes/{AREA} -> (\1|comfyui|pixels|nodes/inputs|nodes/sockets)",
    f"nodes/(inputs|sockets) -> ({AREA}|comfyui|pixels)",
    f"routes -> (routes|{AREA}|comfyui)",
    rf"nodes/{AREA}/__init__ -> nodes/\1",
    f"nodes/__init__ -> nodes/({AREA}/__init__|inputs)",
    "__init__ -> (nodes/__init__|routes|comfyui)",
)
OUTSIDE = (  # beside the standard library
    "arch -> (torch|einops|comfy.ops|comfy.ldm|comfy.text_encoders)",
    "arch/t5_fp16 -> comfy.model_management",
    "pixels -> (torch|numpy|scipy|kornia|PIL)",
    rf"({AREA}|comfyui) -> (?!(server|nodes|aiohttp)\b)\w+",
    r"(nodes|routes|__init__) -> \w+",
)
OURS = {"pentimento", "custom_nodes", "model_patchers", "routes"}  # an absolute `nodes` is ComfyUI's
COMFYUI = {"comfy", "comfy_api", "comfy_execution", "comfy_extras", "execution", "folder_paths"}
COMFYUI |= {"app", "latent_preview", "node_helpers", "nodes", "server", "utils"}  # its other modules at the top
HEAVY = {"kornia", "spandrel", "torchvision", "skimage", "diffusers", "transformers", "segment_anything"}
PRIVATE = "which is private to ComfyUI: say why beside it, or import it late"
MOST_LINES, MOST_FILES = 400, 10


def shipped(pack):
    """{path without suffix: text} of the Python files that users install."""
    below = (file for top in ("nodes", "model_patchers", "routes") for file in (pack / top).rglob("*.py"))
    files = (pack / "__init__.py", *sorted(below))
    return {file.relative_to(pack).with_suffix("").as_posix(): file.read_text(encoding="utf-8") for file in files}


def imports(nodes, path, files):
    """(dots of a relative import, a file's path or a dotted name) for each import of the file at `path`."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield from ((0, f"{node.module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            folders = [*path.split("/")[: -node.level], *(node.module.split(".") if node.module else [])]
            yield from ((node.level, module([*folders, alias.name], files)) for alias in node.names)
        elif isinstance(node, ast.Attribute) and re.fullmatch(r"comfy\.\w+", ast.unparse(node)):
            yield 0, ast.unparse(node)  # any `import comfy.x` brings `comfy` along


def module(parts, files):
    """The file that `from a.b import c` reads, where `parts` are a, b and c: c if that is a module, else b."""
    names = "/".join(parts), "/".join(parts[:-1])
    choices = (choice for name in names for choice in (name, f"{name}/__init__".strip("/")))
    return next((choice for choice in choices if choice in files), names[0])


def at_import(node):
    """What of a file runs when it is imported."""
    for child in ast.iter_child_nodes(node):
        late = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        if not late and not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield child
            yield from at_import(child)


def short(path):
    return path.removeprefix("model_patchers/")


def allowed(rules, path, name):
    below = r"([/.]\w+)*"
    arrow = f"{short(path)} -> {short(name)}"
    return any(re.fullmatch(rule.replace(" -> ", f"{below} -> ") + below, arrow) for rule in rules)


def wrong_import(path, dots, name, files):
    """A sentence, or None."""
    top = name.split(".")[0]
    if dots > path.count("/") + 1:
        return f"{short(path)}: a relative import leaves the pack"
    if dots and name not in files:
        return f"{short(path)} imports {short(name)}, which is not there"
    if not dots and top in OURS:
        return f"{short(path)} imports {name}: imports inside the pack are relative"
    if (dots or top not in sys.stdlib_module_names) and not allowed(INSIDE if dots else OUTSIDE, path, name):
        return f"{short(path)} may not import {short(name)}"
    return None


def is_private(name):
    """Whether ComfyUI may drop one of its dotted names unsaid, upon which the whole pack would fail to load."""
    parts = name.split(".")
    hidden = any(re.fullmatch(r"_(?!_).*", part) for part in parts)
    return parts[0] in COMFYUI and (hidden or (parts[0] == "comfy_api" and parts[1:2] != ["latest"]))


def private_names(tree, text):
    """The private names of ComfyUI that a file needs when it is imported, on lines without a comment."""
    lines = text.splitlines()
    for node in at_import(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            names = [ast.unparse(node)] if isinstance(node, ast.Attribute) else []
        yield from (name for name in names if is_private(name) and "#" not in lines[node.lineno - 1])


def circles(graph):
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        yield f"an import circle: {' <- '.join(map(short, error.args[1]))}"


def wrong_sizes(texts):
    """Of {path below model_patchers/: text}."""
    areas = Counter(path.split("/")[0] for path in texts if re.fullmatch(f"{AREA}/(?!__init__).+", path))
    for area, count in areas.items():
        if count > MOST_FILES:
            yield f"{area} has {count} files, and {MOST_FILES} is the limit"
    for path, text in texts.items():
        if (lines := text.count("\n")) > MOST_LINES:
            yield f"{path} has {lines} lines, and {MOST_LINES} is the limit"
        if re.fullmatch(f"{AREA}/__init__", path) and text:
            yield f"{path} is not empty"
        if not re.fullmatch(f"__init__|({AREA}|arch|pixels|comfyui)/.+", path):
            yield f"{path} lies in no area"


def problems(pack):
    """Sentences on what breaks the rules."""
    files = shipped(pack)
    trees = {path: ast.parse(text) for path, text in files.items()}
    imported = {path: sorted(set(imports(ast.walk(tree), path, files))) for path, tree in trees.items()}
    for path, tree in trees.items():
        yield from filter(None, (wrong_import(path, dots, name, files) for dots, name in imported[path]))
        if "sys.path" in map(ast.unparse, (node for node in ast.walk(tree) if isinstance(node, ast.Attribute))):
            yield f"{short(path)} uses sys.path"
        for name in sorted(set(private_names(tree, files[path]))):
            yield f"{short(path)} needs {name} to load, {PRIVATE}"
        heavy = (name for _, name in imports(at_import(tree), path, files) if name.split(".")[0] in HEAVY)
        yield from (f"{short(path)} imports {name} at module scope" for name in heavy)
    yield from circles({path: [name for dots, name in pairs if dots] for path, pairs in imported.items()})
    yield from wrong_sizes({short(path): text for path, text in files.items() if path.startswith("model_patchers/")})


def test_the_pack_keeps_the_rules():
    assert "\n".join(problems(PACK)) == ""


CLEAN = {
    "__init__": "def f():\n from .nodes import x\n from .routes import live\n from .model_patchers.comfyui import a",
    "nodes/__init__": "from . import edit, fill",
    "nodes/edit/__init__": "from . import crop",
    "nodes/edit/crop": "from server import x\nfrom ...model_patchers.edit.crop import x\nfrom ..inputs import x",
    "nodes/fill/__init__": "",
    "nodes/inputs": "from ..model_patchers.comfyui import a",
    "routes/live": "from aiohttp import web\nfrom ..model_patchers.edit import crop",
    "model_patchers/edit/__init__": "",
    "model_patchers/edit/crop": "import comfy.utils\nfrom ..arch import a\nfrom ..fill.a import x\nfrom . import paste",
    "model_patchers/edit/paste": "if TYPE_CHECKING:\n import transformers\ndef f():\n import transformers",
    "model_patchers/fill/a": "from ..pixels.a import x",
    "model_patchers/comfyui/__init__": '"""ComfyUI."""',
    "model_patchers/comfyui/a": "import folder_paths\nfrom ..pixels import a",
    "model_patchers/pixels/a": "import math\nimport torch\nfrom scipy import ndimage",
    "model_patchers/arch/a": "import comfy.ops\nfrom .b import x",
    "model_patchers/arch/b": "from torch import nn",
    "model_patchers/arch/t5_fp16": "from comfy import model_management",
}


def written(pack, files):
    for path, text in files.items():
        file = pack / f"{path}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return pack


def test_a_pack_that_keeps_the_rules_has_no_problems(tmp_path):
    assert not list(problems(written(tmp_path, CLEAN)))


@pytest.mark.parametrize(
    ("path", "statement", "name"),
    [
        ("arch/b", "from ..pixels import a", "pixels/a"),
        ("arch/b", "import comfy.samplers", "comfy.samplers"),
        ("arch/b", "from comfy import model_management", "comfy.model_management"),
        ("arch/b", "import comfy.ops\ncomfy.utils.x()", "comfy.utils"),
        ("pixels/a", "import comfy.utils", "comfy.utils"),
        ("pixels/a", "def f():\n import folder_paths", "folder_paths"),
        ("pixels/a", "from ..arch import a", "arch/a"),
        ("comfyui/a", "from ..arch import a", "arch/a"),
        ("comfyui/a", "from ..fill import a", "fill/a"),
        ("comfyui/a", "import server", "server"),
        ("fill/a", "from ..edit.paste import x", "edit/paste"),
        ("fill/a", "from nodes import LoadImage", "nodes.LoadImage"),
        ("fill/a", "from ...nodes.inputs import x", "nodes/inputs"),
        ("fill/a", "if TYPE_CHECKING:\n from ...routes import live", "routes/live"),
        ("nodes/edit/crop", "from ...model_patchers.fill import a", "fill/a"),
        ("nodes/edit/crop", "from ...model_patchers.arch import a", "arch/a"),
        ("nodes/edit/crop", "from ...routes import live", "routes/live"),
        ("nodes/edit/paste", "from .crop import x", "nodes/edit/crop"),
        ("nodes/edit/__init__", "from ..fill import NODES", "nodes/fill/__init__"),
        ("nodes/inputs", "from .edit import paste", "nodes/edit/__init__"),
        ("routes/live", "from ..nodes.edit import crop", "nodes/edit/crop"),
        ("routes/live", "from ..model_patchers.pixels import a", "pixels/a"),
    ],
)
def test_an_import_against_the_rules_is_reported(tmp_path, path, statement, name):
    place = path if path.startswith(("nodes", "routes")) else f"model_patchers/{path}"
    assert f"{path} may not import {name}" in problems(written(tmp_path, CLEAN | {place: statement}))


@pytest.mark.parametrize(
    ("path", "text", "problem"),
    [
        ("fill/a", "from ....x import y", "fill/a: a relative import leaves the pack"),
        ("fill/a", "from ..arch.c import x", "fill/a imports arch/c/x, which is not there"),
        (
            "fill/a",
            "import model_patchers.arch.a",
            "fill/a imports model_patchers.arch.a: imports inside the pack are relative",
        ),
        ("edit/paste", "def f():\n from .crop import x", "an import circle: edit/crop <- edit/paste <- edit/crop"),
        (
            "edit/paste",
            "try:\n import kornia.color\nfinally:\n pass",
            "edit/paste imports kornia.color at module scope",
        ),
        ("edit/paste", "class A:\n from spandrel import B", "edit/paste imports spandrel.B at module scope"),
        ("edit/paste", "import sys\nsys.path.append('')", "edit/paste uses sys.path"),
        ("edit/paste", "from comfy.conds import _x", f"edit/paste needs comfy.conds._x to load, {PRIVATE}"),
        ("edit/paste", "import comfy._x", f"edit/paste needs comfy._x to load, {PRIVATE}"),
        ("edit/paste", "import comfy.sd\nx = comfy.sd._x", f"edit/paste needs comfy.sd._x to load, {PRIVATE}"),
        (
            "edit/paste",
            "class A:\n from comfy_api.internal import x",
            f"edit/paste needs comfy_api.internal.x to load, {PRIVATE}",
        ),
        ("edit/paste", "#\n" * 401, "edit/paste has 401 lines, and 400 is the limit"),
        ("edit/__init__", "from . import crop", "edit/__init__ is not empty"),
        ("helpers", "", "helpers lies in no area"),
        ("helpers/a", "", "helpers/a lies in no area"),
    ],
)
def test_a_breach_is_reported(tmp_path, path, text, problem):
    assert problem in problems(written(tmp_path, CLEAN | {f"model_patchers/{path}": text}))


@pytest.mark.parametrize(
    "text",
    [
        "from comfy.conds import _x  # nothing else makes one",
        "def f():\n from comfy.conds import _x",
        "from comfy_api.latest import io\nfrom comfy.conds import x\nx.__name__",
    ],
)
def test_a_private_name_of_comfyui_has_a_reason_or_is_imported_late(tmp_path, text):
    assert not list(problems(written(tmp_path, CLEAN | {"model_patchers/edit/paste": text})))


def test_an_area_has_ten_files_at_most(tmp_path):
    pack = written(tmp_path, CLEAN | {f"model_patchers/fill/a{i}": "" for i in range(9)})
    assert not list(problems(pack))
    written(pack, {"model_patchers/fill/one_more": ""})
    assert list(problems(pack)) == ["fill has 11 files, and 10 is the limit"]


def in_the_systems_letters(tree):
    """The lines that read or write text in the encoding of the system, which on Windows is not UTF-8."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or any(keyword.arg == "encoding" for keyword in node.keywords):
            continue
        function = ast.unparse(node.func)
        constants = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
        if function.endswith(".read_text"):
            wrong = not node.args
        elif function.endswith(".write_text"):
            wrong = len(node.args) < 2
        elif function.endswith(".open"):  # of a path, which takes the mode first
            wrong = not node.args or (bool(constants) and constants[0] in ("r", "w", "a", "x", "r+", "w+"))
        else:
            wrong = function == "open" and not any("b" in str(constant) for constant in constants)
        if wrong:
            yield node.lineno


def test_text_of_the_pack_and_the_tool_is_utf8_on_every_system():
    """Tests read and write ASCII, or say so; .github/workflows/test.yml has them run with PYTHONUTF8=1."""
    folders = ("nodes", "model_patchers", "routes", "host", "benchmarks")
    files = [PACK / "__init__.py", *(file for folder in folders for file in (PACK / folder).rglob("*.py"))]
    wrong = [(file, line) for file in files for line in in_the_systems_letters(ast.parse(file.read_text("utf-8")))]
    assert not wrong


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("path.read_text()", True),
        ("path.read_text(encoding='utf-8')", False),
        ("path.read_text('utf-8')", False),
        ("path.read_text(errors='replace')", True),
        ("path.write_text(x)", True),
        ("path.write_text(x, 'utf-8')", False),
        ("path.open()", True),
        ("path.open('w')", True),
        ("path.open('rb')", False),
        ("Image.open(path)", False),
        ("open(path)", True),
        ("open(path, 'ab', opener=x)", False),
    ],
)
def test_text_in_the_systems_letters_is_reported(text, wrong):
    assert bool(list(in_the_systems_letters(ast.parse(text)))) == wrong


def test_the_pack_is_not_on_sys_path():
    assert PACK not in [Path(entry or ".").resolve() for entry in sys.path]


IMPORT = """
import asyncio, json, runpy, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from comfy.cli_args import args
args.cpu = True
import torch, comfy.sd, comfy.samplers, comfy.utils, folder_paths
from comfy_api.latest import io
before = set(sys.modules)
load_package = runpy.run_path(sys.argv[2] + "/host/load_package.py")["load_package"]
pack = load_package("pack", Path(sys.argv[2]))
async def load():
    extension = await pack.comfy_entrypoint()
    await extension.on_load()
    return [cls.GET_SCHEMA().node_id for cls in await extension.get_node_list()]
nodes = asyncio.run(load())
print(json.dumps({"before": sorted(before), "new": sorted(set(sys.modules) - before), "nodes": nodes}))
"""


def test_importing_the_pack_imports_nothing_heavy(node_classes):
    command = [sys.executable, "-P", "-c", IMPORT, str(HOST), str(PACK)]
    modules = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    assert not {"kornia", "spandrel", "skimage", "diffusers"} & set(modules["before"]), (
        "imported before the pack: the test cannot see whether the pack imports it"
    )
    assert not {module.split(".")[0] for module in modules["new"]} & HEAVY
    assert sorted(modules["nodes"]) == sorted(node_classes)
    assert "pack.nodes.segment.tune_mask" in modules["new"]
