"""Workflows in ComfyUI's own form become those that its page would queue."""

import json
from copy import deepcopy

import pytest

from kit.fake_comfyui import FakeComfyUI
from kit.grid import GRAPH, INFO, shown
from kit.grid_command import call
from kit.own_form import in_mode, rerouted, with_primitive
from kit.paths import PACK
from pentimento_host import client, own_form
from pentimento_host.grid import GridError

WORKFLOWS = sorted(path.stem for path in (PACK / "workflows").glob("*.json"))


@pytest.fixture(scope="module")
def info(server):
    return json.loads(client.get(server, "object_info"))


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_bundled_workflow_becomes_its_api_form(info, name):
    workflow, graph = (
        json.loads((PACK / "workflows" / part).read_text()) for part in (f"{name}.json", f"api/{name}.json")
    )
    assert own_form.to_api(workflow, info) == graph


def page_form(graph):
    """The small workflow as the page saves it."""
    nodes, links = [], []
    outputs = {key: INFO[node["class_type"]]["output"] for key, node in graph.items()}
    for key, node in graph.items():
        inputs, values = [], []
        for name, value in node["inputs"].items():
            item = {"name": name, "type": "*", "link": None}
            if isinstance(value, list):
                kind = outputs[value[0]][value[1]]
                item |= {"link": len(links) + 1, "type": kind}
                links.append([len(links) + 1, int(value[0]), value[1], int(key), len(inputs), kind])
            else:
                item["widget"] = {"name": name}
                values += [value, "randomize"] if name == "seed" else [value]
            inputs.append(item)
        made = [{"name": kind, "type": kind, "links": []} for kind in outputs[key]]
        nodes.append(
            {"id": int(key), "type": node["class_type"], "title": node["_meta"]["title"], "mode": 0}
            | {"inputs": inputs, "outputs": made, "widgets_values": values}
        )
    return {"version": 0.4, "nodes": nodes, "links": links}


FORM = page_form(GRAPH)


def changed(number, **fields):
    """The form with other fields of a node."""
    nodes = [{**node, **fields} if node["id"] == number else node for node in FORM["nodes"]]
    return {**FORM, "nodes": nodes}


def graph_without(*keys, **inputs):
    """The small workflow without nodes, and with other inputs of the sampler."""
    graph = {key: node for key, node in GRAPH.items() if key not in keys}
    sampler = {**GRAPH["6"]["inputs"], "denoise": 1.0, **inputs}
    return graph | {
        "6": {**GRAPH["6"], "inputs": {name: value for name, value in sampler.items() if value is not None}}
    }


def test_an_input_that_was_added_since_has_its_default():
    assert own_form.to_api(FORM, INFO) == graph_without()
    with_slot = deepcopy(FORM)
    slot = {"name": "denoise", "type": "FLOAT", "link": None, "widget": {"name": "denoise"}}
    next(node for node in with_slot["nodes"] if node["id"] == 6)["inputs"].append(slot)
    assert own_form.to_api(with_slot, INFO) == graph_without()


def test_a_file_may_name_connected_widgets_alone():
    """As most pages save them: the order of the values is that of the node's inputs."""
    form = with_primitive(FORM, 6, "cfg", 3.5)
    for node in form["nodes"]:
        node["inputs"] = [item for item in node["inputs"] if not item.get("widget") or item["link"]]
    assert own_form.to_api(form, INFO) == graph_without(cfg=3.5)


def test_links_lead_past_nodes_that_do_not_run():
    assert own_form.to_api(in_mode(FORM, 2, 4), INFO) == {
        key: {**node, "inputs": {n: ["1", v[1]] if v in (["2", 0], ["2", 1]) else v for n, v in node["inputs"].items()}}
        for key, node in graph_without("2").items()
    }
    assert own_form.to_api(in_mode(FORM, 4, 2), INFO) == graph_without("4", negative=None)
    assert own_form.to_api(in_mode(FORM, 5, 4), INFO) == graph_without("5", latent_image=None)
    for place in range(len(FORM["links"])):
        assert own_form.to_api(rerouted(rerouted(FORM, place), place), INFO) == graph_without()


def test_a_primitive_gives_its_value():
    assert own_form.to_api(with_primitive(FORM, 6, "cfg", 3.5), INFO) == graph_without(cfg=3.5)


def test_notes_are_left_out_and_links_may_be_named():
    note = {"id": 90, "type": "Note", "widgets_values": ["read me"]}
    names = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
    links = [dict(zip(names, link, strict=True)) for link in FORM["links"]]
    assert own_form.to_api({"version": 1, "nodes": [*FORM["nodes"], note], "links": links}, INFO) == graph_without()


def test_values_may_be_named():
    values = {"ckpt_name": "b.safetensors", "more": 1}
    assert own_form.to_api(changed(1, widgets_values=values), INFO)["1"]["inputs"] == {"ckpt_name": "b.safetensors"}


