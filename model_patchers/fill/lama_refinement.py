"""LaMa's refinement: Kulshreshtha et al. 2022, "Feature Refinement to Improve High Resolution Image Inpainting".

A network trained on small pictures fills big holes with structure that is too fine for them. So the picture is filled
at a small scale first, and at every larger one the features in the middle of the network are optimised until the
prediction, made smaller, agrees with the smaller scale's.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from ..arch.lama import Generator
from ..comfyui.progress import ignore
from ..pixels import blur

MIN_SIDE = 512  # pixels: about what the network was trained on
MAX_SCALES = 3
BUDGET = 1_800_000  # pixels: bigger pictures are refined at that size
LEARNING_RATE = 0.002
EPS = 1e-8


def scales(height: int, width: int) -> int:
    """The number of levels in the pyramid: 1 means that there is nothing to refine."""
    height, width = _affordable(height, width)
    return min(1 + round(max(0.0, math.log2(min(height, width) / MIN_SIDE))), MAX_SCALES)


def _affordable(height: int, width: int) -> tuple[int, int]:
    ratio = min(1.0, math.sqrt(BUDGET / (height * width)))
    return max(1, int(height * ratio)), max(1, int(width * ratio))


def refine(
    generator: Generator, image: Tensor, mask: Tensor, steps: int, progress: Callable[[], None] = ignore
) -> Tensor:
    """The paper's algorithm 1.

    Needs no memory beyond a plain pass but one block's activations and the inputs of the others: blocks are computed
    again in the backward pass.

    Args:
        image: (1, 3, H, W) in [0, 1].
        mask: (1, 1, H, W), 1 in the hole and 0 elsewhere.
        steps: Evaluations of the network at each scale but the lowest, the last of which changes nothing more.
        progress: Called after every layer.

    Returns:
        The filled picture (1, 3, H, W). One above BUDGET is refined at that size and enlarged again.
    """
    # The host runs nodes in inference mode, whose tensors autograd refuses to keep: _Rear copies the weights out of it.
    with torch.inference_mode(False), torch.enable_grad():
        size = image.shape[-2:]
        if (affordable := _affordable(*size)) != tuple(size):
            image = F.interpolate(image, affordable, mode="bilinear")
            mask = (F.interpolate(mask, affordable, mode="bilinear") > EPS).to(image)
        rear = _Rear(generator, image.device, progress)
        filled = None
        for x, m in _pyramid(image, mask):
            filled = _refine_scale(generator, rear, x, m, filled, steps, progress)
        return F.interpolate(filled, size, mode="bilinear") if affordable != tuple(size) else filled


def _pyramid(image: Tensor, mask: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Picture and mask at every scale, the smallest first."""
    levels = [(image, mask)]
    for _ in range(scales(*image.shape[-2:]) - 1):
        image, mask = pyramid_down(image), (pyramid_down(mask) >= EPS).to(mask)
        levels.append((image, mask))
    return levels[::-1]


def pyramid_down(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, H // 2, W // 2): a 5 x 5 Gaussian of sigma 1, then bilinear."""
    return _halve(blur.gaussian(x, sigma=1.0, radius=2, border="reflect"))


def _halve(x: Tensor) -> Tensor:
    return F.interpolate(x, (x.shape[-2] // 2, x.shape[-1] // 2), mode="bilinear")


def inner_mask(mask: Tensor) -> Tensor:
    """(1, 1, H, W) -> bool (1, 1, H // 2, W // 2): the hole at half size, eroded by a 15 x 15 ellipse, so that the
    seam, which the smaller scale draws too wide, has no say. A picture's border is no seam."""
    y = torch.arange(-7, 8, device=mask.device)
    reach = torch.sqrt(49.0 - y**2).round()  # how far each row of the ellipse goes
    ellipse = (y.abs() <= reach[:, None]).to(mask)[None, None]
    whole = (_halve(mask) >= 1 - EPS).to(mask)
    return F.conv2d(F.pad(whole, (7, 7, 7, 7), value=1.0), ellipse) == ellipse.sum()


class _Rear:
    """The network from the first block on, computed with copies of its weights and again in the backward pass."""

    def __init__(self, generator: Generator, device: torch.device, progress: Callable[[], None]) -> None:
        self.stages = [(stage, _copies(stage, device)) for stage in generator.stages()]
        self.progress = progress

    def __call__(self, z: tuple[Tensor, Tensor]) -> Tensor:
        for stage, weights in self.stages:
            z = checkpoint(functional_call, stage, weights, (z,), use_reentrant=False, preserve_rng_state=False)
            for _ in stage:
                self.progress()
        return z


def _copies(stage: torch.nn.Module, device: torch.device) -> dict[str, Tensor]:
    return {name: value.to(device, copy=True) for name, value in stage.state_dict().items()}


def _refine_scale(
    generator: Generator,
    rear: _Rear,
    image: Tensor,
    mask: Tensor,
    lower: Tensor | None,
    steps: int,
    progress: Callable[[], None],
) -> Tensor:
    """One scale, with the filled picture of the scale below. (1, 3, H, W), (1, 1, H, W) -> (1, 3, H, W)"""
    height, width = image.shape[-2:]
    padding = (0, -width % generator.multiple, 0, -height % generator.multiple)
    known, hole = image, mask
    image, mask = F.pad(image, padding, mode="reflect"), F.pad(mask, padding, mode="reflect")
    with torch.no_grad():
        z = torch.cat((image * (1 - mask), mask), dim=1)
        for layer in generator.model[: generator.front]:
            z = layer(z)
            progress()
    if lower is not None:
        z = [part.requires_grad_() for part in z]
        outside, inside = mask.expand_as(image) < EPS, inner_mask(hole).expand_as(lower)
        optimiser = torch.optim.Adam(z, lr=LEARNING_RATE)
        for _ in range(steps - 1):
            optimiser.zero_grad()
            y = rear(tuple(z))
            loss = _distance(y, image, outside)
            loss = loss + _distance(pyramid_down(y[..., :height, :width]), lower, inside)
            loss.backward()
            optimiser.step()
    with torch.no_grad():
        y = rear(tuple(z))[..., :height, :width]
    return hole * y + (1 - hole) * known


def _distance(a: Tensor, b: Tensor, where: Tensor) -> Tensor:
    """Mean absolute difference. Where nothing is compared, such as inside a hole thinner than the erosion, it is not a
    number, and its gradient is 0."""
    return (a - b).abs()[where].mean()
