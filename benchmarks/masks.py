"""Tune Mask growing a mask by 32 pixels at 4 megapixels, against core's Grow Mask with tapered corners."""

import importlib
import sys

import _pack

RADIUS = 32


def run() -> dict:
    """Both grow the same blobs, each in its own process and on one thread."""
    ours, peer = _pack.sides(__file__, ["ours", "peer"], runs=5)
    return {
        "title": f"Grow a mask by {RADIUS} px, 2048 x 2048",
        "ours": ours,
        "peer": peer,
        "peer_name": "core's Grow Mask",
        "note": "Ours is a disc; core's, repeated steps to the four neighbours, is a diamond.",
    }


def main(side: str) -> None:
    """Prints one side's time and memory."""
    pack = _pack.load()
    import torch
    from comfy_extras.nodes_mask import GrowMask

    tune_mask = importlib.import_module(f"{pack.__name__}.nodes.segment.tune_mask").TuneMask
    noise = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    mask = (torch.nn.functional.interpolate(noise, (2048, 2048), mode="bicubic")[0] > 0.9).float()
    grow = {
        "ours": lambda mask: tune_mask.execute(mask, RADIUS, 0, 0, 0, False),
        "peer": lambda mask: GrowMask.execute(mask, RADIUS, True),
    }[side]
    torch.set_num_threads(1)  # as many as core's node uses
    print(_pack.measure(lambda: grow(mask)))


if __name__ == "__main__":
    main(sys.argv[1])
