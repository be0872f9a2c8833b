"""Grid files: what they say, and a sentence on each fault."""

import json
import random
import re
import string

import pytest

from kit.grid import GRAPH, faulty, library, spanned, written
from kit.paths import PACK
from pentimento.model_patchers.grid import parse
from pentimento.model_patchers.grid.expand import Change, GridError
from pentimento.model_patchers.grid.text import load

FILE = """
title: Cats
description: Which cat?
workflow: workflow.json
out: results/cats
set:
  KSampler.steps: 8
axes:
  Prompt:
    input: Prompt.text
    description: Two cats
    default: grey
    values:
      - cat => tiger
      - title: grey
        description: A cat at night
        value: a grey cat
  Size:
    values:
      - title: portrait
        set: {Size.width: 64, Size.height: 96}
      - title: landscape
        set:
          Size.width: 96
          5.height: 64
      - SKIP:
          title: square
          set: {EmptyLatentImage.width: 80, Size.height: 80}
  KSampler.cfg: 1, 2, ..., 4
view: {x: Prompt, y: KSampler.cfg}
"""


def test_a_file_says_a_grid(tmp_path):
    grid = parse.parse(FILE, written(tmp_path))
    assert (grid.title, grid.description, grid.out) == ("Cats", "Which cat?", "results/cats")
    assert [axis.title for axis in grid.axes] == ["Prompt", "Size", "KSampler.cfg"]
    assert grid.size() == 2 * 2 * 4
    prompt, size, cfg = grid.axes
    assert prompt.values[0].changes == (Change("3", "text", "tiger", find="cat"),)
    assert (prompt.values[1].title, prompt.values[1].description, prompt.default) == ("grey", "A cat at night", 1)
    assert size.values[1].changes == (Change("5", "width", 96), Change("5", "height", 64))
    assert size.used == (0, 1)
    assert [value.changes[0].value for value in cfg.values] == [1, 2, 3, 4]
    assert grid.graph["6"]["inputs"]["steps"] == 8
    assert grid.original == GRAPH
    assert grid.view == {"x": 0, "y": 2}


def test_json_says_the_same_grid(tmp_path):
    assert parse.parse(json.dumps(load(FILE)), written(tmp_path)) == parse.parse(FILE, written(tmp_path))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("16:9", "16:9"),
        ("no", "no"),
        ("on", "on"),
        ("2024-01-01", "2024-01-01"),
        ("1e-4", 1e-4),
        ("1_000", "1_000"),
        ("010", 10),
        ("0x10", "0x10"),
        ("'5'", "5"),
        ("true", True),
        ("~", None),
        ("18446744073709551615", 2**64 - 1),
        (".5", 0.5),
        ("=> dog", "=> dog"),
    ],
)
def test_yaml_reads_what_is_written(text, value):
    result = load(f"a: {text}")["a"]
    assert (result, type(result)) == (value, type(value))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: 1\na: 2", "a is there twice"),
        ('{"a": 1, "a": 2}', "a is there twice"),
        ("a: &x [1]\nb: *x", "aliases such as .name are not taken"),
        ("a: !!python/object/apply:os.system [ls]", "no YAML"),
        ("a: [", "no YAML"),
        ('{"a": ', "no JSON"),
        ("[" * 100_000, "no YAML"),
        ('{"a":' * 100_000, "no JSON"),
        ("a" * 2_000_001, "2000001 letters"),
        ("? [1]\n: 2\n? [1]\n: 3", "is there twice"),
    ],
)
def test_a_text_that_is_no_data_is_refused(text, sentence):
    with pytest.raises(GridError, match=sentence):
        load(text)


