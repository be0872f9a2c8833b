"""Caption Prompt and Clean Caption: what language models write around a caption, and what must be left."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import T5TokenizerFast

from kit.paths import HOST
from pentimento.model_patchers.prompt.caption import EXAMPLES, INSTRUCTION, clean, count_tokens, prompt

LIMIT = 128
CAT = "A grey cat lies on a red sofa. To its left is a lamp, and the cat's tail hangs down."
SIGN = 'A blue sign says "OPEN" above the door.'
LONG = " ".join(f"Sentence number {n} says that a red ball lies left of a green cube." for n in range(40))


@pytest.fixture(scope="module")
def t5():
    """The tokenizer that ComfyUI has for T5, read without the pack."""
    return T5TokenizerFast.from_pretrained(HOST / "comfy" / "text_encoders" / "t5_tokenizer")


def test_prompt_is_instruction_then_pairs_then_the_text():
    text = prompt("  a red fox\n in snow ")
    assert text.startswith(INSTRUCTION)
    assert text.endswith("\n\nShort: a red fox in snow\nLong:")
    assert text.count("\nShort: ") == text.count("\nLong:") == len(EXAMPLES) + 1
    assert all(f"Short: {short}\nLong: {long}\n\n" in text for short, long in EXAMPLES)


def test_examples_are_captions_as_the_node_gives_them(t5):
    for short, long in EXAMPLES:
        assert len(t5(long)["input_ids"]) <= LIMIT
        assert len(long) > 5 * len(short)
        assert 3 <= long.count(". ") + 1 <= 5
        assert clean(long, LIMIT) == long


def test_empty_prompt_is_refused():
    with pytest.raises(ValueError, match="text is empty: write in a few words"):
        prompt(" \n")


ANSWERS = {
    "bare": CAT,
    "padded": f"\n\n  {CAT}  \n",
    "over two lines": CAT.replace("sofa. ", "sofa.\n"),
    "quoted": f'"{CAT}"',
    "quoted with curly marks": f"\u201c{CAT}\u201d",
    "quoted with single marks": f"'{CAT}'",
    "quoted and cut off": f'"{CAT}',
    "bold": f"**{CAT}**",
    "emphasis within": CAT.replace("grey cat", "*grey* _cat_").replace("red", "**red**"),
    "block quote": f"> {CAT}",
    "bullet": f"- {CAT}",
    "numbered": f"1. {CAT}",
    "fence": f"```\n{CAT}\n```",
    "fence with a language": f"Here you go:\n```text\n{CAT}\n```\nHope that helps!",
    "inline code": f"`{CAT}`",
    "label": f"Long: {CAT}",
    "bold label": f"**Long:** {CAT}",
    "label of its own": f"Long prompt version: {CAT}",
    "label on its own line": f"Long:\n{CAT}",
    "another label": f"Caption: {CAT}",
    "both labels": f"Short: a cat\nLong: {CAT}",
    "heading": f"### Long version\n\n{CAT}",
    "sure": f"Sure, here is the long version:\n\n{CAT}",
    "sure on the same line": f"Sure! Here's a long caption: {CAT}",
    "sure, curly": f"Sure! Here\u2019s a long caption: {CAT}",
    "happy to help": f"Certainly! I'd be happy to help. Here is the description:\n{CAT}",
    "introduction of another kind": f"Your rewritten text follows:\n{CAT}",
    "sure, label and quotes": f'Of course!\n\n**Long prompt:** "{CAT}"',
    "closing words": f"{CAT}\n\nLet me know if you want another one!",
    "note": f"{CAT}\n\n---\n*Note: I added a lamp.*",
    "thoughts": f"<think>\nThe user wants a cat.\n\nLong: a dog\n</think>\n\n{CAT}",
    "thoughts that the prompt opened": f"The user wants a cat.\n\nSo be it.</think>{CAT}",
    "thinking": f"<thinking>hm</thinking>{CAT}",
    "chat tokens": f"<|im_start|>{CAT}<|im_end|>\n<end_of_turn></s>",
    "echo": f"{prompt('a cat')} {CAT}",
    "echo reflowed": f"{' '.join(prompt('a cat').split())}\nLong: {CAT}",
    "echo, and pairs of its own": f"{prompt('a cat')} {CAT}\n\nShort: A dog.\nLong: A black dog runs.",
    "pairs of its own": f" {CAT}\n\nShort: A dog.\nLong: A black dog runs.\n\nShort: A",
    "sure, then both labels": f"Sure, here it is:\n\nShort: a cat\nLong: {CAT}",
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_answers_of_language_models(answer):
    assert clean(answer, LIMIT) == CAT


@pytest.mark.parametrize(
    "caption",
    [
        SIGN,
        '"OPEN" is written above a door, and below it "CLOSED"',
        '"OPEN" is written above a door.',
        "Here is a cat on a long: low table.",
        "A short man and a long table.",
        "The dogs' bowls stand in a row of 3 - 4 on a well-worn mat.",
        "A snake_case word and 12. a number",
        "It\u2019s a caf\u00e9, \u732b\u304c\u3044\u308b\u3002",
    ],
)
def test_captions_that_must_stay(caption):
    assert clean(caption, LIMIT) == caption


@pytest.mark.parametrize(
    "answer", ["", " \n", "```\n```", '""', "Sure!", "Here is the caption:", "**", "---", "<|im_end|>"]
)
def test_answers_without_a_caption(answer):
    with pytest.raises(ValueError, match="text has no caption in it.*another seed or model"):
        clean(answer, LIMIT)


def test_thoughts_cut_off():
    with pytest.raises(ValueError, match="before the model had done thinking.*Raise max_length"):
        clean("<think>The user wants a cat. I could", LIMIT)


def test_tokens_are_the_hosts_with_the_one_that_ends(t5):
    for text in ["", "a", CAT, SIGN, LONG]:
        assert count_tokens(text) == len(t5(text)["input_ids"])
    assert t5("")["input_ids"] == [1]


def test_cut_after_the_last_sentence_that_fits(t5):
    text = clean(LONG, LIMIT)
    assert LONG.startswith(text)
    assert text.endswith("cube.")
    longer = LONG[: LONG.index("cube.", len(text)) + len("cube.")]
    assert len(t5(text)["input_ids"]) <= LIMIT < len(t5(longer)["input_ids"])


def test_cut_after_a_word_where_a_sentence_would_leave_little(t5):
    endless = "A cat. It sees " + ", ".join(f"thing{n}" for n in range(100))
    text = clean(endless, LIMIT)
    assert endless.startswith(text + ",")
    following = endless[: endless.index(",", len(text) + 1) + 1]
    assert len(t5(text)["input_ids"]) <= LIMIT < len(t5(following)["input_ids"])


def test_exact_fit_is_not_cut(t5):
    tokens = len(t5(CAT)["input_ids"])
    assert clean(CAT, tokens) == CAT
    assert clean(CAT, tokens - 1) == CAT.removesuffix(" down.")


def test_a_word_that_does_not_fit():
    with pytest.raises(ValueError, match="max_tokens is 2, and the caption's first word alone takes [3-9]"):
        clean("Incomprehensibilities abound.", 2)


PIECES = st.sampled_from(
    [
        "Short: ",
        "Long: ",
        "\n",
        "\n\n",
        '"',
        "'",
        "*",
        "**",
        "_",
        "`",
        "```\n",
        "- ",
        "1. ",
        "# ",
        "> ",
        ":",
        ".",
        " ",
        "---",
    ]
    + [
        "Sure, ",
        "Here is ",
        "caption: ",
        "<think>",
        "</think>",
        "<|im_end|>",
        "</s>",
        "cat",
        "A dog",
        "Okay.",
        "\u201c",
    ]
    + [CAT, SIGN, "\u2019", "\u3002", EXAMPLES[-1][1], LONG]
)


@settings(max_examples=60, deadline=None)
@given(st.lists(PIECES | st.text(max_size=8), max_size=12).map("".join), st.sampled_from([2, 3, 8, 30, LIMIT]))
@example('"\'"Sure, Long: x"\'"', LIMIT)
@example("- 1. - *a*", 2)
def test_clean_captions_stay_and_never_exceed(answer, max_tokens):
    try:
        text = clean(answer, max_tokens)
    except ValueError:
        return
    assert text
    assert text == " ".join(text.split())
    assert count_tokens(text) <= max_tokens
    assert clean(text, max_tokens) == text


def test_nodes(node_classes):
    asked = node_classes["PentimentoCaptionPrompt"].execute("a cat").args[0]
    assert asked == prompt("a cat")
    answer = node_classes["PentimentoCleanCaption"].execute(f"{asked} {LONG}", 30).args[0]
    assert answer == clean(LONG, 30)
    assert count_tokens(answer) <= 30
