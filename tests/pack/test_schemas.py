"""What workflows rely on is frozen in schemas.json; and what every node and every source file must have.

`python3 host test tests/pack/test_schemas.py --update-schemas` adds new nodes and new inputs to schemas.json. It
changes nothing that is already there: what a workflow may have saved stays.
"""

import inspect
import json
import re

import pytest
from comfy_api.latest import io

from kit.nodes import node_classes
from kit.paths import PACK

SNAPSHOT = PACK / "tests" / "schemas.json"
HOW_TO_ADD = (
    "Add it with `python3 host test tests/pack/test_schemas.py --update-schemas` and commit tests/schemas.json."
)
CLASSES = node_classes()
SCHEMAS = {node_id: cls.GET_SCHEMA() for node_id, cls in CLASSES.items()}
FOLDERS = ("nodes", "model_patchers", "routes", "tests", "host", "benchmarks")
SOURCES = [
    PACK / "__init__.py",
    *(path for folder in FOLDERS for path in (PACK / folder).rglob("*.py")),
    *(PACK / "web").rglob("*.js"),
]

every_node = pytest.mark.parametrize("node_id", sorted(SCHEMAS))
every_source = pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(PACK).as_posix())


def describe(schema):
    """The part of a schema that a saved workflow depends on, as JSON."""
    return {
        "display_name": schema.display_name,
        "category": schema.category,
        "inputs": [describe_input(entry) for entry in schema.inputs],
        "outputs": [
            {"name": entry.display_name, "type": entry.get_io_type(), "is_list": entry.is_output_list}
            for entry in schema.outputs
        ],
    }


def describe_input(entry):
    described = {"id": entry.id, "type": entry.get_io_type(), "optional": entry.optional}
    if isinstance(entry, io.Combo.Input):
        is_file = entry.id.endswith("_name")  # this pack's mark of a list of files, which differs by machine
        described["options"] = "files" if is_file else list(entry.options)
        described["default"] = None if is_file else entry.default or entry.options[0]
    elif hasattr(entry, "default"):
        described["default"] = entry.default
    return described


def broken(old, new):
    """Sentences on what of the schemas `old` is gone, renamed, moved or altered in `new`."""
    for node_id, before in old.items():
        if node_id not in new:
            yield f"{node_id} is gone."
            continue
        after = new[node_id]
        for field in ("display_name", "category"):
            if before[field] != after[field]:
                yield f"{node_id}: {field} was {before[field]!r}, is {after[field]!r}."
        for place, (was, now) in enumerate(pairs(before["inputs"], after["inputs"])):
            yield from (f"{node_id}: input {place} {sentence}" for sentence in broken_input(was, now))
        for place, (was, now) in enumerate(pairs(before["outputs"], after["outputs"])):
            if was and was != now:
                yield f"{node_id}: output {place} was {was}, is {now}."


def pairs(before, after):
    """Lists side by side, None where one is shorter."""
    length = max(len(before), len(after))
    return zip(before + [None] * (length - len(before)), after + [None] * (length - len(after)), strict=True)


def broken_input(was, now):
    if was is None:
        if not now["optional"] or now.get("default", "not a widget") is None:
            yield f"({now['id']}) is new: it must be optional and have a default that keeps the old result."
    elif now is None:
        yield f"({was['id']}) is gone."
    else:
        for field in sorted(was.keys() | now.keys()):
            before, after = was.get(field), now.get(field)
            if isinstance(before, list) and isinstance(after, list):
                after = after[: len(before)]  # further options may follow
            if before != after:
                yield f"({was['id']}): {field} was {before!r}, is {after!r}."


def test_schemas_are_what_workflows_rely_on(request):
    frozen = json.loads(SNAPSHOT.read_text()) if SNAPSHOT.exists() else {}
    current = {node_id: describe(schema) for node_id, schema in sorted(SCHEMAS.items())}
    problems = list(broken(frozen, current))
    assert not problems, "Saved workflows would break:\n" + "\n".join(problems)
    if request.config.getoption("--update-schemas"):
        SNAPSHOT.write_text(json.dumps(current, indent=1) + "\n")
        return
    assert current.keys() == frozen.keys(), f"not in schemas.json: {current.keys() - frozen.keys()}. {HOW_TO_ADD}"
    for node_id, schema in current.items():
        assert schema == frozen[node_id], f"{node_id} has something new. {HOW_TO_ADD}"


def toy(**changes):
    """A node with two inputs, altered: a value of None takes a field or an input away."""
    first = {"id": "a", "type": "INT", "optional": False, "default": 1}
    second = {"id": "b", "type": "COMBO", "optional": False, "options": ["x", "y"], "default": "x"}
    node = {
        "display_name": "Node",
        "category": "Pentimento/edit",
        "inputs": [first, second],
        "outputs": [{"name": "mask", "type": "MASK", "is_list": False}],
    }
    return {"Node": node | changes}


A, B = toy()["Node"]["inputs"]
LAST = {"id": "c", "type": "INT", "optional": True, "default": 0}


