"""The route by which Pick Points shows a picture as Load Image loads it."""

import io
import urllib.error
import urllib.request
from pathlib import PureWindowsPath

import numpy as np
import pytest
from PIL import Image, ImageOps

from kit.pictures import red_spot, turned_file
from pentimento.routes import picture
from pentimento.routes.refused import Refused

NAME = "pentimento_turned"


@pytest.fixture
def put(host, monkeypatch):
    """Puts a file in ComfyUI's input folder; its name."""
    import folder_paths

    monkeypatch.setattr(folder_paths, "input_directory", str(host.input))

    def put(content, suffix):
        file = host.input / f"{NAME}.{suffix}"
        file.write_bytes(content)
        return file.name

    yield put
    for file in host.input.glob(f"{NAME}.*"):
        file.unlink()


def shown(server, filename, folder_type="input"):
    """The address that a browser ends at, and the picture as a browser shows it, which heeds EXIF."""
    with urllib.request.urlopen(f"{server}/api/pentimento/picture?filename={filename}&type={folder_type}") as response:
        return response.url, ImageOps.exif_transpose(Image.open(io.BytesIO(response.read()))).convert("RGB")


def loaded(filename):
    """The levels that Load Image gives."""
    from nodes import LoadImage

    return (LoadImage().load_image(filename)[0][0] * 255).round().numpy()


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_every_orientation_is_shown_as_it_is_loaded(server, put, suffix):
    for orientation in range(1, 9):
        name = put(turned_file(orientation, suffix), suffix)
        address, image = shown(server, name)
        tensor = loaded(name)
        assert np.abs(np.asarray(image) - tensor).max() <= 6  # of two JPEG decoders
        assert (f"filename={name}" in address) == (orientation == 1)


def test_browsers_and_load_image_differ_where_a_photograph_is_mirrored(put):
    """The reason for the route. When ComfyUI mirrors too, this test says that the route can go."""
    differing = []
    for orientation in range(1, 9):
        name = put(turned_file(orientation), "jpg")
        browsers = ImageOps.exif_transpose(Image.open(io.BytesIO(turned_file(orientation))))
        if np.abs(np.subtract(red_spot(browsers), red_spot(loaded(name)))).max() > 1:
            differing.append(orientation)
    assert differing == [2, 4, 5, 7]


def test_of_an_animation_the_first_picture_is_shown(server, put):
    file = io.BytesIO()
    first, second = (Image.new("RGB", (8, 6), colour) for colour in ("red", "blue"))
    first.save(file, "WEBP", save_all=True, append_images=[second], lossless=True)
    name = put(file.getvalue(), "webp")
    assert np.array_equal(np.asarray(shown(server, name)[1]), loaded(name))


def test_a_file_that_browsers_cannot_show_is_shown(server, put):
    file = io.BytesIO()
    Image.new("RGB", (8, 6), "orange").save(file, "TIFF")
    name = put(file.getvalue(), "tiff")
    address, image = shown(server, name)
    assert ".png" in address
    assert np.array_equal(np.asarray(image), loaded(name))


@pytest.mark.parametrize(
    ("filename", "folder_type"),
    [("missing.png", "input"), ("../main.py", "input"), ("/etc/passwd", "input"), ("x.png", "models"), ("", "input")],
)
def test_other_files_are_left_to_view(server, filename, folder_type):
    def status(route):
        try:
            return urllib.request.urlopen(f"{server}/{route}?filename={filename}&type={folder_type}").status
        except urllib.error.HTTPError as error:
            return error.code

    assert status("pentimento/picture") == status("view") >= 400


@pytest.mark.parametrize(
    "subfolder", ["/Windows", "\\Windows", "C:", "C:/Windows", "//server/share", "a/../../b", "..\\b"]
)
def test_no_path_of_windows_leads_out_of_the_folder(tmp_path, monkeypatch, subfolder):
    """A leading slash is no absolute path there, and leads to the root of the drive all the same."""
    monkeypatch.setattr(picture, "PurePath", PureWindowsPath)
    monkeypatch.setattr(picture, "isfile", lambda path: True)
    with pytest.raises(Refused, match="lies outside"):
        picture.locate("x.png", subfolder, "input")
    assert picture.locate("x.png", "a/b", "input") == "a\\b\\x.png [input]"


def test_a_file_that_cannot_be_read_is_left_to_view(server, put):
    name = put(b"nothing", "png")
    with urllib.request.urlopen(f"{server}/pentimento/picture?filename={name}&type=input") as response:
        assert response.read() == b"nothing"
