"""A second device for tests on machines that have none, and ComfyUI's models computing there.

`torch.device("second")` is memory of its own with the CPU's arithmetic. What a graphics card refuses, it refuses: an
operation over tensors of both devices, `.numpy()` of its tensors, a generator of the other device. device.cpp is
compiled once, in a quarter of a minute, into the user's cache folder.
"""

import gc
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import types
from contextlib import contextmanager, nullcontext
from functools import cache
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import torch
from comfy import model_management
from comfy.cli_args import args
from comfy.model_patcher import ModelPatcher

from .half import SummedInFloat32

NAME = "second"
SOURCE = Path(__file__).with_name("device.cpp")
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pentimento-tests"
MEMORY = 8 * 2**30


def missing():
    """Why there is no second device here, or None."""
    if sys.platform != "linux":
        return "the second device is compiled for Linux alone"
    return None if shutil.which("g++") else "the second device needs g++ (Debian: apt-get install g++)"


@cache
def device():
    """The device, which PyTorch has from the first call on."""
    extension = _load(_compiled())
    torch.utils.rename_privateuse1_backend(NAME)
    module = types.ModuleType(NAME)
    module.is_available = module.is_initialized = lambda: True
    module._is_in_bad_fork = lambda: False
    module.device_count = lambda: 1
    module.current_device = lambda: 0
    module.synchronize = lambda *device: None
    module.manual_seed_all = lambda seed: None  # it draws from the CPU's generator, which is seeded already
    module.get_rng_state = lambda *device: torch.empty(0, dtype=torch.uint8)
    module.set_rng_state = lambda *state: None
    module.get_amp_supported_dtype = lambda: [torch.float16, torch.bfloat16]
    module.held, module.set_float64 = extension.held, extension.set_float64
    torch._register_device_module(NAME, module)
    extension.register()
    return torch.device(NAME, 0)


def _compiled():
    """The path of the compiled device, compiled unless another run or process did so."""
    import fcntl

    from torch.utils import cpp_extension

    command = ["g++", "-std=c++17", "-shared", "-fPIC", "-O1", "-w", f"-DTORCH_EXTENSION_NAME={SOURCE.stem}"]
    command.append("-DAT_PER_OPERATOR_HEADERS")  # halves the time
    command += [f"-I{folder}" for folder in (*cpp_extension.include_paths(), sysconfig.get_paths()["include"])]
    command.append(f"-L{cpp_extension.TORCH_LIB_PATH}")
    libraries = ["-lc10", "-ltorch_cpu", "-ltorch", "-ltorch_python"]
    made_from = [SOURCE.read_text(), torch.__version__, sys.version, *command]
    CACHE.mkdir(parents=True, exist_ok=True)
    path = CACHE / f"{SOURCE.stem}-{hashlib.sha256(repr(made_from).encode()).hexdigest()[:16]}.so"
    with path.with_suffix(".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            part = path.with_suffix(".part")
            subprocess.run([*command, SOURCE, "-o", part, *libraries], check=True)
            part.replace(path)
    return path


def _load(path):
    spec = spec_from_file_location(SOURCE.stem, path, loader=ExtensionFileLoader(SOURCE.stem, str(path)))
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextmanager
def computing(half=None, share=1.0, float64=True, stay=False):
    """ComfyUI computes on the second device meanwhile. Models are unloaded before and after.

    Args:
        half: A type that the device is good at: torch.float16, torch.bfloat16 or None.
        share: The share of each model's weights that fits on the device. The others are moved there while the model
            computes.
        float64: Whether the device has it. (Apple's GPUs do not.)
        stay: Whether results stay on the device, as with ComfyUI's --gpu-only.
    """
    there = device()
    _unload()
    with pytest.MonkeyPatch.context() as patch:
        _patch_host(patch, there, half, float64)
        patch.setattr(args, "gpu_only", stay)
        if share < 1:
            _load_in_part(patch, share)
        torch.second.set_float64(float64)
        try:
            with SummedInFloat32() if half else nullcontext():
                yield there
        finally:
            torch.second.set_float64(True)
            _unload()


def _unload():
    model_management.unload_all_models()
    gc.collect()


def _patch_host(patch, there, half, float64):
    """Has ComfyUI's memory management take the device for a graphics card of an unknown maker."""

    def of_second(theirs, ours):
        def function(device=None, *args, **kwargs):
            elsewhere = device is not None and torch.device(device).type != NAME
            return theirs(device, *args, **kwargs) if elsewhere else ours(*args, **kwargs)

        return function

    def free(torch_free_too=False):
        left = max(0, MEMORY - torch.second.held())
        return (left, 0) if torch_free_too else left

    def total(torch_total_too=False):
        return (MEMORY, 0) if torch_total_too else MEMORY

    host = {
        "cpu_state": model_management.CPUState.GPU,
        "vram_state": model_management.VRAMState.NORMAL_VRAM,
        "get_torch_device": lambda: there,
        "get_free_memory": of_second(model_management.get_free_memory, free),
        "get_total_memory": of_second(model_management.get_total_memory, total),
        "should_use_fp16": of_second(lambda *_, **__: False, lambda **_: half == torch.float16),
        "should_use_bf16": of_second(lambda *_, **__: False, lambda **_: half == torch.bfloat16),
        "supports_fp64": of_second(model_management.supports_fp64, lambda: float64),
        "is_nvidia": lambda: False,
        "is_amd": lambda: False,
        "synchronize": lambda: None,
        "soft_empty_cache": lambda force=False: None,
        "LORA_COMPUTE_DTYPES": {},
    }
    for name, value in host.items():
        patch.setattr(model_management, name, value)


def _load_in_part(patch, share):
    """Has ComfyUI load this share of each model's weights, as where memory is short."""
    load = ModelPatcher.partially_load

    def partially_load(self, device, extra_memory=0, force_patch_weights=False):
        whole = extra_memory >= 1e32  # as ComfyUI says it where a node wants all of a model's weights loaded
        wanted = extra_memory if whole else max(1, share * self.model_size() - self.loaded_size())
        return load(self, device, wanted, force_patch_weights)

    patch.setattr(ModelPatcher, "partially_load", partially_load)
