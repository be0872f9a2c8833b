"""LPIPS: how far two pictures are apart for a network that was trained to name pictures. Zhang et al. 2018, "The
Unreasonable Effectiveness of Deep Features as a Perceptual Metric" (arXiv 1801.03924), equation 1, in the authors'
version 0.1 (github.com/richzhang/PerceptualSimilarity, BSD-2).

Modules have the names of torchvision's AlexNet and VGG-16 (`features.0.weight`) and of the authors' files of linear
layers (`lin0.model.1.weight`).
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # ImageNet's, for pictures in -1 ... 1
SMALLEST_NORM = 1e-10


@dataclass(frozen=True)
class Backbone:
    """The convolutions of a network for naming pictures, each with a ReLU, and the max poolings between them.

    Attributes:
        layers: (channels, kernel, stride, padding) of a convolution, (kernel, stride) of a pooling, as `is_pool` tells.
        taps: The convolutions whose features are compared, counted from 0.
        least: The smallest side of a picture that leaves features at every tap.
    """

    name: str
    layers: tuple[tuple[int, ...], ...]
    taps: tuple[int, ...]
    least: int

    @property
    def channels(self) -> list[int]:
        """Of the features at each tap."""
        convolutions = [layer for layer in self.layers if not is_pool(layer)]
        return [convolutions[tap][0] for tap in self.taps]

    @property
    def places(self) -> list[int]:
        """Index of each convolution where its ReLU and the poolings count, too, as in torchvision's `features`."""
        places, place = [], 0
        for layer in self.layers:
            if not is_pool(layer):
                places.append(place)
            place += 1 if is_pool(layer) else 2
        return places


def is_pool(layer: tuple[int, ...]) -> bool:
    return len(layer) == 2


POOL, HALF = (3, 2), (2, 2)
ALEXNET = Backbone(
    "AlexNet",
    ((64, 11, 4, 2), POOL, (192, 5, 1, 2), POOL, (384, 3, 1, 1), (256, 3, 1, 1), (256, 3, 1, 1)),
    (0, 1, 2, 3, 4),
    31,
)
C64, C128, C256, C512 = ((channels, 3, 1, 1) for channels in (64, 128, 256, 512))
VGG16 = Backbone(
    "VGG-16",
    (C64, C64, HALF, C128, C128, HALF, C256, C256, C256, HALF, C512, C512, C512, HALF, C512, C512, C512),
    (1, 3, 6, 9, 12),
    16,
)
BACKBONES = (ALEXNET, VGG16)


class Linear(nn.Module):
    """w of equation 1: a weight for each channel of a tap. The authors put a dropout before it, as index 0."""

    def __init__(self, channels: int, ops: Any, **kwargs: Any) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Identity(), ops.Conv2d(channels, 1, 1, bias=False, **kwargs))

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class Network(nn.Module):
    """LPIPS over a backbone.

    Args:
        ops: comfy.ops or one of its classes; kwargs are those of its layers.
    """

    def __init__(self, backbone: Backbone, ops: Any, **kwargs: Any) -> None:
        super().__init__()
        self._compared = {backbone.places[tap] + 1 for tap in backbone.taps}  # the ReLUs
        modules: list[nn.Module] = []
        into = 3
        for layer in backbone.layers:
            if is_pool(layer):
                modules.append(nn.MaxPool2d(*layer))
            else:
                out, kernel, stride, padding = layer
                modules += [ops.Conv2d(into, out, kernel, stride, padding, **kwargs), nn.ReLU(inplace=True)]
                into = out
        self.features = nn.Sequential(*modules)
        for number, channels in enumerate(backbone.channels):
            self.add_module(f"lin{number}", Linear(channels, ops, **kwargs))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """d(x, y) of pictures (B, 3, H, W) in 0 ... 1: (B,)."""
        z = torch.cat((x, y))
        z = (2 * z - 1 - z.new_tensor(SHIFT).view(-1, 1, 1)) / z.new_tensor(SCALE).view(-1, 1, 1)
        distances = []
        for index, module in enumerate(self.features):
            z = module(z)
            if index in self._compared:
                a, b = unit(z).chunk(2)
                w = self.get_submodule(f"lin{len(distances)}")
                distances.append(w((a - b) ** 2).mean((1, 2, 3)))
        return torch.stack(distances).sum(0)


def unit(features: Tensor) -> Tensor:
    """Each pixel's channels as a vector of length 1: (B, C, H, W) -> the same shape."""
    return features / (features.square().sum(1, keepdim=True).sqrt() + SMALLEST_NORM)
