"""Pick Points in the real front end: every gesture, in the classic canvas and in Nodes 2.0."""

import io
import json
import urllib.request

import numpy as np
import pytest
from PIL import Image

from kit import sam
from kit.front_end import LOAD, open_tab, ready, show, upload
from kit.pictures import red_spot, turned_file

WIDTH, HEIGHT = 203, 151  # of the test picture, whose pixel (x, y) has the colour (x, y, 0)
MODES = {"classic": False, "nodes2": True}

PICKS = "async () => (await window.app.graphToPrompt()).output[2].inputs.picks"
SAVED = "() => window.app.graph.serialize().nodes.find((node) => node.id === 2).widgets_values"
SET = "(text) => { window.app.graph.getNodeById(2).widgets.find(({ name }) => name === 'picks').value = text }"
SCALE = "() => window.app.canvas.ds.scale"


def numbered():
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return Image.fromarray(np.stack((x, y, 0 * x), -1).astype(np.uint8))


@pytest.fixture(scope="module")
def picture(server):
    """The test picture in the server's temp folder, by the name that Load Image takes."""
    file = io.BytesIO()
    numbered().save(file, "PNG")
    return upload(server, "numbered.png", file.getvalue())


@pytest.fixture(scope="module")
def tab(browser, server):
    """A tab with ComfyUI in it."""
    with open_tab(browser, server) as page:
        yield page


@pytest.fixture(scope="module")
def model(host):
    path = host.models / "sams" / "pentimento-test-browser.safetensors"
    sam.write(path)
    yield path.name
    path.unlink()


def workflow(picture, *between, picks=""):
    """Load Image -> the node types `between` -> Pick Points, which is node 2."""
    chain = ["LoadImage", *between, "PentimentoPickPoints"]
    ids = [1, *range(3, 3 + len(between)), 2]
    links = [[i + 1, ids[i], 0, ids[i + 1], 0, "IMAGE"] for i in range(len(ids) - 1)]
    nodes = [
        {
            "id": ids[i],
            "type": kind,
            "pos": [40 + 420 * i, 60],
            "size": [400, 480],
            "mode": 0,
            "order": i,
            "flags": {},
            "properties": {},
            "inputs": [{"name": "image", "type": "IMAGE", "link": i}] if i else [],
            "outputs": [{"name": "IMAGE", "type": "IMAGE", "links": [i + 1] if i + 1 < len(ids) else []}],
            "widgets_values": {"LoadImage": [picture, "image"], "PentimentoPickPoints": [picks]}.get(kind, []),
        }
        for i, kind in enumerate(chain)
    ]
    nodes[-1]["outputs"] = [
        {"name": name, "type": kind, "links": []}
        for name, kind in [("positive_coords", "STRING"), ("negative_coords", "STRING"), ("bboxes", "BOUNDING_BOX")]
    ]
    return {"nodes": nodes, "links": links, "groups": [], "config": {}, "extra": {}, "version": 0.4}


@pytest.fixture(params=MODES.values(), ids=MODES)
def page(tab, picture, request):
    """The tab with Load Image -> Pick Points and its picture on the screen."""
    tab.evaluate(LOAD, {"graph": workflow(picture), "nodes2": request.param})
    show(tab, 1.25)
    return tab


def picks(page):
    text = page.evaluate(PICKS)
    assert page.evaluate(SAVED) == [text]  # what a saved workflow holds is what is queued
    return json.loads(text) if text else None


def screen(page, x, y):
    """Where on the screen the middle of a pixel is."""
    box = page.locator(".pentimento-frame > img").bounding_box()
    return box["x"] + (x + 0.5) / WIDTH * box["width"], box["y"] + (y + 0.5) / HEIGHT * box["height"]


def click(page, x, y, key=None, **how):
    if key:
        page.keyboard.down(key)
    page.mouse.click(*screen(page, x, y), **how)
    if key:
        page.keyboard.up(key)


def drag(page, start, stop):
    page.mouse.move(*screen(page, *start))
    page.mouse.down()
    page.mouse.move(*screen(page, *stop), steps=3)
    page.mouse.up()


def points(*spots):
    return [{"x": x, "y": y} for x, y in spots]


def box(x, y, width, height):
    return {"x": x, "y": y, "width": width, "height": height}


def expected(positive=(), negative=(), boxes=()):
    sides = {"width": WIDTH, "height": HEIGHT}
    return {**sides, "positive": points(*positive), "negative": points(*negative), "boxes": [box(*b) for b in boxes]}


