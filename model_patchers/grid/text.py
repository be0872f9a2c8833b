"""Reads a grid file's text, YAML or JSON, strictly: a name that is there twice is a fault, not an override."""

import json
import re
from typing import Any

from .expand import GridError

MOST_LETTERS = 2_000_000  # of a grid file


def load(text: str) -> object:
    """The data of a grid file in JSON or YAML.

    Raises:
        GridError: It is neither, holds a name twice, or needs PyYAML where there is none.
    """
    if len(text) > MOST_LETTERS:
        raise GridError(f"The grid file has {len(text)} letters, and {MOST_LETTERS} is the limit.")
    if text.lstrip().startswith("{"):
        try:
            return json.loads(text, object_pairs_hook=_once)
        except (ValueError, RecursionError) as error:
            if not _looks_like_yaml(text):
                raise GridError(f"The grid file is no JSON: {error}.") from error
    return _yaml(text)


def fields(text: str) -> dict:
    """The fields of a grid file.

    Raises:
        GridError: As `load`, or the file has no fields.
    """
    data = load(text)
    if not isinstance(data, dict):
        raise GridError("A grid has fields such as title, workflow and axes.")
    return data


def _looks_like_yaml(text: str) -> bool:
    return not re.match(r'\s*\{\s*"', text)


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    data: dict[str, object] = {}
    for name, value in pairs:
        if name in data:
            raise ValueError(f"{name} is there twice")
        data[name] = value
    return data


def _yaml(text: str) -> object:
    try:
        import yaml
    except ImportError:
        raise GridError(
            "A grid file in YAML needs PyYAML: install it (pip install pyyaml), or write the file as JSON."
        ) from None

    class Loader(yaml.SafeLoader):
        """YAML 1.2's scalars: `no` and `on` are text, 16:9 is no number, 1e-4 is one. No name twice, no aliases."""

        yaml_implicit_resolvers: dict[str, list] = {}

        def compose_node(self, parent: object, index: object) -> object:
            if self.check_event(yaml.events.AliasEvent):
                mark = self.peek_event().start_mark
                raise yaml.composer.ComposerError(None, None, "aliases such as *name are not taken here", mark)
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> dict:
            names = [self.construct_object(name, deep=True) for name, _ in node.value]
            for place, name in enumerate(names):
                if name in names[:place]:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"{name} is there twice", node.value[place][0].start_mark
                    )
            return {
                str(name): self.construct_object(item, deep=deep)
                for name, (_, item) in zip(names, node.value, strict=True)
            }

    for tag, pattern, first in (
        ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
        ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
        ("int", r"[-+]?[0-9]+", "-+0123456789"),
        ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
    ):
        Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(f"^(?:{pattern})$"), list(first))
    Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(loader.construct_scalar(node)))
    Loader.add_constructor("tag:yaml.org,2002:float", lambda loader, node: float(loader.construct_scalar(node)))
    try:
        return yaml.load(text, Loader)  # noqa: S506  # it is a SafeLoader
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise GridError(f"The grid file is no YAML: {error}") from error
