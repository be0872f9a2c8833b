"""What the processor is good at: choices between two ways to compute the same.

The choice depends on the processor's maker, never on a measurement, so the same machine gives the same bits each time.
"""

import logging
import os
from functools import cache
from pathlib import Path

import comfy.ops
import torch
from torch import Tensor, nn

CPUINFO = Path("/proc/cpuinfo")  # on Linux


def is_amd(description: str) -> bool:
    """Whether a processor is AMD's, by /proc/cpuinfo or by Windows' PROCESSOR_IDENTIFIER."""
    return "AuthenticAMD" in description


@cache
def prefers_onednn() -> bool:
    """Whether oneDNN computes large linear layers faster than MKL, which PyTorch takes for them.

    On AMD's processors it does: up to twice as fast. On Intel's MKL is the faster.
    """
    description = (
        CPUINFO.read_text(encoding="utf-8") if CPUINFO.exists() else os.environ.get("PROCESSOR_IDENTIFIER", "")
    )
    onednn = is_amd(description) and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    logging.debug("SAM's linear layers on the CPU are computed by %s.", "oneDNN" if onednn else "PyTorch's default")
    return onednn


def linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """`layer(x)` for many tokens, (..., C) -> (..., C'), in float32 on a CPU by the faster library."""
    if x.device.type != "cpu" or x.dtype != torch.float32 or not prefers_onednn():
        return layer(x)
    weight, bias, stream = comfy.ops.cast_bias_weight(layer, x, offloadable=True)
    y = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")  # as torch.compile calls it
    comfy.ops.uncast_bias_weight(layer, weight, bias, stream)
    return y
