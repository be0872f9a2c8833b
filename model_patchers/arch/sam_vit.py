"""SAM's image encoder: a plain vision transformer with windows, Kirillov et al. 2023, "Segment Anything", appendix A.

The backbone is ViTDet's (Li et al. 2022, "Exploring Plain Vision Transformer Backbones for Object Detection"): most
blocks attend inside windows, a few attend to the whole picture. Attention uses the decomposed relative positions of
MViTv2 (Li et al. 2022, equation 4). Modules have the names of the published state dicts.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import comfy.ops
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .processor import linear
from .shapes import count, shape_of

# Elements of the position bias that are in memory at a time. A CPU is fastest when they fit its cache (measured on 2
# cores: pieces of 8 MB take a third of the time of the whole bias). A GPU needs big pieces.
PIECE = {"cpu": 2**21}
BIG_PIECE = 2**26


@dataclass(frozen=True)
class Config:
    """The encoder's shape. Width, blocks and heads are 768, 12, 12 for ViT-B; 1024, 24, 16 for ViT-L; 1280, 32, 16 for
    ViT-H. In all three, hidden is 4 width, out_channels 256, patch 16, grid 64, and windows are 14 or 64."""

    width: int
    heads: int
    hidden: int  # channels inside an MLP
    out_channels: int
    patch: int  # side of a patch in pixels
    grid: int  # tokens on a side of the frame
    windows: tuple[int, ...]  # for each block, the side of its windows in tokens; `grid` in a global block

    @classmethod
    def of(cls, weights: dict[str, Tensor]) -> "Config":
        """The shape of the encoder with these weights; a key is `blocks.0.attn.rel_pos_h`.

        Raises:
            ValueError: A tensor that tells a size is missing, or has an impossible shape.
        """
        width, _, patch, _ = shape_of(weights, "patch_embed.proj.weight", 4)
        depth = count(weights, r"blocks\.(\d+)\.attn\.rel_pos_h$")
        tables = [shape_of(weights, f"blocks.{i}.attn.rel_pos_h", 2) for i in range(depth)]  # 2 window - 1, head width
        if width % tables[0][1]:
            raise ValueError(f"its 'blocks.0.attn.rel_pos_h' is {tables[0]}, and needs a divisor of {width} as columns")
        return cls(
            width=width,
            heads=width // tables[0][1],
            hidden=shape_of(weights, "blocks.0.mlp.lin1.weight", 2)[0],
            out_channels=shape_of(weights, "neck.0.weight", 4)[0],
            patch=patch,
            grid=shape_of(weights, "pos_embed", 4)[1],
            windows=tuple((length + 1) // 2 for length, _ in tables),
        )


class Norms2d(nn.Sequential):
    """Layers on (B, C, H, W); LayerNorms normalise over the channels."""

    def forward(self, x: Tensor) -> Tensor:
        for layer in self:
            x = layer(x.movedim(1, -1)).movedim(-1, 1) if isinstance(layer, nn.LayerNorm) else layer(x)
        return x


def neck(width: int, channels: int, ops: Any, **kwargs: Any) -> Norms2d:
    """The layers from the width of the transformer to the channels of the embedding."""
    return Norms2d(
        ops.Conv2d(width, channels, 1, bias=False, **kwargs),
        ops.LayerNorm(channels, eps=1e-6, **kwargs),
        ops.Conv2d(channels, channels, 3, padding=1, bias=False, **kwargs),
        ops.LayerNorm(channels, eps=1e-6, **kwargs),
    )


def relative(q: Tensor, table_h: Tensor, table_w: Tensor) -> tuple[Tensor, Tensor]:
    """The position bias of each query with each row and each column of keys: q . R^h and q . R^w of MViTv2, equation 4.

    Args:
        q: (B, heads, s * s, d), not scaled.
        table_h, table_w: (2 * s - 1, d): R for query minus key = -(s - 1), ..., s - 1.

    Returns:
        The bias of rows and the bias of columns, (B, heads, s * s, s) each.
    """
    s = (len(table_h) + 1) // 2
    positions = torch.arange(s, device=q.device)
    distance = positions[:, None] - positions + s - 1  # (query, key)
    q = q.unflatten(2, (s, s))
    rows = torch.einsum("bnhwc,hkc->bnhwk", q, table_h[distance])
    columns = torch.einsum("bnhwc,wkc->bnhwk", q, table_w[distance])
    return rows.flatten(2, 3), columns.flatten(2, 3)


def attend(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d) + rows + columns) v, MViTv2, equation 4; the sum of the biases is made piece by piece.

    Args:
        q, k, v: (B, heads, s * s, d).
        rows, columns: (B, heads, s * s, s), from `relative`.

    Returns:
        (B, heads, s * s, d), in memory (B, s * s, heads, d).
    """
    b, heads, n, d = q.shape
    size = PIECE.get(q.device.type, BIG_PIECE)
    steps = max(1, size // (heads * n**2)), min(heads, max(1, size // n**2)), min(n, max(1, size // n))
    out = q.new_empty(b, n, heads, d).transpose(1, 2)
    for i, h, j in product(*(range(0, end, step) for end, step in zip((b, heads, n), steps, strict=True))):
        both = slice(i, i + steps[0]), slice(h, h + steps[1])
        piece = *both, slice(j, j + steps[2])
        bias = (rows[piece][..., :, None] + columns[piece][..., None, :]).flatten(3)  # (B, heads, queries, keys)
        out[piece] = F.scaled_dot_product_attention(q[piece], k[both], v[both], attn_mask=bias)
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
        down, across = -(-h // s), -(-w // s)  # numbers of windows
        qkv = linear(self.qkv, x)
        if (down * s, across * s) != (h, w):
            # The reference fills the windows at the right and bottom with zeros before this layer, which makes of each
            # zero the layer's bias.
            blank = self.qkv(x.new_zeros(1, 1, 1, c))
            padded = blank.repeat(b, down * s, across * s, 1)
            padded[:, :h, :w] = qkv
            qkv = padded
        pattern = "b (down y) (across x) (qkv heads d) -> qkv (b down across) heads (y x) d"  # a view in a global block
        q, k, v = rearrange(qkv, pattern, y=s, x=s, qkv=3, heads=self.heads)
        del qkv
        tables = [comfy.ops.cast_to_input(table, q, copy=False) for table in (self.rel_pos_h, self.rel_pos_w)]
        y = attend(q, k, v, *relative(q, *tables))
        pattern = "(b down across) heads (y x) d -> b (down y) (across x) (heads d)"
        y = rearrange(y, pattern, b=b, down=down, across=across, y=s)
        return linear(self.proj, y[:, :h, :w])


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
        return self.proj(x).movedim(1, -1).contiguous()  # each later layer would copy it


class ImageEncoder(nn.Module):
    """(B, 3, frame, frame) -> the embedding (B, out_channels, grid, grid) and early features, (B, grid, grid, width).

    The early features are the output of the first global block, None without one.

    Args:
        config: The shape.
        operations: ComfyUI's layers (comfy.ops).
        device, dtype: Of the layers.
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
        """The embedding and the early features; `progress` is called after each of the `steps` blocks."""
        x = self.patch_embed(x)
        x = x + comfy.ops.cast_to_input(self.pos_embed, x, copy=False)
        early = None
        for block in self.blocks:
            x = block(x)
            progress()
            if early is None and block.attn.window == self.grid:
                early = x
        return self.neck(x.movedim(-1, 1)), early
