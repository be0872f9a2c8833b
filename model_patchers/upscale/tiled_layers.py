"""Runs the layers of a KL autoencoder in tiles, with the results of the whole picture.

A picture that is cut before the network gets tiles that differ, because group norms and attention see one tile instead
of the picture. Here activations stay in RAM and are cut before each layer, a tile at a time on the device. A
convolution gets a tile with the neighbours that it reads. A group norm gets the mean and the variance of all tiles,
measured while the layer before wrote them. The attention gets all keys and values, in chunks. So each number is
computed once, tiles do not overlap, and there are no seams.
"""

from collections.abc import Callable
from dataclasses import dataclass

import comfy.ops
import torch
from comfy.ldm.modules.diffusionmodules.model import AttnBlock, Decoder, Downsample, Encoder, ResnetBlock, Upsample
from torch import Tensor, nn

TOKENS = 4096  # the most queries, and keys, of the attention at a time: their products take 64 MiB
SLICE = 64  # channels whose moments are measured at a time, on a copy
PASSES = {ResnetBlock: 2, AttnBlock: 3}  # passes over the activation per layer type (default 1)


class Moments:
    """Mean and variance of each channel over all tiles, updated tile by tile in float64.

    Chan, Golub & LeVeque 1979, eq. 2.1. The tiles so far have n values of mean m and sum of squares M = sum (x - m)^2,
    the new tile has n', m' and M'. With d = m' - m, together they have the mean m + d n' / (n + n') and the sum of
    squares M + M' + d^2 n n' / (n + n').
    """

    def __init__(self, channels: int) -> None:
        self.count = 0
        self.mean = torch.zeros(channels, dtype=torch.float64)
        self.squares = torch.zeros(channels, dtype=torch.float64)  # sum of (x - mean)^2

    def add(self, x: Tensor) -> None:
        """Adds a tile (1, C, h, w)."""
        count = x.shape[2] * x.shape[3]
        moments = []
        for channels in x.split(SLICE, 1):
            mean = channels.float().mean((0, 2, 3), keepdim=True)
            moments.append(torch.stack((mean.flatten(), (channels - mean).square_().sum((0, 2, 3)))))
        mean, squares = torch.cat(moments, 1).cpu().double()
        step = mean - self.mean
        self.squares += squares + step.square() * (self.count * count / (self.count + count))
        self.count += count
        self.mean += step * (count / self.count)

    def of_groups(self, groups: int) -> tuple[Tensor, Tensor]:
        """Mean and variance (C,) of each channel's group, in float32.

        A group's variance is the mean of its channels' variances plus the variance of their means: the law of total
        variance, for channels of equal size.
        """
        mean = self.mean.unflatten(0, (groups, -1))  # (groups, C / groups)
        group_mean = mean.mean(1, keepdim=True)
        variance = (self.squares.unflatten(0, (groups, -1)) / self.count + (mean - group_mean).square()).mean(1)
        size = mean.shape[1]
        return group_mean.flatten().repeat_interleave(size).float(), variance.repeat_interleave(size).float()


@dataclass
class Activation:
    """The result of a layer: x, (C, H, W) in RAM, and its moments."""

    x: Tensor
    moments: Moments


