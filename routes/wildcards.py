"""The prompts of Wildcards are saved with every picture, also where ComfyUI has the node's result from an earlier run.

A node that does not run cannot write into the metadata of a run. So its prompt is written when the run is queued.
"""

from typing import Any

from ..model_patchers.comfyui import saved_text
from ..model_patchers.prompt import wildcards

NODE = "PentimentoWildcards"
MOST = 1000  # combinations that are made while ComfyUI's server waits


def save_prompts(request: dict[str, Any]) -> dict[str, Any]:
    """For ComfyUI's on_prompt: adds the prompts to the metadata. A text over a link is known when the node runs."""
    for node_id, node in (request.get("prompt") or {}).items():
        values = node.get("inputs", {}) if node.get("class_type") == NODE else {}
        if not values or any(isinstance(value, list) for value in values.values()):
            continue
        try:
            _, prompts = wildcards.resolve(**{**values, "limit": min(values.get("limit", wildcards.LIMIT), MOST)})
        except (ValueError, TypeError):  # ComfyUI's check of the inputs, or the node itself, says what is wrong
            continue
        data = request.setdefault("extra_data", {})
        data["extra_pnginfo"] = data.get("extra_pnginfo") or {}
        saved_text.save(data["extra_pnginfo"], node_id, wildcards.shown(prompts))
    return request


def add_handler() -> None:
    """Adds save_prompts to ComfyUI's server, if it runs."""
    from server import PromptServer

    server = getattr(PromptServer, "instance", None)
    if server is not None:
        server.add_on_prompt_handler(save_prompts)
