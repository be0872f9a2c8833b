"""Stand-ins: model files with random weights, which the tool `host` makes where the real ones are missing.

The name of a stand-in begins with PREFIX, so that few files need to be opened. The file carries MARK, so that a real
model of such a name counts as real. MARK is a key in the metadata of a safetensors file, and the comment at the end of
a zipped pickle.
"""

from pathlib import Path, PurePath
from typing import Any

import safetensors

PREFIX = "standin-"
MARK = "Pentimento's stand-in: random weights, version 2"  # the tool makes those with another mark again


def is_standin(path: Path) -> bool:
    """Whether the file is one; no for a file that cannot be read, of which its loader says so."""
    try:
        if path.suffix == ".safetensors":
            with safetensors.safe_open(path, "pt") as file:
                return MARK in (file.metadata() or {})
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - len(MARK)))
            return file.read() == MARK.encode()
    except (OSError, safetensors.SafetensorError):
        return False


def standins() -> list[str]:
    """The stand-ins in ComfyUI's model folders, as its nodes list them."""
    import folder_paths  # the tool runs this file without ComfyUI

    names = set()
    for folder in folder_paths.folder_names_and_paths.keys() - {"custom_nodes"}:  # whose listing takes long
        for name in filter(is_named_so, folder_paths.get_filename_list(folder)):
            if is_standin(Path(folder_paths.get_full_path_or_raise(folder, name))):
                names.add(name)
    return sorted(names)


def is_named_so(name: Any) -> bool:
    """Whether a value of an input is the name of a file, in a folder or not, that may be a stand-in."""
    return isinstance(name, str) and PurePath(name.replace("\\", "/")).name.startswith(PREFIX)


def used(prompt: Any) -> list[str]:
    """The stand-ins that a workflow in the API's form names.

    Args:
        prompt: As it was posted; ComfyUI has not yet checked its form.
    """
    nodes = prompt.values() if isinstance(prompt, dict) else ()
    inputs = (node.get("inputs") for node in nodes if isinstance(node, dict))
    values = {value for each in inputs if isinstance(each, dict) for value in each.values() if is_named_so(value)}
    return [name for name in standins() if name in values] if values else []
