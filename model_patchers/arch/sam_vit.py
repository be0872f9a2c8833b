"""SAM's image encoder: a plain vision transformer with windows, Kirillov et al. 2023, "Segment Anything", appendix A.

The backbone is ViTDet's (Li et al. 2022, "Exploring Plain Vision Transformer Backbones for Object Detection"): most
blocks attend inside windows, a few to the whole picture. Positions enter attention as MViTv2's decomposed relative
ones (Li et al. 2022, equation 4). Modules carry the names of the published state dicts.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import comfy.ops
import torch
import torch.nn.functional as F
from torch import Tensor, nn

# How many numbers of the position bias are spread out at a time. A processor is fastest when they stay in its cache
# (measured on 2 cores: 8 MB at a time takes a third of the time of the whole); an accelerator wants big pieces.
PIECE = {"cpu": 2**21}
BIG_PIECE = 2**26


@dataclass(frozen=True)
class Config:
    """The encoder's shape. ViT-B: 768, 12, 12; ViT-L: 1024, 24, 16; ViT-H: 1280, 32, 16; all 3072.. wide, 64 x 64."""

    width: int
    heads: int
    hidden: int  # of the perceptrons
    out_channels: int
    patch: int
    grid: int  # tokens on a side of the frame
    windows: tuple[int, ...]  # for each block, the side of its windows in tokens; the whole grid where it is global

    @classmethod
    def of(cls, weights: dict[str, Tensor]) -> "Config":
        """Reads the shape off a state dict with keys as `blocks.0.attn.rel_pos_h`."""
        width, _, patch, _ = weights["patch_embed.proj.weight"].shape
        depth = len({key for key in weights if re.fullmatch(r"blocks\.\d+\.attn\.rel_pos_h", key)})
        tables = [weights[f"blocks.{i}.attn.rel_pos_h"] for i in range(depth)]  # (2 * window - 1, head width)
        return cls(
            width=width,
            heads=width // tables[0].shape[1],
            hidden=weights["blocks.0.mlp.lin1.weight"].shape[0],
            out_channels=weights["neck.0.weight"].shape[0],
            patch=patch,
            grid=weights["pos_embed"].shape[1],
            windows=tuple((len(table) + 1) // 2 for table in tables),
        )


def linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """`layer(x)` for many tokens (..., N, C); on a CPU as a 1x1 convolution.

    PyTorch gives linear layers to MKL and convolutions to oneDNN, which on AMD's processors takes half the time.
    """
    if x.device.type != "cpu":
        return layer(x)
    weight, bias, stream = comfy.ops.cast_bias_weight(layer, x, offloadable=True)
    rows = x.reshape(-1, x.shape[-2], 1, x.shape[-1]).movedim(-1, 1)  # (rows, C, N, 1), as it lies
    y = F.conv2d(rows, weight[:, :, None, None], bias).movedim(1, -1)
    comfy.ops.uncast_bias_weight(layer, weight, bias, stream)
    return y.reshape(*x.shape[:-1], -1)


class Norms2d(nn.Sequential):
    """Layers on (B, C, H, W), in which a LayerNorm runs over the channels."""

    def forward(self, x: Tensor) -> Tensor:
        for layer in self:
            x = layer(x.movedim(1, -1)).movedim(-1, 1) if isinstance(layer, nn.LayerNorm) else layer(x)
        return x


def neck(width: int, channels: int, ops: Any, **kwargs: Any) -> Norms2d:
    """From the transformer's width to the embedding's channels."""
    return Norms2d(
        ops.Conv2d(width, channels, 1, bias=False, **kwargs),
        ops.LayerNorm(channels, eps=1e-6, **kwargs),
        ops.Conv2d(channels, channels, 3, padding=1, bias=False, **kwargs),
        ops.LayerNorm(channels, eps=1e-6, **kwargs),
    )


def relative(q: Tensor, table_h: Tensor, table_w: Tensor) -> tuple[Tensor, Tensor]:
    """What each query gives to each row and to each column of keys: q . R^h and q . R^w of MViTv2, equation 4.

    Args:
        q: (B, s * s, d), not scaled.
        table_h, table_w: (2 * s - 1, d), by distance from s - 1 above to s - 1 below.

    Returns:
        Two of (B, s * s, s).
    """
    s = (len(table_h) + 1) // 2
    positions = torch.arange(s, device=q.device)
    distance = positions[:, None] - positions + s - 1  # (query, key)
    q = q.unflatten(1, (s, s))
    rows = torch.einsum("bhwc,hkc->bhwk", q, table_h[distance])
    columns = torch.einsum("bhwc,wkc->bhwk", q, table_w[distance])
    return rows.flatten(1, 2), columns.flatten(1, 2)


def attend(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d) + rows + columns) v, MViTv2, equation 4, the bias spread out a piece at a time.

    Args:
        q, k, v: (B, s * s, d), the heads among the batch.
        rows, columns: (B, s * s, s), from `relative`.

    Returns:
        (B, s * s, d)
    """
    b, n, _ = q.shape
    piece = PIECE.get(q.device.type, BIG_PIECE)
    heads, queries = max(1, piece // n**2), min(n, max(1, piece // n))
    out = torch.empty_like(v)
    for i in range(0, b, heads):
        for j in range(0, n, queries):
            at = slice(i, i + heads), slice(j, j + queries)
            bias = (rows[at][..., :, None] + columns[at][..., None, :]).flatten(2)
            at_once = F.scaled_dot_product_attention(q[at][None], k[None, at[0]], v[None, at[0]], attn_mask=bias[None])
            out[at] = at_once[0]
    return out


class Attention(nn.Module):
    def __init__(self, config: Config, window: int, ops: Any, **kwargs: Any) -> None:
        super().__init__()
        self.heads, self.window, width = config.heads, window, config.width
        self.qkv = ops.Linear(width, 3 * width, **kwargs)
        self.proj = ops.Linear(width, width, **kwargs)
        self.rel_pos_h = nn.Parameter(torch.empty(2 * window - 1, width // self.heads, **kwargs))
        self.rel_pos_w = nn.Parameter(torch.empty(2 * window - 1, width // self.heads, **kwargs))

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)"""
        b, h, w, c = x.shape
        s = self.window
        across, down = -(-w // s), -(-h // s)  # windows
        qkv = linear(self.qkv, x)
        if (down * s, across * s) != (h, w):
            # Windows at the right and bottom are filled up with zeros before this layer: each is worth its bias.
            blank = self.qkv(x.new_zeros(1, 1, 1, c))
            padded = blank.repeat(b, down * s, across * s, 1)
            padded[:, :h, :w] = qkv
            qkv = padded
        qkv = qkv.view(b, down, s, across, s, 3, self.heads, -1).permute(5, 0, 1, 3, 6, 2, 4, 7)
        q, k, v = qkv.reshape(3, b * down * across * self.heads, s * s, -1)  # windows and heads among the batch
        del qkv
        tables = [comfy.ops.cast_to_input(table, q, copy=False) for table in (self.rel_pos_h, self.rel_pos_w)]
        y = attend(q, k, v, *relative(q, *tables))
        y = y.view(b, down, across, self.heads, s, s, -1).permute(0, 1, 4, 2, 5, 3, 6)
        return linear(self.proj, y.reshape(b, down * s, across * s, c)[:, :h, :w])


class MLP(nn.Module):
    def __init__(self, width: int, hidden: int, ops: Any, **kwargs: Any) -> None:
        super().__init__()
        self.lin1 = ops.Linear(width, hidden, **kwargs)
        self.lin2 = ops.Linear(hidden, width, **kwargs)

    def forward(self, x: Tensor) -> Tensor:
        return linear(self.lin2, F.gelu(linear(self.lin1, x)))


class Block(nn.Module):
    def __init__(self, config: Config, window: int, ops: Any, **kwargs: Any) -> None:
        super().__init__()
        self.norm1 = ops.LayerNorm(config.width, eps=1e-6, **kwargs)
        self.attn = Attention(config, window, ops, **kwargs)
        self.norm2 = ops.LayerNorm(config.width, eps=1e-6, **kwargs)
        self.mlp = MLP(config.width, config.hidden, ops, **kwargs)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    def __init__(self, config: Config, ops: Any, **kwargs: Any) -> None:
        super().__init__()
        self.proj = ops.Conv2d(3, config.width, config.patch, config.patch, **kwargs)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).movedim(1, -1)


