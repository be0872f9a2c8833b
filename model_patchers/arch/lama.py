"""LaMa's generator: a residual network of fast Fourier convolutions.

Suvorov et al. 2022, "Resolution-robust Large Mask Inpainting with Fourier Convolutions", section 2.1 and figure 2;
Chi et al. 2020, "Fast Fourier Convolution". Features are pairs (local, global) of tensors: convolutions see the
neighbourhood in the local ones, the Fourier unit sees the whole picture in the global ones.

Modules have the names and indices of the published state dicts (`model.5.conv1.ffc.convg2g.fu.conv_layer.weight`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .shapes import count, shape_of

INPUT_KEY = "1.ffc.convl2l.weight"  # the first convolution; no other network has a key with this ending
Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Config:
    """The generator's shape. Big-LaMa: 4, 3, 64, 3, 18, 384. LaMa-Fourier has 9 blocks, its shallow variant 6."""

    in_channels: int
    out_channels: int
    width: int  # channels at full resolution; each downsampling doubles them, up to 1024
    downsamplings: int
    blocks: int
    global_channels: int  # of the channels at the lowest resolution, those that go through the Fourier units

    @classmethod
    def of(cls, weights: dict[str, Tensor]) -> "Config":
        """The shape of the generator with these weights; a key is `5.conv1.ffc.convl2l.weight`.

        Raises:
            ValueError: A tensor that tells a size is missing, or has an impossible shape.
        """
        width, in_channels, *_ = shape_of(weights, INPUT_KEY, 4)
        downsamplings = count(weights, r"(\d+)\.ffc\.convl2l\.weight$") - 1
        blocks = count(weights, r"(\d+)\.conv1\.ffc\.convl2l\.weight$")
        last = 4 * downsamplings + blocks + 4  # the last convolution's index in Generator.model
        key = f"{downsamplings + 1}.ffc.convl2g.weight"
        shape = shape_of(weights, key, 4)
        if shape[0] >= min(1024, width * 2**downsamplings):
            raise ValueError(f"its '{key}' is {shape}, and leaves no local channels")
        return cls(
            in_channels=in_channels,
            out_channels=shape_of(weights, f"{last}.weight", 4)[0],
            width=width,
            downsamplings=downsamplings,
            blocks=blocks,
            global_channels=shape[0],
        )


class FourierUnit(nn.Module):
    """A 1x1 convolution over the spectrum, real and imaginary parts interleaved as channels."""

    def __init__(self, channels: int, ops: Any, **kwargs: Any) -> None:
        super().__init__()
        self.conv_layer = ops.Conv2d(channels * 2, channels * 2, 1, bias=False, **kwargs)
        self.bn = ops.BatchNorm2d(channels * 2, **kwargs)

    def forward(self, x: Tensor) -> Tensor:
        # The transform is in float32 or more: half types have too few bits for a sum over the picture.
        dtype = torch.promote_types(x.dtype, torch.float32)
        z = torch.view_as_real(torch.fft.rfftn(x.to(dtype), dim=(-2, -1), norm="ortho"))  # (B, C, H, W / 2 + 1, 2)
        z = rearrange(z, "b c h w part -> b (c part) h w").to(x.dtype)
        z = self.bn(self.conv_layer(z)).relu_().to(dtype)
        z = torch.view_as_complex(rearrange(z, "b (c part) h w -> b c h w part", part=2).contiguous())
        return torch.fft.irfftn(z, s=x.shape[-2:], dim=(-2, -1), norm="ortho").to(x.dtype)


