"""Compare in the real front end, in the classic canvas and in Nodes 2.0."""

import io

import numpy as np
import pytest
from PIL import Image

from kit.front_end import LOAD, SETTLE, open_tab, ready, speak

MODES = {"classic": False, "nodes2": True}
RED, BLUE = (200, 40, 40), (40, 40, 160)

RUN = """async () => {
    window.app.canvas.centerOnNode(window.app.graph.getNodeById(9));
    await window.app.queuePrompt(0);
}"""
SHOWN = "() => document.querySelector('.pentimento-compare-frame:not([hidden])')"
SAVED = "() => window.app.graph.serialize().nodes.find(({ id }) => id === 9).widgets_values"
COUNT_WHAT_STAYS = """() => {
    window.stays = 0;
    for (const target of [window, document, window.comfyAPI.api.api]) {
        const { addEventListener, removeEventListener } = target;
        target.addEventListener = (type, ...rest) => {
            if (new Error().stack.includes('/pentimento/')) window.stays++;
            return addEventListener.call(target, type, ...rest);
        };
    }
    for (const timer of ['setInterval', 'setTimeout', 'requestAnimationFrame']) {
        const start = window[timer];
        window[timer] = (...rest) => {
            if (new Error().stack.includes('/pentimento/')) window.stays++;
            return start.call(window, ...rest);
        };
    }
}"""


@pytest.fixture(scope="module")
def tab(browser, server):
    """A tab with ComfyUI in it."""
    with open_tab(browser, server, reduced_motion="reduce") as page:
        yield page


def colour(rgb):
    red, green, blue = rgb
    return 65536 * red + 256 * green + blue


def workflow(*pictures, mode="slider"):
    """Flat pictures (width, height, batch, colour) -> Compare, which is node 9."""
    nodes = [
        {
            "id": 1 + i,
            "type": "EmptyImage",
            "pos": [40, 60 + 260 * i],
            "size": [300, 160],
            "outputs": [{"name": "IMAGE", "type": "IMAGE", "links": [1 + i]}],
            "widgets_values": [*picture[:3], colour(picture[3])],
        }
        for i, picture in enumerate(pictures)
    ]
    inputs = [
        {"name": f"image_{name}", "type": "IMAGE", "link": 1 + i if i < len(pictures) else None}
        for i, name in enumerate("ab")
    ]
    compare = {"id": 9, "type": "PentimentoCompare", "pos": [400, 60], "size": [460, 460], "inputs": inputs}
    nodes.append(compare | {"outputs": [], "widgets_values": [mode]})
    for order, node in enumerate(nodes):
        node.update(mode=0, order=order, flags={}, properties={})
        node.setdefault("inputs", [])
    links = [[1 + i, 1 + i, 0, 9, i, "IMAGE"] for i in range(len(pictures))]
    return {"nodes": nodes, "links": links, "groups": [], "config": {}, "extra": {}, "version": 0.4}


def compare(tab, nodes2, *pictures, **settings):
    """Runs a comparison; the tab with the pictures on the screen."""
    tab.evaluate(LOAD, {"graph": workflow(*pictures, **settings), "nodes2": nodes2})
    tab.evaluate(RUN)
    tab.wait_for_function(SHOWN, timeout=60_000)
    tab.wait_for_timeout(SETTLE)
    return tab


@pytest.fixture(params=MODES.values(), ids=MODES)
def page(tab, request):
    """The tab with a red picture and a blue one of twice the size in Compare."""
    return compare(tab, request.param, (120, 80, 1, RED), (240, 160, 1, BLUE))


def area(page):
    return page.locator(".pentimento-compare-frame").bounding_box()


def seen(page, *places):
    """The colours at these places of the pictures: (x, y) from 0 to 1."""
    page.mouse.move(5, 500)
    page.wait_for_timeout(SETTLE)
    shot = np.array(Image.open(io.BytesIO(page.screenshot(scale="css"))).convert("RGB")).astype(int)
    box = area(page)
    return [tuple(shot[int(box["y"] + y * box["height"]), int(box["x"] + x * box["width"])]) for x, y in places]


