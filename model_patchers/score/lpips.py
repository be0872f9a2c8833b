"""LPIPS from a user's files: the distance of pictures as people see it. Zhang et al. 2018 (arXiv 1801.03924).

The authors publish the linear layers alone (alex.pth, vgg.pth), and torchvision the network below them
(alexnet-owt-7be5be79.pth, vgg16-397923af.pth). Others keep both in one file. All of these forms are told by their keys.
"""

import re
from pathlib import Path

import comfy.ops
import torch
from comfy import model_management
from torch import Tensor

from ..arch.lpips import BACKBONES, Backbone, Network
from ..arch.shapes import shape_of
from ..comfyui.describe import describe
from ..comfyui.fit import sizes_of
from ..comfyui.managed import Managed
from ..comfyui.model_files import dequantized, read_model
from ..pixels.images import to_rgb

LINEAR = re.compile(r"(?:.*\.)?(?:lin|lins\.)(\d+)\.model\.\d+\.weight")
FEATURES = re.compile(r"(?:.*\.)?(?:net\.slice\d+|features)\.(\d+\..+)")
PUBLISHED = {"AlexNet": "alexnet-owt-7be5be79.pth", "VGG-16": "vgg16-397923af.pth"}  # by torchvision
NEEDED = "LPIPS is alex.pth with alexnet-owt-7be5be79.pth, or vgg.pth with vgg16-397923af.pth, or a file of both."
OTHER = f"'{{file}}' holds LPIPS for another network than AlexNet and VGG-16. {NEEDED}"
FEATURE_BYTES = {"AlexNet": 200, "VGG-16": 2000}  # for each pixel of a pair, about


class LPIPS(Managed):
    """LPIPS under ComfyUI's memory management. It computes in float32, since it measures small differences.

    Args:
        weights: As from lpips_weights.
        file: The name to use in messages.
    """

    def __init__(self, weights: dict[str, Tensor], file: str) -> None:
        self.backbone = kind(weights, file)
        network = Network(
            self.backbone,
            comfy.ops.manual_cast,
            device=model_management.unet_offload_device(),
            dtype=torch.float32,
        )
        super().__init__(network, weights, file, "LPIPS", NEEDED)

    def distance(self, image: Tensor, reference: Tensor) -> Tensor:
        """LPIPS of each pair: (B, H, W, C) twice, in 0 ... 1 -> (B,), on the device where it computes.

        Raises:
            ValueError: The pictures are too small for the network.
        """
        height, width = image.shape[1:3]
        if min(height, width) < self.backbone.least:
            raise ValueError(
                f"image is {width} x {height} pixels, and LPIPS by {self.backbone.name} needs at least "
                f"{self.backbone.least} x {self.backbone.least}. Enlarge the picture, or set lpips_name to none."
            )
        self.load(FEATURE_BYTES[self.backbone.name] * height * width)
        pairs = zip(image.split(1), reference.split(1), strict=True)
        return torch.cat([self.network(self._planes(one), self._planes(other)) for one, other in pairs])

    def _planes(self, image: Tensor) -> Tensor:
        return to_rgb(image).movedim(-1, 1).to(self.device, torch.float32)


def kind(weights: dict[str, Tensor], file: str) -> Backbone:
    """The backbone of weights as from lpips_weights."""
    with sizes_of(file, "LPIPS"):
        shape = shape_of(weights, "features.0.weight", 4)
    alexnet, vgg = BACKBONES
    return alexnet if shape[-1] == alexnet.layers[0][1] else vgg


def lpips_weights(
    weights: dict[str, Tensor], file: str, below: dict[str, Tensor] | None = None, below_file: str = ""
) -> dict[str, Tensor]:
    """The tensors of LPIPS under the network's names.

    Args:
        weights: Of the file with the linear layers, as from read_model.
        file: Its name, for messages.
        below: Of the file with the backbone, where there is one. It is used where `weights` has none.
        below_file: Its name.

    Raises:
        ValueError: They are those of other networks, or of two that do not fit, or a part is missing.
    """
    linear, network = _linear(weights), _features(weights)
    if not linear:
        if network:
            raise ValueError(
                f"'{file}' holds a network without the linear layers of LPIPS. Choose it as backbone_name, and "
                "alex.pth or vgg.pth as lpips_name."
            )
        raise ValueError(f"'{file}' holds {describe(weights)}. {NEEDED}")
    if any(".squeeze." in name for name in network):
        raise ValueError(OTHER.format(file=file))
    if not network:
        network = _below(linear, file, below, below_file)
    return dequantized(linear | network, file)


def _linear(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    matches = ((LINEAR.fullmatch(key), value) for key, value in weights.items())
    return {f"lin{match[1]}.model.1.weight": value for match, value in matches if match}


def _features(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    matches = ((FEATURES.fullmatch(key), value) for key, value in weights.items())
    return {f"features.{match[1]}": value for match, value in matches if match}


def _below(
    linear: dict[str, Tensor], file: str, weights: dict[str, Tensor] | None, weights_file: str
) -> dict[str, Tensor]:
    """The backbone that the linear layers are for, from the file with it."""
    channels = [linear[name].shape[1:2].numel() for name in sorted(linear)]
    backbone = next((each for each in BACKBONES if channels == each.channels), None)
    if backbone is None:
        raise ValueError(OTHER.format(file=file))
    if weights is None:
        raise ValueError(
            f"'{file}' holds the linear layers of LPIPS alone, for {backbone.name}. Put {PUBLISHED[backbone.name]} "
            "into models/lpips too, and choose it as backbone_name."
        )
    network = _features(weights)
    names = {f"features.{place}.{part}" for place in backbone.places for part in ("weight", "bias")}
    if network.keys() != names:
        raise ValueError(
            f"'{weights_file}' is not the {backbone.name} of torchvision that '{file}' is for. Choose "
            f"{PUBLISHED[backbone.name]} as backbone_name."
        )
    return network


def load(path: str | Path, below: str | Path | None = None) -> LPIPS:
    """LPIPS from a file of both parts, or from one with the linear layers and one with the backbone `below`.

    Raises:
        ValueError: A file cannot be read, or they hold no LPIPS.
    """
    path, below = Path(path), below and Path(below)
    weights = lpips_weights(
        read_model(path), path.name, read_model(below) if below else None, below.name if below else ""
    )
    return LPIPS(weights, f"{path.name} with {below.name}" if below else path.name)
