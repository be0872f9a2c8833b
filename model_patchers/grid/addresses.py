"""Addresses of inputs: node id, node title or class, a dot, and the input's name."""

import difflib
from collections.abc import Iterable

Graph = dict[str, dict]
"""A workflow in the API's form: {node id: {"class_type", "inputs", "_meta": {"title"}}}."""


def title(node: dict) -> str:
    """What a node is called in the workflow."""
    return node.get("_meta", {}).get("title") or node["class_type"]


def name(graph: Graph, node_id: str) -> str:
    """A node's title, with its number where others have the same."""
    own = title(graph[node_id])
    return own if sum(title(node) == own for node in graph.values()) == 1 else f"{own} (node {node_id})"


def nearest(word: str, words: Iterable[str]) -> str:
    """A question that names what a word may have meant, or nothing."""
    close = difflib.get_close_matches(word, list(words))
    return f" Is it {' or '.join(close)}?" if close else ""


def is_link(value: object, graph: Graph) -> bool:
    """Whether an input is connected: ["<node id>", output]."""
    return isinstance(value, list) and len(value) == 2 and str(value[0]) in graph and isinstance(value[1], int)


def resolve(graph: Graph, address: str) -> tuple[str, str]:
    """(node id, input) of an address. The longest name that a node has comes first, since names may hold dots.

    Raises:
        ValueError: No node or several have the name, or the address names no input; the text is a sentence.
    """
    heads = [address[:place] for place, letter in enumerate(address) if letter == "." and place + 1 < len(address)]
    if not heads:
        raise ValueError(f"{address} names no input: write the node's title, a dot and the input, as in KSampler.cfg.")
    for head in reversed(heads):
        if ids := _ids(graph, head):
            if len(ids) > 1:
                raise ValueError(
                    f"{address}: the nodes {' and '.join(ids)} are called {head}. Use the number in place of the name."
                )
            return ids[0], address[len(head) + 1 :]
    titles = sorted({title(node) for node in graph.values()})
    raise ValueError(
        f"{address}: no node is called {heads[-1]}.{nearest(heads[-1], titles)} There are {', '.join(titles)}."
    )


def _ids(graph: Graph, head: str) -> list[str]:
    """The nodes that are meant: by their title, else their number, else their class."""
    return (
        [key for key, node in graph.items() if title(node) == head]
        or [key for key in graph if key == head]
        or [key for key, node in graph.items() if node["class_type"] == head]
    )
