"""Stand-ins are known from real models by a mark in the file."""

import folder_paths
import pytest
import torch
from safetensors.torch import save_file

from pentimento.model_patchers.comfyui.standins import is_standin, standins, used
from pentimento.model_patchers.comfyui.weights import read_state_dict
from pentimento_host import standins as made


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """models/sams alone, with two stand-ins and three files of such a name that are none."""
    (tmp_path / "mine").mkdir()
    made.unclip_statistics(tmp_path / "standin-stats.pth")
    made.sd2_vae(tmp_path / "mine" / "standin-vae.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "standin-real.safetensors")
    torch.save({"a": torch.zeros(1)}, tmp_path / "standin-real.pth")
    (tmp_path / "standin-broken.safetensors").write_bytes(b"x")
    made.unclip_statistics(tmp_path / "renamed.pth")
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", {"sams": ([str(tmp_path)], {".pth", ".safetensors"})})
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    return tmp_path


def test_the_mark_tells_a_stand_in_and_its_weights_stay_readable(folder):
    assert is_standin(folder / "standin-stats.pth")
    assert is_standin(folder / "mine" / "standin-vae.safetensors")
    for name in ("standin-real.safetensors", "standin-real.pth", "standin-broken.safetensors", "not there.pth"):
        assert not is_standin(folder / name)
    assert all(isinstance(value, torch.Tensor) for value in torch.load(folder / "standin-stats.pth", weights_only=True))
    assert read_state_dict(folder / "standin-stats.pth")


def test_a_torchscript_stand_in_is_marked_and_readable(tmp_path):
    made.lama(tmp_path / "standin-lama.pt")
    assert is_standin(tmp_path / "standin-lama.pt")
    assert torch.jit.load(tmp_path / "standin-lama.pt")
    assert read_state_dict(tmp_path / "standin-lama.pt")


def test_stand_ins_are_listed_as_nodes_list_them(folder):
    assert [name.replace("\\", "/") for name in standins()] == ["mine/standin-vae.safetensors", "standin-stats.pth"]


def test_the_stand_ins_of_a_workflow_are_named(folder):
    node = {"inputs": {"a_name": "standin-stats.pth", "b": ["1", 0], "c": "standin-real.pth", "d": "standin-gone.pth"}}
    assert used({"1": node, "2": {"inputs": {"name": "renamed.pth"}}}) == ["standin-stats.pth"]
    assert used({"2": {"inputs": {"name": "renamed.pth"}}}) == []


@pytest.mark.parametrize("prompt", [None, [], {"1": None}, {"1": {}}, {"1": {"inputs": []}}])
def test_a_prompt_of_another_form_names_none(folder, prompt):
    assert used(prompt) == []
