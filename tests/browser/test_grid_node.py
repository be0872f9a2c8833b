"""Infinite Grid in the real front end: form, buttons and progress, in the classic canvas and in Nodes 2.0."""

import itertools
import json
import re
import urllib.parse
import uuid

import pytest

from kit import history
from kit.front_end import LOAD, open_tab, ready, speak
from pentimento_host import client

MODES = {"classic": False, "nodes2": True}
NODE, INPUT, VALUES = "Node", "Input", "Values"
XSS = '<img src=x onerror="window.attacked=1">'
TEXT = "() => window.app.graph.nodes.find(({ type }) => type === 'PentimentoGrid').widgets[0].value"
SERIALIZED = "() => window.app.graph.serialize()"
MORE = "(before) => parseInt(document.querySelector('.pentimento-grid-say').innerText) > before + 5"
IMPORT = "import('/extensions/pentimento/lib/grid_text.js')"

PLAIN = {
    "nodes": [
        {"id": 1, "type": "EmptyImage", "title": "Picture", "pos": [20, 60], "widgets_values": [8, 8, 1, 0]},
        {"id": 2, "type": "ImageScale", "pos": [20, 300], "widgets_values": ["nearest-exact", 4, 4, "disabled"]},
        {"id": 3, "type": "SaveImage", "pos": [20, 520], "widgets_values": ["grid"]},
        {"id": 4, "type": "PentimentoGrid", "pos": [400, 60], "size": [420, 560], "widgets_values": [""]},
        {"id": 5, "type": "PreviewAny", "title": "Note", "pos": [20, 640]},
        {"id": 6, "type": "PrimitiveStringMultiline", "title": "Words", "pos": [880, 60], "widgets_values": ["a cat"]},
    ],
    "links": [[1, 1, 0, 2, 0, "IMAGE"], [2, 2, 0, 3, 0, "IMAGE"], [3, 6, 0, 5, 0, "STRING"]],
    "groups": [],
    "config": {},
    "extra": {},
    "version": 0.4,
}
SOCKETS = {
    1: ([], [("IMAGE", "IMAGE", [1])]),
    2: ([("image", "IMAGE", 1)], [("IMAGE", "IMAGE", [2])]),
    3: ([("images", "IMAGE", 2)], []),
    4: ([], []),
    5: ([("source", "*", 3)], []),
    6: ([], [("STRING", "STRING", [3])]),
}

# Picture -> Reroute -> a bypassed node -> a subgraph with Scale -> Result; a primitive node sets the picture's width
BUILD = """async () => {
    const { graph } = window.app;
    graph.clear();
    const add = (type, title) => {
        const node = LiteGraph.createNode(type);
        if (title) node.title = title;
        graph.add(node);
        return node;
    };
    const picture = add('EmptyImage', 'Picture'), reroute = add('Reroute'), invert = add('ImageInvert');
    const scale = add('ImageScale', 'Scale'), result = add('SaveImage', 'Result'), grid = add('PentimentoGrid');
    const width = add('PrimitiveNode', 'Width');
    for (const name of ['width', 'height']) {
        picture.widgets.find((widget) => widget.name === name).value = 8;
        scale.widgets.find((widget) => widget.name === name).value = 4;
    }
    picture.connect(0, reroute, 0);
    reroute.connect(0, invert, 0);
    invert.mode = 4;
    invert.connect(0, scale, 0);
    scale.connect(0, result, 0);
    width.connect(0, picture, picture.inputs.findIndex(({ name }) => name === 'width'));
    graph.convertToSubgraph(new Set([scale]));
    window.set = (width_, colour, method) => {
        width.widgets[0].value = width_;
        picture.widgets.find(({ name }) => name === 'color').value = colour;
        scale_().widgets.find(({ name }) => name === 'upscale_method').value = method;
    };
    const scale_ = () => graph.nodes.find((node) => node.subgraph).subgraph.nodes[0];
}"""


