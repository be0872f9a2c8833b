"""SAM 2's image encoder: Hiera and a feature pyramid, Ravi et al. 2024, "SAM 2: Segment Anything in Images and Videos",
section 4 and appendix D.1 (github.com/facebookresearch/sam2, Apache-2.0).

Hiera is Ryali et al. 2023, "Hiera: A Hierarchical Vision Transformer without the Bells-and-Whistles": four stages, each
at half the resolution and twice the width of the one before. Its positions are those of Bolya et al. 2023, "Window
Attention is Bug-Free": a coarse map for the picture plus a map that recurs in each window. Modules have the names of
the published state dicts, but for `mlp.layers.0` and `.1`, which are `mlp.lin1` and `.lin2` as in SAM.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import comfy.ops
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .processor import linear
from .sam_vit import MLP
from .shapes import count, shape_of

PATCH = 4  # pixels from one token of the first stage to the next
STRIDE = 4 * PATCH  # pixels from one cell of the embedding to the next


@dataclass(frozen=True)
class Config:
    """The encoder's shape. The four published sizes are PUBLISHED."""

    width: int  # channels of the first stage; each stage has twice as many as the one before
    heads: int  # of the first stage, likewise
    blocks: tuple[int, int, int, int]  # of each stage
    global_blocks: tuple[int, ...]  # which attend to the whole picture
    windows: tuple[int, int, int, int]  # the side in tokens, of the other blocks of each stage
    out_channels: int = 256

    @classmethod
    def of(cls, weights: dict[str, Tensor]) -> "Config":
        """The published shape of the encoder with these weights; a key is `trunk.patch_embed.proj.weight`.

        Heads, windows and global blocks show in no shape, so the width and the number of blocks tell the size.

        Raises:
            ValueError: A tensor that tells a size is missing, or no published size is like it.
        """
        width = shape_of(weights, "trunk.patch_embed.proj.weight", 4)[0]
        blocks = count(weights, r"trunk\.blocks\.(\d+)\.")
        for config in PUBLISHED.values():
            if (config.width, sum(config.blocks)) == (width, blocks):
                return config
        sizes = ", ".join(
            f"{sum(config.blocks)} blocks of width {config.width} ({name})" for name, config in PUBLISHED.items()
        )
        raise ValueError(f"it has {blocks} blocks of width {width}, and SAM 2 has {sizes}")


PUBLISHED = {
    "tiny": Config(96, 1, (1, 2, 7, 2), (5, 7, 9), (8, 4, 14, 7)),
    "small": Config(96, 1, (1, 2, 11, 2), (7, 10, 13), (8, 4, 14, 7)),
    "base+": Config(112, 2, (2, 3, 16, 3), (12, 16, 20), (8, 4, 14, 7)),
    "large": Config(144, 2, (2, 6, 36, 4), (23, 33, 43), (8, 4, 16, 8)),
}


def pool(x: Tensor) -> Tensor:
    """The maximum of each 2 x 2 tokens: (B, H, W, C) -> (B, H / 2, W / 2, C)."""
    # PyTorch on Apple's GPUs may pool a strided view wrongly (pytorch#175320).
    return F.max_pool2d(x.movedim(-1, 1).contiguous(), 2).movedim(1, -1)


