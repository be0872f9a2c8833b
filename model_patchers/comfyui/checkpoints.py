"""PyTorch's files: a pickle that says how tensors lie in storages, and the storages' bytes.

Every byte of a tensor is a byte of the file, and every size is checked before memory is made for it.
"""

import io
import math
import struct
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor

from . import pickles
from .pickles import DamagedError, Name, Pairs, Stored, Thing

CHUNK = 1 << 20
ENCRYPTED = 1
MOST_LEVELS = 100
MOST_DIMENSIONS = 64  # as NumPy
OBJECT = 1 << 10  # bytes that a tensor takes beside its numbers
MAGIC_NUMBER = 0x1950A86A20F9469CFC6C  # of PyTorch's files before 2020
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
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "UntypedStorage": torch.uint8,
}
NEW_DTYPES = {  # those without a storage of their own
    "float8_e4m3fn": torch.float8_e4m3fn,
    "float8_e5m2": torch.float8_e5m2,
    "float8_e4m3fnuz": torch.float8_e4m3fnuz,
    "float8_e5m2fnuz": torch.float8_e5m2fnuz,
    "uint16": torch.uint16,
    "uint32": torch.uint32,
    "uint64": torch.uint64,
}
ORDERED_DICT = Name("collections", "OrderedDict")
TENSORS = {Name("torch._utils", f"_rebuild_tensor{version}") for version in ("", "_v2", "_v3")}
PARAMETERS = {Name("torch._utils", f"_rebuild_parameter{state}") for state in ("", "_with_state")}
SUBCLASS = Name("torch._tensor", "_rebuild_from_type_v2")


def bound(size: int) -> int:
    """The most bytes that a file of `size` bytes may become: eight times as many, and 16 MiB for small files.

    PyTorch's own files become as many as they have. Zip archives that someone compressed, and tensors that share a
    storage, become more.
    """
    return 8 * size + (16 << 20)


class Claim(NamedTuple):
    """A storage as the pickle describes it.

    Attributes:
        count: In elements of `dtype`.
        offset: Where the part of it begins that is meant, in elements. Files of 2017 have such parts.
    """

    key: str
    dtype: torch.dtype
    count: int
    offset: int


class View(NamedTuple):
    """A tensor as the pickle describes it, in elements of `dtype`."""

    storage: Claim
    dtype: torch.dtype
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def read_zip(path: Path) -> dict[str, Tensor]:
    """The tensors of a zipped PyTorch file or a TorchScript archive, by their paths of names joined with dots.

    Raises:
        RunsCodeError, DamagedError, and what zipfile and pickletools raise for damaged files.
    """
    limit = bound(path.stat().st_size)
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        unpacked = sum(entry.file_size for entry in entries)
        if unpacked > limit:
            raise DamagedError(f"it unpacks to {unpacked:,} bytes, and a model of its size to {limit:,} at most.")
        folders = [entry.filename.removesuffix("data.pkl") for entry in entries if entry.filename.endswith("/data.pkl")]
        if not folders:
            raise DamagedError("it is a zip archive without PyTorch's data.pkl.")
        storages = _ZippedStorages(archive, folders[0])
        value, _ = pickles.load(storages.pickle())
        return tensors(value, storages, limit)