def plain(text=""):
    """A small picture, scaled and saved, and a grid with this text."""
    graph = json.loads(json.dumps(PLAIN)) | {"id": str(uuid.uuid4())}  # by which the server knows the grid
    for order, node in enumerate(graph["nodes"]):
        inputs, outputs = SOCKETS[node["id"]]
        node.update(mode=0, order=order, flags={}, properties={}, size=node.get("size", [300, 120]))
        node["inputs"] = [{"name": name, "type": kind, "link": link} for name, kind, link in inputs]
        node["outputs"] = [{"name": name, "type": kind, "links": links} for name, kind, links in outputs]
    graph["nodes"][3]["widgets_values"] = [text]
    return graph


@pytest.fixture(scope="module")
def tab(browser, server):
    """A tab with ComfyUI in it."""
    with open_tab(browser, server) as page:
        yield page


@pytest.fixture(params=MODES.values(), ids=MODES)
def nodes2(request):
    return request.param


def load(page, nodes2, graph):
    page.evaluate(LOAD, {"graph": graph, "nodes2": nodes2})
    page.evaluate("() => { window.app.canvas.ds.scale = 1; window.app.canvas.ds.offset = [80, 60]; }")
    page.evaluate("() => window.app.canvas.setDirty(true, true)")
    widget(page).wait_for()
    return page


def widget(page):
    return page.locator(".pentimento-grid")


def press(page, name):
    widget(page).get_by_role("button", name=name, exact=True).click()


def choose(page, node, name):
    """Chooses a node and an input in the form."""
    nodes = widget(page).get_by_label(NODE, exact=True)
    nodes.focus()
    page.wait_for_function("(list) => list.options.length", arg=nodes.element_handle())
    nodes.select_option(label=node)
    widget(page).get_by_label(INPUT, exact=True).select_option(name)


def add(page, node, name, values):
    """Adds an axis by the form."""
    choose(page, node, name)
    widget(page).get_by_label(VALUES, exact=True).fill(values)
    widget(page).get_by_role("button", name=re.compile("axis$")).click()


def said(page):
    return widget(page).locator(".pentimento-grid-say").inner_text()


def says(page, text):
    """Waits for a sentence."""
    widget(page).locator(".pentimento-grid-say").get_by_text(text).first.wait_for()


def counts(page):
    """The numbers of cells: those that are done, and all."""
    return [int(number) for number in re.search(r"(\d+) of (\d+) cells done", said(page)).groups()]


def test_form_check_run_pause_view_and_a_tab_that_is_opened_again(tab, browser, server, nodes2):
    page = load(tab, nodes2, plain(f"title: Mode {nodes2}\n"))
    page.wait_for_timeout(300)
    choose(page, "Upscale Image", "upscale_method")
    for method in ("area", "bilinear"):
        widget(page).get_by_label(method, exact=True).check()
    press(page, "Add axis")
    add(page, "Picture", "color", "1, 2, ..., 1000")
    axes = "  Upscale Image.upscale_method: bilinear, area\n  Picture.color: 1, 2, ..., 1000\n"
    text = f"title: Mode {nodes2}\naxes:\n{axes}"
    assert page.evaluate(TEXT) == text
    widget(page).locator("output", has_text="2000 cells").wait_for()
    press(page, "Check")
    says(page, "2000 cells (Picture.color: 1000, Upscale Image.upscale_method: 2; the last axis changes first).")
    says(page, f"The results go to the folder grids/Mode {nodes2} of ComfyUI's output folder.")
    press(page, "Run")
    says(page, "left")
    press(page, "Pause")
    says(page, "Paused. Run goes on.")
    done, total = counts(page)
    assert total == 2000
    assert 0 < done < total
    graph = page.evaluate(SERIALIZED)

    with open_tab(browser, server) as again:
        load(again, nodes2, graph)
        says(again, "Paused. Run goes on.")
        assert counts(again) == [done, total]
        with again.expect_popup() as popup:
            widget(again).get_by_role("link", name="View").click()
        popup.value.get_by_role("heading", name=f"Mode {nodes2}").wait_for()
        assert urllib.parse.quote(f"grids/Mode {nodes2}/index.html") in popup.value.url
        popup.value.wait_for_function("() => [...document.images].some(({ naturalWidth }) => naturalWidth > 0)")
        popup.value.close()
        press(again, "Run")
        says(page, "left")  # in the first tab, too
    before = counts(page)[0]
    page.wait_for_function(MORE, arg=before)  # the tab that started it is closed
    press(page, "Pause")
    says(page, "Paused. Run goes on.")
    assert done < before < counts(page)[0] < total


