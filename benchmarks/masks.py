"""Tune Mask growing a mask by 32 pixels at 4 megapixels, against core's Grow Mask with tapered corners."""

import _pack

RADIUS = 32


def run() -> dict:
    """Both grow the same blobs on one thread."""
    return _pack.compare(
        __file__,
        title=f"Grow a mask by {RADIUS} px, 2048 x 2048",
        peer="core's Grow Mask",
        note="Ours is a disc; core's, repeated steps to the four neighbours, is a diamond.",
        runs=5,
    )


def main(side: str) -> dict:
    _pack.load()
    import torch
    from comfy_extras.nodes_mask import GrowMask

    from pentimento.nodes.segment.tune_mask import TuneMask

    noise = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    mask = (torch.nn.functional.interpolate(noise, (2048, 2048), mode="bicubic")[0] > 0.9).float()
    torch.set_num_threads(1)  # as many as core's node uses
    work = {
        "ours": lambda: TuneMask.execute(mask, RADIUS, 0, 0, 0, False),
        "peer": lambda: GrowMask.execute(mask, RADIUS, True),
    }[side]
    return _pack.measure(work)
