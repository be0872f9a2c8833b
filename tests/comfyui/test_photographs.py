"""The workflows' photographs in ComfyUI's input folder."""

import logging

import av
import pytest

from pentimento.model_patchers.comfyui import photographs

NAMES = sorted([*(file.name for file in photographs.FOLDER.glob("*.png")), photographs.CLIP])


def test_missing_photographs_are_copied_and_named_in_the_log(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    photographs.put(tmp_path / "new" / "input")
    assert sorted(file.name for file in (tmp_path / "new" / "input").iterdir()) == NAMES
    for file in photographs.FOLDER.glob("*.png"):
        assert (tmp_path / "new" / "input" / file.name).read_bytes() == file.read_bytes()
    with av.open(str(tmp_path / "new" / "input" / photographs.CLIP)) as clip:
        assert len(list(clip.decode(video=0))) == photographs.FRAMES
    assert ", ".join(NAMES) in caplog.text
    assert str(tmp_path) in caplog.text


def test_what_is_there_stays_and_a_full_folder_says_nothing(tmp_path, caplog):
    (tmp_path / NAMES[0]).write_text("the user's own")
    (tmp_path / NAMES[1]).symlink_to(tmp_path / "a disk that is not mounted.png")
    photographs.put(tmp_path)
    caplog.set_level(logging.INFO)
    photographs.put(tmp_path)
    assert (tmp_path / NAMES[0]).read_text() == "the user's own"
    assert (tmp_path / NAMES[1]).is_symlink()
    assert sorted(file.name for file in tmp_path.iterdir()) == NAMES
    assert not caplog.records


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(28, "No space left on device")])
def test_a_folder_that_cannot_be_written_to_is_a_sentence(tmp_path, caplog, monkeypatch, error):
    def refuse(file, target):
        target.write_bytes(b"half")
        raise error

    monkeypatch.setattr(photographs.shutil, "copyfile", refuse)
    photographs.put(tmp_path)
    (record,) = caplog.records
    assert error.strerror in record.getMessage()
    assert str(tmp_path) in record.getMessage()
    assert str(photographs.FOLDER) in record.getMessage()
    assert not list(tmp_path.iterdir())


def test_a_file_in_the_folder_s_place_is_a_sentence(tmp_path, caplog):
    (tmp_path / "input").write_text("")
    photographs.put(tmp_path / "input")
    assert "File exists" in caplog.text
