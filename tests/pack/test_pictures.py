"""The thumbnails of the workflows and the pictures of the help pages."""

import re

import pytest
from PIL import Image

from kit.paths import PACK

THUMBNAILS = sorted((PACK / "workflows").glob("*.jpg"))
PAGES = sorted((PACK / "web" / "docs").glob("*.md"))


def first_picture(page):
    """(what it says that its picture shows, the picture's path) of a help page."""
    text, name = re.search(r"^!\[(.+)\]\((.+)\)$", page.read_text(), re.MULTILINE).groups()
    return text, page.parent / name


@pytest.mark.parametrize("path", THUMBNAILS, ids=lambda path: path.stem)
def test_a_thumbnail_fills_the_square_card_and_is_small(path):
    with Image.open(path) as picture:
        assert picture.size == (480, 480)
    assert path.stat().st_size < 100_000


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_picture_of_a_help_page_fits_the_panel_and_is_small(page):
    _, path = first_picture(page)
    with Image.open(path) as picture:
        assert 400 < picture.width <= 1200
    assert path.stat().st_size < 150_000


def test_no_two_thumbnails_and_no_two_help_pages_show_the_same_picture_or_say_the_same_of_it():
    assert len({path.read_bytes() for path in THUMBNAILS}) == len(THUMBNAILS)
    texts, paths = zip(*map(first_picture, PAGES), strict=True)
    assert len(set(texts)) == len({path.read_bytes() for path in paths}) == len(PAGES)
