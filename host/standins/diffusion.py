"""Stand-ins of Stable Diffusion's files: the keys and the shapes by which they are recognised, and thin otherwise.

What must stay is what ComfyUI tells models by: the first width, the text's width, the concatenated and the global
channels, linear or convolved projections and, for SDXL, the depths. Text encoders have one size and keep it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .layers import Shapes, layer
from .weights import drawn, overlapped, repeated, save, save_drawn, save_pickle


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


SD15_TEXT = "cond_stage_model.transformer.text_model"
SD2_TEXT = "cond_stage_model.model"


def sd15(path: Path) -> None:
    """v1-5-pruned-emaonly-fp16.safetensors: SD 1.5, its text encoder and a VAE in TAESD's form."""
    save(_checkpoint("sd15", clip_l(SD15_TEXT)), path)


def inpaint(path: Path) -> None:
    """sd-v1-5-inpainting.ckpt: a pickle, SD 1.5 with nine channels in."""
    _pickle(_checkpoint("inpaint", clip_l(SD15_TEXT), overlapped), path)


def ip2p(path: Path) -> None:
    """instruct-pix2pix-00-22000.ckpt: a pickle, SD 1.5 with eight channels in."""
    _pickle(_checkpoint("ip2p", clip_l(SD15_TEXT), overlapped), path)


def unclip_l(path: Path) -> None:
    """sd21-unclip-l.ckpt: a pickle, SD 2.1 with CLIP ViT-L/14's image encoder."""
    encoders = (*open_clip(SD2_TEXT, 1024, 24), *open_clip_vision("embedder.model.visual"))
    _pickle(_checkpoint("unclip_l", encoders, overlapped), path)


def unclip_statistics(path: Path) -> None:
    """ViT-L-14_stats.th: a pickle of mean and deviation, each (1, 768)."""
    generator = torch.Generator().manual_seed(0)
    mean = 0.2 * torch.randn(1, 768, generator=generator)
    save_pickle((mean, 0.3 + 0.4 * torch.rand(1, 768, generator=generator)), path)


def x4(path: Path) -> None:
    """x4-upscaler-ema.safetensors: the upscaler, its text encoder and a thin decoder of factor 4."""
    generator = torch.Generator().manual_seed(0)
    weights = {f"model.diffusion_model.{name}": tensor.half() for name, tensor in unet(UNETS["x4"]).items()}
    for name, size in kl_decoder((1, 2, 4)):
        weights[f"first_stage_model.{name}"] = drawn(name, size, generator).half()
    save(weights | {name: repeated(name, size, generator) for name, size in open_clip(SD2_TEXT, 1024, 24)}, path)


def depth_unet(path: Path) -> None:
    """SD2 depth's UNet in diffusers' form."""
    shape = UNETS["depth"]
    save({in_diffusers(name): tensor.half() for name, tensor in unet(shape).items()}, path)


def sd2_text_encoder(path: Path) -> None:
    """SD2's text encoder in transformers' form, which leaves the last layer out."""
    generator = torch.Generator().manual_seed(0)
    shapes = text_encoder("text_model", 1024, 23)
    save({name: repeated(name, size, generator) for name, size in shapes}, path)


def sd2_vae(path: Path) -> None:
    """A VAE in TAESD's form."""
    save_drawn(taesd_shapes(), path)


def sd15_vae(path: Path) -> None:
    """vae-ft-mse-840000-ema-pruned.safetensors: a thin decoder of factor 8."""
    save_drawn(kl_decoder((1, 2, 4, 4)), path)


def ic_light(path: Path) -> None:
    """iclight_sd15_fc.safetensors: offsets to the stand-in of SD 1.5 in diffusers' names, with eight channels in."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((in_diffusers(name), size) for name, size in unet_shapes(UNETS["ip2p"]))
    save({name: (0.02 * torch.randn(size, generator=generator)).half() for name, size in shapes}, path)


def controlnet(path: Path) -> None:
    """control_v11p_sd15_canny_fp16.safetensors: a ControlNet that fits the stand-in of SD 1.5."""
    save_drawn(controlnet_shapes(UNETS["sd15"]), path)


def sdxl(path: Path) -> None:
    """sd_xl_base_1.0.safetensors: SDXL, both text encoders and a VAE in TAESD's form."""
    texts = (*clip_l("conditioner.embedders.0.transformer.text_model"), *open_clip("conditioner.embedders.1.model"))
    save(_checkpoint("sdxl", texts), path)


def unet(shape: UNet, seed: int = 0) -> dict[str, Tensor]:
    """Its seeded random weights in float32, under the names of Stability's files without their prefix."""
    generator = torch.Generator().manual_seed(seed)
    return {name: drawn(name, size, generator) for name, size in unet_shapes(shape)}