class ImageEncoder(nn.Module):
    """(B, 3, frame, frame) -> the embedding (B, out_channels, grid, grid) and what the first global block made of it.

    Args:
        config: The shape.
        operations: ComfyUI's layers (comfy.ops), made with `device` and `dtype`.
    """

    def __init__(
        self, config: Config, operations: Any, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        kwargs = {"device": device, "dtype": dtype}
        self.grid, self.frame, self.steps = config.grid, config.grid * config.patch, len(config.windows)
        self.early_width = config.width
        self.patch_embed = PatchEmbed(config, operations, **kwargs)
        self.pos_embed = nn.Parameter(torch.empty(1, config.grid, config.grid, config.width, **kwargs))
        self.blocks = nn.ModuleList(Block(config, window, operations, **kwargs) for window in config.windows)
        self.neck = neck(config.width, config.out_channels, operations, **kwargs)

    def forward(self, x: Tensor, progress: Callable[[], None] = lambda: None) -> tuple[Tensor, Tensor | None]:
        """Calls `progress` after each of `steps` blocks. The second result is (B, grid, grid, early_width)."""
        x = self.patch_embed(x)
        x = x + comfy.ops.cast_to_input(self.pos_embed, x, copy=False)
        early = None
        for block in self.blocks:
            x = block(x)
            progress()
            if early is None and block.attn.window == self.grid:
                early = x
        return self.neck(x.movedim(-1, 1)), early
