r"""What language models write around a caption: one pattern a row, with an answer as its example.

Every repeat in a pattern is bounded, so that the time for an answer grows with its length and no faster.
`^` and `$` are the ends of a line, `\A` and `\Z` those of the text that the part names.
"""

from enum import Enum
from typing import NamedTuple

CAPTION = "A grey cat lies on a red sofa."  # in all examples


class Part(Enum):
    """What a match removes, in the order in which `caption.clean` goes through the parts."""

    BEFORE = "the answer up to the last match"
    AFTER = "the answer from the first match on"
    THINKING = "the answer from the first match on; if nothing is left, the model was still thinking"
    ASKED = "the answer from the match to the next ANSWERED: what the user and the system said"
    ANSWERED = "the match"
    TOKEN = "the match, anywhere"
    JSON = "all but the string that begins after the match"
    LABEL = "the match at the start of a line, where a caption begins that goes before others"
    LINE = "the line, where a paragraph ends"
    MARK = "the match at the start of a line, again and again"
    EMPHASIS = "the match, anywhere in a paragraph"
    START = "the match at the start of a paragraph, again and again"
    END = "the paragraph from the match on"
    REFUSAL = "nothing: an answer whose caption would begin so is an error"


class Rule(NamedTuple):
    part: Part
    strips: str
    pattern: str
    example: str  # becomes CAPTION; an error for THINKING and REFUSAL


THOUGHT = r"(?:seed:)?(?:think(?:ing)?|thoughts?|reasoning|reflection|analysis|scratchpad)"
ANSWER = r"(?:answer|caption|prompt|output|response|result|description)"
AP = "['\u2019\u00b4]"  # apostrophes
COLON = "[:\uff1a]"
MARKS = r"[\W_]{0,9}"  # markup, bullets, quotation marks, emoji
CLOSED = rf"[ *_\"'`)]{{0,6}}{COLON}"  # a colon, and the end of markup before it
IS = rf"(?:{AP}s| is| are)"
I_AM = rf"\bi(?:{AP}m| am)"
ADJECTIVE = (
    "(?:the|an?|your|my|final|new|enhanced|expanded|extended|detailed|improved|refined|rewritten|revised|upgraded|"
    "optimi[sz]ed|polished|upsampled|positive|full|complete|long|longer|image|picture|generated|ella)"
)
SHORT = "negative|short|shorter|original|simple|input|user"  # what is no long caption

