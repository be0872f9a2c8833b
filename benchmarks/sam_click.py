"""SAM Segment's second click on a picture against its first: the embedding is kept, so only the decoder runs."""

import _pack
import _sam
import torch


def run() -> dict:
    return _pack.compare(
        __file__,
        title="SAM ViT-B, another click on the same picture",
        peer="the first click",
        note="the whole node, from picture and points to the mask",
    )


def main(side: str) -> dict:
    model = _sam.loaded()
    x, y = _sam.POINT

    def click(seed: int, x: float) -> object:
        image = torch.from_numpy(_sam.picture(seed))[None].float() / 255
        return lambda: model.segment(image, [(x, y)], [], [[]], None, "auto", 0)

    with torch.inference_mode():
        click(1, x)()  # threads and caches
        if side == "ours":
            click(0, x)()
        return _pack.measure(click(0, x + 50))
