"""SAM's image encoder, ViT-B, against segment-anything's: the pass that a first click waits for.

segment-anything spends half its time on adding the relative-position bias to whole attention maps and on their softmax.
Here the bias is spread out a piece at a time inside PyTorch's fused attention. On AMD's processors oneDNN computes the
linear layers, which takes down to half of MKL's time. The embeddings are equal (tests/segment/test_sam.py).
"""

import _pack
import _sam
import torch


def run() -> dict:
    return _pack.compare(
        __file__,
        title="SAM ViT-B, one picture through the image encoder",
        peer="segment-anything 1.0",
        note="fp32, 1024 x 683 pixels",
    )


def main(side: str) -> dict:
    if side == "ours":
        embed = _sam.loaded().embed
    else:
        from segment_anything import SamPredictor

        embed = SamPredictor(_sam.vit_b()).set_image
    with torch.inference_mode():
        embed(_sam.picture(1))  # threads and caches
        return _pack.measure(lambda: embed(_sam.picture()))
