"""MobileSAM's image encoder: TinyViT-5M with a frame of 1024 pixels, Zhang et al. 2023, "Faster Segment Anything".

TinyViT is Wu et al. 2022, "TinyViT: Fast Pretraining Distillation for Small Vision Transformers", section 3.3: a stage
of inverted bottlenecks and three stages of windowed attention. Modules have the names of the published state dicts.
SAM does not use TinyViT's classifier (`norm_head`, `head`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import isqrt
from typing import Any

import comfy.ops
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .sam_vit import neck
from .shapes import count, shape_of

FRAME, GRID = 1024, 64


@dataclass(frozen=True)
class Config:
    """The encoder's shape. MobileSAM: widths 64 128 160 320, depths 2 2 6 2, heads 4 5 10, windows 7 14 7."""

    widths: tuple[int, ...]  # channels of each stage
    depths: tuple[int, ...]  # blocks of each stage
    heads: tuple[int, ...]  # of each stage of attention: all but the first
    windows: tuple[int, ...]  # the side in tokens, of each stage of attention
    out_channels: int

    @classmethod
    def of(cls, weights: dict[str, Tensor]) -> "Config":
        """The shape of the encoder with these weights; a key is `layers.1.blocks.0.attn.attention_biases`.

        Raises:
            ValueError: A tensor that tells a size is missing, or has an impossible shape.
        """
        stages = count(weights, r"layers\.(\d+)\.")
        if stages < 3:
            raise ValueError(f"it has {stages} stages ('layers.0', ...), and needs 3 or more")
        widths = [shape_of(weights, "patch_embed.seq.2.c.weight", 4)[0]]
        widths += [shape_of(weights, f"layers.{i}.downsample.conv1.c.weight", 4)[0] for i in range(stages - 1)]
        keys = [f"layers.{i}.blocks.0.attn.attention_biases" for i in range(1, stages)]
        biases = [shape_of(weights, key, 2) for key in keys]  # (heads, window**2)
        for key, bias, width in zip(keys, biases, widths[1:], strict=True):
            if width % bias[0]:
                raise ValueError(f"its '{key}' is {bias}, and needs a divisor of {width} as rows")
        return cls(
            widths=tuple(widths),
            depths=tuple(count(weights, rf"layers\.{i}\.blocks\.(\d+)\.") for i in range(stages)),
            heads=tuple(heads for heads, _ in biases),
            windows=tuple(isqrt(size) for _, size in biases),
            out_channels=shape_of(weights, "neck.0.weight", 4)[0],
        )


