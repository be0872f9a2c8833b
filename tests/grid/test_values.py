"""Values of axes: short lists, ranges, types, and files."""

from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pentimento.model_patchers.grid import values


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("a, b, c", ["a", "b", "c"]),
        ("a, b || c", ["a, b", "c"]),
        ("a, b ||", ["a, b"]),
        ("1, 2, ..., 10", [str(number) for number in range(1, 11)]),
        ("0.1, 0.2, ..., 0.5", ["0.1", "0.2", "0.3", "0.4", "0.5"]),
        ("1, ..., 4", ["1", "2", "3", "4"]),
        ("4, ..., 1", ["4", "3", "2", "1"]),
        ("10, 8, ..., 2", ["10", "8", "6", "4", "2"]),
        ("7, 1, 2, ..., 4, 9", ["7", "1", "2", "3", "4", "9"]),
        ("1 || 3 || ... || 7", ["1", "3", "5", "7"]),
        ("-1, 0, ..., 2", ["-1", "0", "1", "2"]),
        ("1, 2, ..., 3", ["1", "2", "3"]),
        ("18446744073709551614, ..., 18446744073709551615", ["18446744073709551614", "18446744073709551615"]),
        ("1,, 2 ,", ["1", "2"]),
        ("", []),
    ],
)
def test_short_lists(text, items):
    assert values.short_list(text) == items


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("..., 3", "needs a number before it"),
        ("1, ...", "needs a number before it and one after"),
        ("1, ..., ..., 3", "needs a number before it"),
        ("a, b, ..., d", "stands between numbers"),
        ("1, 2, ..., x", "stands between numbers"),
        ("1, 2, ..., nan", "stands between numbers"),
        ("1, 2, ..., 1e999999999", "stands between numbers"),
        ("1, 1, ..., 3", "steps of 0 do not lead from 1 to 3"),
        ("3, 2, ..., 10", "steps of -1 do not lead from 2 to 10"),
        ("1, 3, ..., 10", "steps of 2 from 3 do not meet 10. Near it is 9"),
        ("1, 2, ..., 1000000000", "more than 10000 values"),
    ],
)
def test_a_wrong_range_is_refused(text, sentence):
    with pytest.raises(ValueError, match='^"') as error:
        values.short_list(text)
    assert sentence in str(error.value)


@given(st.decimals(-1000, 1000, places=3), st.decimals("0.001", 50, places=3), st.integers(2, 60))
@settings(max_examples=60)
def test_a_range_is_the_arithmetic_progression(start, step, count):
    numbers = [start + step * place for place in range(count)]
    text = f"{numbers[0]:f}, {numbers[1]:f}" + (f", ..., {numbers[-1]:f}" if count > 2 else "")
    assert [Decimal(item) for item in values.short_list(text)] == numbers


@pytest.mark.parametrize(
    ("value", "present", "typed"),
    [
        ("3", 1, 3),
        ("3.5", 1, 3.5),
        ("1e-4", 0.5, 1e-4),
        ("True", False, True),
        ("false", True, False),
        ("3", "auto", "3"),
        ("true", "auto", "true"),
        ("euler", 1, "euler"),
        ("NaN", 1, "NaN"),
        ("[1, 2]", 1, "[1, 2]"),
        ("null", 1, "null"),
        ("5", None, 5),
        (4, "text", 4),
        ("18446744073709551615", 0, 2**64 - 1),
    ],
)
def test_text_takes_the_type_of_the_input(value, present, typed):
    result = values.typed(value, present)
    assert (result, type(result)) == (typed, typed.__class__)


def test_replacements_have_an_arrow():
    assert values.replacement("cat => dog") == ("cat", "dog")
    assert values.replacement("cat =>") == ("cat", "")
    assert values.replacement("=> dog") is None
    assert values.replacement("cat") is None


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "grids"
    (folder / "wildcards" / "animals").mkdir(parents=True)
    (tmp_path / "secret.txt").write_text("secret")
    (folder / "prompts.txt").write_text("\ufeffa cat\n\n# a comment\n a dog \n", encoding="utf-8")
    (folder / "wildcards" / "colour.txt").write_text("red\nblue\n")
    (folder / "wildcards" / "animals" / "pets.txt").write_text("cat\ndog\n")
    (folder / "empty.txt").write_text("# nothing\n")
    (folder / "bytes.txt").write_bytes(b"\xff\xfe\x00")
    return folder


def test_files_give_values(folder):
    assert values.lines(folder, "prompts.txt") == ["a cat", "a dog"]
    assert values.files(folder, "wildcards/**/*.txt") == [("pets", "cat\ndog"), ("colour", "red\nblue")]
    texts = values.wildcards(folder, "a __colour__ __animals/pets__")
    assert texts == ["a red cat", "a red dog", "a blue cat", "a blue dog"]


@pytest.mark.parametrize(
    ("call", "name", "sentence"),
    [
        (values.lines, "../secret.txt", "leaves the folder"),
        (values.lines, "/etc/hostname", "leaves the folder"),
        (values.lines, "link.txt", "leaves the folder"),
        (values.files, "../*.txt", "leaves the folder"),
        (values.files, "/etc/*", "leaves the folder"),
        (values.wildcards, "__../../secret__", "leaves the folder"),
        (values.lines, "no\0.txt", "is no file name"),
        (values.lines, "none.txt", '"none.txt" cannot be read: No such file'),
        (values.lines, "empty.txt", '"empty.txt" gives no value'),
        (values.lines, "bytes.txt", '"bytes.txt" is no text in UTF-8'),
        (values.files, "*.png", r'"\*.png" gives no value'),
        (values.wildcards, "a cat", "has no wildcard"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(folder, call, name, sentence):
    (folder / "link.txt").symlink_to(folder.parent / "secret.txt")
    with pytest.raises(ValueError, match=sentence):
        call(folder, name)
