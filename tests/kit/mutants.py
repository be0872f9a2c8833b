"""Damaged copies of model files. Seeded: a failure repeats."""

import io
import json
import pickletools
import random
import struct
import zipfile
from collections.abc import Callable, Iterator

import torch

Bytes = Callable[[bytes, random.Random], bytes]
NAMES = [
    "cos\nsystem\n",
    "cbuiltins\nexec\n",
    "ctorch._utils\n_rebuild_tensor\n",
    "ctorch._utils\n_rebuild_parameter\n",
    "ctorch._utils\n_rebuild_sparse_tensor\n",
    "ctorch\nBoolStorage\n",
    "ctorch.storage\nUntypedStorage\n",
    "ccollections\nOrderedDict\n",
]
STEPS = [name.encode() for name in NAMES] + [
    *(bytes((code,)) for code in b".0(2N)]}tRlub\x81\x85\x86\x87\x88Qoaes\x90\x91\x93\x94"),
    *(bytes((code,)) + b"\xff\xff\xff\x7f" for code in b"rjJTXB\x8b"),
    *(bytes((code,)) + bytes(5) + b"\x01\0\0" for code in b"\x8d\x8e\x95\x96"),
    b"h\0",
    b"K\xff",
    b"U\x010",
]


def endless(content: bytes, seed: int, *ways: Bytes) -> Iterator[tuple[str, bytes]]:
    """Damaged copies, one after the other, each with the name of the damage."""
    rng = random.Random(seed)
    while True:
        way = rng.choice(ways)
        yield way.__name__, way(content, rng)


def place(content: bytes, rng: random.Random) -> int:
    """Half of them near the start or the end, where the files' own words stand."""
    near = min(len(content), 2000)
    return rng.choice((rng.randrange(len(content)), rng.randrange(near), len(content) - 1 - rng.randrange(near)))


