"""Regional Prompt: one text with separators -> regions of the picture, their masks, and a conditioning.

The syntax is that of Regional Prompter, an extension of A1111's web UI
(github.com/hako-mikan/sd-webui-regional-prompter), written afresh from these rules:

- Separators stand in capitals, as words of their own. Text before ADDCOMM is put before every prompt, and text before
  ADDBASE is the base: the prompt of the whole picture. Then come the regions' prompts, divided by BREAK, ADDCOL and
  ADDROW.
- The picture is divided into lines, and each line into cells. With the splitting "columns" the lines are rows: ADDROW
  and `;` begin a line, ADDCOL and `,` divide it. With "rows" the lines are columns, and the separators change places.
- In the ratios the first number of each line is the line's share of the picture, and the others are its cells' shares
  of the line. A line of one number has one cell. Ratios without `;` are the cells of one line.
- BREAK stands for the separator that the ratios have at this place.
- The text decides how many regions there are. Where a line of the ratios is short its last number is repeated, and
  where it is long the rest describes the next line.
"""

import colorsys
import math
import re
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

import comfy.sd
import torch
from node_helpers import conditioning_set_values
from torch import Tensor

from ..comfyui.conditioning import Conditioning
from ..comfyui.progress import ignore
from ..pixels import checks
from ..pixels.masks import selected

COMMON, BASE, COLUMN, ROW, BREAK = "ADDCOMM", "ADDBASE", "ADDCOL", "ADDROW", "BREAK"
SEPARATOR = re.compile(
    rf"\b({COMMON}|{BASE}|{COLUMN}|{ROW}|{BREAK})\b", re.ASCII
)  # ASCII: also between Chinese letters
CELL = "pentimento_cell"  # of a region's Cell in its conditioning


class Marks(NamedTuple):
    """What divides the picture into lines and a line into cells: in the text, and in the ratios."""

    line: str
    cell: str
    line_ratio: str
    cell_ratio: str


SPLITTINGS = {"columns": Marks(ROW, COLUMN, ";", ","), "rows": Marks(COLUMN, ROW, ",", ";")}


class Parts(NamedTuple):
    """A text's parts.

    Attributes:
        common: Text before ADDCOMM, or None.
        base: Text before ADDBASE, or None.
        prompts: The regions' prompts, one at least.
        separators: What stands between them.
    """

    common: str | None
    base: str | None
    prompts: list[str]
    separators: list[str]

    def with_common(self, prompt: str) -> str:
        """The prompt with the common one before it."""
        return ", ".join(filter(None, (self.common, prompt)))


class Cell(NamedTuple):
    """A rectangle of the picture, in fractions of its height and width."""

    top: float
    bottom: float
    left: float
    right: float


class Regions(NamedTuple):
    """The regions of a picture.

    Attributes:
        parts: The text, with one prompt for each region.
        masks: float32 (N, H, W) in [0, 1]. Their sum is at most 1.
        cells: One for each region, or None where the regions are masks of the user.
        rest: (1, H, W), the part that no mask covers, for the base's or the common prompt; None where there is none.
    """

    parts: Parts
    masks: Tensor
    cells: list[Cell] | None
    rest: Tensor | None = None


def parse(text: str) -> Parts:
    """A text's parts, without the spaces and commas beside separators.

    Raises:
        ValueError: ADDCOMM or ADDBASE stands behind a region, or twice; or a separator stands inside brackets.
    """
    pieces = SEPARATOR.split(text)
    _refuse_split_brackets(pieces)
    prompts, separators = [piece.strip(" ,\t\r\n") for piece in pieces[::2]], pieces[1::2]
    before = {}
    while separators and separators[0] in (COMMON, BASE) and separators[0] not in before:
        before[separators.pop(0)] = prompts.pop(0)
    for name in (COMMON, BASE):
        if name in separators:
            raise ValueError(
                f"text has {name} {'twice' if name in before else 'after the first region'}. {COMMON} and {BASE} stand "
                f"at the beginning, each once: common prompt {COMMON} base prompt {BASE} first region {BREAK} second "
                "region."
            )
    return Parts(before.get(COMMON), before.get(BASE), prompts, separators)


def _refuse_split_brackets(pieces: Sequence[str]) -> None:
    """Refuses brackets, such as those of a weight, that are opened in one part of a text and closed in another."""
    open_before = 0
    for place, piece in enumerate(pieces):
        plain = re.sub(r"\\.", "", piece)
        open_now = 0
        for bracket in re.findall(r"[()]", plain):
            open_now += 1 if bracket == "(" else -1
            if open_now < 0 and open_before > 0:
                raise ValueError(
                    f"text has {pieces[place - 1]} inside brackets, but a weight cannot reach over several regions. "
                    f"Close the brackets before {pieces[place - 1]} and open new ones after it: (a:1.2) "
                    f"{pieces[place - 1]} (b:1.2). Write brackets that are no weight as \\( and \\)."
                )
            open_now = max(open_now, 0)
        open_before += open_now


