"""Wildcard files: lists of lines in .txt, .yaml and .json, found by their names.

A .txt file is a list that has the file's name; .yaml and .json hold lists under names of their own. The order of lines,
the removal of doubles and the search in folders below are those of dynamicprompts 0.31 (Adi Eyal, MIT).
"""

import codecs
import difflib
import fnmatch
import json
import math
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import folder_paths
import yaml

FOLDER = "wildcards"
OF_PACKS = ("wildcards", "custom_wildcards")  # folders in which packs keep theirs
SUFFIXES = (".txt", ".yaml", ".yml", ".json")
WEIGHT = re.compile(r"(\d+\.?\d*|\.\d+)::(.*)", re.DOTALL)
SIMILAR = 3  # names in a message, at most
KEPT = 256  # files in memory

Line = tuple[float, str]  # weight and text
Source = tuple[str, int, int, str]  # path, time, size, and the list's name in a .yaml or .json file


def folders() -> list[Path]:
    """Where wildcard files may lie, the most important first: ComfyUI's own folders, and then those of other packs."""
    packs = (pack for root in folder_paths.get_folder_paths("custom_nodes") for pack in sorted(Path(root).glob("*")))
    own = [Path(path) for path in folder_paths.get_folder_paths(FOLDER)]
    choices = [*own, Path(folder_paths.base_path) / FOLDER, *(pack / name for pack in packs for name in OF_PACKS)]
    return list(dict.fromkeys(path for path in choices if path.is_dir()))


class Files:
    """The lists of all files in the folders, which are read when they are asked for."""

    def __init__(self, roots: list[Path]):
        self.roots = roots
        self.paths: dict[str, Path] = {}  # {name without suffix, or folder and file of a .yaml: path}
        self.structured: list[tuple[str, Path]] = []  # (folder's name with a slash, path)
        for root in roots:
            files, _ = folder_paths.recursive_search(str(root), [".git"])
            for file in sorted(Path(file) for file in files):
                hidden = any(part.startswith(".") for part in file.parts)
                if file.suffix.lower() in SUFFIXES and not hidden and (root / file).is_file():
                    self._add(root, file)

    def _add(self, root: Path, file: Path) -> None:
        if file.suffix.lower() == ".txt":
            self.paths.setdefault(file.with_suffix("").as_posix(), root / file)
        else:
            below = file.parent.as_posix()
            self.structured.append(("" if below == "." else f"{below}/", root / file))

    def versions(self) -> str:
        """The times and sizes of all files: another text once one of them was changed."""
        paths = [*self.paths.values(), *(path for _, path in self.structured)]
        return " ".join(":".join(map(str, _source(path))) for path in paths)

    def lines(self, pattern: str) -> tuple[Line, ...]:
        """All lines of the lists that a name or a pattern with * stands for: sorted, without doubles.

        Raises:
            ValueError: There is no such list, it is empty, or its file is unreadable.
        """
        pattern = re.sub(r"[\\/]+", "/", pattern.strip()).strip("/")
        if ".." in pattern.split("/"):
            raise ValueError(f"The wildcard '{pattern}' leaves the wildcard folders. Write a name without '..'.")
        sources, names, problems = self._sources(pattern)
        if not sources:
            raise ValueError(self._missing(pattern, names, problems))
        lines = _joined(tuple(sources))
        if not lines:
            files = " and ".join(sorted({f"'{path}'" for path, *_ in sources}))
            raise ValueError(f"The wildcard '{pattern}' has no lines: {files} is empty. Write one choice per line.")
        return lines

    def _sources(self, pattern: str) -> tuple[list[Source], list[str], list[str]]:
        """The lists that fit a pattern, and all names and the problems of unreadable files, for a message."""
        if pattern in self.paths:
            return [_source(self.paths[pattern])], [], []
        sources, problems = {name: _source(path) for name, path in self.paths.items()}, []
        for below, path in self.structured:
            source = _source(path)
            try:
                inside = _structure(*source[:3])
            except ValueError as error:
                problems.append(str(error))
                continue
            for name in inside:
                sources.setdefault(f"{below}{name}", (*source[:3], name))
        for search in (pattern, f"**/{pattern}"):  # a file may name its neighbours without the folder
            fitting = [source for name, source in sources.items() if _fits(name, search)]
            if fitting:
                return fitting, [], []
        return [], list(sources), problems

    def _missing(self, pattern: str, names: list[str], problems: list[str]) -> str:
        near = difflib.get_close_matches(pattern, names, SIMILAR, 0.7)
        places = f"The node looked in {', '.join(map(str, self.roots))}. " if self.roots else ""
        return " ".join(
            [
                f"There is no wildcard '{pattern}': no file {pattern}.txt and no such list in a .yaml or .json file. "
                f"{places}Put the file in models/{FOLDER}, or correct the name.",
                *([f"Similar names: {', '.join(near)}."] if near else []),
                *problems,
            ]
        )


