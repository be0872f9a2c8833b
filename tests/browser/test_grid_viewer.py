"""The page that shows a grid, from the disk and from a server, in Chromium."""

import io

import av
import numpy as np
import pytest

from kit.grid import runner, spanned
from kit.grid_page import (
    XSS,
    Pictures,
    axis,
    cell,
    colour,
    facts,
    headings,
    link,
    near,
    opened,
    options,
    picture,
    served,
    values,
    visit,
    written,
)

AXES = {
    "KSampler.seed": {"values": "1, 2, 3, 4", "description": "Noise"},
    "KSampler.cfg": [5, 6, 66],
    "Prompt.text": [{"title": XSS, "value": f"a {XSS}", "description": XSS}, {"title": "#%?& \u732b", "value": "b"}],
    "KSampler.sampler_name": ["euler", "heun", {"SKIP": "dpmpp_2m"}],
    "KSampler.steps": [4, 5],
}
RED, BLUE = (200, 30, 40), (20, 40, 220)


@pytest.fixture(scope="module")
def grid():
    return spanned(AXES, title=XSS, description=XSS, view={"x": "KSampler.seed", "y": "KSampler.cfg"})


@pytest.fixture(scope="module")
def folder(grid, tmp_path_factory):
    """All cells but those of seed 4 and the sampler heun."""
    path = tmp_path_factory.mktemp("grid")
    runner(grid, path, Pictures(), {0: {0, 1, 2}}).run()
    runner(grid, path, Pictures(), {3: {0}}).run()
    return path


@pytest.fixture
def page(browser, folder):
    with opened(browser, folder) as page:
        yield page


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """3 x 2 cells: two outputs, a score that is not there, a text, an error, a file that is gone, and none."""
    path = tmp_path_factory.mktemp("scored")
    axes = [axis("x", "a", "b", "c"), axis("y", "1", "2")]
    cells = {
        0: {"files": ["cells/a.png", "cells/a2.png"], "scores": {"psnr": 10, XSS: 1}, "seconds": 1.5},
        1: {"files": ["cells/b.png"], "scores": {"psnr": 30}, "texts": {"Show": f"t {XSS}"}},
        2: {"texts": {"Show": f"only {XSS}"}},
        3: {"error": f"No {XSS}", "seconds": 0.5},
        4: {"files": ["cells/gone.png"], "thumbs": False, "scores": {"psnr": 20}},
    }
    pictures = {"cells/a.png": picture(RED), "cells/a2.png": picture(BLUE), "cells/b.png": picture(BLUE)}
    return written(path, axes, cells, pictures)


def test_the_grid_is_shown_as_its_file_says(page):
    assert page.title() == XSS
    assert page.locator("h1").inner_text() == XSS
    assert headings(page) == ["1", "2", "3", "4"]
    assert headings(page, "y") == ["5", "6", "66"]
    assert near(colour(page, cell(page, 1, 1).locator("img")), (120, 120, 0))
    assert page.locator(".failed").count() == 4
    assert page.locator(".failed p").first.inner_text() == f"No {XSS}"
    assert page.locator("#progress").inner_text() == "32 of 48 cells, 16 failed"
    assert page.locator("#corner").inner_text() == "KSampler.seed \u2192\nKSampler.cfg \u2193"


def test_the_page_from_a_server_is_the_same(browser, folder):
    with served(folder) as address, opened(browser, address) as page:
        assert near(colour(page, cell(page, 1, 1).locator("img")), (120, 120, 0))
        cell(page, 0, 1).click()
        assert page.locator("#large img").evaluate("image => image.decode().then(() => image.naturalWidth)") == 32


def test_cells_that_are_not_there_leave_their_places(page):
    page.locator("select.other").nth(1).select_option(label="heun")
    assert page.locator(".waiting").all_inner_texts() == 3 * ["Not there yet"]
    assert page.locator(".done").count() == 6
    page.locator("select.other").nth(1).select_option(label="dpmpp_2m")
    assert set(page.locator(".skipped").all_inner_texts()) == {"Skipped"}


