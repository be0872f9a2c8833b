"""The pack's nodes, and one of them run as ComfyUI does and checked for what it wrote to its inputs."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from types import FunctionType, MethodType

import torch
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io

import pentimento

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


def in_own_loop(coroutine):
    """Its result. In a thread of its own, as asyncio.run is refused while playwright's loop runs in this one."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, coroutine).result()


@cache
def node_classes():
    """{node id: class} of the whole pack."""

    async def load():
        extension = await pentimento.comfy_entrypoint()
        await extension.on_load()
        return await extension.get_node_list()

    return {cls.GET_SCHEMA().node_id: cls for cls in in_own_loop(load())}


def run_node(cls, **inputs):
    """The node's results. Inputs that are left out have their defaults."""
    schema = cls.GET_SCHEMA()
    defaults = {entry.id: default(entry) for entry in schema.inputs if not entry.optional}
    before = {name: frozen(value) for name, value in inputs.items()}
    results = cls.execute(**defaults | inputs).result
    written = [name for name, value in inputs.items() if frozen(value) != before[name]]
    assert not written, f"{schema.display_name} wrote to {', '.join(written)}"
    return results


def default(entry):
    """What ComfyUI's widget shows first."""
    value = getattr(entry, "default", None)
    return entry.options[0] if value is None and isinstance(entry, io.Combo.Input) else value


class Bits:
    """A tensor's bits, where NaN equals itself."""

    def __init__(self, tensor):
        self.kind = tensor.shape, tensor.dtype, tensor.device
        values = torch.empty(0) if tensor.is_meta else tensor.detach()
        self.bits = values.clone(memory_format=torch.contiguous_format).view(-1).view(torch.uint8)

    def __eq__(self, other):
        return self.kind == other.kind and torch.equal(self.bits, other.bits)


def frozen(value, seen=()):
    """A deep copy of all in a value that could be written to, to be compared with `==`."""
    if isinstance(value, torch.Tensor):
        return Bits(value)
    if id(value) in seen:
        return type(value)
    seen = (*seen, id(value))
    if isinstance(value, dict):
        return {key: frozen(each, seen) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [frozen(each, seen) for each in value]
    if isinstance(value, torch.nn.Module):
        return frozen(value.state_dict())
    if isinstance(value, ModelPatcher):
        return [frozen(getattr(value, name), seen) for name in PATCHER], frozen(value.model)
    if isinstance(value, FunctionType | MethodType | type) or not hasattr(value, "__dict__"):
        return value
    return {name: frozen(each, seen) for name, each in vars(value).items() if name not in CACHES}
