"""LaMa: large mask inpainting, Suvorov et al. 2022 (github.com/advimman/lama, Apache-2.0).

The network runs at the picture's own resolution, on one crop for each hole or on the whole picture, and its prediction
is used inside the hole alone.
"""

from collections.abc import Callable
from pathlib import Path

import comfy.ops
import torch
from comfy import model_management
from torch import Tensor

from ..arch.lama import INPUT_KEY, Config, Generator
from ..comfyui.managed import Managed
from ..comfyui.progress import Progress, ignore
from ..comfyui.weights import below, describe, read_state_dict
from ..pixels.boxes import Box
from ..pixels.images import put_rgb, to_rgb
from ..pixels.masks import pair
from ..pixels.regions import hole_boxes
from .lama_refinement import refine, scales

AREAS = ["each hole", "whole picture"]
BYTES, REFINED_BYTES = 1100, 3500  # per pixel, the most that Big-LaMa held at 512 to 1024 pixels square


def symmetric_pad(x: Tensor, height: int, width: int) -> Tensor:
    """(..., h, w) -> (..., height, width), mirrored at the bottom and right edge as numpy.pad's "symmetric": the edge
    pixel is repeated, and the mirror again mirrored where the padding is longer than the picture."""

    def mirror(size: int, padded: int) -> Tensor:
        index = torch.arange(padded, device=x.device) % (2 * size)
        return torch.minimum(index, 2 * size - 1 - index)

    h, w = x.shape[-2:]
    return x if (h, w) == (height, width) else x[..., mirror(h, height)[:, None], mirror(w, width)]


def predict(generator: Generator, image: Tensor, mask: Tensor, progress: Callable[[], None] = ignore) -> Tensor:
    """What the network sees in the hole, at any size: it is padded as by the official predictor, and cropped back.

    Args:
        image: (B, 3, H, W) in [0, 1].
        mask: (B, 1, H, W), 1 in the hole and 0 elsewhere.
        progress: Called after every layer.

    Returns:
        (B, 3, H, W) in [0, 1]. Only the hole's pixels mean anything.
    """
    height, width = image.shape[-2:]
    # The blocks reflect by one pixel at the lowest resolution, so two pixels are the least they work on.
    size = [max(2, -(-n // generator.multiple)) * generator.multiple for n in (height, width)]
    x = torch.cat((image * (1 - mask), mask), dim=1)  # (B, 4, H, W)
    return generator(symmetric_pad(x, *size), progress)[..., :height, :width]


def generator_weights(weights: dict[str, Tensor], file: str) -> dict[str, Tensor]:
    """The generator's part of a checkpoint, without the prefix that its trainer or converter gave it.

    Args:
        weights: As from read_state_dict, with the generator's keys below any prefix.
        file: The name to use in messages.

    Raises:
        ValueError: This is another network.
    """
    generator = below(weights, INPUT_KEY)
    if not generator:
        raise ValueError(
            f"'{file}' holds {describe(weights)}, but Load LaMa needs a LaMa generator with Fourier convolutions "
            f"(a key that ends in '{INPUT_KEY}'), such as big-lama.pt. Choose that file."
        )
    if any("rel_pos_emb" in key for key in weights):
        raise ValueError(
            f"'{file}' holds LaMa-MPE, whose generator is also fed position encodings. Load LaMa needs the LaMa that "
            "is fed a masked picture and its mask alone, such as big-lama.pt or lama_large_512px.ckpt."
        )
    if (channels := generator[INPUT_KEY].shape[1]) != 4:
        raise ValueError(
            f"'{file}' holds a LaMa generator with {channels} input channels. Load LaMa needs one with 4: a masked "
            "picture and its mask, such as big-lama.pt."
        )
    return generator


class LaMa(Managed):
    """A generator under ComfyUI's memory management.

    Args:
        weights: Of the generator, as from generator_weights. They keep their type; the network computes in float32.
        file: The name to use in messages.
    """

    def __init__(self, weights: dict[str, Tensor], file: str) -> None:
        offload_device, dtype = model_management.unet_offload_device(), weights[INPUT_KEY].dtype
        self.generator = Generator(Config.of(weights), comfy.ops.manual_cast, offload_device, dtype)
        named = {f"model.{key}": value for key, value in weights.items()}
        super().__init__(self.generator, named, file, "LaMa", unused=".*")

    def fill(self, image: Tensor, mask: Tensor, area: str, context: int, refine_steps: int) -> Tensor:
        """Fills what is masked.

        Args:
            image: (B, H, W, C), C = 1, 3 or 4.
            mask: (N, H, W). Everything above 0 is filled.
            area: One of AREAS: what the network sees at a time.
            context: Pixels around each hole that it sees, where area is "each hole".
            refine_steps: Of the refinement; 0 is none.

        Returns:
            (max(B, N), H, W, C). Outside the mask, the bits of `image`.
        """
        image, mask = pair(image, mask)
        hole = mask > 0
        jobs = [(i, box) for i, pixels in enumerate(hole) for box in _boxes(pixels, area, context)]
        if not jobs:
            return image
        pixels = max(box.width * box.height for _, box in jobs)
        self.load(self._memory(pixels, refine_steps))
        progress = Progress(sum(self._steps(box, refine_steps) for _, box in jobs))
        result = image.clone()
        for i, box in jobs:
            at = (slice(i, i + 1), *box.slices)
            rgb = self._fill_crop(to_rgb(image[at]), hole[at], refine_steps, progress)
            result[at] = put_rgb(image[at], rgb.to(image.device), hole[at])
        return result

    def _fill_crop(self, image: Tensor, hole: Tensor, refine_steps: int, progress: Callable[[], None]) -> Tensor:
        """(1, H, W, 3), (1, H, W) -> (1, H, W, 3)"""
        x = image.movedim(-1, 1).to(self.device, torch.float32)
        m = hole[:, None].to(x)
        if refine_steps and scales(*x.shape[-2:]) > 1:
            y = refine(self.generator, x, m, refine_steps, progress)
        else:
            y = predict(self.generator, x, m, progress)
        return y.movedim(1, -1)

    def _memory(self, pixels: int, refine_steps: int) -> int:
        """Bytes for one crop's activations; the refinement also copies the weights."""
        return pixels * REFINED_BYTES + self.patcher.model_size() if refine_steps else pixels * BYTES

    def _steps(self, box: Box, refine_steps: int) -> int:
        """How many layers will run."""
        layers, finer = len(self.generator.model), scales(box.height, box.width) - 1
        if not refine_steps:
            return layers
        return layers + finer * (self.generator.front + refine_steps * (layers - self.generator.front))


def load(path: str | Path) -> LaMa:
    """A LaMa in any form that read_state_dict knows.

    Raises:
        ValueError: The file cannot be read, or is no LaMa.
    """
    path = Path(path)
    return LaMa(generator_weights(read_state_dict(path), path.name), path.name)


def _boxes(hole: Tensor, area: str, context: int) -> list[Box]:
    if area == "each hole":
        return hole_boxes(hole, context)
    return [Box(0, 0, hole.shape[1], hole.shape[0])] if hole.any() else []
