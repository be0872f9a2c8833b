"""DPG-Bench's files and rules, on cases small enough to be worked out by hand."""

import json
import runpy
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from kit.paths import PACK
from pentimento.model_patchers.score import dpg_bench

HEADER = (
    "item_id,text,keywords,proposition_id,dependency,category_broad,category_detailed,tuple,question_natural_language\n"
)
FIRST = "zero,A dog.,dog,1,0,entity,whole,entity - whole (dog),Is there a dog?\n"
ROWS = (
    'cat7,"A cat, a mat.",,1,0,entity,whole,"entity - whole (cat)",Is there a cat?\n'
    'cat7,"A cat, a mat.",,2,1,attribute,color,"attribute - color (cat, grey)","Is the cat grey?"\n'
    'cat7,"A cat, a mat.",,3,0,entity,whole,"entity - whole (mat)",Is there a mat?\n'
    'cat7,"A cat, a mat.",,4,"1, 3",relation,spatial,"relation - spatial (cat, mat, on)","Is the cat on the mat?"\n'
    "sky,The sky.,,1,0,global,,global (photo),Is it a photo?\n"
    "sky,The sky.,,2,0,entity,state,entity - state (sky),Is the sky clear?\n"
)
COLOURS = ["red", "green", "blue", "white"]


def pictures(side=4):
    return [Image.new("RGB", (side, side), colour) for colour in COLOURS]


def noise(side, seed):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8))


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "dpg_bench.csv"
    path.write_text(HEADER + FIRST + ROWS)
    return path


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "pictures"
    path.mkdir()
    return path


def oracle(refused):
    """Answers no to the {colour of the crop: questions} named, else yes."""

    def answer(picture, question):
        colour = next(
            name for name in COLOURS if Image.new("RGB", (1, 1), name).getpixel((0, 0)) == picture.getpixel((1, 1))
        )
        return "no" if question in refused.get(colour, ()) else "yes"

    return answer


def question(number, *parents):
    return dpg_bench.Question(number, parents, "entity - whole", f"{number}?")


def by_id(*questions):
    return {each.id: each for each in questions}


def test_prompts_by_name(tmp_path):
    (tmp_path / "12.txt").write_text(" A caf\u00e9.\n", "utf-8")
    (tmp_path / "COCOval2014000000010363.txt").write_text("Two.")
    (tmp_path / "read.me").write_text("no prompt")
    assert dpg_bench.load_prompts(tmp_path) == {"12": "A caf\u00e9.", "COCOval2014000000010363": "Two."}


def test_a_folder_without_prompts(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no .txt files; it should be the folder dpg_bench/prompts"):
        dpg_bench.load_prompts(tmp_path)


def test_grid_round_trip_is_exact(folder):
    four = [noise(6, seed) for seed in range(4)]
    path = dpg_bench.save(folder, "vrd3", four)
    assert path == folder / "vrd3.png"
    with Image.open(path) as whole:
        assert whole.size == (12, 12)
        back = dpg_bench.crops(whole)
    assert [crop.tobytes() for crop in back] == [picture.tobytes() for picture in four]


def test_grid_goes_by_rows():
    whole = dpg_bench.grid(pictures())
    corners = [whole.getpixel(at) for at in [(0, 0), (4, 0), (0, 4), (4, 4)]]
    assert corners == [picture.getpixel((0, 0)) for picture in pictures()]
    assert whole.getpixel((3, 3)) == corners[0]


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        pictures()[:3],
        [*pictures(), *pictures()[:1]],
        [*pictures()[:3], noise(5, 0)],
        [noise(4, 0).resize((4, 6))] * 4,
    ],
)
def test_only_four_equal_squares_make_a_grid(wrong):
    with pytest.raises(ValueError, match="four square pictures of one size"):
        dpg_bench.grid(wrong)


@pytest.mark.parametrize("size", [(8, 6), (7, 7)])
def test_only_a_square_of_an_even_side_is_cut(size):
    with pytest.raises(ValueError, match=f"this picture is {size[0]} x {size[1]}"):
        dpg_bench.crops(Image.new("RGB", size))


