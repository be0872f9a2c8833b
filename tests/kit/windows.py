"""Windows as far as the tool asks for it, on any system: its calls made by this one's."""

import ctypes
import os
import signal
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from pentimento_host import system


class Kernel32:
    """Locks of parts of files, which belong to handles, and waiting for processes."""

    def __init__(self):
        self.locks, self.guard = [], threading.Lock()  # (file, handle, begin, end, whether exclusive)

    def LockFileEx(self, handle, flags, reserved, low, high, overlapped):  # noqa: N802
        begin, end = self.span(low, high, overlapped)
        file = self.file(handle)
        exclusive, at_once = bool(flags & 2), bool(flags & 1)
        assert at_once, "a call that waits cannot be ended by Ctrl-C"
        with self.guard:
            self.locks = [lock for lock in self.locks if self.is_open(lock)]
            for other, _, start, stop, alone in self.locks:
                if other == file and start < end and begin < stop and (exclusive or alone):
                    return 0
            self.locks.append((file, handle.value, begin, end, exclusive))
        return 1

    def UnlockFileEx(self, handle, reserved, low, high, overlapped):  # noqa: N802
        begin, end = self.span(low, high, overlapped)
        with self.guard:
            (lock,) = [lock for lock in self.locks if lock[:4] == (self.file(handle), handle.value, begin, end)]
            self.locks.remove(lock)
        return 1

    def OpenProcess(self, access, inherit, pid):  # noqa: N802
        assert access == 0x100000  # SYNCHRONIZE
        return pid if psutil.pid_exists(pid) else 0

    def WaitForSingleObject(self, handle, milliseconds):  # noqa: N802
        assert milliseconds == 0xFFFFFFFF
        psutil.wait_procs([psutil.Process(handle.value)])
        return 0

    @staticmethod
    def span(low, high, overlapped):
        place = overlapped._obj
        begin = place.offset | place.offset_high << 32
        assert begin > 1 << 50, "Windows refuses to read what another has locked"
        return begin, begin + (low | high << 32)

    @staticmethod
    def file(handle):
        status = os.fstat(handle.value)
        return status.st_dev, status.st_ino

    def is_open(self, lock):
        """Closing a handle ends its locks."""
        try:
            return self.file(ctypes.c_void_p(lock[1])) == lock[0]
        except OSError:
            return False


def create_file(path, access, share, security, creation, attributes, template):
    assert (access, share, creation) == (0xC0000000, 7, 4)
    return os.open(path, os.O_RDWR | os.O_CREAT)


def open_osfhandle(handle, flags):
    """Descriptors are handles here. O_APPEND of the flags is kept by the C library, not by the system."""
    os.lseek(handle, 0, os.SEEK_END)
    return handle


def create_junction(target, at):
    """Refuses as Windows does: a name that is taken, a target that is none of this computer's folders."""
    if os.path.lexists(at):
        raise FileExistsError(183, "Cannot create a file when that file already exists", at)
    if target.startswith("//"):
        raise OSError(1, "Incorrect function", target)
    Path(at).symlink_to(target)


class Registry:
    HKEY_LOCAL_MACHINE = "HKLM"

    def OpenKey(self, root, path):  # noqa: N802
        assert (root, path) == ("HKLM", r"HARDWARE\DESCRIPTION\System\CentralProcessor\0")
        return open(os.devnull)  # noqa: PTH123, SIM115, anything that closes

    def QueryValueEx(self, key, name):  # noqa: N802
        assert name == "ProcessorNameString"
        return "A processor with 8 cores ", 1


def pretend(patch):
    """Has the tool's module take this system for Windows. On Windows its own calls are tested."""
    if sys.platform == "win32":
        pytest.skip("this is Windows")
    winapi = {"GENERIC_READ": 0x80000000, "GENERIC_WRITE": 0x40000000, "NULL": 0}
    winapi |= {"CreateFile": create_file, "CreateJunction": create_junction}
    calls = {
        "WINDOWS": True,
        "END": signal.SIGINT,
        "kernel32": Kernel32(),
        "msvcrt": SimpleNamespace(get_osfhandle=lambda descriptor: descriptor, open_osfhandle=open_osfhandle),
        "_winapi": SimpleNamespace(**winapi),
        "winreg": Registry(),
    }
    for name, value in calls.items():
        patch.setattr(system, name, value, raising=False)
    patch.delattr(system, "fcntl", raising=False)
    patch.setattr(system, "PLATFORM", "win32")