def unet_shapes(shape: UNet) -> Shapes:
    """Names and shapes in a UNet."""
    width, embedded, levels = shape.width, 4 * shape.width, len(shape.depths)

    def residual(name: str, channels: int) -> Shapes:
        yield from layer(f"{name}.in_layers.0", channels)
        yield from layer(f"{name}.in_layers.2", width, channels, 3, 3)
        yield from layer(f"{name}.emb_layers.1", width, embedded)
        yield from layer(f"{name}.out_layers.0", width)
        yield from layer(f"{name}.out_layers.3", width, width, 3, 3)
        if channels != width:
            yield from layer(f"{name}.skip_connection", width, channels, 1, 1)

    def transformer(name: str, depth: int, crossed: bool = False) -> Shapes:
        projection = (width, width) if shape.linear else (width, width, 1, 1)
        yield from layer(f"{name}.norm", width)
        yield from layer(f"{name}.proj_in", *projection)
        for i in range(depth):
            yield from transformer_block(f"{name}.transformer_blocks.{i}", shape.context if crossed else width)
        yield from layer(f"{name}.proj_out", *projection)

    def transformer_block(name: str, first: int) -> Shapes:
        for attention, context in (("attn1", first), ("attn2", shape.context)):
            yield f"{name}.{attention}.to_q.weight", (width, width)
            yield f"{name}.{attention}.to_k.weight", (width, context)
            yield f"{name}.{attention}.to_v.weight", (width, context)
            yield from layer(f"{name}.{attention}.to_out.0", width, width)
        yield from layer(f"{name}.ff.net.0.proj", 8 * width, width)
        yield from layer(f"{name}.ff.net.2", width, 4 * width)
        for i in (1, 2, 3):
            yield from layer(f"{name}.norm{i}", width)

    yield from layer("time_embed.0", embedded, width)
    yield from layer("time_embed.2", embedded, embedded)
    if shape.classes:
        yield "label_emb.weight", (shape.classes, embedded)
    if shape.adm:
        yield from layer("label_emb.0.0", embedded, shape.adm)
        yield from layer("label_emb.0.2", embedded, embedded)
    yield from layer("input_blocks.0.0", width, shape.in_channels, 3, 3)
    for level, depth in enumerate(shape.depths):
        if level:
            yield from layer(f"input_blocks.{2 * level}.0.op", width, width, 3, 3)
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
            yield from layer(f"output_blocks.{i}.{1 + bool(shape.depths_out[level])}.conv", width, width, 3, 3)
    yield from layer("out.0", width)
    yield from layer("out.2", 4, width, 3, 3)


def controlnet_shapes(shape: UNet) -> Shapes:
    """Names and shapes in a ControlNet: the UNet's way down, one block in its middle, and what reads the hint."""
    down = [(name, size) for name, size in unet_shapes(shape) if name.startswith(("time_embed", "input_blocks"))]
    middle = [
        (name.replace("input_blocks.1.0", "middle_block.0"), size)
        for name, size in down
        if name.startswith("input_blocks.1.0")
    ]
    widths = (3, 16, 16, 32, 32, 96, 96, 256, shape.width)
    for name, size in (*down, *middle):
        yield f"control_model.{name}", size
    for i, (into, out) in enumerate(zip(widths, widths[1:], strict=False)):
        yield from layer(f"control_model.input_hint_block.{2 * i}", out, into, 3, 3)
    for i in range(2 * len(shape.depths)):
        yield from layer(f"control_model.zero_convs.{i}.0", shape.width, shape.width, 1, 1)
    yield from layer("control_model.middle_block_out.0", shape.width, shape.width, 1, 1)


def taesd_shapes() -> Shapes:
    """Names and shapes in TAESD, the smallest VAE that ComfyUI takes from a checkpoint."""

    def block(name: str) -> Shapes:
        for i in (0, 2, 4):
            yield from layer(f"{name}.conv.{i}", 64, 64, 3, 3)

    yield from layer("taesd_encoder.0", 64, 3, 3, 3)
    for i in range(1, 14):
        if i in (2, 6, 10):
            yield f"taesd_encoder.{i}.weight", (64, 64, 3, 3)
        else:
            yield from block(f"taesd_encoder.{i}")
    yield from layer("taesd_encoder.14", 4, 64, 3, 3)
    yield from layer("taesd_decoder.1", 64, 4, 3, 3)
    for i in (3, 4, 5, 8, 9, 10, 13, 14, 15, 18):
        yield from block(f"taesd_decoder.{i}")
    for i in (7, 12, 17):
        yield f"taesd_decoder.{i}.weight", (64, 64, 3, 3)
    yield from layer("taesd_decoder.19", 3, 64, 3, 3)
    yield "vae_scale", ()
    yield "vae_shift", ()


