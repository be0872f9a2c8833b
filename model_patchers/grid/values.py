"""Values of an axis: short lists with ranges, what a text means for an input, and files as sources of values."""

import itertools
import json
import re
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

Scalar = str | int | float | bool

MOST = 10_000  # values that one range, file or wildcard may give
NUMBER = re.compile(r"[-+]?\d{1,20}(\.\d{1,8})?", re.ASCII)  # 28 digits: Decimal computes with them exactly
WILDCARD = re.compile(r"__([\w./-]+?)__")


def short_list(text: str) -> list[str]:
    """The items of "a, b, c" or "a || b", with ranges such as "1, 2, ..., 10" written out.

    Raises:
        ValueError: A range is none; the text is a sentence.
    """
    items = [item.strip() for item in text.split("||" if "||" in text else ",")]
    items = [item for item in items if item]
    values: list[str] = []
    for place, item in enumerate(items):
        if item != "...":
            values.append(item)
        elif place == 0 or place + 1 == len(items) or "..." in (items[place - 1], items[place + 1]):
            raise ValueError(f'"{text}": ... needs a number before it and one after it, as in 1, 2, ..., 10.')
        else:
            values += _between(items[max(0, place - 2) : place], items[place + 1], text)
    return values


def _between(before: list[str], last: str, text: str) -> list[str]:
    """The numbers between those before the dots and the last one, which the steps must meet."""
    if not all(map(NUMBER.fullmatch, (*before[-1:], last))):
        raise ValueError(f'"{text}": ... stands between numbers, as in 1, 2, ..., 10.')
    end, *numbers = (Decimal(item) for item in (last, *filter(NUMBER.fullmatch, before)))
    start = numbers[-1]
    step = numbers[-1] - numbers[-2] if len(numbers) > 1 else Decimal(1 if end >= start else -1)
    if step == 0 or (end - start) / step < 1:
        raise ValueError(f'"{text}": steps of {step} do not lead from {start} to {last}.')
    if (end - start) / step > MOST:
        raise ValueError(f'"{text}": this range has more than {MOST} values.')
    *values, final = [start + step * (number + 1) for number in range(int((end - start) / step))]
    if final != end:
        raise ValueError(f'"{text}": steps of {step} from {start} do not meet {last}. Near it is {final:f}.')
    return [format(number, "f") for number in values]


def typed(value: Scalar, present: object) -> Scalar:
    """What a value of the file means for an input that has the value `present` in the workflow, None where it has none.

    Text becomes a number, true or false, except for an input that holds text.
    """
    if not isinstance(value, str) or isinstance(present, str):
        return value
    text = value.strip()
    try:
        read = json.loads(text.lower() if text.lower() in ("true", "false") else text, parse_constant=_refuse)
    except ValueError:
        return value
    return read if isinstance(read, (bool, int, float)) else value


def _refuse(name: str) -> None:
    raise ValueError(name)


def replacement(text: str) -> tuple[str, str] | None:
    """("find", "replace") of "find => replace"."""
    find, arrow, by = text.partition("=>")
    return (find.strip(), by.strip()) if arrow and find.strip() else None


# Files


def inside(folder: Path, name: str) -> Path:
    """The path of a file that is named from `folder` and lies in it.

    Raises:
        ValueError: The path leaves the folder.
    """
    if "\0" in name:
        raise ValueError(f'"{name}" is no file name.')
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise ValueError(f'"{name}" leaves the folder {folder}. Name one below it.')
    return path


def read(folder: Path, name: str) -> str:
    """The text of a file in `folder`.

    Raises:
        ValueError: The path leaves the folder, or the file cannot be read.
    """
    path = inside(folder, name)
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f'"{name}" is no text in UTF-8.') from None
    except OSError as error:
        raise ValueError(f'"{name}" cannot be read: {error.strerror}.') from None


def lines(folder: Path, name: str) -> list[str]:
    """The lines of a file, without empty ones and those that start with #.

    Raises:
        ValueError: As `read`; or there are no lines, or too many.
    """
    items = [line.strip() for line in read(folder, name).splitlines()]
    return _counted([item for item in items if item and not item.startswith("#")], name)


def files(folder: Path, pattern: str) -> list[tuple[str, str]]:
    """(name without suffix, text) of the files that a pattern such as "prompts/*.txt" matches, by name.

    Raises:
        ValueError: As `read`; or no file matches, or too many.
    """
    if Path(pattern).is_absolute() or Path(pattern).anchor or ".." in Path(pattern).parts:
        raise ValueError(f'"{pattern}" leaves the folder {folder}. Name files below it.')
    paths = _counted(sorted(path for path in folder.glob(pattern) if path.is_file()), pattern)
    return [(path.stem, read(folder, str(path.relative_to(folder))).strip()) for path in paths]


def wildcards(folder: Path, text: str) -> list[str]:
    """A text for each combination of the lines that its wildcards stand for: __colour__ is wildcards/colour.txt.

    Raises:
        ValueError: As `lines`; or the text has no wildcard.
    """
    parts = WILDCARD.split(text)  # text, name, text, name, ... text
    if len(parts) == 1:
        raise ValueError(f'"{text}" has no wildcard such as __colour__, which stands for the lines of a file.')
    choices = [lines(folder, f"wildcards/{name}.txt") for name in parts[1::2]]
    if (count := _product(map(len, choices))) > MOST:
        raise ValueError(f'"{text}" stands for {count} texts, and {MOST} is the limit.')
    return ["".join(_woven(parts[::2], chosen)) for chosen in itertools.product(*choices)]


def _woven(texts: list[str], chosen: tuple[str, ...]) -> Iterator[str]:
    for text, line in itertools.zip_longest(texts, chosen, fillvalue=""):
        yield text
        yield line


def _product(counts: Iterator[int]) -> int:
    total = 1
    for count in counts:
        total *= count
    return total


def _counted(items: list, name: str) -> list:
    if not items:
        raise ValueError(f'"{name}" gives no value.')
    if len(items) > MOST:
        raise ValueError(f'"{name}" gives {len(items)} values, and {MOST} is the limit.')
    return items
