"""Workflows in ComfyUI's own form, changed as users change them, become what the page itself would queue."""

import json

import pytest

from kit.front_end import open_tab
from kit.own_form import in_mode, rerouted, with_picture, with_primitive
from kit.paths import PACK
from pentimento_host import client, own_form

TO_API = """async (workflow) => {
    await window.app.loadGraphData(workflow);
    return (await window.app.graphToPrompt()).output;
}"""


@pytest.fixture(scope="module")
def info(server):
    return json.loads(client.get(server, "object_info"))


@pytest.fixture(scope="module")
def page(browser, server):
    with open_tab(browser, server) as page:
        yield page


BLUEPRINTS = sorted(path.stem for path in (PACK / "subgraphs").glob("*.json"))


def workflow(name, folder="workflows"):
    return json.loads((PACK / folder / f"{name}.json").read_text())


def variants():
    form = workflow("instruct_pix2pix")
    for number in [node["id"] for node in form["nodes"] if "Note" not in node["type"]]:
        yield from (in_mode(form, number, mode) for mode in (2, 4))
    form = workflow("instruct_pix2pix_ksampler")
    yield from (rerouted(form, place) for place in range(0, len(form["links"]), 3))
    sampler = next(node["id"] for node in form["nodes"] if node["type"] == "KSampler")
    for name, value in (("seed", 12), ("cfg", 3.5), ("sampler_name", "heun")):
        yield with_primitive(form, sampler, name, value)


def test_muted_bypassed_rerouted_and_fed_by_primitives(page, info):
    for changed in variants():
        assert own_form.to_api(changed, info) == page.evaluate(TO_API, changed)


def blueprints():
    yield from (workflow(name, "subgraphs") for name in BLUEPRINTS)
    form = workflow("Outpaint", "subgraphs")
    (host,) = form["nodes"]
    connected = with_picture(form, host["id"])
    yield connected
    names = [item["name"] for item in host["inputs"] if item.get("widget")]
    values = dict.fromkeys(names, 1) | {"text": "a lake", "negative_text": "", "ckpt_name": "x.safetensors", "cfg": 2.5}
    connected["nodes"][0]["widgets_values"] = [values[name] for name in names]
    yield connected
    yield from (in_mode(connected, host["id"], mode) for mode in (2, 4))
    inside = form["definitions"]["subgraphs"][0]
    for node in inside["nodes"]:
        if "Note" not in node["type"]:
            changed = in_mode(inside, node["id"], 4)
            yield {**connected, "definitions": {"subgraphs": [changed]}}


def test_subgraphs(page, info):
    for changed in blueprints():
        ours, theirs = own_form.to_api(changed, info), page.evaluate(TO_API, changed)
        assert ours == theirs
