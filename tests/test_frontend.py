"""The bundled workflows and help pages in the real front end, in Chromium."""

import json
from pathlib import Path

import pytest

PACK = Path(__file__).resolve().parents[1]
WORKFLOWS = sorted(path.stem for path in (PACK / "workflows").glob("*.json"))
HELP_PAGES = sorted(path.stem for path in (PACK / "web" / "docs").glob("*.md"))

TO_API = """async (workflow) => {
    await window.app.loadGraphData(workflow);
    return (await window.app.graphToPrompt()).output;
}"""


@pytest.fixture(scope="module")
def page(browser, server):
    """A tab with ComfyUI loaded in it; errors that the page throws fail the test that sees them."""
    page = browser.new_page(viewport={"width": 1600, "height": 1000})
    page.goto(server)
    page.wait_for_function("window.app?.graph && window.app.extensionManager?.command")
    page.wait_for_function("Object.keys(LiteGraph.registered_node_types).some((name) => name.startsWith('Pentimento'))")
    yield page
    page.close()


@pytest.mark.parametrize("name", WORKFLOWS)
def test_workflow_converts_to_its_committed_api_form(page, name, request):
    workflow = json.loads((PACK / "workflows" / f"{name}.json").read_text())
    found = page.evaluate(TO_API, workflow)
    committed = PACK / "workflows" / "api" / f"{name}.json"
    if request.config.getoption("--update-workflows"):
        committed.write_text(json.dumps(found, indent=2) + "\n")
    assert found == json.loads(committed.read_text())
