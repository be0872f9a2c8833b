"""Stand-ins of LPIPS: the authors' linear layers, and torchvision's AlexNet below them."""

from pathlib import Path

import torch

from .layers import Shapes, layer
from .weights import random, save_pickle


def lpips(path: Path) -> None:
    """alex.pth: a pickle with the keys of LPIPS's linear layers for AlexNet. Like the real ones, none is negative."""
    generator = torch.Generator().manual_seed(0)
    widths = (64, 192, 384, 256, 256)
    weights = {
        f"lin{i}.model.1.weight": torch.rand(1, width, 1, 1, generator=generator) for i, width in enumerate(widths)
    }
    save_pickle(weights, path)


def alexnet(path: Path) -> None:
    """alexnet-owt-7be5be79.pth: a pickle with the keys of AlexNet, in half precision, with a thin classifier."""
    generator = torch.Generator().manual_seed(0)
    save_pickle({name: random(name, shape, generator).half() for name, shape in _alexnet_shapes()}, path)


def _alexnet_shapes() -> Shapes:
    yield from layer("features.0", 64, 3, 11, 11)
    yield from layer("features.3", 192, 64, 5, 5)
    yield from layer("features.6", 384, 192, 3, 3)
    yield from layer("features.8", 256, 384, 3, 3)
    yield from layer("features.10", 256, 256, 3, 3)
    for name, out, into in (("1", 4, 9216), ("4", 4, 4), ("6", 1000, 4)):
        yield from layer(f"classifier.{name}", out, into)
