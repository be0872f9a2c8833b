"""The denoiser of one phase of DemoFusion.

Du et al., "DemoFusion: Democratising High-Resolution Image Generation With No $$$", CVPR 2024, arXiv 2311.16973.

Windows show the picture's details, dilated views show the whole picture, and the timestep decides how their results are
mixed. The phases and their skip residual are in demofusion.py.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..comfyui import schedule
from ..comfyui.patching import Call
from ..pixels.blur import gaussian
from . import tiles
from .iterative_mixing import cosine
from .windows import Plan, RunCache, evaluate, refuse_easycache

NODE = "DemoFusion Upscale"

Moments = tuple[Tensor, Tensor]  # mean and standard deviation, (B, 1, ...) each


def moments(x: Tensor) -> Moments:
    """The mean and the standard deviation of each picture of x, (B, ...)."""
    dims = tuple(range(1, x.ndim))
    return x.mean(dims, keepdim=True), x.std(dims, keepdim=True)


def renormalised(x: Tensor, to: Moments) -> Tensor:
    """The pictures x, (B, ...), scaled and shifted to the moments `to`."""
    (mean, std), (new_mean, new_std) = moments(x), to
    return (x - mean) / std * new_std + new_mean


def blurred(x: Tensor, s: int, sigma: float) -> Tensor:
    """x, (B, ..., H, W), blurred by a Gaussian and renormalised to the moments of x (section 3.3).

    Args:
        s: The step of the dilated views. The kernel is 2 s - 1 wide: it ends just before the next pixel of the same
            view. Beyond the border are zeros.
        sigma: Standard deviation of the Gaussian in latent pixels, above 0.
    """
    return renormalised(gaussian(x, sigma, s - 1, "constant"), moments(x))


def needed(c2: float, skip_below: float) -> tuple[bool, bool]:
    """Whether to compute the windows, 1 - c2 >= skip_below, and the dilated views, c2 >= skip_below."""
    return 1 - c2 >= skip_below, c2 >= skip_below


@dataclass(kw_only=True)
class Denoiser:
    """The denoiser of one phase. f = cosine(t / T) falls from 1 to 0 during the phase.

    Attributes:
        plan: Of the windows.
        s: The step of the dilated views: the phase's scale, rounded up, so that no view is larger than the base.
        dilated: Exponent of the views' weight c2 = f^dilated.
        blur: Exponent of c3 = 0.99 f^blur + 0.01, by which the blur before the views narrows.
        sigma: The blur's standard deviation at c3 = 1, in latent pixels.
        skip_below: Windows or views of a smaller weight are not computed; at most 0.5.
        batch: Windows in a call; 0 = as many as memory allows.
        cache: Cleared after each run.
    """

    plan: Plan
    s: int
    dilated: float
    blur: float
    sigma: float
    skip_below: float
    batch: int = 0
    cache: RunCache = field(default_factory=RunCache)

    def wrap(self, *args: Any) -> list[Tensor]:
        """A wrapper of CALC_COND_BATCH: D(x) = (1 - c2) windows + c2 views, with c2 = f^dilated (section 3.4)."""
        call = Call(*args)
        f = cosine(schedule.left(call.model.model_sampling, call.sigma[:1]))
        c2 = f**self.dilated
        local, views = needed(c2, self.skip_below)
        if not views:
            return self.windows(call)
        if not local:
            return self.views(call, f)
        return [torch.lerp(a, b, c2) for a, b in zip(self.windows(call), self.views(call, f), strict=True)]

    def windows(self, call: Call) -> list[Tensor]:
        """The mean of the results of overlapping windows, as in MultiDiffusion."""
        windows = self.plan.windows(*call.x.shape[-2:], call.sigma[0].item())
        if len(windows) > 1 and self.plan.moves:
            refuse_easycache(call.options, NODE, "Turn jitter off")
        return evaluate(call, windows, tiles.uniform(*windows[0].size), self.batch, self.cache)

    def views(self, call: Call, f: float) -> list[Tensor]:
        """The results of the dilated views of the blurred x, for x itself (section 3.3).

        The blur's standard deviation is sigma c3, with c3 = 0.99 f^blur + 0.01. The authors predict the noise in the
        blurred x and take it from x: x - (blurred x - D(blurred x)) = D(blurred x) + x - blurred x, for eps, v and flow
        models alike.
        """
        smooth = blurred(call.x, self.s, self.sigma * (0.99 * f**self.blur + 0.01))
        views = tiles.dilated(*call.x.shape[-2:], self.s)
        denoised = evaluate(call._replace(x=smooth), views, tiles.uniform(*views[0].size), self.batch, self.cache)
        return [D + (call.x - smooth) for D in denoised]

    def shown(self, height: int, width: int) -> tuple[int, int]:
        """The larger sides (h, w) of a window and of a view on a latent of (height, width)."""
        return tuple(max(min(side, self.plan.size), math.ceil(side / self.s)) for side in (height, width))

    def work(self, height: int, width: int, left: float) -> int:
        """The number of latent pixels that the model computes for one prompt.

        Args:
            height, width: Of the whole latent.
            left: t / T, the part of the schedule that is left.
        """
        local, views = needed(cosine(left) ** self.dilated, self.skip_below)
        size = self.plan.size, self.plan.size
        plans = [tiles.grid(height, width, size, self.plan.overlap)] * local
        plans += [tiles.dilated(height, width, self.s)] * views
        return sum(len(plan) * math.prod(plan[0].size) for plan in plans)