def test_four_axes_are_shown_at_once(page):
    options(page, "super_x", "KSampler.steps")
    options(page, "super_y", "KSampler.sampler_name")
    assert headings(page, "super_x") == ["4", "5"]
    assert headings(page) == 2 * ["1", "2", "3", "4"]
    assert headings(page, "y") == 2 * ["5", "6", "66"]
    page.locator("#fit-all").click()
    page.wait_for_function("document.querySelectorAll('.cell').length === 48")
    numbers = page.locator(".cell").evaluate_all("cells => cells.map((cell) => cell.dataset.number)")
    assert len(set(numbers)) == 48
    options(page, "x", "KSampler.steps")  # the axes change places
    assert page.locator("#super_x option:checked").inner_text() == "KSampler.seed"


def test_headings_stay_in_sight(page):
    options(page, "super_y", "KSampler.sampler_name")
    page.set_viewport_size({"width": 500, "height": 520})
    page.locator("main").evaluate("main => main.scrollTo(130, 300)")
    frame, head = page.locator("main").bounding_box(), page.locator(".heading.x").first.bounding_box()
    assert page.locator("main").evaluate("main => main.scrollLeft > 100 && main.scrollTop > 200")
    assert abs(head["y"] - frame["y"]) < 2
    assert abs(page.locator(".heading.super_y").first.bounding_box()["x"] - frame["x"]) < 2
    text = page.locator(".heading.super_y div").first.bounding_box()
    assert text["y"] >= head["y"] + head["height"] - 1  # the text of a long heading moves along


def test_values_are_hidden_and_shown(page):
    list_ = page.locator(".values").nth(0)
    list_.locator("summary").click()
    assert list_.locator("p").inner_text() == "Noise"
    list_.locator("input").nth(1).uncheck()
    assert headings(page) == ["1", "3", "4"]
    list_.locator("input").nth(1).check()
    assert headings(page) == ["1", "2", "3", "4"]
    list_.get_by_text("None").click()
    assert headings(page) == ["1"]  # an axis has one value at least
    list_.get_by_text("All", exact=True).click()
    assert headings(page) == ["1", "2", "3", "4"]


def test_values_are_moved_by_keys_and_by_dragging(page, folder):
    list_ = page.locator(".values").nth(0)
    list_.locator("summary").click()
    list_.locator(".down").nth(0).focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    assert headings(page) == ["2", "3", "1", "4"]
    assert near(colour(page, cell(page, 1, 2).locator("img")), (60, 120, 0))
    list_.locator(".up").nth(2).click()
    assert headings(page) == ["2", "1", "3", "4"]
    page.keyboard.press("Enter")  # the button has moved along
    assert headings(page) == ["1", "2", "3", "4"]
    list_.locator(".up").nth(1).click()
    list_.locator(".line").nth(3).drag_to(list_.locator(".line").nth(0))
    assert headings(page) == ["4", "2", "1", "3"]
    page.locator("h1").click()
    page.locator(".heading.y", has_text="66").drag_to(page.locator(".heading.y", has_text="5"))
    assert headings(page, "y") == ["66", "5", "6"]
    fragment = link(page)
    visit(page, folder, fragment)
    assert (headings(page), headings(page, "y")) == (["4", "2", "1", "3"], ["66", "5", "6"])
    page.locator(".values summary").nth(0).click()
    page.locator(".values").nth(0).get_by_text("First order").click()
    assert headings(page) == ["1", "2", "3", "4"]


