"""The oldest ComfyUI that the pack runs in. This module imports nothing of ComfyUI that an older one lacks."""

import re

MINIMUM = "0.24.0"  # as in pyproject.toml


def refusal() -> str | None:
    """Why the pack cannot run in this ComfyUI, for its log; None if it can."""
    try:
        from comfyui_version import __version__ as version
    except ImportError:  # before 0.3.11
        version = ""
    if version and _numbers(version) >= _numbers(MINIMUM):
        return None
    return (
        f"Pentimento needs ComfyUI {MINIMUM} or newer, and this is {f'ComfyUI {version}' if version else 'older'}: its "
        "nodes are not loaded. Update ComfyUI and its requirements (portable ComfyUI: update/update_comfyui.bat), or "
        "remove the folder pentimento from custom_nodes. Until then ComfyUI lists workflows of Pentimento that cannot "
        "run."
    )


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)[:3]]
