"""Captions for ELLA: a prompt with which a language model lengthens a text, and the caption in the model's answer."""

import json
import re
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator
from enum import IntEnum
from itertools import chain

from .caption_rules import RULES, Part
from .ella_t5 import tokenizer

INSTRUCTION = (
    "Turn the short description of a picture into a long one, as in the examples below.\n"
    "Write three to five sentences in one paragraph. Give each thing its colour, shape, material or texture, and say "
    "where it is in relation to the others. Write how many there are of a thing, and put words that are written in the "
    "picture in quotation marks. Keep all that the short description says, and add only what can be seen: no mood, no "
    "praise, no meaning. Answer with the long description and nothing else."
)

EXAMPLES = [
    (
        "Photo of a dog asleep on a porch.",
        "A large brown dog with a white muzzle sleeps on the grey boards of a wooden porch. Its head rests on its "
        "front paws, and a red collar lies loose around its neck. To the left of the dog stands a round metal bowl "
        "half full of water, and behind it a green door with peeling paint is a little open. Yellow leaves are "
        "scattered over the two steps below the porch.",
    ),
    (
        "Illustration of a fox reading by a lamp.",
        "A flat illustration in orange, navy and cream shows a slim fox that sits cross-legged on a striped "
        "cushion. It holds an open book with a blue cover in both paws and wears small round glasses. A tall lamp "
        "with a bell-shaped shade stands to its right and throws a pale yellow circle on the floor. Through the "
        "dark window behind the fox, a thin moon and three stars are seen.",
    ),
    (
        "Three cups and a teapot on a tray.",
        "A rectangular wooden tray holds three small cups and one teapot. The round teapot, glazed in dark green, "
        "stands at the back of the tray with its spout to the right. In front of it the cups stand in a row: the "
        "left one is white, the middle one is pale blue, and the right one is black with a chipped rim. A folded "
        "linen napkin with a red border lies under the black cup.",
    ),
    (
        "A bakery with a sign that says FRESH BREAD.",
        "A narrow brick bakery with a wide window stands at the corner of a cobbled street. Above the window hangs "
        'a cream-coloured sign on which "FRESH BREAD" is painted in thick red letters. Behind the glass, long brown '
        "loaves stand upright in wicker baskets, and a row of round buns lies on the shelf below them. A black "
        "bicycle leans against the wall to the left of the blue door.",
    ),
]

# The prompt repeated up to its last example, if a "Short:" follows; its line breaks may have changed.
OWN_EXAMPLES = re.compile(r"\s{1,9}".join(map(re.escape, EXAMPLES[-1][1].split())) + r"(?=\s{1,9}Short:)")
# The labels of a pair at the start of a line: "Short:", "**Long:**", "Long prompt version:".
SHORT, LONG = (
    re.compile(rf"^[ \t*_#>`\"'-]{{0,20}}{word}\b[ \w*]{{0,40}}:", re.IGNORECASE | re.MULTILINE)
    for word in ("short", "long")
)
# A line in bold that is no sentence.
TITLE = re.compile(r"(?:\*\*|__)[^*_]{1,100}[^*_.!?](?:\*\*|__)")
# The rest of a string in JSON, up to its closing quote.
STRING = re.compile(r'[^"\\]*(?:\\.[^"\\]*)*', re.DOTALL)
# The end of a sentence with the quotation marks and brackets after it; full stops of Chinese and Japanese.
SENTENCE = re.compile(r"""[.!?]["')\]\u201d\u2019]{0,9}(?= |$)|[\u3002\uff01\uff1f]""")


class Patterns(dict):
    """{part: its patterns}. A part is compiled at its first use, since all of them take a fifth of the pack's start."""

    def __missing__(self, part: Part) -> list[re.Pattern]:
        self[part] = [re.compile(rule.pattern, re.IGNORECASE | re.MULTILINE) for rule in RULES if rule.part is part]
        return self[part]


PATTERNS = Patterns()
QUOTES = {'"': '"', "'": "'", "\u201c": "\u201d", "\u2018": "\u2019", "\u00ab": "\u00bb"}
MOST = 1 << 20  # characters of an answer
MOST_LINES = 10_000  # lines in which the caption is looked for
LONGEST_TOKEN = 64  # characters of a token, far more than T5's longest
EMPTY = (
    "text has no caption in it. Connect a language model's answer to the prompt of Caption Prompt. To see the model's "
    "answer, use Preview as Text; if it has no caption, try another seed or model."
)
STILL_THINKING = (
    "text ends before the model had done thinking, so there is no caption in it. Raise max_length of the node with the "
    "language model, or turn thinking off."
)