def test_questions_are_read_with_commas_and_several_parents(table):
    found = dpg_bench.load_questions(table)
    assert list(found) == ["cat7", "sky"]
    assert [each.parents for each in found["cat7"].values()] == [(), (1,), (), (1, 3)]
    assert found["cat7"][4] == dpg_bench.Question(4, (1, 3), "relation - spatial", "Is the cat on the mat?")
    assert found["sky"][1].category == "global"


def test_first_row_is_read_when_asked(table):
    found = dpg_bench.load_questions(table, skip_first_row=False)
    assert list(found) == ["zero", "cat7", "sky"]
    assert found["zero"][1].text == "Is there a dog?"


def test_rows_that_stand_apart_are_those_of_the_last_place(table):
    table.write_text(HEADER + FIRST + ROWS + "cat7,,,9,0,,,entity - whole (tail),Is there a tail?\n")
    assert list(dpg_bench.load_questions(table)["cat7"]) == [9]


@pytest.mark.parametrize(("word", "score"), [("yes", 1), ("no", 0), ("Yes", 0), ("yes.", 0), ("", 0)])
def test_only_yes_scores(word, score):
    assert dpg_bench.answered(None, by_id(question(1)), lambda picture, text: word) == {1: score}


@pytest.mark.parametrize(
    ("questions", "raw", "expected"),
    [
        (by_id(question(1), question(2, 1)), [1, 1], [1, 1]),
        (by_id(question(1), question(2, 1)), [0, 1], [0, 0]),
        (by_id(question(1), question(2, 1)), [1, 0], [1, 0]),
        (by_id(question(1), question(2), question(3, 1, 2)), [1, 0, 1], [1, 0, 0]),
        (by_id(question(1), question(2, 1), question(3, 2)), [0, 1, 1], [0, 0, 0]),  # passes on
        (by_id(question(3, 2), question(1), question(2, 1)), [1, 0, 1], [1, 0, 0]),  # not upwards in the file
    ],
)
def test_zeros_pass_from_parents_in_the_files_order(questions, raw, expected):
    given = dict(zip(questions, map(float, raw), strict=True))
    assert list(dpg_bench.zeroed(given, questions).values()) == expected
    assert list(given.values()) == raw


def test_scores_as_published(table, folder):
    dpg_bench.save(folder, "cat7", pictures())
    dpg_bench.save(folder, "sky", pictures())
    refused = {
        "red": ["Is there a cat?"],  # 1, 2, 4 are lost: 1/4
        "green": ["Is the cat grey?"],  # 3/4
        "white": ["Is there a mat?", "Is the sky clear?"],  # 3, 4 are lost: 2/4; the sky 1/2
    }
    scores = dpg_bench.evaluate(folder, dpg_bench.load_questions(table), oracle(refused))
    assert scores.items == pytest.approx({"cat7": 100 * (1 + 3 + 4 + 2) / 16, "sky": 100 * (2 + 2 + 2 + 1) / 8})
    assert scores.total == pytest.approx((62.5 + 87.5) / 2)
    # the white crop's answers only, the cat "on the mat" that is not there
    assert scores.level2 == pytest.approx(
        {"attribute - color": 100, "entity - state": 0, "entity - whole": 50, "global": 100, "relation - spatial": 100}
    )
    assert scores.level1 == pytest.approx({"attribute": 100, "entity": 100 / 3, "global": 100, "relation": 100})
    assert scores.failed == {}

    whole = dpg_bench.evaluate(folder, dpg_bench.load_questions(table), oracle(refused), last_crop_categories=False)
    assert (whole.total, whole.items) == (scores.total, scores.items)
    assert whole.level2 == pytest.approx(
        {"attribute - color": 50, "entity - state": 75, "entity - whole": 75, "global": 100, "relation - spatial": 50}
    )
    assert whole.level1 == pytest.approx({"attribute": 50, "entity": 75, "global": 100, "relation": 50})


