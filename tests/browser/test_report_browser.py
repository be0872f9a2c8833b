"""The report of Score Image on the node, in the classic canvas and in Nodes 2.0."""

import pytest

from kit.front_end import LOAD, open_tab

RUN = "() => window.app.queuePrompt(0)"
NODE = "window.app.graph.getNodeById(3)"


@pytest.fixture(scope="module")
def tab(browser, server):
    with open_tab(browser, server) as page:
        yield page


def workflow():
    """A grey picture and a darker one -> Score Image, which is node 3."""
    nodes = [
        {
            "id": 1 + i,
            "type": "EmptyImage",
            "pos": [40, 60 + 260 * i],
            "size": [300, 160],
            "outputs": [{"name": "IMAGE", "type": "IMAGE", "links": [1 + i]}],
            "widgets_values": [32, 32, 1, colour],
        }
        for i, colour in enumerate((0x808080, 0x404040))
    ]
    inputs = [{"name": name, "type": "IMAGE", "link": 1 + i} for i, name in enumerate(("image", "reference"))]
    score = {"id": 3, "type": "PentimentoScoreImage", "pos": [400, 60], "size": [300, 200], "inputs": inputs}
    links = [[1, 1, 0, 3, 0, "IMAGE"], [2, 2, 0, 3, 1, "IMAGE"]]
    return {"nodes": [*nodes, score | {"widgets_values": ["none", "none"]}], "links": links, "version": 0.4}


@pytest.mark.parametrize("nodes2", [False, True], ids=["classic", "nodes2"])
def test_the_report_stays_on_the_node(tab, nodes2):
    tab.evaluate(LOAD, {"graph": workflow(), "nodes2": nodes2})
    tab.evaluate(f"() => window.app.canvas.centerOnNode({NODE})")
    before = tab.evaluate(f"() => {NODE}.serialize().widgets_values")
    tab.evaluate(RUN)
    tab.locator(".pentimento-report").filter(has_text="PSNR 12.01 dB, SSIM").wait_for()
    tab.wait_for_function("() => fetch('/queue').then((r) => r.json()).then((q) => !q.queue_running.length)")
    tab.wait_for_timeout(500)  # the front end takes texts of its own away when the prompt ends
    assert tab.locator(".pentimento-report").is_visible()
    assert tab.evaluate(f"() => {NODE}.serialize().widgets_values") == before
    tab.evaluate(f"() => {NODE}.onExecuted({{ text: ['<b>other</b>'] }})")
    assert tab.locator(".pentimento-report").inner_text() == "<b>other</b>"
    assert tab.locator(".pentimento-report").count() == 1
