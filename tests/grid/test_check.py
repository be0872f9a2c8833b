"""Grids against what ComfyUI says of its nodes; the order of axes; the cost."""

import copy
import itertools

import pytest

from kit.grid import GRAPH, INFO, node, spanned
from pentimento.model_patchers.grid import check


def faults(axes, graph=GRAPH, info=INFO, **fields):
    return check.faults(spanned(axes, graph=graph, **fields), info)


NONE = "and ComfyUI has none of that name."
FAULTS = [
    (
        {"KSampler.cgf": [1]},
        "KSampler has no input cgf. Is it cfg? It has seed, steps, cfg, sampler_name, tiled, denoise.",
    ),
    ({"KSampler.sampler_name": ["eulr"]}, f"name is eulr, {NONE} Is it euler? There are euler, dpmpp_2m, heun."),
    ({"LoRA.lora_name": ["z.safetensors"]}, f"LoRA.lora_name is z.safetensors, {NONE}"),
    ({"KSampler.steps": [0]}, "KSampler.steps is 0, and the least is 1."),
    ({"LoRA.strength": [2.5]}, "LoRA.strength is 2.5, and the most is 2.0."),
    ({"KSampler.steps": [7.5]}, "KSampler.steps is 7.5, and a whole number is needed."),
    ({"KSampler.steps": ["many"]}, "KSampler.steps is many, and a whole number is needed."),
    ({"KSampler.steps": [True]}, "KSampler.steps is true, and a whole number is needed."),
    ({"KSampler.tiled": ["maybe"]}, "KSampler.tiled is maybe, and true or false is needed."),
    ({"KSampler.tiled": [1]}, "KSampler.tiled is 1, and true or false is needed."),
    ({"Prompt.text": [5]}, "Prompt.text is 5, and text is needed: put it in quotation marks."),
    ({"KSampler.model": ["x"]}, "KSampler.model is connected to LoRA. Disconnect it, or vary an input of LoRA."),
    ({"Prompt.text": ["dog => wolf"]}, "Prompt.text does not hold dog, which is to be replaced."),
    ({"A": [{"set": {"KSampler.cfg": 1}}], "KSampler.cfg": [2]}, "KSampler.cfg and A both set KSampler.cfg, so one"),
    ({"A": [{"replace": {"KSampler.cfg": {"7": "8"}}}]}, "A: KSampler.cfg holds no text in which something could"),
]


@pytest.mark.parametrize(("axes", "sentence"), FAULTS)
def test_a_fault_gets_its_sentence(axes, sentence):
    said = faults(axes)
    assert any(sentence in fault for fault in said), said
    assert not any(fault.startswith(f"{name}: {name}") for fault in said for name in axes)


def test_all_faults_come_at_once():
    axes = {"KSampler.steps": [0, 1, 2.5], "KSampler.sampler_name": ["eulr", "heun"], "KSampler.model": ["x"]}
    assert len(faults(axes)) == 5  # a connection where a value is set is two faults


def test_a_right_grid_has_none():
    axes = {
        "Prompt.text": ["a red cat", "cat => dog"],
        "Colour": {"input": "Prompt.text", "values": ["red => blue", "dog => wolf"]},
        "Half": [{"title": "no", "set": {"Negative.text": "x"}}, {"title": "steps", "set": {"KSampler.steps": 5}}],
        "Negative": {"input": "Negative.text", "values": "blurry => dull || x => y"},
        "KSampler.cfg": "1, 2, ..., 4",
        "KSampler.denoise": [0.5],
        "KSampler.tiled": [True, False],
        "Model.ckpt_name": ["b.safetensors"],
    }
    assert faults(axes) == []


def test_a_grid_of_too_many_cells_is_refused():
    axes = {"KSampler.seed": "1, ..., 1001", "KSampler.steps": "1, ..., 1000"}
    assert faults(axes) == ["The grid has 1001000 cells, and 1000000 is the limit: shorten an axis, or skip values."]


def test_skipped_values_are_not_checked():
    assert faults({"KSampler.steps": [1, {"SKIP": 0}]}) == []