def test_items_weigh_the_same_whatever_their_questions(table, folder):
    dpg_bench.save(folder, "cat7", pictures())
    dpg_bench.save(folder, "sky", pictures())
    refused = dict.fromkeys(COLOURS, ["Is it a photo?", "Is the sky clear?"])
    assert dpg_bench.evaluate(folder, dpg_bench.load_questions(table), oracle(refused)).total == 50


def test_first_row_skipped_fails_the_item_that_depends_on_it(table, folder):
    child = "zero,A dog.,,2,1,attribute,color,attribute - color (dog),Is the dog black?\n"
    table.write_text(HEADER + FIRST + child + ROWS)
    for name in ["zero", "sky"]:
        dpg_bench.save(folder, name, pictures())
    answer = oracle(dict.fromkeys(COLOURS, ["Is the dog black?"]))
    published = dpg_bench.evaluate(folder, dpg_bench.load_questions(table), answer)
    assert published.total == 100
    assert "Question 2 depends on question 1, which is missing" in published.failed["zero"]
    assert "attribute" not in published.level1
    complete = dpg_bench.evaluate(folder, dpg_bench.load_questions(table, skip_first_row=False), answer)
    assert complete.items == {"sky": 100, "zero": 50}


def test_failures_are_left_out_and_named(table, folder):
    dpg_bench.save(folder, "sky", pictures())
    dpg_bench.save(folder, "unknown", pictures())
    (folder / "cat7.png").write_text("no picture")
    (folder / "results.txt").write_text("not looked at")
    scores = dpg_bench.evaluate(folder, dpg_bench.load_questions(table), oracle({}))
    assert scores.items == {"sky": 100}
    assert scores.total == 100
    assert scores.failed.keys() == {"cat7", "unknown"}
    assert scores.failed["cat7"].startswith("UnidentifiedImageError")


@pytest.mark.parametrize("kind", ["unreadable", "unknown", "missing", "answerer"])
def test_failures_are_raised_when_asked(table, folder, kind):
    questions = dpg_bench.load_questions(table)
    for name in questions:
        dpg_bench.save(folder, name, pictures())
    if kind == "unreadable":
        (folder / "cat7.png").write_text("no picture")
    elif kind == "unknown":
        dpg_bench.save(folder, "unknown", pictures())
    elif kind == "missing":
        (folder / "sky.png").unlink()
    answer = (lambda picture, text: 1 / 0) if kind == "answerer" else oracle({})
    expected = {"unreadable": OSError, "unknown": KeyError, "missing": ValueError, "answerer": ZeroDivisionError}
    with pytest.raises(expected[kind]):
        dpg_bench.evaluate(folder, questions, answer, skip_failures=False)


def test_items_without_a_picture_are_named_and_not_counted(table, folder):
    dpg_bench.save(folder, "sky", pictures())
    scores = dpg_bench.evaluate(folder, dpg_bench.load_questions(table), oracle({}))
    assert (scores.total, scores.failed) == (100, {"cat7": "The item has no picture."})


def test_nothing_to_score(table, folder):
    with pytest.raises(ValueError, match="No picture of .* could be scored"):
        dpg_bench.evaluate(folder, dpg_bench.load_questions(table), oracle({}))


# Grids


SETS = {"Prompt": "Prompt.text", "Seed": "KSampler.seed"}
WITHOUT_PICTURE = {"error": "No memory.", "seconds": 1}


@pytest.fixture
def results(tmp_path):
    """Writes the results of a grid over these axes, {title: values}: a picture of its number for each cell."""

    def write(axes, side=4, sets=SETS, absent=(), skipped=()):
        folder = tmp_path / "results"
        (folder / "cells").mkdir(parents=True)
        count = np.prod([len(values) for values in axes.values()])
        cells = []
        for number in range(count):
            noise(side, number).save(folder / "cells" / f"{number}.png")
            files = {"files": [f"cells/{number}.txt", f"cells/{number}.png"]}
            cells.append([number, WITHOUT_PICTURE if number in absent else files])
        described = [
            {
                "title": title,
                "values": [
                    {"title": value, "skip": value in skipped, "sets": {sets[title]: value}} for value in values
                ],
            }
            for title, values in axes.items()
        ]
        (folder / "data.js").write_text(f"pentimentoGrid({json.dumps({'axes': described, 'cells': cells})});")
        return folder

    return write