def read_legacy(path: Path) -> dict[str, Tensor]:
    """The tensors of a PyTorch file older than 2020, by their paths of names joined with dots.

    Raises:
        RunsCodeError, DamagedError, and what pickletools raises for damaged files.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        source = _Bounded(file, size)
        magic, _ = pickles.load(source)
        if magic != MAGIC_NUMBER:
            raise DamagedError("it is a pickle, but none of PyTorch's.")
        _version, _machine = pickles.load(source), pickles.load(source)
        value, stored = pickles.load(source)
        keys, _ = pickles.load(source)
        return tensors(value, _LegacyStorages(file, size, keys, stored), bound(size))


def tensors(value: Any, storages: "_Storages", limit: int) -> dict[str, Tensor]:
    """The tensors in a pickle's value, by their paths of names joined with dots.

    Args:
        value: From pickles.load.
        storages: Where the tensors lie.
        limit: The most bytes for all of them, with their names.
    """
    views, room = {}, 0
    for name, view in _views(value, (), set()):
        room += math.prod(view.size) * view.dtype.itemsize + len(name) + OBJECT
        if room > limit:
            raise DamagedError(f"it describes tensors of more than {limit:,} bytes.")
        views[name] = view
    return {name: _tensor(view, storages) for name, view in views.items()}


def _views(value: Any, keys: tuple[Any, ...], seen: set[int]) -> Iterator[tuple[str, View]]:
    """Objects of training frameworks refer to each other in circles: each is entered once."""
    if isinstance(value, Thing) and (view := _view(value)):
        yield ".".join(map(_text, keys)), view
        return
    if len(keys) > MOST_LEVELS:
        raise DamagedError(f"it nests more than {MOST_LEVELS} levels deep.")
    for part, in_pairs in _parts(value):
        if id(part) not in seen:
            seen.add(id(part))
            for key, item in part if in_pairs else enumerate(part):
                yield from _views(item, (*keys, key), seen)


def _parts(value: Any) -> Iterator[tuple[list | tuple, bool]]:
    """The containers whose items lie directly below a value, and whether their items are (key, value)."""
    if type(value) in (list, tuple, Pairs):
        yield value, type(value) is Pairs
    elif isinstance(value, Thing):
        yield from ((part, True) for part in (value.entries, *value.states) if type(part) is Pairs)
        if value.maker == ORDERED_DICT and value.arguments:
            yield value.arguments[0], True  # as Python 2 wrote it


def _text(key: Any) -> str:
    if isinstance(key, Name):
        return f"{key.module}.{key.name}"
    return str(key) if isinstance(key, str | int | float | None) else "?"  # an object, which has no name


def _view(thing: Thing) -> View | None:
    """The tensor that a Thing is; None for any other."""
    for _ in range(4):  # a parameter of a subclass of a tensor
        maker, arguments = thing.maker, thing.arguments
        if not isinstance(maker, Name):
            return None
        if maker in TENSORS:
            storage, offset, size, stride, *more = arguments
            claim = _claim(storage)
            dtype = _dtype(more[2], NEW_DTYPES) if maker.name.endswith("_v3") else claim.dtype
            (start,) = _counts((offset,))
            return View(claim, dtype, claim.offset + start, _counts(size), _counts(stride))
        if maker in PARAMETERS:
            thing = arguments[0]
        elif maker == SUBCLASS:
            thing = Thing(arguments[0], arguments[2])
        else:
            return None
    raise DamagedError("it wraps a tensor again and again.")


def _claim(stored: Any) -> Claim:
    if not isinstance(stored, Stored):
        raise DamagedError("it has a tensor without a storage.")
    form, kind, key, _, count, *part = stored.reference
    if form != "storage" or not isinstance(key, str):
        raise DamagedError("it has a storage without a name.")
    offset = part[0][1] if part and part[0] else 0
    return Claim(key, _dtype(kind, DTYPES), *_counts((count, offset)))


def _is_storage(stored: Stored) -> bool:
    """Else it is the class of a network with its source, which PyTorch's older files have."""
    return isinstance(stored.reference, tuple) and stored.reference[:1] == ("storage",)


def _dtype(name: Any, dtypes: dict[str, torch.dtype]) -> torch.dtype:
    if not isinstance(name, Name) or name.name not in dtypes:
        raise DamagedError("it has a tensor of a type that is unknown here.")
    return dtypes[name.name]


def _counts(numbers: Any) -> tuple[int, ...]:
    if (
        not isinstance(numbers, list | tuple)
        or len(numbers) > MOST_DIMENSIONS
        or not all(isinstance(n, int) and 0 <= n < 1 << 62 for n in numbers)
    ):
        raise DamagedError("it has a tensor whose sizes are no sizes.")
    return tuple(numbers)


def _tensor(view: View, storages: "_Storages") -> Tensor:
    _, stored, count, _ = view.storage
    data = storages.read(view.storage.key)
    if data.numel() // stored.itemsize != count:
        raise DamagedError(f"a storage of {count * stored.itemsize:,} bytes has {data.numel():,} bytes.")
    elements = _elements(data, view.dtype, storages.big_endian)
    last = view.offset + sum((n - 1) * step for n, step in zip(view.size, view.stride, strict=True))
    if math.prod(view.size) and last >= elements.numel():
        raise DamagedError("it has a tensor that lies outside its storage.")
    return elements.as_strided(view.size, view.stride, view.offset)


