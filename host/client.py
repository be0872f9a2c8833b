"""Queues workflows through ComfyUI's HTTP API and follows them on its websocket."""

import json
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable

import aiohttp

Graph = dict[str, dict]


class RunError(Exception):
    """ComfyUI refused a workflow or failed to run it; the text says why."""


def get(server: str, path: str, **query: str) -> bytes:
    """The body of GET server/path?query."""
    url = f"{server}/{path}" + (f"?{urllib.parse.urlencode(query)}" if query else "")
    return urllib.request.urlopen(url, timeout=60).read()


def queue(server: str, graph: Graph, client_id: str) -> str:
    """Queues a workflow in the API's form; its prompt id.

    Raises:
        RunError: ComfyUI refused the workflow.
    """
    body = json.dumps({"prompt": graph, "client_id": client_id}).encode()
    request = urllib.request.Request(f"{server}/prompt", body, {"Content-Type": "application/json"})
    try:
        return json.load(urllib.request.urlopen(request, timeout=60))["prompt_id"]
    except urllib.error.HTTPError as error:
        raise RunError(_refusal(json.load(error))) from error


async def run(server: str, graph: Graph, on_progress: Callable[[float], None] = lambda fraction: None) -> dict:
    """Runs a workflow to its end.

    Args:
        server: Such as http://127.0.0.1:8188.
        graph: The workflow in the API's form.
        on_progress: Called with the done share, 0..1.

    Returns:
        {node id: what the node showed or saved}.

    Raises:
        RunError: ComfyUI refused the workflow, a node failed, the run was interrupted, or the server is gone.
    """
    try:
        return await _run(server, graph, on_progress)
    except (OSError, aiohttp.ClientError) as error:
        raise RunError(f"ComfyUI does not answer at {server}: {error}") from error


async def _run(server: str, graph: Graph, on_progress: Callable[[float], None]) -> dict:
    client_id = uuid.uuid4().hex
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{server}/ws?clientId={client_id}", max_msg_size=0) as socket,
    ):
        prompt_id, cached, failure = queue(server, graph, client_id), set(), ""
        async for message in socket:
            if message.type != aiohttp.WSMsgType.TEXT:
                continue
            event = json.loads(message.data)
            data = event["data"]
            if data.get("prompt_id") != prompt_id:
                continue
            if event["type"] == "execution_cached":
                cached = set(data["nodes"])
            elif event["type"] == "progress_state":
                done = sum(node["value"] / node["max"] for node in data["nodes"].values())
                on_progress((done + len(cached - set(data["nodes"]))) / len(graph))
            elif event["type"] == "execution_error":
                failure = f"{data['node_type']}: {data['exception_message'].strip()}"
            elif event["type"] == "execution_interrupted":
                failure = "The run was interrupted."
            elif event["type"] == "executing" and data["node"] is None:  # over, and in the history
                if failure:
                    raise RunError(failure)
                on_progress(1.0)
                return json.loads(get(server, f"history/{prompt_id}"))[prompt_id]["outputs"]
    raise RunError("The server closed the connection.")


def _refusal(answer: dict) -> str:
    reasons = [
        f"{node['class_type']}: {error['message']} ({error['details']})"
        for node in answer.get("node_errors", {}).values()
        for error in node["errors"]
    ]
    return "; ".join(reasons) or str(answer.get("error", answer))