def prompt(text: str) -> str:
    """The prompt for a language model: an instruction, four pairs of a short and a long caption, and the text.

    ELLA's authors advise this in-context learning (README of TencentQQGYLab/ELLA, notes). The wording is new.

    Args:
        text: A short caption; its line breaks become spaces.

    Raises:
        ValueError: The text is empty.
    """
    short = " ".join(text.split())
    if not short:
        raise ValueError("text is empty: write in a few words what the picture shows.")
    pairs = "".join(f"Short: {example}\nLong: {answer}\n\n" for example, answer in EXAMPLES)
    return f"{INSTRUCTION}\n\n{pairs}Short: {short}\nLong:"


def clean(answer: str, max_tokens: int) -> str:
    """The caption in a language model's answer to `prompt`: one line without what RULES strip.

    Args:
        answer: It may repeat the prompt, and have more pairs of captions after the first.
        max_tokens: The most T5 tokens, </s> included. A longer caption ends with the last sentence that fits if at
            least half of the tokens remain, else with the last word that fits.

    Raises:
        ValueError: The answer has no caption, is a refusal, or has more than MOST characters; not one word of the
            caption fits.
    """
    if len(answer) > MOST:
        raise ValueError(
            f"text has {len(answer):,} characters, and a language model's answer has at most {MOST:,}. Connect the "
            "answer to one prompt."
        )
    text, before = answer, None
    while text != before:  # quotes that were removed, or a cut, may leave another introduction or quote at an end
        before = text
        text = _caption(text)
        if _matches(Part.REFUSAL, text):
            raise ValueError(
                f'text is no caption: the language model refused, or asked back. It wrote: "{_beginning(text)}" '
                "Change the short text, or try another seed or model."
            )
        text = _cut(text, max_tokens)
    if not text:
        thinking = any(pattern.search(answer) for pattern in PATTERNS[Part.THINKING])
        raise ValueError(STILL_THINKING if thinking else EMPTY)
    return text


def count_tokens(text: str) -> int:
    """The number of T5 tokens, </s> included."""
    return len(tokenizer()(text, verbose=False)["input_ids"])


def _caption(answer: str) -> str:
    """The first paragraph that is more than an introduction; "" if there is none."""
    text = _json_string(_without(Part.TOKEN, _answered(_final(answer))))
    # The caption stands before further pairs, or in the first pair if the model repeats the short text.
    before_pairs, *pairs = SHORT.split(text)
    for section in [before_pairs, *filter(LONG.search, pairs)]:
        *before_label, section = LONG.split(section)
        paragraphs = [(place, _plain(lines)) for place, lines in _paragraphs(section, bool(before_label))]
        captions = [(place, text) for place, text in paragraphs if any(map(str.isalnum, text))]
        if captions:
            return min(captions, key=lambda caption: caption[0])[1]
    return ""


def _final(answer: str) -> str:
    """The answer without the model's thoughts, the prompt, and what stands around an answer in tags."""
    text = answer
    for pattern in (*PATTERNS[Part.BEFORE], OWN_EXAMPLES):
        for match in deque(pattern.finditer(text), maxlen=1):
            text = text[match.end() :]
    for pattern in PATTERNS[Part.AFTER] + PATTERNS[Part.THINKING]:
        if match := pattern.search(text):
            text = text[: match.start()]
    return text


def _answered(text: str) -> str:
    """What the model said, a paragraph for each time it spoke, without what others said."""
    headers = [(match, part) for part in (Part.ASKED, Part.ANSWERED) for match in _all(part, text)]
    said, start, asked = [], 0, False
    for match, part in sorted(headers, key=lambda header: header[0].start()):
        if not asked:
            said.append(text[start : match.start()])
        start, asked = match.end(), part is Part.ASKED
    return "\n\n".join(said if asked else [*said, text[start:]])


def _json_string(text: str) -> str:
    """The caption's string where the text is JSON, cut off or not; else the text."""
    for pattern in PATTERNS[Part.JSON]:
        if match := pattern.search(text):
            string = STRING.match(text, match.end())[0]
            try:
                return json.loads(f'"{string}"', strict=False)
            except ValueError:  # an escape that JSON does not have
                return re.sub(r"\\(.)", lambda match: " " if match[1] in "nrt" else match[1], string, flags=re.DOTALL)
    return text


