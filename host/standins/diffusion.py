"""Stand-ins of Stable Diffusion's files: the keys and the shapes by which they are recognised, and thin otherwise.

What must stay is what ComfyUI tells models by: the first width, the text's width, the concatenated and the global
channels, linear or convolved projections and, for SDXL, the depths. Text encoders have one size and keep it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from .weights import drawn, repeated

Shapes = Iterator[tuple[str, tuple[int, ...]]]


@dataclass(frozen=True)
class UNet:
    """A denoiser in the form of Stability's files. Each level halves the size and has one residual block."""

    in_channels: int = 4
    context: int = 768
    width: int = 320
    depths: tuple[int, ...] = (0, 1)  # transformers in each level
    depths_out: tuple[int, ...] = (0, 0)  # transformers in each output block of a level
    middle: int = -2  # transformers in the middle; -2: no middle
    linear: bool = False
    adm: int | None = None  # width of a vector's embedding
    classes: int | None = None  # rows of a table's
    crossed: tuple[int, ...] = ()  # levels whose first attention looks at the text too


UNETS = {
    "sd15": UNet(),
    "inpaint": UNet(in_channels=9),
    "ip2p": UNet(in_channels=8),
    "ic_light_fbc": UNet(in_channels=12),
    "sd2": UNet(context=1024, linear=True),
    "depth": UNet(in_channels=5, context=1024, linear=True),
    "sd2_inpaint": UNet(in_channels=9, context=1024, linear=True),
    "unclip_l": UNet(context=1024, linear=True, adm=1536),
    "unclip_h": UNet(context=1024, linear=True, adm=2048),
    "x4": UNet(
        in_channels=7,
        context=1024,
        width=256,
        depths=(0, 1, 0, 0),
        depths_out=(0, 0, 0, 0),
        linear=True,
        classes=1000,
        crossed=(0, 1, 2),
    ),
    "sdxl": UNet(
        context=2048,
        depths=(0, 0, 2, 2, 10, 10),
        depths_out=(0, 0, 0, 0, 0, 0),
        linear=True,
        adm=2816,
    ),
}


def sd15(path: Path) -> None:
    """v1-5-pruned-emaonly-fp16.safetensors: SD 1.5, its text encoder and a VAE in TAESD's form."""
    save_file(_checkpoint("sd15", clip_l("cond_stage_model.transformer.text_model")), path)


def inpaint(path: Path) -> None:
    """sd-v1-5-inpainting.ckpt: a pickle, SD 1.5 with nine channels in."""
    weights = _checkpoint("inpaint", clip_l("cond_stage_model.transformer.text_model"))
    torch.save({"state_dict": weights, "global_step": 0}, path)


def sdxl(path: Path) -> None:
    """sd_xl_base_1.0.safetensors: SDXL, both text encoders and a VAE in TAESD's form."""
    texts = (*clip_l("conditioner.embedders.0.transformer.text_model"), *open_clip("conditioner.embedders.1.model"))
    save_file(_checkpoint("sdxl", texts), path)


def unet(shape: UNet, seed: int = 0) -> dict[str, Tensor]:
    """Its seeded random weights in float32, under the names of Stability's files without their prefix."""
    generator = torch.Generator().manual_seed(seed)
    return {name: drawn(name, size, generator) for name, size in unet_shapes(shape)}


def unet_shapes(shape: UNet) -> Shapes:
    """Names and shapes in a UNet."""
    width, embedded, levels = shape.width, 4 * shape.width, len(shape.depths)

    def residual(name: str, channels: int) -> Shapes:
        yield from _layer(f"{name}.in_layers.0", channels)
        yield from _layer(f"{name}.in_layers.2", width, channels, 3, 3)
        yield from _layer(f"{name}.emb_layers.1", width, embedded)
        yield from _layer(f"{name}.out_layers.0", width)
        yield from _layer(f"{name}.out_layers.3", width, width, 3, 3)
        if channels != width:
            yield from _layer(f"{name}.skip_connection", width, channels, 1, 1)

    def transformer(name: str, depth: int, crossed: bool = False) -> Shapes:
        projection = (width, width) if shape.linear else (width, width, 1, 1)
        yield from _layer(f"{name}.norm", width)
        yield from _layer(f"{name}.proj_in", *projection)
        for i in range(depth):
            yield from transformer_block(f"{name}.transformer_blocks.{i}", shape.context if crossed else width)
        yield from _layer(f"{name}.proj_out", *projection)

    def transformer_block(name: str, first: int) -> Shapes:
        for attention, context in (("attn1", first), ("attn2", shape.context)):
            yield f"{name}.{attention}.to_q.weight", (width, width)
            yield f"{name}.{attention}.to_k.weight", (width, context)
            yield f"{name}.{attention}.to_v.weight", (width, context)
            yield from _layer(f"{name}.{attention}.to_out.0", width, width)
        yield from _layer(f"{name}.ff.net.0.proj", 8 * width, width)
        yield from _layer(f"{name}.ff.net.2", width, 4 * width)
        for i in (1, 2, 3):
            yield from _layer(f"{name}.norm{i}", width)

    yield from _layer("time_embed.0", embedded, width)
    yield from _layer("time_embed.2", embedded, embedded)
    if shape.classes:
        yield "label_emb.weight", (shape.classes, embedded)
    if shape.adm:
        yield from _layer("label_emb.0.0", embedded, shape.adm)
        yield from _layer("label_emb.0.2", embedded, embedded)
    yield from _layer("input_blocks.0.0", width, shape.in_channels, 3, 3)
    for level, depth in enumerate(shape.depths):
        if level:
            yield from _layer(f"input_blocks.{2 * level}.0.op", width, width, 3, 3)
        yield from residual(f"input_blocks.{2 * level + 1}.0", width)
        if depth:
            yield from transformer(f"input_blocks.{2 * level + 1}.1", depth, level in shape.crossed)
    if shape.middle >= 0:
        yield from residual("middle_block.0", width)
        yield from transformer("middle_block.1", shape.middle)
        yield from residual("middle_block.2", width)
    for i in range(2 * levels):
        level = levels - 1 - i // 2
        yield from residual(f"output_blocks.{i}.0", 2 * width)
        if shape.depths_out[level]:
            yield from transformer(f"output_blocks.{i}.1", shape.depths_out[level], level in shape.crossed)
        if i % 2 and level:
            yield from _layer(f"output_blocks.{i}.{1 + bool(shape.depths_out[level])}.conv", width, width, 3, 3)
    yield from _layer("out.0", width)
    yield from _layer("out.2", 4, width, 3, 3)