def test_the_open_cell_moves_along_every_axis(page):
    options(page, "super_x", "KSampler.steps")
    cell(page, 0, 0).click()
    assert values(page) == ["1", "5", XSS, "euler", "4"]
    assert f"Prompt.text = a {XSS}" in facts(page)
    assert "0.25 s" in facts(page)
    for key, number, value in (
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
        assert values(page)[number] == value, key
    assert "seen <b>" in facts(page)
    page.locator("#facts h2").nth(3).locator("button").nth(1).focus()  # its own arrow keys
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowRight")
    assert values(page)[3] == "heun"
    page.keyboard.press("Digit4")
    page.locator("#close").focus()
    page.keyboard.press("ArrowDown")
    assert f"No {XSS}" in facts(page)
    page.keyboard.press("Escape")
    assert not page.locator("#cell").is_visible()


def test_the_open_cell_fills_the_screen_and_shows_single_pixels(page):
    cell(page, 0, 0).click()
    page.keyboard.press("z")
    assert page.locator("#large img").bounding_box()["width"] == 32
    page.keyboard.press("z")
    page.keyboard.press("i")
    assert not page.locator("#facts").is_visible()
    assert page.locator("#large img").bounding_box()["width"] > 1000
    page.keyboard.press("f")
    page.wait_for_function("document.fullscreenElement !== null")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("i")
    assert values(page)[0] == "2"


def test_the_table_is_walked_by_keys(page):
    options(page, "super_x", "KSampler.steps")
    page.locator("main").focus()
    for key, place in (
        ("ArrowRight", "0-1"),
        ("ArrowDown", "1-1"),
        ("End", "1-7"),
        ("ArrowRight", "1-7"),
        ("ArrowUp", "0-7"),
        ("Home", "0-0"),
        ("Control+End", "2-7"),
        ("ArrowLeft", "2-6"),
        ("Digit5", "2-2"),
    ):
        page.keyboard.press(key)
        assert page.locator(".current").get_attribute("id") == f"cell-{place}", key
        assert page.locator("main").get_attribute("aria-activedescendant") == f"cell-{place}"
    page.keyboard.press("Control+End")
    assert page.locator(".current").get_attribute("aria-label") == "66, 5, 4, Failed"
    box, frame = page.locator(".current").bounding_box(), page.locator("main").bounding_box()
    assert box["x"] + box["width"] <= frame["x"] + frame["width"]
    page.keyboard.press("Enter")
    assert values(page) == ["4", "66", XSS, "euler", "5"]
    page.keyboard.press("Escape")
    page.keyboard.press("ArrowUp")  # the table has the keys again
    assert page.locator(".current").get_attribute("id") == "cell-1-7"


def test_the_address_is_the_view(page, folder):
    options(page, "y", "Prompt.text")
    page.locator("select.other").first.select_option(label="6")
    cell(page, 1, 1).click()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("c")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("k")
    before, fragment = facts(page), link(page)
    visit(page, folder, fragment)
    assert facts(page) == before
    assert page.locator("#y option:checked").inner_text() == "Prompt.text"
    assert page.locator("#mode-flicker").get_attribute("aria-pressed") == "true"
    assert page.locator("#large img").nth(1).evaluate("image => image.decode().then(() => image.naturalWidth)") == 32
    hostile = (
        "&with=1&mode=x&gain=x&row=-3&column=1e999&output=x&heat=%3Cb%3E&order.KSampler.cfg=66&order.KSampler.cfg=66"
    )
    visit(page, folder, f"#x=no&y=&at.KSampler.cfg=zzz&size=x&super_x=KSampler.cfg&super_y=KSampler.cfg{hostile}")
    assert headings(page, "super_x") == ["66", "5", "6"]
    assert page.locator(".cell").count() == 3


def test_the_address_keeps_what_is_in_sight(page, folder):
    page.locator("#size").fill("512")
    page.locator("main").evaluate("main => main.scrollTo(513, 385)")
    page.wait_for_function("/row=1&column=1/.test(location.hash)")
    visit(page, folder, link(page))
    assert page.locator("main").evaluate("main => [main.scrollLeft, main.scrollTop]") == [513, 385]
    page.evaluate("document.execCommand = () => { window.copied = document.activeElement.value; }")
    page.locator("#link").click()
    assert page.evaluate("copied === location.href")
    assert page.locator("#notice span").inner_text() == "The link to this view is copied."


def test_the_address_is_written_seldom(page):
    """Browsers refuse more than a hundred times in 30 seconds, which a key that is held down would reach."""
    page.evaluate("window.times = 0; history.replaceState = () => { times += 1; }; undefined")
    page.evaluate("for (let i = 0; i < 1000; i++) move(0, 1)")
    assert page.evaluate("times") < 100
    page.wait_for_function("writing === 0")  # the last view is written


def test_pictures_scale_to_the_window(page):
    columns = "(document.querySelector('#cell-0-3').getBoundingClientRect().right)"
    page.locator("#fit-width").click()
    frame = page.locator("main").bounding_box()
    assert frame["width"] - 40 < page.evaluate(columns) <= frame["width"]
    page.set_viewport_size({"width": 800, "height": 700})  # it stays so
    page.wait_for_function(f"{columns} <= 800 && {columns} > 740")
    page.locator("#fit-all").click()
    bottom = page.evaluate("document.querySelector('#cell-2-0').getBoundingClientRect().bottom")
    assert 600 < bottom <= 700
    page.locator("#size").fill("300")
    assert cell(page, 0, 0).locator("img").bounding_box()["width"] == 300
    assert cell(page, 0, 0).locator("img").bounding_box()["height"] == 225  # as the pictures


def test_a_running_grid_grows_in_the_page(page, grid, folder):
    page.locator("select.other").nth(1).select_option(label="heun")
    assert page.locator(".waiting").count() == 3
    cell(page, 0, 3).click()
    assert "Not there yet" in facts(page)
    runner(grid, folder, Pictures()).run()
    page.evaluate("look()")
    page.wait_for_function("document.querySelectorAll('.waiting').length === 0")
    assert page.locator("select.other").nth(1).input_value() == "1"
    assert "0.25 s" in facts(page)


def test_a_grid_that_is_extended_keeps_the_view(browser, tmp_path):
    files = {"cells/a.png": picture(RED), "cells/b.png": picture(BLUE)}
    axes = [axis("x", "a", "b"), axis("y", "1", "2")]
    written(tmp_path, axes, {0: {"files": ["cells/a.png"]}}, files, running=True)
    with opened(browser, tmp_path) as page:
        page.locator(".values summary").nth(0).click()
        page.locator(".values .down").nth(0).click()
        page.locator("#size").fill("100")
        axes = [axis("x", "new", "a", "b"), axis("y", "1", "2"), axis("z", "7", "8")]
        written(tmp_path, axes, {6: {"files": ["cells/b.png"]}}, files)
        page.wait_for_selector("select.other")  # it looks by itself while the grid runs
        assert headings(page) == ["b", "a", "new"]
        assert near(colour(page, cell(page, 1, 1).locator("img")), BLUE)  # number 6 is (a, 2, 7)
        assert page.locator("#size").input_value() == "100"


def test_long_texts_are_cut_in_the_table_alone(browser, tmp_path):
    text = "word " * 2000
    written(tmp_path, [axis("x", text, "b")], {0: {"error": text}, 1: {"texts": {"Show": text}}})
    with opened(browser, tmp_path) as page:
        assert max(map(len, [*page.locator(".cell").all_inner_texts(), *headings(page)])) <= 500
        cell(page, 0, 0).click()
        assert facts(page).count("word") == 4000
        page.keyboard.press("ArrowRight")
        assert facts(page).count("word") == 2000


def test_only_cells_in_sight_are_in_the_page(browser, tmp_path):
    axes = [axis("x", *map(str, range(100))), axis("y", *map(str, range(100)))]
    files = [f"cells/{number}.png" for number in range(3)]
    cells = {number: {"files": [files[number % 3]]} for number in range(10000)}
    written(tmp_path, axes, cells, {file: picture((80 * i, 0, 0)) for i, file in enumerate(files)})
    with opened(browser, tmp_path) as page:
        page.wait_for_function("document.querySelectorAll('.cell img[src]').length > 30")
        assert page.locator(".cell").count() < 200
        page.locator("main").evaluate("main => main.scrollTo(main.scrollWidth, main.scrollHeight)")
        cell(page, 99, 99).wait_for()
        assert headings(page)[-1] == headings(page, "y")[-1] == "99"
        assert cell(page, 99, 99).get_attribute("data-number") == "9999"
        assert near(colour(page, cell(page, 98, 98).locator("img")), (80 * (9898 % 3), 0, 0))
        assert page.locator(".cell").count() < 200
        page.locator("#size").fill("24")
        page.wait_for_function("document.querySelectorAll('.cell').length > 1000")


def test_a_heat_map_colours_cells_by_any_score(browser, scored):
    with opened(browser, scored) as page:
        assert page.locator("#heat option").all_inner_texts() == ["-", XSS, "psnr", "Time"]
        page.locator("#heat").select_option(label="psnr")
        assert page.locator(".bar").all_inner_texts() == ["10", "20", "30"]  # rows first: the second row has one
        dark, light = ((68, 1, 84), (253, 231, 37))
        bars = page.locator(".bar").evaluate_all("bars => bars.map((bar) => bar.style.backgroundColor)")
        assert (bars[0], bars[2]) == (f"rgb{dark}", f"rgb{light}")
        assert page.locator("#legend").inner_text().split() == ["10", "30"]
        page.locator("#plain").check()
        assert colour(page, cell(page, 1, 0)) == light
        page.locator(".values summary").nth(1).click()
        page.locator(".values .sort").nth(1).click()
        assert headings(page, "y") == ["2", "1"]
        page.locator("#heat").select_option(label="Time")
        assert page.locator("#legend").inner_text().split() == ["0.5", "1.5"]
        fragment = link(page)
        visit(page, scored, fragment)
        assert page.locator("#plain").is_checked()
        cell(page, 1, 0).click()
        assert f"psnr\n10\n{XSS}\n1" in facts(page)


def test_outputs_texts_errors_and_lost_files_have_their_cells(browser, scored):
    with opened(browser, scored) as page:
        assert cell(page, 0, 0).locator(".count").inner_text() == "1/2"
        assert near(colour(page, cell(page, 0, 0).locator("img")), RED)
        page.locator("#output").select_option("2")
        assert near(colour(page, cell(page, 0, 0).locator("img")), BLUE)
        page.locator("#output").select_option("0")
        assert cell(page, 0, 0).locator("img").count() == 2
        assert cell(page, 0, 1).inner_text() == f"only {XSS}"
        assert cell(page, 1, 1).inner_text() == f"No {XSS}"
        cell(page, 0, 2).get_by_text("The file gone.png is missing.").wait_for()
        assert cell(page, 1, 2).inner_text() == "Not there yet"
        cell(page, 0, 0).click()
        assert page.locator("#large img").count() == 2
        page.keyboard.press("ArrowDown")
        assert f"Show\nt {XSS}" in facts(page)


def test_a_thumbnail_that_is_gone_is_replaced_by_its_picture(browser, tmp_path):
    files = {"cells/a.png": picture(RED), "cells/b.png": picture(BLUE)}
    written(tmp_path, [axis("x", "a", "b")], {n: {"files": [file]} for n, file in enumerate(files)}, files)
    (tmp_path / "thumbs" / "a.png.js").unlink()
    with opened(browser, tmp_path) as page:
        page.wait_for_function("document.querySelectorAll('.cell img[src]').length === 2")
        assert cell(page, 0, 0).locator("img").get_attribute("src") == "./cells/a.png"
        assert near(colour(page, cell(page, 0, 0).locator("img")), RED)
        assert cell(page, 0, 1).locator("img").get_attribute("src").startswith("data:image/jpeg")


def test_file_names_and_titles_stay_text(browser, tmp_path):
    name = "cells/a'\"&<b>#%20?.png"
    sets = {f"{XSS}.x": XSS}
    axes = [axis(XSS, {"title": XSS, "sets": sets, "description": XSS}, "</script><script>attacked=1</script>")]
    cells = {0: {"files": [name], "texts": {XSS: XSS}, "scores": {"__proto__": 1}}, 1: {"error": XSS}}
    written(tmp_path, axes, cells, {name: picture(RED)}, title="</title><script>attacked=1</script>")
    with opened(browser, tmp_path) as page:
        assert near(colour(page, cell(page, 0, 0).locator("img")), RED)
        page.locator("#size").fill("512")  # the picture itself
        assert near(colour(page, cell(page, 0, 0).locator("img")), RED)
        assert headings(page) == [XSS, "</script><script>attacked=1</script>"]
        cell(page, 0, 0).click()
        assert facts(page).count(XSS) == 7
        assert page.locator("#facts a").inner_text() == name.removeprefix("cells/")


def test_videos_sounds_and_other_files(browser, tmp_path):
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="webm") as container:
        stream = container.add_stream("libvpx", rate=8, width=64, height=48, pix_fmt="yuv420p")
        for level in (40, 80, 120):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), level, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    axes = [axis("x", "a", "b", "c")]
    cells = {n: {"files": [f], "thumbs": False} for n, f in enumerate(("cells/a.webm", "cells/b.mp3", "cells/c.bin"))}
    files = {"cells/a.webm": buffer.getvalue(), "cells/b.mp3": b"", "cells/c.bin": b"x"}
    with opened(browser, written(tmp_path, axes, cells, files)) as page:
        page.wait_for_function("document.querySelector('.cell video').videoWidth === 64")
        assert cell(page, 0, 0).locator("video").evaluate("video => video.paused")
        cell(page, 0, 0).hover()
        page.wait_for_function("!document.querySelector('.cell video').paused")
        assert cell(page, 0, 2).inner_text() == "c.bin"
        cell(page, 0, 0).click()
        page.wait_for_function("document.querySelector('#large video').currentTime > 0")
        page.keyboard.press("ArrowRight")
        assert page.locator("#large audio").count() == 1
        page.keyboard.press("ArrowRight")
        assert page.locator("#large a").get_attribute("download") == "c.bin"