def test_values_come_from_files(tmp_path):
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "7.txt").write_text("a horse, a cart")
    (tmp_path / "lines.txt").write_text("x, y\nz\n")
    (tmp_path / "wildcards").mkdir()
    (tmp_path / "wildcards" / "w.txt").write_text("1\n2\n")
    axes = {"Prompt.text": [{"files": "prompts/*.txt"}, {"lines": "lines.txt"}, "own", {"wildcards": "__w__ cats"}]}
    (axis,) = spanned(axes, tmp_path).axes
    assert [value.title for value in axis.values] == ["7", "x, y", "z", "own", "1 cats", "2 cats"]
    assert axis.values[0].changes == (Change("3", "text", "a horse, a cart"),)
    assert [len(axis.values) for axis in spanned({"Prompt.text": {"lines": "lines.txt"}}, tmp_path).axes] == [2]


def test_axes_of_a_list_may_have_equal_titles():
    axes = [
        {"title": "T", "input": "KSampler.cfg", "values": "1, 2"},
        {"title": "T", "input": "KSampler.seed", "values": [1]},
    ]
    first, second = spanned(axes).axes
    assert first.key == "T"
    assert second.key.startswith("T~")


def test_texts_are_literal_in_set():
    axes = {"P": [{"title": "arrow", "set": {"Prompt.text": "a => b"}}, {"replace": {"Prompt.text": {"red": "blue"}}}]}
    (axis,) = spanned(axes).axes
    assert axis.values[0].changes == (Change("3", "text", "a => b"),)
    assert axis.values[1].changes == (Change("3", "text", "blue", find="red"),)


def test_names_with_dots_and_numbers_are_found():
    graph = {
        **GRAPH,
        "9": {"class_type": "SaveImage", "inputs": {"filename_prefix": "a"}, "_meta": {"title": "v1.5 out"}},
    }
    for address in ("v1.5 out.filename_prefix", "9.filename_prefix"):
        (axis,) = spanned({address: ["b"]}, graph=graph).axes
        assert axis.values[0].changes == (Change("9", "filename_prefix", "b"),)


@pytest.mark.parametrize(
    ("axes", "sentence"),
    [
        ({"Sampler.cfg": "1"}, "no node is called Sampler. Is it KSampler? There are KSampler, LoRA, Model"),
        ({"CLIPTextEncode.text": ["a"]}, "the nodes 3 and 4 are called CLIPTextEncode. Use the number"),
        ({"cfg": "1"}, "cfg names no input: write the node's title, a dot and the input, as in KSampler.cfg."),
        ({"KSampler.cfg": []}, "KSampler.cfg has no values: add the field values."),
        ({"KSampler.cfg": "SKIP: 1"}, "KSampler.cfg skips all its values, so no cell is left."),
        ({"KSampler.cfg": "1, 2, 1"}, "KSampler.cfg has the value 1 2 times."),
        ({"KSampler.cfg": [[1]]}, "KSampler.cfg: a value is a list. It is a text, a number, true or false."),
        ({"KSampler.cfg": [None]}, "KSampler.cfg: a value is empty."),
        ({"A": {"values": [1]}}, "A names no input"),
        ([{"values": [1]}], "Axis 1 says no input: add the field input, such as KSampler.cfg."),
        ({"A": {"input": "KSampler.cfg", "value": [1]}}, "A has no field value. Is it values?"),
        ({"A": {"input": "KSampler.cfg", "values": [{"valu": 1}]}}, "A value of A has no field valu. Is it value?"),
        ({"A": {"input": "KSampler.cfg", "values": [1], "default": 3}}, "A has no value 3. There are 1."),
        ({"A": {"input": "KSampler.cfg", "values": {"lines": "../x"}}}, '"../x" leaves the folder '),
        ({"A": {"values": [{"set": 5}]}}, "A value of A: set is 5. It has the form NAME: VALUE."),
        ({"A": {"values": [{"set": {"KSampler.cfg": [1]}}]}}, "A value of A: set: KSampler.cfg is a list."),
        (
            {"A": {"input": "KSampler.cfg", "values": [{"value": 1, "skip": "x"}]}},
            "A value of A: skip is true or false.",
        ),
        ({}, "The grid file has no axes: add the field axes with at least one axis."),
        (None, "The grid file has no axes"),
    ],
)
def test_a_fault_gets_its_sentence(axes, sentence, tmp_path):
    (only,) = faulty(axes, tmp_path)
    assert sentence in only


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"out": "../other"}, '"../other" leaves the folder'),
        ({"titel": "x"}, "The grid file has no field titel. Is it title?"),
        ({"title": ["x"]}, "The grid file: title is a list. It is a text."),
        ({"view": {"z": "KSampler.cfg"}}, "view has no field z."),
        ({"view": {"x": "cfg"}}, "view: There is no axis cfg."),
        ({"set": {"K.cfg": 1}}, "set: K.cfg: no node is called K."),
        ({"set": 4}, "set is 4. It has the form NAME: VALUE."),
    ],
)
def test_a_fault_of_the_file_gets_its_sentence(fields, sentence, tmp_path):
    assert any(sentence in fault for fault in faulty({"KSampler.cfg": "1"}, tmp_path, **fields))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ('{"nodes": []}', "is in ComfyUI's own form. File > Export .API. writes the form that a grid needs"),
        ('{"1": {"class_type": "A"}}', "is no workflow in the API's form"),
        ("[]", "is no workflow in the API's form"),
        ("{}", "is no workflow in the API's form"),
        ("{", "workflow.json is no JSON"),
        (None, '"workflow.json" cannot be read'),
    ],
)
def test_a_file_that_is_no_workflow_is_refused(tmp_path, content, sentence):
    if content is not None:
        (tmp_path / "workflow.json").write_text(content)
    with pytest.raises(GridError, match=sentence):
        parse.parse("workflow: workflow.json\naxes: {A.b: '1'}", tmp_path)


