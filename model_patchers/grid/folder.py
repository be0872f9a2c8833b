"""The folder of a grid's results: what was run, the pictures, and the data that the viewer reads.

    pentimento_grid.json   says that the folder is a grid's. Any other folder that is not empty is refused.
    cells.jsonl            the journal: a line for each event of a cell, and the last line of a cell counts
    cells/                 the files of the cells, under the keys of their values
    thumbs/                a script for each picture below cells/, with a small copy of it; where Pillow is installed
    index.html             the viewer: web/grid/index.html with the files that it names in it
    data.js                all cells for the viewer; written anew as the grid runs, never seen half
    scores.csv             a row for each cell
    run.lock               held by the process that writes

A line of the journal is {"cell": digest, "status": "queued" | "done" | "failed", ...}: with "prompt_id" when queued;
with "files" (paths from this folder), "texts" ({node: text}), "seconds" and "scores" ({name: number}) when done; with
"error" and "seconds" when failed. A cell is done when its line says so and its files are there: who deletes a picture
has it made again.

data.js is one call, pentimentoGrid({...}), of a function that the page defines:

    version                1
    title, description     of the grid
    axes                   [{key, title, description, default, values: [{key, title, description, skip, sets}]}], where
                           sets is {"NODE.INPUT": value}
    view                   {"x" | "y" | "super_x" | "super_y": number of an axis}
    progress               of the last run and the cells that it was to make: {total, done, failed, seconds_left,
                           running, written}, the last in seconds since 1970
    cells                  [[number, {files, texts, seconds, scores, thumbs} | {error, seconds}]] of the cells that were
                           run: of a cell whose values are v on axes of n values, number is ((v0 * n1) + v1) * n2 + v2
                           ...; thumbs is true where all its pictures have a thumbnail

A thumbnail is a script, thumbs/NAME.js for cells/NAME: one call, pentimentoThumb("cells/NAME", "data:..."). A page that
is opened from the disk may show pictures beside it but not read their pixels, and it may run scripts beside it.
"""

import contextlib
import csv
import io
import json
import os
import re
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..pixels.thumbnail import data_url
from . import addresses
from .expand import Change, Grid, GridError, Index, Value, digest

MARKER, JOURNAL, CELLS, DATA, SCORES = "pentimento_grid.json", "cells.jsonl", "cells", "data.js", "scores.csv"
VIEWER = Path(__file__).resolve().parents[2] / "web" / "grid" / "index.html"
THUMBS, THUMB = "thumbs", 256  # px of a thumbnail's longer side; THUMB in web/grid/pictures.cjs
PART = re.compile(r'<(style|script)(?P<more>[^>]*) src="(?P<name>\w+\.\w+)"></\1>')  # of the viewer
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
LOCK = "run.lock"
SHARE = 0.05  # of the time that writing data.js may take
LEAST = 1.0  # seconds between two writings


class Digests:
    """The digests of all cells, in 16 bytes each.

    Attributes:
        shared: Those that several cells have.
    """

    SIZE = 16

    def __init__(self, grid: Grid):
        self._grid = grid
        self._data = b"".join(bytes.fromhex(digest(grid.workflow(cell))) for cell in grid.cells())
        times = Counter(self._data[place : place + self.SIZE] for place in range(0, len(self._data), self.SIZE))
        self.shared = frozenset(data.hex() for data, count in times.items() if count > 1)
        self._used = [{index: place for place, index in enumerate(axis.used)} for axis in grid.axes]

    def __getitem__(self, cell: Index) -> str:
        place = 0
        for used, index in zip(self._used, cell, strict=True):
            place = place * len(used) + used[index]
        return self._data[place * self.SIZE : (place + 1) * self.SIZE].hex()