def test_two_cells_are_compared(page):
    cell(page, 0, 0).click()
    page.keyboard.press("c")
    page.keyboard.press("ArrowRight")
    captions = page.locator("figcaption")
    assert captions.all_inner_texts() == ["A \u00b7 KSampler.seed: 1", "B \u00b7 KSampler.seed: 2"]
    one, two = (60, 100, 0), (120, 100, 0)
    pictures = page.locator("#large img")
    assert [colour(page, pictures.nth(i)) for i in (0, 1)] == [one, two]
    page.locator("#exchange").click()
    assert [colour(page, pictures.nth(i)) for i in (0, 1)] == [two, one]
    page.keyboard.press("d")
    difference = page.locator(".difference")
    assert colour(page, difference) == (60, 0, 0)
    page.locator("#gain").fill("4")
    assert near(colour(page, difference), (240, 0, 0))
    page.locator("#exchange").focus()
    page.keyboard.press("ArrowRight")  # the same cell: no difference
    assert colour(page, difference) == (0, 0, 0)
    page.keyboard.press("c")
    assert page.locator("figure").count() == 0


def test_a_flickering_comparison_goes_to_and_fro(page):
    page.emulate_media(reduced_motion="reduce")
    cell(page, 0, 0).click()
    page.keyboard.press("Escape")
    cell(page, 0, 2).click(modifiers=["Shift"])
    page.keyboard.press("k")
    pair, seen = page.locator(".flicker"), []
    for _ in range(3):
        seen.append(colour(page, pair))
        page.keyboard.press("Space")
    assert seen == [(180, 100, 0), (60, 100, 0), (180, 100, 0)]
    page.set_viewport_size({"width": 720, "height": 800})
    page.keyboard.press("Digit3")
    captions, images = page.locator("figcaption"), page.locator("#large img")
    assert captions.nth(0).bounding_box() != captions.nth(1).bounding_box()
    assert images.nth(0).bounding_box() == images.nth(1).bounding_box()  # the pictures stand still
    page.emulate_media(reduced_motion="no-preference")
    page.keyboard.press("s")
    page.keyboard.press("k")
    page.locator("#seconds").fill("0.1")
    for shown in (".flicker.second", ".flicker:not(.second)", ".flicker.second"):
        page.wait_for_selector(shown)


