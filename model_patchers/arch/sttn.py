"""STTN: a transformer over patches of all frames at once. Zeng et al. 2020, "Learning Joint Spatial-Temporal
Transformations for Video Inpainting" (github.com/researchmm/STTN, MIT), section 3.2 and figure 2.

Modules have the names and indices of the published state dict
(`transformer.0.attention.query_embedding.weight`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .shapes import count, shape_of

HEIGHT, WIDTH = 240, 432  # of the frames
GRID = 60, 108  # of their features
PATCHES = ((60, 108), (20, 36), (10, 18), (5, 9))  # (height, width) in features, one for each head
MARK = "transformer.0.attention.query_embedding.weight"
PIECE = 2**26  # scores that are in memory at a time


@dataclass(frozen=True)
class Config:
    """The network's shape. The published one: (64, 64, 128, 256), (128, 64, 64), 8."""

    encoder: tuple[int, ...]  # channels after each layer; the last are those of the features
    decoder: tuple[int, ...]  # likewise, without the last layer, which gives colours
    blocks: int

    @classmethod
    def of(cls, weights: dict[str, Tensor]) -> "Config":
        """The shape of the network with these weights.

        Raises:
            ValueError: A tensor that tells a size is missing, or has an impossible shape.
        """

        def out(name: str) -> int:
            return shape_of(weights, f"{name}.weight", 4)[0]

        config = cls(
            encoder=tuple(out(f"encoder.{i}") for i in (0, 2, 4, 6)),
            decoder=tuple(out(f"decoder.{name}") for name in ("0.conv", "2", "4.conv")),
            blocks=count(weights, r"transformer\.(\d+)\.attention\.query_embedding\.weight$"),
        )
        if config.encoder[-1] % len(PATCHES):
            shape = tuple(weights["encoder.6.weight"].shape)
            raise ValueError(f"its 'encoder.6.weight' is {shape}, and needs a multiple of {len(PATCHES)} rows")
        return config


def lrelu() -> nn.Module:
    return nn.LeakyReLU(0.2, inplace=True)


class Upsampled(nn.Module):
    """A convolution of features that are first enlarged to twice their size, corner pixels onto corner pixels."""

    def __init__(self, into: int, out: int, ops: Any, **kwargs: Any) -> None:
        super().__init__()
        self.conv = ops.Conv2d(into, out, 3, padding=1, **kwargs)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True))


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) v, equation 4 of the paper, for (n, d) tokens; the scores are made piece by piece."""
    rows = max(1, PIECE // len(k))
    k = k.t()
    return torch.cat([((part @ k) / sqrt(q.shape[1])).softmax(dim=-1) @ v for part in q.split(rows)])


class Attention(nn.Module):
    """Each head cuts the features of all frames into patches of its own size, and each patch attends to all.

    The published code also computes which patches lie in the hole, and then ignores it.
    """

    def __init__(self, channels: int, ops: Any, **kwargs: Any) -> None:
        super().__init__()
        self.query_embedding = ops.Conv2d(channels, channels, 1, **kwargs)
        self.value_embedding = ops.Conv2d(channels, channels, 1, **kwargs)
        self.key_embedding = ops.Conv2d(channels, channels, 1, **kwargs)
        self.output_linear = nn.Sequential(ops.Conv2d(channels, channels, 3, padding=1, **kwargs), lrelu())

    def forward(self, x: Tensor) -> Tensor:
        """(t, C, 60, 108) -> the same shape"""
        parts = [layer(x).chunk(len(PATCHES), dim=1) for layer in self._embeddings()]
        heads = []
        for patch, *qkv in zip(PATCHES, *parts, strict=True):
            size = dict(zip("hw", patch, strict=True))
            q, k, v = (rearrange(each, "t c (y h) (x w) -> (t y x) (c h w)", **size) for each in qkv)
            down, across = (whole // side for whole, side in zip(GRID, patch, strict=True))
            pattern = "(t y x) (c h w) -> t c (y h) (x w)"
            heads.append(rearrange(attend(q, k, v), pattern, y=down, x=across, **size))
        return self.output_linear(torch.cat(heads, dim=1))

    def _embeddings(self) -> tuple[nn.Module, ...]:
        return self.query_embedding, self.key_embedding, self.value_embedding


class FeedForward(nn.Module):
    def __init__(self, channels: int, ops: Any, **kwargs: Any) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            ops.Conv2d(channels, channels, 3, padding=2, dilation=2, **kwargs),
            lrelu(),
            ops.Conv2d(channels, channels, 3, padding=1, **kwargs),
            lrelu(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Block(nn.Module):
    def __init__(self, channels: int, ops: Any, **kwargs: Any) -> None:
        super().__init__()
        self.attention = Attention(channels, ops, **kwargs)
        self.feed_forward = FeedForward(channels, ops, **kwargs)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(x)
        return x + self.feed_forward(x)


class Network(nn.Module):
    """Frames -> features (`encoder`), features of several frames -> those without holes (`transformer`) -> frames.

    Args:
        config: The shape.
        operations: ComfyUI's layers (comfy.ops).
        device, dtype: Of the layers.
    """

    def __init__(
        self, config: Config, operations: Any, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        ops, kwargs = operations, {"device": device, "dtype": dtype}
        a, b, c, d = config.encoder
        e, f, g = config.decoder
        self.transformer = nn.Sequential(*(Block(d, ops, **kwargs) for _ in range(config.blocks)))
        self.encoder = nn.Sequential(
            *(ops.Conv2d(3, a, 3, 2, 1, **kwargs), lrelu(), ops.Conv2d(a, b, 3, 1, 1, **kwargs), lrelu()),
            *(ops.Conv2d(b, c, 3, 2, 1, **kwargs), lrelu(), ops.Conv2d(c, d, 3, 1, 1, **kwargs), lrelu()),
        )
        self.decoder = nn.Sequential(
            *(Upsampled(d, e, ops, **kwargs), lrelu(), ops.Conv2d(e, f, 3, 1, 1, **kwargs), lrelu()),
            *(Upsampled(f, g, ops, **kwargs), lrelu(), ops.Conv2d(g, 3, 3, 1, 1, **kwargs)),
        )
        self.requires_grad_(False)

    def encode(self, x: Tensor) -> Tensor:
        """Frames (t, 3, 240, 432) in -1 ... 1, 0 in the hole -> features (t, C, 60, 108)."""
        return self.encoder(x)

    def mix(self, features: Tensor, progress: Callable[[], None] = lambda: None) -> Tensor:
        """Features (t, C, 60, 108) of frames with holes -> those of the same frames without.

        Args:
            progress: Called after each block.
        """
        for block in self.transformer:
            features = block(features)
            progress()
        return features

    def decode(self, features: Tensor) -> Tensor:
        """Features (t, C, 60, 108) -> frames (t, 3, 240, 432) in -1 ... 1."""
        return self.decoder(features).tanh()
