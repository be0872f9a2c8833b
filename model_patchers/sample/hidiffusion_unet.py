"""RAU-Net and MSW-MSA of HiDiffusion (see hidiffusion.py for paper and code) as patches for one call of a UNet.

RAU-Net halves the deep features once more in the first steps, so that they have the size of training. The authors give
a downsampler the stride 4, the dilation 2 and the padding 2. Such a convolution reads every second row and column of
its input alone: it is the trained convolution on x[::2, ::2]. So weights, LoRAs and offloading stay ComfyUI's. The
upsampler on the way back enlarges to the size of the skip connection, as ComfyUI's always does. A second place pools
after a block, and enlarges again before the block that reads the size from before.

MSW-MSA cuts the attention of the outermost level into 2 x 2 windows, which are shifted at random in each step.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from comfy.ldm.modules.attention import SpatialTransformer
from comfy.ldm.modules.diffusionmodules.openaimodel import Downsample, UNetModel
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

Size = tuple[int, int]
Patches = dict[str, list[Callable]]


# What the network looks like


class Layout(NamedTuple):
    """Where the blocks of a UNet lie.

    Attributes:
        downsamplers: Numbers of the input blocks that halve.
        levels: Of each input block; the output block that reads its skip connection has the same.
        windowed: The outermost level with attention.
    """

    downsamplers: list[int]
    levels: list[int]
    windowed: int

    def level(self, block: tuple[str, int]) -> int | None:
        """Of a block as ComfyUI names it: ("input", 3); None: the middle."""
        side, number = block
        if side == "middle":
            return None
        return self.levels[number if side == "input" else len(self.levels) - 1 - number]


def layout(network: UNetModel) -> Layout:
    """The layout of a network, by its modules: thin and cut models have other numbers than SD 1.5."""
    downsamplers, levels, attentive = [], [], []
    for number, block in enumerate(network.input_blocks):
        if isinstance(block[0], Downsample):
            downsamplers.append(number)
        levels.append(len(downsamplers))
        if any(isinstance(module, SpatialTransformer) for module in block):
            attentive.append(levels[-1])
    return Layout(downsamplers, levels, min(attentive, default=-1))


# RAU-Net


@dataclass(frozen=True)
class Halvings:
    """RAU-Net in one call.

    Attributes:
        layout: Of the network.
        strided: The input block whose downsampler halves twice; None: none does.
        pooled: The input block that is pooled; None: none is.
    """

    layout: Layout
    strided: int | None
    pooled: int | None

    @property
    def resized(self) -> int:
        """The output block before which features get their size from before the pooling back: it reads the skip
        connection of the block before the pooled one.
        """
        return len(self.layout.levels) - self.pooled

    def patches(self) -> tuple[Patches, Patches]:
        """Patches that come before those of other nodes, and after them.

        Other nodes see each block at the size that the block has, and features and skip connection of one size.
        """
        before, after = {}, {}
        if self.strided is not None:
            after["input_block_patch_after_skip"] = [self._skip_every_second]
        if self.pooled is not None:
            after["input_block_patch"] = [self._pool]
            before["output_block_patch"] = [self._enlarge]
        return before, after

    def _skip_every_second(self, h: Tensor, options: dict[str, Any]) -> Tensor:
        return h[..., ::2, ::2] if options["block"] == ("input", self.strided - 1) else h

    def _pool(self, h: Tensor, options: dict[str, Any]) -> Tensor:
        return avg_pool2d(h, 2, ceil_mode=True) if options["block"] == ("input", self.pooled) else h

    def _enlarge(self, h: Tensor, skip: Tensor, options: dict[str, Any]) -> tuple[Tensor, Tensor]:
        if options["block"] == ("output", self.resized):
            h = interpolate(h, skip.shape[-2:], mode="bicubic")
        return h, skip

    def fit_control(self, control: dict[str, list[Tensor | None]], size: Size) -> dict[str, list[Tensor | None]]:
        """Residuals of ControlNets and T2I adapters at the sizes of the blocks that they are added to.

        ComfyUI takes them from the end of its lists.

        Args:
            control: {"input", "middle" or "output": (B, C, h, w) for each block, or None}.
            size: (H, W) of the latent.
        """
        plain, skipped = self._sizes(size)
        sizes = {"input": plain, "middle": skipped[-1:], "output": skipped[::-1]}
        return {
            place: [_fitted(each, s) for each, s in zip(reversed(residuals), sizes[place], strict=False)][::-1]
            for place, residuals in control.items()
        }

    def _sizes(self, size: Size) -> tuple[list[Size], list[Size]]:
        """Sizes of each input block: of what it computes, and of its skip connection."""
        computed, skipped = [], []
        for number in range(len(self.layout.levels)):
            halvings = (number in self.layout.downsamplers) + (number == self.strided)
            for _ in range(halvings):
                size = _half(size)
            computed.append(size)
            size = _half(size) if number == self.pooled else size
            skipped.append(size)
        return computed, skipped


def _half(size: Size) -> Size:
    return -(-size[0] // 2), -(-size[1] // 2)


def _fitted(residual: Tensor | None, size: Size) -> Tensor | None:
    if residual is None or residual.shape[-2:] == size:
        return residual
    return interpolate(residual, size, mode="bicubic")


# MSW-MSA


def cut(x: Tensor, size: Size, shift: int) -> Tensor:
    """Cuts tokens into 2 x 2 windows: (B, H W, C) -> (4 B, h w, C) with h = ceil(H / 2), w = ceil(W / 2).

    An odd side gets its last row or column twice. The authors resize there, which blurs all tokens.

    Args:
        size: (H, W).
        shift: Of the windows, in quarters of a window.
    """
    (height, width), (h, w), channels = size, _half(size), x.shape[-1]
    x = x.unflatten(1, size)
    if height % 2:
        x = torch.cat((x, x[:, -1:]), 1)
    if width % 2:
        x = torch.cat((x, x[:, :, -1:]), 2)
    x = x.roll((-(h // 4 * shift), -(w // 4 * shift)), (1, 2))
    return x.reshape(-1, 2, h, 2, w, channels).transpose(2, 3).reshape(-1, h * w, channels)


def join(windows: Tensor, size: Size, shift: int) -> Tensor:
    """The reverse of `cut`."""
    (height, width), (h, w), channels = size, _half(size), windows.shape[-1]
    x = windows.reshape(-1, 2, 2, h, w, channels).transpose(2, 3).reshape(-1, 2 * h, 2 * w, channels)
    x = x.roll((h // 4 * shift, w // 4 * shift), (1, 2))
    return x[:, :height, :width].flatten(1, 2)


class Windows:
    """MSW-MSA in one call. It is the last to change what an attention reads and the first to see the result, so that
    other nodes see whole pictures.
    """

    def __init__(self, network: Layout, shifts: Iterator[int]) -> None:
        self.layout, self.shifts = network, shifts
        self.cut: tuple[Size, int] | None = None  # of the attention that computes

    def patches(self) -> tuple[Patches, Patches]:
        """Patches that come before those of other nodes, and after them."""
        return {"attn1_output_patch": [self._join]}, {"attn1_patch": [self._cut]}

    def _cut(self, q: Tensor, k: Tensor, v: Tensor, options: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
        if self.layout.level(options["block"]) != self.layout.windowed:
            return q, k, v
        shift, size = next(self.shifts), tuple(options["activations_shape"][-2:])
        if any(x.shape[1] != size[0] * size[1] for x in (q, k, v)):  # tokens that a node merged, tiled or added
            return q, k, v
        self.cut = size, shift
        windows = {id(x): cut(x, size, shift) for x in (q, k, v)}  # as a rule, the three are one
        return windows[id(q)], windows[id(k)], windows[id(v)]

    def _join(self, x: Tensor, options: dict[str, Any]) -> Tensor:
        if self.cut is None:
            return x
        (size, shift), self.cut = self.cut, None
        return join(x, size, shift)
