"""Caption Prompt and Clean Caption: what language models write around a caption, and what must be left."""

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import T5TokenizerFast

from kit.paths import HOST
from pentimento.model_patchers.prompt.caption import EXAMPLES, INSTRUCTION, MOST, PATTERNS, clean, count_tokens, prompt
from pentimento.model_patchers.prompt.caption_rules import CAPTION, RULES, Part

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

# The forms that public reports show, whole.
ANSWERS |= {
    "bold title": f"**The Cat on the Sofa**\n\n{CAT}",
    "bold title on the line before": f"**The Cat on the Sofa**\n{CAT}",
    "bold title in quotes": f'**"The Cat on the Sofa"**\n\n{CAT}',
    "title": f"Title: The Cat on the Sofa\n{CAT}",
    "bold title with its name": f"**Title:** The Cat on the Sofa\n\n{CAT}",
    "full-width colon": f"Here is the long version\uff1a\n{CAT}",
    "full-width colon, Chinese": f"\u597d\u7684\uff0c\u8fd9\u662f\u957f\u63cf\u8ff0\uff1a\n\n{CAT}",
    "Llama 3": f"<|start_header_id|>assistant<|end_header_id|>\n\n{CAT}<|eot_id|>",
    "Llama 3, the prompt repeated": "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
    f"<|start_header_id|>user<|end_header_id|>\n\n{prompt('a cat')}<|eot_id|>"
    f"<|start_header_id|>assistant<|end_header_id|>\n\n{CAT}<|eot_id|>",
    "ChatML": f"<|im_start|>assistant\n{CAT}<|im_end|>",
    "ChatML, and it went on": f"{CAT}<|im_end|>\n<|im_start|>user\nThanks!<|im_end|>\n<|im_start|>assistant\nWelcome.",
    "ChatML without its tokens": f"system\nYou are a helper.\nuser\na cat\nassistant\n{CAT}",
    "gpt-oss": f"<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>{CAT}<|return|>",
    "gpt-oss, a final channel alone": f"<|channel|>final<|message|>{CAT}",
    "gpt-oss, JSON": f'<|channel|>final <|constrain|>json<|message|>{{"caption": "{CAT}"}}<|return|>',
    "Magistral": f"[THINK]The user wants a cat.[/THINK]\n{CAT}",
    "thought": f"<thought>\nA cat. So: a dog?\n</thought>\n{CAT}",
    "Gemma 4 that did not think": f"<|channel>thought\n<channel|>{CAT}<turn|>",
    "Gemma 4 as ComfyUI gives it": f"<think>\nA cat.\n<channel|>{CAT}",
    "GLM": f"<think></think>\n<|begin_of_box|>{CAT}<|end_of_box|>",
    "DeepSeek": f"<\uff5cAssistant\uff5c><think>A cat.</think>{CAT}<\uff5cend\u2581of\u2581sentence\uff5c>",
    "Vicuna": f"USER: a cat ASSISTANT: {CAT}</s>",
    "assistant": f"Assistant: {CAT}",
    "assistant, bold": f"**Assistant:** {CAT}",
    "assistant on its own line": f"assistant\n\n{CAT}",
    "Alpaca": f"### Instruction:\nDescribe a cat.\n\n### Response:\n{CAT}",
    "enhanced prompt": f"Enhanced prompt: {CAT}",
    "enhanced prompt, bold": f"**Enhanced Prompt:**\n\n{CAT}",
    "enhanced prompt after the short one": f"Prompt: a cat\nEnhanced prompt: {CAT}",
    "option": f"Option 1: {CAT}",
    "options": f"Here are three options:\n\n**Option 1:**\n{CAT}\n\n**Option 2:**\nA black cat lies on a bed.",
    "options, one a line": f"Option 1: {CAT}\nOption 2: A black cat lies on a bed.",
    "offer on the next line": f"{CAT}\nLet me know if you'd like me to change anything!",
    "offer on the next line, a question": f"{CAT}\nWould you like a variation?",
    "offer on the same line": f"{CAT} Let me know if you'd like me to change anything!",
    "negative prompt": f"{CAT}\nNegative prompt: blurry, low quality",
    "JSON": f'{{"prompt": "{CAT}"}}',
    "JSON in a fence": f'Sure! Here is the JSON:\n```json\n{{\n  "short": "a cat",\n  "long": "{CAT}"\n}}\n```',
    "JSON, nested": f'{{"result": {{"title": "Cat", "caption": "{CAT}"}}}}',
    "JSON, cut off": f'{{"prompt": "{CAT}',
    "JSON with line breaks and escapes": '{"prompt": "'
    + CAT.replace("sofa. ", "sofa.\\n").replace("'", "\\u0027")
    + '"}',
    "JSON with an escape that it does not have": '{"prompt": "' + CAT.replace("'", "\\'") + '"}',
    "line breaks of Windows": f"Here is the long version:\r\n\r\n{CAT}\r\n\r\n---\r\n",
}