def focus(page):
    page.locator(".pentimento-compare-keys").focus()


def press(page, *keys):
    for key in keys:
        page.keyboard.press(key)


def at(page):
    return float(page.locator(".pentimento-compare-keys").evaluate("({ value }) => value"))


def button(page, name):
    return page.locator(".pentimento-compare").get_by_role("button", name=name)


def test_the_slider_follows_the_pointer(page):
    assert seen(page, (0.25, 0.3), (0.75, 0.3)) == [RED, BLUE]
    box = area(page)
    assert box["width"] / box["height"] == pytest.approx(1.5, rel=0.01)
    page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 0.6 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.9 * box["width"], box["y"] + 0.6 * box["height"], steps=4)
    page.mouse.up()
    assert at(page) == pytest.approx(90, abs=0.5)
    assert seen(page, (0.85, 0.3), (0.95, 0.3)) == [RED, BLUE]
    page.mouse.click(box["x"] + 0.1 * box["width"], box["y"] + 0.6 * box["height"])
    assert seen(page, (0.05, 0.3), (0.15, 0.3)) == [RED, BLUE]
    assert page.evaluate("() => window.app.graph.getNodeById(9).pos[0]") == 400  # the node stays


def test_the_keyboard_alone_is_enough(page):
    focus(page)
    press(page, *["Shift+ArrowRight"] * 3, "ArrowLeft")
    assert at(page) == 79
    assert seen(page, (0.77, 0.3), (0.81, 0.3)) == [RED, BLUE]
    press(page, "Home")
    assert seen(page, (0.02, 0.3)) == [BLUE]
    press(page, "End")
    assert seen(page, (0.98, 0.3)) == [RED]
    press(page, "2")
    assert seen(page, (0.25, 0.6), (0.75, 0.6)) == [RED, BLUE]
    press(page, "3")
    press(page, "ArrowRight")
    assert seen(page, (0.25, 0.5), (0.75, 0.5)) == [BLUE, BLUE]
    press(page, "ArrowLeft")
    assert seen(page, (0.25, 0.5), (0.75, 0.5)) == [RED, RED]
    press(page, "4")
    assert seen(page, (0.25, 0.5)) == [(160, 0, 120)]
    press(page, "ArrowRight")
    assert seen(page, (0.25, 0.5)) == [(255, 0, 255)]  # four times that
    assert page.evaluate(SAVED) == ["difference"]
    press(page, "Delete")
    assert page.evaluate("() => window.app.graph.nodes.length") == 3
    press(page, "Tab")
    assert page.evaluate("() => document.activeElement.textContent") == "Slider"
    press(page, "Enter")
    assert page.evaluate(SAVED) == ["slider"]


def test_the_focus_is_visible(page):
    focus(page)
    press(page, "Home")
    (border,) = seen(page, (0.5, 0.002))
    assert border[2] > 200  # neither picture is as blue


def test_buttons_choose_the_mode_and_the_workflow_saves_it(page):
    button(page, "Side by side").click()
    assert page.evaluate(SAVED) == ["side"]
    assert button(page, "Side by side").get_attribute("aria-pressed") == "true"
    assert area(page)["width"] / area(page)["height"] == pytest.approx(3, rel=0.02)
    output = page.evaluate("async () => (await window.app.graphToPrompt()).output[9]")
    assert output["inputs"] == {"image_a": ["1", 0], "image_b": ["2", 0]}  # nothing of the widget
    button(page, "Blink").click()
    pane = page.locator('.pentimento-compare-pane[data-of="a"]')
    assert pane.evaluate("(pane) => getComputedStyle(pane).animationName") == "pentimento-blink"


@pytest.mark.parametrize("nodes2", MODES.values(), ids=MODES)
def test_a_batch_is_stepped_through(tab, nodes2):
    page = compare(tab, nodes2, (60, 40, 3, RED), (60, 40, 1, BLUE))
    assert page.get_by_text("1 / 3").is_visible()
    focus(page)
    press(page, "PageDown", "PageDown", "PageDown")
    assert page.get_by_text("3 / 3").is_visible()
    assert seen(page, (0.25, 0.3), (0.75, 0.3)) == [RED, BLUE]
    button(page, "\u2039").click()
    assert page.get_by_text("2 / 3").is_visible()


