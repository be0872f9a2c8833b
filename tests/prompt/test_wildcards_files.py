"""Wildcard files: the lists that dynamicprompts finds, encodings, damaged files, and the folders of other packs."""

import json

import folder_paths
import pytest
from dynamicprompts.wildcards import WildcardManager

from kit.wildcards import put
from pentimento.model_patchers.prompt import wildcards_files
from pentimento.model_patchers.prompt.wildcards_files import Files, folders


def texts(files, name):
    return [text for _, text in files.lines(name)]


def test_every_list_is_that_of_dynamicprompts(tmp_path):
    files, manager = put(tmp_path), WildcardManager(tmp_path)
    names = sorted(manager.get_collection_names())
    assert {"clothes/summer", "animals/snakes", "tastes/sweet/very", "all colours"} <= set(names)
    for name in [*names, "colours*", "animals/*", "*/s*", "**", "cats", "s*", "clothes/[sw]*", "tastes/**"]:
        assert texts(files, name) == manager.get_values(name).string_values


def test_lines_may_have_weights(tmp_path):
    entries = ["2.5::a", {"weight": 3, "text": "b"}, {"content": "c"}, 7, 1.5, "x::d", None, "", "{3::|e}"]
    files = put(tmp_path, {"t.txt": "2::a\n.5::b\nc::d\n{3::e|f}\n", "y.yaml": json.dumps({"l": entries})})
    assert files.lines("t") == ((2.0, "a"), (0.5, "b"), (1.0, "c::d"), (1.0, "{3::e|f}"))
    expected = {(2.5, "a"), (3.0, "b"), (1.0, "c"), (1.0, "7"), (1.0, "1.5"), (1.0, "x::d"), (1.0, "{3::|e}")}
    assert set(files.lines("l")) == expected


@pytest.mark.parametrize(
    "data",
    [
        "caf\u00e9\r\nna\u00efve\r\n".encode(),
        "\ufeffcaf\u00e9\nna\u00efve".encode(),
        "caf\u00e9\r\nna\u00efve".encode("cp1252"),
        "caf\u00e9\rna\u00efve\r".encode(),
        "caf\u00e9\r\nna\u00efve\r\n".encode("utf-16"),
        "  caf\u00e9\t\n\n# no\n \nna\u00efve\n  # no".encode(),
    ],
    ids=["CRLF", "mark", "cp1252", "CR", "utf-16", "space"],
)
def test_files_of_every_editor_are_read(tmp_path, data):
    assert texts(put(tmp_path, {"a.txt": data}), "a") == ["caf\u00e9", "na\u00efve"]


def test_names_are_the_same_on_every_system(tmp_path):
    files = put(tmp_path, {"Sub Folder/Hair.TXT": "bob", "\u8272.yml": "- \u7ea2"})
    assert texts(files, "sub folder/hair") == texts(files, "SUB*\\hair") == texts(files, " hair ") == ["bob"]
    assert texts(files, "\u8272") == ["\u7ea2"]


def test_hidden_and_other_files_are_no_wildcards(tmp_path):
    put(tmp_path, {".git/a.txt": "x", ".b/c.txt": "x", "d/.e.txt": "x", "readme.md": "x", "f.txt": "y"})
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nowhere")
    files = Files([tmp_path])
    assert texts(files, "**") == ["y"]


@pytest.mark.parametrize("name", ["../a", "..\\a", "x/../../a", "/../a"])
def test_no_name_leaves_the_folders(tmp_path, name):
    put(tmp_path, {"a.txt": "secret"})
    with pytest.raises(ValueError, match="leaves the wildcard folders. Write a name without '..'"):
        put(tmp_path / "wildcards", {"b.txt": "x"}).lines(name)
    with pytest.raises(ValueError, match="There is no wildcard"):
        Files([tmp_path / "wildcards"]).lines(str(tmp_path / "a"))


