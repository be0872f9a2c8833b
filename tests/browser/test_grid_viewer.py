"""The page that shows a grid, from the disk, in Chromium."""

import io
import json

import pytest
from PIL import Image

from kit.grid import Fake, runner, spanned

XSS = '<img src=x onerror="window.attacked=1">'
AXES = {
    "KSampler.seed": {"values": "1, 2, 3, 4", "description": "Noise"},
    "KSampler.cfg": [5, 6, 66],
    "Prompt.text": [{"title": XSS, "value": f"a {XSS}", "description": XSS}, {"title": "#%?& \u732b", "value": "b"}],
    "KSampler.sampler_name": ["euler", "heun", {"SKIP": "dpmpp_2m"}],
    "KSampler.steps": [4, 5],
}


class Pictures(Fake):
    """Each picture has a colour of its own; of two, the second is smaller. An error holds markup."""

    def fetch(self, file):
        graph, _ = json.loads(super().fetch(file))
        inputs, buffer = graph["6"]["inputs"], io.BytesIO()
        colour = (60 * inputs["seed"], 20 * inputs["cfg"] % 256, 0 if inputs["sampler_name"] == "euler" else 255)
        Image.new("RGB", (32, 24), colour).save(buffer, "PNG")
        return buffer.getvalue()

    def _ran(self, graph, workflow):
        outcome = super()._ran(graph, workflow)
        return type(outcome)({}, f"No {XSS}", 0.5) if outcome.error else outcome


@pytest.fixture(scope="module")
def grid():
    return spanned(AXES, title=XSS, description=XSS, view={"x": "KSampler.seed", "y": "KSampler.cfg"})


@pytest.fixture(scope="module")
def folder(grid, tmp_path_factory):
    """All cells but those of seed 4 and the sampler heun."""
    path = tmp_path_factory.mktemp("grid")
    chosen = {0: {0, 1, 2}}
    runner(grid, path, Pictures(), chosen).run()
    runner(grid, path, Pictures(), {3: {0}}).run()
    return path


@pytest.fixture
def page(browser, folder):
    page = browser.new_page(viewport={"width": 1200, "height": 800})
    page.problems = []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("request", lambda request: request.url.startswith(("file:", "data:")) or page.problems.append(request.url))
    visit(page, folder)
    yield page
    assert page.evaluate("window.attacked") is None
    assert page.problems == []
    page.close()


def visit(page, folder, fragment=""):
    page.goto("about:blank")
    page.goto(f"{(folder / 'index.html').as_uri()}{fragment}")
    page.wait_for_selector("td")


def headings(page):
    return page.locator("thead tr:last-child th:not(.corner)").all_inner_texts()


def rows(page):
    return page.locator("tbody tr").count()


def options(page, place, axis):
    page.locator(f"#{place}").select_option(label=axis)


def facts(page):
    return page.locator("#facts").inner_text()


def at(page):
    """The value on each axis of the open cell."""
    return page.locator("#facts h2:has(button) + p").all_inner_texts()


def colour(page, seed, cfg):
    """Of the picture in the cell, as the browser shows it."""
    cell = page.locator("td").nth((cfg - 5) * 4 + seed - 1)
    cell.locator("img").evaluate("image => image.decode()")
    return Image.open(io.BytesIO(cell.screenshot())).convert("RGB").getpixel((80, 80))


def test_the_grid_is_shown_as_its_file_says(page):
    assert page.title() == XSS
    assert page.locator("h1").inner_text() == XSS
    assert headings(page) == ["1", "2", "3", "4"]
    assert page.locator("tbody th").all_inner_texts() == ["5", "6", "66"]
    assert colour(page, 2, 6) == (120, 120, 0)
    assert page.locator("td.failed").count() == 4
    assert page.locator("td.failed p").first.inner_text() == f"No {XSS}"
    assert page.locator("#progress").inner_text() == "32 of 48 cells, 16 failed"


def test_cells_that_are_not_there_leave_their_places(page):
    page.locator("select.other").nth(1).select_option(label="heun")
    assert page.locator("td.waiting").count() == 3
    assert page.locator("td.done").count() == 6


