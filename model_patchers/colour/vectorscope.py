"""The grade of the extension sd-webui-vectorscope-cc 2.4.0 (Haoming, MIT), in the latents of Stable Diffusion 1, 2 and
SDXL: what its callback does at each step.

In their latents channel 0 is close to lightness and the others are close to colours. A step multiplies a target T by
the settings and adds it. With SD 1 and 2:

    c0 += T0 brightness,  c0 += contrast (c0 - mean(c0)),  c2 -= T2 red,  c1 += T1 green,  c3 -= T3 blue

With SDXL, where Cb = -0.17 red - 0.33 green + 0.5 blue and Cr = 0.5 red - 0.42 green - 0.08 blue, c1 -= T1 Cr and
c2 -= T2 Cb. The colours are multiplied by the saturation at the end.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

SCHEDULES = {  # {name: (the part of the run's steps that is done, times pi / 2) -> the step's weight}
    "flat": lambda angle: 1.0,
    "cos": math.cos,
    "sin": math.sin,
    "1 - cos": lambda angle: 1 - math.cos(angle),
    "1 - sin": lambda angle: 1 - math.sin(angle),
}
TARGETS = (
    "straight",
    "straight abs",
    "cross",
    "cross abs",
    "ones",
    "normal",
    "uniform",
    "multi-res",
    "multi-res abs",
)
ROUNDS, DISCOUNT = 10, 0.8  # of multi-resolution noise


class Grade(NamedTuple):
    """What is asked for over a whole run. All are 0, and the saturation 1, where nothing changes."""

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 1.0
    red: float = 0.0
    green: float = 0.0
    blue: float = 0.0


def weight(schedule: str, step: int, steps: int) -> float:
    """The weight of a step, 0 ... steps - 1, by the name of a schedule."""
    return SCHEDULES[schedule](step / steps * math.pi / 2)


def share(grade: Grade, weight: float, steps: int) -> Grade:
    """A step's share of a grade: 1 / steps of it, and of the saturation the steps-th root, times the step's weight."""
    parts = Grade(*(weight * value / steps for value in grade))
    return parts._replace(saturation=(grade.saturation ** (1 / steps) - 1) * weight + 1)


def graded(z: Tensor, target: Tensor, part: Grade, sdxl: bool) -> Tensor:
    """Latents after a step's share of the grade: (B, 4, H, W) -> the same.

    Args:
        z: The prediction of the picture, or the sampler's x.
        target: As `target` makes it.
        part: As `share` makes it.
        sdxl: Whether the latents are SDXL's.
    """
    c0, *colours = z.unbind(1)
    c0 = c0 + target[:, 0] * part.brightness
    c0 = c0 + (c0 - c0.mean((1, 2), keepdim=True)) * part.contrast
    colours = [c + t * k for c, t, k in zip(colours, target[:, 1:].unbind(1), _factors(part, sdxl), strict=True)]
    coloured = 2 if sdxl else 3
    colours[:coloured] = [c * part.saturation for c in colours[:coloured]]
    return torch.stack((c0, *colours), 1)


def _factors(part: Grade, sdxl: bool) -> tuple[float, float, float]:
    """Of the target, for channels 1, 2 and 3."""
    _, _, _, red, green, blue = part
    if not sdxl:
        return green, -red, -blue
    cb = -0.17 * red - 0.33 * green + 0.5 * blue
    cr = 0.5 * red - 0.42 * green - 0.08 * blue
    return -cr, -cb, 0.0


def target(name: str, z: Tensor, other: Tensor, generator: torch.Generator) -> Tensor:
    """What the settings multiply: (B, 4, H, W).

    Args:
        name: One of TARGETS.
        z: The latents to edit.
        other: The sampler's x where z is the prediction, and the prediction where z is x.
        generator: On the CPU, for noise. The extension draws from the generator of the whole process.
    """
    kind = name.removesuffix(" abs")
    if kind == "straight":
        drawn = z
    elif kind == "cross":
        drawn = other
    elif kind == "ones":
        drawn = torch.ones_like(z)
    elif kind == "normal":
        drawn = torch.randn(z.shape, generator=generator)
    elif kind == "uniform":
        drawn = torch.rand(z.shape, generator=generator)
    else:
        drawn = multires(z.shape, 0.0 if name.endswith("abs") else 1.0, generator)
    drawn = drawn.to(z)
    return drawn.abs() if name.endswith("abs") else drawn


def multires(shape: torch.Size, start: float, generator: torch.Generator) -> Tensor:
    """Noise of several resolutions: `start` + sum over i of 0.8^i (noise of 1 / r^i of the size, enlarged), divided by
    its spread; r is drawn from 2 ... 4 for each i, and the first size with a side of 1 is the last. (B, C, H, W).
    """
    *batch, height, width = shape
    noise = torch.full(shape, start)
    for i in range(ROUNDS):
        r = float(torch.rand((), generator=generator)) * 2 + 2
        size = max(1, int(height / r**i)), max(1, int(width / r**i))
        small = torch.randn(*batch, *size, generator=generator)
        noise += F.interpolate(small, (height, width), mode="bilinear") * DISCOUNT**i
        if 1 in size:
            break
    return noise / noise.std()


def generator(seed: int, step: int) -> torch.Generator:
    """The generator of a step's noise. Its numbers are not those that a sampler draws from the same seed."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence((seed, step)).generate_state(1, np.uint64)[0]))
