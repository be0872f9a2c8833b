"""Seeded random weights that keep the size of what passes through them, and files of them."""

import io
import json
import os
import runpy
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..environment import PACK
from .layers import Shapes

BLOCK = 1 << 16  # bytes; a block of zeros in a safetensors file becomes a hole, which takes no room on most disks
DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.int32: "I32"}  # their names in a safetensors file
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
    """Like `drawn`, in float16, with rows that recur: to draw all of a text encoder takes longer than to store it.

    Each token has an embedding. Of other matrices 64 rows in 1024 are drawn, and zeros take no room on the disk.
    """
    if len(shape) == 1:
        return drawn(name, shape, generator).half()
    rows = drawn(name, (min(shape[0], 64), *shape[1:]), generator).half()
    if name.endswith("token_embedding.weight"):
        return rows.repeat(-(-shape[0] // 64), *[1] * (len(shape) - 1))[: shape[0]].contiguous()
    weight = torch.zeros(shape, dtype=torch.float16)
    for part in weight.split(1024):
        part[:64] = rows[: len(part)]
    return weight


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
    """Writes a safetensors file that says that it is a stand-in, with holes in place of zeros.

    safetensors' own writer fills holes. The format: https://github.com/huggingface/safetensors#format.
    """
    header, end = {"__metadata__": {MARK: "true"}}, 0
    weights = dict(sorted(weights.items(), key=lambda item: -item[1].itemsize))  # so that all stand aligned
    for name, tensor in weights.items():
        begin, end = end, end + tensor.nbytes
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": [*tensor.shape], "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in weights.values():
            for block in tensor.flatten().view(torch.uint8).split(BLOCK):
                if block.any():
                    file.write(block.numpy())
                else:
                    file.seek(len(block), os.SEEK_CUR)
        file.truncate()


def save_pickle(value: Any, path: Path) -> None:
    """Writes PyTorch's zipped pickle, which says that it is a stand-in."""
    archive = io.BytesIO()  # PyTorch's own writer does not say when the disk is full
    torch.save(value, archive)
    save_zip(archive, path)


def save_zip(archive: io.BytesIO, path: Path) -> None:
    """Writes a zip archive and has it say that it is a stand-in."""
    with zipfile.ZipFile(archive, "a") as marked:
        marked.comment = MARK.encode()
    path.write_bytes(archive.getbuffer())