def test_other_shapes_are_not_stretched(tab):
    page = compare(tab, False, (80, 80, 1, RED), (160, 80, 1, BLUE), mode="blink")
    focus(page)
    press(page, "ArrowLeft")
    left, middle = seen(page, (0.1, 0.5), (0.5, 0.5))
    assert middle == RED
    assert left != RED


def test_one_picture_alone(tab):
    page = compare(tab, True, (120, 80, 1, RED))
    assert seen(page, (0.25, 0.3), (0.75, 0.3)) == [RED, RED]
    assert button(page, "Blink").is_disabled()


def test_zoom_enlarges_the_part_under_the_pointer(page):
    focus(page)
    press(page, "+", "+")
    assert button(page, "Zoom").text_content() == "Zoom \u00d74"
    box = area(page)
    page.mouse.move(box["x"] + 0.25 * box["width"], box["y"] + 0.5 * box["height"])
    image = page.locator('.pentimento-compare-pane[data-of="b"] > img').bounding_box()
    assert image["width"] == pytest.approx(4 * box["width"], rel=0.01)
    assert image["x"] == pytest.approx(box["x"] - 0.75 * box["width"], abs=3)


def test_a_reload_keeps_the_pictures_and_a_new_server_says_so(page):
    button(page, "Side by side").click()
    page.wait_for_timeout(1500)  # the front end stores its draft a moment after a change
    page.reload()
    ready(page)
    page.wait_for_function(SHOWN)
    assert page.evaluate(SAVED) == ["side"]
    page.route("**/view?filename=pentimento_*", lambda route: route.fulfill(status=404))
    page.reload()
    ready(page)
    page.get_by_text("Run the workflow to compare the pictures.").wait_for()
    page.unroute_all()


def test_the_front_ends_undo_keeps_the_pictures(page):
    button(page, "Side by side").click()
    page.evaluate("() => document.activeElement.blur()")
    press(page, "Control+z")
    page.wait_for_function(f"() => ({SAVED})()[0] === 'slider'")
    page.wait_for_function(SHOWN)
    page.evaluate("() => window.app.canvas.centerOnNode(window.app.graph.getNodeById(9))")
    assert seen(page, (0.25, 0.3), (0.75, 0.3)) == [RED, BLUE]
    button(page, "Difference").click()  # the node is a new one now
    assert page.evaluate(SAVED) == ["difference"]


def test_nothing_stays_when_the_node_is_removed(page):
    page.evaluate(COUNT_WHAT_STAYS)
    page.evaluate("(graph) => window.app.loadGraphData(graph)", workflow((60, 40, 1, RED), (60, 40, 1, BLUE)))
    page.evaluate(RUN)
    page.wait_for_function(SHOWN)
    button(page, "Blink").click()
    page.evaluate("() => window.app.graph.remove(window.app.graph.getNodeById(9))")
    page.wait_for_function("() => !document.querySelector('.pentimento-compare')")
    assert page.evaluate("() => window.stays") == 0  # the tab goes on counting, which no other test reads


def test_in_a_subgraph(page):
    page.evaluate("""() => {
        const { graph } = window.app;
        window.app.canvas.setGraph(graph.convertToSubgraph(new Set([graph.getNodeById(9)])).subgraph);
    }""")
    page.evaluate("() => window.app.queuePrompt(0)")
    page.wait_for_function(SHOWN)
    page.evaluate("() => window.app.canvas.centerOnNode(window.app.canvas.graph.nodes[0])")
    assert seen(page, (0.25, 0.3), (0.75, 0.3)) == [RED, BLUE]


def test_in_chinese(tab, server):
    page = compare(tab, False, (60, 40, 1, RED), (60, 40, 1, BLUE))
    page.wait_for_timeout(1500)  # the front end stores its draft a moment after a change
    speak(server, "zh")
    try:
        page.reload()
        ready(page)
        page.wait_for_function(SHOWN)
        assert button(page, "\u5dee\u5f02").is_visible()
    finally:
        speak(server, "en")