@pytest.fixture(scope="module")
def script():
    """workflows/grids/dpg_bench.py."""
    return SimpleNamespace(**runpy.run_path(str(PACK / "workflows" / "grids" / "dpg_bench.py")))


PROMPTS, FOUR = ["12", "COCOval2014000000010363"], ["0", "1", "2", "3"]


@pytest.mark.parametrize("prompts_first", [True, False])
def test_a_grid_becomes_a_file_for_each_prompt(results, folder, prompts_first):
    axes = {"Prompt": PROMPTS, "Seed": FOUR}
    grid = results(axes if prompts_first else dict(reversed(axes.items())))
    assert dpg_bench.from_grid(grid, folder / "new") == (PROMPTS, [])
    for place, name in enumerate(PROMPTS):
        numbers = range(4 * place, 4 * place + 4) if prompts_first else range(place, 8, 2)
        with Image.open(folder / "new" / f"{name}.png") as whole:
            assert [crop.tobytes() for crop in dpg_bench.crops(whole)] == [noise(4, i).tobytes() for i in numbers]


def test_skipped_values_have_no_part_in_it(results, folder):
    grid = results({"Prompt": ["a", "b"], "Seed": ["0", "1", "x", "2", "3"]}, skipped=("a", "x"))
    assert dpg_bench.from_grid(grid, folder) == (["b"], [])
    with Image.open(folder / "b.png") as whole:
        assert dpg_bench.crops(whole)[2].tobytes() == noise(4, 8).tobytes()


def test_prompts_without_four_pictures_are_told(results, folder, capsys, script):
    grid = results({"Prompt": PROMPTS, "Seed": FOUR}, absent=[2])
    assert script.main([str(grid), str(folder)]) == 1
    out, err = capsys.readouterr()
    assert out.endswith(": 1.\n") and err.startswith("Prompts that lack pictures: 1 (12). Run the grid again.")
    assert [path.name for path in folder.iterdir()] == ["COCOval2014000000010363.png"]


@pytest.mark.parametrize(
    "axes, sentence",
    [
        ({"Prompt": ["a"], "Seed": FOUR[:3]}, "two axes, the prompts and four seeds. This one has Prompt, Seed"),
        ({"Seed": FOUR}, "This one has Seed"),
        ({"Prompt": ["a"], "CFG": FOUR}, "This one has Prompt, CFG"),
        ({"Prompt": ["a"], "CFG": ["5"], "Seed": FOUR}, "This one has Prompt, CFG, Seed"),
        ({"Prompt": ["../a"], "Seed": FOUR}, "The prompt ../a cannot name a file"),
    ],
)
def test_other_grids_are_refused(results, folder, axes, sentence):
    with pytest.raises(ValueError, match=sentence):
        dpg_bench.from_grid(results(axes, sets=SETS | {"CFG": "KSampler.cfg"}), folder)


def test_pictures_that_are_no_squares_name_their_prompt(results, folder):
    grid = results({"Prompt": ["a"], "Seed": FOUR})
    Image.new("RGB", (4, 6)).save(grid / "cells" / "1.png")
    with pytest.raises(ValueError, match="a: DPG-Bench needs four square pictures"):
        dpg_bench.from_grid(grid, folder)


@pytest.mark.parametrize("text", [None, "", "pentimentoGrid([]);", 'pentimentoGrid({"axes": 1});'])
def test_a_folder_without_results_is_told(tmp_path, capsys, script, text):
    if text is not None:
        (tmp_path / "data.js").write_text(text)
    assert script.main([str(tmp_path), str(tmp_path / "out")]) == 1
    assert "holds no results of a grid" in capsys.readouterr().err
    assert script.main(["a"]) == 2
