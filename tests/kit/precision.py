"""Half precision, and how far from a reference a result in it may be."""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from .assertions import relative_error

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
HALVES = [name for name in PRECISIONS if name != "fp32"]
FACTOR = 3  # ours over the reference's own error; measured: 0.7 to 1.3


@dataclass(frozen=True)
class Precision:
    """What ComfyUI's networks compute in.

    A network in half precision sums thousands of roundings, and guidance enlarges the sum. How large it becomes depends
    on the weights, so no number of roundings is counted here: the reference runs a second time with its network in the
    same precision, by other code, and its distance from its own result in float32 is the measure. Ours is the same
    computation with roundings at other places, so its distance is another draw of the same size.
    """

    dtype: torch.dtype = torch.float32

    @property
    def name(self) -> str:
        return next(name for name, dtype in PRECISIONS.items() if dtype == self.dtype)

    @property
    def is_half(self) -> bool:
        return self.dtype != torch.float32

    def tolerance(self, float32, expected, again, where=None):
        """How far, as `relative_error` says, a result may be from the reference's.

        Args:
            float32: The tolerance of a result in float32.
            expected: The reference's result in float32.
            again: () -> the reference's result with its networks `lowered`.
            where: As of `relative_error`.
        """
        return FACTOR * relative_error(again(), expected, where) if self.is_half else float32

    def lowered(self, network):
        """A copy of a reference's network that computes in this precision, called with float32 and answering in it.

        So ComfyUI calls its own: only the network is in half precision, and the sampler is not.
        """
        network = copy.deepcopy(network).to(self.dtype)
        network.__class__ = type("Lowered", (type(network),), {"dtype": torch.float32})  # which its callers ask for
        network.register_forward_pre_hook(self._lower, with_kwargs=True)
        network.register_forward_hook(lambda module, given, result: _cast(result, torch.float32))
        return network

    def _lower(self, module, args, kwargs):
        return _cast(args, self.dtype), _cast(kwargs, self.dtype)


FLOAT32 = Precision()


def _cast(value, dtype):
    """The same with its floating point tensors in another type. Timesteps, single numbers or rows of them, stay."""
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() and value.ndim > 1 else value
    if isinstance(value, tuple):
        return tuple(_cast(each, dtype) for each in value)
    if type(value) is dict:
        return {name: _cast(each, dtype) for name, each in value.items()}
    if isinstance(value, dict):  # diffusers' outputs
        for name in value:
            value[name] = _cast(value[name], dtype)
    return value