class SpectralTransform(nn.Module):
    def __init__(self, channels: int, ops: Any, **kwargs: Any) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(
            ops.Conv2d(channels, channels // 2, 1, bias=False, **kwargs), ops.BatchNorm2d(channels // 2, **kwargs)
        )
        self.fu = FourierUnit(channels // 2, ops, **kwargs)
        self.conv2 = ops.Conv2d(channels // 2, channels, 1, bias=False, **kwargs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x).relu_()
        return self.conv2(x + self.fu(x))


class FFC(nn.Module):
    """Convolutions between local and global features, Chi et al., equation 2; `convg2g` is the Fourier path."""

    def __init__(self, into: Pair, out: Pair, kernel: int, stride: int, ops: Any, **kwargs: Any) -> None:
        super().__init__()
        (in_l, in_g), (out_l, out_g) = into, out

        def conv(a: int, b: int) -> nn.Module:
            return ops.Conv2d(a, b, kernel, stride, bias=False, **kwargs)

        self.convl2l = conv(in_l, out_l)
        self.convl2g = conv(in_l, out_g) if out_g else None
        self.convg2l = conv(in_g, out_l) if in_g else None
        self.convg2g = SpectralTransform(out_g, ops, **kwargs) if in_g else None
        self.padding = (kernel // 2,) * 4

    def forward(self, x: tuple[Tensor, Tensor | None]) -> tuple[Tensor, Tensor | None]:
        x_l, x_g = x
        x_l = F.pad(x_l, self.padding, mode="reflect")
        y_l = self.convl2l(x_l)
        y_g = self.convl2g(x_l) if self.convl2g else None
        del x_l
        if x_g is not None:
            y_l += self.convg2l(F.pad(x_g, self.padding, mode="reflect"))
            y_g += self.convg2g(x_g)
        return y_l, y_g


class ConvNormReLU(nn.Module):
    def __init__(self, into: Pair, out: Pair, kernel: int, stride: int, ops: Any, **kwargs: Any) -> None:
        super().__init__()
        self.ffc = FFC(into, out, kernel, stride, ops, **kwargs)
        self.bn_l = ops.BatchNorm2d(out[0], **kwargs)
        self.bn_g = ops.BatchNorm2d(out[1], **kwargs) if out[1] else None

    def forward(self, x: tuple[Tensor, Tensor | None]) -> tuple[Tensor, Tensor | None]:
        x_l, x_g = self.ffc(x)
        return self.bn_l(x_l).relu_(), None if x_g is None else self.bn_g(x_g).relu_()


class Block(nn.Module):
    """A residual block, without an activation after the sum."""

    def __init__(self, channels: Pair, ops: Any, **kwargs: Any) -> None:
        super().__init__()
        self.conv1 = ConvNormReLU(channels, channels, 3, 1, ops, **kwargs)
        self.conv2 = ConvNormReLU(channels, channels, 3, 1, ops, **kwargs)

    def forward(self, x: Pair) -> Pair:
        y_l, y_g = self.conv2(self.conv1(x))
        return x[0] + y_l, x[1] + y_g


class Split(nn.Module):
    """The input as a pair of features, none of them global. (The published layer 0 pads instead; here FFC pads.)"""

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        return x, None


class Join(nn.Module):
    def forward(self, x: Pair) -> Tensor:
        return torch.cat(x, dim=1)


class Generator(nn.Module):
    """(B, in_channels, H, W) -> (B, out_channels, H, W) in [0, 1]. H and W are multiples of 2**downsamplings, >= 16.

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
        ops = operations
        width = [min(1024, config.width * 2**i) for i in range(config.downsamplings + 1)]
        inner = (width[-1] - config.global_channels, config.global_channels)
        self.multiple = 2**config.downsamplings  # of the picture's sides
        self.front = config.downsamplings + 2  # the first block's index
        self.blocks = config.blocks
        layers = [Split(), ConvNormReLU((config.in_channels, 0), (width[0], 0), 7, 1, ops, **kwargs)]
        for i, channels in enumerate(width[1:]):
            out = (channels, 0) if i + 1 < config.downsamplings else inner
            layers.append(ConvNormReLU((width[i], 0), out, 3, 2, ops, **kwargs))
        layers += [Block(inner, ops, **kwargs) for _ in range(config.blocks)]
        layers.append(Join())
        for wide, narrow in zip(width[:0:-1], width[-2::-1], strict=True):
            layers += [
                ops.ConvTranspose2d(wide, narrow, 3, 2, padding=1, output_padding=1, **kwargs),
                ops.BatchNorm2d(narrow, **kwargs),
                nn.ReLU(inplace=True),
            ]
        layers += [nn.ReflectionPad2d(3), ops.Conv2d(width[0], config.out_channels, 7, **kwargs), nn.Sigmoid()]
        self.model = nn.Sequential(*layers)

    def stages(self) -> list[nn.Sequential]:
        """The layers from the first block on, as one stage for each block, for each upsampling and for the output."""
        end = self.front + self.blocks
        ups = range(end + 1, len(self.model), 3)
        bounds = [*range(self.front, end + 1), *ups, len(self.model)]
        return [self.model[a:b] for a, b in zip(bounds[:-1], bounds[1:], strict=True)]

    def forward(self, x: Tensor, progress: Callable[[], None] = lambda: None) -> Tensor:
        """The prediction; `progress` is called after every layer."""
        for layer in self.model:
            x = layer(x)
            progress()
        return x