class ConvNorm(nn.Sequential):
    def __init__(
        self, into: int, out: int, kernel: int, ops: Any, stride: int = 1, groups: int = 1, **kwargs: Any
    ) -> None:
        super().__init__()
        self.c = ops.Conv2d(into, out, kernel, stride, kernel // 2, groups=groups, bias=False, **kwargs)
        self.bn = ops.BatchNorm2d(out, **kwargs)


class PatchEmbed(nn.Module):
    def __init__(self, width: int, ops: Any, **kwargs: Any) -> None:
        super().__init__()
        self.seq = nn.Sequential(
            ConvNorm(3, width // 2, 3, ops, stride=2, **kwargs),
            nn.GELU(),
            ConvNorm(width // 2, width, 3, ops, stride=2, **kwargs),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.seq(x)


class Bottleneck(nn.Module):
    """An inverted bottleneck, MBConv of MobileNetV2: widen, convolve each channel, narrow."""

    def __init__(self, width: int, ops: Any, **kwargs: Any) -> None:
        super().__init__()
        wide = 4 * width
        self.conv1 = ConvNorm(width, wide, 1, ops, **kwargs)
        self.conv2 = ConvNorm(wide, wide, 3, ops, groups=wide, **kwargs)
        self.conv3 = ConvNorm(wide, width, 1, ops, **kwargs)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(x + self.conv3(F.gelu(self.conv2(F.gelu(self.conv1(x))))))


class Downsample(nn.Module):
    def __init__(self, into: int, out: int, stride: int, ops: Any, **kwargs: Any) -> None:
        super().__init__()
        self.conv1 = ConvNorm(into, out, 1, ops, **kwargs)
        self.conv2 = ConvNorm(out, out, 3, ops, stride=stride, groups=out, **kwargs)
        self.conv3 = ConvNorm(out, out, 1, ops, **kwargs)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv3(F.gelu(self.conv2(F.gelu(self.conv1(x)))))


class Attention(nn.Module):
    """Attention in a window with LeViT's position bias: one number for each head and each distance |dy|, |dx|."""

    def __init__(self, width: int, heads: int, window: int, ops: Any, **kwargs: Any) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.norm = ops.LayerNorm(width, **kwargs)
        self.qkv = ops.Linear(width, 3 * width, **kwargs)
        self.proj = ops.Linear(width, width, **kwargs)
        self.attention_biases = nn.Parameter(torch.empty(heads, window**2, **kwargs))

    def forward(self, x: Tensor) -> Tensor:
        """(B, window**2, C) -> (B, window**2, C)"""
        qkv = self.qkv(self.norm(x))
        q, k, v = rearrange(qkv, "b n (heads qkv d) -> qkv b heads n d", heads=self.heads, qkv=3)
        position = torch.arange(self.window, device=x.device)
        d = (position[:, None] - position).abs()
        distance = d[:, None, :, None] * self.window + d[None, :, None, :]  # |dy| window + |dx|
        distance = distance.flatten(2).flatten(0, 1)  # (query, key)
        bias = comfy.ops.cast_to_input(self.attention_biases, q, copy=False)[:, distance]
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias[None])
        return self.proj(y.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    def __init__(self, width: int, ops: Any, **kwargs: Any) -> None:
        super().__init__()
        self.norm = ops.LayerNorm(width, **kwargs)
        self.fc1 = ops.Linear(width, 4 * width, **kwargs)
        self.fc2 = ops.Linear(4 * width, width, **kwargs)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(self.norm(x))))


class Block(nn.Module):
    def __init__(self, width: int, heads: int, window: int, ops: Any, **kwargs: Any) -> None:
        super().__init__()
        self.attn = Attention(width, heads, window, ops, **kwargs)
        self.local_conv = ConvNorm(width, width, 3, ops, groups=width, **kwargs)
        self.mlp = MLP(width, ops, **kwargs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)"""
        x = self.local_conv(x + self._attend(x.movedim(1, -1)).movedim(-1, 1))
        return x + self.mlp(x.movedim(1, -1)).movedim(-1, 1)

    def _attend(self, x: Tensor) -> Tensor:
        b, h, w, _ = x.shape
        s = self.attn.window
        down, across = -(-h // s), -(-w // s)  # numbers of windows
        x = F.pad(x, (0, 0, 0, across * s - w, 0, down * s - h))
        x = self.attn(rearrange(x, "b (down y) (across x) c -> (b down across) (y x) c", y=s, x=s))
        x = rearrange(x, "(b down across) (y x) c -> b (down y) (across x) c", b=b, down=down, y=s)
        return x[:, :h, :w]


class Stage(nn.Module):
    def __init__(self, blocks: list[nn.Module], downsample: nn.Module | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample


class ImageEncoder(nn.Module):
    """(B, 3, 1024, 1024) -> the embedding (B, out_channels, 64, 64) and early features, (B, 64, 64, early_width).

    The early features are the output of the first stage of attention, downsampled.

    Args:
        config: The shape.
        operations: ComfyUI's layers (comfy.ops).
        device, dtype: Of the layers.
    """

    grid, frame = GRID, FRAME

    def __init__(
        self, config: Config, operations: Any, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        ops, kwargs = operations, {"device": device, "dtype": dtype}
        widths, last = config.widths, len(config.widths) - 1
        self.steps, self.early_width = sum(config.depths), widths[2]
        self.patch_embed = PatchEmbed(widths[0], ops, **kwargs)
        self.layers = nn.ModuleList()
        for i, (width, depth) in enumerate(zip(widths, config.depths, strict=True)):
            if i:
                heads, window = config.heads[i - 1], config.windows[i - 1]
                blocks = [Block(width, heads, window, ops, **kwargs) for _ in range(depth)]
            else:
                blocks = [Bottleneck(width, ops, **kwargs) for _ in range(depth)]
            # The last one keeps the size, so that the embedding is as large as that of SAM's other encoders.
            stride = 1 if i == last - 1 else 2
            down = Downsample(width, widths[i + 1], stride, ops, **kwargs) if i < last else None
            self.layers.append(Stage(blocks, down))
        self.neck = neck(widths[-1], config.out_channels, ops, **kwargs)

    def forward(self, x: Tensor, progress: Callable[[], None] = lambda: None) -> tuple[Tensor, Tensor | None]:
        """The embedding and the early features; `progress` is called after each of the `steps` blocks."""
        x, early = self.patch_embed(x), None
        for i, stage in enumerate(self.layers):
            for block in stage.blocks:
                x = block(x)
                progress()
            if stage.downsample is not None:
                x = stage.downsample(x)
            if i == 1:
                early = x.movedim(1, -1)
        return self.neck(x), early
