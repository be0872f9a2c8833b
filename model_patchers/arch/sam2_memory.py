"""SAM 2's memory: how a frame is remembered, and how a later frame attends to what is remembered. Ravi et al. 2024,
"SAM 2: Segment Anything in Images and Videos", section 4 and appendix D.1.

The positions of pixels are sines and cosines as in DETR (Carion et al. 2020); inside the attention they are axial
rotations (Heo et al. 2024, "Rotary Position Embedding for Vision Transformer"). Modules have the names of the published
state dicts.
"""

from math import pi
from typing import Any

import comfy.ops
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .processor import linear
from .sam_vit import Norms2d

TEMPERATURE = 10000.0


def _wavelengths(channels: int, device: torch.device) -> Tensor:
    """T^(2 floor(i / 2) / n) for i = 0 ... n - 1."""
    i = torch.arange(channels, dtype=torch.float32, device=device)
    return TEMPERATURE ** (2 * (i // 2) / channels)


def sine_map(channels: int, grid: int, device: torch.device) -> Tensor:
    """The positions of the cells of a map: (1, channels, grid, grid), rows in the first half of the channels."""
    cells = torch.arange(1, grid + 1, dtype=torch.float32, device=device)
    angle = (cells / (grid + 1e-6) * 2 * pi)[:, None] / _wavelengths(channels // 2, device)
    line = torch.stack((angle[:, 0::2].sin(), angle[:, 1::2].cos()), dim=-1).flatten(1).T  # (channels / 2, grid)
    rows, columns = line[:, :, None].expand(-1, -1, grid), line[:, None].expand(-1, grid, -1)
    return torch.cat((rows, columns))[None]


def sine_line(position: Tensor, channels: int) -> Tensor:
    """The positions on a line of numbers (N,): (N, channels), sines in the first half of the channels."""
    angle = position[:, None] / _wavelengths(channels // 2, position.device)
    return torch.cat((angle.sin(), angle.cos()), dim=-1)


def rotations(channels: int, grid: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the angles by which the pairs of channels turn, (grid * grid, channels / 2) each.

    The first half of the pairs turns with the column, the second half with the row.
    """
    speed = TEMPERATURE ** (-torch.arange(0, channels, 4, dtype=torch.float32, device=device) / channels)
    along = torch.arange(grid, dtype=torch.float32, device=device)[:, None] * speed
    columns, rows = along.repeat(grid, 1), along.repeat_interleave(grid, dim=0)
    angle = torch.cat((columns, rows), dim=-1)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
    """Turns pairs of neighbouring channels: (..., n * t, C) by angles (t, C / 2), which recur n times."""
    cos, sin = turns
    pairs = x.float().unflatten(-2, (-1, len(cos))).unflatten(-1, (-1, 2))
    a, b = pairs.unbind(-1)
    turned = torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1)
    return turned.flatten(-2).flatten(-3, -2).to(x.dtype)


class Attention(nn.Module):
    """Attention with one head and rotary positions."""

    def __init__(self, channels: int, memory_channels: int, ops: Any, **kwargs: Any) -> None:
        super().__init__()
        self.q_proj = ops.Linear(channels, channels, **kwargs)
        self.k_proj = ops.Linear(memory_channels, channels, **kwargs)
        self.v_proj = ops.Linear(memory_channels, channels, **kwargs)
        self.out_proj = ops.Linear(channels, channels, **kwargs)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, turns: tuple[Tensor, Tensor], unplaced: int = 0) -> Tensor:
        """(B, N, C), (B, M, C'), (B, M, C') -> (B, N, C); the last `unplaced` keys have no place and do not turn."""
        q, k, v = (linear(layer, x) for layer, x in ((self.q_proj, q), (self.k_proj, k), (self.v_proj, v)))
        placed = k.shape[1] - unplaced
        q, k = rotate(q, turns), torch.cat((rotate(k[:, :placed], turns), k[:, placed:]), dim=1)
        y = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])
        return linear(self.out_proj, y[:, 0])


class Layer(nn.Module):
    """A frame attends to itself, then to the memory."""

    def __init__(self, channels: int, memory_channels: int, hidden: int, ops: Any, **kwargs: Any) -> None:
        super().__init__()
        self.self_attn = Attention(channels, channels, ops, **kwargs)
        self.cross_attn_image = Attention(channels, memory_channels, ops, **kwargs)
        self.linear1 = ops.Linear(channels, hidden, **kwargs)
        self.linear2 = ops.Linear(hidden, channels, **kwargs)
        self.norm1 = ops.LayerNorm(channels, **kwargs)
        self.norm2 = ops.LayerNorm(channels, **kwargs)
        self.norm3 = ops.LayerNorm(channels, **kwargs)

    def forward(self, x: Tensor, memory: Tensor, places: Tensor, turns: tuple[Tensor, Tensor], unplaced: int) -> Tensor:
        """A frame (B, N, C), memory (B, M, C') and its positions (B, M, C') -> (B, N, C)"""
        y = self.norm1(x)
        x = x + self.self_attn(y, y, y, turns)
        x = x + self.cross_attn_image(self.norm2(x), memory + places, memory, turns, unplaced)
        return x + linear(self.linear2, linear(self.linear1, self.norm3(x)).relu_())


class MemoryAttention(nn.Module):
    """What a frame is in the light of the memory.

    Args:
        channels: Of the embedding of a frame.
        memory_channels: Of the memory.
        layers, hidden: Their number, and the channels inside their MLPs.
        ops: ComfyUI's layers (comfy.ops).
    """

    def __init__(self, channels: int, memory_channels: int, layers: int, hidden: int, ops: Any, **kwargs: Any) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(channels, memory_channels, hidden, ops, **kwargs) for _ in range(layers))
        self.norm = ops.LayerNorm(channels, **kwargs)

    def forward(self, image: Tensor, memory: Tensor, places: Tensor, unplaced: int) -> Tensor:
        """The embedding after attention.

        Args:
            image: The embedding (B, C, g, g).
            memory: (B, M, C'): g * g tokens for each remembered frame, then `unplaced` tokens without a place.
            places: The positions of the memory, (B, M, C').
            unplaced: The number of tokens without a place.

        Returns:
            (B, C, g, g)
        """
        channels, grid = image.shape[1], image.shape[-1]
        turns = rotations(channels, grid, image.device)
        x = image + 0.1 * sine_map(channels, grid, image.device).to(image.dtype)
        x = x.flatten(2).transpose(1, 2)
        for layer in self.layers:
            x = layer(x, memory, places, turns, unplaced)
        return self.norm(x).transpose(1, 2).unflatten(-1, (grid, grid))


class ConvNeXt(nn.Module):
    """A block of Liu et al. 2022, "A ConvNet for the 2020s"."""

    def __init__(self, channels: int, ops: Any, **kwargs: Any) -> None:
        super().__init__()
        self.dwconv = ops.Conv2d(channels, channels, 7, padding=3, groups=channels, **kwargs)
        self.norm = ops.LayerNorm(channels, eps=1e-6, **kwargs)
        self.pwconv1 = ops.Linear(channels, 4 * channels, **kwargs)
        self.pwconv2 = ops.Linear(4 * channels, channels, **kwargs)
        self.gamma = nn.Parameter(torch.empty(channels, **kwargs))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)"""
        y = self.norm(self.dwconv(x).movedim(1, -1))
        y = linear(self.pwconv2, F.gelu(linear(self.pwconv1, y)))
        return x + (comfy.ops.cast_to_input(self.gamma, y, copy=False) * y).movedim(-1, 1)


class Fuser(nn.Module):
    def __init__(self, channels: int, layers: int, ops: Any, **kwargs: Any) -> None:
        super().__init__()
        self.layers = nn.ModuleList(ConvNeXt(channels, ops, **kwargs) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class MaskDownsampler(nn.Module):
    """A mask at a sixteenth of its size: (B, 1, S, S) -> (B, C, S / 16, S / 16)."""

    def __init__(self, channels: int, ops: Any, **kwargs: Any) -> None:
        super().__init__()
        layers = []
        for into, out in ((1, 4), (4, 16), (16, 64), (64, 256)):
            layers += [ops.Conv2d(into, out, 3, 2, 1, **kwargs), ops.LayerNorm(out, eps=1e-6, **kwargs), nn.GELU()]
        self.encoder = Norms2d(*layers, ops.Conv2d(256, channels, 1, **kwargs))

    def forward(self, mask: Tensor) -> Tensor:
        return self.encoder(mask)


class MemoryEncoder(nn.Module):
    """What is remembered of a frame and the mask of an object in it.

    Args:
        channels: Of the embedding of a frame.
        memory_channels: Of the memory.
        layers: The number of blocks.
        ops: ComfyUI's layers (comfy.ops).
    """

    def __init__(self, channels: int, memory_channels: int, layers: int, ops: Any, **kwargs: Any) -> None:
        super().__init__()
        self.mask_downsampler = MaskDownsampler(channels, ops, **kwargs)
        self.pix_feat_proj = ops.Conv2d(channels, channels, 1, **kwargs)
        self.fuser = Fuser(channels, layers, ops, **kwargs)
        self.out_proj = ops.Conv2d(channels, memory_channels, 1, **kwargs)

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        """Embedding (B, C, g, g) and mask (B, 1, 16 g, 16 g) -> (B, C', g, g)"""
        return self.out_proj(self.fuser(self.pix_feat_proj(image) + self.mask_downsampler(mask)))
