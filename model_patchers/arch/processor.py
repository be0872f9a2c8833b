"""What the processor is good at: choices between two ways to compute the same.

The choice depends on the processor's maker, never on a measurement, so the same machine gives the same bits each time.
"""

import logging
import os
import platform
from functools import cache
from pathlib import Path

import comfy.ops
import torch.nn.functional as F
from torch import Tensor, nn

CPUINFO = Path("/proc/cpuinfo")  # on Linux


def is_amd(description: str) -> bool:
    """Whether a processor is AMD's, by /proc/cpuinfo or by Windows' PROCESSOR_IDENTIFIER."""
    return "AuthenticAMD" in description


@cache
def prefers_convolutions() -> bool:
    """Whether large linear layers run faster as 1x1 convolutions.

    PyTorch computes linear layers with MKL and convolutions with oneDNN. On AMD's processors MKL takes up to twice as
    long as oneDNN (on a few as long). On Intel's it takes three quarters: 4096 x 768 -> 3072 in 0.082 s against 0.106.
    """
    description = CPUINFO.read_text() if CPUINFO.exists() else os.environ.get("PROCESSOR_IDENTIFIER", "")
    amd = is_amd(description)
    way = "as 1x1 convolutions (oneDNN), since the processor is AMD's" if amd else "as linear layers"
    logging.debug("SAM's linear layers run %s on this %s CPU.", way, platform.machine())
    return amd


def linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """`layer(x)` for many tokens, (..., N, C) -> (..., N, C'); on AMD's processors by a 1x1 convolution."""
    if x.device.type != "cpu" or not prefers_convolutions():
        return layer(x)
    weight, bias, stream = comfy.ops.cast_bias_weight(layer, x, offloadable=True)
    rows = x.reshape(-1, x.shape[-2], 1, x.shape[-1]).movedim(-1, 1)  # (rows, C, N, 1), channels last in memory
    y = F.conv2d(rows, weight[:, :, None, None], bias).movedim(1, -1)
    comfy.ops.uncast_bias_weight(layer, weight, bias, stream)
    return y.reshape(*x.shape[:-1], -1)
