"""Captions for ELLA: the prompt that has a language model lengthen one, and its answer made a plain text."""

import re
from bisect import bisect_right
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import T5TokenizerFast

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

THOUGHTS = re.compile(r".*</think(?:ing)?>|<think(?:ing)?>.*", re.DOTALL | re.IGNORECASE)
CHAT_TOKENS = re.compile(r"<\|[^<>|]*\|>|</?(?:s|bos|eos|start_of_turn|end_of_turn)>")
OWN_EXAMPLES = re.compile(r".*" + r"\s+".join(map(re.escape, EXAMPLES[-1][1].split())) + r"(?=\s+Short:)", re.DOTALL)
MARKUP = r"[ \t*_#>`\"'-]*"
SHORT = re.compile(rf"^{MARKUP}short\b[ \w*]*:", re.IGNORECASE | re.MULTILINE)
LONG = re.compile(rf"^{MARKUP}long\b[ \w*]*:", re.IGNORECASE | re.MULTILINE)
BREAKS = re.compile(
    r"^[ \t]*(?:```\w*|#+ .*|[-*_=]{3,}|.*:[ *_]*)$", re.MULTILINE
)  # fence, heading, rule, introduction
LINE_MARKS = re.compile(r"^\s*(?:(?:[-+>\u2022]|\d+[.)])\s+)+", re.MULTILINE)
EMPHASIS = re.compile(r"[*`]|(?<!\w)_+|_+(?!\w)")
PREAMBLE = re.compile(
    r"(?:(?:sure|certainly|of course|absolutely|okay|ok|understood|got it)(?: thing)?[!,.:]\s*"
    r"|i(?:['\u2019]d| would|['\u2019]ll| will) (?:be happy|be glad|love)\b[^.!:]*[.!:]\s*"
    r"|(?:here(?:['\u2019]s| is| are)|below is|this is|the following is)\b"
    r"[^.:]*\b(?:caption|prompt|description|version|text|answer)\b[^.:]*:\s*"
    r"|(?:(?:the|an?|your|my|final|expanded|detailed|rewritten) )*"
    r"(?:(?:long|image|picture) )*(?:caption|prompt|description|version|answer|output)\s*:\s*)+",
    re.IGNORECASE,
)
QUOTES = {'"': '"', "'": "'", "\u201c": "\u201d", "\u2018": "\u2019", "\u00ab": "\u00bb"}
SENTENCE = re.compile(r"""[.!?]["')\]\u201d\u2019]*(?= |$)|[\u3002\uff01\uff1f]""")
EMPTY = (
    "text has no caption in it. It needs a language model's answer to the prompt of Caption Prompt: see what the model "
    "wrote (Preview as Text), and try another seed or model."
)
STILL_THINKING = (
    "text ends before the model had done thinking, so there is no caption in it. Raise max_length of the node that "
    "wrote it, or turn its thinking off."
)


def prompt(text: str) -> str:
    """For any language model: the instruction, four pairs of a short and a long caption, and the text as a fifth.

    In-context learning as the authors of ELLA advise (README of TencentQQGYLab/ELLA, notes), in other words.

    Args:
        text: A short caption; its line breaks become spaces.

    Raises:
        ValueError: It is empty.
    """
    short = " ".join(text.split())
    if not short:
        raise ValueError("text is empty: write in a few words what the picture shows.")
    pairs = "".join(f"Short: {example}\nLong: {answer}\n\n" for example, answer in EXAMPLES)
    return f"{INSTRUCTION}\n\n{pairs}Short: {short}\nLong:"


def clean(answer: str, max_tokens: int) -> str:
    """The caption in a language model's answer to `prompt`: one line, without quotes, markup and what introduces it.

    Args:
        answer: The prompt may be repeated in it, and more pairs of captions may follow.
        max_tokens: The most of T5's tokens, </s> included. A longer caption ends with its last sentence that fits if
            that leaves at least half of the tokens in use, else with its last word that fits.

    Raises:
        ValueError: No caption is in it, or not one word of it fits.
    """
    text, before = answer, None
    while text != before:  # what was in quotes, or is left of a cut, may itself begin or end with what is to go
        text, before = _cut(_caption(text), max_tokens), text
    if not text:
        raise ValueError(STILL_THINKING if re.search("<think", answer, re.IGNORECASE) else EMPTY)
    return text


def count_tokens(text: str) -> int:
    """T5's tokens, </s> included."""
    return len(_tokenizer()(text, verbose=False)["input_ids"])


@cache
def _tokenizer() -> "T5TokenizerFast":
    from comfy.text_encoders.sd3_clip import T5XXLTokenizer

    return T5XXLTokenizer().tokenizer


def _caption(answer: str) -> str:
    """The first paragraph that is more than an introduction; "" if there is none."""
    text = OWN_EXAMPLES.sub("", CHAT_TOKENS.sub("", THOUGHTS.sub("", answer)))
    first, *pairs = SHORT.split(text)
    # before the pairs that a model goes on with, or in the first pair if it repeats the short text
    for part in [first, *filter(LONG.search, pairs)]:
        for paragraph in re.split(r"\n\s*\n", BREAKS.sub("\n\n", LONG.split(part)[-1])):
            if caption := _plain(paragraph):
                return caption
    return ""


def _plain(paragraph: str) -> str:
    text = " ".join(EMPHASIS.sub("", LINE_MARKS.sub("", paragraph)).split())
    return _unquoted(text[preamble.end() :] if (preamble := PREAMBLE.match(text)) else text)


def _unquoted(text: str) -> str:
    """Without quotation marks around the whole, or one at an end that has no other."""
    for opening, closing in QUOTES.items():
        marks = re.findall(rf"(?<!\w){opening}|{closing}(?!\w)", text)  # an apostrophe within a word is none
        encloses = len(text) > 1 and text[0] == opening and text[-1] == closing
        if marks == [opening, closing] and encloses:
            return text[1:-1].strip()
        if len(marks) == 1:
            return text.removeprefix(opening).removesuffix(closing).strip()
    return text


def _cut(text: str, max_tokens: int) -> str:
    if not text or count_tokens(text) <= max_tokens:
        return text
    words = text.split(" ")[:max_tokens]  # each is a token or more
    fitting = bisect_right(range(1, len(words) + 1), max_tokens, key=lambda n: count_tokens(" ".join(words[:n])))
    if not fitting:
        raise ValueError(
            f"max_tokens is {max_tokens}, and the caption's first word alone takes {count_tokens(words[0])} of T5's "
            "tokens, the one that ends the text included. Raise max_tokens; ELLA takes 128."
        )
    kept = " ".join(words[:fitting])
    ends = [match.end() for match in SENTENCE.finditer(kept)]
    if ends and count_tokens(kept[: ends[-1]]) >= max_tokens / 2:
        return kept[: ends[-1]]
    return kept.rstrip(" ,;:-(")
