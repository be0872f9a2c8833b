"""Outpaint Canvas on a 2048 px picture without a prefill, against core's pad node, both with a feather of 50 px."""

import importlib
import sys

import _pack

SIDE, NEW, FEATHER = 2048, 256, 50


def run() -> dict:
    """Both put the same picture on the same canvas, each in its own process."""
    ours, peer = _pack.sides(__file__, ["ours", "peer"], runs=1)
    return {
        "title": f"Pad a {SIDE} x {SIDE} picture by {NEW} px on all sides for outpainting",
        "ours": ours,
        "peer": peer,
        "peer_name": "core's Pad Image for Outpainting",
        "note": "The same picture and mask to the bit; ours makes the outpainting recipe's change map, too.",
    }


def main(side: str) -> None:
    """Prints one side's memory and its best time: a system takes longer to find memory that was not used of late."""
    pack = _pack.load()
    import torch

    import nodes

    canvas = importlib.import_module(f"{pack.__name__}.nodes.edit.outpaint_canvas").OutpaintCanvas
    image = torch.rand(1, SIDE, SIDE, 3, generator=torch.Generator().manual_seed(0))
    pad = {
        "ours": lambda: canvas.execute(image, NEW, NEW, NEW, NEW, FEATHER, 250, 0.804, "grey"),
        "peer": lambda: nodes.ImagePadForOutpaint().expand_image(image, NEW, NEW, NEW, NEW, FEATHER),
    }[side]
    pad()
    print(_pack.measure(pad, repeat=10))


if __name__ == "__main__":
    main(sys.argv[1])
