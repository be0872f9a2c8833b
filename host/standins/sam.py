"""A stand-in of Segment Anything."""

from pathlib import Path

import torch

from .layers import Shapes, layer
from .weights import random, save_pickle


def sam(path: Path) -> None:
    """sam_vit_b_01ec64.pth: a flat state dict with the keys of SAM's ViT-B and its frame of 1024 pixels, thinner."""
    generator = torch.Generator().manual_seed(0)
    save_pickle({name: random(name, shape, generator) for name, shape in _sam_shapes(width=32, channels=32)}, path)


def _sam_shapes(width: int, channels: int) -> Shapes:
    """Names and shapes in SAM's ViT-B: 12 blocks, every third of them global, on 64 x 64 tokens."""

    def attention(name: str, inner: int) -> Shapes:
        for part in ("q_proj", "k_proj", "v_proj"):
            yield from layer(f"{name}.{part}", inner, channels)
        yield from layer(f"{name}.out_proj", channels, inner)

    c, encoder, prompts, decoder = channels, "image_encoder", "prompt_encoder", "mask_decoder"
    yield f"{encoder}.pos_embed", (1, 64, 64, width)
    yield from layer(f"{encoder}.patch_embed.proj", width, 3, 16, 16)
    for i in range(12):
        block, window = f"{encoder}.blocks.{i}", 64 if i % 3 == 2 else 14
        yield from layer(f"{block}.norm1", width)
        yield f"{block}.attn.rel_pos_h", (2 * window - 1, width)
        yield f"{block}.attn.rel_pos_w", (2 * window - 1, width)
        yield from layer(f"{block}.attn.qkv", 3 * width, width)
        yield from layer(f"{block}.attn.proj", width, width)
        yield from layer(f"{block}.norm2", width)
        yield from layer(f"{block}.mlp.lin1", 4 * width, width)
        yield from layer(f"{block}.mlp.lin2", width, 4 * width)
    yield f"{encoder}.neck.0.weight", (c, width, 1, 1)
    yield from layer(f"{encoder}.neck.1", c)
    yield f"{encoder}.neck.2.weight", (c, c, 3, 3)
    yield from layer(f"{encoder}.neck.3", c)
    yield f"{prompts}.pe_layer.positional_encoding_gaussian_matrix", (2, c // 2)
    for name in (*(f"point_embeddings.{i}" for i in range(4)), "not_a_point_embed", "no_mask_embed"):
        yield f"{prompts}.{name}.weight", (1, c)
    for i, shape in {0: (4, 1, 2, 2), 1: (4,), 3: (16, 4, 2, 2), 4: (16,), 6: (c, 16, 1, 1)}.items():
        yield from layer(f"{prompts}.mask_downscaling.{i}", *shape)
    for i in range(2):
        name = f"{decoder}.transformer.layers.{i}"
        yield from attention(f"{name}.self_attn", c)
        yield from attention(f"{name}.cross_attn_token_to_image", c // 2)
        yield from attention(f"{name}.cross_attn_image_to_token", c // 2)
        for j in range(1, 5):
            yield from layer(f"{name}.norm{j}", c)
        yield from layer(f"{name}.mlp.lin1", 4 * c, c)
        yield from layer(f"{name}.mlp.lin2", c, 4 * c)
    yield from attention(f"{decoder}.transformer.final_attn_token_to_image", c // 2)
    yield from layer(f"{decoder}.transformer.norm_final_attn", c)
    yield f"{decoder}.iou_token.weight", (1, c)
    yield f"{decoder}.mask_tokens.weight", (4, c)
    for i, (into, out) in {0: (c, c // 4), 3: (c // 4, c // 8)}.items():
        yield f"{decoder}.output_upscaling.{i}.weight", (into, out, 2, 2)
        yield f"{decoder}.output_upscaling.{i}.bias", (out,)
    yield from layer(f"{decoder}.output_upscaling.1", c // 4)
    heads = {f"output_hypernetworks_mlps.{i}": (c, c, c // 8) for i in range(4)} | {"iou_prediction_head": (c, c, 4)}
    for name, widths in heads.items():
        for j, (into, out) in enumerate(zip((c, *widths), widths, strict=False)):
            yield from layer(f"{decoder}.{name}.layers.{j}", out, into)