def taesd_shapes() -> Shapes:
    """Names and shapes in TAESD, the smallest VAE that ComfyUI takes from a checkpoint."""

    def block(name: str) -> Shapes:
        for i in (0, 2, 4):
            yield from _layer(f"{name}.conv.{i}", 64, 64, 3, 3)

    yield from _layer("taesd_encoder.0", 64, 3, 3, 3)
    for i in range(1, 14):
        if i in (2, 6, 10):
            yield f"taesd_encoder.{i}.weight", (64, 64, 3, 3)
        else:
            yield from block(f"taesd_encoder.{i}")
    yield from _layer("taesd_encoder.14", 4, 64, 3, 3)
    yield from _layer("taesd_decoder.1", 64, 4, 3, 3)
    for i in (3, 4, 5, 8, 9, 10, 13, 14, 15, 18):
        yield from block(f"taesd_decoder.{i}")
    for i in (7, 12, 17):
        yield f"taesd_decoder.{i}.weight", (64, 64, 3, 3)
    yield from _layer("taesd_decoder.19", 3, 64, 3, 3)
    yield "vae_scale", ()
    yield "vae_shift", ()


def clip_l(prefix: str) -> Shapes:
    """Names and shapes in CLIP ViT-L/14's text encoder, as transformers names them."""
    yield f"{prefix}.embeddings.token_embedding.weight", (49408, 768)
    yield f"{prefix}.embeddings.position_embedding.weight", (77, 768)
    for i in range(12):
        layer = f"{prefix}.encoder.layers.{i}"
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield from _layer(f"{layer}.self_attn.{part}", 768, 768)
        yield from _layer(f"{layer}.layer_norm1", 768)
        yield from _layer(f"{layer}.mlp.fc1", 3072, 768)
        yield from _layer(f"{layer}.mlp.fc2", 768, 3072)
        yield from _layer(f"{layer}.layer_norm2", 768)
    yield from _layer(f"{prefix}.final_layer_norm", 768)


def open_clip(prefix: str, width: int = 1280, layers: int = 32) -> Shapes:
    """Names and shapes in an OpenCLIP text encoder: ViT-bigG/14 by default; ViT-H/14 has width 1024 and 24 layers."""
    yield f"{prefix}.positional_embedding", (77, width)
    yield f"{prefix}.text_projection", (width, width)
    yield f"{prefix}.token_embedding.weight", (49408, width)
    for i in range(layers):
        block = f"{prefix}.transformer.resblocks.{i}"
        yield f"{block}.attn.in_proj_weight", (3 * width, width)
        yield f"{block}.attn.in_proj_bias", (3 * width,)
        yield from _layer(f"{block}.attn.out_proj", width, width)
        yield from _layer(f"{block}.ln_1", width)
        yield from _layer(f"{block}.ln_2", width)
        yield from _layer(f"{block}.mlp.c_fc", 4 * width, width)
        yield from _layer(f"{block}.mlp.c_proj", width, 4 * width)
    yield from _layer(f"{prefix}.ln_final", width)


def _checkpoint(kind: str, texts: Shapes) -> dict[str, Tensor]:
    """UNet, VAE and text encoders in float16."""
    generator = torch.Generator().manual_seed(0)
    weights = {f"model.diffusion_model.{name}": tensor.half() for name, tensor in unet(UNETS[kind]).items()}
    for name, size in taesd_shapes():
        weights[f"first_stage_model.{name}"] = drawn(name, size, generator).half()
    return weights | {name: repeated(name, size, generator) for name, size in texts}


def _layer(name: str, *shape: int) -> Shapes:
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]
