"""What the page of a grid saves: its table as a PNG and a cell along an axis as a GIF, in Chromium."""

import io

import numpy as np
import pytest
from PIL import Image

from kit.grid_page import axis, cell, near, opened, options, picture, served, written

RED, BLUE, GREEN = (200, 30, 40), (20, 40, 220), (10, 160, 60)
SIDE, HEAD, SIZE, HIGH = 150, 36, 161, 121  # px: headings, and a cell with its line
FROM_DISK = "A page on the disk may not read the pictures beside it."


def smooth(size=(400, 300)):
    """A picture of more than 256 colours."""
    rows, columns = np.mgrid[: size[1], : size[0]]
    levels = np.stack([255 * columns / size[0], 255 * rows / size[1], 128 + 0 * rows], -1)
    buffer = io.BytesIO()
    Image.fromarray(levels.astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


FILES = {"cells/red.png": picture(RED), "cells/two.png": picture(BLUE), "cells/smooth.png": smooth()}
AXES = [axis("x", "one", "two", "three"), axis("y", "up", "down")]
CELLS = {
    0: {"files": ["cells/red.png", "cells/two.png"], "scores": {"psnr": 1}},
    1: {"error": "No <b>"},
    2: {"files": ["cells/two.png"], "scores": {"psnr": 3}},
    4: {"files": ["cells/smooth.png"]},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return written(tmp_path_factory.mktemp("thumbs"), AXES, CELLS, FILES, title="A/B: <i>")


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The same without thumbnails, as a run without Pillow leaves it."""
    cells = {number: record | {"thumbs": False} for number, record in CELLS.items()}
    return written(tmp_path_factory.mktemp("plain"), AXES, cells, FILES)


def saved(page, act):
    """The name and the picture of what the page saves."""
    with page.expect_download() as download:
        act()
    return download.value.suggested_filename, Image.open(io.BytesIO(download.value.path().read_bytes()))


def at(image, column, row):
    """The colour in the middle of a cell of the saved table."""
    return image.convert("RGB").getpixel((SIDE + SIZE * column + 80, HEAD + HIGH * row + 60))


def painted(image, box):
    """Whether there is anything but one colour in a part of a picture."""
    return len(image.convert("RGB").crop(box).getcolors(100000)) > 1


def test_the_table_is_saved_as_png_from_the_disk(browser, folder):
    with opened(browser, folder) as page:
        name, image = saved(page, page.locator("#png").click)
        assert (name, image.format) == ("A_B_ _i_.png", "PNG")
        assert image.size == (SIDE + 3 * SIZE, HEAD + 2 * HIGH)
        assert near(at(image, 0, 0), RED)
        assert near(at(image, 1, 0), BLUE)
        assert near(at(image, 2, 0), (127, 127, 128))
        assert painted(image, (SIDE + 2, HEAD + HIGH + 2, SIDE + SIZE - 2, HEAD + 2 * HIGH - 2))  # the error
        assert painted(image, (SIDE + 2, 2, SIDE + SIZE - 2, HEAD - 2))  # the heading
        assert painted(image, (2, HEAD + 2, SIDE - 2, HEAD + HIGH - 2))
        assert page.locator("#notice span").inner_text() == "A_B_ _i_.png is saved."
        page.locator("#output").select_option("0")  # both outputs of the first cell
        image = saved(page, page.locator("#png").click)[1].convert("RGB")
        assert near(image.getpixel((SIDE + 40, HEAD + 60)), RED)
        assert near(image.getpixel((SIDE + 120, HEAD + 60)), BLUE)


def test_the_whole_table_is_saved_with_its_heat_map_and_super_axes(browser, folder):
    with opened(browser, folder, viewport={"width": 500, "height": 600}) as page:
        page.locator("#panel").evaluate("panel => { panel.open = true; }")
        options(page, "y", "-")
        options(page, "super_x", "y")
        page.locator("#heat").select_option(label="psnr")
        page.locator("#plain").check()
        image = saved(page, page.locator("#png").click)[1].convert("RGB")
        assert image.size == (6 * SIZE, 2 * HEAD + HIGH)
        assert image.getpixel((5, 2 * HEAD + 5)) == (68, 1, 84)
        assert image.getpixel((SIZE + 5, 2 * HEAD + 5)) == (253, 231, 37)


def test_a_large_table_is_scaled_to_what_a_png_may_have(browser, tmp_path):
    axes = [axis("x", *map(str, range(100))), axis("y", *map(str, range(100)))]
    with opened(browser, written(tmp_path, axes, {0: {"error": "x"}})) as page:
        size = saved(page, page.locator("#png").click)[1].size
        assert max(size) <= 16384
        assert 60e6 < size[0] * size[1] <= 64.1e6


def test_the_table_is_saved_from_a_server(browser, plain):
    with served(plain) as address, opened(browser, address) as page:
        image = saved(page, page.locator("#png").click)[1]
        assert (at(image, 0, 0), at(image, 1, 0)) == (RED, BLUE)


def test_without_thumbnails_the_page_on_the_disk_asks_for_its_folder(browser, plain, tmp_path):
    with opened(browser, plain) as page:
        page.locator("#png").click()
        assert page.locator("#notice span").inner_text().startswith(FROM_DISK)
        image = saved(page, page.locator("#without").click)[1]
        assert not near(at(image, 0, 0), RED)
        page.locator("#png").click()
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "a.png").write_bytes(b"")
        page.locator("#folder").set_input_files(tmp_path / "other")
        assert page.locator("#notice span").inner_text().startswith("That folder has none of the pictures.")
        with page.expect_file_chooser() as chooser:
            page.locator("#choose").click()
        image = saved(page, lambda: chooser.value.set_files(plain))[1]
        assert (at(image, 0, 0), at(image, 1, 0)) == (RED, BLUE)


def test_enlarged_thumbnails_are_said_and_the_folder_makes_them_sharp(browser, folder):
    with opened(browser, folder) as page:
        page.locator("#size").fill("400")
        saved(page, page.locator("#png").click)
        assert "with thumbnails of 256 pixels" in page.locator("#notice span").inner_text()
        image = saved(page, lambda: page.locator("#folder").set_input_files(folder))[1]
        assert image.convert("RGB").getpixel((SIDE + 2 * 401 + 300, HEAD + 100)) == (191, 85, 128)
        assert page.locator("#notice span").inner_text() == "A_B_ _i_.png is saved."


@pytest.mark.parametrize("many", [False, True])
def test_a_cell_is_saved_along_an_axis_as_gif(browser, tmp_path, many):
    """Decoded by Pillow: the frames in the order of the axis, exact where there are few colours."""
    first = smooth() if many else picture(RED, (160, 120))
    files = {"cells/a.png": first, "cells/b.png": picture(BLUE, (160, 120)), "cells/c.png": picture(GREEN, (160, 120))}
    cells = {number: {"files": [file], "thumbs": False} for number, file in enumerate(files)}
    path = written(tmp_path, [axis("seed", "1", "2", "3", "4")], cells, files, title="Cats")
    with served(path) as address, opened(browser, address, "#order.seed=3&seconds=0.25") as page:
        cell(page, 0, 1).click()
        name, image = saved(page, page.locator("#gif-0").click)
    width, height = (400, 300) if many else (160, 120)
    assert (name, image.size, image.n_frames, image.info["loop"]) == ("Cats.gif", (width, height + 28), 4, 0)
    frames = []
    for number in range(4):
        image.seek(number)
        assert image.info["duration"] == 250
        frames.append(image.convert("RGB").crop((0, 0, width, height)))
        assert painted(image, (0, height, width, height + 28))  # the title of the value
    middle = [frame.getpixel((20 if many else width // 2, 15 if many else height // 2)) for frame in frames]
    if not many:
        assert middle[:3] == [GREEN, RED, BLUE]
        return
    assert (middle[0], middle[2]) == (GREEN, BLUE)  # scaled to the frame
    error = np.asarray(frames[1], float) - np.asarray(Image.open(io.BytesIO(first)), float)
    assert abs(error).mean() < 8  # of 256 colours
    blocks = error.reshape(15, 20, 20, 20, 3).mean((1, 3))
    assert abs(blocks[1:-1, 1:-1]).max() < 3  # the error is spread: no shift of a colour


def test_a_gif_from_the_disk_is_made_of_thumbnails(browser, folder):
    with opened(browser, folder) as page:
        cell(page, 0, 0).click()
        image = saved(page, page.locator("#gif-0").click)[1]
        assert (image.size, image.n_frames) == ((256, 192 + 28), 3)