def test_clicks_and_drags_give_the_pixels_under_the_pointer(page):
    assert page.evaluate(PICKS) == ""
    click(page, 20, 30)
    click(page, 150, 40)
    click(page, 100, 100, key="Shift")
    click(page, 0, 150, button="right")
    drag(page, (60, 50), (120, 90))
    found = expected([(20, 30), (150, 40)], [(100, 100), (0, 150)], [(60, 50, 61, 41)])
    assert picks(page) == found
    assert page.locator(".pentimento-point").count() == 4
    assert page.locator(".pentimento-box").count() == 1
    assert page.get_by_role("status").filter(has_text="4 points, 1 box").count() == 1


@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_a_pixel_has_the_colour_that_the_screen_shows_under_the_pointer(page, scale):
    show(page, scale)
    page.add_style_tag(content=".pentimento-frame > img { image-rendering: pixelated }")
    shot = np.array(Image.open(io.BytesIO(page.screenshot(scale="css"))).convert("RGB")).astype(int)
    frame = page.locator(".pentimento-frame > img").bounding_box()
    slack = 0 if frame["width"] > 3 * WIDTH else WIDTH / frame["width"]  # a screen pixel may show its neighbour
    rng = np.random.default_rng(0)
    seen = []
    for u, v in rng.uniform(0.02, 0.98, (6, 2)):
        x, y = int(frame["x"] + u * frame["width"]), int(frame["y"] + v * frame["height"])
        if not (60 < x < 1150 and 80 < y < 900) or any(abs(x - a) + abs(y - b) < 60 * scale for a, b, *_ in seen):
            continue  # under the front end's own panels, or on a mark
        seen.append((x, y, *shot[y, x, :2]))
        page.mouse.click(x + 0.5, y + 0.5)
    assert len(seen) >= 2
    found = [(point["x"], point["y"]) for point in picks(page)["positive"]]
    assert len(found) == len(seen)
    for (x, y), (*_, red, green) in zip(found, seen, strict=True):
        assert abs(x - red) <= slack
        assert abs(y - green) <= slack


@pytest.mark.parametrize("nodes2", MODES.values(), ids=MODES)
def test_a_screen_of_two_device_pixels_for_one_changes_nothing(browser, server, picture, nodes2):
    with open_tab(browser, server, device_scale_factor=2) as page:
        page.evaluate(LOAD, {"graph": workflow(picture), "nodes2": nodes2})
        show(page, 1.6)
        click(page, 20, 30)
        drag(page, (60, 50), (120, 90))
        assert picks(page) == expected([(20, 30)], boxes=[(60, 50, 61, 41)])


def test_the_corners_are_the_first_and_the_last_pixel(page):
    frame = page.locator(".pentimento-frame > img").bounding_box()
    right, bottom = frame["x"] + frame["width"] - 0.6, frame["y"] + frame["height"] - 0.6
    page.mouse.click(frame["x"] + 0.6, frame["y"] + 0.6)
    page.mouse.click(right, bottom)
    assert picks(page) == expected([(0, 0), (WIDTH - 1, HEIGHT - 1)])
    page.get_by_role("button", name="Clear", exact=True).click()
    page.mouse.move(*screen(page, 100, 100))
    page.mouse.down()
    page.mouse.move(right + 300, bottom + 300, steps=3)  # past the border: the box ends there
    page.mouse.up()
    assert picks(page) == expected(boxes=[(100, 100, WIDTH - 100, HEIGHT - 100)])


def test_marks_are_moved_resized_and_removed(page):
    click(page, 40, 40)
    click(page, 160, 30, key="Shift")
    drag(page, (60, 60), (120, 110))
    drag(page, (40, 40), (47, 35))
    assert picks(page) == expected([(47, 35)], [(160, 30)], [(60, 60, 61, 51)])
    drag(page, (120, 110), (130, 100))  # the box's corner
    assert picks(page) == expected([(47, 35)], [(160, 30)], [(60, 60, 71, 41)])
    drag(page, (90, 60), (95, 70))  # its edge
    assert picks(page) == expected([(47, 35)], [(160, 30)], [(65, 70, 71, 41)])
    click(page, 160, 30, button="right")
    assert picks(page) == expected([(47, 35)], boxes=[(65, 70, 71, 41)])
    click(page, 47, 35)  # chosen, not doubled
    page.keyboard.press("Delete")
    assert picks(page) == expected(boxes=[(65, 70, 71, 41)])
    assert page.evaluate("() => window.app.graph.nodes.length") == 2  # Delete was for the point alone