class Attention(nn.Module):
    """Attention of all tokens to each other; the first one of a stage halves the resolution of its queries."""

    def __init__(self, into: int, width: int, heads: int, ops: Any, **kwargs: Any) -> None:
        super().__init__()
        self.heads, self.halves = heads, into != width
        self.qkv = ops.Linear(into, 3 * width, **kwargs)
        self.proj = ops.Linear(width, width, **kwargs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H', W', C')"""
        q, k, v = linear(self.qkv, x).chunk(3, dim=-1)
        q = pool(q) if self.halves else q
        size = q.shape[1:3]
        q, k, v = (part.flatten(1, 2).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return linear(self.proj, y.unflatten(1, size))


class Block(nn.Module):
    """Attention in windows, or in the whole picture where the window is 0."""

    def __init__(self, into: int, width: int, heads: int, window: int, ops: Any, **kwargs: Any) -> None:
        super().__init__()
        self.window, self.halves = window, into != width
        self.norm1 = ops.LayerNorm(into, eps=1e-6, **kwargs)
        self.attn = Attention(into, width, heads, ops, **kwargs)
        self.norm2 = ops.LayerNorm(width, eps=1e-6, **kwargs)
        self.mlp = MLP(width, 4 * width, ops, **kwargs)
        if self.halves:
            self.proj = ops.Linear(into, width, **kwargs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C), the first block of a stage (B, H / 2, W / 2, 2 C)"""
        y = self.norm1(x)
        x = pool(linear(self.proj, y)) if self.halves else x
        b, h, w, _ = y.shape
        s = self.window or h
        down, across = -(-h // s), -(-w // s)  # numbers of windows
        y = F.pad(y, (0, 0, 0, across * s - w, 0, down * s - h))
        y = self.attn(rearrange(y, "b (down y) (across x) c -> (b down across) y x c", y=s, x=s))
        y = rearrange(y, "(b down across) y x c -> b (down y) (across x) c", b=b, down=down)
        x = x + y[:, : x.shape[1], : x.shape[2]]
        return x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    def __init__(self, width: int, ops: Any, **kwargs: Any) -> None:
        super().__init__()
        self.proj = ops.Conv2d(3, width, 7, PATCH, 3, **kwargs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, H / 4, W / 4, C)"""
        return self.proj(x).movedim(1, -1).contiguous()


class Hiera(nn.Module):
    """(B, 3, S, S) -> the output of each stage, finest first: (B, S / 4, S / 4, C) to (B, S / 32, S / 32, 8 C)."""

    def __init__(self, config: Config, background: int, ops: Any, **kwargs: Any) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(config.width, ops, **kwargs)
        self.pos_embed = nn.Parameter(torch.empty(1, config.width, background, background, **kwargs))
        self.pos_embed_window = nn.Parameter(torch.empty(1, config.width, *[config.windows[0]] * 2, **kwargs))
        self.blocks = nn.ModuleList()
        self.ends = []  # the last block of each stage
        for stage, depth in enumerate(config.blocks):
            width, heads = config.width * 2**stage, config.heads * 2**stage
            for i in range(depth):
                first = stage > 0 and i == 0
                # The first block of a stage gets the windows of the stage before: they are halved with the picture.
                window = config.windows[stage - 1] if first else config.windows[stage]
                window = 0 if len(self.blocks) in config.global_blocks else window
                self.blocks.append(Block(width // 2 if first else width, width, heads, window, ops, **kwargs))
            self.ends.append(len(self.blocks) - 1)

    def positions(self, like: Tensor) -> Tensor:
        """The positions of the tokens (B, h, w, C): (1, h, w, C)."""
        size = like.shape[1:3]
        coarse, window = (comfy.ops.cast_to_input(x, like).float() for x in (self.pos_embed, self.pos_embed_window))
        coarse = F.interpolate(coarse, size, mode="bicubic", align_corners=False)
        windows = window.tile([side // window.shape[-1] for side in size])
        return (coarse + windows).movedim(1, -1).to(like.dtype)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.patch_embed(x)
        x = x + self.positions(x)
        stages = []
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in self.ends:
                stages.append(x)
        return stages


class Neck(nn.Module):
    """The stages at one width, finest first: (B, out_channels, S / 4, S / 4), S / 8 and S / 16.

    The coarsest stage only adds to the one before it.
    """

    def __init__(self, config: Config, ops: Any, **kwargs: Any) -> None:
        super().__init__()
        widths = [config.width * 2**stage for stage in (3, 2, 1, 0)]  # coarsest first, as in the published files
        self.convs = nn.ModuleList(
            nn.Sequential(OrderedDict(conv=ops.Conv2d(width, config.out_channels, 1, **kwargs))) for width in widths
        )

    def forward(self, stages: list[Tensor]) -> list[Tensor]:
        coarsest, third, second, first = (
            conv(stage.movedim(-1, 1)) for conv, stage in zip(self.convs, reversed(stages), strict=True)
        )
        return [first, second, third + F.interpolate(coarsest, scale_factor=2.0, mode="nearest")]


class ImageEncoder(nn.Module):
    """Three embeddings of frames, finest first: (B, out_channels, S / 4, S / 4), S / 8 and S / 16.

    Args:
        config: The shape.
        background: Side of the coarse map of positions.
        operations: ComfyUI's layers (comfy.ops).
        device, dtype: Of the layers.
    """

    def __init__(
        self,
        config: Config,
        background: int,
        operations: Any,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        kwargs = {"device": device, "dtype": dtype}
        self.trunk = Hiera(config, background, operations, **kwargs)
        self.neck = Neck(config, operations, **kwargs)

    def forward(self, x: Tensor) -> list[Tensor]:
        """x: (B, 3, S, S), S a multiple of 32 times the window of the first stage."""
        return self.neck(self.trunk(x))