def test_a_comparison_of_two_sizes_says_so(browser, tmp_path):
    axes, files = [axis("x", "a", "b")], {"cells/a.png": picture(RED), "cells/b.png": picture(RED, (64, 48))}
    cells = {number: {"files": [file]} for number, file in enumerate(files)}
    with opened(browser, written(tmp_path, axes, cells, files)) as page:
        cell(page, 0, 0).click()
        page.keyboard.press("c")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("d")
        sentence = "A has 32 x 24 pixels and B 64 x 48: both are scaled."
        assert page.locator(".sizes").inner_text() == sentence


def test_the_page_speaks_the_browsers_language_and_the_users(browser, folder):
    with opened(browser, folder, locale="zh-CN") as page:
        assert page.locator("#png").inner_text() == "\u4fdd\u5b58\u4e3a PNG"
        assert page.locator("html").get_attribute("lang") == "zh-CN"
        page.locator("#language").click()
        assert page.locator("#png").inner_text() == "Save as PNG"
        visit(page, folder, link(page))
        assert page.locator("#png").inner_text() == "Save as PNG"
    with opened(browser, folder) as page:
        page.locator("#language").click()
        page.locator("select.other").nth(1).select_option(label="dpmpp_2m")
        assert "Skipped" not in page.locator("main").inner_text()
        page.locator("#help").click()
        assert page.locator("#keys dt").first.inner_text().startswith("\u65b9\u5411\u952e")


def test_the_page_fits_a_phone(browser, folder):
    with opened(browser, folder, viewport={"width": 390, "height": 844}) as page:
        assert page.evaluate("document.documentElement.scrollWidth <= 390")
        assert page.locator("main").bounding_box()["height"] > 500
        cell(page, 0, 0).click()
        assert page.locator("#large img").bounding_box()["height"] > 200
        assert page.locator("#facts").bounding_box()["x"] < 20