def test_undo_redo_and_clear(page):
    for x in (20, 80, 140):
        click(page, x, 60)
    page.keyboard.press("Control+z")
    assert picks(page) == expected([(20, 60), (80, 60)])
    page.get_by_role("button", name="Undo", exact=True).click()
    assert picks(page) == expected([(20, 60)])
    page.get_by_role("button", name="Redo", exact=True).click()
    assert picks(page) == expected([(20, 60), (80, 60)])
    click(page, 10, 100)
    assert page.get_by_role("button", name="Redo", exact=True).is_disabled()
    page.keyboard.press("Control+z")
    page.keyboard.press("Control+Shift+z")
    assert picks(page) == expected([(20, 60), (80, 60), (10, 100)])
    page.get_by_role("button", name="Clear", exact=True).click()
    assert picks(page) is None
    page.get_by_role("button", name="Undo", exact=True).click()
    assert picks(page) == expected([(20, 60), (80, 60), (10, 100)])
    assert page.locator(".pentimento-point").count() == 3


def test_the_front_ends_own_undo_takes_back_a_pick(page):
    click(page, 20, 60)
    click(page, 90, 60)
    page.evaluate("() => document.activeElement.blur()")
    page.keyboard.press("Control+z")
    page.wait_for_function(f"async () => JSON.parse(await ({PICKS})() || '{{}}').positive?.length === 1")
    show(page, 1.25)
    assert picks(page) == expected([(20, 60)])
    assert page.locator(".pentimento-point").count() == 1
    click(page, 50, 90)  # the node is a new one now
    assert picks(page) == expected([(20, 60), (50, 90)])


def test_the_keyboard_alone_is_enough(page):
    page.locator(".pentimento-keys").focus()

    def press(*keys):
        for key in keys:
            page.keyboard.press(key)

    press("ArrowRight", "ArrowDown", "ArrowDown", "Enter")
    assert picks(page) == expected([(102, 77)])
    press("Shift+ArrowLeft", "Shift+Enter")
    assert picks(page) == expected([(102, 77)], [(92, 77)])
    press("b", *["ArrowRight"] * 4, *["ArrowDown"] * 2, "b")
    assert picks(page) == expected([(102, 77)], [(92, 77)], [(92, 77, 5, 3)])
    press("n", "ArrowUp", "ArrowUp")  # the first mark
    assert picks(page) == expected([(102, 75)], [(92, 77)], [(92, 77, 5, 3)])
    press("Control+z")  # moves in a row are one step
    assert picks(page) == expected([(102, 77)], [(92, 77)], [(92, 77, 5, 3)])
    press("Escape", "n", "n", "Delete")
    assert picks(page) == expected([(102, 77)], boxes=[(92, 77, 5, 3)])
    press(*["Shift+ArrowUp"] * 9, *["Shift+ArrowLeft"] * 11, "Enter")
    assert picks(page)["positive"][-1] == {"x": 0, "y": 0}
    press("Tab")
    assert page.evaluate("() => document.activeElement.textContent") == "Undo"


def test_a_value_from_outside_is_drawn_and_rescaled(page):
    sides = {"width": 2 * WIDTH, "height": 2 * HEIGHT}
    text = json.dumps({**sides, "positive": points((41, 80)), "boxes": [box(0, 0, 50, 60)]})
    page.evaluate(SET, text)
    assert page.evaluate(PICKS) == text  # as it came, until the next pick
    mark = page.locator(".pentimento-point").bounding_box()
    middle = mark["x"] + mark["width"] / 2, mark["y"] + mark["height"] / 2
    assert middle == pytest.approx(screen(page, 20, 40), abs=0.6)
    click(page, 100, 100)
    assert picks(page) == expected([(20, 40), (100, 100)], boxes=[(0, 0, 25, 30)])
    page.evaluate(SET, '{"positive": [{"x": "left"}]}')
    assert page.get_by_text("could not be read").count() == 1
    click(page, 100, 100)
    assert picks(page) == expected([(100, 100)])


def test_a_reload_keeps_the_picks(page):
    click(page, 20, 60)
    drag(page, (60, 60), (120, 110))
    page.wait_for_timeout(1500)  # the front end stores its draft a moment after a change
    page.reload()
    ready(page)
    show(page, 1.25)
    assert picks(page) == expected([(20, 60)], boxes=[(60, 60, 61, 51)])
    assert page.locator(".pentimento-point").count() == 1


