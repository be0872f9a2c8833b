"""Outpaint Canvas on a 2048 px picture without a prefill, against core's pad node, both with a feather of 50 px."""

import _pack

SIDE, NEW, FEATHER = 2048, 256, 50


def run() -> dict:
    """Both put the same picture on the same canvas."""
    return _pack.compare(
        __file__,
        title=f"Pad a {SIDE} x {SIDE} picture by {NEW} px on all sides for outpainting",
        peer="core's Pad Image for Outpainting",
        note="The same picture and mask to the bit; ours makes the outpainting recipe's change map, too.",
        runs=1,
    )


def main(side: str) -> dict:
    """The best of ten times: the first ones wait for memory that the system has not handed out of late."""
    _pack.load()
    import torch

    import nodes
    from pentimento.nodes.edit.outpaint_canvas import OutpaintCanvas

    image = torch.rand(1, SIDE, SIDE, 3, generator=torch.Generator().manual_seed(0))
    pad = {
        "ours": lambda: OutpaintCanvas.execute(image, NEW, NEW, NEW, NEW, FEATHER, 250, 0.804, "grey"),
        "peer": lambda: nodes.ImagePadForOutpaint().expand_image(image, NEW, NEW, NEW, NEW, FEATHER),
    }[side]
    pad()
    return _pack.measure(pad, repeat=10)
