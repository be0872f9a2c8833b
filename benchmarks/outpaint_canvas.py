"""Outpaint Canvas on a 2048 px picture without a prefill, against core's pad node, both with a feather of 50 px."""

import importlib
import os
import sys

import _pack

SIDE, NEW, FEATHER = 2048, 256, 50
HUGE_PAGES = "THP_MEM_ALLOC_ENABLE"  # PyTorch's switch; of use on Linux


def run() -> dict:
    """Both put the same picture on the same canvas, each in its own process and on one thread."""
    small = [side["seconds"] for side in _pack.sides(__file__, ["ours", "peer"], runs=1)]
    os.environ[HUGE_PAGES] = "1"
    ours, peer = _pack.sides(__file__, ["ours", "peer"])
    del os.environ[HUGE_PAGES]
    return {
        "title": f"Pad a {SIDE} x {SIDE} picture by {NEW} px on all sides for outpainting",
        "ours": ours,
        "peer": peer,
        "peer_name": "core's Pad Image for Outpainting",
        "note": "The same picture and mask to the bit; ours makes the outpainting recipe's change map, too. Both with "
        f"PyTorch's {HUGE_PAGES}=1. Without it, most of ours is waiting for fresh memory: {small[0]:.3f} s, peer "
        f"{small[1]:.2f} s.",
    }


def main(side: str) -> None:
    """Prints one side's time and memory, the second time that it runs."""
    pack = _pack.load()
    import torch

    import nodes

    canvas = importlib.import_module(f"{pack.__name__}.nodes.outpaint_canvas").OutpaintCanvas
    image = torch.rand(1, SIDE, SIDE, 3, generator=torch.Generator().manual_seed(0))
    pad = {
        "ours": lambda: canvas.execute(image, NEW, NEW, NEW, NEW, FEATHER, 250, 0.804, "grey"),
        "peer": lambda: nodes.ImagePadForOutpaint().expand_image(image, NEW, NEW, NEW, NEW, FEATHER),
    }[side]
    torch.set_num_threads(1)  # as many as core's loop uses
    pad()
    print(_pack.measure(pad))


if __name__ == "__main__":
    main(sys.argv[1])
