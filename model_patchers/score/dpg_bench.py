"""DPG-Bench, the benchmark of ELLA's paper (arXiv 2403.05135, section 4): its prompts, picture files and scores.

The prompts and the questions come from the folder dpg_bench of github.com/TencentQQGYLab/ELLA (Apache-2.0). The caller
chooses who answers the questions; for the published scores it was mPLUG-large.

    prompts = load_prompts("dpg_bench/prompts")
    for name, text in prompts.items():
        save("pictures", name, four_pictures_of(text))
    scores = evaluate("pictures", load_questions("dpg_bench/dpg_bench.csv"), answer)

`from_grid` brings the results of a grid over the prompts and four seeds into this form; workflows/grids/dpg_bench.py
does so from a command line.
"""

import csv
import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from statistics import fmean

from PIL import Image

PICTURES = {".png", ".jpg", ".jpeg", ".webp"}
SEEDS = ("seed", "noise_seed")  # names of inputs


@dataclass(frozen=True)
class Question:
    """One row of the CSV."""

    id: int  # proposition_id
    parents: tuple[int, ...]  # ids of the questions that this one depends on: dependency, without 0 for "none"
    category: str  # of the second level, such as "entity - whole": the column tuple up to its parenthesis
    text: str  # question_natural_language


@dataclass
class Scores:
    """Scores in percent, as the paper prints them."""

    total: float  # the mean over the items
    items: dict[str, float]  # the mean over an item's questions and its four pictures
    level1: dict[str, float]  # the mean over the questions: entity, attribute, relation, global, other
    level2: dict[str, float]  # "entity - whole" and so on
    failed: dict[str, str] = field(default_factory=dict)  # {item that was left out: why}


Questions = Mapping[int, Question]  # {id: question} of one item, in the order of the file
Answerer = Callable[[Image.Image, str], str]  # (picture, question) -> answer


def load_prompts(folder: str | Path) -> dict[str, str]:
    """{name: text} of a folder's .txt files. The published folder has 1,065.

    Raises:
        FileNotFoundError: The folder has none.
    """
    prompts = {path.stem: path.read_text("utf-8").strip() for path in sorted(Path(folder).glob("*.txt"))}
    if not prompts:
        raise FileNotFoundError(f"{folder} holds no .txt files; it should be the folder dpg_bench/prompts of ELLA.")
    return prompts


def grid(pictures: Sequence[Image.Image]) -> Image.Image:
    """One picture of four: the first and the second above the third and the fourth.

    Raises:
        ValueError: The pictures are not four squares of one size.
    """
    sizes = [picture.size for picture in pictures]
    side = sizes[0][0] if sizes else 0
    if sizes != [(side, side)] * 4:
        raise ValueError(f"DPG-Bench needs four square pictures of one size for each prompt; these are {sizes}.")
    whole = Image.new("RGB", (2 * side, 2 * side))
    for picture, corner in zip(pictures, _corners(side), strict=True):
        whole.paste(picture, corner)
    return whole


def crops(whole: Image.Image) -> list[Image.Image]:
    """The four pictures of a `grid`, in order.

    Raises:
        ValueError: The grid is not a square with an even side.
    """
    side = whole.width // 2
    if whole.size != (2 * side, 2 * side):
        raise ValueError(f"A grid of 2 x 2 squares is needed, and this picture is {whole.width} x {whole.height}.")
    return [whole.crop((left, top, left + side, top + side)) for left, top in _corners(side)]


def _corners(side: int) -> list[tuple[int, int]]:
    return [(0, 0), (side, 0), (0, side), (side, side)]


def save(folder: str | Path, name: str, pictures: Sequence[Image.Image]) -> Path:
    """Writes a prompt's `grid` as <name>.png, the file that the published evaluation reads."""
    path = Path(folder) / f"{name}.png"
    grid(pictures).save(path)
    return path


def from_grid(results: str | Path, folder: str | Path) -> tuple[list[str], list[str]]:
    """Writes a prompt's four pictures of a grid as one file, as `save` does.

    Args:
        results: Folder of the results of a grid with two axes: the prompts, whose titles are the prompts' names, and
            four seeds.
        folder: For the pictures; it is made where it is not there.

    Returns:
        The names that were written, and those that lack a picture.

    Raises:
        ValueError: The folder holds no results, or the grid has other axes, or its pictures are no squares of one size.
    """
    results, folder = Path(results), Path(folder)
    prompts, seeds, cells = _cells(results)
    folder.mkdir(parents=True, exist_ok=True)
    written, lacking = [], []
    for prompt, name in prompts.items():
        files = [cells.get((prompt, seed)) for seed in seeds]
        if not all(files):
            lacking.append(name)
            continue
        if Path(name).name != name:
            raise ValueError(
                f"The prompt {name} cannot name a file. Give each prompt its name in DPG-Bench as a title."
            )
        pictures = [Image.open(results / file) for file in files]
        try:
            save(folder, name, pictures)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        written.append(name)
    return written, lacking


