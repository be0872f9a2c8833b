"""Chinese wherever ComfyUI can show it: menu, sockets, help pages, the titles and notes of the bundled workflows."""

import json
import re
from itertools import pairwise

import pytest

from kit.nodes import node_classes
from kit.paths import PACK

SCHEMAS = {node_id: cls.GET_SCHEMA() for node_id, cls in node_classes().items()}
LOCALE = PACK / "locales" / "zh"
MAIN = json.loads((LOCALE / "main.json").read_text(encoding="utf-8"))
NODES = json.loads((LOCALE / "nodeDefs.json").read_text(encoding="utf-8"))
GRAPHS = {
    path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted((PACK / "workflows").glob("*.json"))
}
TRANSLATED = MAIN["pentimentoGraphs"]

HAN = "[\u4e00-\u9fff]"
CODE = r"`[^`\n]+`"
LINK = r"\]\((https?://[^)\s]+)\)"
MARK = "[\u3000-\u303f\uff00-\uffef\u2018-\u201d().,:;]"  # Chinese and Latin punctuation
SENTENCE = re.compile(r"\b[A-Za-z][a-z']*(?: [A-Za-z][a-z']*){4}")

every_node = pytest.mark.parametrize("node_id", sorted(SCHEMAS))
every_workflow = pytest.mark.parametrize("name", sorted(GRAPHS))


def english(node_id):
    return (PACK / "web" / "docs" / f"{node_id}.md").read_text(encoding="utf-8")


def chinese(node_id):
    return (PACK / "web" / "docs" / node_id / "zh.md").read_text(encoding="utf-8")


def outline(page):
    """What each block of a page is: the level of a heading, an item of a list and its indent, a row and its cells."""
    blocks = re.findall(r"^(#+ |!\[| *- |\d+\. |\|.*\|$)", page, re.MULTILINE)
    return [block.count("|") if block.startswith("|") else block for block in blocks]


def figures(page):
    """The numbers of a page with three digits and more or a point, but for those that Chinese counts in 10 000s."""
    text = re.sub(LINK, "]", page).split("## Sources")[0]
    return set(re.findall(r"(?<![\w.])(?:\d{3,}|\d+\.\d+)(?![\w.]*\w| million| megapixel)", text))


def prose(page):
    """The page without code, pictures, links, names in italics, quotations, tables and sources."""
    text = re.split("\n## \u6765\u6e90\n", page)[0]  # sources
    return re.sub(rf'{CODE}|\]\(\S+\)|\*\*?[^*\n]+\*\*?|"[^"\n]*"|^\|.*$|^    .*$', "", text, flags=re.MULTILINE)


def asterisks(page):
    """Where Markdown does not take ** for bold: between punctuation inside and a letter outside."""
    for line in page.splitlines():
        parts = line.split("**")
        for inside, (before, after) in enumerate(pairwise(parts), start=1):
            inner, outer = (after[:1], before[-1:]) if inside % 2 else (before[-1:], after[:1])
            if re.match(MARK, inner) and re.match(r"\w", outer):
                yield f"{before[-9:]}**{after[:9]}"


@every_node
def test_a_help_page_has_its_chinese_page_of_the_same_outline(node_id):
    page = chinese(node_id)
    assert page.startswith(f"# {NODES[node_id]['display_name']}\n")
    assert outline(page) == outline(english(node_id))


@every_node
def test_a_chinese_help_page_has_the_same_pictures_links_code_and_numbers(node_id):
    pattern = r"!\[.+\]\((.+)\)"
    assert re.findall(pattern, chinese(node_id)) == re.findall(pattern, english(node_id))
    assert set(re.findall(LINK, chinese(node_id))) == set(re.findall(LINK, english(node_id)))
    assert set(re.findall(CODE, english(node_id))) <= set(re.findall(CODE, chinese(node_id)))
    assert [figure for figure in sorted(figures(english(node_id))) if figure not in chinese(node_id)] == []


@every_node
def test_a_chinese_help_page_names_inputs_and_nodes_as_the_chinese_front_end_does(node_id):
    page, entry = chinese(node_id), NODES[node_id]
    inputs = {given.id: entry["inputs"][given.id]["name"] for given in SCHEMAS[node_id].inputs}
    items = [f"**{name}**\uff08`{key}`" for key, name in inputs.items()]
    assert [item for item in items if item not in page] == []
    named = {
        other for other in SCHEMAS if re.search(rf"\b{re.escape(SCHEMAS[other].display_name)}\b", english(node_id))
    }
    assert [other for other in sorted(named) if NODES[other]["display_name"] not in page] == []


