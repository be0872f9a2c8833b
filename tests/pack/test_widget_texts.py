"""Every text that a widget shows has a Chinese translation."""

import json
import re
from pathlib import Path

import pytest

from kit.paths import PACK

CHINESE = json.loads((PACK / "locales" / "zh" / "main.json").read_text(encoding="utf-8"))
WIDGETS = sorted((PACK / "web").rglob("*.js"))
PAGE = sorted((PACK / "web").rglob("*.cjs"))  # of a grid: it may stand on a disk, so its Chinese is its own
PAGES_CHINESE = json.loads((PACK / "web" / "grid" / "zh.json").read_text(encoding="utf-8"))
SKIPPED = r"//[^\n]*|/\*.*?\*/"  # comments
LITERAL = r'"(?:\\.|[^"\\\n])*"|' + r"'(?:\\.|[^'\\\n])*'|`(?:\\.|[^`\\])*`"
CONCATENATED = re.compile(r'"\s*\+\s*"')
SHOWN = r"(?:textContent|innerText|innerHTML|title|alt|placeholder|summary|detail)\s*[:=](?!=)\s*$|"
SHOWN += r"(?:setAttribute\(\s*\"(?:aria-label|aria-description|aria-roledescription|title|alt)\",\s*)$"


def literals(source):
    """(what stands before it, its content) for each string of JavaScript source, long ones in one piece."""
    source = CONCATENATED.sub("", source)
    for token in re.finditer(f"(?P<skipped>{SKIPPED})|{LITERAL}", source, re.DOTALL):
        if not token["skipped"]:
            yield source[: token.start()], re.sub(r"\\u(\w{4})", lambda code: chr(int(code[1], 16)), token[0][1:-1])


def is_prose(text):
    """Whether a string is words for users: it starts as a sentence does."""
    return re.match(r"[A-Z][\w']*[,.!?]? +\S*[a-z]", text) is not None


def texts(source):
    """{text: whether it goes through t()} for each text that a user reads."""
    shown = {}
    for before, content in literals(source):
        translated = re.search(r"\bt\(\s*$", before) is not None
        words = re.search("[A-Za-z]", re.sub(r"\$\{[^}]*\}", "", content))
        if translated or is_prose(content) or (words and re.search(SHOWN, before)):
            shown[content] = shown.get(content, True) and translated
    return shown


def settings(source):
    """The names and tooltips of the settings, which the front end translates itself."""
    blocks = re.findall(r"settings: \[(.*?)\n  \]", CONCATENATED.sub("", source), re.DOTALL)
    return {content for block in blocks for _, content in literals(block)}


def placeholders(text):
    return sorted(re.findall(r"\{\w+\}", text))


@pytest.mark.parametrize("path", WIDGETS + PAGE, ids=lambda path: str(Path(path).relative_to(PACK)))
def test_every_text_of_a_widget_has_chinese(path):
    source, chinese = path.read_text(), PAGES_CHINESE if path in PAGE else CHINESE["pentimento"]
    wanted = {text: through_t for text, through_t in texts(source).items() if text not in settings(source)}
    assert [text for text, through_t in wanted.items() if not through_t] == [], "write t(...) around these"
    assert [text for text in wanted if not chinese.get(text)] == [], (
        "locales/zh/main.json or web/grid/zh.json lacks these"
    )


def test_chinese_texts_are_used_and_keep_the_placeholders():
    used = set().union(*(texts(path.read_text()) for path in WIDGETS))
    routes = "".join(path.read_text() for path in (PACK / "routes").glob("*.py"))  # widgets show their sentences
    assert [text for text in CHINESE["pentimento"] if text not in used and f'"{text}"' not in routes] == []
    for text, translated in CHINESE["pentimento"].items():
        assert placeholders(text) == placeholders(translated)
        assert re.search(r"[\u4e00-\u9fff]", translated), text


def test_chinese_texts_of_the_grids_page_are_used_and_keep_the_placeholders():
    used = set().union(*(texts(path.read_text()) for path in PAGE))
    assert [text for text in PAGES_CHINESE if text not in used] == []
    for text, translated in PAGES_CHINESE.items():
        assert placeholders(text) == placeholders(translated)
        assert re.search(r"[\u4e00-\u9fff]", translated), text


def test_every_setting_of_a_widget_has_chinese():
    for source in (path.read_text() for path in WIDGETS):
        for name in re.findall(r'const \w+ = "pentimento\.(\w+)"|id: "pentimento\.(\w+)"', source):
            entry = CHINESE["settings"][f"pentimento_{''.join(name)}"]
            assert entry["name"]
            assert entry["tooltip"]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('t("Undo")', {"Undo": True}),
        ('element.textContent = "Undo"', {"Undo": False}),
        ('const NOTE = "Connect a " + "picture.";', {"Connect a picture.": False}),
        ("place.textContent = `${x}, ${y}`", {}),
        ('button.setAttribute("aria-label", "Undo")', {"Undo": False}),
        ('// "Not a text."\nconst key = "ArrowLeft", type = "Content-Type", none = ""', {}),
    ],
)
def test_texts_are_known_from_other_strings(source, expected):
    assert texts(source) == expected