class Place(IntEnum):
    """Where a paragraph stands, in the order in which paragraphs are taken for the caption."""

    AFTER_LABEL = 0
    ELSEWHERE = 1
    TITLE = 2


def _paragraphs(section: str, labelled: bool) -> Iterator[tuple[Place, list[str]]]:
    """The lines of each paragraph.

    Args:
        labelled: A label stands before the section.
    """
    lines, place = [], Place.AFTER_LABEL if labelled else Place.ELSEWHERE
    for line in map(str.strip, section.splitlines()[:MOST_LINES]):
        ends = [pattern.match(line) for pattern in PATTERNS[Part.LABEL]]
        label = next(filter(None, ends), None)
        title = TITLE.fullmatch(line)
        drops = not line or any(pattern.search(line) for pattern in PATTERNS[Part.LINE])
        if lines and (label or title or drops):
            yield place, lines
            lines, place = [], Place.ELSEWHERE
        if label:
            place, lines = Place.AFTER_LABEL, list(filter(None, [line[label.end() :]]))
        elif title and place is Place.ELSEWHERE:
            yield Place.TITLE, [line]
        elif not drops or _matches(Part.REFUSAL, line):
            lines.append(line)
    if lines:
        yield place, lines


def _plain(lines: list[str]) -> str:
    """One line without markup, introduction and quotes."""
    words = " ".join(line[_end(Part.MARK, line) :] for line in lines).encode("utf-8", "ignore").decode()
    text = " ".join(_without(Part.EMPHASIS, words).split())
    text = text[_end(Part.START, text) :]
    for pattern in PATTERNS[Part.END]:
        if match := pattern.search(text):
            text = text[: match.start()]
    return _unquoted(text)


def _all(part: Part, text: str) -> Iterator[re.Match]:
    """The matches of a part's patterns."""
    return chain.from_iterable(pattern.finditer(text) for pattern in PATTERNS[part])


def _matches(part: Part, text: str) -> bool:
    """Whether the text begins with a match of a part's patterns."""
    return any(pattern.match(text) for pattern in PATTERNS[part])


def _without(part: Part, text: str) -> str:
    """The text without the matches of a part's patterns."""
    for pattern in PATTERNS[part]:
        text = pattern.sub("", text)
    return text


def _end(part: Part, text: str) -> int:
    """Where the matches end that stand at the start of the text, one after another."""
    end, before = 0, None
    while end != before:
        before = end
        for pattern in PATTERNS[part]:
            if match := pattern.match(text, end):
                end = match.end()
    return end


def _beginning(text: str) -> str:
    return text if len(text) <= 160 else f"{text[:160]} ..."


def _unquoted(text: str) -> str:
    """The text without quotation marks around all of it, and without a single mark at one end."""
    for opening, closing in QUOTES.items():
        marks = re.findall(rf"(?<!\w){opening}|{closing}(?!\w)", text)  # not an apostrophe within a word
        encloses = len(text) > 1 and text[0] == opening and text[-1] == closing
        if marks == [opening, closing] and encloses:
            return text[1:-1].strip()
        if len(marks) == 1:
            return text.removeprefix(opening).removesuffix(closing).strip()
    return text


def _cut(text: str, max_tokens: int) -> str:
    """The text, cut as `clean` says if it has too many tokens."""
    text = text[: max_tokens * LONGEST_TOKEN].rstrip()
    if not text or count_tokens(text) <= max_tokens:
        return text
    words = text.split(" ")[:max_tokens]  # each word has one token or more

    def tokens_of(number: int) -> int:
        return count_tokens(" ".join(words[:number]))

    fitting = bisect_right(range(1, len(words) + 1), max_tokens, key=tokens_of)
    if not fitting:
        raise ValueError(
            f"max_tokens is {max_tokens}, and the caption's first word alone takes {tokens_of(1)} T5 tokens, the end "
            "token included. Raise max_tokens; ELLA takes 128."
        )
    start = " ".join(words[:fitting])
    ends = [match.end() for match in SENTENCE.finditer(start)]
    if ends and count_tokens(start[: ends[-1]]) >= max_tokens / 2:
        return start[: ends[-1]]
    return start.rstrip(" ,;:-(")
