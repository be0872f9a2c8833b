"""The prompt of Wildcards on the node and in the saved picture, in the classic canvas and in Nodes 2.0."""

import io
import json
import urllib.parse
import urllib.request

import pytest
from PIL import Image

from kit import history
from kit.front_end import LOAD, open_tab
from pentimento_host import client

RUN = "() => window.app.queuePrompt(0)"
NODE = "window.app.graph.getNodeById(1)"


@pytest.fixture(scope="module")
def tab(browser, server):
    with open_tab(browser, server) as page:
        yield page


def workflow(colour, seed):
    """Wildcards, which is node 1, and beside it a picture that is saved."""
    wildcards = {
        "id": 1,
        "type": "PentimentoWildcards",
        "pos": [40, 60],
        "size": [340, 320],
        "widgets_values": ["{a|b} <b>cat</b>\n# no", seed, "fixed", "cyclical", 100],
    }
    picture = {
        "id": 2,
        "type": "EmptyImage",
        "pos": [420, 60],
        "size": [300, 160],
        "outputs": [{"name": "IMAGE", "type": "IMAGE", "links": [1]}],
        "widgets_values": [32, 32, 1, colour],
    }
    save = {
        "id": 3,
        "type": "SaveImage",
        "pos": [760, 60],
        "size": [300, 300],
        "inputs": [{"name": "images", "type": "IMAGE", "link": 1}],
        "widgets_values": ["pentimento/test_wildcards"],
    }
    return {"nodes": [wildcards, picture, save], "links": [[1, 2, 0, 3, 0, "IMAGE"]], "version": 0.4}


def saved_picture(tab, server):
    """Runs the graph in the tab, and gives the metadata of the picture that the run saved."""
    before = history.prompt_ids(server)
    tab.evaluate(RUN)
    run = history.run_since(server, before)
    (file,) = (picture for output in run["outputs"].values() for picture in output.get("images", []))
    return metadata(server, file)


def metadata(server, file):
    """Of a picture that a run saved."""
    with urllib.request.urlopen(f"{server}/view?{urllib.parse.urlencode(file)}") as answer:
        return Image.open(io.BytesIO(answer.read())).text


@pytest.mark.parametrize("nodes2", [False, True], ids=["classic", "nodes2"])
def test_the_prompt_stands_on_the_node_and_in_every_picture(tab, server, nodes2):
    report = tab.locator(".pentimento-report")
    tab.evaluate(LOAD, {"graph": workflow(100 + nodes2, 1), "nodes2": nodes2})
    assert report.count() == 0
    picture = saved_picture(tab, server)
    report.filter(has_text="b <b>cat</b>").wait_for()
    assert json.loads(picture["pentimento_texts"]) == {"1": "b <b>cat</b>\n"}
    tab.evaluate(f"() => window.app.graph.getNodeById(2).widgets[3].value = {200 + nodes2}")
    again = saved_picture(tab, server)  # ComfyUI has the result of Wildcards, and does not run it
    assert json.loads(again["pentimento_texts"]) == json.loads(picture["pentimento_texts"])
    values = tab.evaluate(f"() => {NODE}.serialize().widgets_values")
    assert values == workflow(0, 1)["nodes"][0]["widgets_values"]

    tab.evaluate(LOAD, {"graph": workflow(1, 0), "nodes2": nodes2})
    assert report.count() == 0
    tab.evaluate(LOAD, {"graph": json.loads(again["workflow"]), "nodes2": nodes2})
    report.filter(has_text="b <b>cat</b>").wait_for()
    assert tab.evaluate(f"() => {NODE}.serialize().widgets_values") == values


def test_a_run_from_the_api_saves_a_text_over_a_link_and_makes_a_picture_of_every_combination(server):
    graph = {
        "1": {"class_type": "PrimitiveString", "inputs": {"value": "pentimento/wild_{a|b}{c|d}"}},
        "2": {"class_type": "PentimentoWildcards", "inputs": {"text": ["1", 0], "seed": 3, "mode": "combinatorial"}},
        "3": {"class_type": "EmptyImage", "inputs": {"width": 16, "height": 16, "batch_size": 1, "color": 0}},
        "4": {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": ["2", 1]}},
        "5": {"class_type": "PreviewAny", "inputs": {"source": ["2", 0]}},
    }
    before = history.prompt_ids(server)
    client.post(server, "prompt", {"prompt": graph, "extra_data": {"extra_pnginfo": {}}})
    run = history.run_since(server, before)
    pictures = run["outputs"]["4"]["images"]
    assert [picture["filename"][:7] for picture in pictures] == ["wild_ac", "wild_ad", "wild_bc", "wild_bd"]
    assert run["outputs"]["5"]["text"] == ["pentimento/wild_bd"]
    (texts,) = {metadata(server, picture)["pentimento_texts"] for picture in pictures}
    assert json.loads(texts)["2"].splitlines()[::3] == ["pentimento/wild_ac", "pentimento/wild_bd"]
