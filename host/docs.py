"""docs/nodes.md and docs/models.md, written from the nodes' schemas, the workflows and models.json."""

import re
from typing import Any

from . import models

WRITE = "python3 host test tests/pack/test_docs.py --update-docs"


def nodes(schemas: list[Any]) -> str:
    """docs/nodes.md.

    Args:
        schemas: The nodes' `io.Schema`, in the order of the menu.
    """
    graphs = models.workflows()
    parts = [
        "# Nodes",
        f"Written from the nodes' schemas by `{WRITE}`; do not edit it by hand. The nodes are in ComfyUI's node library under "
        "*Pentimento*. Each has a help page in ComfyUI (select the node, press *i*) and a Chinese translation.",
        table(
            ("node", "what it does", "workflows"),
            [
                (f"[{schema.display_name}](#{anchor(schema.display_name)})", schema.description, ", ".join(holders(schema, graphs)))
                for schema in schemas
            ],
        ),
    ]
    for category in dict.fromkeys(schema.category for schema in schemas):
        parts.append(f"## {category}")
        parts += [section(schema, graphs) for schema in schemas if schema.category == category]
    return "\n\n".join(parts) + "\n"


def section(schema: Any, graphs: dict) -> str:
    """One node: its description, inputs and outputs."""
    rows = [(f"`{entry.id}`", kind(entry), default(entry), entry.tooltip) for entry in schema.inputs]
    outputs = [
        f"`{entry.display_name}` ({entry.get_io_type()}{', a list' if entry.is_output_list else ''})"
        + (f": {entry.tooltip}" if entry.tooltip else "")
        for entry in schema.outputs
    ]
    return "\n\n".join(
        [
            f"### {schema.display_name}",
            schema.description,
            f"Id `{schema.node_id}`; [help page](../web/docs/{schema.node_id}.md); "
            f"workflows: {', '.join(holders(schema, graphs))}.",
            table(("input", "type", "default", "what it is"), rows),
            "Outputs:\n\n" + "\n".join(f"- {output}" for output in outputs),
        ]
    )


def anchor(heading: str) -> str:
    """The name that GitHub gives a heading in links."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def holders(schema: Any, graphs: dict) -> list[str]:
    """The names of the workflows that hold a node."""
    return [
        name
        for name, graph in graphs.items()
        if any(node["class_type"] == schema.node_id for node in graph.values())
    ]


def kind(entry: Any) -> str:
    """An input's type, with its range or its options, and whether it may be left out."""
    text = entry.get_io_type().replace(",", " or ")
    if is_file(entry):
        text = "a file"
    elif text == "COMBO":
        text = ", ".join(f"`{option}`" for option in entry.options)
    elif getattr(entry, "max", None) is not None:
        text = f"{text}, {entry.min} to {entry.max}"
    return text + ("; optional" if entry.optional else "") + ("; advanced" if getattr(entry, "advanced", None) else "")


def default(entry: Any) -> str:
    """An input's value where none was chosen; empty for sockets and files."""
    if entry.get_io_type() == "COMBO":
        return "" if is_file(entry) else f"`{entry.default or entry.options[0]}`"
    value = getattr(entry, "default", None)
    if isinstance(value, bool):
        return "on" if value else "off"
    return "" if value is None else f"`{value}`" if value != "" else "empty"


def is_file(entry: Any) -> bool:
    """Whether an input lists files, which differ by machine: their ids end in _name in this pack."""
    return entry.get_io_type() == "COMBO" and entry.id.endswith("_name")


def model_files() -> str:
    """docs/models.md."""
    catalogue = models.catalogue().values()
    rows = [
        (
            f"[{model.name}]({model.url})",
            size(model.size),
            f"`models/{model.folder}`",
            model.licence,
            ", ".join(models.users(model)),
            model.instead,
        )
        for model in catalogue
    ]
    return "\n\n".join(
        [
            "# Models",
            f"Written from the workflows and host/models.json by `{WRITE}`; do not edit it by hand.",
            "Nothing downloads by itself. `python3 host models` lists these files and says which are here; "
            "`python3 host models --download NAME` fetches one and verifies it. The folders of your "
            "`extra_model_paths.yaml` are searched too, and Load LaMa searches `models/inpaint` and `models/lama`. "
            "`remove_without_models` needs none of them.",
            table(("file", "size", "goes to", "licence", "workflows", "or instead"), rows),
            "To verify a file, save these lines and run `sha256sum --check --ignore-missing` on them beside it:",
            "```\n" + "\n".join(f"{model.sha256}  {model.name}" for model in catalogue) + "\n```",
        ]
    ) + "\n"


def size(count: int) -> str:
    """A number of bytes as people read it."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}" if unit == "GB" else f"{count / scale:.0f} {unit}"
    return f"{count / 1e3:.0f} KB"


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
