"""The texts of several regions in the cross-attention of a UNet (see attention_couple.py).

Patches of ComfyUI's own kind repeat the queries for each text and add up the results:

    out = sum_i w_i out_i / sum_i w_i

w_i is a region's weight at the layer's size. A base is a region everywhere: with base ratio b it weighs b, and a
region 1 - b where it is. Where nothing weighs anything the text adds nothing to the picture.
"""

import math
import uuid
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from comfy.conds import CONDList
from comfy.patcher_extension import WrapperExecutor
from comfy.utils import repeat_to_batch_size
from torch import Tensor
from torch.nn import functional

from .regional_prompt import Cell

KEY = "pentimento_attention_couple"  # of the patch, of a Joint in model_conds, and in the options of a block
MOST_REPEATS = 4  # of tokens, for which two prompts share a call: as ComfyUI's own

Size = tuple[int, int]


# Regions


class Region(NamedTuple):
    """Where a text counts.

    Attributes:
        group: The regions of one prompt share it.
        strength: Of the whole region.
        mask: (n, H, W) at any size, on the CPU; None: everywhere.
        cell: In place of the mask, for a rectangle that ratios made.
        area: In ComfyUI's form, in latent pixels or as fractions; it limits the mask.
        fills: Whether the region is what other regions leave over.
    """

    group: uuid.UUID
    strength: float = 1.0
    mask: Tensor | None = None
    cell: Cell | None = None
    area: tuple | None = None
    fills: bool = False

    @property
    def is_everywhere(self) -> bool:
        return self.mask is None and self.area is None

    def weight(self, size: Size, whole: Size) -> Tensor:
        """The weight at a layer, (n, h, w).

        Regional Prompter cuts cells anew at each layer's size, and resizes masks to it without interpolation.

        Args:
            size: (h, w) of the layer.
            whole: (H, W) of the latent.
        """
        weight = torch.full((1, *size), self.strength)
        if self.cell is not None:
            weight = weight * cells(self.cell, size)
        elif self.mask is not None:
            weight = weight * nearest(self.mask, size)
        if self.area is not None:
            weight = weight * nearest(_area(self.area, whole), size)
        return weight


def cells(cell: Cell, size: Size) -> Tensor:
    """The mask of a cell at a size: (1, h, w). Neighbours share their rounded border."""
    (height, width), (top, bottom, left, right) = size, cell
    mask = torch.zeros(1, *size)
    mask[:, _border(top, height) : _border(bottom, height), _border(left, width) : _border(right, width)] = 1
    return mask


def _border(fraction: float, length: int) -> int:
    return int(length * fraction)


def nearest(masks: Tensor, size: Size) -> Tensor:
    """(n, H, W) -> (n, h, w)."""
    return functional.interpolate(masks[:, None], size, mode="nearest")[:, 0]


def _area(area: tuple, whole: Size) -> Tensor:
    """The mask of an area, (1, H, W)."""
    if area[0] == "percentage":
        height, width, top, left = (round(part * side) for part, side in zip(area[1:], whole * 2, strict=True))
        height, width = max(1, height), max(1, width)
    else:
        height, width, top, left = area
    mask = torch.zeros(1, *whole)
    mask[:, top : top + height, left : left + width] = 1
    return mask


def weights(regions: Sequence[Region], size: Size, whole: Size) -> Tensor:
    """The weights of all regions at a layer, (n, R, h, w). Arguments as of Region.weight."""
    maps = [region.weight(size, whole) for region in regions]
    rest = 1 - sum(map_ for map_, region in zip(maps, regions, strict=True) if not region.fills)
    rest = torch.as_tensor(rest).clamp(min=0)
    maps = [map_ * rest if region.fills else map_ for map_, region in zip(maps, regions, strict=True)]
    count = max(map(len, maps))
    return torch.stack([repeat_to_batch_size(map_, count) for map_ in maps], dim=1)


# On their way to the network