def test_a_workflow_outside_the_folder_is_refused(tmp_path):
    written(tmp_path)
    (tmp_path / "grids").mkdir()
    with pytest.raises(GridError, match="leaves the folder"):
        parse.parse("workflow: ../workflow.json\naxes: {KSampler.cfg: '1'}", tmp_path / "grids")


def test_all_faults_come_at_once(tmp_path):
    axes = {"K.cfg": "1", "B": {"input": "KSampler.cfg", "values": "1, x, ..., 3"}, "KSampler.seed": [{"a": 1}]}
    faults = faulty(axes, tmp_path, out="/tmp", titel="x")
    assert len(faults) == 5


def test_damaged_files_give_sentences_and_no_tracebacks(tmp_path):
    """Letters of a whole file replaced, left out and swapped."""
    written(tmp_path)
    letters = string.punctuation + " \n\tab1"
    chance = random.Random(0)
    outcomes = set()
    for _ in range(300):
        text = list(FILE)
        for _ in range(chance.randint(1, 6)):
            place = chance.randrange(len(text))
            text[place : place + chance.randint(0, 3)] = chance.choice(letters)
        try:
            parse.parse("".join(text), tmp_path, library())
            outcomes.add("a grid")
        except GridError as error:
            assert str(error).strip()
            outcomes.add("a sentence")
    assert outcomes == {"a grid", "a sentence"}


def test_the_example_of_the_documentation_is_a_grid(tmp_path):
    page = (PACK / "docs" / "grid.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```yaml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    graph = json.loads((PACK / "workflows" / "api" / "remove_without_models.json").read_text())
    grid = parse.parse(example, tmp_path, library(graph))
    assert (grid.size(), grid.view) == (16, {"x": 1, "y": 0, "super_x": 2})
    for field in (*parse.FIELDS, *parse.AXIS_FIELDS, *parse.VALUE_FIELDS, *parse.SOURCES):
        assert f"`{field}`" in page or f"{field}:" in page


def test_the_cells_do_without_the_grid_that_stands_in_the_workflow():
    node = {"class_type": "PentimentoGrid", "inputs": {"grid": "axes: {}"}, "_meta": {"title": "Infinite Grid"}}
    grid = spanned({"KSampler.cfg": [5]}, graph=GRAPH | {"20": node})
    assert grid.workflow((0,)).keys() == grid.original.keys() == GRAPH.keys()
    assert faulty({"Infinite Grid.grid": ["x"]}, graph=GRAPH | {"20": node})[0].startswith(
        "Infinite Grid.grid: no node"
    )
