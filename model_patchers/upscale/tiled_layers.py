"""The layers of a KL autoencoder on activations in RAM, a tile at a time on the device, equal to the whole picture's.

Cutting the picture before the network is what makes tiles differ: its group norms and its attention look at all of it.
Here the picture is cut anew before each layer. A convolution is given a tile with the neighbours that it reads; a group
norm the mean and the variance of all tiles, gathered while the layer before wrote them; the attention all keys and
values, in portions. So each number is computed once, there is no overlap, and nothing is left that could show a seam.
"""

from collections.abc import Callable
from dataclasses import dataclass

import comfy.ops
import torch
from comfy.ldm.modules.diffusionmodules.model import AttnBlock, Decoder, Downsample, Encoder, ResnetBlock, Upsample
from torch import Tensor, nn

TOKENS = 4096  # queries, and keys, of the attention at a time: their products take 64 MiB
SLICE = 64  # channels of a tile that are copied at a time, to take their moments
SWEEPS = {ResnetBlock: 2, AttnBlock: 3}  # how often a layer goes over all of its activation, where more than once


class Moments:
    """Mean and variance of each channel, gathered over tiles: Chan, Golub & LeVeque 1979, eq. 2.1, in float64."""

    def __init__(self, channels: int) -> None:
        self.count = 0
        self.mean = torch.zeros(channels, dtype=torch.float64)
        self.squares = torch.zeros(channels, dtype=torch.float64)  # sum of (x - mean)^2

    def add(self, x: Tensor) -> None:
        """Takes in a tile (1, C, h, w)."""
        count = x.shape[2] * x.shape[3]
        found = []
        for part in x.split(SLICE, 1):
            mean = part.float().mean((0, 2, 3), keepdim=True)
            found.append(torch.stack((mean.flatten(), (part - mean).square_().sum((0, 2, 3)))))
        mean, squares = torch.cat(found, 1).cpu().double()
        step = mean - self.mean
        self.squares += squares + step.square() * (self.count * count / (self.count + count))
        self.count += count
        self.mean += step * (count / self.count)

    def of_groups(self, groups: int) -> tuple[Tensor, Tensor]:
        """Mean and variance (C,) of each channel's group, in float32."""
        mean = self.mean.unflatten(0, (groups, -1))  # (groups, C / groups)
        middle = mean.mean(1, keepdim=True)
        variance = (self.squares.unflatten(0, (groups, -1)) / self.count + (mean - middle).square()).mean(1)
        size = mean.shape[1]
        return middle.flatten().repeat_interleave(size).float(), variance.repeat_interleave(size).float()


@dataclass
class Activation:
    """What a layer gives: all of it in RAM, (C, H, W), and its moments."""

    x: Tensor
    moments: Moments