def _cells(results: Path) -> tuple[dict[int, str], list[int], dict[tuple[int, int], str]]:
    """Of a grid: {place of a prompt: name}, the seeds' places, and {(prompt, seed): picture}."""
    try:
        text = (results / "data.js").read_text(encoding="utf-8")
        data = json.loads(text[text.index("{") : text.rindex("}") + 1])
        axes, records = data["axes"], data["cells"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ValueError(
            f"{results} holds no results of a grid: it should be the folder with its index.html."
        ) from error
    used = [[place for place, value in enumerate(axis["values"]) if not value["skip"]] for axis in axes]
    by_seed = [_is_seed(axis) for axis in axes]
    if sorted(by_seed) != [False, True] or len(used[by_seed.index(True)]) != 4:
        raise ValueError(
            f"DPG-Bench needs a grid of two axes, the prompts and four seeds. This one has "
            f"{', '.join(axis['title'] for axis in axes)}."
        )
    seed = by_seed.index(True)
    last = len(axes[1]["values"])
    cells = {}
    for number, record in records:
        place = divmod(number, last)
        if files := [file for file in record.get("files", []) if Path(file).suffix.lower() in PICTURES]:
            cells[place[1 - seed], place[seed]] = files[0]
    names = {place: axes[1 - seed]["values"][place]["title"] for place in used[1 - seed]}
    return names, used[seed], cells


def _is_seed(axis: dict) -> bool:
    return all(name.rpartition(".")[2] in SEEDS for value in axis["values"] for name in value["sets"])


def load_questions(file: str | Path, *, skip_first_row: bool = True) -> dict[str, dict[int, Question]]:
    """{name of the prompt: its questions} of dpg_bench.csv.

    Args:
        file: With the columns item_id, proposition_id, dependency, tuple and question_natural_language. If an item's
            rows stand in several places, the last place counts, as in the published script.
        skip_first_row: True: the first question is left out, as in the published script. If other questions depend on
            it, the item fails (partiprompts97, github.com/TencentQQGYLab/ELLA/issues/61). False: all rows are read.
    """
    with Path(file).open(encoding="utf-8-sig", newline="") as opened:
        rows = list(csv.DictReader(opened))[skip_first_row:]
    return {
        name: {question.id: question for question in map(_question, item_rows)}
        for name, item_rows in groupby(rows, key=lambda row: row["item_id"])
    }


def _question(row: dict[str, str]) -> Question:
    return Question(
        int(row["proposition_id"]),
        tuple(parent for parent in map(int, row["dependency"].split(",")) if parent),
        row["tuple"].split("(")[0].strip(),
        row["question_natural_language"],
    )


def answered(picture: Image.Image, questions: Questions, answer: Answerer) -> dict[int, float]:
    """{id of the question: 1 if the answer is exactly "yes", else 0}."""
    return {question.id: float(answer(picture, question.text) == "yes") for question in questions.values()}


def zeroed(raw: Mapping[int, float], questions: Questions) -> dict[int, float]:
    """The scores, with 0 for each question that has a parent with 0.

    Questions are taken in the order of the file. So a zero passes from question to question downwards; a question that
    stands above its parent gets 0 only if the answer to the parent was not "yes".

    Raises:
        ValueError: A parent is not among the questions.
    """
    scores = dict(raw)
    for question in questions.values():
        if missing := set(question.parents) - set(scores):
            raise ValueError(
                f"Question {question.id} depends on question {min(missing)}, which is missing. If that is the CSV's "
                "first row, load_questions(..., skip_first_row=False) reads it."
            )
        if any(scores[parent] == 0 for parent in question.parents):
            scores[question.id] = 0.0
    return scores


def evaluate(
    folder: str | Path,
    questions: Mapping[str, Questions],
    answer: Answerer,
    *,
    last_crop_categories: bool = True,
    skip_failures: bool = True,
) -> Scores:
    """The scores of a folder of grids. By default they are those that the published script prints.

    Args:
        folder: Pictures as `save` writes them. Other files are ignored.
        questions: From `load_questions`.
        answer: (picture, question) -> "yes" or anything else.
        last_crop_categories: True: the categories use the answers for the fourth picture only, without `zeroed`, as in
            the published script (github.com/TencentQQGYLab/ELLA/issues/60). False: they use all four pictures, with
            `zeroed`, like the total.
        skip_failures: True: pictures that cannot be read or have no questions, items without a picture and errors of
            `answer` are left out of the mean, as in the published script. False: they raise errors.

    Raises:
        ValueError: Nothing could be scored; or, without skip_failures, an item has no picture.
    """
    items, failed, categories = {}, {}, defaultdict(list)
    paths = sorted(path for path in Path(folder).iterdir() if path.suffix.lower() in PICTURES)
    for path in paths:
        name = path.name.split(".")[0]
        try:
            items[name], item_categories = _item(path, questions[name], answer, last_crop_categories)
        except Exception as error:
            if not skip_failures:
                raise
            failed[name] = f"{type(error).__name__}: {error}"
            continue
        for category, values in item_categories.items():
            categories[category] += values
    for name in sorted(questions.keys() - items.keys() - failed.keys()):
        failed[name] = "The item has no picture."
        if not skip_failures:
            raise ValueError(f"{folder} has no picture for {name}.")
    if not items:
        raise ValueError(f"No picture of {folder} could be scored: {failed}")
    level1 = defaultdict(list)
    for category, values in categories.items():
        level1[category.split("-")[0].strip()] += values
    return Scores(100 * fmean(items.values()), _percent(items), _percent(level1), _percent(categories), failed)


def _item(
    path: Path, questions: Questions, answer: Answerer, last_crop_categories: bool
) -> tuple[float, dict[str, list[float]]]:
    """An item's score, and its answers' scores by category of the second level."""
    with Image.open(path) as whole:
        raw = [answered(crop, questions, answer) for crop in crops(whole)]
    final = [zeroed(scores, questions) for scores in raw]
    categories = defaultdict(list)
    for scores in raw[-1:] if last_crop_categories else final:
        for question, score in scores.items():
            categories[questions[question].category].append(score)
    return fmean(fmean(scores.values()) for scores in final), categories


def _percent(values: Mapping[str, float | list[float]]) -> dict[str, float]:
    return {name: 100 * (fmean(value) if isinstance(value, list) else value) for name, value in sorted(values.items())}
