"""What Windows does in another way than Linux and macOS. Standard library only: child.py runs this file by its path.

Each function holds both ways, so the rest of the tool asks for a lock, a link or an end and not for a system.
"""

import ctypes
import errno
import ntpath
import os
import signal
import subprocess
import sys
import threading
import time
from ctypes import wintypes
from pathlib import Path
from typing import BinaryIO

PLATFORM = sys.platform
WINDOWS = PLATFORM == "win32"
if WINDOWS:
    import _winapi  # private to CPython, whose own modules link and open so: no public one makes junctions
    import msvcrt
    import winreg

    kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)
    kernel32.OpenProcess.restype = wintypes.HANDLE
else:
    import fcntl

LOOK = 0.5  # seconds between two looks at a process that started this one
TRY = 0.1  # seconds between two tries to lock a file
SHARE_ALL, OPEN_ALWAYS = 7, 4  # of CreateFile: others may read, write, move and delete the file
EXCLUSIVE, AT_ONCE = 2, 1  # of LockFileEx
SYNCHRONIZE, ENDLESS = 0x100000, 0xFFFFFFFF  # of OpenProcess and WaitForSingleObject
END = signal.SIGINT if WINDOWS else signal.SIGUSR1  # where SIGINT may be ignored: in shells' jobs in the background

BROWSERS = {
    "linux": ("/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"),
    "darwin": (
        "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
        "/Applications/Chromium.app/Contents/MacOS/Chromium",
    ),
    "win32": (
        r"%ProgramFiles%\Google\Chrome\Application\chrome.exe",
        r"%ProgramFiles(x86)%\Google\Chrome\Application\chrome.exe",
        r"%LocalAppData%\Google\Chrome\Application\chrome.exe",
        r"%ProgramFiles(x86)%\Microsoft\Edge\Application\msedge.exe",
    ),
}


class _Overlapped(ctypes.Structure):
    """Windows' OVERLAPPED: where in the file a lock begins."""

    _fields_ = [
        ("internal", ctypes.c_void_p),
        ("internal_high", ctypes.c_void_p),
        ("offset", wintypes.DWORD),
        ("offset_high", wintypes.DWORD),
        ("event", wintypes.HANDLE),
    ]


def is_full(error: OSError) -> bool:
    """Whether the disk, or the user's share of it, had no room."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def python_in(environment: Path) -> Path:
    """The Python of a virtual environment."""
    return environment / "Scripts" / "python.exe" if WINDOWS else environment / "bin" / "python"


def program(path: Path) -> Path:
    """The file of a program: `path` with the ending that programs have here."""
    return path.with_name(f"{path.name}.exe") if WINDOWS else path


def browser() -> str:
    """The path of Chromium, Chrome or Edge: $CHROMIUM, or where it is usually installed, be it there or not."""
    if chosen := os.environ.get("CHROMIUM"):
        return chosen
    usual = [ntpath.expandvars(path) for path in BROWSERS.get(PLATFORM, BROWSERS["linux"])]
    return next((path for path in usual if Path(path).exists()), usual[0])


def processor() -> str:
    """The name of the processor; "" where the system does not tell."""
    if WINDOWS:
        with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, r"HARDWARE\DESCRIPTION\System\CentralProcessor\0") as key:
            return winreg.QueryValueEx(key, "ProcessorNameString")[0].strip()
    if PLATFORM == "darwin":
        return subprocess.check_output(["sysctl", "-n", "machdep.cpu.brand_string"], text=True).strip()
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")


def link(target: Path, at: Path) -> None:
    """Makes `at` lead to the folder `target`, in place of a link that is there. On Windows: a junction.

    Symbolic links need an administrator there. A junction does not, and cannot lead to another computer.

    Raises:
        OSError: The system refuses.
    """
    if not WINDOWS:
        new = at.with_name(f"{at.name}.{os.getpid()}")
        new.unlink(missing_ok=True)
        new.symlink_to(target, target_is_directory=True)
        new.replace(at)
        return
    if is_link(at):
        at.unlink()  # of the junction alone; nothing takes the place of a folder
    _winapi.CreateJunction(str(target), str(at))


def is_link(path: Path) -> bool:
    """Whether something is a symbolic link or a junction, which Path.is_symlink does not count."""
    try:
        os.readlink(path)  # noqa: PTH115
    except OSError:
        return False
    return True


def opened(path: Path) -> BinaryIO:
    """The file, open for appending, which others may meanwhile read, move and delete."""
    return open(path, "ab", opener=_shared if WINDOWS else None)  # noqa: PTH123, Path.open takes no opener


def _shared(path: str, flags: int) -> int:
    access = _winapi.GENERIC_READ | _winapi.GENERIC_WRITE
    handle = _winapi.CreateFile(str(path), access, SHARE_ALL, _winapi.NULL, OPEN_ALWAYS, 0, _winapi.NULL)
    return msvcrt.open_osfhandle(handle, flags)


def try_lock(file: BinaryIO, shared: bool = False) -> bool:
    """Locks an open file unless another has locked it. Many hold a shared lock at a time, and one any other."""
    if WINDOWS:
        flags = AT_ONCE | (0 if shared else EXCLUSIVE)
        return bool(kernel32.LockFileEx(_handle(file), flags, 0, 1, 0, ctypes.byref(_beyond())))
    try:
        fcntl.flock(file, fcntl.LOCK_NB | (fcntl.LOCK_SH if shared else fcntl.LOCK_EX))
    except BlockingIOError:
        return False
    return True


def lock(file: BinaryIO, shared: bool = False) -> None:
    """As try_lock, and waits until the file is free."""
    while WINDOWS and not try_lock(file, shared):  # not in one call, which Ctrl-C would not end
        time.sleep(TRY)
    if not WINDOWS:
        fcntl.flock(file, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)


def unlock(file: BinaryIO) -> None:
    """Ends the lock. The file may then be locked in another way."""
    if WINDOWS:
        kernel32.UnlockFileEx(_handle(file), 0, 1, 0, ctypes.byref(_beyond()))
    else:
        fcntl.flock(file, fcntl.LOCK_UN)


def _handle(file: BinaryIO) -> wintypes.HANDLE:
    return wintypes.HANDLE(msvcrt.get_osfhandle(file.fileno()))


def _beyond() -> _Overlapped:
    """A place past the end of every file: Windows refuses to read what another has locked."""
    return _Overlapped(offset_high=0x40000000)


def wait_for_end(parent: int) -> None:
    """Returns when the process that started this one has ended.

    On Windows a virtual environment's python.exe starts the real Python, whose parent is then another process. And the
    number of a parent stays when it ends. So the process itself is waited for.
    """
    if not WINDOWS:
        while os.getppid() == parent:
            time.sleep(LOOK)
    elif handle := kernel32.OpenProcess(SYNCHRONIZE, False, parent):
        kernel32.WaitForSingleObject(wintypes.HANDLE(handle), ENDLESS)


def let_end() -> None:
    """Has `end` raise KeyboardInterrupt in this process, also where Ctrl-C is ignored."""
    signal.signal(END, signal.default_int_handler)


def end() -> None:
    """Ends the main thread from another one as Ctrl-C would."""
    if WINDOWS:
        signal.raise_signal(END)  # wakes the main thread out of sleep and out of asyncio
    else:
        signal.pthread_kill(threading.main_thread().ident, END)