def test_json_keeps_its_escapes():
    assert clean('{"prompt": "A blue sign says \\"OPEN\\" above the door."}', LIMIT) == SIGN


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.part.name} {rule.strips}")
def test_every_rule_strips_what_it_says_and_is_needed(rule, monkeypatch):
    def outcome():
        try:
            return clean(rule.example, LIMIT)
        except ValueError as error:
            return str(error)

    expected = {Part.THINKING: "before the model had done thinking", Part.REFUSAL: "the language model refused"}
    assert expected.get(rule.part, CAPTION) in outcome()
    assert rule.part in expected or outcome() == CAPTION
    others = [pattern for pattern in PATTERNS[rule.part] if pattern.pattern != rule.pattern]
    monkeypatch.setitem(PATTERNS, rule.part, others)
    assert outcome() != CAPTION and not (rule.part in expected and expected[rule.part] in outcome())


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.part.name} {rule.strips}")
def test_no_rule_looks_at_more_than_a_few_hundred_characters(rule):
    """So the time for an answer grows no faster than its length."""
    plain = re.sub(r"\\.|\[(?:\\.|[^\]])*\]", "x", rule.pattern)
    assert not re.search(r"[*+]|\{\d+,\}", plain)
    assert sum(int(most) for most in re.findall(r"\{(?:\d+,)?(\d+)\}", plain)) <= 320


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
        'A neon sign reads "I can\'t help it" above a bar.',
        "A sorry-looking dog waits; an AI chip lies on its collar.",
        '"Sorry, I cannot come" is written on a note on the fridge.',
        "A user at a desk sees a prompt: white letters on a black screen.",
        "The assistant: a robot in a blue coat that holds a tray.",
        "A title page with style: gold letters, and a caption below it.",
        "Two options lie on the table, 1: a red card, 2: a blue one.",
        "Great waves break on a rock, and the foam is < 1 m high > sand.",
        "A poster says [INSTANT] {50% off} in red.",
    ],
)
def test_captions_that_must_stay(caption):
    assert clean(caption, LIMIT) == caption


@pytest.mark.parametrize(
    "answer",
    ["", " \n", "```\n```", '""', "Sure!", "Here is the caption:", "**", "---", "<|im_end|>", '{"prompt": ""}', "...!"]
    + ["Let me know if you need more.", "<|im_start|>user\na cat<|im_end|>", "Title: The Cat", "\ud83d"],
)
def test_answers_without_a_caption(answer):
    with pytest.raises(ValueError, match="text has no caption in it.*another seed or model"):
        clean(answer, LIMIT)


@pytest.mark.parametrize("start", ["<think>", "[THINK]", "<thought>\n", "<|channel|>analysis<|message|>", "analysis"])
def test_thoughts_cut_off(start):
    with pytest.raises(ValueError, match="before the model had done thinking.*Raise max_length"):
        clean(f"{start}The user wants a cat. I could", LIMIT)


