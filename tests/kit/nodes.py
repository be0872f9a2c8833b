"""The pack's nodes, and one of them run as ComfyUI does and checked for what it wrote to its inputs."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import cache

from comfy_api.latest import io

import pentimento

from .assertions import frozen


def in_own_loop(coroutine):
    """Its result. In a thread of its own, as asyncio.run is refused while playwright's loop runs in this one."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, coroutine).result()


@cache
def node_classes():
    """{node id: class} of the whole pack."""

    async def load():
        extension = await pentimento.comfy_entrypoint()
        await extension.on_load()
        return await extension.get_node_list()

    return {cls.GET_SCHEMA().node_id: cls for cls in in_own_loop(load())}


def run_node(cls, **inputs):
    """The node's results; none of a node that only shows something. Inputs that are left out have their defaults."""
    before = {name: frozen(value) for name, value in inputs.items()}
    results = cls.execute(**with_defaults(cls, inputs)).result or ()
    written = [name for name, value in inputs.items() if frozen(value) != before[name]]
    assert not written, f"{cls.GET_SCHEMA().display_name} wrote to {', '.join(written)}"
    return results


def with_defaults(cls, inputs):
    """A node's inputs, with defaults for those that are left out."""
    return {entry.id: default(entry) for entry in cls.GET_SCHEMA().inputs if not entry.optional} | inputs


def default(entry):
    """What ComfyUI's widget shows first."""
    value = getattr(entry, "default", None)
    return entry.options[0] if value is None and isinstance(entry, io.Combo.Input) else value
