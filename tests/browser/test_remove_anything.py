"""Click and remove, as a user does it: the workflow from the template browser to the picture in the output."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from kit import history
from kit.first_click import place_in_picture, template
from kit.front_end import open_tab, ready, show
from pentimento_host import client

WIDTH, HEIGHT = 600, 400  # of the workflow's photograph

SET_NODES_2 = "(on) => window.app.extensionManager.setting.set('Comfy.VueNodes.Enabled', on)"
TAKE_STANDINS = """() => {
    for (const node of window.app.graph.nodes)
        for (const widget of node.widgets ?? [])
            if (widget.options?.values?.includes?.(`standin-${widget.value}`)) widget.value = `standin-${widget.value}`;
}"""
PICKS = """async () => JSON.parse(Object.values((await window.app.graphToPrompt()).output)
    .find((node) => node.class_type === 'PentimentoPickPoints').inputs.picks)"""


@pytest.fixture(params=[False, True], ids=["classic", "nodes2"])
def page(browser, server, request):
    """A tab of ComfyUI with remove_anything opened from the template browser."""
    with open_tab(browser, server, width=1700) as page:
        page.evaluate(SET_NODES_2, request.param)
        page.get_by_role("button", name="Templates").click()
        page.get_by_role("button", name="pentimento", exact=True).click()
        template(page, "remove_anything").click()
        page.wait_for_function("() => window.app.graph.nodes.some(({ type }) => type === 'PentimentoPickPoints')")
        page.evaluate(TAKE_STANDINS)
        show(page, 1)
        yield page


def screen(page, x, y):
    """Where on the screen the middle of a pixel is."""
    return place_in_picture(page, x, y, WIDTH, HEIGHT)


def queue_from_the_page(page, server):
    """Clicks Run and waits; the run as the server's history tells it."""
    before = history.prompt_ids(server)
    page.get_by_test_id("queue-button").click()
    page.wait_for_function(
        "() => window.app.graph.nodes.find(({ type }) => type === 'SaveImage').imgs?.[0]?.naturalWidth > 0"
        " || document.querySelector('[data-node-id] img[src*=remove_anything]')?.naturalWidth > 0",
        timeout=120_000,
    )
    return history.run_since(server, before)


def picture(server, reference):
    return np.asarray(Image.open(io.BytesIO(client.get(server, "view", **reference))).convert("RGB"))


def test_click_and_it_is_gone(page, server):
    page.get_by_role("button", name="Clear", exact=True).click()
    page.mouse.click(*screen(page, 365, 275))
    page.get_by_role("status").filter(has_text="Mask score").wait_for(timeout=60_000)
    assert page.locator(".pentimento-mask").is_visible()
    page.mouse.click(*screen(page, 405, 95))
    page.mouse.move(*screen(page, 300, 220))
    page.mouse.down()
    page.mouse.move(*screen(page, 430, 340), steps=4)
    page.mouse.up()
    assert page.locator(".pentimento-box").count() == 1
    page.get_by_role("button", name="Undo", exact=True).click()
    assert page.locator(".pentimento-box").count() == 0

    run = queue_from_the_page(page, server)
    assert run["status"]["status_str"] == "success"
    graph = run["prompt"][2]
    (node,) = (node for node in graph.values() if node["class_type"] == "PentimentoPickPoints")
    picks = json.loads(node["inputs"]["picks"])
    points = [{"x": 365, "y": 275}, {"x": 405, "y": 95}]
    assert picks == {"width": WIDTH, "height": HEIGHT, "positive": points, "negative": [], "boxes": []}

    shown = {graph[key]["class_type"]: found["images"][0] for key, found in run["outputs"].items() if "images" in found}
    mask = picture(server, shown["MaskPreview"])[..., 0] > 0
    result = picture(server, shown["SaveImage"])
    photograph = picture(server, {"filename": "pentimento_coffee.png", "type": "input"})
    assert mask.any()
    assert np.array_equal(result[~mask], photograph[~mask])
    assert not np.array_equal(result[mask], photograph[mask])

    page.wait_for_timeout(1500)  # the front end stores its draft a moment after a change
    page.reload()
    ready(page)
    show(page, 1)
    assert page.evaluate(PICKS) == picks
    assert page.locator(".pentimento-point").count() == 2
