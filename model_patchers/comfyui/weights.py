"""Weights of any model file, read without running code of the file."""

import stat
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from . import checkpoints
from .pickles import DamagedError, RunsCodeError

SUFFIXES = ".safetensors, .pt, .pth, .ckpt or .bin"
# What the readers raise for bytes that contradict each other
CONTRADICTIONS = (
    SafetensorError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
_UNPACK = "Unpack it, and choose the model file in it."
_CHOOSE = f"Choose a model file ({SUFFIXES})."
_FOR_PYTORCH = f"Choose the model for PyTorch ({SUFFIXES})."
# What else is called a model file: where its telling bytes stand, these bytes, what it is, and what to do
OTHERS = (
    (
        0,
        b"GGUF",
        "a GGUF file, whose quantized weights this node does not read",
        "Choose the model's .safetensors file.",
    ),
    (
        0,
        b"version https://git-lfs",
        "a Git LFS pointer, which stands for the model file",
        "Run 'git lfs pull' in its folder, or download the file from its page.",
    ),
    (0, b"\x1f\x8b", "a gzip archive", _UNPACK),
    (0, b"\xfd7zXZ", "an xz archive", _UNPACK),
    (0, b"\x28\xb5\x2f\xfd", "a zstd archive", _UNPACK),
    (0, b"BZh", "a bzip2 archive", _UNPACK),
    (0, b"7z\xbc\xaf", "a 7-Zip archive", _UNPACK),
    (0, b"Rar!", "a RAR archive", _UNPACK),
    (257, b"ustar", "a tar archive", _UNPACK),
    (0, b"PK\x05\x06", "an empty zip archive", _CHOOSE),
    (0, b"\x89PNG", "a picture", _CHOOSE),
    (0, b"\xff\xd8\xff", "a picture", _CHOOSE),
    (0, b"GIF8", "a picture", _CHOOSE),
    (8, b"WEBP", "a picture", _CHOOSE),
    (0, b"\x89HDF", "an HDF5 file, as Keras saves", _FOR_PYTORCH),
    (0, b"\x93NUMPY", "a NumPy array", _FOR_PYTORCH),
    (4, b"TFL3", "a TensorFlow Lite model", _FOR_PYTORCH),
)
START = 512


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Every tensor in a model file, by its path of names joined with dots, on the CPU.

    The form is told from the first bytes, not from the name: safetensors; PyTorch's pickles, zipped or older than 2020;
    training checkpoints that hold objects of any framework (PyTorch Lightning's .ckpt); TorchScript archives, whose
    attributes are read and whose code is not. What a checkpoint nests is flattened: {"state_dict": {"a.b": t}} gives
    {"state_dict.a.b": t}, so look for keys by how they end.

    Memory: the tensors have at most `checkpoints.bound(size of the file)` bytes. The objects of a pickle have some 100
    bytes for each of at most `pickles.MOST_STEPS` steps. Both are checked before the memory is taken.

    Raises:
        ValueError: The file cannot be opened, is empty, damaged, no model file, holds no tensors, or would run code.
            The message names the file and says what to do.
    """
    path = Path(path)
    start, size = _start(path)
    read = _reader(path, start)
    try:
        tensors = read(path)
    except RunsCodeError as error:
        name = str(error)[:80].encode("unicode_escape").decode()
        raise ValueError(
            f"'{path.name}' is a pickle that would run code ({name}), which weights never need. Nothing in "
            "it was run and nothing was loaded. Delete it, and get the model from its authors, as .safetensors if they "
            "have it."
        ) from None
    except MemoryError as error:
        raise ValueError(
            f"There is not enough memory to read '{path.name}' ({size:,} bytes). Close other programs, or choose a "
            "smaller model."
        ) from error
    except (DamagedError, *CONTRADICTIONS) as error:
        raise ValueError(
            f"'{path.name}' ({size:,} bytes) is damaged or incomplete: {_reason(error)} Download it again and compare "
            "its size."
        ) from error
    if not tensors:
        raise ValueError(f"'{path.name}' holds no weights. {_CHOOSE}")
    return tensors


def _start(path: Path) -> tuple[bytes, int]:
    """The first bytes of a file, and its size. Nothing but a plain file is opened."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a device, a pipe or a socket"
            raise ValueError(f"'{path.name}' is {kind}, no model file. {_CHOOSE}")
        with path.open("rb") as file:
            return file.read(START), status.st_size
    except OSError as error:
        to_do = "Let ComfyUI read it." if isinstance(error, PermissionError) else "Look whether it is there."
        raise ValueError(f"'{path.name}' cannot be opened: {error.strerror}. {to_do}") from error


def _reader(path: Path, start: bytes) -> Callable[[Path], dict[str, Tensor]]:
    if start[8:9] == b"{":
        return safetensors.torch.load_file
    if start.startswith(b"PK\x03\x04"):
        return checkpoints.read_zip
    if start.startswith(b"\x80"):
        return checkpoints.read_legacy
    kind, to_do = _kind(start)
    raise ValueError(f"'{path.name}' is no model file: it is {kind}. {to_do}")


def _reason(error: Exception) -> str:
    """A sentence. Most errors of the readers speak of Python."""
    if isinstance(error, DamagedError):
        return str(error)
    if isinstance(error, SafetensorError | zipfile.BadZipFile) and str(error):
        return f"{str(error).splitlines()[0][:200].rstrip('.')}."
    return "its bytes contradict each other."


def _kind(start: bytes) -> tuple[str, str]:
    """What a file is by its first bytes, and what to do. They are not quoted: a link may lead to a secret."""
    for at, telling, kind, to_do in OTHERS:
        if start[at:].startswith(telling):
            return kind, to_do
    again = f"Download it again: need {SUFFIXES}."
    if not start:
        return "empty (0 bytes)", again
    if not start.strip(b"\0"):
        return "empty where a model begins, as a file is whose download has not ended", again
    if start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page", "Download the model file itself. Its site may ask you to log in first."
    if _is_text(start):
        return "a text file", again
    return "of no known form", again


def _is_text(start: bytes) -> bool:
    text = start.decode("utf-8", "ignore")  # a letter may be cut in two at the end
    return len(text.encode()) > len(start) - 4 and all(letter.isprintable() or letter.isspace() for letter in text)
