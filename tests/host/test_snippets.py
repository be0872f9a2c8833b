"""The commands and snippets of README and docs/api.md, as they stand there."""

import contextlib
import io
import json
import re
import shutil
import subprocess
import sys
import time

import pytest
from PIL import Image

from kit.paths import PACK
from pentimento_host import cli, client, models

PAGES = [page for page in (PACK / "README.md", PACK / "README.zh.md", PACK / "docs" / "api.md") if page.exists()]
ADDRESS = "http://127.0.0.1:8188"
REPOSITORY = re.search(r'^Repository = "(.+)"$', (PACK / "pyproject.toml").read_text(), re.MULTILINE)[1]
VALUES = {"PORT": "8188", "PATH": "."}  # for what a page writes in capitals

texts = {page.relative_to(PACK).as_posix(): page.read_text(encoding="utf-8") for page in PAGES}
blocks = {
    f"{page}:{text[: match.start()].count(chr(10)) + 2}": (match[1], match[2])
    for page, text in texts.items()
    for match in re.finditer(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
}
needs_server = {place: block for place, block in blocks.items() if ADDRESS in block[1] or "run.py" in block[1]}


def is_command_of_the_tool(line):
    """Whether `python3 host` takes this line, whose [brackets] may be left out."""
    words = re.sub(r"[][]|\.\.\.", " ", line).split()[2:]
    with contextlib.redirect_stderr(io.StringIO()):
        try:
            options, rest = cli._parser().parse_known_args([VALUES.get(word, word) for word in words])
        except SystemExit as end:
            return end.code == 0
    return not rest or options.verb == "test"


def test_the_tools_commands_are_told_apart():
    assert is_command_of_the_tool("python3 host serve [--port PORT]")
    assert is_command_of_the_tool("python3 host demo [WORKFLOW ...]")
    assert not is_command_of_the_tool("python3 host serve --prot 1")
    assert not is_command_of_the_tool("python3 host demonstrate")


@pytest.mark.parametrize("page", texts)
def test_every_command_of_the_tool_exists(page):
    lines = re.findall(r"`(python3 host[^`]*)`", texts[page])
    lines += [line for _, block in blocks.values() for line in block.splitlines() if line.startswith("python3 host")]
    assert not [line for line in lines if not is_command_of_the_tool(line)]


def test_every_option_of_the_tool_is_in_the_readme():
    options = {"--port": "serve", "--download": "models", "--comfyui": None}
    for option, verb in options.items():
        with contextlib.redirect_stdout(io.StringIO()) as shown, contextlib.suppress(SystemExit):
            cli._parser().parse_args([verb, "--help"] if verb else ["--help"])
        assert option in shown.getvalue()
        assert option in texts["README.md"]


@pytest.mark.parametrize("place", sorted(blocks.keys() - needs_server.keys()))
def test_commands_that_fetch_are_well_formed(place):
    for line in blocks[place][1].splitlines():
        command, *arguments = line.split()
        if command == "git":
            assert arguments == ["clone", REPOSITORY]
        elif command == "cd":
            assert arguments[0] in ("ComfyUI/custom_nodes", REPOSITORY.rsplit("/", 1)[1])
        else:
            assert line.startswith("python3 host")


@pytest.fixture
def folder(host, tmp_path):
    """The pack's folder as a user has it, with stand-ins for missing models, and the pictures that the pages name."""
    folder = tmp_path / "ComfyUI" / "custom_nodes" / "pentimento"
    shutil.copytree(PACK / "workflows" / "api", folder / "workflows" / "api")
    for path in (folder / "workflows" / "api").glob("*.json"):
        graph = json.loads(path.read_text())
        if "lama" in path.stem:
            models.fill_in(host, graph)
        path.write_text(json.dumps(graph))
    mask = Image.new("L", (320, 240))
    mask.paste(255, (180, 110, 230, 150))
    for name in ("my.jpg", "in/a.jpg", "mask.png", "masks/a.png"):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        (mask if "mask" in name else Image.effect_noise(mask.size, 9).convert("RGB")).save(path)
    return folder


@pytest.mark.parametrize("place", needs_server)
def test_snippets_run_as_they_stand(place, folder, host, server):
    language, text = needs_server[place]
    runner = folder / "workflows" / "api" / "run.py"
    runner.write_text(runner.read_text().replace(ADDRESS, server))
    text = text.replace(ADDRESS, server)
    for name, model in models.catalogue().items():
        if name in text:
            text = text.replace(name, name if models.find(host, model) else f"standin-{name}")
    python3 = f'python3() {{ "{sys._base_executable}" "$@"; }}\n'
    interpreter = ["bash", "-euo", "pipefail", "-c"]
    if language == "python":
        python3, interpreter = "", [sys._base_executable, "-c"]
    start = folder.parents[2] if "cd ComfyUI" in text else folder
    result = subprocess.run([*interpreter, python3 + text], cwd=start, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stderr == ""
    assert '"error"' not in result.stdout
    if "/prompt" in text:
        assert json.loads(result.stdout)["node_errors"] == {}
        while any(json.loads(client.get(server, "queue")).values()):
            time.sleep(0.1)
    else:
        assert "out/" in result.stdout or "200 OK" in result.stdout
    for path in [*folder.glob("*.png"), *folder.glob("out/*.png")]:
        Image.open(path).load()
