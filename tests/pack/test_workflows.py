"""The bundled workflows and blueprints: model files and photographs that people can get, comparisons, the layout."""

import json
import re

import pytest

from kit.paths import PACK
from pentimento.model_patchers.comfyui import photographs
from pentimento_host import models

UNKNOWN = "put the real file's name in place of a stand-in's, or add the file to host/models.json"
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
    assert not unknown, UNKNOWN


@pytest.mark.parametrize("form", ["", "api/"])
@pytest.mark.parametrize("name", models.blueprints())
def test_model_files_of_a_blueprint_are_in_the_catalogue(name, form):
    blueprint = json.loads((PACK / "subgraphs" / f"{form}{name}.json").read_text(encoding="utf-8"))
    unknown = set(named_files(blueprint)) - models.catalogue().keys()
    assert not unknown, UNKNOWN


@pytest.mark.parametrize("name", models.blueprints())
def test_a_blueprint_is_one_node_with_a_help_text_in_both_languages(name):
    blueprint = json.loads((PACK / "subgraphs" / f"{name}.json").read_text(encoding="utf-8"))
    (host,) = blueprint["nodes"]
    (subgraph,) = blueprint["definitions"]["subgraphs"]
    assert host["type"] == subgraph["id"]
    assert host["title"] == subgraph["name"] == name  # the front end shows the file's name
    english, chinese = subgraph["description"].splitlines()
    assert blueprint["extra"]["BlueprintDescription"] == subgraph["description"]
    assert english.endswith(".")
    assert re.search(r"[\u4e00-\u9fff].*\u3002$", chinese)
    assert any(re.search(r"[\u4e00-\u9fff]", alias) for alias in blueprint["extra"]["BlueprintSearchAliases"])
    (note,) = (node["widgets_values"][0] for node in subgraph["nodes"] if node["type"] == "MarkdownNote")
    assert english in note
    linked = {link["id"] for link in subgraph["links"]}
    assert linked == {link for slot in subgraph["inputs"] + subgraph["outputs"] for link in slot["linkIds"]} | {
        link["id"] for link in subgraph["links"] if link["origin_id"] != -10 and link["target_id"] != -20
    }


WITHOUT_COMPARE = {  # their result is no change of one picture
    "attention_couple",
    "demofusion",
    "ella",
    "ella_clip_controlnet",
    "regional_prompt",
    "remove_anything_video",
    "remove_anything_video_2023",
    "segment_everything",
    "track_anything",
    "unclip_variations",
    "wildcards",
}


@pytest.mark.parametrize("name", sorted(models.workflows().keys() - WITHOUT_COMPARE))
def test_a_workflow_that_changes_a_picture_compares_it_with_the_result(name):
    graph = models.workflows()[name]
    (compare,) = (node["inputs"] for node in graph.values() if node["class_type"] == "PentimentoCompare")
    (result,) = (node["inputs"] for node in graph.values() if node["_meta"]["title"] == "Result")
    images = images_of(result["video"], graph) if "video" in result else result["images"]
    assert compare["image_b"] == images
    assert compare["image_a"] != images


def images_of(video, graph):
    """The output that holds a VIDEO output's frames: what the video is made of, or what takes it apart."""
    if graph[video[0]]["class_type"] == "CreateVideo":
        return graph[video[0]]["inputs"]["images"]
    apart = (key for key, node in graph.items() if node["class_type"] == "GetVideoComponents")
    return next([key, 0] for key in apart if graph[key]["inputs"]["video"] == video)


def corners(node):
    (x, y), (width, height) = node["pos"], node["size"]
    footer = 28 if node["properties"].get("models") else 0  # Nodes 2.0 tells of a missing model below the node
    return x, y - 30, x + width, y + height + footer  # the title stands above


def opened(boxes, width=1600, height=1000):
    """The scale at which ComfyUI opens a graph on a screen of this size: the graph takes three quarters of it."""
    left, top, right, bottom = (
        choose(sides) for choose, sides in zip((min, min, max, max), zip(*boxes, strict=True), strict=True)
    )
    return 0.75 * min(width / (right - left), height / (bottom - top))


@pytest.mark.parametrize("name", models.workflows())
def test_a_workflow_opens_at_a_scale_at_which_its_texts_can_be_read(name):
    graph = json.loads((PACK / "workflows" / f"{name}.json").read_text(encoding="utf-8"))
    scale = opened([corners(node) for node in graph["nodes"]])
    assert 14 * scale > 8  # ComfyUI leaves out titles and texts of 14 pixels that are drawn smaller than 8


@pytest.mark.parametrize("name", models.workflows())
def test_nodes_of_a_workflow_do_not_overlap(name):
    graph = json.loads((PACK / "workflows" / f"{name}.json").read_text(encoding="utf-8"))
    boxes = {node["id"]: corners(node) for node in graph["nodes"]}
    overlaps = [
        (first, second)
        for first, a in boxes.items()
        for second, b in boxes.items()
        if first < second and a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
    ]
    assert not overlaps


@pytest.mark.parametrize("name", models.workflows())
def test_nodes_say_where_comfyui_finds_their_missing_models(name, request):
    path = PACK / "workflows" / f"{name}.json"
    embedded = json.loads(path.read_text(encoding="utf-8"))
    models.embed(embedded)
    if request.config.getoption("--update-workflows"):
        path.write_text(json.dumps(embedded, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    assert embedded == json.loads(path.read_text(encoding="utf-8")), "run this test with --update-workflows"


def test_models_of_subgraphs_and_of_several_widgets_are_embedded_and_old_ones_go():
    inner = {"type": "A", "widgets_values": ["big-lama.pt", 1, "ViT-L-14_stats.th"], "properties": {"x": 1}}
    outer = {"type": "B", "widgets_values": ["mine.pt"], "properties": {"models": [{"name": "big-lama.pt"}]}}
    models.embed({"nodes": [outer], "definitions": {"subgraphs": [{"nodes": [inner]}]}})
    assert outer["properties"] == {}
    assert [entry["directory"] for entry in inner["properties"]["models"]] == ["inpaint", "unclip"]
    assert inner["properties"]["x"] == 1


def test_a_model_without_a_checksum_is_not_offered_for_download():
    node = {"type": "A", "widgets_values": ["OSTrack_ep0300.pth.tar", "sttn.pth"], "properties": {}}
    models.embed(node)
    assert [entry["name"] for entry in node["properties"]["models"]] == ["sttn.pth"]


def test_the_photographs_that_the_workflows_load_are_shipped_and_no_others():
    nodes = (node for graph in models.workflows().values() for node in graph.values())
    loaded = {node["inputs"]["image"] for node in nodes if node["class_type"] == "LoadImage"}
    assert loaded == {file.name for file in photographs.FOLDER.glob("*.png")}
