"""What loading the pack adds to ComfyUI's start, against loading ComfyUI's own extra nodes, in one process."""

import asyncio
import logging
import sys

import _pack


def run() -> dict:
    """ComfyUI's modules are loaded before either is timed, as they are when ComfyUI comes to its nodes."""
    return _pack.compare(
        __file__,
        title="Load the pack at start",
        peer="core's extra nodes",
        note="The pack is loaded after core's nodes, by ComfyUI's own loader.",
        runs=5,
    )


def main(side: str) -> dict:
    sys.dont_write_bytecode = False  # from the second start on, Python has compiled both
    _pack.load_comfyui()
    logging.disable()
    import nodes

    def core() -> None:
        asyncio.run(nodes.init_builtin_extra_nodes())

    if side == "peer":
        return _pack.measure(core)
    core()
    return _pack.measure(lambda: asyncio.run(nodes.load_custom_node(str(_pack.PACK))))
