"""Seeded random weights that keep the size of what passes through them, and files of them."""

import runpy
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..environment import PACK
from .layers import Shapes

MARK = runpy.run_path(str(PACK / "model_patchers" / "comfyui" / "standins.py"))["MARK"]


def random(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """A weight for rectifying networks; normalisations do next to nothing."""
    if name.endswith("num_batches_tracked"):
        return torch.tensor(1)
    if name.endswith("gaussian_matrix"):
        return torch.randn(shape, generator=generator)
    if ".conv2.bn" in name and name.endswith("weight"):
        return torch.full(shape, 0.1)  # a block adds little, so that 18 of them do not blow up
    if name.endswith("running_var") or (name.endswith("weight") and len(shape) == 1):
        return 1 + 0.1 * torch.rand(shape, generator=generator)
    spread = (2 / torch.Size(shape[1:]).numel()) ** 0.5 if len(shape) > 1 else 0.1
    return spread * torch.randn(shape, generator=generator)


def drawn(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """A weight for networks that normalise before each layer."""
    if not shape:
        return torch.tensor(float(name.endswith("scale")))
    if len(shape) == 1:
        return 0.1 * torch.randn(shape, generator=generator) + name.endswith("weight")
    return torch.randn(shape, generator=generator) / torch.Size(shape[1:]).numel() ** 0.5


def repeated(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Like `drawn`, in float16, with rows that recur: to draw all of a text encoder takes longer than to store it."""
    if len(shape) == 1:
        return drawn(name, shape, generator).half()
    rows = drawn(name, (min(shape[0], 64), *shape[1:]), generator).half()
    return rows.repeat(-(-shape[0] // 64), *[1] * (len(shape) - 1))[: shape[0]].contiguous()


def overlapped(name: str, shape: tuple[int, ...], generator: torch.Generator, share: float = 0) -> Tensor:
    """Like `repeated`, with rows that are shifted views of one: in a pickle a matrix takes the room of a row or two.

    Args:
        share: Of its own room that a matrix takes at least. The pack's loaders refuse files with far less.
    """
    if len(shape) == 1:
        return drawn(name, shape, generator).half()
    length = torch.Size(shape[1:]).numel()
    step = max(7, int(share * length))
    row = torch.randn(length + step * shape[0], generator=generator) / length**0.5
    return row.half().as_strided((shape[0], length), (step, 1)).unflatten(1, shape[1:])


def save_drawn(shapes: Shapes, path: Path) -> None:
    """Writes weights of these names and shapes, `drawn` from seed 0, in float16."""
    generator = torch.Generator().manual_seed(0)
    save({name: drawn(name, shape, generator).half() for name, shape in shapes}, path)


def save(weights: dict[str, Tensor], path: Path) -> None:
    """Writes a safetensors file that says that it is a stand-in."""
    save_file(weights, path, {MARK: "true"})


def save_pickle(value: Any, path: Path) -> None:
    """Writes PyTorch's zipped pickle, which says that it is a stand-in."""
    torch.save(value, path)
    mark(path)


def mark(path: Path) -> None:
    """Has a zip archive say that it is a stand-in."""
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = MARK.encode()
