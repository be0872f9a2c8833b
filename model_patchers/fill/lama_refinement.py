"""LaMa's refinement: Kulshreshtha et al. 2022, "Feature Refinement to Improve High Resolution Image Inpainting".

A network trained on small pictures fills large holes with structure that is too fine. So the picture is filled at a
small scale first. At every larger scale, the features in the middle of the network are optimised until the prediction,
scaled down, agrees with the fill of the smaller scale.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from ..arch.lama import Generator
from ..comfyui.progress import ignore
from ..pixels import blur

LEARNING_RATE = 0.002
EPS = 1e-8  # tolerance when a resized mask is compared with 0 or 1


class Pyramid(NamedTuple):
    """The scales at which a picture is refined.

    Attributes:
        min_side: About the shorter side of the smallest scale, in pixels: that of the pictures in training.
        max_scales: The most scales.
        budget: Pixels of the largest scale; a larger picture is refined at this size.
    """

    min_side: int = 512
    max_scales: int = 3
    budget: int = 1_800_000

    def scales(self, height: int, width: int) -> int:
        """The number of scales for a picture of this size; with 1 there is nothing to refine."""
        side = min(self.largest(height, width))
        return min(1 + round(max(0.0, math.log2(side / self.min_side))), self.max_scales)

    def largest(self, height: int, width: int) -> tuple[int, int]:
        """The size of the largest scale: the picture's own, or one of `budget` pixels."""
        ratio = min(1.0, math.sqrt(self.budget / (height * width)))
        return max(1, int(height * ratio)), max(1, int(width * ratio))

    def levels(self, image: Tensor, mask: Tensor) -> list[tuple[Tensor, Tensor]]:
        """The picture and the mask at every scale, the smallest first."""
        levels = [(image, mask)]
        for _ in range(self.scales(*image.shape[-2:]) - 1):
            image, mask = pyramid_down(image), (pyramid_down(mask) >= EPS).to(mask)
            levels.append((image, mask))
        return levels[::-1]


PYRAMID = Pyramid()


def refine(
    generator: Generator,
    image: Tensor,
    mask: Tensor,
    steps: int,
    progress: Callable[[], None] = ignore,
    pyramid: Pyramid = PYRAMID,
) -> Tensor:
    """A picture with its hole filled by algorithm 1 of the paper.

    Beyond a plain pass it needs memory for the activations of one block and the inputs of the others: the backward pass
    computes each block again.

    Args:
        image: (1, 3, H, W) in [0, 1].
        mask: (1, 1, H, W), 1 in the hole and 0 elsewhere.
        steps: Passes through the network at each scale above the smallest: the last one predicts, those before it
            optimise.
        progress: Called after every layer.
        pyramid: The scales.

    Returns:
        (1, 3, H, W). A picture above the budget is refined at the budget's size and enlarged again.
    """
    # ComfyUI runs nodes in inference mode. Autograd cannot save tensors made there, so _Rear copies the weights.
    with torch.inference_mode(False), torch.enable_grad():
        size = image.shape[-2:]
        if (affordable := pyramid.largest(*size)) != tuple(size):
            image = F.interpolate(image, affordable, mode="bilinear")
            mask = (F.interpolate(mask, affordable, mode="bilinear") > EPS).to(image)
        rear = _Rear(generator, image.device, progress)
        filled = None
        for x, m in pyramid.levels(image, mask):
            filled = _refine_scale(generator, rear, x, m, filled, steps, progress)
        return F.interpolate(filled, size, mode="bilinear") if affordable != tuple(size) else filled


def pyramid_down(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, H // 2, W // 2): blurred by a 5 x 5 Gaussian of sigma 1, then resized bilinearly."""
    return _halve(blur.gaussian(x, sigma=1.0, radius=2, border="reflect"))


def _halve(x: Tensor) -> Tensor:
    return F.interpolate(x, (x.shape[-2] // 2, x.shape[-1] // 2), mode="bilinear")


def inner_mask(mask: Tensor) -> Tensor:
    """(1, 1, H, W) -> bool (1, 1, H // 2, W // 2): the hole at half size, eroded by OpenCV's 15 x 15 ellipse.

    The erosion leaves out the seam, which the smaller scale draws too wide. At the border of the picture, where there
    is no seam, nothing is eroded.
    """
    y = torch.arange(-7, 8, device=mask.device)
    reach = torch.sqrt(49.0 - y**2).round()  # of each row of the ellipse, from its middle
    ellipse = (y.abs() <= reach[:, None]).to(mask)[None, None]
    whole = (_halve(mask) >= 1 - EPS).to(mask)
    return F.conv2d(F.pad(whole, (7, 7, 7, 7), value=1.0), ellipse) == ellipse.sum()


class _Rear:
    """The network from its first block on, with copies of the weights; the backward pass computes each stage again."""

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
    """A picture (1, 3, H, W) with its hole, (1, 1, H, W), filled at one scale: (1, 3, H, W).

    Args:
        lower: The filled picture of the smaller scale, (1, 3, H // 2, W // 2); None at the smallest scale.
    """
    height, width = image.shape[-2:]
    padding = (0, -width % generator.multiple, 0, -height % generator.multiple)
    padded, padded_mask = F.pad(image, padding, mode="reflect"), F.pad(mask, padding, mode="reflect")
    with torch.no_grad():
        z = torch.cat((padded * (1 - padded_mask), padded_mask), dim=1)
        for layer in generator.model[: generator.front]:
            z = layer(z)
            progress()
    if lower is not None:
        known, inside = padded_mask.expand_as(padded) < EPS, inner_mask(mask).expand_as(lower)

        def loss(y: Tensor) -> Tensor:
            smaller = pyramid_down(y[..., :height, :width])
            return _distance(y, padded, known) + _distance(smaller, lower, inside)

        _optimise(z, rear, loss, steps - 1)
    with torch.no_grad():
        y = rear(z)[..., :height, :width]
    return mask * y + (1 - mask) * image


def _optimise(z: tuple[Tensor, Tensor], rear: _Rear, loss: Callable[[Tensor], Tensor], steps: int) -> None:
    """Changes the features z in place by `steps` of Adam, to lower the loss of the prediction y = rear(z).

    The loss of the paper is the mean of |y - x| over the known pixels of the picture x, plus the mean of |D(y) - y'|
    over the inner part of the hole, where D is pyramid_down and y' the filled picture of the smaller scale.
    """
    for feature in z:
        feature.requires_grad_()
    optimiser = torch.optim.Adam(z, lr=LEARNING_RATE)
    for _ in range(steps):
        optimiser.zero_grad()
        loss(rear(z)).backward()
        optimiser.step()


def _distance(a: Tensor, b: Tensor, where: Tensor) -> Tensor:
    """The mean absolute difference at the pixels `where`.

    Without any such pixel, as in a hole thinner than the erosion, it is not a number, and its gradient is 0.
    """
    return (a - b).abs()[where].mean()