def cells(parts: Parts, ratios: str, splitting: str) -> tuple[Parts, list[Cell]]:
    """The rectangles of a text's regions.

    Args:
        ratios: As "1,2,1" or "1,2,1;2,1,1". A missing number is 1.
        splitting: One of SPLITTINGS.

    Returns:
        The parts without a last BREAK that nothing follows, and a cell for each prompt.

    Raises:
        ValueError: The ratios are no positive numbers, or BREAK divides the text into more regions than they have.
    """
    marks, ratios = SPLITTINGS[splitting], ratios.translate({0xFF0C: ",", 0xFF1B: ";"})  # of Chinese keyboards
    meant = _separators(ratios, marks)
    places = iter(meant)
    separators = [next(places, BREAK) if each == BREAK else each for each in parts.separators]
    prompts = list(parts.prompts)
    while separators and separators[-1] == BREAK and not prompts[-1]:
        separators.pop()
        prompts.pop()
    if BREAK in separators:
        regions = len(meant) + 1
        raise ValueError(
            f'{BREAK} divides the text into {len(prompts)} regions, but the ratios "{ratios}" have '
            f"{'1 region' if regions == 1 else f'{regions} regions'}. Give a ratio for each region, as in "
            f'"{",".join("1" * len(prompts))}", or divide the text by {COLUMN} and {ROW}.'
        )
    lines = _lines(separators, ratios, marks)
    rectangles = []
    for (start, end), (_, shares) in zip(_ranges([share for share, _ in lines]), lines, strict=True):
        for first, last in _ranges(shares):
            across = Cell(start, end, first, last)
            rectangles.append(across if marks.line == ROW else Cell(first, last, start, end))
    return parts._replace(prompts=prompts, separators=separators), rectangles


def _separators(ratios: str, marks: Marks) -> list[str]:
    """The separators between the regions that ratios have."""
    if ";" not in ratios:
        return [marks.cell] * ratios.count(",")
    between = []
    for line in ratios.split(marks.line_ratio):
        cells_of_line = max(1, line.count(marks.cell_ratio))
        between += [marks.line] + [marks.cell] * (cells_of_line - 1)
    return between[1:]


def _lines(separators: Sequence[str], ratios: str, marks: Marks) -> list[tuple[float, list[float]]]:
    """Each line's share of the picture, and the shares of its cells."""
    counts = [1]  # cells of each line
    for separator in separators:
        if separator == marks.line:
            counts.append(1)
        else:
            counts[-1] += 1
    if ";" in ratios or len(set(separators)) == 2:
        rows = [_numbers(line, marks.cell_ratio) for line in ratios.split(marks.line_ratio)]
    elif len(counts) == 1:
        rows = [[1.0, *_numbers(ratios, ",")]]
    else:
        rows = [[number] for number in _numbers(ratios, ",")]
    lines: list[tuple[float, list[float]]] = []
    for row in rows:
        numbers = row
        while numbers and len(lines) < len(counts):
            count = counts[len(lines)]
            shares = numbers[1:] or numbers
            lines.append((numbers[0], (shares + shares[-1:] * count)[:count]))
            numbers = shares[count:]
    return lines + [(lines[-1][0], rows[-1][-1:] * count) for count in counts[len(lines) :]]


def _numbers(ratios: str, mark: str) -> list[float]:
    """The numbers between the marks. A missing one is 1.

    Raises:
        ValueError: One is no positive number.
    """
    numbers = []
    for word in ratios.split(mark):
        try:
            number = float(word.strip() or 1)
        except ValueError:
            number = math.nan
        if not 0 < number < math.inf:
            raise ValueError(
                f'ratios has "{word.strip()}", which is no number above 0. Write numbers with a comma between the '
                'regions of a row and a semicolon between rows, such as "1,2,1" or "1,2,1;2,1,1".'
            )
        numbers.append(number)
    return numbers


def _ranges(shares: Sequence[float]) -> list[tuple[float, float]]:
    """Where each share begins and ends, if together they fill 0 ... 1."""
    total = sum(shares)
    ends = list(accumulate(share / total for share in shares))
    return list(pairwise([0.0, *ends[:-1], 1.0]))  # the sum of all may be below 1 by rounding


