"""SAM's prompt encoder and mask decoder, Kirillov et al. 2023, "Segment Anything", appendix A and figure 14.

Points and boxes become tokens, and an earlier mask is added to the embedding of the picture. Two layers of attention
between tokens and embedding give four masks and their expected quality. Everything runs in float32: the networks are
small, and coordinates need the digits. Modules have the names of the published state dicts.
"""

from dataclasses import dataclass
from math import pi
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .sam_vit import MLP, Norms2d
from .shapes import count, shape_of

NOTHING, NEGATIVE, POSITIVE, TOP_LEFT, BOTTOM_RIGHT = -1, 0, 1, 2, 3  # the meaning of a prompt token


@dataclass(frozen=True)
class Config:
    """The shape of both networks. Every published SAM: 256, 8, 2, 128, 2048, 4, 256, 16."""

    channels: int  # of the embedding and the tokens
    heads: int
    layers: int
    inner: int  # channels inside the attention between tokens and picture
    hidden: int  # channels inside the transformer's MLPs
    masks: int
    score_hidden: int
    mask_channels: int  # inside the encoder of an earlier mask

    @classmethod
    def of(cls, weights: dict[str, Tensor]) -> "Config":
        """The shape of the networks with these weights; a key is `mask_decoder.mask_tokens.weight`.

        Raises:
            ValueError: A tensor that tells a size is missing, or has an impossible shape.
        """
        masks, channels = shape_of(weights, "mask_decoder.mask_tokens.weight", 2)
        layer = "mask_decoder.transformer.layers.0."
        return cls(
            channels=channels,
            heads=8,  # does not show in any shape
            layers=count(weights, r"mask_decoder\.transformer\.layers\.(\d+)\.norm1\.weight$"),
            inner=shape_of(weights, f"{layer}cross_attn_token_to_image.q_proj.weight", 2)[0],
            hidden=shape_of(weights, f"{layer}mlp.lin1.weight", 2)[0],
            masks=masks,
            score_hidden=shape_of(weights, "mask_decoder.iou_prediction_head.layers.0.weight", 2)[0],
            mask_channels=shape_of(weights, "prompt_encoder.mask_downscaling.3.weight", 4)[0],
        )


@dataclass(frozen=True)
class Prompts:
    """P prompts for one picture, each of N tokens and an optional mask.

    Attributes:
        coords: (P, N, 2), x and y in pixels of the frame.
        labels: int (P, N): NOTHING, NEGATIVE, POSITIVE, TOP_LEFT or BOTTOM_RIGHT.
        mask: Logits (P, 1, 4 * grid, 4 * grid) of an earlier mask, or None.
    """

    coords: Tensor
    labels: Tensor
    mask: Tensor | None = None


