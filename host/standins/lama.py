"""A stand-in of Big-LaMa."""

import io
from pathlib import Path

import torch
from torch import Tensor, nn

from .layers import Shapes, layer
from .weights import random, save_zip


def lama(path: Path) -> None:
    """big-lama.pt: a TorchScript archive with the keys of Big-LaMa's generator, 18 blocks, a sixteenth as wide."""
    generator = torch.Generator().manual_seed(0)
    model = Tree()
    for name, shape in _lama_shapes(width=4, blocks=18):
        model.put(f"generator.model.{name}", random(name, shape, generator))
    example = torch.zeros(1, 3, 8, 8), torch.zeros(1, 1, 8, 8)
    archive = io.BytesIO()
    torch.jit.save(torch.jit.trace(model, example, check_trace=False), archive)
    save_zip(archive, path)


class Tree(nn.Module):
    """Modules inside modules, so that tensors get dotted names. What it computes is nothing."""

    def put(self, name: str, value: Tensor) -> None:
        head, _, rest = name.partition(".")
        if rest:
            if head not in self._modules:
                self.add_module(head, Tree())
            self._modules[head].put(rest, value)
        elif head.startswith(("running", "num")):
            self.register_buffer(head, value)
        else:
            self.register_parameter(head, nn.Parameter(value, requires_grad=False))

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        return image * (1 - mask)


def _lama_shapes(width: int, blocks: int) -> Shapes:
    """Names and shapes in LaMa's generator: 3 downsamplings, three quarters of the features global."""
    local, rest = width * 2, width * 6

    def norm(name: str, channels: int) -> Shapes:
        for part in ("weight", "bias", "running_mean", "running_var"):
            yield f"{name}.{part}", (channels,)
        yield f"{name}.num_batches_tracked", ()

    def block(name: str) -> Shapes:
        yield f"{name}.ffc.convl2l.weight", (local, local, 3, 3)
        yield f"{name}.ffc.convl2g.weight", (rest, local, 3, 3)
        yield f"{name}.ffc.convg2l.weight", (local, rest, 3, 3)
        yield f"{name}.ffc.convg2g.conv1.0.weight", (rest // 2, rest, 1, 1)
        yield from norm(f"{name}.ffc.convg2g.conv1.1", rest // 2)
        yield f"{name}.ffc.convg2g.fu.conv_layer.weight", (rest, rest, 1, 1)
        yield from norm(f"{name}.ffc.convg2g.fu.bn", rest)
        yield f"{name}.ffc.convg2g.conv2.weight", (rest, rest // 2, 1, 1)
        yield from norm(f"{name}.bn_l", local)
        yield from norm(f"{name}.bn_g", rest)

    yield "1.ffc.convl2l.weight", (width, 4, 7, 7)
    yield from norm("1.bn_l", width)
    for i in (2, 3):
        yield f"{i}.ffc.convl2l.weight", (width * 2 ** (i - 1), width * 2 ** (i - 2), 3, 3)
        yield from norm(f"{i}.bn_l", width * 2 ** (i - 1))
    yield "4.ffc.convl2l.weight", (local, width * 4, 3, 3)
    yield "4.ffc.convl2g.weight", (rest, width * 4, 3, 3)
    yield from norm("4.bn_l", local)
    yield from norm("4.bn_g", rest)
    for i in range(5, 5 + blocks):
        yield from block(f"{i}.conv1")
        yield from block(f"{i}.conv2")
    for i in range(3):
        index, channels = 6 + blocks + 3 * i, width * 2 ** (3 - i)
        yield f"{index}.weight", (channels, channels // 2, 3, 3)
        yield f"{index}.bias", (channels // 2,)
        yield from norm(f"{index + 1}", channels // 2)
    yield from layer(f"{blocks + 16}", 3, width, 7, 7)
