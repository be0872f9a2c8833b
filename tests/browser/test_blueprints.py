"""The blueprints in the real front end: placed from the node library, as they convert, and clicked on from outside."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from kit import history
from kit.front_end import READY, SETTLE, open_tab, ready
from kit.paths import PACK
from pentimento_host import client, models

MODES = {"classic": False, "nodes2": True}
CUP = {
    "width": 600,
    "height": 400,
    "positive": [{"x": 365, "y": 275}, {"x": 405, "y": 95}],
    "negative": [],
    "boxes": [],
}
BADGES = [(170, 390), (160, 370), (185, 400), (305, 355), (300, 373)]
EXAMPLES = {  # {blueprint: (photograph, what is set on the node)}
    "Edit by Instruction": ("astronaut", {"text": "turn the suit into a knight's armour"}),
    "Long Prompt (ELLA)": (None, {}),
    "Outpaint": ("astronaut", {"text": "an astronaut in a hall with flags and a space shuttle, photo"}),
    "Remove Object": ("coffee", {"picks": json.dumps(CUP)}),
    "Remove Object (no model)": (
        "astronaut",
        {
            "picks": json.dumps(
                {
                    "width": 512,
                    "height": 512,
                    "positive": [{"x": x, "y": y} for x, y in BADGES[:3]],
                    "negative": [],
                    "boxes": [],
                }
            ),
            "grow": 18,  # the patch of cloth under the badge, too
            "seed": 2,
        },
    ),
    "Replace Object": (
        "coffee",
        {"picks": json.dumps(CUP), "text": "a small potted cactus on a wooden table"},
    ),
    "Upscale Any Size": ("astronaut", {"text": "a portrait of an astronaut, sharp photograph"}),
}

HOST = "window.app.graph.nodes.find(({ subgraph }) => subgraph)"
PLACED = f"() => Boolean({HOST})"
CONNECT = f"""({{title, picture, values}}) => {{
    const {{ graph }} = window.app, host = {HOST};
    host.pos = [420, 60];
    if (picture) {{
        const load = LiteGraph.createNode('LoadImage');
        Object.assign(load, {{ title: 'Photograph', pos: [40, 60] }});
        graph.add(load);
        load.widgets[0].value = picture;
        load.connect(0, host, 0);
    }}
    const save = LiteGraph.createNode('SaveImage');
    Object.assign(save, {{ title: 'Result', pos: [960, 60] }});
    graph.add(save);
    save.widgets[0].value = `pentimento/${{title}}`;
    host.connect(0, save, 0);
    const widget = (name) => host.widgets.find((each) => each.name === name);
    for (const [name, value] of Object.entries(values)) widget(name).value = value;
}}"""
LOOK = f"""() => {{
    window.app.canvas.ds.scale = 1;
    window.app.canvas.centerOnNode({HOST});
    window.app.canvas.setDirty(true, true);
}}"""
TO_API = "async () => (await window.app.graphToPrompt()).output"
PICKS = """async () => Object.values((await window.app.graphToPrompt()).output)
    .filter((node) => node.class_type === 'PentimentoPickPoints')
    .map(({ inputs }) => inputs.picks && JSON.parse(inputs.picks).positive.map(({ x, y }) => [x, y]))"""
SAVED = f"() => window.app.graph.serialize().nodes.find(({{ type }}) => type === {HOST}.type).widgets_values[0]"
IN_AND_OUT = f"() => {{ const host = {HOST}; window.app.canvas.openSubgraph(host.subgraph, host); }}"
COPY = f"""() => {{
    const {{ canvas }} = window.app;
    canvas.selectNode({HOST});
    canvas.copyToClipboard();
    canvas.pasteFromClipboard({{ position: [1500, 60] }});
}}"""


@pytest.fixture(scope="module")
def tab(browser, server):
    """A tab with ComfyUI in it."""
    with open_tab(browser, server, width=1700) as page:
        yield page


def place(page, title, nodes2=False):
    """Puts a blueprint from the node library into an empty graph."""
    page.evaluate("(on) => window.app.extensionManager.setting.set('Comfy.VueNodes.Enabled', on)", nodes2)
    page.evaluate("() => window.app.loadGraphData({ nodes: [], links: [], version: 0.4 })")
    library = page.get_by_role("button", name="Node Library")
    library.click()
    page.get_by_placeholder("Search", exact=False).first.fill(title)
    entry = page.get_by_text(title, exact=True).first
    entry.wait_for()
    entry.hover()
    page.get_by_text(description(title)[:60]).filter(visible=True).first.wait_for()
    entry.click()
    page.mouse.move(900, 500)
    page.mouse.click(900, 500)
    page.wait_for_function(PLACED)
    library.click()


def blueprint(title):
    return json.loads((PACK / "subgraphs" / f"{title}.json").read_text(encoding="utf-8"))


def description(title):
    return blueprint(title)["extra"]["BlueprintDescription"].splitlines()[0]


def connect(page, title):
    picture, values = EXAMPLES[title]
    picture = picture and f"pentimento_{picture}.png"
    page.evaluate(CONNECT, {"title": title, "picture": picture, "values": values})


def numbered(graph):
    """The graph with the nodes numbered from 1."""
    keys = {key: str(number) for number, key in enumerate(graph, 1)}

    def renamed(value):
        return [keys[value[0]], value[1]] if isinstance(value, list) else value

    return {
        keys[key]: node | {"inputs": {name: renamed(value) for name, value in node["inputs"].items()}}
        for key, node in graph.items()
    }


def by_title(graph):
    """The graph with titles in the place of numbers."""

    def renamed(value):
        return [graph[value[0]]["_meta"]["title"], value[1]] if isinstance(value, list) else value

    return {
        node["_meta"]["title"]: (node["class_type"], {name: renamed(value) for name, value in node["inputs"].items()})
        for node in graph.values()
    }


def test_every_blueprint_has_an_example():
    assert EXAMPLES.keys() == {path.stem for path in (PACK / "subgraphs").glob("*.json")} == models.blueprints().keys()


@pytest.mark.parametrize("title", EXAMPLES)
def test_a_blueprint_from_the_node_library_converts_to_its_committed_api_form(tab, title, request):
    place(tab, title)
    widgets = tab.evaluate(f"() => {HOST}.widgets.map(({{ name }}) => name)")
    inputs = blueprint(title)["definitions"]["subgraphs"][0]["inputs"]
    assert widgets == [entry["name"] for entry in inputs if entry["type"] != "IMAGE"]
    connect(tab, title)
    graph = numbered(tab.evaluate(TO_API))
    committed = PACK / "subgraphs" / "api" / f"{title}.json"
    if request.config.getoption("--update-workflows"):
        committed.parent.mkdir(exist_ok=True)
        committed.write_text(json.dumps(graph, indent=2) + "\n")
    assert by_title(graph) == by_title(json.loads(committed.read_text()))


def look(page):
    page.evaluate(LOOK)
    page.wait_for_function(READY)
    page.locator(".pentimento-keys:visible").first.wait_for()
    page.wait_for_timeout(SETTLE)


def click(page, x, y):
    """Clicks on the middle of a pixel of the astronaut."""
    box = page.locator(".pentimento-frame > img:visible").first.bounding_box()
    page.mouse.click(box["x"] + (x + 0.5) / 512 * box["width"], box["y"] + (y + 0.5) / 512 * box["height"])


def near(picks, *spots):
    return len(picks) == len(spots) and all(
        np.abs(np.subtract(*pair)).max() <= 2 for pair in zip(picks, spots, strict=True)
    )


@pytest.fixture(params=MODES.values(), ids=MODES)
def page(tab, request):
    """The tab with Remove Object (no model) and its photograph, nothing picked yet."""
    place(tab, "Remove Object (no model)", request.param)
    connect(tab, "Remove Object (no model)")
    tab.evaluate(f"() => {{ {HOST}.widgets[0].value = ''; }}")
    look(tab)
    return tab


def test_click_on_the_node_and_it_is_gone(page, server):
    for spot in BADGES:
        click(page, *spot)
    page.get_by_role("status").filter(has_text="% selected").wait_for()
    (picks,) = page.evaluate(PICKS)
    assert near(picks, *BADGES)
    before = history.prompt_ids(server)
    page.get_by_test_id("queue-button").click()
    page.wait_for_function(
        "() => window.app.graph.nodes.find(({ type }) => type === 'SaveImage').imgs?.[0]?.naturalWidth > 0"
        " || document.querySelector('[data-node-id] img[src*=Remove]')?.naturalWidth > 0",
        timeout=120_000,
    )
    run = history.run_since(server, before)
    assert run["status"]["status_str"] == "success"
    (saved,) = (each for node in run["outputs"].values() for each in node.get("images", []) if each["type"] == "output")
    result, photograph = (
        picture(server, saved),
        picture(server, {"filename": "pentimento_astronaut.png", "type": "input"}),
    )
    changed = (result != photograph).any(-1)
    assert all(changed[y, x] for x, y in BADGES)
    assert changed.mean() < 0.06  # the badges alone


def picture(server, reference):
    return np.asarray(Image.open(io.BytesIO(client.get(server, "view", **reference))).convert("RGB"))


def test_undo_reload_and_a_look_inside_keep_the_picks(page):
    click(page, 100, 120)
    click(page, 300, 200)
    page.evaluate("() => document.activeElement.blur()")
    page.keyboard.press("Control+z")
    page.wait_for_function(f"async () => (await ({PICKS})())[0].length === 1")
    look(page)
    click(page, 400, 300)  # the node is a new one now
    assert near(*page.evaluate(PICKS), (100, 120), (400, 300))
    page.wait_for_timeout(1500)  # the front end stores its draft a moment after a change
    page.reload()
    ready(page)
    page.wait_for_function(PLACED)
    look(page)
    assert page.locator(".pentimento-point").count() == 2
    page.evaluate(IN_AND_OUT)
    page.wait_for_timeout(SETTLE)
    page.evaluate("() => window.app.canvas.setGraph(window.app.rootGraph)")
    look(page)
    click(page, 50, 400)
    assert near(*page.evaluate(PICKS), (100, 120), (400, 300), (50, 400))
    assert json.loads(page.evaluate(SAVED))["positive"][2]["y"] == pytest.approx(400, abs=2)


def test_a_copy_has_picks_of_its_own(page):
    click(page, 100, 120)
    page.evaluate(COPY)
    page.wait_for_timeout(SETTLE)
    look(page)
    click(page, 300, 200)
    counts = sorted(len(picks) for picks in page.evaluate(PICKS))
    assert counts == [1, 2]
