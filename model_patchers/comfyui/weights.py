"""Weights of any model file, read without running code of the file.

A pickle is a program: it names functions and calls them. Here it can name the rebuilding of tensors and nothing else;
whatever class it names becomes an `Inert`, so a training checkpoint opens without its framework, and a TorchScript
archive opens without its code. Safetensors and plain PyTorch files go through their own safe readers.
"""

import builtins
import pickle
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

SUFFIXES = ".safetensors, .pt, .pth, .ckpt or .bin"
# Modules of Python itself whose classes only hold data. A file of weights needs no other.
DATA_MODULES = {"_codecs", "argparse", "collections", "copyreg", "datetime", "enum", "pathlib", "typing"}
DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class RunsCodeError(Exception):
    """The file names a function that could do harm. Nothing was called."""


class Inert(dict):
    """Takes the place of any class that a pickle names: holds the object's state and does nothing."""

    __hash__ = object.__hash__

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __setstate__(self, state: Any) -> None:
        self.update(state if isinstance(state, dict) else {})

    def swallow(self, *items: Any) -> None: ...

    append = extend = add = swallow


class Unpickler(pickle.Unpickler):
    """Rebuilds tensors, dicts, lists and plain values; makes everything else an `Inert`.

    Args:
        file: The pickle.
        storage: (key, dtype) -> the storage of that name, 1-D.
    """

    def __init__(self, file: Any, storage: Callable[[str, torch.dtype], Tensor]) -> None:
        super().__init__(file)
        self.storage = storage

    def persistent_load(self, pid: tuple) -> Tensor:
        _, dtype, key, *_ = pid
        return self.storage(key, dtype)

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        if (module, name) in REBUILD:
            return REBUILD[module, name]
        if _could_do_harm(module, name):
            raise RunsCodeError(f"{module}.{name}")
        return Inert


def _could_do_harm(module: str, name: str) -> bool:
    """Used for the message alone: no name outside REBUILD is ever looked up or called."""
    root = module.partition(".")[0]
    if root in ("builtins", "__builtin__"):
        return name != "getattr" and not isinstance(getattr(builtins, name, int), type)
    return root in sys.stdlib_module_names - DATA_MODULES


def _tensor(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    return storage.as_strided(size, stride, offset)


def _parameter(data: Tensor, *_: Any) -> Tensor:
    return data


REBUILD = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
}


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Every tensor in a model file, by its path of names joined with dots, on the CPU.

    The form is told from the first bytes, not from the name: safetensors; PyTorch's pickles, zipped or older than 2020;
    training checkpoints that hold objects of any framework (PyTorch Lightning's .ckpt); TorchScript archives, whose
    attributes are read and whose code is not. What a checkpoint nests is flattened: {"state_dict": {"a.b": t}} gives
    {"state_dict.a.b": t}, so look for keys by how they end.

    Raises:
        ValueError: The file is empty, damaged, no model file, holds no tensors, or would run code.
    """
    path = Path(path)
    try:
        tensors = dict(_flatten(_read(path), "", set()))
    except RunsCodeError as error:
        raise ValueError(
            f"'{path.name}' is a pickle that would run code ({error}), which weights never need. Nothing in it was run "
            "and nothing was loaded. Delete it, and get the model from its authors, as .safetensors if they have it."
        ) from None
    except (SafetensorError, zipfile.BadZipFile, pickle.UnpicklingError, RuntimeError, EOFError, LookupError) as error:
        raise ValueError(
            f"'{path.name}' ({path.stat().st_size:,} bytes) is damaged or incomplete: {str(error).splitlines()[0]} "
            "Download it again and compare its size."
        ) from error
    if not tensors:
        raise ValueError(f"'{path.name}' holds no weights. Choose a model file ({SUFFIXES}).")
    return tensors


def _read(path: Path) -> Any:
    with path.open("rb") as file:
        start = file.read(64)
    if start[8:9] == b"{":
        return safetensors.torch.load_file(path)
    if start.startswith(b"PK\x03\x04"):
        return _read_zip(path)
    if start.startswith(b"\x80"):
        return _read_legacy(path)
    content = f"it begins with {start[:32].decode('ascii', 'replace')!r}" if start else "it is empty (0 bytes)"
    raise ValueError(f"'{path.name}' is no model file: {content}. Download it again: need {SUFFIXES}.")


def _read_zip(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if not pickles:
            raise KeyError("a zip archive without PyTorch's data.pkl.")
        folder = pickles[0].removesuffix("data.pkl")
        if f"{folder}constants.pkl" not in archive.namelist():
            try:
                return torch.load(path, map_location="cpu", weights_only=True)
            except pickle.UnpicklingError:
                pass  # it holds more than tensors
        with archive.open(pickles[0]) as file:
            return Unpickler(file, _Storages(archive, folder)).load()


class _Storages(dict):
    """The storages of a zipped PyTorch file, read when they are asked for: (key, dtype) -> 1-D tensor."""

    def __init__(self, archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__()
        self.archive, self.folder = archive, folder

    def __call__(self, key: str, dtype: torch.dtype) -> Tensor:
        if key not in self:
            info = self.archive.getinfo(f"{self.folder}data/{key}")
            data = torch.empty(info.file_size, dtype=torch.uint8)
            with self.archive.open(info) as file:
                file.readinto(data.numpy())
            self[key] = data.view(dtype)
        return self[key]


def _read_legacy(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        with path.open("rb") as file:
            for _ in range(4):  # a magic number, a version, the machine, the object: find out what PyTorch refused
                Unpickler(file, _no_storage).load()
        raise


def _no_storage(key: str, dtype: torch.dtype) -> NoReturn:
    raise pickle.UnpicklingError("it holds more than tensors, in PyTorch's format older than 2020.")


def _flatten(value: Any, name: str, seen: set[int]) -> Iterator[tuple[str, Tensor]]:
    """Tensors with their names. Objects of training frameworks refer to each other in circles: each is entered once."""
    if isinstance(value, Tensor):
        yield name, value.detach()
    elif isinstance(value, dict | list | tuple) and id(value) not in seen:
        seen.add(id(value))
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _flatten(item, f"{name}.{key}" if name else str(key), seen)
