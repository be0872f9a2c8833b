"""The example grids in workflows/grids, on a real ComfyUI."""

import json
import shutil

import pytest

from kit.grid import shown
from kit.paths import PACK
from pentimento.model_patchers.grid import check
from pentimento.model_patchers.grid.folder import SCORES
from pentimento_host import cli, client
from pentimento_host import grid as command

EXAMPLES = PACK / "workflows" / "grids"
CELLS = {"cfg_sampler_steps": 36, "demofusion": 18, "dpg_bench": 8, "fill": 72, "lora_strength": 20}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The examples, with two of DPG-Bench's prompts beside them, which come from its own repository."""
    folder = shutil.copytree(EXAMPLES, tmp_path_factory.mktemp("examples") / "grids")
    (folder / "prompts").mkdir()
    for name in ("0", "COCOval2014000000010363"):
        (folder / "prompts" / f"{name}.txt").write_text(f"A long prompt, {name}.")
    return folder


@pytest.fixture(scope="module")
def info(server):
    return json.loads(client.get(server, "object_info"))


def with_files(info, grid):
    """What ComfyUI says of its nodes where it has all model files that a grid and its workflow name."""
    info = json.loads(json.dumps(info))
    changes = [change for axis in grid.axes for value in axis.values for change in value.changes]
    named = [(change.node, change.input, change.value) for change in changes]
    named += [(key, name, value) for key, node in grid.graph.items() for name, value in node["inputs"].items()]
    for key, name, value in named:
        if name.endswith("_name") and isinstance(value, str) and name != "sampler_name":
            kind, *options = check.declared(info, grid.graph[key])[name]
            (kind if isinstance(kind, list) else options[0]["options"]).append(value)
    return info


def test_every_example_is_known_here():
    assert {path.stem for path in EXAMPLES.glob("*.yaml")} == CELLS.keys()


@pytest.mark.parametrize("name", CELLS)
def test_an_example_has_no_fault(folder, info, name):
    grid, faults, path = command.read(str(folder / f"{name}.yaml"))
    assert [*faults, *check.faults(grid, with_files(info, grid))] == []
    assert (grid.size(), path.name) == (CELLS[name], name)
    assert {"x", "y"} <= grid.view.keys()


def test_an_example_says_what_is_not_there(folder, info):
    """So that the test above finds what it looks for."""
    grid, _, _ = command.read(str(folder / "lora_strength.yaml"))
    assert any("LoRA.lora_name is my_lora.safetensors" in fault for fault in check.faults(grid, info))


def test_scores_of_real_cells_reach_the_page_and_the_table(folder, server, monkeypatch):
    """Of the grid over fills, two cells without PatchMatch, which is slow."""
    arguments = ["host", "grid", "run", str(folder / "fill.yaml"), "--server", server]
    only = ("Method=harmonic", "Seed=2", "Part=stripes", "Mask=0", "Mask=24")
    monkeypatch.setattr("sys.argv", [*arguments, *(word for part in only for word in ("--only", part))])
    monkeypatch.setenv(cli.INSIDE, "1")
    assert cli.main() == 0
    small, large = (record["scores"] for record in shown(folder / "fill")[1].values())
    assert small.keys() == large.keys() == {"psnr", "ssim", "sharpness"}
    assert large["psnr"] < small["psnr"] < 100 and large["ssim"] < small["ssim"] < 1
    assert f"{small['psnr']}" in (folder / "fill" / SCORES).read_text(encoding="utf-8-sig")
