"""The prompts of Wildcards in the metadata of a run, when it is queued and when it runs."""

import copy
from types import SimpleNamespace

import pytest

from kit.wildcards import put
from pentimento.model_patchers.comfyui import saved_text
from pentimento.model_patchers.prompt import wildcards as choosing
from pentimento.nodes.prompt.wildcards import Wildcards
from pentimento.routes import wildcards


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    put(tmp_path, {"a.txt": "red"})
    monkeypatch.setattr(choosing, "folders", lambda: [tmp_path])


def node(text="{a|b} __a__", seed=3, mode="cyclical", **values):
    return {"class_type": "PentimentoWildcards", "inputs": {"text": text, "seed": seed, "mode": mode, **values}}


def workflow():
    """Wildcards as node 1, and as node 5 of a subgraph in a subgraph, as nodes 2 and 7."""
    inner = {"id": "inner", "nodes": [{"id": 5, "type": "PentimentoWildcards"}]}
    outer = {"id": "outer", "nodes": [{"id": 7, "type": "inner", "properties": {}}]}
    nodes = [{"id": 1, "type": "PentimentoWildcards", "properties": {"x": 1}}, {"id": 2, "type": "outer"}]
    return {"nodes": nodes, "definitions": {"subgraphs": [inner, outer]}}


def test_a_queued_run_carries_the_prompts():
    extra = {"workflow": workflow()}
    request = {"prompt": {"1": node(), "2:7:5": node(mode="random"), "3": {"class_type": "KSampler", "inputs": {}}}}
    assert wildcards.save_prompts(request | {"extra_data": {"extra_pnginfo": extra}})["prompt"] == request["prompt"]
    assert extra["pentimento_texts"] == {"1": "b red", "2:7:5": choosing.prompts("{a|b} red", 3, "random", None, 1)[0]}
    saved = extra["workflow"]
    assert saved["nodes"][0]["properties"] == {"x": 1, "pentimento_text": "b red"}
    properties = saved["definitions"]["subgraphs"][0]["nodes"][0]["properties"]
    assert properties == {"pentimento_text": extra["pentimento_texts"]["2:7:5"]}


@pytest.mark.parametrize("extra", [None, {}, {"extra_pnginfo": None}, {"extra_pnginfo": {}}])
def test_a_run_from_the_api_carries_them_too(extra):
    request = {"prompt": {"1": node("{a|b}", 1, "combinatorial", limit=5000)}}
    request |= {} if extra is None else {"extra_data": extra}
    assert wildcards.save_prompts(request)["extra_data"]["extra_pnginfo"]["pentimento_texts"] == {"1": "a\nb"}


@pytest.mark.parametrize(
    "bad", [node(["4", 0]), node("{a"), node("__b__"), node(seed="x"), node(1), {"class_type": "PentimentoWildcards"}]
)
def test_what_is_linked_or_wrong_leaves_the_request_as_it_is(bad):
    request = {"prompt": {"1": bad}, "extra_data": {"extra_pnginfo": {"workflow": workflow()}}}
    before = copy.deepcopy(request)
    assert wildcards.save_prompts(request) is request
    assert request == before
    assert wildcards.save_prompts({}) == {}


def test_a_text_over_a_link_is_saved_when_the_node_runs():
    extra = {"workflow": workflow(), "pentimento_texts": {"8": "other"}}

    class Run(Wildcards):
        hidden = SimpleNamespace(extra_pnginfo=extra, unique_id="1")

    assert Run.execute("{a|b}", 1, "cyclical").ui["text"] == ["b"]
    assert extra["pentimento_texts"] == {"8": "other", "1": "b"}
    assert extra["workflow"]["nodes"][0]["properties"]["pentimento_text"] == "b"


@pytest.mark.parametrize("workflow", [None, {}, {"nodes": [{"id": 2, "type": "KSampler"}]}])
def test_a_graph_without_the_node_gets_the_entry_alone(workflow):
    extra = {} if workflow is None else {"workflow": copy.deepcopy(workflow)}
    saved_text.save(extra, "1:3", "a cat")
    assert extra == {"pentimento_texts": {"1:3": "a cat"}} | ({} if workflow is None else {"workflow": workflow})