def test_cells_are_the_prompts_that_are_queued_by_hand(tab, server):
    load(tab, False, plain())
    tab.evaluate(BUILD)
    tab.evaluate("() => window.set(8, 5, 'area')")
    add(tab, "Picture", "width", "8, 16")
    add(tab, "Picture", "color", "1, 2")
    add(tab, "Scale", "upscale_method", "area, bilinear")
    before = history.prompt_ids(server)
    press(tab, "Run")
    says(tab, "The grid is done.")
    assert counts(tab) == [8, 8]
    runs = runs_of(server, history.prompt_ids(server) - before)
    cells = [text_of(run["prompt"][2]) for run in runs]
    before = history.prompt_ids(server)
    for values in itertools.product((8, 16), (1, 2), ("area", "bilinear")):
        tab.evaluate("([width, colour, method]) => window.set(width, colour, method)", values)
        tab.evaluate("() => window.app.queuePrompt(0)")
    tab.wait_for_function(
        "async (size) => Object.keys(await (await fetch('/history')).json()).length === size", arg=len(before) + 8
    )
    by_hand = [text_of(run["prompt"][2]) for run in runs_of(server, history.prompt_ids(server) - before)]
    assert len(by_hand) == len(set(by_hand)) == 8
    assert sorted(cells) == sorted(by_hand)
    assert all("PentimentoGrid" not in prompt for prompt in cells)
    assert all(name in cells[0] for name in ("EmptyImage", "ImageScale", "SaveImage"))
    assert "ImageInvert" not in cells[0]
    for run in runs:
        # what a cell's picture carries opens the cell's graph, with the subgraph and the primitive node
        tab.evaluate("(workflow) => window.app.loadGraphData(workflow)", run["prompt"][3]["extra_pnginfo"]["workflow"])
        assert text_of(tab.evaluate("async () => (await window.app.graphToPrompt()).output")) == text_of(
            run["prompt"][2]
        )


def runs_of(server, ids):
    runs = json.loads(client.get(server, "history"))
    return [runs[key] for key in ids]


def text_of(prompt):
    """A prompt without the grid's node."""
    return json.dumps(
        {key: node for key, node in prompt.items() if node["class_type"] != "PentimentoGrid"}, sort_keys=True
    )


def test_faults_are_sentences_and_stay_text(tab, nodes2):
    page = load(tab, nodes2, plain(f"title: '{XSS}'\naxes:\n  Picture.colour: 1\n  '{XSS}.x': 2"))
    says(page, f"no node is called {XSS}")
    press(page, "Check")
    says(page, "Picture has no input colour. Is it color?")
    area = widget(page).get_by_label("Text of the grid")
    area.fill("axes: [")
    says(page, "The grid file is no YAML")
    area.fill("axes:\n  Picture.color: 1")
    widget(page).locator("output", has_text="1 cell").wait_for()
    assert said(page) == ""
    area.fill("")
    page.wait_for_function("() => document.querySelector('.pentimento-grid output').textContent === ''")
    for name in ("Check", "Run", "Pause"):
        assert widget(page).get_by_role("button", name=name, exact=True).is_disabled()
    assert page.evaluate("window.attacked") is None


