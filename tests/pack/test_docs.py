"""README, CONTRIBUTING and docs/: the generated pages are up to date, and links lead somewhere."""

import re

import pytest

from pentimento_host import bench, docs
from pentimento_host.environment import PACK

PAGES = [PACK / "README.md", PACK / "README.zh.md", PACK / "CONTRIBUTING.md", *sorted((PACK / "docs").glob("*.md"))]
STALE = f"Write it anew with `{docs.WRITE}` and commit it."

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(PACK).as_posix())


@pytest.mark.parametrize("name", ["nodes", "models"])
def test_generated_pages_are_what_the_code_says(request, node_classes, name):
    schemas = [cls.GET_SCHEMA() for cls in node_classes.values()]
    text = docs.nodes(schemas) if name == "nodes" else docs.model_files()
    page = PACK / "docs" / f"{name}.md"
    if request.config.getoption("--update-docs"):
        page.write_text(text, encoding="utf-8")
        return
    assert page.is_file(), f"There is no docs/{name}.md. {STALE}"
    assert page.read_text(encoding="utf-8") == text, f"docs/{name}.md is stale. {STALE}"


def test_readme_is_short():
    assert len((PACK / "README.md").read_text(encoding="utf-8").splitlines()) <= 135


@every_page
def test_links_lead_to_files(page):
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    files = [link.split("#")[0] for link in links if not re.match(r"[a-z]+:|#", link)]
    assert not [file for file in files if not (page.parent / file).exists()]


@every_page
def test_anchors_lead_to_headings(page):
    for file, anchor in re.findall(r"\]\(([^)\s#:]*)#([^)\s]+)\)", page.read_text(encoding="utf-8")):
        target = (page.parent / file if file else page).read_text(encoding="utf-8")
        headings = {docs.anchor(heading) for heading in re.findall(r"^#+ (.+)$", target, re.MULTILINE)}
        assert anchor in headings


def test_formulas_and_code_of_help_pages_fit_the_panel():
    """The front end breaks no line of a code block, and cuts what is wider than the panel."""
    pages = {page: page.read_text(encoding="utf-8") for page in sorted((PACK / "web" / "docs").rglob("*.md"))}
    blocks = [
        (page.name, line)
        for page, text in pages.items()
        for block in re.findall(r"(?<=\n\n)(?: {4}.*\n)+|^```[^`]*^```", text, re.MULTILINE)
        for line in block.splitlines()
    ]
    assert blocks
    assert not [(page, line) for page, line in blocks if len(line.strip()) > 40]


def test_every_workflow_is_in_the_readme():
    readme = (PACK / "README.md").read_text(encoding="utf-8")
    assert not [path.stem for path in (PACK / "workflows").glob("*.json") if f"`{path.stem}`" not in readme]


def test_proofs_name_tests():
    proof = (PACK / "docs" / "proof.md").read_text(encoding="utf-8")
    tests = re.findall(r"`(tests/\S+\.py)`", proof)
    assert tests
    assert not [test for test in tests if not (PACK / test).is_file()]


def test_the_reference_group_is_installed_for_the_tests():
    (group,) = re.findall(r"^reference = \[(.+)\]$", (PACK / "pyproject.toml").read_text(), re.MULTILINE)
    assert set(re.findall(r'"([\w-]+)"', group)) <= set((PACK / "host" / "requirements.in").read_text().split("\n"))


def test_a_full_bench_run_replaces_the_table_alone():
    head, _, table = bench.PAGE.read_text(encoding="utf-8").partition(bench.TABLE)
    assert bench.HEADER in table
    assert bench.page(head + bench.TABLE + table, "| a table |\n", "a machine") == (
        f"{head}{bench.TABLE}\nMeasured on a machine.\n\n| a table |\n"
    )