def test_the_first_folder_wins(tmp_path):
    put(tmp_path / "one", {"a.txt": "1", "y.yaml": "l: [one]"})
    put(tmp_path / "two", {"a.txt": "2", "b.txt": "3", "z.yaml": "l: [two]"})
    files = Files([tmp_path / "one", tmp_path / "two"])
    assert [texts(files, name) for name in ("a", "b", "l", "*")] == [["1"], ["3"], ["one"], ["1", "3", "one"]]


DAMAGED = {
    "yaml": ({"a.yaml": "l: [x"}, "no wildcard 'l'.*a.yaml' is unreadable, so that its wildcards are missing: while"),
    "json": ({"a.json": '{"l": ["x",]}'}, "a.json' is unreadable.*"),
    "yaml in itself": ({"a.yaml": "&a {l: *a}"}, "a.yaml' is unreadable"),
    "neither": ({"a.yaml": "hello"}, "no wildcard 'l'"),
    "empty": ({"l.txt": "# nothing\n"}, "The wildcard 'l' has no lines: '.*l.txt' is empty"),
    "an entry": (
        {"a.yaml": "l:\n- red: dress"},
        "list 'l' in '.*a.yaml' has an entry that is no text: .'red': 'dress'",
    ),
    "a weight": ({"a.yaml": "l:\n- {weight: much, text: x}"}, "has the weight 'much'. Write a number of 0 or more"),
    "less than nothing": ({"a.yaml": "l:\n- {weight: -1, text: x}"}, "has the weight '-1'"),
    "no files": ({}, "no file l.txt .* looked in .*. Put the file in models/wildcards, or correct the name"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_what_is_missing_is_said_with_its_file(tmp_path, case):
    contents, sentence = DAMAGED[case]
    with pytest.raises(ValueError, match=sentence):
        put(tmp_path, contents).lines("l")


def test_without_any_folder_the_place_is_said():
    with pytest.raises(ValueError, match="json file. Put the file in models/wildcards, or correct the name.$"):
        Files([]).lines("l")


def test_a_damaged_file_leaves_the_others_alone(tmp_path):
    files = put(tmp_path, {"a.yaml": "l: [x", "b.yaml": "m: [y]"})
    assert texts(files, "m") == ["y"]


def test_a_file_is_read_when_it_is_wanted_and_again_when_it_changes(tmp_path, monkeypatch):
    read = []
    text_of = wildcards_files._text
    monkeypatch.setattr(wildcards_files, "_text", lambda path: read.append(path) or text_of(path))
    files = put(tmp_path, {"a.txt": "x", "b.txt": "y", "c.yaml": "l: [z]"})
    assert not read
    for _ in range(3):
        assert texts(Files([tmp_path]), "a") == ["x"]
    assert read == [str(tmp_path / "a.txt")]
    before = files.versions()
    put(tmp_path, {"a.txt": "longer"})
    assert texts(Files([tmp_path]), "a") == ["longer"]
    assert files.versions() != before


def test_a_huge_file_is_no_trouble(tmp_path):
    files = put(tmp_path, {"a.txt": "\n".join(f"line {number:06}" for number in range(200_000))})
    assert texts(files, "a")[-1] == "line 199999"


def test_the_folders_of_common_packs_are_found_after_those_of_comfyui(tmp_path, monkeypatch):
    models, packs = tmp_path / "models" / "wildcards", tmp_path / "custom_nodes"
    of_packs = ["ComfyUI-Impact-Pack/wildcards", "ComfyUI-Impact-Pack/custom_wildcards", "dynamicprompts/wildcards"]
    expected = [models, tmp_path / "wildcards", *(packs / name for name in of_packs)]
    for folder in [*expected, packs / "other" / "web"]:
        folder.mkdir(parents=True)
    table = {"wildcards": ([str(models)], {".txt"}), "custom_nodes": ([str(packs)], set())}
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", table)
    monkeypatch.setattr(folder_paths, "base_path", str(tmp_path))
    assert folders() == expected
