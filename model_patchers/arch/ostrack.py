"""OSTrack: one transformer compares a template with a larger crop and says where the template is in it. Ye et al. 2022,
"Joint Feature Learning and Relation Modeling for Tracking: A One-Stream Framework" (github.com/botaoye/OSTrack, MIT).

Three blocks remove the parts of the crop that the template's middle attends to least (section 3.2 of the paper, early
candidate elimination). Modules have the names of the published state dicts (`backbone.blocks.0.attn.qkv.weight`).
"""

from dataclasses import dataclass
from math import ceil, isqrt
from typing import Any

import comfy.ops
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .shapes import count, shape_of

MARK = "backbone.pos_embed_z"
PATCH = 16
HEAD_WIDTH = 64  # of ViT-B and ViT-L alike: no shape tells the number of heads
ELIMINATING = {3: 0.7, 6: 0.7, 9: 0.7}  # {block: the share of the search tokens that it keeps}
BRANCHES = ("ctr", "offset", "size")
LEAST = 1e-4  # of a score or a size, and as far from 1


@dataclass(frozen=True)
class Config:
    """The tracker's shape. The published ones: 768, 3072, 12, 256, and 8, 16 or 12, 24."""

    width: int
    hidden: int  # channels inside an MLP
    depth: int
    channels: int  # of the head's first layer; each later one has half as many
    template: int  # tokens on a side of the template
    search: int  # tokens on a side of the crop that is searched

    @classmethod
    def of(cls, weights: dict[str, Tensor]) -> "Config":
        """The shape of the tracker with these weights.

        Raises:
            ValueError: A tensor that tells a size is missing, or has an impossible shape.
        """
        shapes = {name: shape_of(weights, name, 3) for name in (MARK, "backbone.pos_embed_x")}
        sides = [isqrt(tokens) for _, tokens, _ in shapes.values()]
        for (name, shape), side in zip(shapes.items(), sides, strict=True):
            if shape[1] != side**2:
                raise ValueError(f"its '{name}' is {shape}, and needs a square number of rows")
        width = shapes[MARK][2]
        if width % HEAD_WIDTH:
            raise ValueError(f"its '{MARK}' is {shapes[MARK]}, and needs a multiple of {HEAD_WIDTH} columns")
        return cls(
            width=width,
            hidden=shape_of(weights, "backbone.blocks.0.mlp.fc1.weight", 2)[0],
            depth=count(weights, r"backbone\.blocks\.(\d+)\.attn\.qkv\.weight$"),
            channels=shape_of(weights, "box_head.conv1_ctr.0.weight", 4)[0],
            template=sides[0],
            search=sides[1],
        )


class Attention(nn.Module):
    def __init__(self, width: int, ops: Any, **kwargs: Any) -> None:
        super().__init__()
        self.qkv = ops.Linear(width, 3 * width, **kwargs)
        self.proj = ops.Linear(width, width, **kwargs)

    def forward(self, x: Tensor, token: int | None = None) -> tuple[Tensor, Tensor | None]:
        """(1, n, C) -> the same shape, and how much `token` attends to each token, (n,), the mean over the heads."""
        q, k, v = rearrange(self.qkv(x), "b n (qkv heads d) -> qkv b heads n d", qkv=3, d=HEAD_WIDTH)
        y = rearrange(F.scaled_dot_product_attention(q, k, v), "b heads n d -> b n (heads d)")
        if token is None:
            return self.proj(y), None
        scores = q[:, :, token : token + 1] @ k.transpose(-2, -1) * HEAD_WIDTH**-0.5  # (1, heads, 1, n)
        return self.proj(y), scores.softmax(-1).mean((0, 1, 2))


class MLP(nn.Module):
    def __init__(self, width: int, hidden: int, ops: Any, **kwargs: Any) -> None:
        super().__init__()
        self.fc1 = ops.Linear(width, hidden, **kwargs)
        self.fc2 = ops.Linear(hidden, width, **kwargs)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """A block of the transformer. The elimination follows its attention; the MLP sees each token alone."""

    def __init__(self, width: int, hidden: int, ops: Any, **kwargs: Any) -> None:
        super().__init__()
        self.norm1 = ops.LayerNorm(width, eps=1e-6, **kwargs)
        self.attn = Attention(width, ops, **kwargs)
        self.norm2 = ops.LayerNorm(width, eps=1e-6, **kwargs)
        self.mlp = MLP(width, hidden, ops, **kwargs)

    def forward(self, x: Tensor, template: int, token: int, share: float | None) -> tuple[Tensor, Tensor | None]:
        """
        Args:
            x: (1, template + n, C): the template's tokens, then those of the crop that are left.
            token: Of the template, its middle.
            share: Of the crop's tokens, those that stay. None: all.

        Returns:
            (1, template + m, C), and which of the n tokens they are, (m,), None for all.
        """
        y, attention = self.attn(self.norm1(x), token if share else None)
        x, kept = x + y, None
        if share:
            kept = most_attended(attention[template:], share)
            x = torch.cat((x[:, :template], x[:, template:][:, kept]), dim=1)
        return x + self.mlp(self.norm2(x)), kept