def of_cells(text: str, ratios: str, splitting: str, height: int, width: int) -> Regions:
    """The regions that a text and ratios describe, at the picture's size.

    Raises:
        ValueError: As `parse` and `cells`, or a region has no pixel.
    """
    parts, rectangles = cells(parse(text), ratios, splitting)
    masks = torch.zeros(len(rectangles), height, width)
    for number, (mask, cell) in enumerate(zip(masks, rectangles, strict=True), 1):
        top, bottom = int(height * cell.top), int(height * cell.bottom)
        left, right = int(width * cell.left), int(width * cell.right)
        mask[top:bottom, left:right] = 1
        if top == bottom or left == right:
            raise ValueError(
                f'With the ratios "{ratios}" region {number} is thinner than a pixel of a picture of {width} x '
                f"{height}. Give it a larger share of its row or column, or make the picture larger."
            )
    return Regions(parts, masks, rectangles)


def of_masks(text: str, masks: Tensor) -> Regions:
    """One region for each mask, with the prompts in their order.

    Where masks overlap each gets its part. What no mask covers gets the base, else the common prompt; without these it
    belongs to the first region, as in Regional Prompter.

    Args:
        masks: (N, H, W) or (H, W).

    Raises:
        ValueError: As `parse`; there are more masks than prompts or fewer, or a mask selects nothing.
    """
    parts, masks = parse(text), checks.mask(masks, "masks")
    prompts = list(parts.prompts)
    while len(prompts) > len(masks) and not prompts[-1]:
        prompts.pop()
    if len(prompts) != len(masks):
        raise ValueError(
            f"masks is a batch of {len(masks)}, but the text has prompts for {len(prompts)} regions. Connect one mask "
            f"for each region, and divide the text by {BREAK}."
        )
    for number, mask in enumerate(masks, 1):
        if not selected(mask).any():
            raise ValueError(
                f"Mask {number} of masks selects nothing, so its prompt would have no place. Paint the mask, or leave "
                "out both the mask and its prompt."
            )
    masks = masks / masks.sum(0).clamp(min=1)
    rest = (1 - masks.sum(0, keepdim=True)).clamp(min=0)
    if not selected(rest).any():
        rest = None
    elif parts.base is None and parts.common is None:
        masks, rest = torch.cat((masks[:1] + rest, masks[1:])), None
    return Regions(parts._replace(prompts=prompts), masks, None, rest)


def conditioning(
    clip: comfy.sd.CLIP, regions: Regions, base_ratio: float, progress: Callable[[], None] = ignore
) -> Conditioning:
    """The prompts as ComfyUI encodes them, each with its mask, which ComfyUI mixes at every step.

    Args:
        clip: The model's text encoder.
        base_ratio: The base's share of the prediction, 0 ... 1. It counts if the text has a base.
        progress: Called before each prompt.

    Returns:
        The base with the base ratio as its strength, if that is above 0; then an entry for each region, with a mask of
        the strength 1 - base ratio; then the prompt of the rest, if no base covers it.
    """
    parts, share = regions.parts, 0.0 if regions.parts.base is None else base_ratio

    def encoded(prompt: str, **values: object) -> Conditioning:
        progress()
        return conditioning_set_values(clip.encode_from_tokens_scheduled(clip.tokenize(prompt)), values)

    def masked(prompt: str, mask: Tensor, **values: object) -> Conditioning:
        return encoded(prompt, mask=mask, set_area_to_bounds=False, mask_strength=1 - share, **values)

    entries = encoded(parts.with_common(parts.base), strength=share) if share else []
    for place, prompt in enumerate(parts.prompts):
        cell = {} if regions.cells is None else {CELL: regions.cells[place]}
        entries += masked(parts.with_common(prompt), regions.masks[place : place + 1], **cell)
    if regions.rest is not None and not share:
        entries += masked(parts.with_common(parts.base or ""), regions.rest)
    return entries


def colours(count: int) -> list[tuple[int, int, int]]:
    """The first colours of Regional Prompter's masks, in 8 bits: HSV (hue, 50 %, 50 %).

    The hues are 0, 1/2, 1/4, 3/4, 1/8, 3/8, ...: van der Corput's fractions, each power of 2 in rising order.
    """
    palette = []
    for number in range(count):
        hue = (2 * number + 1) / (1 << number.bit_length()) - 1 if number else 0.0
        palette.append(tuple(int(256 * value) for value in colorsys.hsv_to_rgb(hue, 0.5, 0.5)))
    return palette


def preview(masks: Tensor) -> Tensor:
    """The regions in their colours, on white: (N, H, W) -> an image (1, H, W, 3)."""
    palette = masks.new_tensor(colours(len(masks))) / 255
    rest = (1 - masks.sum(0)).clamp(min=0)
    return (torch.einsum("nhw,nc->hwc", masks, palette) + rest[..., None])[None]
