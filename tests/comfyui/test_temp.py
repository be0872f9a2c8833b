"""Pictures in ComfyUI's temp folder."""

from pathlib import Path

import folder_paths
import numpy as np
import pytest
from PIL import Image

from kit.tensors import rand
from pentimento.model_patchers.comfyui.temp import save_picture


def refuse(part, name):
    """As Windows does while another reads the file of this name."""
    raise PermissionError(13, "Access is denied")


@pytest.mark.parametrize("replace", [Path.replace, refuse])
def test_two_may_save_the_same_picture_at_once(tmp_path, monkeypatch, replace):
    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path))
    picture, references, save = rand(1, 5, 7, 3), [], Image.Image.save

    def save_with_another_in_between(image, *args, **kwargs):
        save(image, *args, **kwargs)
        if not references:
            references.append(None)
            references[0] = save_picture(picture)
            monkeypatch.setattr(Path, "replace", replace)

    monkeypatch.setattr(Image.Image, "save", save_with_another_in_between)
    assert save_picture(picture) == references[0]
    assert [path.name for path in tmp_path.iterdir()] == [references[0]["filename"]]
    with Image.open(tmp_path / references[0]["filename"]) as image:
        assert np.array_equal(np.asarray(image), (picture[0] * 255).round().byte().numpy())


def test_a_folder_that_may_not_be_written_to_is_no_success(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path))
    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(PermissionError):
        save_picture(rand(1, 5, 7, 3))
