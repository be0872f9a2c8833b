"""A text that a node made, in the metadata of the pictures of a run.

ComfyUI's save nodes write each entry of a run's `extra_pnginfo` into their files, among them the workflow. The text
goes into an entry of its own, which any reader of metadata shows, and into the workflow, where the front end finds it
when the picture is opened.
"""

from typing import Any

ENTRY = "pentimento_texts"  # {id of the node: text}
PROPERTY = "pentimento_text"  # of the node in the workflow


def save(extra: dict[str, Any], node_id: str, text: str) -> None:
    """Adds the text of a node to a run's extra_pnginfo.

    Args:
        node_id: As ComfyUI gives it: the ids of the subgraph nodes around it come first, with colons between.
    """
    extra[ENTRY] = {**extra.get(ENTRY, {}), node_id: text}
    if node := _node(extra.get("workflow"), node_id):
        node.setdefault("properties", {})[PROPERTY] = text


def _node(workflow: dict[str, Any] | None, node_id: str) -> dict[str, Any] | None:
    """The node in a workflow of the front end; None for none, as in a graph that was written for the API."""
    graph, node = workflow or {}, None
    subgraphs = {each["id"]: each for each in graph.get("definitions", {}).get("subgraphs", [])}
    for part in node_id.split(":"):
        node = next((each for each in graph.get("nodes", []) if str(each["id"]) == part), None)
        graph = subgraphs.get(node["type"], {}) if node else {}
    return node
