"""Compare: every picture of both batches is handed to the front end as it is, whatever its size and channels."""

from pathlib import Path

import folder_paths
import numpy as np
import pytest
import torch
from PIL import Image

from kit.tensors import rand
from pentimento.nodes.edit.compare import Compare


@pytest.fixture(autouse=True)
def temp(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path))
    return tmp_path


def shown(*images):
    """The pictures that the front end gets, as arrays: (those of image_a, those of image_b)."""
    ui = Compare.execute(*images).ui
    assert Compare.execute(*images).result is None
    return [[pixels(reference) for reference in ui[key]] for key in ("a_images", "b_images")]


def pixels(reference):
    assert (reference["subfolder"], reference["type"]) == ("", "temp")
    with Image.open(Path(folder_paths.get_temp_directory(), reference["filename"])) as image:
        return np.asarray(image)


def levels(picture):
    return (picture * 255).round().byte().numpy()


def test_every_picture_of_both_batches_is_shown():
    a, b = rand(3, 5, 7, 3), rand(2, 20, 28, 3, seed=1)
    first, second = shown(a, b)
    assert len(first) == 3
    assert len(second) == 2
    assert all(np.array_equal(*pair) for pair in zip(first, map(levels, a), strict=True))
    assert all(np.array_equal(*pair) for pair in zip(second, map(levels, b), strict=True))


def test_grey_is_grey_and_alpha_stays():
    grey, transparent = rand(1, 5, 7, 1), rand(1, 5, 7, 4)
    (first,), (second,) = shown(grey, transparent)
    assert np.array_equal(first, np.broadcast_to(levels(grey[0]), (5, 7, 3)))
    assert np.array_equal(second, levels(transparent[0]))


def test_one_picture_alone_is_shown():
    first, second = shown(rand(1, 5, 7, 3))
    assert len(first) == 1
    assert second == []


def test_values_outside_0_and_1_are_clamped():
    (first,), _ = shown(4 * rand(1, 5, 7, 3) - 1.5)
    assert first.min() == 0
    assert first.max() == 255


def test_a_picture_is_written_once_however_often_it_is_compared(temp):
    same = rand(1, 5, 7, 3).expand(4, -1, -1, -1)
    shown(same, same)
    assert len(list(temp.iterdir())) == 1


@pytest.mark.parametrize("name", ["image_a", "image_b"])
@pytest.mark.parametrize(
    ("picture", "sentence"),
    [
        (torch.full((1, 4, 4, 3), torch.nan), "has NaN or infinity in 16 of its 16 pixels"),
        (torch.zeros(1, 4, 4, 2), "has 2 channels, but pictures are"),
        (torch.zeros(4, 4), "has the shape"),
        (torch.zeros(0, 4, 4, 3), "is an empty batch"),
    ],
)
def test_what_is_no_picture_is_refused_by_name(name, picture, sentence):
    inputs = {"image_a": rand(1, 4, 4, 3), name: picture}
    with pytest.raises(ValueError, match=f"^{name} {sentence}"):
        Compare.execute(**inputs)


def test_an_interrupt_ends_a_long_batch(monkeypatch):
    from comfy import model_management

    monkeypatch.setattr(model_management, "interrupt_processing", True)
    with pytest.raises(model_management.InterruptProcessingException):
        Compare.execute(rand(3, 5, 7, 3))