def test_the_workflow_itself_is_checked():
    graph = copy.deepcopy(GRAPH)
    graph["1"]["inputs"]["ckpt_name"] = "gone.safetensors"
    graph["3"]["class_type"] = "Unknown"
    del graph["8"]
    said = faults({"KSampler.cfg": [1]}, graph=graph)
    assert said == [
        "The workflow: Model.ckpt_name is gone.safetensors, and ComfyUI has none of that name. "
        "Is it b.safetensors or a.safetensors? There are a.safetensors, b.safetensors.",
        "ComfyUI has no node Unknown, which the workflow wants as Prompt. Install its pack, and restart ComfyUI.",
        "The workflow saves nothing: it needs a node such as Save Image.",
    ]
    assert len(faults({"Model.ckpt_name": ["a.safetensors"]}, graph=graph)) == 2


def test_dynamic_inputs_and_uploads_are_left_to_comfyui():
    info = copy.deepcopy(INFO)
    info["Load"] = {"input": {"required": {"image": [["a.png"], {"image_upload": True}]}}, "output": ["IMAGE"]}
    info["KSampler"]["input"]["required"]["mode"] = ["COMFY_DYNAMICCOMBO_V3", {"options": []}]
    graph = {**GRAPH, "9": node("Load", "Picture", image="sub/b.png")}
    graph["6"] = node("KSampler", **GRAPH["6"]["inputs"], **{"mode": "a", "mode.width": 5})
    assert faults({"Picture.image": ["c.png"], "KSampler.mode": ["b"], "KSampler.mode.width": [6]}, graph, info) == []


def order(axes, **options):
    grid = spanned(axes, **options)
    return [grid.axes[axis].title for axis in check.order(grid, INFO)]


def test_loaders_change_least():
    axes = {
        "KSampler.seed": [1],
        "Result.filename_prefix": ["a"],
        "Prompt.text": ["a", "b"],
        "LoRA.strength": [0.5, 1],
        "Model.ckpt_name": ["a.safetensors", "b.safetensors"],
    }
    assert order(axes) == ["Model.ckpt_name", "LoRA.strength", "Prompt.text", "KSampler.seed", "Result.filename_prefix"]


def test_of_equal_axes_the_shorter_stands_outside_and_then_the_file_counts():
    assert order({"KSampler.seed": [1, 2, 3], "KSampler.cfg": [1, 2]}) == ["KSampler.cfg", "KSampler.seed"]
    assert order({"KSampler.seed": [1, 2], "KSampler.cfg": [1, 2]}) == ["KSampler.seed", "KSampler.cfg"]


def simulated_runs(grid, axes):
    """How often each node runs when ComfyUI keeps the results of the last prompt: {node id: runs}."""
    runs, before = dict.fromkeys(grid.graph, 0), {}
    for cell in grid.cells(axes):
        graph, now = grid.workflow(cell), {}

        def state(key, graph=graph, now=now):
            if key not in now:
                inputs = graph[key]["inputs"].items()
                now[key] = repr([(name, state(v[0]) if isinstance(v, list) else v) for name, v in inputs])
            return now[key]

        for key in graph:
            runs[key] += before.get(key) != state(key)
        before = now
    return runs


def test_the_cost_is_what_comfyui_does():
    axes = {
        "KSampler.seed": [1, 2, 3],
        "LoRA.strength": [0.5, 1],
        "Model.ckpt_name": ["a.safetensors", "b.safetensors"],
        "Prompt.text": ["x", "y"],
    }
    grid = spanned(axes)
    slow_first = check.order(grid, INFO)
    cost = check.cost(grid, INFO, slow_first)
    runs = simulated_runs(grid, slow_first)
    assert cost.cells == 24
    assert cost.runs == sum(runs.values())
    assert cost.loads == {"Model": runs["1"], "LoRA": runs["2"]} == {"Model": 2, "LoRA": 4}
    as_written = simulated_runs(grid, tuple(range(4)))
    assert as_written["1"] == 12
    assert sum(as_written.values()) > cost.runs


def test_no_order_loads_models_less_often():
    axes = {
        "KSampler.seed": [1, 2],
        "LoRA.lora_name": ["x.safetensors", "y.safetensors"],
        "Model.ckpt_name": ["a.safetensors", "b.safetensors"],
    }
    grid = spanned(axes)
    loads = {
        axes: sum(check.cost(grid, INFO, axes).loads.values()) for axes in itertools.permutations(range(len(grid.axes)))
    }
    assert loads[check.order(grid, INFO)] == min(loads.values()) == 6
    assert max(loads.values()) == 16
