"""Pick Points with Magic Wand: the live mask without a model. tests/host/test_archive.py goes on to the result."""

import json
import urllib.request

import numpy as np
import pytest
from PIL import Image

from kit.first_click import DISC, HEIGHT, WIDTH, disc, own_picture, place_in_picture, status
from kit.front_end import LOAD, LOOK, READY, SETTLE, open_tab, ready, show
from kit.paths import PACK

MODES = {"classic": False, "nodes2": True}
WORKFLOW = json.loads((PACK / "workflows" / "remove_without_models.json").read_text())
BADGES = [(170, 390), (160, 370), (185, 400), (305, 355), (300, 373)]
(PICKS,) = (node["widgets_values"] for node in WORKFLOW["nodes"] if node["type"] == "PentimentoPickPoints")
PICKS[0] = json.dumps(json.loads(PICKS[0]) | {"positive": [{"x": x, "y": y} for x, y in BADGES]})

PROMPT = "async () => Object.values((await window.app.graphToPrompt()).output)"
WAND = f"async () => (await ({PROMPT})()).find((node) => node.class_type === 'PentimentoMagicWand').inputs"
PICKS = f"async () => (await ({PROMPT})()).find((node) => node.class_type === 'PentimentoPickPoints').inputs.picks"
OPEN_UPLOAD = """() => window.app.graph.nodes.find(({ type }) => type === 'LoadImage')
    .widgets.find(({ name }) => name === 'upload').callback()"""
SET_PICTURE = """(name) => {
    const loader = window.app.graph.nodes.find(({ type }) => type === 'LoadImage');
    loader.widgets.find(({ name }) => name === 'image').value = name;
}"""
SET_WAND = """(tolerance) => {
    const wand = window.app.graph.nodes.find(({ type }) => type === 'PentimentoMagicWand');
    wand.widgets.find(({ name }) => name === 'tolerance').value = tolerance;
    window.app.canvas.setDirty(true, true);
    window.app.canvas.emitBeforeChange();
    window.app.canvas.emitAfterChange();
}"""
GROUP = """(types) => {
    const graph = window.app.graph;
    const { node } = graph.convertToSubgraph(new Set(graph.nodes.filter(({ type }) => types.includes(type))));
    if (types.includes('PentimentoPickPoints')) window.app.canvas.openSubgraph(node.subgraph, node);
}"""
PROMOTE = """() => {
    const node = window.app.graph.nodes.find(({ subgraph }) => subgraph);
    const wand = node.subgraph.nodes.find(({ type }) => type === 'PentimentoMagicWand');
    node.subgraph.addInput('how far', 'FLOAT').connect(wand.inputs.find(({ name }) => name === 'tolerance'), wand);
    return node.widgets.some(({ name }) => name === 'how far');
}"""
TOAST = ".p-toast-message, [data-testid=toast]"  # of front end 1.47 and of 1.58
CUT = """() => [...document.querySelectorAll('.pentimento-picks, .pentimento-picks *')]
    .filter((part) => !part.closest('.pentimento-frame') && getComputedStyle(part).display !== 'inline')
    .filter((part) => part.scrollWidth > part.clientWidth + 1 || part.scrollHeight > part.clientHeight + 1)
    .map((part) => part.className)"""


@pytest.fixture(scope="module")
def tab(browser, server):
    with open_tab(browser, server) as page:
        yield page


@pytest.fixture(params=MODES.values(), ids=MODES)
def page(tab, request):
    """The tab with the workflow and its own photograph."""
    yield from opened(tab, request.param)


@pytest.fixture
def classic(tab):
    yield from opened(tab, False)


def opened(tab, nodes2):
    tab.evaluate(LOAD, {"graph": WORKFLOW, "nodes2": nodes2})
    tab.wait_for_timeout(SETTLE)  # the old workflow's elements go
    show(tab, 1)
    status(tab, "5 points \u00b7 1.4 % selected").wait_for()
    yield tab
    tab.unroute_all()


def at(page, x, y, width=512, height=512):
    """Where on the screen the middle of a pixel is."""
    return place_in_picture(page, x, y, width, height)


def mask_of(request):
    """The mask that the page asked for, asked for again by another client: of one client the newest is answered."""
    body = json.dumps({**request.post_data_json, "client": ""}).encode()
    again = urllib.request.Request(request.url, body, {"Content-Type": "application/json"})
    return np.array(Image.open(urllib.request.urlopen(again)).convert("L")) > 0