def kl_decoder(levels: tuple[int, ...], width: int = 32) -> Shapes:
    """Names and shapes in a KL decoder, as wide as given times each level's factor, the full size first."""

    def residual(name: str, into: int, out: int) -> Shapes:
        yield from layer(f"{name}.norm1", into)
        yield from layer(f"{name}.conv1", out, into, 3, 3)
        yield from layer(f"{name}.norm2", out)
        yield from layer(f"{name}.conv2", out, out, 3, 3)
        if into != out:
            yield from layer(f"{name}.nin_shortcut", out, into, 1, 1)

    deepest = channels = levels[-1] * width
    yield from layer("post_quant_conv", 4, 4, 1, 1)
    yield from layer("decoder.conv_in", deepest, 4, 3, 3)
    yield from residual("decoder.mid.block_1", deepest, deepest)
    yield from layer("decoder.mid.attn_1.norm", deepest)
    for part in ("q", "k", "v", "proj_out"):
        yield from layer(f"decoder.mid.attn_1.{part}", deepest, deepest, 1, 1)
    yield from residual("decoder.mid.block_2", deepest, deepest)
    for level, out in [(level, factor * width) for level, factor in enumerate(levels)][::-1]:
        for i in range(3):
            yield from residual(f"decoder.up.{level}.block.{i}", channels, out)
            channels = out
        if level:
            yield from layer(f"decoder.up.{level}.upsample.conv", out, out, 3, 3)
    yield from layer("decoder.norm_out", width)
    yield from layer("decoder.conv_out", 3, width, 3, 3)


def clip_l(prefix: str) -> Shapes:
    """Names and shapes in CLIP ViT-L/14's text encoder."""
    yield from text_encoder(prefix, 768, 12)


def text_encoder(prefix: str, width: int, layers: int) -> Shapes:
    """Names and shapes in a CLIP text encoder, as transformers names them."""
    yield f"{prefix}.embeddings.token_embedding.weight", (49408, width)
    yield f"{prefix}.embeddings.position_embedding.weight", (77, width)
    for i in range(layers):
        block = f"{prefix}.encoder.layers.{i}"
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield from layer(f"{block}.self_attn.{part}", width, width)
        yield from layer(f"{block}.layer_norm1", width)
        yield from layer(f"{block}.mlp.fc1", 4 * width, width)
        yield from layer(f"{block}.mlp.fc2", width, 4 * width)
        yield from layer(f"{block}.layer_norm2", width)
    yield from layer(f"{prefix}.final_layer_norm", width)


def open_clip(prefix: str, width: int = 1280, layers: int = 32) -> Shapes:
    """Names and shapes in an OpenCLIP text encoder: ViT-bigG/14 by default; ViT-H/14 has width 1024 and 24 layers."""
    yield f"{prefix}.positional_embedding", (77, width)
    yield f"{prefix}.text_projection", (width, width)
    yield f"{prefix}.token_embedding.weight", (49408, width)
    yield from _residual_attention(prefix, width, layers)
    yield from layer(f"{prefix}.ln_final", width)


def open_clip_vision(prefix: str, width: int = 1024, layers: int = 24) -> Shapes:
    """Names and shapes in an image encoder as OpenAI and OpenCLIP name them: ViT-L/14 by default."""
    yield f"{prefix}.class_embedding", (width,)
    yield f"{prefix}.positional_embedding", (257, width)
    yield f"{prefix}.proj", (width, 768)
    yield f"{prefix}.conv1.weight", (width, 3, 14, 14)
    yield from layer(f"{prefix}.ln_pre", width)
    yield from _residual_attention(prefix, width, layers)
    yield from layer(f"{prefix}.ln_post", width)


def _residual_attention(prefix: str, width: int, layers: int) -> Shapes:
    for i in range(layers):
        block = f"{prefix}.transformer.resblocks.{i}"
        yield f"{block}.attn.in_proj_weight", (3 * width, width)
        yield f"{block}.attn.in_proj_bias", (3 * width,)
        yield from layer(f"{block}.attn.out_proj", width, width)
        yield from layer(f"{block}.ln_1", width)
        yield from layer(f"{block}.ln_2", width)
        yield from layer(f"{block}.mlp.c_fc", 4 * width, width)
        yield from layer(f"{block}.mlp.c_proj", width, 4 * width)


RENAMED = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}


def in_diffusers(name: str) -> str:
    """What diffusers calls a weight of a UNet without a middle."""
    name, part = name.rsplit(".", 1)
    if name in RENAMED:
        return f"{RENAMED[name]}.{part}"
    side, number, module, *rest = name.split(".")
    rest = ".".join(rest)
    level, number = divmod(int(number) - (side == "input_blocks"), 2)
    block = f"{'down' if side == 'input_blocks' else 'up'}_blocks.{level}"
    if rest == "op":
        return f"{block}.downsamplers.0.conv.{part}"
    if rest == "conv":
        return f"{block}.upsamplers.0.conv.{part}"
    if module == "0":
        return f"{block}.resnets.{number}.{RENAMED[rest]}.{part}"
    return f"{block}.attentions.{number}.{rest}.{part}"


def _checkpoint(kind: str, encoders: Shapes, draw: Callable[..., Tensor] = repeated) -> dict[str, Tensor]:
    """UNet, VAE and encoders in float16."""
    generator = torch.Generator().manual_seed(0)
    weights = {f"model.diffusion_model.{name}": tensor.half() for name, tensor in unet(UNETS[kind]).items()}
    for name, size in taesd_shapes():
        weights[f"first_stage_model.{name}"] = drawn(name, size, generator).half()
    return weights | {name: draw(name, size, generator) for name, size in encoders}


def _pickle(weights: dict[str, Tensor], path: Path) -> None:
    save_pickle({"state_dict": weights, "global_step": 0}, path)