@pytest.mark.parametrize(
    "after",
    [
        toy(),
        toy() | {"Other": {}},
        toy(inputs=[A, B, LAST]),
        toy(inputs=[A, B, {"id": "c", "type": "MASK", "optional": True}]),
        toy(inputs=[A, B | {"options": ["x", "y", "z"]}]),
        toy(outputs=toy()["Node"]["outputs"] + [{"name": "score", "type": "FLOAT", "is_list": False}]),
    ],
)
def test_additions_break_nothing(after):
    assert not list(broken(toy(), after))


@pytest.mark.parametrize(
    "after",
    [
        {},
        {"Renamed": toy()["Node"]},
        toy(display_name="Other"),
        toy(category="Pentimento/fill"),
        toy(inputs=[A]),
        toy(inputs=[B, A]),
        toy(inputs=[LAST, A, B]),
        toy(inputs=[A | {"id": "renamed"}, B]),
        toy(inputs=[A | {"type": "FLOAT"}, B]),
        toy(inputs=[A | {"default": 2}, B]),
        toy(inputs=[A | {"optional": True}, B]),
        toy(inputs=[A, B | {"options": ["y", "x"]}]),
        toy(inputs=[A, B | {"options": ["x"]}]),
        toy(inputs=[A, B, LAST | {"optional": False}]),
        toy(inputs=[A, B, LAST | {"default": None}]),
        toy(outputs=[]),
        toy(outputs=[{"name": "mask", "type": "IMAGE", "is_list": False}]),
    ],
)
def test_changes_are_told(after):
    assert list(broken(toy(), after))


@every_node
def test_names(node_id):
    schema = SCHEMAS[node_id]
    assert node_id.startswith("Pentimento")
    assert re.fullmatch(
        r"Pentimento/(segment|fill|edit|condition|prompt|sample|colour|upscale|video|grid|score)", schema.category
    )
    assert schema.display_name and schema.description and schema.search_aliases
    assert all(entry.tooltip for entry in schema.inputs), "an input has no tooltip"
    assert all(entry.display_name for entry in schema.outputs), "an output has no name"


@every_node
def test_execute_takes_what_the_schema_gives(node_id):
    """Same names; an optional input may be left out, and a widget's value is then the schema's default."""
    parameters = inspect.signature(CLASSES[node_id].execute).parameters
    inputs = {entry.id: entry for entry in SCHEMAS[node_id].inputs}
    assert list(parameters) == list(inputs)
    for name, entry in inputs.items():
        default = parameters[name].default
        if entry.optional:
            assert default == getattr(entry, "default", None), f"{name} may be left out"
        else:
            assert default is inspect.Parameter.empty, f"{name} is always given"


@every_node
def test_validation_takes_inputs_by_name(node_id):
    if validate := vars(CLASSES[node_id]).get("validate_inputs"):
        names = list(inspect.signature(validate.__func__).parameters)
        assert set(names[1:]) <= {entry.id for entry in SCHEMAS[node_id].inputs}


@every_node
def test_help_page(node_id):
    schema = SCHEMAS[node_id]
    page = (PACK / "web" / "docs" / f"{node_id}.md").read_text(encoding="utf-8")
    assert page.startswith(f"# {schema.display_name}\n")
    assert re.search(rf"^!\[.+\]\({node_id}\.jpg\)$", page, re.MULTILINE), "no picture below the title"
    for entry in schema.inputs:
        assert re.search(rf"(\*\*|`){entry.id}(\*\*|`)", page), f"input {entry.id} is not described"
    assert re.findall(r"\]\((?!https?://|\w+\.jpg\))[^)]*\)", page) == [], "the help panel cannot follow this link"


@every_node
def test_help_picture(node_id):
    assert (PACK / "web" / "docs" / f"{node_id}.jpg").read_bytes().startswith(b"\xff\xd8\xff")


@every_node
def test_chinese(node_id):
    entries = json.loads((PACK / "locales" / "zh" / "nodeDefs.json").read_text(encoding="utf-8"))
    entry, schema = entries[node_id], SCHEMAS[node_id]
    texts = [entry["display_name"], entry["description"]]
    assert entry["inputs"].keys() == {given.id for given in schema.inputs}
    texts += [text for given in entry["inputs"].values() for text in (given["name"], given["tooltip"])]
    assert entry["outputs"].keys() == {str(place) for place in range(len(schema.outputs))}
    texts += [output["name"] for output in entry["outputs"].values()]
    assert all(texts)
    assert sum(bool(re.search("[\u4e00-\u9fff]", text)) for text in texts) > len(texts) / 2, "not in Chinese"


@every_node
def test_a_workflow_shows_it(node_id):
    graphs = [json.loads(path.read_text(encoding="utf-8")) for path in (PACK / "workflows" / "api").glob("*.json")]
    assert any(node["class_type"] == node_id for graph in graphs for node in graph.values())


@every_source
def test_sources_are_ascii(path):
    assert path.read_bytes().isascii()