def test_a_picture_from_another_node_is_shown_after_a_run(page, picture):
    graph = workflow(picture, "ImageInvert", picks=json.dumps(expected([(20, 60)])))
    page.evaluate("(graph) => window.app.loadGraphData(graph)", graph)
    page.get_by_text("Run this node once to see its picture.").wait_for()
    page.evaluate("() => window.app.queuePrompt(0)")
    show(page, 1.25)
    box = page.locator(".pentimento-frame > img").bounding_box()
    shot = np.array(Image.open(io.BytesIO(page.screenshot(scale="css"))).convert("RGB")).astype(int)
    red, green, blue = shot[int(box["y"] + box["height"] / 4), int(box["x"] + box["width"] / 2)]
    assert (red, green, blue) == pytest.approx((255 - WIDTH / 2, 255 - HEIGHT / 4, 255), abs=3)
    click(page, 150, 100, key="Shift")
    assert picks(page) == expected([(20, 60)], [(150, 100)])


@pytest.mark.parametrize(("nodes2", "orientations"), [(False, range(1, 9)), (True, (2, 7))], ids=MODES)
def test_a_click_on_a_turned_or_mirrored_photograph_is_the_pixel_that_the_node_gets(
    tab, server, tmp_path, monkeypatch, nodes2, orientations
):
    import folder_paths

    from nodes import LoadImage

    monkeypatch.setattr(folder_paths, "input_directory", str(tmp_path))
    for orientation in orientations:
        name, content = f"turned_{orientation}.jpg", turned_file(orientation)
        (tmp_path / name).write_bytes(content)
        tensor = LoadImage().load_image(name)[0][0]
        graph = workflow(upload(server, name, content))
        tab.evaluate(LOAD, {"graph": graph, "nodes2": nodes2})
        tab.wait_for_function(f"() => document.querySelector('.pentimento-frame > img')?.src.includes('{name}')")
        show(tab, 1.25)
        frame = tab.locator(".pentimento-frame > img").bounding_box()
        shot = Image.open(io.BytesIO(tab.screenshot(scale="css"))).convert("RGB")
        x, y = red_spot(shot.crop((frame["x"], frame["y"], frame["x"] + frame["width"], frame["y"] + frame["height"])))
        tab.mouse.click(frame["x"] + x, frame["y"] + y)
        text = json.loads(tab.evaluate(PICKS))
        assert (text["height"], text["width"]) == tensor.shape[:2]
        (point,) = text["positive"]
        assert (point["x"], point["y"]) == pytest.approx(red_spot(tensor * 255), abs=2)


def test_an_open_properties_panel_changes_nothing(page):
    toggle = page.get_by_role("button", name="Toggle properties panel")
    toggle.click()
    show(page, 1.25)
    before = page.locator(".pentimento-frame > img").bounding_box()
    click(page, 20, 60)
    click(page, 150, 100)
    page.wait_for_timeout(500)  # the panel shows the node that was clicked
    after = page.locator(".pentimento-frame > img").bounding_box()
    toggle.click()
    assert picks(page) == expected([(20, 60), (150, 100)])
    assert after["width"] == pytest.approx(before["width"], abs=1)


def test_the_wheel_zooms_the_canvas_once(page):
    spot = page.locator(".pentimento-keys").bounding_box()
    page.mouse.move(spot["x"] + 50, spot["y"] + 50)
    before = page.evaluate(SCALE)
    page.mouse.wheel(0, -100)
    page.wait_for_timeout(300)
    over = page.evaluate(SCALE) / before
    page.mouse.move(80, 900)
    before = page.evaluate(SCALE)
    page.mouse.wheel(0, -100)
    page.wait_for_timeout(300)
    assert over == pytest.approx(page.evaluate(SCALE) / before, rel=1e-3)
    assert over > 1


