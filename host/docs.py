"""docs/nodes.md and docs/models.md, written from the nodes' schemas, the workflows, the blueprints and models.json."""

import json
import re
from typing import Any

from . import models
from .client import Graph

WRITE = "python3 host test tests/pack/test_docs.py --update-docs"

NODES = f"""\
# Nodes

Written from the nodes' schemas by `{WRITE}`; do not edit it by hand.

The nodes are in ComfyUI's node library under *Pentimento*. Each has a help page in ComfyUI (the *i* button above
a selected node) and a Chinese translation."""

BLUEPRINTS = """\
## Blueprints

Whole tasks as one node: in the node library under *Subgraph Blueprints*, *Pentimento*, or by double-click on the
canvas. Connect the picture, set what the node shows, and run. Objects are clicked on the node itself. *Enter subgraph*
opens the node: its nodes can be changed as in any workflow. `subgraphs/api/` holds each with a photograph, in the form
of the API."""

MODELS = f"""\
# Models

Written from the workflows and host/models.json by `{WRITE}`; do not edit it by hand.

Nothing downloads by itself. `python3 host models` lists these files and says which are here; `--download NAME` fetches
one and verifies it. The folders of your `extra_model_paths.yaml` are searched too, and Load LaMa searches both
`models/inpaint` and `models/lama`. The workflow `remove_without_models` needs no model.

ComfyUI lists the files that an open workflow misses under *Errors*, with a button that downloads each. Take the others
from the table: ViT-L-14_stats.th, whose form ComfyUI does not list, sttn.pth, from whose address it offers nothing, and
OSTrack_ep0300.pth.tar, which has no direct address. Move what your browser saved to the folder that the list names,
give it the name in the list, and press the list's refresh button. A mirror is the same file at Hugging Face."""

CHECKSUMS = "`sha256sum --check --ignore-missing` verifies files by these lines:"


def nodes(schemas: list[Any]) -> str:
    """docs/nodes.md.

    Args:
        schemas: The nodes' `io.Schema`, in the order of the menu.
    """
    graphs = models.workflows()
    rows = [
        (f"[{schema.display_name}](#{anchor(schema.display_name)})", schema.description, users(schema, graphs))
        for schema in schemas
    ]
    parts = [NODES, table(("node", "what it does", "workflows"), rows), BLUEPRINTS, blueprints()]
    for category in dict.fromkeys(schema.category for schema in schemas):
        parts.append(f"## {category}")
        parts += [section(schema, graphs) for schema in schemas if schema.category == category]
    return "\n\n".join(parts) + "\n"


def blueprints() -> str:
    """The table of the blueprints: what each does, and what stands on its node."""
    rows = []
    for path in sorted(models.BLUEPRINTS.glob("*.json")):
        (subgraph,) = json.loads(path.read_text(encoding="utf-8"))["definitions"]["subgraphs"]
        does, *_ = subgraph["description"].splitlines()
        slots = [
            ", ".join(slot.get("label", slot["name"]) for slot in subgraph[name]) for name in ("inputs", "outputs")
        ]
        rows.append((subgraph["name"], does, *slots))
    return table(("blueprint", "what it does", "inputs", "outputs"), rows)


def slots(entries: list[dict]) -> str:
    """The names of a blueprint's inputs or outputs, as the node shows them."""
    return ", ".join(entry.get("label", entry["name"]) for entry in entries)


def section(schema: Any, graphs: dict[str, Graph]) -> str:
    """One node: its description, inputs and outputs."""
    inputs = [(f"`{entry.id}`", kind(entry), default(entry), entry.tooltip) for entry in schema.inputs]
    outputs = [
        (f"`{entry.display_name}`", entry.get_io_type() + (", a list" if entry.is_output_list else ""), entry.tooltip)
        for entry in schema.outputs
    ]
    page = f"[help page](../web/docs/{schema.node_id}.md)"
    parts = [
        f"### {schema.display_name}",
        f"{schema.description}\n\nId `{schema.node_id}`; {page}; workflows: {users(schema, graphs)}.",
        table(("input", "type", "default", "what it is"), inputs),
        table(("output", "type", "what it is"), outputs),
    ]
    return "\n\n".join(parts)


def anchor(heading: str) -> str:
    """The name that GitHub gives a heading in links."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def users(schema: Any, graphs: dict[str, Graph]) -> str:
    """The names of the workflows that hold a node."""
    classes = {name: {node["class_type"] for node in graph.values()} for name, graph in graphs.items()}
    return ", ".join(name for name in graphs if schema.node_id in classes[name])


def kind(entry: Any) -> str:
    """An input's type, with its options or its range, and whether it may be left out."""
    text = entry.get_io_type().replace(",", " or ")
    if is_file(entry):
        text = "a file"
    elif text == "COMBO":
        text = ", ".join(f"`{option}`" for option in entry.options)
    elif getattr(entry, "max", None) is not None:
        text = f"{text}, {entry.min} to {entry.max}"
    marks = ["optional"] * entry.optional + ["advanced"] * bool(getattr(entry, "advanced", None))
    return "; ".join([text, *marks])


def default(entry: Any) -> str:
    """An input's value unless another is chosen; nothing for sockets and files."""
    value = getattr(entry, "default", None)
    if entry.get_io_type() == "COMBO" and not is_file(entry):
        value = value or entry.options[0]
    if isinstance(value, bool):
        return "on" if value else "off"
    return {None: "", "": "empty"}.get(value, f"`{value}`")


def is_file(entry: Any) -> bool:
    """Whether an input lists files, which differ by machine: its id then ends in _name."""
    return entry.get_io_type() == "COMBO" and entry.id.endswith("_name")


def model_files() -> str:
    """docs/models.md."""
    catalogue = models.catalogue().values()
    rows = [
        (
            f"[{model.name}]({model.url})" + (f" ([mirror]({model.mirror}))" if model.mirror else ""),
            size(model.size) if model.size else "",
            f"`models/{model.folder}`",
            model.licence,
            ", ".join(models.users(model)),
            model.instead,
        )
        for model in catalogue
    ]
    files = table(("file", "size", "goes to", "licence", "workflows", "instead"), rows)
    lines = "\n".join(f"{model.sha256}  {model.name}" for model in catalogue if model.sha256)
    return "\n\n".join([MODELS, files, CHECKSUMS, f"```\n{lines}\n```"]) + "\n"


def size(count: int) -> str:
    """A number of bytes as people read it."""
    if count >= 1e9:
        return f"{count / 1e9:.1f} GB"
    return f"{count / 1e6:.0f} MB" if count >= 1e6 else f"{count / 1e3:.0f} KB"


def table(head: tuple[str, ...], rows: list[tuple[str | None, ...]]) -> str:
    """A table in Markdown; a cell of None is empty."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join((cell or "").replace("|", "\\|") for cell in line) + " |" for line in lines)