class Frequencies(nn.Module):
    """Fourier features of positions at random frequencies: sin and cos of 2 pi B v. Tancik et al. 2020, section 6.1."""

    def __init__(self, channels: int, **kwargs: Any) -> None:
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.empty(2, channels // 2, **kwargs))

    def forward(self, position: Tensor) -> Tensor:
        """(..., 2) in [0, 1] -> (..., channels)"""
        angle = 2 * pi * ((2 * position - 1) @ self.positional_encoding_gaussian_matrix.to(position))
        return torch.cat((angle.sin(), angle.cos()), dim=-1)


def table(embedding: nn.Embedding, like: Tensor) -> Tensor:
    """All rows of an embedding, on the device and in the dtype of `like`."""
    return embedding(torch.arange(embedding.num_embeddings, device=like.device), out_dtype=like.dtype)


class PromptEncoder(nn.Module):
    """Tokens for points and boxes, an embedding for an earlier mask.

    Args:
        config: The shape.
        grid: Side of the embedding of a picture.
        frame: Side of the frame in pixels.
        operations: ComfyUI's layers (comfy.ops).
        device, dtype: Of the layers.
    """

    def __init__(
        self,
        config: Config,
        grid: int,
        frame: int,
        operations: Any,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        ops, kwargs = operations, {"device": device, "dtype": dtype}
        self.grid, self.frame = grid, frame
        c, m = config.channels, config.mask_channels
        self.pe_layer = Frequencies(c, **kwargs)
        self.point_embeddings = nn.ModuleList(ops.Embedding(1, c, **kwargs) for _ in range(4))
        self.not_a_point_embed = ops.Embedding(1, c, **kwargs)
        self.no_mask_embed = ops.Embedding(1, c, **kwargs)
        self.mask_downscaling = Norms2d(
            ops.Conv2d(1, m // 4, 2, 2, **kwargs),
            ops.LayerNorm(m // 4, eps=1e-6, **kwargs),
            nn.GELU(),
            ops.Conv2d(m // 4, m, 2, 2, **kwargs),
            ops.LayerNorm(m, eps=1e-6, **kwargs),
            nn.GELU(),
            ops.Conv2d(m, c, 1, **kwargs),
        )

    def positions(self, like: Tensor) -> Tensor:
        """The Fourier features of the cells of the embedding, (1, C, grid, grid), for attention to a picture."""
        middle = (torch.arange(self.grid, device=like.device, dtype=like.dtype) + 0.5) / self.grid
        y, x = torch.meshgrid(middle, middle, indexing="ij")
        return self.pe_layer(torch.stack((x, y), dim=-1)).movedim(-1, 0)[None]

    def forward(self, prompts: Prompts) -> tuple[Tensor, Tensor]:
        """The tokens (P, N, C), and a term to add to the embedding: (P, C, grid, grid), without masks (1, C, 1, 1)."""
        # Clicks count from the middle of the first pixel, positions from its corner.
        position = self.pe_layer((prompts.coords + 0.5) / self.frame)
        kinds = torch.cat([table(kind, position) for kind in (self.not_a_point_embed, *self.point_embeddings)])
        tokens = position * (prompts.labels != NOTHING)[..., None] + kinds[prompts.labels + 1]
        if prompts.mask is None:
            return tokens, table(self.no_mask_embed, position)[..., None, None]
        return tokens, self.mask_downscaling(prompts.mask)


class Attention(nn.Module):
    def __init__(self, channels: int, inner: int, heads: int, ops: Any, **kwargs: Any) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = ops.Linear(channels, inner, **kwargs)
        self.k_proj = ops.Linear(channels, inner, **kwargs)
        self.v_proj = ops.Linear(channels, inner, **kwargs)
        self.out_proj = ops.Linear(inner, channels, **kwargs)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(P or 1, N, C), (P or 1, M, C), (P or 1, M, C) -> (P, N, C)"""
        b = max(len(q), len(k))
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2).expand(b, -1, -1, -1)
            for layer, x in ((self.q_proj, q), (self.k_proj, k), (self.v_proj, v))
        )
        return self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class ReluMLP(MLP):
    def forward(self, x: Tensor) -> Tensor:
        return self.lin2(self.lin1(x).relu_())


class TwoWayLayer(nn.Module):
    """Tokens attend to each other and to the picture, then the picture attends to the tokens."""

    def __init__(self, config: Config, first: bool, ops: Any, **kwargs: Any) -> None:
        super().__init__()
        c, heads = config.channels, config.heads
        self.first = first
        self.self_attn = Attention(c, c, heads, ops, **kwargs)
        self.norm1 = ops.LayerNorm(c, **kwargs)
        self.cross_attn_token_to_image = Attention(c, config.inner, heads, ops, **kwargs)
        self.norm2 = ops.LayerNorm(c, **kwargs)
        self.mlp = ReluMLP(c, config.hidden, ops, **kwargs)
        self.norm3 = ops.LayerNorm(c, **kwargs)
        self.cross_attn_image_to_token = Attention(c, config.inner, heads, ops, **kwargs)
        self.norm4 = ops.LayerNorm(c, **kwargs)

    def forward(self, x: Tensor, x_pe: Tensor, image: Tensor, image_pe: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (P, N, C) and picture (P or 1, M, C), each with its positions -> both, (P, N, C) and (P, M, C)."""
        # In the first layer tokens and positions are equal: no positions are added, and there is no residual.
        x = self.self_attn(x, x, x) if self.first else x + self.self_attn(x + x_pe, x + x_pe, x)
        x = self.norm1(x)
        placed = image + image_pe
        x = self.norm2(x + self.cross_attn_token_to_image(x + x_pe, placed, image))
        x = self.norm3(x + self.mlp(x))
        return x, self.norm4(image + self.cross_attn_image_to_token(placed, x + x_pe, x))


class TwoWayTransformer(nn.Module):
    def __init__(self, config: Config, ops: Any, **kwargs: Any) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TwoWayLayer(config, i == 0, ops, **kwargs) for i in range(config.layers))
        self.final_attn_token_to_image = Attention(config.channels, config.inner, config.heads, ops, **kwargs)
        self.norm_final_attn = ops.LayerNorm(config.channels, **kwargs)

    def forward(self, x: Tensor, image: Tensor, image_pe: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (P, N, C), picture (P or 1, M, C), its positions (1, M, C) -> tokens (P, N, C), picture (P, M, C)."""
        x_pe = x
        for layer in self.layers:
            x, image = layer(x, x_pe, image, image_pe)
        attended = self.final_attn_token_to_image(x + x_pe, image + image_pe, image)
        return self.norm_final_attn(x + attended), image


class Perceptron(nn.Module):
    def __init__(self, widths: list[int], ops: Any, **kwargs: Any) -> None:
        super().__init__()
        pairs = zip(widths[:-1], widths[1:], strict=True)
        self.layers = nn.ModuleList(ops.Linear(into, out, **kwargs) for into, out in pairs)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = layer(x).relu_()
        return self.layers[-1](x)


class MaskDecoder(nn.Module):
    """Masks and their expected quality from tokens and embedding.

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
        c = config.channels
        self.transformer = TwoWayTransformer(config, ops, **kwargs)
        self.iou_token = ops.Embedding(1, c, **kwargs)
        self.mask_tokens = ops.Embedding(config.masks, c, **kwargs)
        self.output_upscaling = Norms2d(
            ops.ConvTranspose2d(c, c // 4, 2, 2, **kwargs),
            ops.LayerNorm(c // 4, eps=1e-6, **kwargs),
            nn.GELU(),
            ops.ConvTranspose2d(c // 4, c // 8, 2, 2, **kwargs),
            nn.GELU(),
        )
        self.output_hypernetworks_mlps = nn.ModuleList(
            Perceptron([c, c, c, c // 8], ops, **kwargs) for _ in range(config.masks)
        )
        self.iou_prediction_head = Perceptron([c, *[config.score_hidden] * 2, config.masks], ops, **kwargs)

    def detail(self, embedding: Tensor, early: Tensor) -> Tensor | None:
        """Features of a picture that this decoder needs besides its embedding: none."""
        return None

    def forward(
        self, embedding: Tensor, detail: Tensor | None, positions: Tensor, tokens: Tensor, dense: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Masks and scores for P prompts on one picture.

        Args:
            embedding: (1, C, grid, grid).
            detail: From the method `detail`.
            positions: (1, C, grid, grid), from the prompt encoder.
            tokens: (P, N, C), from the prompt encoder.
            dense: The term to add to the embedding, from the prompt encoder.

        Returns:
            Logits (P, masks, 4 * grid, 4 * grid) and scores (P, masks). Mask 0 is SAM's answer to an unambiguous
            prompt, the other three are its answers to an ambiguous one.
        """
        own = self.tokens(tokens)
        tokens = torch.cat((own.expand(len(tokens), -1, -1), tokens), dim=1)
        # All prompts share one copy of the picture until the first layer lets it attend to the tokens.
        image = (embedding + dense).flatten(2).transpose(1, 2)  # (P or 1, grid * grid, C)
        y, image = self.transformer(tokens, image, positions.flatten(2).transpose(1, 2))
        fine = self.output_upscaling(image.transpose(1, 2).unflatten(-1, embedding.shape[-2:]))
        return self.masks(y[:, 1 : own.shape[0]], fine, detail), self.iou_prediction_head(y[:, 0])

    def tokens(self, like: Tensor) -> Tensor:
        """The decoder's own tokens: one for the scores, then one for each mask."""
        return torch.cat((table(self.iou_token, like), table(self.mask_tokens, like)))

    def masks(self, y: Tensor, fine: Tensor, detail: Tensor | None) -> Tensor:
        """Logits of a linear classifier of pixels for each token: (P, n, C), (P, C / 8, h, w) -> (P, n, h, w)."""
        weights = [mlp(y[:, i]) for i, mlp in enumerate(self.output_hypernetworks_mlps)]
        return classify(torch.stack(weights, dim=1), fine)


def classify(weights: Tensor, fine: Tensor) -> Tensor:
    """(P, n, c), (P, c, h, w) -> (P, n, h, w)"""
    return (weights @ fine.flatten(2)).unflatten(-1, fine.shape[-2:])
