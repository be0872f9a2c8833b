"""Small copies of picture files as data URLs."""

import base64
import io
import sys

import numpy as np
import pytest
from PIL import Image

from pentimento.model_patchers.pixels.thumbnail import data_url


def content(image, form="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def small(url):
    """The form of a data URL, and its picture."""
    head, data = url.split(",")
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    image.load()
    return head, image


def ramp(width, height):
    return Image.fromarray(np.linspace(0, 255, width, dtype=np.uint8)[None].repeat(height, 0))


@pytest.mark.parametrize(("size", "expected"), [((400, 100), (100, 25)), ((30, 90), (30, 90)), ((1000, 1), (100, 1))])
def test_a_copy_has_the_longer_side_and_the_shape(size, expected):
    head, image = small(data_url(content(Image.new("RGB", size, (200, 30, 40))), 100))
    assert (head, image.size) == ("data:image/jpeg;base64", expected)
    assert np.abs(np.asarray(image, int) - (200, 30, 40)).max() < 6


def test_a_copy_is_averaged_not_picked():
    """Columns of black and white become grey; every fourth pixel would be black."""
    stripes = Image.fromarray(np.tile(np.array([0, 255], np.uint8), (64, 128)))
    assert np.abs(np.asarray(small(data_url(content(stripes), 64))[1], int) - 128).max() < 20


def test_transparent_pictures_stay_so_and_others_are_jpeg():
    clear = Image.new("RGBA", (300, 200), (10, 20, 30, 0))
    head, image = small(data_url(content(clear), 100))
    assert (head, image.mode, image.getpixel((5, 5))[3]) == ("data:image/png;base64", "RGBA", 0)
    palette = Image.new("P", (20, 20))
    assert small(data_url(content(palette, transparency=0), 100))[1].getpixel((0, 0))[3] == 0
    for image in (Image.new("L", (20, 20), 7), Image.new("1", (20, 20)), palette):
        assert small(data_url(content(image), 100))[0] == "data:image/jpeg;base64"
    assert small(data_url(content(ramp(30, 30), "WEBP", lossless=True), 100))[0] == "data:image/jpeg;base64"


def test_what_moves_is_damaged_or_no_picture_has_no_copy():
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    whole = content(ramp(200, 200))
    assert data_url(content(frames[0], "GIF", save_all=True, append_images=frames[1:]), 100) is None
    assert data_url(content(frames[0], "WEBP", save_all=True, append_images=frames[1:]), 100) is None
    assert data_url(content(frames[0], save_all=True, append_images=frames[1:]), 100) is None
    assert data_url(whole[: len(whole) // 2], 100) is None
    assert data_url(b"no picture", 100) is None
    assert data_url(b"", 100) is None
    assert data_url(content(Image.fromarray(np.zeros((9, 9), np.uint16))), 100) is None  # of 16 bits


def test_a_picture_of_too_many_pixels_has_no_copy(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert data_url(content(ramp(30, 30)), 100) is None


def test_without_pillow_there_is_no_copy(monkeypatch):
    picture = content(ramp(30, 30))
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert data_url(picture, 100) is None
