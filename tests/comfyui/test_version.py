"""A ComfyUI that is too old gets a sentence, by ComfyUI's own way of loading a pack."""

import logging
import re
import sys

import comfyui_version
import pytest

import nodes
from kit.nodes import in_own_loop
from kit.paths import PACK
from pentimento.model_patchers.comfyui import version

REGISTRIES = ("NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS", "EXTENSION_WEB_DIRS", "LOADED_MODULE_DIRS")


@pytest.fixture
def loaded(monkeypatch, caplog):
    """Loads the pack in a ComfyUI of this version: (whether it succeeded, what ComfyUI logs)."""

    def load(number):
        if number is None:
            monkeypatch.setitem(sys.modules, "comfyui_version", None)
        else:
            monkeypatch.setattr(comfyui_version, "__version__", number)
        for registry in (
            "NODE_CLASS_MAPPINGS",
            "NODE_DISPLAY_NAME_MAPPINGS",
            "EXTENSION_WEB_DIRS",
            "LOADED_MODULE_DIRS",
        ):
            monkeypatch.setattr(nodes, registry, {})
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            return in_own_loop(nodes.load_custom_node(str(PACK))), caplog.text

    yield load
    for name in [name for name in sys.modules if name.startswith(str(PACK).replace(".", "_x_"))]:
        del sys.modules[name]


@pytest.mark.parametrize("number", ["0.3.64", "0.12.1", "0.23.9"])
def test_an_older_comfyui_logs_one_sentence_and_goes_on(loaded, number):
    success, log = loaded(number)
    assert not success
    assert (
        f"Pentimento needs ComfyUI {version.MINIMUM} or newer, and this is ComfyUI {number}: its nodes are not" in log
    )
    assert log.count("\n") == 1 and "Traceback" not in log
    assert not nodes.NODE_CLASS_MAPPINGS and not nodes.EXTENSION_WEB_DIRS


def test_a_comfyui_that_calls_no_entry_point_logs_the_sentence(loaded, monkeypatch):
    monkeypatch.setitem(sys.modules, "comfy_api.latest", None)
    success, log = loaded(None)
    assert not success
    assert f"custom nodes: Pentimento needs ComfyUI {version.MINIMUM} or newer, and this is older: its nodes" in log


@pytest.mark.parametrize("number", [version.MINIMUM, "0.30.0", "0.100.0", "1.0", "0.33.0-dev.1"])
def test_that_one_and_newer_ones_are_let_in(monkeypatch, number):
    monkeypatch.setattr(comfyui_version, "__version__", number)
    assert version.refusal() is None


def test_this_comfyui_loads_the_pack(loaded):
    success, log = loaded(comfyui_version.__version__)
    assert success and log == ""
    assert "PentimentoMagicWand" in nodes.NODE_CLASS_MAPPINGS
    assert dict(nodes.EXTENSION_WEB_DIRS) == {PACK.name: str(PACK / "web")}


def test_the_registry_is_told_the_same_version():
    (wanted,) = re.findall(r'^requires-comfyui = ">=(.+)"$', (PACK / "pyproject.toml").read_text("utf-8"), re.MULTILINE)
    assert wanted == version.MINIMUM
