"""The bundled workflows name model files that people can get."""

import json

import pytest

from kit.paths import PACK
from pentimento_host import models

FILES = (".safetensors", ".ckpt", ".pt", ".pth", ".th", ".bin")


def named_files(value):
    """Every model file that is named anywhere in a workflow."""
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from named_files(item)
    elif isinstance(value, str) and value.endswith(FILES) and "/" not in value:
        yield value


def test_model_files_are_found_at_any_depth():
    assert [*named_files({"nodes": [{"widgets_values": ["a.ckpt", 1]}, "see https://host/b.pth"]})] == ["a.ckpt"]


@pytest.mark.parametrize("form", ["", "api/"])
@pytest.mark.parametrize("name", models.workflows())
def test_model_files_of_a_workflow_are_in_the_catalogue(name, form):
    workflow = json.loads((PACK / "workflows" / f"{form}{name}.json").read_text(encoding="utf-8"))
    unknown = set(named_files(workflow)) - models.catalogue().keys()
    assert not unknown, "put the real file's name in place of a stand-in's, or add the file to host/models.json"