def segmented(picture, model):
    """The workflow with Load SAM, 11, and SAM Segment, 12, after Pick Points."""
    graph = workflow(picture)
    wires = [(2, 0, "positive_coords", "STRING"), (2, 1, "negative_coords", "STRING"), (2, 2, "bboxes", "BOUNDING_BOX")]
    wires += [(1, 0, "image", "IMAGE"), (11, 0, "sam", "PENTIMENTO_SAM")]
    shared = {"size": [260, 100], "mode": 0, "flags": {}, "properties": {}}
    load = {"id": 11, "type": "PentimentoLoadSAM", "pos": [40, 600], "order": 2, "inputs": [], **shared}
    load |= {"outputs": [{"name": "sam", "type": "PENTIMENTO_SAM", "links": [104]}], "widgets_values": [model, "fp32"]}
    segment = {"id": 12, "type": "PentimentoSAMSegment", "pos": [900, 60], "order": 3, "outputs": [], **shared}
    segment |= {"inputs": [], "widgets_values": ["auto", 0, "", ""]}
    graph["nodes"] += [load, segment]
    for i, (source, slot, name, kind) in enumerate(wires):
        link = {"name": name, "type": kind, "link": 100 + i} | ({"widget": {"name": name}} if kind == "STRING" else {})
        segment["inputs"].append(link)
        graph["links"].append([100 + i, source, slot, 12, i, kind])
        outputs = next(node for node in graph["nodes"] if node["id"] == source)["outputs"]
        outputs[slot]["links"] = sorted({*outputs[slot]["links"], 100 + i})
    return graph


@pytest.fixture
def live(page, picture, model):
    """The tab with a graph whose picks go to a SAM."""
    page.evaluate("(graph) => window.app.loadGraphData(graph)", segmented(picture, model))
    page.wait_for_timeout(300)
    show(page, 1.0)
    yield page
    page.unroute_all()


def seen(page):
    shot = Image.open(io.BytesIO(page.locator(".pentimento-frame").screenshot(scale="css"))).convert("RGB")
    return np.array(shot.resize((WIDTH, HEIGHT), Image.Resampling.BOX)).astype(int)


def mask_of(request):
    """The mask that the page asked for, asked for again by another client: of one client the newest is answered."""
    body = json.dumps({**request.post_data_json, "client": ""}).encode()
    again = urllib.request.Request(request.url, body, {"Content-Type": "application/json"})
    return np.array(Image.open(urllib.request.urlopen(again)).convert("L")) > 0


def asked(page, hover=None):
    """Waits for a request: of a click, or of hovering with these positive points."""

    def wanted(request):
        if not request.url.endswith("/pentimento/sam/preview"):
            return False
        positive = json.loads(request.post_data_json["picks"])["positive"]
        return positive == hover if "hover" in request.post_data_json else hover is None

    return page.expect_request(wanted)


def test_the_mask_appears_as_the_user_clicks(live):
    before = seen(live)
    with asked(live) as first:
        click(live, 120, 70)
        live.get_by_role("status").filter(has_text="1 point \u00b7 Encoding the picture").wait_for()
    live.get_by_role("status").filter(has_text="Mask score").wait_for()
    mask = mask_of(first.value)
    assert mask.shape == (HEIGHT, WIDTH)
    assert 0.02 < mask.mean() < 0.98
    live.wait_for_timeout(200)
    blue = (seen(live) - before)[..., 2]
    assert blue[mask].mean() > 90  # the picture has no blue
    assert blue[~mask].mean() < 0.6 * blue[mask].mean()  # a light rim reaches out
    with asked(live) as second:
        click(live, 30, 120, key="Shift")
    assert np.any(mask_of(second.value) != mask)
    live.get_by_role("status").filter(has_text="Mask score").wait_for()
    with asked(live, hover=points((120, 70), (60, 40))):
        live.mouse.move(*screen(live, 60, 40))
    live.locator(".pentimento-hover").wait_for()
    live.get_by_role("button", name="Clear", exact=True).click()
    assert live.locator(".pentimento-hover").is_hidden()
    assert live.locator(".pentimento-mask").is_hidden()


def test_a_busy_queue_is_waited_for(live):
    answers = [{"status": 409, "json": {"error": "The live mask waits until the queue is empty."}}]
    live.route(
        "**/pentimento/sam/preview", lambda route: route.fulfill(**answers.pop()) if answers else route.continue_()
    )
    click(live, 120, 70)
    live.get_by_role("status").filter(has_text="waits until the queue is empty").wait_for()
    assert live.locator(".pentimento-mask").is_hidden()
    live.evaluate("() => window.app.queuePrompt(0)")
    live.get_by_role("status").filter(has_text="Mask score").wait_for()


def test_a_failure_is_a_sentence_without_a_dialog(live):
    dialogs = []
    live.on("dialog", lambda dialog: (dialogs.append(dialog), dialog.dismiss()))
    live.evaluate("() => { window.app.graph.getNodeById(11).widgets[0].value = 'missing.pth' }")
    click(live, 120, 70)
    live.get_by_role("status").filter(has_text="There is no file 'missing.pth' in models/sams.").wait_for()
    assert picks(live) == expected([(120, 70)])
    assert not dialogs
