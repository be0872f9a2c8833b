"""Stand-ins are named where they are used.

`GET /pentimento/standins` of ComfyUI's server answers with the names of those that are there: the front end marks the
nodes that hold one. ComfyUI's log names those of each workflow that is queued.
"""

import asyncio
import logging
from typing import Any

from ..model_patchers.comfyui.standins import standins, used

ROUTE = "/pentimento/standins"


def log_standins(request: dict[str, Any]) -> dict[str, Any]:
    """For ComfyUI's on_prompt: logs the stand-ins of a workflow and leaves the request as it is."""
    if names := used(request.get("prompt")):
        logging.warning(
            "Pentimento: this workflow uses stand-ins with random weights (%s), so its result means nothing. "
            "Choose the real models; docs/models.md of the pack says where they come from.",
            ", ".join(names),
        )
    return request


def add_route() -> None:
    """Adds the route and the log to ComfyUI's server, if it runs."""
    from aiohttp import web
    from server import PromptServer

    server = getattr(PromptServer, "instance", None)
    if server is None:  # ComfyUI's nodes are used without its server
        return
    server.add_on_prompt_handler(log_standins)

    @server.routes.get(ROUTE)
    async def answer(request: web.Request) -> web.Response:
        return web.json_response(await asyncio.to_thread(standins))
