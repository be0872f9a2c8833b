"""Stand-ins of STTN and OSTrack."""

from pathlib import Path

import torch

from .layers import Shapes, layer
from .weights import drawn, random, save_pickle


def sttn(path: Path) -> None:
    """sttn.pth: a pickle with the keys of STTN's generator, 8 blocks, an eighth as wide."""
    generator = torch.Generator().manual_seed(0)
    weights = {name: drawn(name, shape, generator) for name, shape in _sttn_shapes(8, 8, 16, 32)}
    weights["decoder.6.weight"] *= 0.02  # the blocks add up, and the colours would all be pure ones
    save_pickle({"netG": weights}, path)


def ostrack(path: Path) -> None:
    """OSTrack_ep0300.pth.tar: a pickle with the keys of OSTrack-384, 12 blocks, a twelfth as wide."""
    generator = torch.Generator().manual_seed(0)
    shapes = _ostrack_shapes(width=64, channels=32, template=12, search=24)
    weights = {name: random(name, shape, generator) for name, shape in shapes}
    weights["box_head.conv5_size.bias"] -= 1.4  # so that the box keeps its size, a fifth of the crop's
    save_pickle({"epoch": 300, "net": weights}, path)


def _sttn_shapes(a: int, b: int, c: int, d: int) -> Shapes:
    """Names and shapes in STTN's generator, by the channels of its encoder."""
    for i in range(8):
        block = f"transformer.{i}"
        for part in ("query", "value", "key"):
            yield from layer(f"{block}.attention.{part}_embedding", d, d, 1, 1)
        yield from layer(f"{block}.attention.output_linear.0", d, d, 3, 3)
        yield from layer(f"{block}.feed_forward.conv.0", d, d, 3, 3)
        yield from layer(f"{block}.feed_forward.conv.2", d, d, 3, 3)
    for name, into, out in (("0", 3, a), ("2", a, b), ("4", b, c), ("6", c, d)):
        yield from layer(f"encoder.{name}", out, into, 3, 3)
    for name, into, out in (("0.conv", d, c), ("2", c, b), ("4.conv", b, a), ("6", a, 3)):
        yield from layer(f"decoder.{name}", out, into, 3, 3)


def _ostrack_shapes(width: int, channels: int, template: int, search: int) -> Shapes:
    """Names and shapes in OSTrack with a ViT-B and a centre head."""
    yield "backbone.cls_token", (1, 1, width)
    yield "backbone.pos_embed", (1, 197, width)
    yield "backbone.pos_embed_z", (1, template**2, width)
    yield "backbone.pos_embed_x", (1, search**2, width)
    yield from layer("backbone.patch_embed.proj", width, 3, 16, 16)
    for i in range(12):
        block = f"backbone.blocks.{i}"
        yield from layer(f"{block}.norm1", width)
        yield from layer(f"{block}.attn.qkv", 3 * width, width)
        yield from layer(f"{block}.attn.proj", width, width)
        yield from layer(f"{block}.norm2", width)
        yield from layer(f"{block}.mlp.fc1", 4 * width, width)
        yield from layer(f"{block}.mlp.fc2", width, 4 * width)
    yield from layer("backbone.norm", width)
    for branch, out in (("ctr", 1), ("offset", 2), ("size", 2)):
        widths = (width, *(channels // 2**i for i in range(4)))
        for i in range(1, 5):
            conv = f"box_head.conv{i}_{branch}"
            yield from layer(f"{conv}.0", widths[i], widths[i - 1], 3, 3)
            yield from layer(f"{conv}.1", widths[i])
            yield f"{conv}.1.running_mean", (widths[i],)
            yield f"{conv}.1.running_var", (widths[i],)
            yield f"{conv}.1.num_batches_tracked", ()
        yield from layer(f"box_head.conv5_{branch}", out, widths[4], 1, 1)
