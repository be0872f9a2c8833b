"""Runs in the history of a server."""

import json
import time

from pentimento_host import client


def prompt_ids(server):
    """The runs in the history."""
    return set(json.loads(client.get(server, "history")))


def run_since(server, before, seconds=60):
    """The one run that is in the history now and was not `before`.

    ComfyUI shows a run's pictures a moment before the run is in the history, so a test that saw them waits here.
    """
    deadline = time.monotonic() + seconds
    while not (new := prompt_ids(server) - before):
        if time.monotonic() > deadline:
            raise TimeoutError(f"No run was added to the history within {seconds} s.")
        time.sleep(0.1)
    (run,) = new
    return json.loads(client.get(server, f"history/{run}"))[run]