def spans(size: int, parts: int) -> list[tuple[int, int]]:
    """Cuts an axis into parts whose lengths differ by at most one: (start, stop) of each."""
    return [(size * i // parts, size * (i + 1) // parts) for i in range(parts)]


def source(span: tuple[int, int], size: int, scale: float, wrap: bool = False) -> tuple[int, int, int]:
    """The positions that a 3 x 3 convolution reads for a span of its result.

    Args:
        span: First position of the result, position after the last.
        size: Length of the axis that it reads.
        scale: 1: padded by one position at both ends. 2: doubled, then as 1. 1/2: every second position, padded by one
            at the far end only, as in ComfyUI's Downsample.
        wrap: Whether the axis is a ring, so that the convolution reads beyond both ends. (A Downsample's does not.)

    Returns:
        First position, position after the last, and how many positions of the result on them come before the span. On
        a ring, positions may lie below 0 and above `size`.
    """
    start, stop = span
    if scale < 1:
        return 2 * start, min(size, 2 * stop + 1), 0
    low, high = start // scale - 1, -(-stop // scale) + 1
    if not wrap:
        low, high = max(0, low), min(size, high)
    return low, high, start - low * scale


def cut(x: Tensor, rows: tuple[int, int], columns: tuple[int, int]) -> Tensor:
    """Part (..., h, w) of x, (..., H, W), between two rows and two columns. Beyond its ends x continues as a ring."""
    (top, bottom), (left, right), (height, width) = rows, columns, x.shape[-2:]
    if min(top, left) >= 0 and bottom <= height and right <= width:
        return x[..., top:bottom, left:right]
    y, x_at = torch.arange(top, bottom) % height, torch.arange(left, right) % width
    return x[..., y.to(x.device)[:, None], x_at.to(x.device)]


def group_norm(x: Tensor, norm: nn.GroupNorm, moments: Moments) -> Tensor:
    """The group norm of a tile (1, C, h, w) with the moments of all tiles, computed as a batch norm with them."""
    weight, bias, stream = comfy.ops.cast_bias_weight(norm, x, dtype=torch.float32, offloadable=True)
    mean, variance = (moment.to(x.device) for moment in moments.of_groups(norm.num_groups))
    normed = nn.functional.batch_norm(x, mean, variance, weight, bias, False, 0.0, norm.eps)
    comfy.ops.uncast_bias_weight(norm, weight, bias, stream)
    return normed


def activated(x: Tensor, norm: nn.GroupNorm, moments: Moments) -> Tensor:
    return nn.functional.silu(group_norm(x, norm, moments), inplace=True)


def attend(
    q: Tensor, k: Tensor, v: Tensor, chunk: int, device: torch.device, progress: Callable[[float], None]
) -> None:
    """Writes softmax(q^T k / sqrt(C)) v over q, with at most `chunk` queries and keys at a time, in float32.

    The softmax is accumulated over chunks of keys, as in Milakov & Gimelshein 2018, algorithm 3. With the scores s and
    the values v of a chunk, the largest score m, the sum d of exponentials and the output o become
    m' = max(m, max s), d' = d e^(m - m') + sum e^(s - m'), o' = o e^(m - m') + e^(s - m') v. The result is o / d.

    Args:
        q, k, v: (C, n) in RAM.
        progress: Called with the share of the work of each chunk.
    """
    channels, tokens = q.shape
    for queries in q.split(chunk, 1):
        q_i = queries.to(device).float().t() * channels**-0.5  # (i, C)
        m = torch.full((len(q_i), 1), -torch.inf, device=device)
        d, o = torch.zeros_like(m), torch.zeros_like(q_i)
        for keys, values in zip(k.split(chunk, 1), v.split(chunk, 1), strict=True):
            scores = q_i @ keys.to(device).float()  # (i, j)
            m_new = torch.maximum(m, scores.amax(1, keepdim=True))
            weights = scores.sub_(m_new).exp_()
            rescale = (m - m_new).exp_()
            d = d * rescale + weights.sum(1, keepdim=True)
            o = o * rescale + weights @ values.to(device).float().t()
            m = m_new
            progress(q_i.shape[0] * keys.shape[1] / tokens**2)
        queries.copy_((o / d).t())


def decoder_layers(decoder: Decoder) -> list[nn.Module]:
    """The layers of a decoder in their order."""
    layers = [decoder.conv_in, decoder.mid.block_1, decoder.mid.attn_1, decoder.mid.block_2]
    for level in reversed(range(decoder.num_resolutions)):
        up = decoder.up[level]
        layers += _blocks(up)
        if level:
            layers.append(up.upsample)
    return [*layers, nn.Sequential(decoder.norm_out, nn.SiLU(), decoder.conv_out)]


def encoder_layers(encoder: Encoder) -> list[nn.Module]:
    """The layers of an encoder in their order."""
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
    """The scale of a layer's result: its height over the height of the layer's input."""
    return {Upsample: 2, Downsample: 0.5}.get(type(layer), 1)


def costs(layers: list[nn.Module], height: int, width: int) -> list[float]:
    """The number of multiplications in each layer, for an input of (height, width)."""
    multiplications = []
    for layer in layers:
        height, width = int(height * factor(layer)), int(width * factor(layer))
        weights = sum(weight.numel() for weight in layer.parameters() if weight.ndim == 4)
        products = 2 * layer.in_channels * height * width if isinstance(layer, AttnBlock) else 0
        multiplications.append((weights + products) * height * width)
    return multiplications


@dataclass
class TiledLayers:
    """Runs layers, each in rows x columns tiles of its result.

    Args:
        rows, columns: The number of tiles, the same at every resolution.
        device: The device of the layers, which computes the tiles.
        progress: Called with the share of the work of each tile or chunk, 1 in all; it may raise.
        wrap: Whether the convolutions pad a picture with its other side (padding_mode "circular"). Each tile then gets
            its neighbours at all four sides, and what a convolution pads is cropped.
    """

    rows: int
    columns: int
    device: torch.device
    progress: Callable[[float], None]
    wrap: bool = False

    def run(self, layers: list[nn.Module], x: Tensor) -> Tensor:
        """The result of all layers in turn, (C', H', W') in RAM, from x, (C, H, W) in RAM. x is not written to."""
        work = costs(layers, *x.shape[1:])
        activation = Activation(x, Moments(len(x)))
        for layer, cost in zip(layers, work, strict=True):
            pass_share = cost / sum(work) / PASSES.get(type(layer), 1)
            activation = self.layer(layer, activation, lambda share, of=pass_share: self.progress(share * of))
        return activation.x

    def layer(self, layer: nn.Module, a: Activation, progress: Callable[[float], None]) -> Activation:
        """The result of one layer.

        Args:
            progress: Called with the share of each tile or chunk in a pass; each of the layer's passes counts 1.
        """
        if isinstance(layer, ResnetBlock):
            return self.residual(layer, a, progress)
        if isinstance(layer, AttnBlock):
            return self.attention(layer, a, progress)
        if isinstance(layer, nn.Sequential):
            norm, _, conv = layer
            out = _like(a.x, conv.out_channels)
            return self.over_tiles(a.x, out, lambda x: conv(activated(x, norm, a.moments)), progress)
        scale = factor(layer)
        channels = len(a.x) if scale != 1 else layer.out_channels
        return self.over_tiles(a.x, _like(a.x, channels, scale), layer, progress, scale)

    def residual(self, block: ResnetBlock, a: Activation, progress: Callable[[float], None]) -> Activation:
        """x + conv2(silu(norm2(h))), h = conv1(silu(norm1(x))). It is written over x unless it has more channels."""

        def first(x: Tensor) -> Tensor:
            return block.conv1(activated(x, block.norm1, a.moments))

        def second(x: Tensor) -> Tensor:
            return block.conv2(activated(x, block.norm2, h.moments))

        def shortcut(rows: slice, columns: slice) -> Tensor:
            x = a.x[None, :, rows, columns].to(self.device)
            return x if block.in_channels == block.out_channels else block.nin_shortcut(x)

        h = self.over_tiles(a.x, _like(a.x, block.out_channels), first, progress)
        out = torch.empty_like(h.x) if block.out_channels > block.in_channels else a.x[: block.out_channels]
        return self.over_tiles(h.x, out, second, progress, plus=shortcut)

    def attention(self, block: AttnBlock, a: Activation, progress: Callable[[float], None]) -> Activation:
        """x + proj_out(attention(q, k, v)), with q, k and v from norm(x). It is written over x."""

        def projected(x: Tensor) -> Tensor:
            normed = group_norm(x, block.norm, a.moments)
            return torch.cat([part(normed) for part in (block.q, block.k, block.v)], 1)

        def identity(rows: slice, columns: slice) -> Tensor:
            return a.x[None, :, rows, columns].to(self.device)

        qkv = self.over_tiles(a.x, _like(a.x, 3 * len(a.x)), projected, progress).x
        height, width = a.x.shape[1:]
        q, k, v = qkv.flatten(1).chunk(3)
        chunk = min(TOKENS, -(-height // self.rows) * -(-width // self.columns))  # at most the pixels of a tile
        attend(q, k, v, chunk, self.device, progress)
        attended = q.unflatten(1, (height, width))
        return self.over_tiles(attended, a.x, block.proj_out, progress, plus=identity)

    def over_tiles(
        self,
        x: Tensor,
        out: Tensor,
        layer: Callable[[Tensor], Tensor],
        progress: Callable[[float], None],
        scale: float = 1,
        plus: Callable[[slice, slice], Tensor] | None = None,
    ) -> Activation:
        """One pass: writes layer(x) to `out` tile by tile, and measures its moments.

        Args:
            x: (C, H, W) in RAM.
            out: (C', scale H, scale W) in RAM. Must not alias anything that `layer` still reads.
            layer: A function of tiles (1, C, h, w) on the device that reads no more than a 3 x 3 convolution does.
            progress: Called with each tile's share of the pass.
            scale: As in `source`.
            plus: A function of rows and columns of the result, whose value is added to the tile there.
        """
        moments = Moments(len(out))
        for top, bottom in spans(out.shape[1], self.rows):
            y0, y1, dy = source((top, bottom), x.shape[1], scale, self.wrap)
            for left, right in spans(out.shape[2], self.columns):
                x0, x1, dx = source((left, right), x.shape[2], scale, self.wrap)
                tile = layer(cut(x, (y0, y1), (x0, x1))[None].to(self.device))
                tile = tile[..., dy : dy + bottom - top, dx : dx + right - left]
                rows, columns = slice(top, bottom), slice(left, right)
                if plus is not None:
                    tile = plus(rows, columns) + tile
                out[:, rows, columns] = tile[0]
                moments.add(tile)
                del tile  # frees its memory before the next tile
                progress(1 / (self.rows * self.columns))
        return Activation(out, moments)


def _like(x: Tensor, channels: int, scale: float = 1) -> Tensor:
    return x.new_empty(channels, int(x.shape[1] * scale), int(x.shape[2] * scale))
