"""A LaMa of the real one's size with random weights, run by the pack and by spandrel."""

from collections.abc import Callable

import _pack
import torch
from torch import Tensor


def picture(side: int, hole: int) -> tuple[Tensor, Tensor]:
    """A square picture (1, H, W, 3) and a mask (1, H, W) with a square hole in the middle."""
    image = torch.rand(1, side, side, 3, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(1, side, side)
    start = (side - hole) // 2
    mask[:, start : start + hole, start : start + hole] = 1
    return image, mask


def main(name: str, area: str, side: int, hole: int) -> dict:
    image, mask = picture(side, hole)
    with torch.inference_mode():
        fill = {"ours": ours, "peer": _spandrel}[name](area)
        fill(*picture(64, 32))  # threads and caches
        return _pack.measure(lambda: fill(image, mask))


def _net() -> torch.nn.Module:
    from spandrel.architectures.LaMa import LaMa

    torch.manual_seed(0)
    return LaMa(in_nc=4, out_nc=3).eval()


def ours(area: str) -> Callable[[Tensor, Tensor], Tensor]:
    _pack.load()
    from pentimento.model_patchers.fill import lama

    model = lama.LaMa(lama.generator_weights(_net().state_dict(), "random"), "random")
    return lambda image, mask: model.fill(image, mask, area, 128, 0)


def _spandrel(area: str) -> Callable[[Tensor, Tensor], Tensor]:
    net = _net()
    return lambda image, mask: net(image.movedim(-1, 1), mask[:, None]).movedim(1, -1)