def test_four_axes_are_shown_at_once(page):
    options(page, "super_x", "KSampler.steps")
    options(page, "super_y", "KSampler.sampler_name")
    assert page.locator("thead tr").count() == 2
    assert len(headings(page)) == 8
    assert rows(page) == 6
    numbers = page.locator("td").evaluate_all("cells => cells.map((cell) => cell.dataset.number)")
    assert len(set(numbers)) == 48
    options(page, "x", "KSampler.steps")  # the axes change places
    assert page.locator("#super_x option:checked").inner_text() == "KSampler.seed"


def test_headings_stay_in_sight(page):
    page.locator("main").evaluate("main => { main.style.maxHeight = '300px'; main.style.maxWidth = '400px'; }")
    page.locator("main").evaluate("main => main.scrollTo(300, 300)")
    frame, head = page.locator("main").bounding_box(), page.locator("thead th").nth(2).bounding_box()
    side = page.locator("tbody th").nth(2).bounding_box()
    assert abs(head["y"] - frame["y"]) < 2
    assert abs(side["x"] - frame["x"]) < 2


def test_values_are_hidden_and_shown(page):
    page.locator("details").nth(0).locator("summary").click()
    page.locator("details").nth(0).locator("input").nth(1).uncheck()
    assert headings(page) == ["1", "3", "4"]
    page.locator("details").nth(0).locator("input").nth(1).check()
    assert headings(page) == ["1", "2", "3", "4"]


def test_the_popup_shows_a_cell_and_moves_along_the_axes(page):
    options(page, "super_x", "KSampler.steps")
    page.locator("td").first.click()
    assert at(page) == ["1", "5", XSS, "euler", "4"]
    assert f"Prompt.text = a {XSS}" in facts(page)
    assert "0.25 s" in facts(page)
    for key, axis, value in (
        ("ArrowRight", 0, "2"),
        ("ArrowDown", 1, "6"),
        ("Shift+ArrowRight", 4, "5"),
        ("Digit3", 2, "#%?& \u732b"),
        ("Digit4", 3, "heun"),
        ("Digit4", 3, "euler"),
        ("ArrowLeft", 0, "1"),
        ("ArrowLeft", 0, "4"),
    ):
        page.keyboard.press(key)
        assert at(page)[axis] == value, key
    assert "seen <b>" in facts(page)
    page.keyboard.press("ArrowDown")
    assert f"No {XSS}" in facts(page)
    page.keyboard.press("Escape")
    assert not page.locator("dialog").is_visible()


def test_the_address_is_the_view(page, folder, browser):
    options(page, "y", "Prompt.text")
    page.locator("select.other").first.select_option(label="6")
    page.locator("td").nth(5).click()
    page.keyboard.press("ArrowRight")
    before, fragment = facts(page), page.evaluate("location.hash")
    visit(page, folder, fragment)
    assert facts(page) == before
    assert page.locator("#y option:checked").inner_text() == "Prompt.text"
    assert page.locator("#large img").evaluate("image => image.decode().then(() => image.naturalWidth)") == 32
    visit(page, folder, "#x=no&y=&at.KSampler.cfg=zzz&size=x&super_x=KSampler.cfg&super_y=KSampler.cfg")
    assert (rows(page), page.locator("td").count()) == (1, 3)


def test_pictures_scale_to_the_window(page):
    page.locator("#fit").click()
    frame, table = page.locator("main").bounding_box(), page.locator("table").bounding_box()
    assert frame["width"] - 30 < table["width"] <= frame["width"]


def test_a_running_grid_grows_in_the_page(page, grid, folder):
    page.locator("select.other").nth(1).select_option(label="heun")
    assert page.locator("td.waiting").count() == 3
    runner(grid, folder, Pictures()).run()
    page.evaluate("look()")
    page.wait_for_function("document.querySelectorAll('td.waiting').length === 0")
    assert page.locator("select.other").nth(1).input_value() == "1"