def spans(size: int, parts: int) -> list[tuple[int, int]]:
    """Cuts an axis into parts that differ by at most one."""
    return [(size * i // parts, size * (i + 1) // parts) for i in range(parts)]


def source(span: tuple[int, int], size: int, scale: float) -> tuple[int, int, int]:
    """What a 3 x 3 convolution reads of an axis of `size` for this span of its result, and what to cut off its front.

    Args:
        scale: 1: a padding of one at both ends. 2: the same after doubling. 1/2: every second position, with one more
            position of padding at the far end only, as in the host's Downsample.

    Returns:
        First position, position after the last, and by how much the layer's result on them begins before the span.
    """
    start, stop = span
    if scale < 1:
        return 2 * start, min(size, 2 * stop + 1), 0
    low = max(0, start // scale - 1)
    return low, min(size, -(-stop // scale) + 1), start - low * scale


def group_norm(x: Tensor, norm: nn.GroupNorm, moments: Moments) -> Tensor:
    """The group norm of a tile (1, C, h, w) by the moments of all: with these given, it is a batch norm."""
    weight, bias, stream = comfy.ops.cast_bias_weight(norm, x, dtype=torch.float32, offloadable=True)
    mean, variance = (moment.to(x.device) for moment in moments.of_groups(norm.num_groups))
    normed = nn.functional.batch_norm(x, mean, variance, weight, bias, False, 0.0, norm.eps)
    comfy.ops.uncast_bias_weight(norm, weight, bias, stream)
    return normed


def activated(x: Tensor, norm: nn.GroupNorm, moments: Moments) -> Tensor:
    return nn.functional.silu(group_norm(x, norm, moments), inplace=True)


def attend(q: Tensor, k: Tensor, v: Tensor, chunk: int, device: torch.device, tick: Callable[[float], None]) -> None:
    """Writes softmax(q^T k / sqrt(C)) v over q, with no more than `chunk` queries and keys at a time.

    The softmax is gathered over the keys as in Milakov & Gimelshein 2018, algorithm 3, in float32.

    Args:
        q, k, v: (C, n) in RAM.
        tick: Is told each portion's share of the work.
    """
    channels, tokens = q.shape
    for queries in q.split(chunk, 1):
        q_i = queries.to(device).float().t() * channels**-0.5  # (i, C)
        top = torch.full((len(q_i), 1), -torch.inf, device=device)
        mass, value = torch.zeros_like(top), torch.zeros_like(q_i)
        for keys, values in zip(k.split(chunk, 1), v.split(chunk, 1), strict=True):
            scores = q_i @ keys.to(device).float()  # (i, j)
            peak = torch.maximum(top, scores.amax(1, keepdim=True))
            scores = scores.sub_(peak).exp_()
            fade = (top - peak).exp_()
            mass = mass * fade + scores.sum(1, keepdim=True)
            value = value * fade + scores @ values.to(device).float().t()
            top = peak
            tick(q_i.shape[0] * keys.shape[1] / tokens**2)
        queries.copy_((value / mass).t())


def decoder_layers(decoder: Decoder) -> list[nn.Module]:
    """A decoder's layers in their order."""
    layers = [decoder.conv_in, decoder.mid.block_1, decoder.mid.attn_1, decoder.mid.block_2]
    for level in reversed(range(decoder.num_resolutions)):
        up = decoder.up[level]
        layers += _blocks(up)
        if level:
            layers.append(up.upsample)
    return [*layers, nn.Sequential(decoder.norm_out, nn.SiLU(), decoder.conv_out)]


def encoder_layers(encoder: Encoder) -> list[nn.Module]:
    """An encoder's layers in their order."""
    layers = [encoder.conv_in]
    for level in range(encoder.num_resolutions):
        down = encoder.down[level]
        layers += _blocks(down)
        if level < encoder.num_resolutions - 1:
            layers.append(down.downsample)
    layers += [encoder.mid.block_1, encoder.mid.attn_1, encoder.mid.block_2]
    return [*layers, nn.Sequential(encoder.norm_out, nn.SiLU(), encoder.conv_out)]


def _blocks(level: nn.Module) -> list[nn.Module]:
    attentions = level.attn or [None] * len(level.block)
    pairs = zip(level.block, attentions, strict=True)
    return [layer for pair in pairs for layer in pair if layer is not None]


def factor(layer: nn.Module) -> float:
    """By how much a layer enlarges."""
    return {Upsample: 2, Downsample: 0.5}.get(type(layer), 1)


def costs(layers: list[nn.Module], height: int, width: int) -> list[float]:
    """Multiplications in each layer, for an input of this size."""
    found = []
    for layer in layers:
        height, width = int(height * factor(layer)), int(width * factor(layer))
        weights = sum(weight.numel() for weight in layer.parameters() if weight.ndim == 4)
        products = 2 * layer.in_channels * height * width if isinstance(layer, AttnBlock) else 0
        found.append((weights + products) * height * width)
    return found


@dataclass
class TiledLayers:
    """Runs layers, each over rows x columns tiles of its result.

    Args:
        rows, columns: How many tiles there are, the same at every resolution.
        device: Where tiles are computed, and where the layers were loaded for.
        tick: Is told each portion's share of the work, 1 in all, and may raise.
    """

    rows: int
    columns: int
    device: torch.device
    tick: Callable[[float], None]

    def run(self, layers: list[nn.Module], x: Tensor) -> Tensor:
        """All layers in turn: (C, H, W) in RAM to the same. x is not written to."""
        work = costs(layers, *x.shape[1:])
        activation = Activation(x, Moments(len(x)))
        for layer, cost in zip(layers, work, strict=True):
            share = cost / sum(work) / SWEEPS.get(type(layer), 1)
            activation = self.layer(layer, activation, lambda part, share=share: self.tick(part * share))
        return activation.x

    def layer(self, layer: nn.Module, a: Activation, tick: Callable[[float], None]) -> Activation:
        if isinstance(layer, ResnetBlock):
            return self.residual(layer, a, tick)
        if isinstance(layer, AttnBlock):
            return self.attention(layer, a, tick)
        if isinstance(layer, nn.Sequential):
            norm, _, conv = layer
            return self.sweep(a.x, _like(a.x, conv.out_channels), lambda x: conv(activated(x, norm, a.moments)), tick)
        scale = factor(layer)
        channels = len(a.x) if scale != 1 else layer.out_channels
        return self.sweep(a.x, _like(a.x, channels, scale), layer, tick, scale)

    def residual(self, block: ResnetBlock, a: Activation, tick: Callable[[float], None]) -> Activation:
        """h = conv1(silu(norm1(x))), then x + conv2(silu(norm2(h))), written over x where there is room."""

        def first(x: Tensor) -> Tensor:
            return block.conv1(activated(x, block.norm1, a.moments))

        def second(x: Tensor) -> Tensor:
            return block.conv2(activated(x, block.norm2, h.moments))

        def shortcut(rows: slice, columns: slice) -> Tensor:
            x = a.x[None, :, rows, columns].to(self.device)
            return x if block.in_channels == block.out_channels else block.nin_shortcut(x)

        h = self.sweep(a.x, _like(a.x, block.out_channels), first, tick)
        out = torch.empty_like(h.x) if block.out_channels > block.in_channels else a.x[: block.out_channels]
        return self.sweep(h.x, out, second, tick, plus=shortcut)

    def attention(self, block: AttnBlock, a: Activation, tick: Callable[[float], None]) -> Activation:
        """x + proj_out(attention(q, k, v)), written over x."""

        def projected(x: Tensor) -> Tensor:
            normed = group_norm(x, block.norm, a.moments)
            return torch.cat([part(normed) for part in (block.q, block.k, block.v)], 1)

        qkv = self.sweep(a.x, _like(a.x, 3 * len(a.x)), projected, tick).x
        height, width = a.x.shape[1:]
        q, k, v = qkv.flatten(1).chunk(3)
        chunk = min(TOKENS, -(-height // self.rows) * -(-width // self.columns))
        attend(q, k, v, chunk, self.device, tick)
        found = q.unflatten(1, (height, width))
        return self.sweep(
            found, a.x, block.proj_out, tick, plus=lambda rows, columns: a.x[None, :, rows, columns].to(self.device)
        )

    def sweep(
        self,
        x: Tensor,
        out: Tensor,
        layer: Callable[[Tensor], Tensor],
        tick: Callable[[float], None],
        scale: float = 1,
        plus: Callable[[slice, slice], Tensor] | None = None,
    ) -> Activation:
        """Writes layer(x) to `out` tile by tile, and gathers its moments.

        Args:
            x: (C, H, W) in RAM.
            out: (C', scale H, scale W) in RAM. What `layer` still reads must not lie there.
            layer: At most a 3 x 3 convolution, of tiles (1, C, h, w) on the device.
            scale: As in `source`.
            plus: What to add to a tile of the result.
        """
        moments = Moments(len(out))
        for top, bottom in spans(out.shape[1], self.rows):
            y0, y1, dy = source((top, bottom), x.shape[1], scale)
            for left, right in spans(out.shape[2], self.columns):
                x0, x1, dx = source((left, right), x.shape[2], scale)
                tile = layer(x[None, :, y0:y1, x0:x1].to(self.device))
                tile = tile[..., dy : dy + bottom - top, dx : dx + right - left]
                rows, columns = slice(top, bottom), slice(left, right)
                if plus is not None:
                    tile = plus(rows, columns) + tile
                out[:, rows, columns] = tile[0]
                moments.add(tile)
                del tile  # before there is another
                tick(1 / (self.rows * self.columns))
        return Activation(out, moments)


def _like(x: Tensor, channels: int, scale: float = 1) -> Tensor:
    return x.new_empty(channels, int(x.shape[1] * scale), int(x.shape[2] * scale))