def most_attended(attention: Tensor, share: float) -> Tensor:
    """The numbers of the tokens that are attended to most, (m,), m = ceil(share n), from (n,)."""
    return attention.sort(descending=True).indices[: ceil(share * len(attention))]


class PatchEmbed(nn.Module):
    def __init__(self, width: int, ops: Any, **kwargs: Any) -> None:
        super().__init__()
        self.proj = ops.Conv2d(3, width, PATCH, PATCH, **kwargs)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


class Backbone(nn.Module):
    """A template (1, 3, Z, Z) and a crop (1, 3, X, X) -> features of the crop, (1, C, search, search)."""

    def __init__(self, config: Config, ops: Any, **kwargs: Any) -> None:
        super().__init__()
        self.template, self.search = config.template, config.search
        self.pos_embed_z = nn.Parameter(torch.empty(1, config.template**2, config.width, **kwargs))
        self.pos_embed_x = nn.Parameter(torch.empty(1, config.search**2, config.width, **kwargs))
        self.patch_embed = PatchEmbed(config.width, ops, **kwargs)
        self.blocks = nn.ModuleList(Block(config.width, config.hidden, ops, **kwargs) for _ in range(config.depth))
        self.norm = ops.LayerNorm(config.width, eps=1e-6, **kwargs)

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        z, x = self.patch_embed(z), self.patch_embed(x)
        z = z + comfy.ops.cast_to_input(self.pos_embed_z, z, copy=False)
        x = x + comfy.ops.cast_to_input(self.pos_embed_x, x, copy=False)
        n, template = x.shape[1], z.shape[1]
        middle = (self.template - 1) // 2
        left = torch.arange(n, device=x.device)  # the places of the crop's tokens that are left
        x = torch.cat((z, x), dim=1)
        for i, block in enumerate(self.blocks):
            x, kept = block(x, template, middle * self.template + middle, ELIMINATING.get(i))
            left = left if kept is None else left[kept]
        x = self.norm(x)
        whole = x.new_zeros(1, n, x.shape[2])
        whole[:, left] = x[:, template:]
        return rearrange(whole, "b (h w) c -> b c h w", h=self.search)


class Head(nn.Module):
    """Features (1, C, n, n) -> maps of scores (1, 1, n, n), sizes (1, 2, n, n) and offsets (1, 2, n, n)."""

    def __init__(self, config: Config, ops: Any, **kwargs: Any) -> None:
        super().__init__()
        widths = (config.width, *(config.channels // 2**i for i in range(4)))
        for name in BRANCHES:
            for i in range(1, 5):
                layers = (
                    ops.Conv2d(widths[i - 1], widths[i], 3, padding=1, **kwargs),
                    ops.BatchNorm2d(widths[i], **kwargs),
                )
                setattr(self, f"conv{i}_{name}", nn.Sequential(*layers, nn.ReLU(inplace=True)))
            setattr(self, f"conv5_{name}", ops.Conv2d(widths[4], 1 if name == "ctr" else 2, 1, **kwargs))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        maps = {}
        for name in BRANCHES:
            maps[name] = features
            for i in range(1, 6):
                maps[name] = getattr(self, f"conv{i}_{name}")(maps[name])
        score, size = (maps[name].sigmoid().clamp(LEAST, 1 - LEAST) for name in ("ctr", "size"))
        return score, size, maps["offset"]


class Network(nn.Module):
    """A template and a crop, normalised as for ImageNet -> the head's maps of the crop.

    Args:
        config: The shape.
        operations: ComfyUI's layers (comfy.ops).
        device, dtype: Of the layers.
    """

    def __init__(
        self, config: Config, operations: Any, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.grid = config.search
        self.template_size, self.search_size = PATCH * config.template, PATCH * config.search  # in pixels
        self.backbone = Backbone(config, operations, device=device, dtype=dtype)
        self.box_head = Head(config, operations, device=device, dtype=dtype)
        self.requires_grad_(False)

    def forward(self, template: Tensor, crop: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(1, 3, Z, Z), (1, 3, X, X) -> scores (1, 1, n, n), sizes and offsets (1, 2, n, n), as parts of the crop."""
        return self.box_head(self.backbone(template, crop))