def _fits(name: str, pattern: str) -> bool:
    """On every system the same: small and capital letters are one."""
    return fnmatch.fnmatchcase(name.casefold(), pattern.casefold())


def _source(path: Path) -> Source:
    stat = path.stat()
    return str(path), stat.st_mtime_ns, stat.st_size, ""


@lru_cache(KEPT)
def _joined(sources: tuple[Source, ...]) -> tuple[Line, ...]:
    """The lines of lists. The times and sizes of the files are a part of the key: a changed file is read anew."""
    lines = dict.fromkeys(line for source in sources for line in _lines(*source))
    return tuple(sorted(lines, key=lambda line: line[1]))


def _lines(path: str, time: int, size: int, name: str) -> Iterator[Line]:
    if name:
        yield from _items(_structure(path, time, size)[name], f"The list '{name}' in '{path}'")
    else:
        lines = (line.strip() for line in re.split(r"\r\n?|\n", _text(path)))
        yield from (_weighted(line) for line in lines if line and not line.startswith("#"))


def _weighted(text: str) -> Line:
    match = WEIGHT.fullmatch(text)
    return (float(match[1]), match[2]) if match else (1.0, text)


def _items(items: list[Any], what: str) -> Iterator[Line]:
    """Each is a text, or {text: ..., weight: ...}."""
    for item in items:
        if isinstance(item, dict) and (text := item.get("text") or item.get("content")):
            weight = item.get("weight", 1)
            if not isinstance(weight, (int, float)) or not 0 <= weight < math.inf:
                raise ValueError(f"{what} has the weight '{weight}'. Write a number of 0 or more.")
            yield float(weight), str(text)
        elif isinstance(item, (str, int, float)) and not isinstance(item, bool):
            yield from [_weighted(str(item))] if item != "" else []
        elif item is not None:
            raise ValueError(f"{what} has an entry that is no text: {str(item)[:60]}. Write it in quotation marks.")


@lru_cache(KEPT)
def _structure(path: str, time: int, size: int) -> dict[str, list[Any]]:
    """{name: entries} of the lists in a .yaml or .json file.

    Raises:
        ValueError: The file is damaged.
    """
    try:
        text = _text(path)
        data = json.loads(text) if path.lower().endswith(".json") else yaml.load(text, LOADER)
        lists = {Path(path).stem: data} if isinstance(data, list) else dict(_named(data, ""))
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        problem = " ".join(str(error).split())
        raise ValueError(f"'{path}' is unreadable, so that its wildcards are missing: {problem}.") from None
    return lists


def _named(data: Any, below: str) -> Iterator[tuple[str, list[Any]]]:
    for name, value in data.items() if isinstance(data, dict) else ():
        if isinstance(name, str) and isinstance(value, dict):
            yield from _named(value, f"{below}{name}/")
        elif isinstance(name, str) and value and isinstance(value, (str, list)):
            yield f"{below}{name}", [value] if isinstance(value, str) else value


def _text(path: str) -> str:
    """A file's text: UTF-8, UTF-16 with its mark, or else what Windows wrote in Western Europe."""
    data = Path(path).read_bytes()
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", errors="replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace")


LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # in C where it is there: large files take seconds otherwise
