"""The pack in the Chinese front end, in Chromium: a browser whose language is Chinese, and no setting changed."""

import json

import pytest

from kit.front_end import open_tab
from kit.paths import PACK

OPEN = "(graph) => window.app.loadGraphData(graph)"
TITLES = "() => window.app.graph.nodes.map((node) => node.title)"
NOTE = "() => window.app.graph.nodes.find((node) => node.type === 'MarkdownNote').widgets[0].value"
SAVED = "() => window.app.graph.serialize()"
SELECT = """(type) => {
    window.app.graph.clear();
    const node = LiteGraph.createNode(type);
    window.app.graph.add(node);
    window.app.canvas.selectNode(node);
    window.app.canvas.centerOnNode(node);
}"""
LOADED_PICTURE = """() => {
    const picture = document.querySelector('img[src$="/docs/PentimentoCropToMask.jpg"]');
    return picture?.complete && picture.naturalWidth > 0;
}"""

TUNE_MASK, CROP_TO_MASK = "\u8c03\u6574\u906e\u7f69", "\u6309\u906e\u7f69\u88c1\u526a"
PHOTOGRAPH, RESULT, INPUTS = "\u7167\u7247", "\u7ed3\u679c", "\u8f93\u5165"


@pytest.fixture(scope="module")
def page(browser, server):
    """A tab of a Chinese browser with ComfyUI loaded in it, past the templates that greet a new user."""
    with open_tab(browser, server, locale="zh-CN") as page:
        yield page
        page.evaluate("window.app.extensionManager.setting.set('Comfy.RightSidePanel.IsOpen', false)")  # help opened it


def remove_without_models():
    return json.loads((PACK / "workflows" / "remove_without_models.json").read_text(encoding="utf-8"))


def notes():
    return json.loads((PACK / "locales" / "zh" / "main.json").read_text(encoding="utf-8"))["pentimentoGraphs"]["notes"]


def note_of(graph):
    (note,) = (node for node in graph["nodes"] if node["type"] == "MarkdownNote")
    return note


def test_a_bundled_workflow_opens_in_chinese(page):
    page.evaluate(OPEN, remove_without_models())
    titles = page.evaluate(TITLES)
    assert {PHOTOGRAPH, TUNE_MASK, RESULT} <= set(titles)
    assert [title for title in titles if title.isascii()] == []
    assert page.evaluate(NOTE) == notes()[note_of(remove_without_models())["widgets_values"][0]]


def test_what_a_user_writes_into_a_note_or_a_title_stays(page):
    page.evaluate(OPEN, remove_without_models())
    saved = page.evaluate(SAVED)
    note_of(saved)["widgets_values"] = ["Mine."]
    saved["nodes"][0]["title"] = "Photograph"
    page.evaluate(OPEN, saved)
    assert page.evaluate(NOTE) == "Mine."
    assert "Photograph" in page.evaluate(TITLES)


def test_a_help_page_opens_in_chinese_with_its_picture(page):
    page.evaluate(SELECT, "PentimentoCropToMask")
    page.get_by_test_id("info-button").click()
    page.get_by_role("heading", name=CROP_TO_MASK, exact=True).first.wait_for()
    inputs = page.get_by_role("heading", name=INPUTS, exact=True).first
    page.wait_for_function(LOADED_PICTURE)
    text = inputs.locator("xpath=..").inner_text()
    assert CROP_TO_MASK in text
    assert "**" not in text


def test_the_menu_is_in_chinese(page):
    category = page.evaluate("LiteGraph.registered_node_types.PentimentoTuneMask.category")
    assert category == "Pentimento/\u5206\u5272"
