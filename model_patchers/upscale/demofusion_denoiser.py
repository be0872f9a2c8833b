"""DemoFusion: pictures far larger than a model knows, phase by phase. Du et al., "DemoFusion: Democratising
High-Resolution Image Generation With No $$$", CVPR 2024, arXiv 2311.16973.

Here is the denoiser of a phase: windows see the picture's details, dilated views all of it, and their results are mixed
by the timestep. What lies around it, the ladder of phases and the residual, is in phases.py.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrapperExecutor
from torch import Tensor
from torch.nn import functional as F

from . import tiles
from .iterative_mixing import cosine, progress_left
from .window_conditioning import Cond
from .windows import Windowed, evaluate, refuse_easycache

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


def blurred(x: Tensor, s: int, std: float) -> Tensor:
    """x through a gaussian filter as wide as its dilated views are apart, with the moments that x has (section 3.3).

    Args:
        x: (B, ..., H, W).
        s: The views' step. The kernel is 2 s - 1 wide; beyond the border are zeros.
        std: Of the filter, in latent pixels, above 0.
    """
    d = torch.arange(1 - s, s, device=x.device)
    kernel = torch.exp(-(d**2) / (2 * std**2))
    kernel = (kernel / kernel.sum()).to(x)
    y = F.conv2d(x.reshape(-1, 1, *x.shape[-2:]), kernel.view(1, 1, -1, 1), padding=(s - 1, 0))
    y = F.conv2d(y, kernel.view(1, 1, 1, -1), padding=(0, s - 1))
    return renormalised(y.reshape(x.shape), moments(x))


def needed(c2: float, skip_below: float) -> tuple[bool, bool]:
    """Whether the windows and the dilated views are computed, which weigh 1 - c2 and c2."""
    return 1 - c2 >= skip_below, c2 >= skip_below


@dataclass(kw_only=True)
class Denoiser(Windowed):
    """The denoiser of a phase, on a model.

    Attributes:
        s: The step of the dilated views: the phase's scale, rounded up, so that no view is larger than the base.
        dilated: Exponent of the views' weight c2 = f^dilated.
        blur: Exponent of the filter's width, `sigma` (0.99 f^blur + 0.01) latent pixels.
        skip_below: What weighs less is not computed; at most 0.5.
    """

    s: int
    dilated: float
    blur: float
    sigma: float
    skip_below: float

    def wrap(
        self,
        executor: WrapperExecutor,
        model: torch.nn.Module,
        conds: list[list[Cond] | None],
        x: Tensor,
        sigma: Tensor,
        model_options: dict[str, Any],
    ) -> list[Tensor]:
        """A wrapper of CALC_COND_BATCH."""
        f = cosine(progress_left(model.model_sampling, sigma[:1]))
        c2 = f**self.dilated
        local, views = needed(c2, self.skip_below)
        args = executor, model, conds, x, sigma, model_options
        if not views:
            return self.windows(*args)
        if not local:
            return self.views(f, *args)
        return [torch.lerp(a, b, c2) for a, b in zip(self.windows(*args), self.views(f, *args), strict=True)]

    def windows(
        self, executor: WrapperExecutor, model: torch.nn.Module, conds: list, x: Tensor, sigma: Tensor, options: dict
    ) -> list[Tensor]:
        """The mean of overlapping windows, as in MultiDiffusion."""
        plan = self.plan(*x.shape[-2:], sigma[0].item())
        if len(plan) > 1 and self.jitter:
            refuse_easycache(options, NODE, "Turn jitter off")
        weight = tiles.uniform(*plan[0].size)
        return evaluate(executor, model, conds, x, sigma, options, plan, weight, kept=self.kept)

    def views(
        self,
        f: float,
        executor: WrapperExecutor,
        model: torch.nn.Module,
        conds: list,
        x: Tensor,
        sigma: Tensor,
        options: dict,
    ) -> list[Tensor]:
        """What the views of the blurred picture say of the picture itself.

        The authors' views of the blurred x yield the noise that they take from x: x - noise = D + x - blurred x, for
        eps, v and flow models alike.
        """
        smooth = blurred(x, self.s, self.sigma * (0.99 * f**self.blur + 0.01))
        plan = tiles.dilated(*x.shape[-2:], self.s)
        weight = tiles.uniform(*plan[0].size)
        found = evaluate(executor, model, conds, smooth, sigma, options, plan, weight, kept=self.kept)
        return [D + (x - smooth) for D in found]

    def prepare(
        self, executor: WrapperExecutor, model: ModelPatcher, noise_shape: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """A wrapper of PREPARE_SAMPLING: memory is made free for a window or a view, and not for all of x."""
        *rest, height, width = noise_shape
        size = (max(min(side, self.size), math.ceil(side / self.s)) for side in (height, width))
        return executor(model, [*rest, *size], *args, **kwargs)

    def work(self, height: int, width: int, left: float) -> int:
        """How many latent pixels the model is shown for one prompt, of a picture (H, W) with t/T = left to go."""
        local, views = needed(cosine(left) ** self.dilated, self.skip_below)
        plans = [tiles.grid(height, width, (self.size, self.size), self.overlap)] * local
        plans += [tiles.dilated(height, width, self.s)] * views
        return sum(len(plan) * math.prod(plan[0].size) for plan in plans)
