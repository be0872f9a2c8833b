"""What loading the pack adds to ComfyUI's start, against loading ComfyUI's own extra nodes, in one process."""

import asyncio
import logging
import sys

import _pack


def run() -> dict:
    """The host's modules are loaded before either is timed, as they are when the host comes to its nodes."""
    ours, peer = _pack.sides(__file__, ["ours", "peer"], runs=5)
    return {
        "title": "Load the pack at start",
        "ours": ours,
        "peer": peer,
        "peer_name": "core's extra nodes",
        "note": "The pack is loaded after core's nodes, by the host's own loader.",
    }


def main(side: str) -> None:
    """Prints one side's time and memory."""
    sys.dont_write_bytecode = False  # from the second start on, Python has compiled both
    sys.path.insert(0, str(_pack.HOST))
    import torch
    from comfy.cli_args import args

    args.cpu = not torch.cuda.is_available()
    logging.disable()
    import nodes

    def core() -> None:
        asyncio.run(nodes.init_builtin_extra_nodes())

    if side == "peer":
        print(_pack.measure(core))
    else:
        core()
        print(_pack.measure(lambda: asyncio.run(nodes.load_custom_node(str(_pack.PACK)))))


if __name__ == "__main__":
    main(sys.argv[1])