def flipped(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 8, 100))):
        changed[place(content, rng)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def overwritten(content: bytes, rng: random.Random) -> bytes:
    at, length = place(content, rng), rng.choice((1, 4, 8, 100))
    patch = rng.choice((bytes(length), b"\xff" * length, rng.randbytes(length)))
    return content[:at] + patch + content[at + length :]


def cut(content: bytes, rng: random.Random) -> bytes:
    return content[: place(content, rng)]


def longer(content: bytes, rng: random.Random) -> bytes:
    return content + rng.choice((bytes(100), rng.randbytes(1000), content))


def shifted(content: bytes, rng: random.Random) -> bytes:
    at, length = place(content, rng), rng.choice((1, 4, 64))
    return content[:at] + rng.choice((b"", rng.randbytes(2 * length))) + content[at + length :]


def exchanged(content: bytes, rng: random.Random) -> bytes:
    length = rng.choice((1, 8, 200))
    a, b = sorted((place(content, rng), place(content, rng)))
    b = max(b, a + length)
    return (
        content[:a]
        + content[b : b + length]
        + content[a + length : b]
        + content[a : a + length]
        + content[b + length :]
    )


BYTES = (flipped, overwritten, cut, longer, shifted, exchanged)


def opcodes(pickle: bytes) -> list[bytes]:
    places = [at for _, _, at in pickletools.genops(pickle)]
    return [pickle[a:b] for a, b in zip(places, [*places[1:], places[-1] + 1], strict=True)]


def repickled(pickle: bytes, rng: random.Random) -> bytes:
    """With steps of the program left out, doubled, exchanged, put in or turned into others of their kind."""
    steps = opcodes(pickle)
    for _ in range(rng.choice((1, 1, 2, 10))):
        at, other = rng.randrange(len(steps)), rng.randrange(len(steps))
        change = rng.randrange(5)
        if change == 0:
            steps[at] = b""
        elif change == 1:
            steps[at] *= 2
        elif change == 2:
            steps[at], steps[other] = steps[other], steps[at]
        elif change == 3:
            steps[at] += rng.choice(STEPS)
        else:
            steps[at] = rng.choice([step for step in steps if step[:1] == steps[at][:1]] + STEPS)
    return b"".join(steps)


def legacy(content: bytes, rng: random.Random) -> bytes:
    """One of the five pickles of a file older than 2020 is changed."""
    file, ends = io.BytesIO(content), [0]
    for _ in range(5):
        for _ in pickletools.genops(file):
            pass
        ends.append(file.tell())
    which = rng.choice((0, 3, 3, 3, 4))
    start, end = ends[which : which + 2]
    return content[:start] + repickled(content[start:end], rng) + content[end:]


def archive(content: bytes, rng: random.Random) -> bytes:
    """A record of a zip archive is changed, and the archive is whole."""
    with zipfile.ZipFile(io.BytesIO(content)) as source:
        records = {name: source.read(name) for name in source.namelist()}
    data = [name for name in records if "/data/" in name]
    name, other = rng.choice(data), rng.choice([*records])
    pickle = next(name for name in records if name.endswith("/data.pkl"))
    change = rng.randrange(7)
    if change <= 2:
        records[pickle] = repickled(records[pickle], rng)
    elif change == 3:
        records[name] = records[name][: rng.randrange(len(records[name]) + 1)]
    elif change == 4:
        records[name] += bytes(rng.choice((1, 4, 1000)))
    elif change == 5:
        records[name], records[other] = records[other], records[name]
    else:
        del records[other]
    copy = io.BytesIO()
    with zipfile.ZipFile(copy, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as target:
        for name, record in records.items():
            target.writestr(name, record)
    return copy.getvalue()


def listing(content: bytes, rng: random.Random) -> bytes:
    """A size or a place in the list at the end of a zip archive is changed."""
    changed = bytearray(content)
    at = content.rindex(b"PK\x01\x02", 0, rng.randrange(content.index(b"PK\x01\x02") + 4, len(content)))
    number = rng.choice((0, 1, 40, len(content), 1 << 20, (1 << 31) - 1, (1 << 32) - 1))
    struct.pack_into("<I", changed, at + rng.choice((8, 16, 20, 24, 42)), number)
    return bytes(changed)


def header(content: bytes, rng: random.Random) -> bytes:
    """The header of a safetensors file is changed."""
    size = struct.unpack("<Q", content[:8])[0]
    entries = json.loads(content[8 : 8 + size])
    names = [name for name in entries if name != "__metadata__"]
    name = rng.choice(names)
    entry = entries[name]
    number = rng.choice((0, 1, -1, 7, 1 << 31, 1 << 62, "7", None, 0.5))
    change = rng.randrange(7)
    if change == 0:
        entry["dtype"] = rng.choice(("F64", "F16", "BF16", "F8_E4M3", "I8", "I64", "U16", "BOOL", "F4", "C64", "", 3))
    elif change == 1:
        entry["shape"] = rng.choice((entry["shape"][::-1], [], [*entry["shape"], 1], [number], number))
    elif change == 2:
        entry["data_offsets"][rng.randrange(2)] = number
    elif change == 3:
        entries[rng.choice(("", "x" * 1000, "a.b\0"))] = entries.pop(name)
    elif change == 4:
        entries[name] = number
    elif change == 5:
        entry["data_offsets"] = entries[rng.choice(names)]["data_offsets"]
    text = json.dumps(entries).encode()
    if change == 6:
        size = rng.choice((0, 1, len(text) - 1, len(text) + 1, 1 << 31, 1 << 60, (1 << 64) - 1))
        return struct.pack("<Q", size) + text + content[8 + len(text) :]
    return struct.pack("<Q", len(text)) + text + content[8 + size :]


def tensors(weights: dict[str, torch.Tensor], seed: int) -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
    """Whole files of which one tensor is another: right names, wrong shapes, types or numbers."""
    rng = random.Random(seed)
    while True:
        key = rng.choice([*weights])
        value = weights[key]
        others = {
            "flat": value.flatten(),
            "turned": value.permute([*range(value.ndim)][::-1]).contiguous(),
            "of one more dimension": value[None],
            "scalar": torch.zeros((), dtype=value.dtype),
            "empty": value.flatten()[:0],
            "doubled": value.repeat(2, *[1] * (value.ndim - 1)) if value.ndim else value.repeat(2),
            "of one row": value[:1].clone() if value.ndim else value,
            "of one column": value[..., :1].clone() if value.ndim else value,
            "of whole numbers": value.to(torch.int64),
            "of bools": value.to(torch.bool),
            "of bytes": value.to(torch.uint8),
            "in double precision": value.double(),
            "in 8 bits": value.float().to(torch.float8_e4m3fn),
            "NaN": value.float() * float("nan"),
            "missing": None,
            "under another name": None,
        }
        kind = rng.choice([*others])
        changed = {name: tensor for name, tensor in weights.items() if name != key}
        if others[kind] is not None:
            changed[key] = others[kind]
        elif kind == "under another name":
            changed[f"{key}_"] = value
        yield f"'{key}' {kind}", changed