def test_texts_have_a_line_each_and_an_axis_is_replaced(tab, nodes2):
    page = load(tab, nodes2, plain("axes:\n  Picture.color: 1, 2 # mine\nview: {x: Picture.color}\n"))
    add(page, "Words", "value", 'a "dog", at night\n\ncat => cow')
    assert widget(page).get_by_role("button", name="Replace axis").is_visible()
    choose(page, "Picture", "color")
    assert widget(page).get_by_label(VALUES, exact=True).input_value() == "1, 2 # mine"
    add(page, "Picture", "color", "7")
    words = '  Words.value:\n    - "a \\"dog\\", at night"\n    - "cat => cow"\n'
    assert page.evaluate(TEXT) == f"axes:\n  Picture.color: 7\n{words}view: {{x: Picture.color}}\n"
    choose(page, "Words", "value")
    assert widget(page).get_by_label(VALUES, exact=True).input_value() == 'a "dog", at night\ncat => cow'
    widget(page).locator("output", has_text="2 cells").wait_for()


def test_a_seed_that_changes_after_each_run_is_said(tab):
    page = load(tab, False, plain())
    page.evaluate("""() => {
        const noise = LiteGraph.createNode('RandomNoise');
        window.app.graph.add(noise);
        noise.widgets[1].value = 'randomize';
    }""")
    sentence = "RandomNoise.noise_seed changes after each ordinary run"
    add(page, "Picture", "color", "1, 2")
    says(page, sentence)
    press(page, "Check")
    says(page, "2 cells")
    says(page, sentence)
    add(page, "RandomNoise", "noise_seed", "1, 2, ..., 5")
    widget(page).locator("output", has_text="10 cells").wait_for()
    assert sentence not in said(page)


def test_the_front_ends_undo_takes_an_axis_back(tab, nodes2):
    page = load(tab, nodes2, plain("axes:\n  Picture.color: 1, 2\n"))
    page.wait_for_timeout(500)
    add(page, "Picture", "width", "8, 16")
    assert "width" in page.evaluate(TEXT)
    page.evaluate("() => document.activeElement.blur()")
    page.keyboard.press("Control+z")
    page.wait_for_function(f"() => ({TEXT})() === 'axes:\\n  Picture.color: 1, 2\\n'")
    page.wait_for_function("() => document.querySelector('.pentimento-grid-text').value.endsWith('1, 2\\n')")
    add(page, "Picture", "width", "8, 16, 24")  # the node is a new one now
    widget(page).locator("output", has_text="6 cells").wait_for()


