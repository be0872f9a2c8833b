"""Nodes that hold a stand-in say so, in the classic canvas and in Nodes 2.0."""

import json

import pytest

from kit.front_end import LOAD, open_tab
from kit.paths import PACK

BADGE = "stand-in: random weights"
BADGES = """() => window.app.graph.nodes.flatMap((node) => node.badges.map((badge) => badge.text ?? badge().text)
    .filter((text) => text.startsWith('stand-in')).map(() => node.type))"""
CHOOSE = """(name) => {
    const node = window.app.graph.nodes.find(({ type }) => type === 'PentimentoLoadLaMa');
    node.widgets[0].value = name;
    node.widgets[0].callback(name);
}"""


@pytest.fixture(scope="module")
def page(browser, server):
    with open_tab(browser, server) as page:
        yield page


def with_standins(name):
    """A bundled workflow on stand-ins: of the pack's loaders and of ComfyUI's."""
    workflow = json.loads((PACK / "workflows" / f"{name}.json").read_text())
    for node in workflow["nodes"]:
        for model in node.get("properties", {}).get("models", []):
            place = node["widgets_values"].index(model["name"])
            node["widgets_values"][place] = f"standin-{model['name']}"
    return workflow


@pytest.mark.parametrize("nodes2", [False, True], ids=["classic", "nodes2"])
def test_every_node_that_holds_a_stand_in_has_a_badge(page, nodes2):
    page.evaluate(LOAD, {"graph": with_standins("ella_clip_controlnet"), "nodes2": nodes2})
    loaders = ["CheckpointLoaderSimple", "ControlNetLoader", "PentimentoLoadELLA", "PentimentoLoadELLAT5"]
    page.wait_for_function(f"(loaders) => String(({BADGES})().sort()) === String(loaders)", arg=loaders)
    if nodes2:
        page.wait_for_function("(count) => document.body.innerText.split('stand-in: ').length === count + 1", arg=4)


@pytest.mark.parametrize("nodes2", [False, True], ids=["classic", "nodes2"])
def test_the_badge_follows_the_chosen_file(page, nodes2):
    page.evaluate(LOAD, {"graph": with_standins("lama_fill"), "nodes2": nodes2})
    for name, loaders in (("big-lama.pt", []), ("standin-big-lama.pt", ["PentimentoLoadLaMa"])):
        page.evaluate(CHOOSE, name)
        page.wait_for_function(f"(loaders) => String(({BADGES})()) === String(loaders)", arg=loaders)
        if nodes2:
            page.wait_for_function(
                "(shown) => document.body.innerText.includes('stand-in: ') === shown", arg=bool(loaders)
            )
