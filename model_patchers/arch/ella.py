"""ELLA's timestep-aware semantic connector. Hu et al. 2024, "ELLA: Equip Diffusion Models with LLM for Enhanced
Semantic Alignment", section 3.1 (github.com/TencentQQGYLab/ELLA, Apache-2.0).

A perceiver resampler: in several blocks, learned latents attend to a text of any length, and become the tokens of the
denoiser. The timestep sets shift and scale of each normalisation. Modules have the names of the published state dict,
whose joint projections of queries, keys and values are three layers here, so that ComfyUI can load them one by one.
"""

import re
from dataclasses import dataclass
from typing import Any

import comfy.ops
import torch
import torch.nn.functional as F
from comfy.ldm.modules.diffusionmodules.util import timestep_embedding
from torch import Tensor, nn

from .shapes import count, shape_of

LATENTS_KEY = "connector.latents"
CONFIG_KEYS = {  # whose shapes give the Config
    LATENTS_KEY,
    "time_embedding.linear_1.weight",
    "connector.proj_in.weight",
    "connector.perceiver_blocks.0.mlp.c_fc.weight",
}
EPS = 1e-6  # of the normalisations
QKV = ("q", "k", "v")


@dataclass(frozen=True)
class Config:
    """The connector's shape. The published one: 768, 2048, 64, 6, 8, 3072, 320, 768."""

    width: int  # of latents and tokens
    text_width: int
    latents: int
    layers: int
    heads: int
    hidden: int  # width between the two layers of an MLP
    time_channels: int  # of the sinusoids
    time_width: int  # of the timestep's embedding

    @classmethod
    def of(cls, weights: dict[str, Tensor], heads: int = 8) -> "Config":
        """Reads the shape off a state dict with keys such as `connector.latents`. No tensor tells `heads`.

        Raises:
            ValueError: A tensor that tells a size is missing, or has an impossible shape.
        """
        latents, width = shape_of(weights, LATENTS_KEY, 2)
        time_width, time_channels = shape_of(weights, "time_embedding.linear_1.weight", 2)
        if width % heads:
            raise ValueError(f"its '{LATENTS_KEY}' is {(latents, width)}, and needs a multiple of {heads} columns")
        return cls(
            width=width,
            text_width=shape_of(weights, "connector.proj_in.weight", 2)[1],
            latents=latents,
            layers=count(weights, r"connector\.perceiver_blocks\.(\d+)\."),
            heads=heads,
            hidden=shape_of(weights, "connector.perceiver_blocks.0.mlp.c_fc.weight", 2)[0],
            time_channels=time_channels,
            time_width=time_width,
        )


