"""What the folder of a grid's results holds for its page."""

import json
import re

from kit.grid import Fake, runner, shown, spanned
from kit.grid_page import Pictures, folder_of, picture
from pentimento.model_patchers.grid import folder

AXES = {"KSampler.seed": "1, 2", "KSampler.cfg": [5, 66]}


def script(path):
    """The file's name and the data URL that a thumbnail's script hands to the page."""
    call = path.read_text()
    return json.loads(f"[{call.removeprefix('pentimentoThumb(').removesuffix(');' + chr(10))}]")


def test_the_page_is_one_file():
    page = folder.page()
    assert "src=" not in re.sub(r"<script(?s:.*?)</script>|<style>(?s:.*?)</style>", "", page)
    assert set(re.findall(r"<(?:script|style)[^>]*src=", page)) == set()
    parts = [*folder.VIEWER.parent.glob("*.cjs"), *folder.VIEWER.parent.glob("*.css"), folder.VIEWER.parent / "zh.json"]
    assert all(part.read_text(encoding="utf-8") in page for part in parts)
    assert not any("</" in part.read_text(encoding="utf-8") for part in parts)  # would end the script


def test_comfyui_takes_no_part_of_the_page_for_an_extension():
    """Its front end imports every .js below web/."""
    assert [*folder.VIEWER.parent.rglob("*.js")] == []


def test_each_picture_has_a_script_with_a_small_copy(tmp_path):
    runner(spanned(AXES), tmp_path, Pictures()).run()
    cells = shown(tmp_path)[1]
    done = [record for record in cells.values() if "error" not in record]
    assert len(done) == 2
    for record in done:
        (name,) = record["files"]
        assert record["thumbs"] is True
        file, url = script(tmp_path / folder.thumbnail_of(name))
        assert (file, url[:23]) == (name, "data:image/jpeg;base64,")
    assert not any("thumbs" in record for record in cells.values() if "error" in record)


def test_files_without_a_small_copy_are_no_thumbnails(tmp_path):
    """Those of the fake are no pictures, though they are called so."""
    runner(spanned(AXES), tmp_path, Fake()).run()
    assert not any("thumbs" in record for record in shown(tmp_path)[1].values())
    assert not (tmp_path / "thumbs").exists()


def test_a_cell_of_which_one_picture_has_no_copy_has_none(tmp_path):
    runner(spanned({"KSampler.seed": "1, 2", "Size.batch_size": [2]}), tmp_path, Pictures()).run()
    lost = shown(tmp_path)[1][0]["files"][1]
    (tmp_path / folder.thumbnail_of(lost)).unlink()
    runner(spanned({"KSampler.seed": "1, 2", "Size.batch_size": [2]}), tmp_path, Pictures()).run()
    cells = shown(tmp_path)[1]
    assert ["thumbs" in cells[number] for number in (0, 1)] == [False, True]


def test_names_in_scripts_are_escaped(tmp_path):
    files = folder_of(tmp_path).put('a"</script>\u732b', [(".png", picture((1, 2, 3)))], 1)
    path = tmp_path / folder.thumbnail_of(files[0])
    assert script(path)[0] == files[0]
    assert "<" not in path.read_text()
    assert path.read_bytes().isascii()
