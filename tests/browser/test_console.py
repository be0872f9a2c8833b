"""The browser's console: the pack's modules cause no warning and no error there, in Chromium."""

import json
import urllib.request

import pytest

from kit import front_end
from kit.paths import PACK

RECORD = """() => {
    window.complaints = [];
    for (const kind of ["warn", "error"]) {
        const original = console[kind];
        console[kind] = (...texts) => {
            const { stack } = new Error();
            if (stack.includes("/extensions/pentimento/")) window.complaints.push(`${texts[0]} ${stack}`);
            original.apply(console, texts);
        };
    }
}"""


@pytest.fixture(scope="module")
def page(browser, server):
    """A tab that records what the pack's modules write to the console, and errors that nobody caught."""
    setting = urllib.request.Request(f"{server}/settings/Comfy.TutorialCompleted", b"true", method="POST")
    urllib.request.urlopen(setting)
    page = browser.new_page(viewport={"width": 1600, "height": 1000})
    page.set_default_timeout(front_end.PATIENCE)
    page.add_init_script(f"({RECORD})()")
    page.on("pageerror", lambda error: uncaught.append(str(error)))
    uncaught = page.uncaught = []
    page.goto(server)
    front_end.ready(page)
    yield page
    page.evaluate("() => window.app.extensionManager.setting.set('Comfy.VueNodes.Enabled', false)")
    page.close()


@pytest.mark.parametrize("nodes2", [False, True])
@pytest.mark.parametrize("name", ["remove_anything", "remove_without_models"])
def test_a_workflow_opens_without_a_word_on_the_console(page, name, nodes2):
    graph = json.loads((PACK / "workflows" / f"{name}.json").read_text(encoding="utf-8"))
    page.evaluate(front_end.LOAD, {"graph": graph, "nodes2": nodes2})
    page.wait_for_function(front_end.READY)
    page.wait_for_timeout(front_end.SETTLE)
    assert page.evaluate("() => window.complaints") == []
    assert page.uncaught == []
