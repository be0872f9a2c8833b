"""A stand-in of SAM 2."""

from pathlib import Path

import torch

from .layers import Shapes, layer
from .weights import overlapped, save_pickle

C, MEMORY, WIDTH, BLOCKS = 256, 64, 96, (1, 2, 7, 2)


def sam2(path: Path) -> None:
    """sam2.1_hiera_tiny.pt: {"model": state dict} with the keys and shapes of SAM 2.1's tiny, as loaders know no other.

    It takes every object to be in the frame, and its masks cover some 10 to 40 % of it.
    """
    generator = torch.Generator().manual_seed(0)
    weights = {name: overlapped(name, shape, generator, share=1 / 8) for name, shape in _shapes()}
    weights["sam_mask_decoder.pred_obj_score_head.layers.2.bias"] += 5
    for i in range(4):
        weights[f"sam_mask_decoder.output_hypernetworks_mlps.{i}.layers.2.bias"] -= 0.17
    save_pickle({"model": weights}, path)


def _shapes() -> Shapes:
    yield "maskmem_tpos_enc", (7, 1, 1, MEMORY)
    yield "no_mem_embed", (1, 1, C)
    yield "no_mem_pos_enc", (1, 1, C)
    yield "no_obj_ptr", (1, C)
    yield "no_obj_embed_spatial", (1, MEMORY)
    yield from layer("mask_downsample", 1, 1, 4, 4)
    yield from _mlp("obj_ptr_proj", C, C, C, C)
    yield from layer("obj_ptr_tpos_proj", MEMORY, C)
    yield from _image_encoder()
    yield from _memory()
    yield from _decoder()


def _mlp(name: str, *widths: int) -> Shapes:
    for i, (into, out) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
        yield from layer(f"{name}.layers.{i}", out, into)


def _attention(name: str, inner: int, keys: int = C) -> Shapes:
    yield from layer(f"{name}.q_proj", inner, C)
    yield from layer(f"{name}.k_proj", inner, keys)
    yield from layer(f"{name}.v_proj", inner, keys)
    yield from layer(f"{name}.out_proj", C, inner)


def _image_encoder() -> Shapes:
    trunk = "image_encoder.trunk"
    yield f"{trunk}.pos_embed", (1, WIDTH, 7, 7)
    yield f"{trunk}.pos_embed_window", (1, WIDTH, 8, 8)
    yield from layer(f"{trunk}.patch_embed.proj", WIDTH, 3, 7, 7)
    widths = [WIDTH * 2**stage for stage, depth in enumerate(BLOCKS) for _ in range(depth)]
    for i, (into, width) in enumerate(zip([WIDTH, *widths], widths, strict=False)):
        block = f"{trunk}.blocks.{i}"
        yield from layer(f"{block}.norm1", into)
        yield from layer(f"{block}.attn.qkv", 3 * width, into)
        yield from layer(f"{block}.attn.proj", width, width)
        yield from layer(f"{block}.norm2", width)
        yield from _mlp(f"{block}.mlp", width, 4 * width, width)
        if into != width:
            yield from layer(f"{block}.proj", width, into)
    for i in range(4):
        yield from layer(f"image_encoder.neck.convs.{i}.conv", C, WIDTH * 2 ** (3 - i), 1, 1)


def _memory() -> Shapes:
    for i in range(4):
        name = f"memory_attention.layers.{i}"
        yield from _attention(f"{name}.self_attn", C)
        yield from _attention(f"{name}.cross_attn_image", C, MEMORY)
        yield from layer(f"{name}.linear1", 2048, C)
        yield from layer(f"{name}.linear2", C, 2048)
        for j in (1, 2, 3):
            yield from layer(f"{name}.norm{j}", C)
    yield from layer("memory_attention.norm", C)
    encoder = "memory_encoder"
    for i in range(4):
        yield from layer(f"{encoder}.mask_downsampler.encoder.{3 * i}", 4 ** (i + 1), 4**i, 3, 3)
        yield from layer(f"{encoder}.mask_downsampler.encoder.{3 * i + 1}", 4 ** (i + 1))
    yield from layer(f"{encoder}.mask_downsampler.encoder.12", C, 256, 1, 1)
    yield from layer(f"{encoder}.pix_feat_proj", C, C, 1, 1)
    for i in range(2):
        name = f"{encoder}.fuser.layers.{i}"
        yield f"{name}.gamma", (C,)
        yield from layer(f"{name}.dwconv", C, 1, 7, 7)
        yield from layer(f"{name}.norm", C)
        yield from layer(f"{name}.pwconv1", 4 * C, C)
        yield from layer(f"{name}.pwconv2", C, 4 * C)
    yield from layer(f"{encoder}.out_proj", MEMORY, C, 1, 1)


def _decoder() -> Shapes:
    prompts, decoder = "sam_prompt_encoder", "sam_mask_decoder"
    yield f"{prompts}.pe_layer.positional_encoding_gaussian_matrix", (2, C // 2)
    for name in (*(f"point_embeddings.{i}" for i in range(4)), "not_a_point_embed", "no_mask_embed"):
        yield f"{prompts}.{name}.weight", (1, C)
    for i, shape in {0: (4, 1, 2, 2), 1: (4,), 3: (16, 4, 2, 2), 4: (16,), 6: (C, 16, 1, 1)}.items():
        yield from layer(f"{prompts}.mask_downscaling.{i}", *shape)
    for i in range(2):
        name = f"{decoder}.transformer.layers.{i}"
        yield from _attention(f"{name}.self_attn", C)
        yield from _attention(f"{name}.cross_attn_token_to_image", C // 2)
        yield from _attention(f"{name}.cross_attn_image_to_token", C // 2)
        yield from _mlp(f"{name}.mlp", C, 2048, C)
        for j in range(1, 5):
            yield from layer(f"{name}.norm{j}", C)
    yield from _attention(f"{decoder}.transformer.final_attn_token_to_image", C // 2)
    yield from layer(f"{decoder}.transformer.norm_final_attn", C)
    for name, rows in {"iou_token": 1, "mask_tokens": 4, "obj_score_token": 1}.items():
        yield f"{decoder}.{name}.weight", (rows, C)
    for i, (into, out) in {0: (C, C // 4), 3: (C // 4, C // 8)}.items():
        yield f"{decoder}.output_upscaling.{i}.weight", (into, out, 2, 2)
        yield f"{decoder}.output_upscaling.{i}.bias", (out,)
    yield from layer(f"{decoder}.output_upscaling.1", C // 4)
    yield from layer(f"{decoder}.conv_s0", C // 8, C, 1, 1)
    yield from layer(f"{decoder}.conv_s1", C // 4, C, 1, 1)
    for i in range(4):
        yield from _mlp(f"{decoder}.output_hypernetworks_mlps.{i}", C, C, C, C // 8)
    yield from _mlp(f"{decoder}.iou_prediction_head", C, 256, 256, 4)
    yield from _mlp(f"{decoder}.pred_obj_score_head", C, C, C, 1)