def asked(page, hover=False):
    """Waits for a request: of a click or the slider, or of hovering."""

    def wanted(request):
        preview = request.url.endswith("/pentimento/wand/preview")
        return preview and request.post_data_json["client"].endswith("hover") == hover

    return page.expect_request(wanted)


def choose(page, folder, name, picture):
    """Uploads a picture in Load Image, as its button does."""
    picture.save(folder / name)
    with page.expect_file_chooser() as chooser:
        page.evaluate(OPEN_UPLOAD)
    chooser.value.set_files(folder / name)
    page.wait_for_function(f"() => document.querySelector('.pentimento-frame > img').src.includes('{name[:-4]}')")
    show(page, 1)


@pytest.fixture
def uploads(host, tmp_path):
    """A folder for pictures to upload, which are removed from the server's input folder afterwards."""
    yield tmp_path
    for path in tmp_path.iterdir():
        for copy in host.input.glob(f"{path.stem}*"):
            copy.unlink()


def test_in_an_own_picture_one_click_selects_what_hovering_showed(page, uploads):
    choose(page, uploads, "pentimento_own.png", own_picture())
    status(page, "so its picks were cleared").wait_for()
    assert page.evaluate(PICKS) == ""
    place = at(page, *DISC[:2], WIDTH, HEIGHT)
    with asked(page, hover=True) as hover:
        page.mouse.move(*place)
    page.locator(".pentimento-hover").wait_for()
    assert page.locator(".pentimento-mask").is_hidden()
    with asked(page) as click:
        page.mouse.click(*place)
    status(page, "1 point \u00b7 4.8 % selected").wait_for()
    assert np.array_equal(mask_of(click.value), disc())
    assert np.array_equal(mask_of(hover.value), disc())
    assert json.loads(page.evaluate(PICKS))["positive"] == [{"x": DISC[0], "y": DISC[1]}]


def test_undo_brings_back_the_picks_of_another_picture(classic, uploads):
    picks = classic.evaluate(PICKS)
    choose(classic, uploads, "pentimento_another.png", own_picture())
    status(classic, "so its picks were cleared").wait_for()
    classic.get_by_role("button", name="Undo", exact=True).click()
    assert classic.evaluate(PICKS) == picks


def test_picks_stay_on_the_picture_that_the_mask_editor_saves(classic, host):
    painted = host.input / "clipspace" / "pentimento_painted.png"
    painted.parent.mkdir(exist_ok=True)
    own_picture().save(painted)
    try:
        picks = classic.evaluate(PICKS)
        classic.evaluate(SET_PICTURE, "clipspace/pentimento_painted.png [input]")
        classic.wait_for_function("() => document.querySelector('.pentimento-frame > img').naturalWidth === 300")
        assert classic.evaluate(PICKS) == picks
    finally:
        painted.unlink()


def test_hovering_shows_what_a_click_adds_and_what_shift_click_removes(page):
    with asked(page, hover=True) as hover:
        page.mouse.move(*at(page, 120, 60))
    request = hover.value.post_data_json
    picks = json.loads(request["picks"])
    assert picks["positive"][-1] == {"x": 120, "y": 60}
    assert len(picks["positive"]) == 6
    page.locator(".pentimento-hover").wait_for()
    page.keyboard.down("Shift")
    with asked(page, hover=True) as hover:
        page.mouse.move(*at(page, 121, 61))
    page.keyboard.up("Shift")
    assert json.loads(hover.value.post_data_json["picks"])["negative"] == [{"x": 121, "y": 61}]
    assert len(json.loads(page.evaluate(PICKS))["positive"]) == 5
    page.mouse.move(*at(page, 170, 390))  # on a mark
    page.locator(".pentimento-hover").wait_for(state="hidden")


def test_the_slider_and_the_wand_have_one_tolerance(page):
    slider = page.get_by_role("slider", name="Tolerance")
    with asked(page) as request:
        slider.fill("0.1")
    assert request.value.post_data_json["tolerance"] == 0.1
    status(page, "5 points \u00b7 0.1 % selected").wait_for()
    assert page.evaluate(WAND)["tolerance"] == 0.1
    slider.fill("1")
    status(page, "100.0 % selected, nearly the whole picture: lower the tolerance").wait_for()
    page.evaluate(SET_WAND, 0.25)
    status(page, "5 points \u00b7 1.4 % selected").wait_for()
    assert slider.input_value() == "0.25"


