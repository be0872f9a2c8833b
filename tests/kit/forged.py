"""PyTorch's files with whatever a test puts in them: tensors that lie anywhere, and any pickle."""

import io
import pickle
import zipfile
from typing import NamedTuple

import torch


class Storage:
    """A storage that a pickle claims."""

    def __init__(self, key, kind, count):
        self.reference = ("storage", getattr(torch, kind), key, "cpu", count)


class Forged(NamedTuple):
    """A tensor that a pickle claims, in elements of its storage."""

    storage: Storage
    size: tuple
    stride: tuple = (1,)
    offset: int = 0

    def __reduce__(self):
        return torch._utils._rebuild_tensor_v2, (self.storage, self.offset, self.size, self.stride, False, None)


class Pickler(pickle.Pickler):
    def persistent_id(self, value):
        return value.reference if isinstance(value, Storage) else None


class LegacyPickler(pickle.Pickler):
    """Each reference also says which part of the storage is meant; None: all."""

    def persistent_id(self, value):
        return (*value.reference, None)[:6] if isinstance(value, Storage) else None


def pickled(value, pickler=Pickler):
    file = io.BytesIO()
    pickler(file, 2).dump(value)
    return file.getvalue()


def tensor(key="0", kind="FloatStorage", count=10, **view):
    return Forged(Storage(key, kind, count), view.pop("size", (count,)), **view)


def write_zip(path, value, records, compression=zipfile.ZIP_STORED):
    """A zipped file. `value` may be a pickle's bytes; `records` are {storage's name: bytes}."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("w/data.pkl", value if isinstance(value, bytes) else pickled(value))
        archive.writestr("w/version", "3\n")
        for key, data in records.items():
            archive.writestr(f"w/data/{key}", data)
    return path


def write_legacy(path, value, keys, data):
    """A file as before 2020, with `data` after the list of the storages' names."""
    start = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
    path.write_bytes(b"".join(pickled(part, LegacyPickler) for part in (*start, value, keys)) + data)
    return path


def rewritten(path, change, compression=zipfile.ZIP_STORED):
    """A zip archive with each record changed: `change(name, data)` gives the new data, or None for none."""
    with zipfile.ZipFile(path) as archive:
        records = [(name, change(name, archive.read(name))) for name in archive.namelist()]
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in records:
            if data is not None:
                archive.writestr(name, data)
    return path