RULES = (
    # Thoughts
    Rule(Part.BEFORE, "thoughts in tags", rf"</{THOUGHT}>", f"<think>Long: a dog? No.\n\n</think>\n\n{CAPTION}"),
    Rule(Part.BEFORE, "thoughts of Magistral", r"\[/THINK\]", f"[THINK]A cat, then.\n\nOn what?[/THINK]{CAPTION}"),
    Rule(
        Part.BEFORE, "thoughts of Kimi", "\u25c1/think\u25b7", f"\u25c1think\u25b7A cat.\n\n\u25c1/think\u25b7{CAPTION}"
    ),
    Rule(
        Part.BEFORE,
        "channels of gpt-oss",
        r"<\|channel\|>\s{0,3}final\b[^<\n]{0,40}(?:<\|constrain\|>[^<\n]{0,40})?<\|message\|>",
        "<|channel|>analysis<|message|>The user wants a cat.\n\nOn what?<|end|>"
        f"<|start|>assistant<|channel|>final<|message|>{CAPTION}<|return|>",
    ),
    Rule(
        Part.BEFORE,
        "channels of gpt-oss without their marks",
        r"(?-i:assistantfinal)",
        f"analysisThe user wants a cat.\n\nOn what?assistantfinal{CAPTION}",
    ),
    Rule(Part.BEFORE, "thoughts of Gemma 4", r"<channel\|>", f"<|channel>thought\nA cat.\n\n<channel|>{CAPTION}"),
    Rule(
        Part.BEFORE,
        "thoughts of Granite",
        rf"here{IS} my response{COLON}",
        f"Here is my thought process: a cat.\n\nOn what?\n\nHere is my response: {CAPTION}",
    ),
    Rule(
        Part.BEFORE,
        "what stands before an answer in tags",
        rf"<{ANSWER}>",
        f"The sofa should be red.\n\n<answer>{CAPTION}</answer>",
    ),
    Rule(Part.AFTER, "what stands after an answer in tags", rf"</{ANSWER}>", f"{CAPTION}</caption> The sofa is red."),
    Rule(Part.THINKING, "thoughts in tags", rf"<{THOUGHT}>", "<thought>The user wants a cat. I could"),
    Rule(Part.THINKING, "thoughts of Magistral", r"\[THINK\]", "[THINK]The user wants a cat. I could"),
    Rule(Part.THINKING, "thoughts of Kimi", "\u25c1think\u25b7", "\u25c1think\u25b7The user wants a cat. I could"),
    Rule(
        Part.THINKING,
        "channels of gpt-oss",
        r"<\|channel\|>\s{0,3}(?:analysis|commentary)",
        "<|channel|>analysis<|message|>The user wants a cat. I could",
    ),
    Rule(
        Part.THINKING,
        "channels of gpt-oss without their marks",
        r"\A\s{0,9}(?-i:analysis(?=[A-Z]))",
        "analysisThe user wants a cat. I could",
    ),
    Rule(Part.THINKING, "thoughts of Gemma 4", r"<\|channel>", "<|channel>thought\nThe user wants a cat. I could"),
    # Who speaks
    Rule(
        Part.ASKED,
        "what the user said, in ChatML and gpt-oss",
        r"<\|(?:im_)?start\|>\s{0,3}(?:system|developer|user|human|tool)\b",
        f"<|im_start|>user\nA cat!\n\nGrey.<|im_end|>\n<|im_start|>assistant\n{CAPTION}<|im_end|>",
    ),
    Rule(
        Part.ASKED,
        "what the user said to Llama 3",
        r"<\|start_header_id\|>\s{0,3}(?:system|user|ipython|tool)\s{0,3}<\|end_header_id\|>",
        "<|start_header_id|>user<|end_header_id|>\n\nA cat!<|eot_id|>"
        f"<|start_header_id|>assistant<|end_header_id|>\n\n{CAPTION}<|eot_id|>",
    ),
    Rule(
        Part.ASKED,
        "what the user said to Gemma",
        r"<(?:start_of_turn|\|turn)>\s{0,3}(?:user|system)\b",
        f"<start_of_turn>user\nA cat!<end_of_turn>\n<start_of_turn>model\n{CAPTION}<end_of_turn>",
    ),
    Rule(
        Part.ASKED,
        "what the user said to Phi, GLM, Zephyr and DeepSeek",
        "<[|\uff5c](?:user|system)[|\uff5c]>",
        f"<|user|>\nA cat!<|end|>\n<|assistant|>\n{CAPTION}<|end|>",
    ),
    Rule(
        Part.ASKED,
        "what the user said to Mistral and Llama 2",
        r"\[INST\]|\[SYSTEM_PROMPT\]",
        f"<s>[INST] A cat! [/INST] {CAPTION}</s>",
    ),
    Rule(
        Part.ASKED,
        "what the user said, under a heading",
        r"^[ \t#*]{0,9}(?:system|user|human|instruction)[ \t*]{0,6}:?[ \t*]{0,6}$",
        f"user\nA cat!\nassistant\n{CAPTION}",
    ),
    Rule(
        Part.ASKED,
        "what the user said, after a name",
        rf"^[ \t#*]{{0,9}}(?:user|human){CLOSED}",
        f"User: A cat!\n\nGrey.\nAssistant: {CAPTION}",
    ),
    Rule(
        Part.ANSWERED,
        "the head of an answer in ChatML and gpt-oss",
        r"<\|(?:im_)?start\|>\s{0,3}assistant\b",
        f"<|im_start|>assistant {CAPTION}",
    ),
    Rule(
        Part.ANSWERED,
        "the head of an answer of Llama 3",
        r"<\|start_header_id\|>\s{0,3}assistant\s{0,3}<\|end_header_id\|>",
        f"<|start_header_id|>assistant<|end_header_id|> {CAPTION}",
    ),
    Rule(
        Part.ANSWERED,
        "the head of an answer of Gemma",
        r"<(?:start_of_turn|\|turn)>\s{0,3}model\b",
        f"<|turn>model {CAPTION}<turn|>",
    ),
    Rule(
        Part.ANSWERED,
        "the head of an answer of Phi, GLM, Zephyr and DeepSeek",
        "<[|\uff5c]assistant[|\uff5c]>",
        f"<\uff5cUser\uff5c>A cat!<\uff5cAssistant\uff5c>{CAPTION}",
    ),
    Rule(
        Part.ANSWERED,
        "the head of an answer of Mistral and Llama 2",
        r"\[/(?:INST|SYSTEM_PROMPT)\]",
        f"[INST] A cat! [/INST]{CAPTION}",
    ),
    Rule(
        Part.ANSWERED,
        "the heading of an answer",
        r"^[ \t#*]{0,9}(?:assistant|model|response)[ \t*]{0,6}:?[ \t*]{0,6}$",
        f"assistant\n{CAPTION}",
    ),
    Rule(
        Part.ANSWERED,
        "the name before an answer",
        rf"^[ \t#*]{{0,9}}(?:assistant|ai|bot|model|chatgpt){CLOSED}|\b(?-i:ASSISTANT):",
        f"**Assistant:** {CAPTION}",
    ),
    Rule(Part.TOKEN, "tokens of chat formats", r"<\|[^<>|\n]{0,60}\|>", f"<|im_start|>{CAPTION}<|eot_id|>"),
    Rule(Part.TOKEN, "tokens of Gemma and Llama 2", r"</?(?:s|bos|eos|start_of_turn|end_of_turn)>", f"{CAPTION}</s>"),
    Rule(Part.TOKEN, "tokens of Gemma 4", r"<\|?(?:turn|channel)\|?>", f"{CAPTION}<turn|>"),
    Rule(
        Part.TOKEN,
        "tokens of DeepSeek",
        "<\uff5c[^<>\uff5c\n]{0,60}\uff5c>",
        f"{CAPTION}<\uff5cend\u2581of\u2581sentence\uff5c>",
    ),
    # JSON
    Rule(
        Part.JSON,
        "JSON around a long caption",
        r"[{,]\s{0,40}\"(?:(?:enhanced|expanded|detailed|improved|refined|rewritten|positive|long|final|full)[ _-]?)"
        r"{1,3}(?:prompt|caption|description|version|text)?\"\s{0,9}:\s{0,9}\"",
        f'```json\n{{"prompt": "a cat", "long_prompt": "{CAPTION}"}}\n```',
    ),
    Rule(
        Part.JSON,
        "JSON",
        r"[{,]\s{0,40}\"(?:(?:image|text)[ _-]?)?(?:prompt|caption|description|text|output|answer|response|result|"
        r"content)\"\s{0,9}:\s{0,9}\"",
        f'{{"title": "Rest", "prompt": "{CAPTION}", "negative_prompt": "blurry"}}',
    ),
    # Lines and labels
    Rule(
        Part.LABEL,
        "the name of an answer",
        rf"\A{MARKS}(?:{ADJECTIVE} ){{0,5}}(?:caption|description|answer|output|result){CLOSED}",
        f"A cat it is.\n\n**Caption:** {CAPTION}",
    ),
    Rule(
        Part.LABEL,
        "the name of a longer text",
        rf"\A{MARKS}(?:{ADJECTIVE} ){{1,5}}(?:prompt|version|text|response)(?: version)?{CLOSED}",
        f"A cat it is.\n\nEnhanced prompt: {CAPTION}",
    ),
    Rule(
        Part.LABEL,
        "the first of several",
        rf"\A{MARKS}(?:option|version|variation|variant|caption|prompt|description) (?:#?\d{{1,2}}|[a-c])\b"
        rf"(?: ?\([^)\n]{{0,60}}\))?{CLOSED}",
        f"Three ideas.\n\n**Option 1 (calm):** {CAPTION}\n\n**Option 2 (wild):** A grey cat leaps from a red sofa.",
    ),
    Rule(
        Part.LABEL,
        "an introduction on a line of its own",
        rf"\A(?!.{{0,80}}\b(?:{SHORT})\b).{{0,200}}\b(?:caption|prompt|description|version){CLOSED}[ *_\"'`]{{0,6}}\Z",
        f"A cat it is. It should lie.\n\nHere is the finished prompt\uff1a\n\n{CAPTION}",
    ),
    Rule(
        Part.LINE,
        "an introduction with a colon at its end",
        rf"{COLON}[ *_\"'`]{{0,9}}\Z",
        f"Your text, rewritten\uff1a\n{CAPTION}",
    ),
    Rule(
        Part.LINE,
        "an introduction without a colon",
        rf"\A{MARKS}(?:sure\W{{1,3}})?here{IS}\b[^.:]{{0,100}}\b(?:caption|prompt|description|version)\b[^.:,]{{0,60}}[.!]\Z",
        f"Here is a longer version of your prompt.\n\n{CAPTION}",
    ),
    Rule(Part.LINE, "the fence of code", r"\A`{3}\w{0,20}\Z", f"```text\n{CAPTION}\n```"),
    Rule(Part.LINE, "a heading", r"\A#{1,6} ", f"### Long version\n\n{CAPTION}"),
    Rule(
        Part.LINE,
        "a title",
        rf"\A{MARKS}(?:(?:image|picture|suggested) )?title{CLOSED}",
        f"Title: The Red Sofa\n{CAPTION}",
    ),
    Rule(
        Part.LINE,
        "the short text again",
        rf"\A{MARKS}(?:{SHORT})(?: (?:prompt|text|description|caption|input|idea))?{CLOSED}",
        f"Original prompt: a cat\n{CAPTION}",
    ),
    Rule(
        Part.LINE,
        "particulars of the picture",
        rf"\A{MARKS}(?:(?:art(?:istic)? )?style|aspect ratio|keywords|tags|parameters|(?:word|token) count|notes?|"
        rf"explanation|(?:key )?changes|negative(?: prompt)?){CLOSED}",
        f"{CAPTION}\nStyle: photograph",
    ),
    Rule(
        Part.LINE,
        "an offer",
        rf"\A{MARKS}(?:please )?(?:let me know|feel free|would you like|do you want|want me to|if you{AP}?d? "
        r"(?:would )?(?:like|want|need|prefer)|is there anything)\b",
        f"{CAPTION}\nWould you like another one?",
    ),
    Rule(
        Part.LINE,
        "a farewell",
        rf"\A{MARKS}(?:i )?hope (?:this|that|it|you)\b",
        f"{CAPTION}\nHope that helps!",
    ),
    Rule(
        Part.LINE,
        "a word about the caption",
        rf"\A{MARKS}(?:this|the) (?:\w{{1,12}} )?(?:prompt|caption|description|version) (?:adds|aims|captures|gives|"
        r"emphasi[sz]es|has|includes|is|keeps|provides|should|uses)\b|"
        rf"\A{MARKS}i(?:{AP}ve| have)? (?:added|expanded|kept|included|rewrote|tried)\b",
        f"{CAPTION}\nThis version adds the sofa.",
    ),
    Rule(Part.MARK, "bullets, numbers, block quotes", r"(?:[-+>\u2022]|\d{1,3}[.)])\s{1,9}", f"1. - > {CAPTION}"),
    Rule(Part.EMPHASIS, "bold and code", r"[*`]", CAPTION.replace("red", "**red**")),
    Rule(Part.EMPHASIS, "underscores but in words", r"(?<![^\W_])_|_(?![^\W_])", CAPTION.replace("red", "__red__")),
    # Introductions on the caption's line
    Rule(
        Part.START,
        "a word of consent",
        r"(?:sure|certainly|of course|absolutely|okay|ok|alright|understood|got it|no problem|great)(?: thing)?"
        r"[!,.:]{1,3}\s{0,9}",
        f"Sure thing! {CAPTION}",
    ),
    Rule(
        Part.START,
        "an offer of help",
        rf"i(?:{AP}d| would|{AP}ll| will) (?:be happy|be glad|love)\b[^.!:]{{0,120}}[.!:]\s{{0,9}}"
        r"|i can (?:certainly |definitely )?help\b[^.!:]{0,120}[.!:]\s{0,9}",
        f"I'd be happy to help. {CAPTION}",
    ),
    Rule(
        Part.START,
        "an introduction",
        rf"(?:here{IS}|below is|this is|the following is)\b[^.:\uff1a]{{0,160}}?"
        rf"\b(?:caption|prompt|description|version|text|answer)\b[^.:\uff1a]{{0,80}}{COLON}\s{{0,9}}",
        f"Here\u2019s a long version of your text: {CAPTION}",
    ),
    Rule(
        Part.START,
        "a name",
        rf"(?:{ADJECTIVE} ){{0,6}}(?:caption|prompt|description|version|answer|output|response) ?{COLON}\s{{0,9}}",
        f"Prompt: {CAPTION}",
    ),
    Rule(
        Part.START,
        "an introduction in Chinese",
        "(?:\u597d\u7684[\uff0c,\u3002\uff01!]{0,2})?(?:\u4ee5\u4e0b|\u4e0b\u9762|\u8fd9)\u662f"
        rf"[^:\uff1a\u3002]{{0,60}}{COLON}\s{{0,9}}",
        f"\u597d\u7684\uff0c\u4ee5\u4e0b\u662f\u8be6\u7ec6\u63cf\u8ff0\uff1a{CAPTION}",
    ),
    Rule(
        Part.END,
        "an offer after the caption",
        r"(?<=[.!?\"'*)]) (?-i:Let me know if you|Would you like me to|I hope this|Feel free to (?:ask|let))\b",
        f"{CAPTION} Let me know if you would like another one!",
    ),
    # Refusals
    Rule(
        Part.REFUSAL,
        "an apology",
        rf"{I_AM} (?:\w{{1,12}} ){{0,2}}(?:sorry|afraid)\b|i (?:\w{{1,12}} ){{0,2}}apologi[sz]e\b"
        r"|(?:so |very )?sorry[,.!;]? (?:but |however,? )?(?:i|we|this|that)\b|(?:my )?(?:sincere )?apologies\b",
        "I'm sorry, that goes too far.",
    ),
    Rule(
        Part.REFUSAL,
        "what the model cannot or will not do",
        rf"(?:[^.!?\"\u201c]{{0,150}}(?:[,;] |\b(?:but|however|so|and) ))?(?:{I_AM} (?:unable|not (?:able|allowed|"
        rf"comfortable|permitted|going))|i (?:\w{{1,12}} )?(?:can(?:not| not|{AP}?t)|could(?: not|n{AP}t)|won{AP}t|"
        rf"will not|must (?:respectfully )?(?:decline|refuse)|(?:have|need) to (?:decline|refuse)|decline|refuse|"
        rf"do(?: not|n{AP}t) (?:feel comfortable|have the ability|think i)))\b",
        "While I understand the wish, I cannot describe this person.",
    ),
    Rule(
        Part.REFUSAL,
        "the model's name for itself",
        r"as an? (?:ai|artificial intelligence|(?:\w{1,12} ){0,2}language model)\b[^.!?]{0,100}\b(?:i|my)\b"
        rf"|{I_AM} (?:just |only )?an? (?:ai|(?:\w{{1,12}} ){{0,2}}language model)\b",
        "As an AI language model, I do not draw pictures.",
    ),
    Rule(
        Part.REFUSAL,
        "a rule that forbids it",
        r"(?:this|that|your|the) (?:\w{1,15} ){0,2}(?:request|prompt|content)\b[^.!?]{0,60}\b(?:violat\w{1,5}|"
        r"goes against|is against|not (?:allowed|appropriate|permitted)|inappropriate)\b",
        "This request violates my content policy.",
    ),
    Rule(
        Part.REFUSAL,
        "regret",
        r"unfortunately,? (?:i|we|this request|that|your)\b",
        "Unfortunately, we have to stop here.",
    ),
    Rule(
        Part.REFUSAL,
        "a question back",
        r"(?:please|(?:could|can|would) you)(?: please)? (?:provide|share|give me|send|tell me|clarify|specify)\b",
        "Could you please share the short description?",
    ),
    Rule(
        Part.REFUSAL,
        "a refusal in Chinese or Japanese",
        "\u5f88?\u62b1\u6b49|\u5bf9\u4e0d\u8d77|\u6211(?:\u65e0\u6cd5|\u4e0d\u80fd)|\u7533\u3057\u8a33|"
        "\u4f5c\u4e3a(?:\u4e00[\u4e2a\u540d\u4f4d])?(?:ai|\u4eba\u5de5\u667a\u80fd|\u8bed\u8a00\u6a21\u578b)",
        "\u5f88\u62b1\u6b49\uff0c\u6211\u65e0\u6cd5\u5e2e\u52a9\u3002",
    ),
    Rule(
        Part.REFUSAL,
        "a refusal in other languages",
        "(?:es tut mir leid|je suis d\u00e9sol|d\u00e9sol\u00e9|lo siento|mi dispiace|sinto muito|desculpe)",
        "Es tut mir leid, aber dabei kann ich nicht helfen.",
    ),
)
