"""How far two results are apart, and whether anything was written to."""

from types import FunctionType, MethodType

import torch
from comfy.model_patcher import ModelPatcher

PATCHER = (
    "model_options",
    "object_patches",
    "patches",
    "wrappers",
    "callbacks",
    "additional_models",
    "attachments",
    "injections",
    "hook_patches",
)
CACHES = {"cache"}  # attributes of the pack's own objects, filled while they are used


def relative_error(ours, theirs, where=None):
    """The largest difference, in the mask `where` or everywhere, relative to the reference's largest value."""
    ours, theirs = torch.as_tensor(ours).cpu(), torch.as_tensor(theirs).cpu()
    assert ours.shape == theirs.shape
    difference = (ours - theirs).abs()
    if where is not None:
        difference = difference[where.expand_as(difference)]
    return float(difference.max() / theirs.abs().max())


class Bits:
    """A tensor's bits, where NaN equals itself."""

    def __init__(self, tensor):
        self.kind = tensor.shape, tensor.dtype, tensor.device
        values = torch.empty(0) if tensor.is_meta else tensor.detach()
        self.bits = values.clone(memory_format=torch.contiguous_format).view(-1).view(torch.uint8)

    def __eq__(self, other):
        return self.kind == other.kind and torch.equal(self.bits, other.bits)


def frozen(value, seen=()):
    """A deep copy of everything in a value that could be written to. Compare two with `==`."""
    if isinstance(value, torch.Tensor):
        return Bits(value)
    if id(value) in seen:
        return type(value)
    seen = (*seen, id(value))
    if isinstance(value, dict):
        return {key: frozen(each, seen) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [frozen(each, seen) for each in value]
    if isinstance(value, torch.nn.Module):  # which ComfyUI moves from device to device
        tensors = dict(value.named_parameters()) | dict(value.named_buffers())
        return {name: Bits(tensor if tensor.is_meta else tensor.cpu()) for name, tensor in tensors.items()}
    if isinstance(value, ModelPatcher):
        return [frozen(getattr(value, name), seen) for name in PATCHER], frozen(value.model)
    if isinstance(value, FunctionType | MethodType | type) or not hasattr(value, "__dict__"):
        return value
    return {name: frozen(each, seen) for name, each in vars(value).items() if name not in CACHES}
