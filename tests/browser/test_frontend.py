"""The bundled workflows and help pages in the real front end, in Chromium."""

import json
import urllib.request

import pytest

from kit import history
from kit.front_end import open_tab
from kit.paths import PACK

WORKFLOWS = sorted(path.stem for path in (PACK / "workflows").glob("*.json"))
HELP_PAGES = sorted(path.stem for path in (PACK / "web" / "docs").glob("*.md"))

LOAD = "(workflow) => window.app.loadGraphData(workflow)"
TO_API = "async () => (await window.app.graphToPrompt()).output"
RUN = "() => window.app.queuePrompt(0)"

ADD_AND_SELECT = """(type) => {
    window.app.graph.clear();
    const node = LiteGraph.createNode(type);
    window.app.graph.add(node);
    window.app.canvas.selectNode(node);
    window.app.canvas.centerOnNode(node);
}"""

LOADED_PICTURES = """() => {
    const pictures = [...document.querySelectorAll('img[src*="/extensions/pentimento/docs/"]')];
    return pictures.length > 0 && pictures.every((picture) => picture.complete && picture.naturalWidth > 0);
}"""


@pytest.fixture(scope="module")
def page(browser, server):
    """A tab with ComfyUI loaded in it, past the templates that greet a new user."""
    with open_tab(browser, server) as page:
        page.evaluate(LOAD, workflow(WORKFLOWS[0]))
        yield page
        page.get_by_role("button", name="Toggle properties panel").click()  # the help pages opened it, for good


def get(server, path):
    return urllib.request.urlopen(f"{server}/{path}").read()


def workflow(name):
    return json.loads((PACK / "workflows" / f"{name}.json").read_text())


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_converts_to_its_committed_api_form(page, name, request):
    page.evaluate(LOAD, workflow(name))
    found = page.evaluate(TO_API)
    for node in found.values():
        node["inputs"].pop("video-preview", None)  # Load Video's player, once it has loaded
    committed = PACK / "workflows" / "api" / f"{name}.json"
    if request.config.getoption("--update-workflows"):
        committed.write_text(json.dumps(found, indent=2) + "\n")
    assert found == json.loads(committed.read_text())


def test_every_workflow_has_both_forms_and_a_thumbnail():
    folder = PACK / "workflows"
    assert sorted(path.stem for path in (folder / "api").glob("*.json")) == WORKFLOWS
    assert sorted(path.stem for path in folder.glob("*.jpg")) == WORKFLOWS


def test_the_template_browser_lists_the_workflows(server):
    assert sorted(json.loads(get(server, "api/workflow_templates"))["pentimento"]) == WORKFLOWS
    for name in WORKFLOWS:
        assert json.loads(get(server, f"api/workflow_templates/pentimento/{name}.json")) == workflow(name)
        assert get(server, f"api/workflow_templates/pentimento/{name}.jpg").startswith(b"\xff\xd8")


def test_a_workflow_runs_from_the_front_end_and_shows_its_result(page, server):
    page.evaluate(LOAD, workflow("remove_without_models"))
    before = history.prompt_ids(server)
    page.evaluate(RUN)
    page.wait_for_function(
        "() => window.app.graph.nodes.some((node) => node.type === 'SaveImage' && node.imgs?.[0]?.naturalWidth > 0)",
        timeout=120_000,
    )
    run = history.run_since(server, before)
    assert run["status"]["status_str"] == "success"


@pytest.mark.parametrize("node_id", HELP_PAGES)
def test_the_help_page_of_a_node_renders_with_its_picture(page, node_id):
    page.evaluate(ADD_AND_SELECT, node_id)
    page.get_by_test_id("info-button").click()
    title = (PACK / "web" / "docs" / f"{node_id}.md").read_text().splitlines()[0].removeprefix("# ")
    page.get_by_role("heading", name=title, exact=True).first.wait_for()
    page.wait_for_function(LOADED_PICTURES)


def test_the_chinese_names_reach_the_front_end(server):
    chinese = json.loads(get(server, "i18n"))["zh"]["nodeDefs"]
    ours = {name for name in json.loads(get(server, "object_info")) if name.startswith("Pentimento")}
    assert ours
    assert ours <= set(chinese)
