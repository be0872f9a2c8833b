"""Stand-ins of ELLA's connector and of the T5 that reads for it."""

from pathlib import Path

from .layers import Shapes, layer
from .weights import save_drawn

WIDTH = 64  # of the T5; the real one has 2048


def ella(path: Path) -> None:
    """ella-sd1.5-tsc-t5xl.safetensors with one block of six, for a thin T5."""
    save_drawn(_ella_shapes(768, 64, WIDTH), path)


def flan_t5(path: Path) -> None:
    """flan-t5-xl's encoder, thin, with two of its 24 layers and its whole vocabulary."""
    save_drawn(_t5_shapes(WIDTH, 2), path)


def _ella_shapes(width: int, latents: int, text: int) -> Shapes:
    yield from layer("time_embedding.linear_1", width, 320)
    yield from layer("time_embedding.linear_2", width, width)
    yield "connector.latents", (latents, width)
    yield from layer("connector.time_aware_linear", width, width)
    yield from layer("connector.proj_in", width, text)
    block = "connector.perceiver_blocks.0"
    yield f"{block}.attn.in_proj_weight", (3 * width, width)
    yield f"{block}.attn.in_proj_bias", (3 * width,)
    yield from layer(f"{block}.attn.out_proj", width, width)
    yield from layer(f"{block}.mlp.c_fc", 4 * width, width)
    yield from layer(f"{block}.mlp.c_proj", width, 4 * width)
    for norm in ("ln_1", "ln_2", "ln_ff"):
        yield from layer(f"{block}.{norm}.linear", 2 * width, width)


def _t5_shapes(width: int, layers: int) -> Shapes:
    yield "shared.weight", (32128, width)
    for i in range(layers):
        block = f"encoder.block.{i}"
        for part in ("q", "k", "v", "o"):
            yield f"{block}.layer.0.SelfAttention.{part}.weight", (64, width) if part != "o" else (width, 64)
        if i == 0:
            yield f"{block}.layer.0.SelfAttention.relative_attention_bias.weight", (32, 1)
        yield f"{block}.layer.0.layer_norm.weight", (width,)
        yield f"{block}.layer.1.DenseReluDense.wi_0.weight", (2 * width, width)
        yield f"{block}.layer.1.DenseReluDense.wi_1.weight", (2 * width, width)
        yield f"{block}.layer.1.DenseReluDense.wo.weight", (width, 2 * width)
        yield f"{block}.layer.1.layer_norm.weight", (width,)
    yield "encoder.final_layer_norm.weight", (width,)
