"""Stand-ins: files with the form, keys and shapes of the real ones and seeded random weights, as small as they load.

They show that the machinery works. What they compute means nothing. Needs torch alone.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn


def lama(path: Path) -> None:
    """big-lama.pt: a TorchScript archive with the keys of Big-LaMa's generator, 18 blocks, a sixteenth as wide."""
    generator = torch.Generator().manual_seed(0)
    model = Tree()
    for name, shape in _lama_shapes(width=4, blocks=18):
        model.put(f"generator.model.{name}", _random(name, shape, generator))
    example = torch.zeros(1, 3, 8, 8), torch.zeros(1, 1, 8, 8)
    torch.jit.trace(model, example, check_trace=False).save(str(path))


def sam(path: Path) -> None:
    """sam_vit_b_01ec64.pth: a flat state dict with the keys of SAM's ViT-B and its frame of 1024 pixels, thinner."""
    generator = torch.Generator().manual_seed(0)
    torch.save({name: _random(name, shape, generator) for name, shape in _sam_shapes(width=32, channels=32)}, path)


class Tree(nn.Module):
    """Modules inside modules, so that tensors get dotted names. What it computes is nothing."""

    def put(self, name: str, value: Tensor) -> None:
        head, _, rest = name.partition(".")
        if rest:
            if head not in self._modules:
                self.add_module(head, Tree())
            self._modules[head].put(rest, value)
        elif head.startswith(("running", "num")):
            self.register_buffer(head, value)
        else:
            self.register_parameter(head, nn.Parameter(value, requires_grad=False))

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        return image * (1 - mask)


def _lama_shapes(width: int, blocks: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes in LaMa's generator: 3 downsamplings, three quarters of the features global."""
    local, rest = width * 2, width * 6

    def norm(name: str, channels: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        for part in ("weight", "bias", "running_mean", "running_var"):
            yield f"{name}.{part}", (channels,)
        yield f"{name}.num_batches_tracked", ()

    def block(name: str) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield f"{name}.ffc.convl2l.weight", (local, local, 3, 3)
        yield f"{name}.ffc.convl2g.weight", (rest, local, 3, 3)
        yield f"{name}.ffc.convg2l.weight", (local, rest, 3, 3)
        yield f"{name}.ffc.convg2g.conv1.0.weight", (rest // 2, rest, 1, 1)
        yield from norm(f"{name}.ffc.convg2g.conv1.1", rest // 2)
        yield f"{name}.ffc.convg2g.fu.conv_layer.weight", (rest, rest, 1, 1)
        yield from norm(f"{name}.ffc.convg2g.fu.bn", rest)
        yield f"{name}.ffc.convg2g.conv2.weight", (rest, rest // 2, 1, 1)
        yield from norm(f"{name}.bn_l", local)
        yield from norm(f"{name}.bn_g", rest)

    yield "1.ffc.convl2l.weight", (width, 4, 7, 7)
    yield from norm("1.bn_l", width)
    for i in (2, 3):
        yield f"{i}.ffc.convl2l.weight", (width * 2 ** (i - 1), width * 2 ** (i - 2), 3, 3)
        yield from norm(f"{i}.bn_l", width * 2 ** (i - 1))
    yield "4.ffc.convl2l.weight", (local, width * 4, 3, 3)
    yield "4.ffc.convl2g.weight", (rest, width * 4, 3, 3)
    yield from norm("4.bn_l", local)
    yield from norm("4.bn_g", rest)
    for i in range(5, 5 + blocks):
        yield from block(f"{i}.conv1")
        yield from block(f"{i}.conv2")
    for i in range(3):
        index, channels = 6 + blocks + 3 * i, width * 2 ** (3 - i)
        yield f"{index}.weight", (channels, channels // 2, 3, 3)
        yield f"{index}.bias", (channels // 2,)
        yield from norm(f"{index + 1}", channels // 2)
    yield f"{blocks + 16}.weight", (3, width, 7, 7)
    yield f"{blocks + 16}.bias", (3,)


def _sam_shapes(width: int, channels: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes in SAM's ViT-B: 12 blocks, every third of them global, on 64 x 64 tokens."""

    def layer(name: str, *shape: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield f"{name}.weight", shape
        yield f"{name}.bias", shape[:1]

    def attention(name: str, inner: int) -> Iterator[tuple[str, tuple[int, ...]]]:
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


def _random(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Weights that keep the size of what passes through them; normalisations that do next to nothing."""
    if name.endswith("num_batches_tracked"):
        return torch.tensor(1)
    if name.endswith("gaussian_matrix"):
        return torch.randn(shape, generator=generator)
    if ".conv2.bn" in name and name.endswith("weight"):
        return torch.full(shape, 0.1)  # a block adds little, so that 18 of them do not blow up
    if name.endswith("running_var") or (name.endswith("weight") and len(shape) == 1):
        return 1 + 0.1 * torch.rand(shape, generator=generator)
    spread = (2 / torch.Size(shape[1:]).numel()) ** 0.5 if len(shape) > 1 else 0.1
    return spread * torch.randn(shape, generator=generator)