@pytest.mark.parametrize(
    ("text", "address", "values", "expected"),
    [
        ("", "A.b", "1", "axes:\n  A.b: 1\n"),
        ("title: x", "A.b", "1", "title: x\naxes:\n  A.b: 1\n"),
        ("axes:\n    A.b: 1\n", "A.c", "2", "axes:\n    A.b: 1\n    A.c: 2\n"),
        (
            "axes: # two\n\n  # one\n  A.b:\n    values: 1\n\ntitle: x",
            "A.b",
            "2",
            "axes: # two\n\n  # one\n  A.b:\n    values: 2\n\ntitle: x\n",
        ),
        (
            "axes:\n- input: A.b\n  values: 1\n",
            "A.c",
            "2",
            "axes:\n- input: A.b\n  values: 1\n- input: A.c\n  values: 2\n",
        ),
        (
            "axes:\n  A.c: 1\n\n  # theirs\n  Mine:\n    input: A.b\n    values:\n    - 1\n    default: 1\n",
            "A.b",
            ["x"],
            'axes:\n  A.c: 1\n\n  # theirs\n  Mine:\n    input: A.b\n    values:\n      - "x"\n    default: 1\n',
        ),
        (
            "axes:\n  A.c:\n    - 1\n\n  # theirs\n  A.b: 1\n",
            "A.c",
            "2",
            "axes:\n  A.c: 2\n\n  # theirs\n  A.b: 1\n",
        ),
        (
            "axes:\n- title: x\n  input: A.b\n  values: [1]\n- input: A.c\n  values: 1\n",
            "A.b",
            "2",
            "axes:\n- title: x\n  input: A.b\n  values: 2\n- input: A.c\n  values: 1\n",
        ),
        ("axes:\n  'A: b.c': 1\n", "A: b.c", "2", 'axes:\n  "A: b.c": 2\n'),
        ("axes:\n  A.b: 1\n", "true", "yes: no", 'axes:\n  A.b: 1\n  "true": "yes: no"\n'),
        ('{"axes": {"A.b": 1}}', "A.c", "2", '{\n  "axes": {\n    "A.b": 1,\n    "A.c": "2"\n  }\n}\n'),
        (
            '{"axes": [{"input": "A.b"}]}',
            "A.b",
            "2",
            '{\n  "axes": [\n    {\n      "input": "A.b",\n      "values": "2"\n    }\n  ]\n}\n',
        ),
        ("axes: {A.b: 1}", "A.c", "2", None),
        ("axes:\n  A.b: 1\n", "A.c", ["x", "y: #"], 'axes:\n  A.b: 1\n  A.c:\n    - "x"\n    - "y: #"\n'),
    ],
)
def test_the_form_writes_into_any_text(tab, text, address, values, expected):
    script = f"async (args) => (await {IMPORT}).withAxis(...args)"
    assert tab.evaluate(script, [text, address, values]) == expected


def test_nothing_stays_when_the_node_is_removed(tab):
    page = load(tab, False, plain("axes:\n  Picture.color: 1, 2\n"))
    page.evaluate("""() => {
        const { api } = window.comfyAPI.api, remove = api.removeEventListener;
        window.gone = [];
        api.removeEventListener = (type, ...rest) => {
            window.gone.push(type);
            return remove.call(api, type, ...rest);
        };
        window.app.graph.remove(window.app.graph.getNodeById(4));
        api.removeEventListener = remove;
    }""")
    page.wait_for_function("() => !document.querySelector('.pentimento-grid')")
    assert {"pentimento.grid", "graphChanged", "reconnected"} <= set(page.evaluate("window.gone"))


def test_an_ordinary_run_leaves_the_grid_alone(tab, server):
    load(tab, False, plain("axes:\n  Picture.color: 1, 2\n"))
    before = history.prompt_ids(server)
    tab.evaluate("() => window.app.queuePrompt(0)")
    run = history.run_since(server, before)
    assert "Press Run in the node" in run["outputs"]["4"]["text"][0]
    assert run["outputs"].keys() == {"3", "4", "5"}


def test_in_chinese_english_addresses_hold_and_new_ones_name_the_class(tab, server):
    tab.wait_for_timeout(1500)  # the front end stores its draft a moment after a change
    speak(server, "zh")
    try:
        tab.reload()
        ready(tab)
        page = load(tab, False, plain("axes:\n  Upscale Image.width: 4, 8\n"))
        widget(page).locator("output", has_text="2 \u4e2a\u5355\u5143").wait_for()
        nodes = widget(page).locator("select").first
        nodes.focus()
        page.wait_for_function("(list) => list.options.length", arg=nodes.element_handle())
        nodes.select_option("2")
        widget(page).locator("select").nth(1).select_option("height")
        widget(page).locator("textarea").first.fill("4, 8, 12")
        widget(page).locator("button").first.click()
        widget(page).locator("output", has_text="6 \u4e2a\u5355\u5143").wait_for()
        assert page.evaluate(TEXT) == "axes:\n  Upscale Image.width: 4, 8\n  ImageScale.height: 4, 8, 12\n"
    finally:
        speak(server, "en")