def _elements(data: Tensor, dtype: torch.dtype, big_endian: bool) -> Tensor:
    data = data[: data.numel() // dtype.itemsize * dtype.itemsize]
    if big_endian:
        word = dtype.itemsize // 2 if dtype.is_complex else dtype.itemsize
        data = data.reshape(-1, word).flip(1).reshape(-1)
    return data.view(dtype)


class _Storages(ABC):
    """The storages of a file by their names, each read once: uint8 (n,)."""

    big_endian = False

    def __init__(self) -> None:
        self.data: dict[str, Tensor] = {}

    def read(self, key: str) -> Tensor:
        if key not in self.data:
            self.data[key] = self.bytes_of(key)
        return self.data[key]

    @abstractmethod
    def bytes_of(self, key: str) -> Tensor: ...


class _ZippedStorages(_Storages):
    def __init__(self, archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__()
        self.archive, self.folder = archive, folder
        if f"{folder}byteorder" in archive.namelist():
            self.big_endian = bytes(self.record("byteorder").tolist()) == b"big"

    def bytes_of(self, key: str) -> Tensor:
        return self.record(f"data/{key}")

    def pickle(self) -> io.BytesIO:
        return io.BytesIO(self.record("data.pkl").numpy())

    def record(self, name: str) -> Tensor:
        try:
            entry = self.archive.getinfo(f"{self.folder}{name}")
        except KeyError:
            raise DamagedError(f"it lacks the record {name[:40]!r}.") from None
        if entry.flag_bits & ENCRYPTED or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise DamagedError(f"its record {name[:40]!r} is encrypted or packed in an unusual way.")
        if entry.compress_type == zipfile.ZIP_STORED and entry.compress_size != entry.file_size:
            raise DamagedError(f"a record of {entry.file_size:,} bytes has {entry.compress_size:,} bytes.")
        if not entry.CRC:
            entry.CRC = None  # zipfile checks none: PyTorch saved with set_crc32_options(False)
        with self.archive.open(entry) as file:
            return _read(file, entry.file_size)


class _LegacyStorages(_Storages):
    """After the pickles comes for each storage the number of its elements, int64, and its bytes."""

    def __init__(self, file: BinaryIO, size: int, keys: Any, stored: list[Stored]) -> None:
        super().__init__()
        self.file = file
        self.places: dict[str, tuple[int, int]] = {}  # where its bytes begin, and how many they are
        claims = {claim.key: claim for claim in map(_claim, filter(_is_storage, stored))}
        for key in keys:
            if not isinstance(key, str) or key not in claims:
                raise DamagedError("it has a storage that no tensor lies in.")
            (count,) = struct.unpack("<q", file.read(8))
            start, length = file.tell(), count * claims[key].dtype.itemsize
            if not 0 <= length <= size - start:
                raise DamagedError(f"a storage of {length:,} bytes has {size - start:,} bytes.")
            self.places[key] = start, length
            file.seek(start + length)

    def bytes_of(self, key: str) -> Tensor:
        if key not in self.places:
            raise DamagedError("it lacks the storage of a tensor.")
        start, length = self.places[key]
        self.file.seek(start)
        return _read(self.file, length)


class _Bounded:
    """A file to read pickles from, which makes no room for more bytes than the file has."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file, self.size = file, size

    def read(self, count: int) -> bytes:
        return self.file.read(min(count, self.size))

    def readline(self) -> bytes:
        return self.file.readline()


def _read(file: BinaryIO, size: int) -> Tensor:
    """So many bytes of a file, all of them or none: uint8 (size,)."""
    try:
        data = torch.empty(size, dtype=torch.uint8)
    except RuntimeError as error:
        raise MemoryError from error
    room, at = memoryview(data.numpy()), 0
    while at < size:
        count = file.readinto(room[at : at + CHUNK])
        if not count:
            raise DamagedError(f"a record of {size:,} bytes has {at:,} bytes.")
        at += count
    return data