def test_the_keyboard_alone_previews_selects_and_sets_the_tolerance(page):
    page.get_by_role("button", name="Clear", exact=True).click()
    page.locator(".pentimento-keys").focus()
    with asked(page, hover=True) as hover:
        page.keyboard.press("Shift+ArrowUp")
    assert json.loads(hover.value.post_data_json["picks"])["positive"] == [{"x": 256, "y": 230}]
    page.locator(".pentimento-hover").wait_for()
    page.keyboard.press("Enter")
    status(page, "1 point \u00b7").wait_for()
    page.locator(".pentimento-hover").wait_for(state="hidden")
    page.keyboard.press("Tab")
    with asked(page) as request:
        page.keyboard.press("ArrowRight")
    assert request.value.post_data_json["tolerance"] == pytest.approx(0.26)
    assert page.evaluate(WAND)["tolerance"] == pytest.approx(0.26)


@pytest.mark.parametrize(
    "inside",
    [
        ["PentimentoMagicWand", "PentimentoTuneMask", "PentimentoFillWithoutModel"],
        ["PentimentoPickPoints", "PentimentoMagicWand"],
        ["PentimentoPickPoints"],
    ],
    ids=["the wand", "both", "Pick Points"],
)
def test_the_wand_is_met_across_the_borders_of_subgraphs(classic, inside):
    classic.evaluate(GROUP, inside)
    show(classic, 1)
    status(classic, "5 points \u00b7 1.4 % selected").wait_for()
    with asked(classic):
        classic.get_by_role("slider", name="Tolerance").fill("0.1")
    status(classic, "0.1 % selected").wait_for()
    assert classic.evaluate(WAND)["tolerance"] == 0.1


def test_a_tolerance_outside_on_the_subgraph_is_the_one_that_the_slider_sets(classic):
    classic.evaluate(GROUP, ["PentimentoMagicWand", "PentimentoTuneMask"])
    assert classic.evaluate(PROMOTE)
    with asked(classic):
        classic.get_by_role("slider", name="Tolerance").fill("0.1")
    status(classic, "0.1 % selected").wait_for()
    assert classic.evaluate(WAND)["tolerance"] == 0.1


def test_an_error_is_whole_in_the_node_and_in_a_toast(page):
    sentence = (
        "The picture could not be read, " + "since a word_without_any_gap is in this sentence and " * 4 + "so on."
    )
    answer = {"status": 400, "json": {"error": sentence}}
    page.route("**/pentimento/wand/preview", lambda route: route.fulfill(**answer))
    page.mouse.click(*at(page, 120, 60))
    status(page, sentence).wait_for()
    toast = page.locator(TOAST).filter(has_text=sentence)
    toast.wait_for()
    assert page.evaluate(CUT) == []
    page.mouse.click(*at(page, 140, 60))
    status(page, f"7 points \u00b7 {sentence}").wait_for()
    assert toast.count() == 1  # once
    toast.get_by_role("button").click()


def test_a_wand_that_takes_another_picture_has_no_live_mask(classic):
    classic.evaluate("""() => {
        const graph = window.app.graph;
        const first = (type) => graph.nodes.find((node) => node.type === type);
        const other = LiteGraph.createNode('ImageInvert');
        graph.add(other);
        first('LoadImage').connect(0, other, 0);
        other.connect(0, first('PentimentoMagicWand'), 0);
    }""")
    status(classic, "No live mask: Magic Wand gets another picture.").wait_for()
    assert classic.locator(".pentimento-mask").is_hidden()


@pytest.mark.parametrize("nodes2", MODES.values(), ids=MODES)
def test_a_narrow_window_shows_the_widget_in_chinese_and_whole(browser, server, nodes2):
    with open_tab(browser, server, 440, 900) as page:
        page.evaluate("() => window.app.extensionManager.setting.set('Comfy.Locale', 'zh')")
        try:
            page.reload()
            ready(page)
            page.evaluate(LOAD, {"graph": WORKFLOW, "nodes2": nodes2})
            page.wait_for_function(READY)
            page.evaluate(LOOK, 0.8)
            status(page, "5 \u4e2a\u70b9 \u00b7 \u5df2\u9009\u4e2d 1.4 %").wait_for()
            assert page.get_by_role("button", name="\u6e05\u9664", exact=True).is_visible()
            assert page.get_by_role("slider", name="\u5bb9\u5dee").is_visible()
            widget = page.locator(".pentimento-picks").bounding_box()
            assert widget["width"] <= 440 - 56  # beside the side bar
            assert page.evaluate(CUT) == []
        finally:
            page.evaluate("() => window.app.extensionManager.setting.set('Comfy.Locale', 'en')")