def split_projections(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict with `q.weight`, `k.weight` and `v.weight` for each `in_proj_weight`, and so for its bias.

    Raises:
        ValueError: The rows of one do not make three layers.
    """
    split = {}
    for key, value in weights.items():
        joint = re.fullmatch(r"(.*\.attn\.)in_proj_(weight|bias)", key)
        if joint:
            if not value.ndim or len(value) % 3:
                raise ValueError(f"its '{key}' is {tuple(value.shape)}, and needs a multiple of 3 rows")
            split |= {f"{joint[1]}{name}.{joint[2]}": rows for name, rows in zip(QKV, value.chunk(3), strict=True)}
        else:
            split[key] = value
    return split


class AdaLayerNorm(nn.Module):
    """AdaLN: (1 + s) LN(x) + b, where a linear layer makes b and s, in this order, of the timestep's embedding."""

    def __init__(self, config: Config, ops: Any, **kwargs: Any) -> None:
        super().__init__()
        self.linear = ops.Linear(config.time_width, 2 * config.width, **kwargs)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """(B, n, width), (B, 1, time_width) -> (B, n, width)"""
        shift, scale = self.linear(time).chunk(2, dim=-1)
        return F.layer_norm(x, x.shape[-1:], eps=EPS) * (1 + scale) + shift


class Attention(nn.Module):
    """Multi-head cross-attention: softmax(q k^T / sqrt(width / heads)) v."""

    def __init__(self, config: Config, ops: Any, **kwargs: Any) -> None:
        super().__init__()
        self.heads = config.heads
        for name in (*QKV, "out_proj"):
            self.add_module(name, ops.Linear(config.width, config.width, **kwargs))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """(B, n, width), (B, m, width) -> (B, n, width)"""
        q, k, v = self.q(x), self.k(context), self.v(context)
        q, k, v = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in (q, k, v))
        return self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """W2 relu(W1 x)^2: the squared ReLU of So et al. 2021, "Primer", as in the published code."""

    def __init__(self, config: Config, ops: Any, **kwargs: Any) -> None:
        super().__init__()
        self.c_fc = ops.Linear(config.width, config.hidden, **kwargs)
        self.c_proj = ops.Linear(config.hidden, config.width, **kwargs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, n, width) -> (B, n, width)"""
        return self.c_proj(self.c_fc(x).relu().square())


class Block(nn.Module):
    """The latents attend to themselves and to the text; then the MLP. Both are added to the latents."""

    def __init__(self, config: Config, ops: Any, **kwargs: Any) -> None:
        super().__init__()
        self.attn = Attention(config, ops, **kwargs)
        self.mlp = MLP(config, ops, **kwargs)
        self.ln_1, self.ln_2, self.ln_ff = (AdaLayerNorm(config, ops, **kwargs) for _ in range(3))

    def forward(self, latents: Tensor, text: Tensor, time: Tensor) -> Tensor:
        """(B, latents, width), (B, n, width), (B, 1, time_width) -> (B, latents, width)"""
        x = self.ln_1(latents, time)
        latents = latents + self.attn(x, torch.cat((x, self.ln_2(text, time)), dim=1))
        return latents + self.mlp(self.ln_ff(latents, time))


class Resampler(nn.Module):
    """Learned latents, shifted by the timestep, in blocks that attend to the text."""

    def __init__(self, config: Config, ops: Any, **kwargs: Any) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.empty(config.latents, config.width, **kwargs), requires_grad=False)
        self.time_aware_linear = ops.Linear(config.time_width, config.width, **kwargs)
        self.proj_in = ops.Linear(config.text_width, config.width, **kwargs)
        self.perceiver_blocks = nn.ModuleList(Block(config, ops, **kwargs) for _ in range(config.layers))

    def forward(self, text: Tensor, time: Tensor) -> Tensor:
        """(B, n, text_width), (B, 1, time_width) -> (B, latents, width)"""
        text = self.proj_in(text)
        # ComfyUI moves modules when it loads a part of the model, but not a parameter beside modules.
        latents = comfy.ops.cast_to_input(self.latents, text) + self.time_aware_linear(time)  # (B, latents, width)
        for block in self.perceiver_blocks:
            latents = block(latents, text, time)
        return latents


class TimeEmbedding(nn.Module):
    """Sinusoids of the timestep, linear, SiLU, linear."""

    def __init__(self, config: Config, ops: Any, **kwargs: Any) -> None:
        super().__init__()
        self.channels = config.time_channels
        self.linear_1 = ops.Linear(config.time_channels, config.time_width, **kwargs)
        self.linear_2 = ops.Linear(config.time_width, config.time_width, **kwargs)

    def forward(self, t: Tensor) -> Tensor:
        """(B,) -> (B, time_width)"""
        return self.linear_2(F.silu(self.linear_1(timestep_embedding(t, self.channels))))


class Connector(nn.Module):
    """The network from a text's features and a timestep to the denoiser's tokens.

    Args:
        config: The shape.
        operations: ComfyUI's layers (comfy.ops), made with `device` and `dtype`.
    """

    def __init__(
        self, config: Config, operations: Any, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.config = config
        self.time_embedding = TimeEmbedding(config, operations, device=device, dtype=dtype)
        self.connector = Resampler(config, operations, device=device, dtype=dtype)

    def forward(self, text: Tensor, t: Tensor) -> Tensor:
        """Computes in float32.

        Args:
            text: T5's features, float32 (B, n, text_width). The latents attend to every row, padding included.
            t: Timesteps from 0 to 999, (B,) or (1,) for all. Fractions are allowed.

        Returns:
            (B, latents, width)
        """
        time = F.silu(self.time_embedding(t.float()))[:, None]  # (B, 1, time_width)
        return self.connector(text, time.expand(len(text), -1, -1))
