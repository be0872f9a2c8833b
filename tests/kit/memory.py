"""The memory of tensors."""

import weakref

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
