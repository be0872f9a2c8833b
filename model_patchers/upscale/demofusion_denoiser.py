"""DemoFusion: pictures far larger than a model knows, phase by phase. Du et al., "DemoFusion: Democratising
High-Resolution Image Generation With No $$$", CVPR 2024, arXiv 2311.16973.

Here is the denoiser of a phase: windows see the picture's details, dilated views all of it, and their results are mixed
by the timestep. What lies around it, the ladder of phases and the residual, is in demofusion.py.
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
from .windows import Kept, Plan, evaluate, refuse_easycache

NODE = "DemoFusion Upscale"

Moments = tuple[Tensor, Tensor]


def moments(x: Tensor) -> Moments:
    """Mean and standard deviation of each picture: (B, 1, ...), from (B, ...)."""
    dims = tuple(range(1, x.ndim))
    return x.mean(dims, keepdim=True), x.std(dims, keepdim=True)


def renormalised(x: Tensor, to: Moments) -> Tensor:
    """The pictures with another mean and standard deviation: (B, ...)."""
    (mean, std), (wanted_mean, wanted_std) = moments(x), to
    return (x - mean) / std * wanted_std + wanted_mean


def blurred(x: Tensor, s: int, sigma: float) -> Tensor:
    """x through a gaussian filter as wide as its dilated views are apart, with the moments that x has (section 3.3).

    Args:
        x: (B, ..., H, W).
        s: The views' step. The kernel is 2 s - 1 wide; beyond the border are zeros.
        sigma: Of the filter, in latent pixels, above 0.
    """
    return renormalised(gaussian(x, sigma, s - 1, "constant"), moments(x))


def needed(c2: float, skip_below: float) -> tuple[bool, bool]:
    """Whether the windows and the dilated views are computed, which weigh 1 - c2 and c2."""
    return 1 - c2 >= skip_below, c2 >= skip_below


@dataclass(kw_only=True)
class Denoiser:
    """The denoiser of a phase, on a model.

    Attributes:
        plan: Of the windows.
        s: The step of the dilated views: the phase's scale, rounded up, so that no view is larger than the base.
        dilated: Exponent of the views' weight c2 = f^dilated.
        blur: Exponent of the filter's width, `sigma` (0.99 f^blur + 0.01) latent pixels.
        skip_below: What weighs less is not computed; at most 0.5.
        kept: For the run alone.
    """

    plan: Plan
    s: int
    dilated: float
    blur: float
    sigma: float
    skip_below: float
    batch: int = 0  # windows in a call: as many as memory allows
    kept: Kept = field(default_factory=Kept)

    def wrap(self, *args: Any) -> list[Tensor]:
        """A wrapper of CALC_COND_BATCH: x' = (1 - c2) windows + c2 views (section 3.4)."""
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
        """The mean of overlapping windows, as in MultiDiffusion."""
        windows = self.plan.windows(*call.x.shape[-2:], call.sigma[0].item())
        if len(windows) > 1 and self.plan.moves:
            refuse_easycache(call.options, NODE, "Turn jitter off")
        return evaluate(call, windows, tiles.uniform(*windows[0].size), self.batch, self.kept)

    def views(self, call: Call, f: float) -> list[Tensor]:
        """What the views of the blurred picture say of the picture itself.

        The authors' views of the blurred x yield the noise that they take from x: x - noise = D + x - blurred x, for
        eps, v and flow models alike.
        """
        smooth = blurred(call.x, self.s, self.sigma * (0.99 * f**self.blur + 0.01))
        views = tiles.dilated(*call.x.shape[-2:], self.s)
        denoised = evaluate(call._replace(x=smooth), views, tiles.uniform(*views[0].size), self.batch, self.kept)
        return [D + (call.x - smooth) for D in denoised]

    def shown(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the larger of a window and a view: what the model is shown of a latent."""
        return tuple(max(min(side, self.plan.size), math.ceil(side / self.s)) for side in (height, width))

    def work(self, height: int, width: int, left: float) -> int:
        """How many latent pixels the model is shown for one prompt, of a picture (H, W) with t/T = left to go."""
        local, views = needed(cosine(left) ** self.dilated, self.skip_below)
        size = self.plan.size, self.plan.size
        plans = [tiles.grid(height, width, size, self.plan.overlap)] * local
        plans += [tiles.dilated(height, width, self.s)] * views
        return sum(len(plan) * math.prod(plan[0].size) for plan in plans)