@every_node
def test_a_chinese_help_page_holds_no_english_sentence(node_id):
    assert SENTENCE.findall(prose(chinese(node_id))) == []


@every_node
def test_a_chinese_help_page_renders_in_the_help_panel(node_id):
    page = chinese(node_id)
    assert list(asterisks(page)) == []
    wrapped = r"^(?![#|!\-\d ]).+\n(?![#|!\-\d\n ]).+"
    assert re.findall(wrapped, page, re.MULTILINE) == [], "a line break shows as a space"
    assert re.findall(r"\]\((?!https?://|\w+\.jpg\))[^)]*\)", page) == [], "the help panel cannot follow this link"


def test_english_sentences_are_known_from_names():
    assert SENTENCE.search("The node knows no objects.")
    assert not SENTENCE.search("Stable Diffusion 2 \u7684 Load Diffusion Model")


@every_node
def test_every_tooltip_of_an_output_has_chinese(node_id):
    outputs = NODES[node_id]["outputs"]
    wanted = [str(place) for place, output in enumerate(SCHEMAS[node_id].outputs) if output.tooltip]
    assert [place for place in wanted if not re.search(HAN, outputs[place].get("tooltip", ""))] == []


@every_node
def test_chinese_names_hold_nothing_that_the_front_end_reads_as_syntax(node_id):
    """vue-i18n, through which the front end reads names and descriptions, gives {}, @ and | a meaning."""
    entry = NODES[node_id]
    sockets = [*entry["inputs"].values(), *entry["outputs"].values()]
    texts = [entry["display_name"], entry["description"], *(socket["name"] for socket in sockets)]
    assert [text for text in texts if re.search(r"[{}@|]", text)] == []


def test_every_folder_of_the_menu_has_chinese():
    folders = {part for schema in SCHEMAS.values() for part in schema.category.split("/")[1:]}
    assert folders == MAIN["nodeCategories"].keys()


def test_the_chinese_readme_has_what_the_english_one_has():
    pages = {name: (PACK / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh.md")}
    chinese_page, english_page = pages["README.zh.md"], pages["README.md"]
    assert outline(chinese_page) == outline(english_page)
    for pattern in (r"```.*?```", r"\]\(([^)\s]+)\)", CODE):
        parts = [
            [part for part in re.findall(pattern, text, re.DOTALL) if part not in pages]
            for text in (chinese_page, english_page)
        ]
        assert sorted(parts[0]) == sorted(parts[1])
    assert {figure for figure in figures(english_page) if figure not in chinese_page} == set()
    assert SENTENCE.findall(prose(chinese_page)) == []


@every_workflow
def test_every_title_of_a_workflow_has_chinese(name):
    graph = GRAPHS[name]
    titled = [*graph["nodes"], *graph.get("groups", [])]
    assert {part["title"] for part in titled if part.get("title")} <= TRANSLATED["titles"].keys()


@every_workflow
def test_the_note_of_a_workflow_has_chinese_with_the_same_links_and_code(name):
    (note,) = (node["widgets_values"][0] for node in GRAPHS[name]["nodes"] if node["type"] == "MarkdownNote")
    translated = TRANSLATED["notes"][note]
    assert sorted(re.findall(LINK, translated)) == sorted(re.findall(LINK, note))
    assert set(re.findall(CODE, note)) <= set(re.findall(CODE, translated))
    assert outline(translated) == outline(note)
    names = TRANSLATED["titles"] | {schema.display_name: NODES[key]["display_name"] for key, schema in SCHEMAS.items()}
    named = [name for name in re.findall(r"\*\*([^*]+)\*\*", note) if name in names]
    assert [name for name in named if names[name] not in translated] == []
    assert not SENTENCE.findall(prose(translated))


def test_the_translations_of_graphs_are_used():
    parts = [part for graph in GRAPHS.values() for part in [*graph["nodes"], *graph.get("groups", [])]]
    titles = {part.get("title") for part in parts}
    notes = {part["widgets_values"][0] for part in parts if part.get("type") == "MarkdownNote"}
    assert TRANSLATED["titles"].keys() <= titles
    assert TRANSLATED["notes"].keys() == notes