def test_comments_are_taken_out_of_prompts_and_lists_are_marked():
    prompts = {**INFO, "CLIPTextEncode": {**INFO["CLIPTextEncode"], "input": {"required": {}}}}
    prompts["CLIPTextEncode"]["input"]["required"] = {
        "text": ["STRING", {"dynamicPrompts": True}],
        "clip": ["CLIP", {}],
    }
    text = r"a cat // or a dog" + "\n" + r"on /* the \n */ a \{mat\}"
    assert own_form.to_api(changed(3, widgets_values=[text]), prompts)["3"]["inputs"]["text"] == "a cat \non  a {mat}"
    assert own_form.to_api(changed(3, widgets_values=[text]), INFO)["3"]["inputs"]["text"] == text
    assert own_form.to_api(changed(3, widgets_values=[[1, 2]]), INFO)["3"]["inputs"]["text"] == {"__value__": [1, 2]}
    with pytest.raises(GridError, match="Prompt.text has choices in braces"):
        own_form.to_api(changed(3, widgets_values=["a {red|blue} cat"]), prompts)


CODECS = {"options": [{"key": "raw", "inputs": {}}, {"key": "h264", "inputs": {"required": {"crf": ["INT", {}]}}}]}
DYNAMIC = {
    **INFO,
    "SaveImage": {
        **INFO["SaveImage"],
        "input": {"required": {"images": ["IMAGE"], "codec": ["COMFY_DYNAMICCOMBO_V3", CODECS]}},
    },
}
WIDGETS = [{"name": name, "type": "*", "widget": {"name": name}, "link": None} for name in ("codec", "codec.crf")]


def test_inputs_come_with_a_value():
    assert own_form.to_api(changed(8, inputs=WIDGETS[:1], widgets_values=["raw"]), DYNAMIC)["8"]["inputs"] == {
        "codec": "raw"
    }
    assert own_form.to_api(changed(8, inputs=WIDGETS, widgets_values=["h264", 20]), DYNAMIC)["8"]["inputs"] == {
        "codec": "h264",
        "codec.crf": 20,
    }


HOST = {"id": 20, "type": "abc", "inputs": [], "outputs": [], "mode": 0}


def inside(**fields):
    """The form within a subgraph."""
    content = {"id": "abc", "name": "Inner", "inputNode": {"id": -10}, **FORM}
    return {"nodes": [{**HOST, **fields}], "links": [], "definitions": {"subgraphs": [content]}}


def test_nodes_of_a_subgraph_have_its_number_before_theirs():
    graph = own_form.to_api(inside(), INFO)
    assert graph.keys() == {f"20:{key}" for key in GRAPH}
    assert graph["20:8"]["inputs"] == {"images": ["20:7", 0], "filename_prefix": "grid"}


@pytest.mark.parametrize(
    ("form", "info", "sentence"),
    [
        (changed(6, type="Sampler9"), INFO, "ComfyUI has no node Sampler9, which the workflow wants as KSampler"),
        (inside(properties={"proxyWidgets": [["1", "a"]]}), INFO, "Inner is a subgraph of an earlier ComfyUI: save it"),
        (changed(8, widgets_values=["h264", 20], inputs=WIDGETS[:1]), DYNAMIC, "Result has values of which it is not"),
        (changed(8, widgets_values=["a", "b"]), INFO, "Result has values of which it is not clear to which input they"),
        (inside(inputs=WIDGETS, widgets_values=[1]), INFO, "Inner is a subgraph, and it is not clear which value"),
        (changed(8, widgets_values=["%date:yyyy%"]), INFO, "Result.filename_prefix has a part between %"),
        ({**FORM, "links": []}, INFO, "The workflow is damaged, or in a form that is not known. File > Export"),
        ({"nodes": [{}], "links": []}, INFO, "The workflow is damaged"),
    ],
)
def test_what_is_not_converted_is_said(form, info, sentence):
    with pytest.raises(GridError) as error:
        own_form.to_api(form, info)
    assert str(error.value).startswith(sentence)


def test_a_grid_takes_such_a_workflow(tmp_path):
    """Each picture carries it with the cell's values."""
    (tmp_path / "cats.yaml").write_text("workflow: page.json\naxes: {KSampler.cfg: '5, 6'}")
    (tmp_path / "page.json").write_text(json.dumps(FORM))
    with FakeComfyUI() as fake:
        assert call("check", fake.address, cwd=tmp_path)[1].startswith("cats: 2 cells")
        assert call("run", fake.address, cwd=tmp_path)[0] == 0
    _, cells = shown(tmp_path / "cats")
    graph, extra = json.loads((tmp_path / "cats" / cells[1]["files"][0]).read_bytes())
    assert graph == graph_without(cfg=6)
    assert extra["workflow"]["nodes"][5]["widgets_values"][3] == 6
    assert call("view", "127.0.0.1:9", cwd=tmp_path)[0] == 0


def test_its_faults_are_said_with_those_of_the_file(tmp_path):
    (tmp_path / "cats.yaml").write_text("workflow: page.json\naxes: {KSampler.cfg: []}")
    (tmp_path / "page.json").write_text(json.dumps(changed(6, type="Sampler9")))
    with FakeComfyUI() as fake:
        complaints = call("check", fake.address, cwd=tmp_path)[2].splitlines()
    assert complaints[0].startswith("page.json: ComfyUI has no node Sampler9")
    assert len(complaints) == 2
