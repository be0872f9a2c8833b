"""Dynamic thresholding: a high CFG scale with the spread of values that a lower one has.

mcmonkeyprojects/sd-dynamic-thresholding (MIT), `dynthres_core.py`. Let D(s) be the guided prediction at scale s. D(cfg)
is centred and shrunk, for each channel, to the spread of D(mimic). Both scales may follow a schedule.

What differs from that project's node:

- It is no `sampler_cfg_function`, of which a model has one: D(s) is asked of the function that the model has, such as
  that of RescaleCFG. So both nodes act, in either order.
- Without separate channels, and in a batch, each picture has its own spread.
- The schedule follows the part of the timesteps that is done for flow models too, whose timesteps are no 0 ... 999.
- A mimicked scale that equals the CFG scale is no special case: schedules, STD and percentiles have their effect.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..comfyui import schedule
from ..comfyui.patching import first_after_guidance

KEY = "pentimento_dynamic_thresholding"
TIMESTEPS = 1000
QUARTER, TURN = 1.5707, 6.28318  # the reference's pi / 2 and 2 pi
# {name: factor of a scale at the part f of the run with the schedule's value s}
MODES: dict[str, Callable[[float, float], float]] = {
    "Constant": lambda f, s: 1.0,
    "Linear Down": lambda f, s: 1 - f,
    "Cosine Down": lambda f, s: math.cos(QUARTER * f),
    "Half Cosine Down": lambda f, s: math.cos(f),
    "Linear Up": lambda f, s: f,
    "Cosine Up": lambda f, s: 1 - math.cos(QUARTER * f),
    "Half Cosine Up": lambda f, s: 1 - math.cos(f),
    "Power Up": lambda f, s: f**s,
    "Power Down": lambda f, s: 1 - f**s,
    "Linear Repeating": lambda f, s: abs(1 - 2 * (f * s % 1)),
    "Cosine Repeating": lambda f, s: math.cos(TURN * f * s) / 2 + 0.5,
    "Sawtooth": lambda f, s: f * s % 1,
}
MEAN, ZERO = "MEAN", "ZERO"
AD, STD = "AD", "STD"


class Rule(NamedTuple):
    """How the spread of one prediction is given to another.

    Attributes:
        percentile: Of the distances from the mean, 0 ... 1: what is above it is clipped (AD).
        separate: Each channel has its own spread. Otherwise all channels of a picture have one.
        startpoint: MEAN: values are scaled about the mean of their channel. ZERO: about 0.
        measure: AD: the spread is the largest distance from the mean, of the guided prediction the percentile. STD: it
            is the standard deviation.
        phi: The weight of the result, 0 ... 1. The guided prediction has the rest.
    """

    percentile: float = 1.0
    separate: bool = True
    startpoint: str = MEAN
    measure: str = AD
    phi: float = 1.0


class Scale(NamedTuple):
    """A scale over the run: from `least` to `value` by the schedule `mode`, one of MODES, with its value s."""

    value: float
    least: float = 0.0
    mode: str = "Constant"
    s: float = 1.0

    def at(self, part: float) -> float:
        """The scale after the part f of the run."""
        if self.mode == "Constant":
            return self.value
        return (self.value - self.least) * MODES[self.mode](part, self.s) + self.least


def part(sampling: schedule.ModelSampling, sigma: Tensor) -> float:
    """The reference's f = (999 - t) / 998 of the timestep t at `sigma` (of one element): 0 ... 1.001."""
    t = TIMESTEPS * schedule.left(sampling, sigma)
    return max(TIMESTEPS - 1 - t, 0) / (TIMESTEPS - 2)


def quantile(x: Tensor, q: float) -> Tensor:
    """(..., N) -> (..., 1), linear between neighbours. torch.quantile refuses more than 16 million numbers."""
    if q == 1:
        return x.amax(-1, keepdim=True)
    last = x.shape[-1] - 1
    low, rest = divmod(q * last, 1)
    ordered = x.sort(-1).values
    lower, upper = (ordered[..., at : at + 1] for at in (int(low), min(int(low) + 1, last)))
    return lower.lerp(upper, rest)


def threshold(guided: Tensor, mimicked: Tensor, rule: Rule) -> Tensor:
    """The guided prediction with the spread of the mimicked one: (B, C, ...), of each picture alone."""
    flat = guided.flatten(2)  # (B, C, N)
    mean = flat.mean(2, keepdim=True)
    centred = flat - mean
    other = mimicked.flatten(2)
    other = other - other.mean(2, keepdim=True)
    own, wanted = (values if rule.separate else values.flatten(1)[:, None] for values in (centred, other))
    if rule.measure == STD:
        own, wanted = _deviation(own), _deviation(wanted)
    else:
        own, wanted = quantile(own.abs(), rule.percentile), quantile(wanted.abs(), 1)
    if rule.startpoint == ZERO:
        result = flat * _ratio(wanted, own)
    elif rule.measure == STD:
        result = centred * _ratio(wanted, own) + mean
    else:
        largest = torch.maximum(own, wanted)
        result = centred.clamp(-largest, largest) * _ratio(wanted, largest) + mean
    return guided.lerp(result.view_as(guided), rule.phi) if rule.phi != 1 else result.view_as(guided)


def _deviation(x: Tensor) -> Tensor:
    """The standard deviation over the last dimension, which stays: of a single number it is 0."""
    return x.std(-1, correction=min(1, x.shape[-1] - 1), keepdim=True)


def _ratio(wanted: Tensor, spread: Tensor) -> Tensor:
    """wanted / spread; 1 where all values are equal, as those of a latent of one pixel."""
    return torch.where(spread > 0, wanted / spread, 1)


def guidance(args: dict[str, Any], scale: float) -> Tensor:
    """D(s): what the model's guidance makes at another scale.

    Args:
        args: Of a post-CFG function that comes first: "denoised" is the guidance's result at "cond_scale".
    """
    x, cond, uncond = args["input"], args["cond_denoised"], args["uncond_denoised"]
    if scale == args["cond_scale"]:
        return args["denoised"]
    if function := args["model_options"].get("sampler_cfg_function"):
        return x - function(
            {"cond": x - cond, "uncond": x - uncond, "cond_scale": scale, "timestep": args["sigma"], "input": x}
            | {"input_cond": args["cond"], "input_uncond": args["uncond"]}
            | {name: args[name] for name in ("sigma", "cond_denoised", "uncond_denoised", "model", "model_options")}
        )
    return args["denoised"] + (scale - args["cond_scale"]) * (cond - uncond)


def patch(
    model: ModelPatcher,
    mimic: Scale,
    mode: str,
    least: float,
    rule: Rule,
) -> ModelPatcher:
    """A clone of the model whose guided predictions are thresholded.

    Args:
        mimic: The scale whose spread the result has.
        mode, least: The schedule of the sampler's own CFG scale, one of MODES, and the scale at its lowest point.
    """

    def thresholded(args: dict[str, Any]) -> Tensor:
        if args["uncond"] is None:  # at CFG 1 ComfyUI leaves the negative prompt out: there is no guidance to tame
            return args["denoised"]
        done = part(args["model"].model_sampling, args["sigma"][:1])
        cfg = Scale(args["cond_scale"], least, mode, mimic.s)
        guided, mimicked = (guidance(args, scale.at(done)) for scale in (cfg, mimic))
        return threshold(guided, mimicked, rule)

    return first_after_guidance(model, KEY, thresholded)