@pytest.mark.parametrize(
    "refusal",
    [
        "I'm sorry, but I can't assist with that request.",
        "I\u2019m really sorry, I cannot help.",
        "I am sorry, but I am unable to provide assistance with that request.",
        "Sorry, I can't do that.",
        "Sorry, but this request is not something that I can fulfil.",
        "I apologize, but I cannot fulfill this request.",
        "My apologies, but that goes too far.",
        "I cannot generate content that depicts violence.",
        "I can not describe real people.",
        "I won't write this.",
        "I'm unable to describe real people.",
        "I am not able to create that.",
        "I must respectfully decline.",
        "I don't feel comfortable with this description.",
        "I understand that you want a picture, but I can't describe that.",
        "I appreciate the request; however, I will not write it.",
        "As an AI, I cannot see pictures.",
        "As a large language model, I have no eyes.",
        "I'm just an AI and have no eyes.",
        "Unfortunately, I can't describe this.",
        "This prompt violates our content policy.",
        "Could you please provide the short description?",
        "\u62b1\u6b49\uff0c\u6211\u4e0d\u80fd\u5e2e\u52a9\u4f60\u3002",
    ],
)
@pytest.mark.parametrize(
    "around", ["{}", "**{}**", "<think>Hm.</think>\n{}", "{}\n\nLet me know!", "Long: {} <|im_end|>"]
)
def test_a_refusal_is_no_caption(refusal, around):
    with pytest.raises(ValueError, match="text is no caption: the language model refused.*Change the short") as error:
        clean(around.format(refusal), LIMIT)
    assert refusal.split(".")[0] in str(error.value)


def test_a_refusal_that_goes_on_with_a_list_is_a_refusal():
    with pytest.raises(ValueError, match="the language model refused"):
        clean("I'm sorry, I can't describe that. I can help with:\n\n- a cat on a sofa\n- a dog on a porch", LIMIT)


HOSTILE = [
    "a",
    " ",
    "\n",
    "*",
    "#",
    '"',
    "'",
    "`",
    "_",
    "<",
    "[",
    "{",
    "|",
    "-",
    ":",
    "\uff1a",
    "\u201c",
    "\u732b",
    "\\",
]
HOSTILE += [
    "a:\n",
    "Short:\n",
    "Long:\n",
    "<think>",
    "</think>",
    "<|",
    "<|x|>",
    "[INST]",
    '{"a":',
    '{"a": [',
    "- ",
    "1. ",
]
HOSTILE += [
    "> ",
    "__a",
    "a_ ",
    "caption ",
    "here is a caption ",
    "Sure! ",
    'Sure! "',
    "Title: a\n",
    "a cat\n\n",
    "**a**\n",
]
HOSTILE += [
    "<|im_start|>user\n",
    "user\n",
    "<answer>",
    "I'm sorry ",
    "a but ",
    "very ",
    ". ",
    " \n",
    '{"prompt": "',
    '"text":',
]


@pytest.mark.parametrize("piece", HOSTILE)
def test_a_million_characters_of_anything_are_done_in_linear_time(piece):
    """Code whose time grows with the square would take hours here."""
    answer = piece * (10**6 // len(piece)) + f"\n\n{CAT}"
    try:
        text = clean(answer, LIMIT)
    except ValueError as error:
        assert str(error).startswith(("text ", "max_tokens "))
    else:
        assert text and count_tokens(text) <= LIMIT


def test_an_answer_without_end_is_refused_unread():
    with pytest.raises(ValueError, match=r"text has 1,048,577 characters.*at most 1,048,576"):
        clean("a" * (MOST + 1), LIMIT)


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
    + [
        "Title: ",
        "**A title**\n",
        "Option 1: ",
        "<|im_start|>user\n",
        "assistant\n",
        "[/THINK]",
        '{"prompt": "',
        '"}',
        "\uff1a",
    ]
    + [CAT, SIGN, "\u2019", "\u3002", EXAMPLES[-1][1], LONG]
)


@settings(max_examples=60)
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