def claim(path: Path, owner: str = "") -> None:
    """Makes a folder a grid's, where it is not.

    Args:
        owner: What tells the grid from others, where its folder alone does not.

    Raises:
        GridError: It holds files that no grid made or those of another grid, or cannot be written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        if (path / MARKER).is_file():
            if owner_of(path) not in (owner, None):  # None: damaged, of which Folder speaks
                raise GridError(f"The folder {path} holds another grid's results. Name another one in the field out.")
            return
        if any(file.name != LOCK for file in path.iterdir()):
            raise GridError(
                f"The folder {path} holds files that no grid made. Empty it, or name another one in the field out."
            )
        mark = {"version": 1, "id": str(uuid.uuid4())} | ({"owner": owner} if owner else {})
        _put(path / MARKER, json.dumps(mark).encode())
    except OSError as error:
        raise GridError(f"The folder {path} cannot be used: {error.strerror}.") from error


def owner_of(path: Path) -> str | None:
    """What `claim` was told of the owner of a grid's folder; None of another folder."""
    try:
        mark = json.loads((path / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return str(mark.get("owner", "")) if isinstance(mark, dict) else None


class Folder:
    """A folder of results that this process alone writes to.

    Args:
        path: A folder that a grid has claimed; see `claim`.

    Attributes:
        id: Names the folder; an UUID.

    Raises:
        GridError: The folder's marker is damaged.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            self.id = str(uuid.UUID(json.loads((path / MARKER).read_text(encoding="utf-8"))["id"]))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise GridError(
                f"{path / MARKER} is damaged. Delete it, and name a new folder in the field out."
            ) from error
        self._journal = path / JOURNAL
        self._at: dict[str, int] = {}  # digest -> where its last line begins in the journal
        self._next_data = 0.0
        self._read_journal()

    # The journal

    def _read_journal(self) -> None:
        self._torn = False  # whether a crash has cut the last line off
        if not self._journal.is_file():
            return
        offset, line = 0, b"\n"
        with self._journal.open("rb") as file:
            for line in file:
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    self._at[json.loads(line)["cell"]] = offset
                offset += len(line)
        self._torn = not line.endswith(b"\n")

    def record(self, cell: str) -> dict:
        """The last line of a cell, by its digest; empty where there is none."""
        if cell not in self._at:
            return {}
        with self._journal.open("rb") as file:
            file.seek(self._at[cell])
            return json.loads(file.readline())

    def add(self, cell: str, status: str, **more: object) -> None:
        """Writes a line."""
        line = json.dumps({"cell": cell, "status": status, **more}).encode() + b"\n"
        with self._journal.open("ab", buffering=0) as file:  # whole lines, for those who read meanwhile
            if self._torn:
                file.write(b"\n")
                self._torn = False
            self._at[cell] = file.tell()
            file.write(line)

    def is_done(self, cell: str) -> bool:
        """Whether a cell was run and its files are there."""
        record = self.record(cell)
        return record.get("status") == "done" and all((self.path / file).is_file() for file in record["files"])

    def seconds(self) -> list[float]:
        """How long each cell ran that is done."""
        records = map(self.record, self._at)
        return [record["seconds"] for record in records if record["status"] == "done" and record.get("seconds")]

    # Files

    def put(self, path: str, files: Iterable[tuple[str, bytes]], count: int) -> list[str]:
        """Writes a cell's files, each whole or not at all.

        Args:
            path: Below cells/, without suffix.
            files: (suffix, content) of each.
            count: How many there are: a single one is called by the path, several have a number.

        Returns:
            Their paths from this folder.
        """
        names = []
        for number, (suffix, content) in enumerate(files, 1):
            names.append(f"{CELLS}/{path}{f'-{number}' if count > 1 else ''}{suffix}")
            target = self.path / names[-1]
            target.parent.mkdir(parents=True, exist_ok=True)
            _put(target, content)
            if script := thumbnail(names[-1], content):
                small = self.path / thumbnail_of(names[-1])
                small.parent.mkdir(parents=True, exist_ok=True)
                _put(small, script)
        return names

    def write_viewer(self) -> None:
        """Puts the page that shows data.js into the folder."""
        _put(self.path / VIEWER.name, page().encode("utf-8"))

    def write_data(self, grid: Grid, digests: Digests, progress: dict, now: bool = False) -> None:
        """Writes data.js, unless it was written just before; `now` writes it in any case."""
        start = time.monotonic()
        if not now and start < self._next_data:
            return
        with contextlib.suppress(PermissionError):  # Windows, while a page reads the file: the next time will do
            _put(self.path / DATA, self._data(grid, digests, progress))
        end = time.monotonic()
        self._next_data = end + max(LEAST, (end - start) / SHARE)

    def _data(self, grid: Grid, digests: Digests, progress: dict) -> Iterator[bytes]:
        head = {
            "version": 1,
            "title": grid.title,
            "description": grid.description,
            "axes": [
                {
                    "key": axis.key,
                    "title": axis.title,
                    "description": axis.description,
                    "default": axis.default,
                    "values": [_value(grid, value) for value in axis.values],
                }
                for axis in grid.axes
            ],
            "view": grid.view,
            "progress": {**progress, "written": round(time.time(), 3)},
        }
        yield f"pentimentoGrid({_script(head)[:-1]},".encode()
        yield b'"cells":['
        comma = "\n"
        for cell, record in self._records(grid, digests):
            if shown := _shown(record):
                pictures = [file for file in shown.get("files", []) if file.endswith(PICTURES)]
                if pictures and all((self.path / thumbnail_of(file)).is_file() for file in pictures):
                    shown["thumbs"] = True
                yield f"{comma}[{grid.number(cell)},{_script(shown)}]".encode()
                comma = ",\n"
        yield b"\n]});\n"

    def write_scores(self, grid: Grid, digests: Digests) -> None:
        """Writes scores.csv: a row for each cell, with its values, what came of it, and its scores."""
        names = sorted({name for _, record in self._records(grid, digests) for name in record.get("scores", {})})
        rows = self._rows(grid, digests, names)
        with contextlib.suppress(PermissionError):  # Windows, while a spreadsheet holds it open
            _put(self.path / SCORES, rows)

    def _rows(self, grid: Grid, digests: Digests, names: list[str]) -> Iterator[bytes]:
        yield "\ufeff".encode() + _row(
            [*(axis.title for axis in grid.axes), "status", "seconds", "files", "error", *names]
        )
        for cell, record in self._records(grid, digests):
            yield _row(
                [value.title for value in grid.values(cell)]
                + [record.get("status", ""), record.get("seconds", ""), " | ".join(record.get("files", []))]
                + [record.get("error", ""), *(record.get("scores", {}).get(name, "") for name in names)]
            )

    def _records(self, grid: Grid, digests: Digests) -> Iterator[tuple[Index, dict]]:
        """Each cell with its last line, one after the other."""
        with self._journal.open("rb") if self._at else io.BytesIO() as file:
            for cell in grid.cells():
                place = self._at.get(digests[cell])
                if place is None:
                    yield cell, {}
                else:
                    file.seek(place)
                    yield cell, json.loads(file.readline())


def page() -> str:
    """The viewer in one file. Its scripts are .cjs, since ComfyUI's front end imports every .js below web/."""

    def filled(part: re.Match) -> str:
        text = (VIEWER.parent / part["name"]).read_text(encoding="utf-8")
        return f"<{part[1]}{part['more']}>\n{text}</{part[1]}>"

    return PART.sub(filled, VIEWER.read_text(encoding="utf-8"))


def thumbnail_of(file: str) -> str:
    """The path of a picture's thumbnail."""
    return f"{THUMBS}/{file.removeprefix(f'{CELLS}/')}.js"


def thumbnail(file: str, content: bytes) -> bytes | None:
    """The script with a small copy of a picture; None where there is none to make."""
    url = data_url(content, THUMB) if file.endswith(PICTURES) else None
    return f"pentimentoThumb({_script(file)},{_script(url)});\n".encode() if url else None


def _shown(record: dict) -> dict:
    """What the viewer is told of a cell; nothing of one that waits."""
    fields = {"done": ("files", "texts", "seconds", "scores"), "failed": ("error", "seconds")}.get(
        record.get("status"), ()
    )
    return {name: record[name] for name in fields if record.get(name) or name in ("files", "error")}


def _value(grid: Grid, value: Value) -> dict:
    return {
        "key": value.key,
        "title": value.title,
        "description": value.description,
        "skip": value.skip,
        "sets": {f"{addresses.name(grid.graph, change.node)}.{change.input}": _set(change) for change in value.changes},
    }


def _set(change: Change) -> object:
    return change.value if change.find is None else f"{change.find} => {change.value}"


def _script(data: object) -> str:
    """JSON that stays JSON inside a script of a page, too."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _row(cells: list) -> bytes:
    """A row of a CSV file. A spreadsheet takes no text in it for a formula."""
    buffer = io.StringIO()
    csv.writer(buffer).writerow([_harmless(cell) for cell in cells])
    return buffer.getvalue().encode("utf-8", "backslashreplace")


def _harmless(cell: object) -> object:
    if not isinstance(cell, str) or not cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n")):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell


def _put(path: Path, content: bytes | Iterable[bytes]) -> None:
    """Writes a file that nobody sees half."""
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("wb") as file:
            file.writelines([content] if isinstance(content, bytes) else content)
        os.replace(part, path)  # noqa: PTH105
    finally:
        part.unlink(missing_ok=True)
