"""Captions for ELLA: a prompt with which a language model lengthens a text, and the caption in the model's answer."""

import re
from bisect import bisect_right

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

# Everything up to the end of the model's thoughts; thoughts without an end.
THOUGHTS = re.compile(r".*</think(?:ing)?>|<think(?:ing)?>.*", re.DOTALL | re.IGNORECASE)
# Special tokens of chat formats: "<|im_end|>", "</s>", "<end_of_turn>".
CHAT_TOKENS = re.compile(r"<\|[^<>|]*\|>|</?(?:s|bos|eos|start_of_turn|end_of_turn)>")
# The prompt repeated up to its last example, if a "Short:" follows; its line breaks may have changed.
OWN_EXAMPLES = re.compile(r".*" + r"\s+".join(map(re.escape, EXAMPLES[-1][1].split())) + r"(?=\s+Short:)", re.DOTALL)
MARKUP = r"[ \t*_#>`\"'-]*"
# The labels of a pair at the start of a line: "Short:", "**Long:**", "Long prompt version:".
SHORT = re.compile(rf"^{MARKUP}short\b[ \w*]*:", re.IGNORECASE | re.MULTILINE)
LONG = re.compile(rf"^{MARKUP}long\b[ \w*]*:", re.IGNORECASE | re.MULTILINE)
# A line that is no part of a caption: a code fence, a heading, a rule, an introduction with a colon at its end.
BREAKS = re.compile(r"^[ \t]*(?:```\w*|#+ .*|[-*_=]{3,}|.*:[ *_]*)$", re.MULTILINE)
# Bullets, numbers and block quotes at the start of a line.
LINE_MARKS = re.compile(r"^\s*(?:(?:[-+>\u2022]|\d+[.)])\s+)+", re.MULTILINE)
# Asterisks and backquotes; underscores that are not within a word.
EMPHASIS = re.compile(r"[*`]|(?<!\w)_+|_+(?!\w)")
# Introductions on the caption's own line: "Sure!", "I'd be happy to help.", "Here is the caption:", "Long caption:".
PREAMBLE = re.compile(
    r"(?:(?:sure|certainly|of course|absolutely|okay|ok|understood|got it)(?: thing)?[!,.:]\s*"
    r"|i(?:['\u2019]d| would|['\u2019]ll| will) (?:be happy|be glad|love)\b[^.!:]*[.!:]\s*"
    r"|(?:here(?:['\u2019]s| is| are)|below is|this is|the following is)\b"
    r"[^.:]*\b(?:caption|prompt|description|version|text|answer)\b[^.:]*:\s*"
    r"|(?:(?:the|an?|your|my|final|expanded|detailed|rewritten) )*"
    r"(?:(?:long|image|picture) )*(?:caption|prompt|description|version|answer|output)\s*:\s*)+",
    re.IGNORECASE,
)
# An empty line between paragraphs.
EMPTY_LINE = re.compile(r"\n\s*\n")
# The end of a sentence with the quotation marks and brackets after it; full stops of Chinese and Japanese.
SENTENCE = re.compile(r"""[.!?]["')\]\u201d\u2019]*(?= |$)|[\u3002\uff01\uff1f]""")
QUOTES = {'"': '"', "'": "'", "\u201c": "\u201d", "\u2018": "\u2019", "\u00ab": "\u00bb"}
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
    """The caption in a language model's answer to `prompt`: one line without quotes, markup and introductions.

    Args:
        answer: It may repeat the prompt, and have more pairs of captions after the first.
        max_tokens: The most T5 tokens, </s> included. A longer caption ends with the last sentence that fits if at
            least half of the tokens remain, else with the last word that fits.

    Raises:
        ValueError: The answer has no caption, or not one word of the caption fits.
    """
    text, before = answer, None
    while text != before:  # quotes that were removed, or a cut, may leave another introduction or quote at an end
        before = text
        text = _cut(_caption(text), max_tokens)
    if not text:
        raise ValueError(STILL_THINKING if re.search("<think", answer, re.IGNORECASE) else EMPTY)
    return text


def count_tokens(text: str) -> int:
    """The number of T5 tokens, </s> included."""
    return len(tokenizer()(text, verbose=False)["input_ids"])


def _caption(answer: str) -> str:
    """The first paragraph that is more than an introduction; "" if there is none."""
    text = OWN_EXAMPLES.sub("", CHAT_TOKENS.sub("", THOUGHTS.sub("", answer)))
    # The caption stands before further pairs, or in the first pair if the model repeats the short text.
    before_pairs, *pairs = SHORT.split(text)
    for section in [before_pairs, *filter(LONG.search, pairs)]:
        long = LONG.split(section)[-1]
        for paragraph in EMPTY_LINE.split(BREAKS.sub("\n\n", long)):
            if caption := _plain(paragraph):
                return caption
    return ""


def _plain(paragraph: str) -> str:
    """One line without markup, introduction and quotes."""
    text = " ".join(EMPHASIS.sub("", LINE_MARKS.sub("", paragraph)).split())
    preamble = PREAMBLE.match(text)
    return _unquoted(text[preamble.end() :] if preamble else text)


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