class Joint(CONDList):
    """The regions of a conditioning in its `model_conds`, beside its first text.

    Args:
        cond: [the weights at the latent's size (n, R, H, W), the texts of all regions but the first (B, tokens, C),
            ...]; empty for a conditioning without regions. Windows cut what has the latent's size out of such a list,
            and a list that was cut has no regions: its weights are resized.
        regions: For exact weights at each layer.
        whole: (H, W) of the latent.
    """

    def __init__(self, cond: list[Tensor], regions: tuple[Region, ...] = (), whole: Size | None = None) -> None:
        super().__init__(cond)
        self.regions, self.whole = regions, whole

    @property
    def texts(self) -> list[Tensor]:
        return self.cond[1:]

    def process_cond(self, batch_size: int, area: Sequence[int] | None = None, **kwargs: Any) -> "Joint":
        if not self.cond:
            return self
        maps, *texts = self.cond
        maps = maps if len(maps) == 1 else repeat_to_batch_size(maps, batch_size)
        texts = [repeat_to_batch_size(text, batch_size) for text in texts]
        if area is None:
            return Joint([maps, *texts], self.regions, self.whole)
        height, width, top, left = area
        return Joint([maps[..., top : top + height, left : left + width], *texts])

    def can_concat(self, other: "Joint") -> bool:
        ours, theirs = _tokens(self.texts), _tokens(other.texts)
        return math.lcm(ours, theirs) <= MOST_REPEATS * max(ours, theirs)

    def concat(self, others: "list[Joint]") -> "tuple[Joint, ...]":
        return self, *others

    def weights(self, size: Size, batch: int) -> Tensor:
        """Normalised weights at a layer of (h, w): (batch or 1, R, h w, 1)."""
        if self.regions:
            maps = weights(self.regions, size, self.whole)
        else:
            maps = functional.interpolate(self.cond[0], size, mode="nearest")
        maps = maps if len(maps) == 1 else repeat_to_batch_size(maps, batch)
        total = maps.sum(1, keepdim=True)
        return (maps / total.where(total > 0, 1)).flatten(2).unsqueeze(-1)


def _tokens(texts: Sequence[Tensor]) -> int:
    """A number of tokens to which each text can be repeated."""
    return math.lcm(*(text.shape[1] for text in texts))


# In the network


def wrap_network(
    executor: WrapperExecutor,
    x: Tensor,
    timesteps: Tensor,
    context: Tensor,
    y: Tensor | None,
    control: dict[str, list[Tensor | None]] | None,
    options: dict[str, Any],
    **kwargs: Any,
) -> Tensor:
    """A wrapper of DIFFUSION_MODEL."""
    joints = kwargs.pop(KEY, ())
    if any(joint.cond for joint in joints):
        attention, patches = Attention(joints, context), options.get("patches", {})
        # Before the patches of other nodes: these see each text with its own queries, and mixed results.
        first = {"attn2_patch": [attention.repeat], "attn2_output_patch": [attention.mix]}
        first = {name: [*functions, *patches.get(name, ())] for name, functions in first.items()}
        options = {**options, "patches": {**patches, **first}}
    return executor(x, timesteps, context, y, control, options, **kwargs)


class Attention:
    """The cross-attentions of one call.

    Args:
        joints: For each chunk of the batch.
        context: The first texts, (B, tokens, C).
    """

    def __init__(self, joints: Sequence[Joint], context: Tensor) -> None:
        self.joints = joints
        self.texts = [[text.to(context) for text in joint.texts] for joint in joints]
        self.tokens = _tokens([context, *(text for texts in self.texts for text in texts)])
        self.by_size: dict[Size, list[Tensor | None]] = {}

    def repeat(self, q: Tensor, k: Tensor, v: Tensor, options: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
        """Repeats each chunk's queries for each of its texts: (B, n, C) -> (B times the number of texts, n, C).

        Other nodes find the chunks of a batch by "cond_or_uncond". Repeated tokens do not change a softmax's mean.
        """
        options[KEY], options["cond_or_uncond"] = (
            options["cond_or_uncond"],
            [
                part
                for part, texts in zip(options["cond_or_uncond"], self.texts, strict=True)
                for part in [part] * (1 + len(texts))
            ],
        )
        queries = [
            chunk
            for chunk, texts in zip(q.chunk(len(self.texts)), self.texts, strict=True)
            for chunk in [chunk] * (1 + len(texts))
        ]
        keys = self._with_texts(k)
        return torch.cat(queries), keys, keys if v is k else self._with_texts(v)

    def _with_texts(self, first: Tensor) -> Tensor:
        chunks = zip(first.chunk(len(self.texts)), self.texts, strict=True)
        every = [text for chunk, texts in chunks for text in (chunk, *texts)]
        return torch.cat([text.repeat(1, self.tokens // text.shape[1], 1) for text in every])

    def mix(self, out: Tensor, options: dict[str, Any]) -> Tensor:
        """The weighted mean of each chunk's results."""
        options["cond_or_uncond"] = options.pop(KEY)
        counts = [1 + len(texts) for texts in self.texts]
        parts = out.chunk(sum(counts))
        mixed = []
        for maps in self._weights(tuple(options["activations_shape"][-2:]), parts[0]):
            count = counts[len(mixed)]
            chunk, parts = parts[:count], parts[count:]
            mixed.append(chunk[0] if maps is None else sum(part * maps[:, i] for i, part in enumerate(chunk)))
        return torch.cat(mixed)

    def _weights(self, size: Size, part: Tensor) -> list[Tensor | None]:
        """For each chunk, the weights at a layer, (B or 1, R, n, 1); None: there is one text.

        Args:
            part: One text's results, (B, n, C).
        """
        if size not in self.by_size:
            self.by_size[size] = [
                joint.weights(size, len(part)).to(part) if joint.cond else None for joint in self.joints
            ]
        return self.by_size[size]
