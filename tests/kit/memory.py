"""The memory of tensors, and of the whole process."""

import ctypes
import sys
import weakref

import psutil
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Live(TorchDispatchMode):
    """The most bytes of tensors that were alive at once, by device."""

    def __init__(self):
        super().__init__()
        self.seen, self.live, self.peak = weakref.WeakSet(), {"cpu": 0, "cuda": 0}, {"cpu": 0, "cuda": 0}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage() not in self.seen:
                storage, device = tensor.untyped_storage(), tensor.device.type
                self.seen.add(storage)
                self.live[device] += storage.nbytes()
                self.peak[device] = max(self.peak[device], self.live[device])
                weakref.finalize(storage, self.free, device, storage.nbytes())
        return result

    def free(self, device, count):
        self.live[device] -= count


class _Mallinfo2(ctypes.Structure):
    """As in <malloc.h>."""

    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]


_mallinfo2 = getattr(ctypes.CDLL(None), "mallinfo2", None) if sys.platform == "linux" else None
if _mallinfo2:
    _mallinfo2.restype = _Mallinfo2
EXACT = bool(_mallinfo2)


def held():
    """Bytes that this process holds: what malloc has given away where EXACT (glibc from 2.33 on), else resident memory.

    Resident memory grows by pages, which have 2 MB on some systems, and keeps much of what is freed. malloc knows of
    Python's objects where $PYTHONMALLOC is malloc.
    """
    if not EXACT:
        return psutil.Process().memory_info().rss
    info = _mallinfo2()
    return info.uordblks + info.hblkhd
