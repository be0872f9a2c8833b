"""SAM Segment's second click on a picture against its first: the embedding is kept, so only the decoder runs."""

import sys

import _pack
import _sam
import torch


def run() -> dict:
    second, first = _pack.sides(__file__, ["second", "first"])
    return {
        "title": "SAM ViT-B, another click on the same picture",
        "ours": second,
        "peer": first,
        "peer_name": "the first click",
        "note": "the whole node, from picture and points to the mask",
    }


def main(name: str) -> None:
    model = _sam.ours()
    x, y = _sam.POINT

    def click(seed: int, x: float) -> object:
        image = torch.from_numpy(_sam.picture(seed))[None].float() / 255
        return lambda: model.segment(image, [(x, y)], [], [[]], None, "auto", 0)

    with torch.inference_mode():
        click(1, x)()  # threads and caches
        if name == "second":
            click(0, x)()
        print(_pack.measure(click(0, x + 50)))


if __name__ == "__main__":
    main(sys.argv[1])
