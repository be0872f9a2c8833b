"""LaMa: large mask inpainting, Suvorov et al. 2022 (github.com/advimman/lama, Apache-2.0).

The network runs at the resolution of the picture, on one crop for each hole or on the whole picture. Only its
prediction inside the hole is used.
"""

from collections.abc import Callable
from pathlib import Path

import comfy.ops
import torch
from comfy import model_management
from torch import Tensor

from ..arch.lama import INPUT_KEY, Config, Generator
from ..arch.shapes import shape_of
from ..comfyui.describe import below, describe
from ..comfyui.fit import sizes_of
from ..comfyui.managed import Managed
from ..comfyui.model_files import dequantized, read_model, widest
from ..comfyui.progress import Progress, ignore
from ..pixels import checks
from ..pixels.boxes import Box
from ..pixels.images import put_rgb, to_rgb
from ..pixels.masks import pair, selected, warn_of_nearly_all
from ..pixels.regions import hole_boxes
from .lama_refinement import PYRAMID, Pyramid, refine

AREAS = ["each hole", "whole picture"]
# Bytes of activations per pixel: the peaks measured with Big-LaMa at 512 to 1024 pixels square.
BYTES, REFINED_BYTES = 1100, 3500
NEEDED = "Load LaMa needs a LaMa generator as its authors published it, such as big-lama.pt."
BESIDE = r"model\.(?!\d+\.)"  # names beside the generator's modules, which are numbered: a count of training steps


def symmetric_pad(x: Tensor, height: int, width: int) -> Tensor:
    """(..., h, w) -> (..., height, width), padded at the bottom and the right as by numpy.pad's "symmetric".

    The mirror stands behind the edge pixel, so that the pixel is repeated. A mirror image that is too short for the
    padding is mirrored again.
    """

    def mirror(size: int, padded: int) -> Tensor:
        index = torch.arange(padded, device=x.device) % (2 * size)
        return torch.minimum(index, 2 * size - 1 - index)

    h, w = x.shape[-2:]
    return x if (h, w) == (height, width) else x[..., mirror(h, height)[:, None], mirror(w, width)]


def predict(generator: Generator, image: Tensor, mask: Tensor, progress: Callable[[], None] = ignore) -> Tensor:
    """The network's prediction at any size: the input is padded as by the official predictor, the output cropped.

    Args:
        image: (B, 3, H, W) in [0, 1].
        mask: (B, 1, H, W), 1 in the hole and 0 elsewhere.
        progress: Called after every layer.

    Returns:
        (B, 3, H, W) in [0, 1]. Only pixels inside the hole are meaningful.
    """
    height, width = image.shape[-2:]
    # The blocks pad by reflection of one pixel at the lowest resolution, which needs two pixels there.
    size = [max(2, -(-n // generator.multiple)) * generator.multiple for n in (height, width)]
    x = torch.cat((image * (1 - mask), mask), dim=1)  # (B, 4, H, W)
    return generator(symmetric_pad(x, *size), progress)[..., :height, :width]


def generator_weights(weights: dict[str, Tensor], file: str) -> dict[str, Tensor]:
    """The generator's tensors of a checkpoint, without the prefix that a trainer or converter put before their names.

    Args:
        weights: Of a file, as from read_model. The prefix may be any or none.
        file: The name to use in messages.

    Raises:
        ValueError: The weights are those of another network.
    """
    generator = below(weights, INPUT_KEY)
    if not generator:
        raise ValueError(
            f"'{file}' holds {describe(weights)}, but Load LaMa needs a LaMa generator with Fourier convolutions "
            f"(a key that ends in '{INPUT_KEY}'), such as big-lama.pt. Choose that file."
        )
    if any("rel_pos_emb" in key for key in weights):
        raise ValueError(
            f"'{file}' holds LaMa-MPE, whose generator also needs position encodings. Load LaMa needs a LaMa whose "
            "only inputs are a masked picture and its mask, such as big-lama.pt or lama_large_512px.ckpt."
        )
    if local := next((key for key in generator if ".lfu." in key), None):
        raise ValueError(
            f"'{file}' holds a LaMa with local Fourier units ('{local}'), which Load LaMa does not have. Choose a LaMa "
            "that was trained without them (enable_lfu: false), such as big-lama.pt."
        )
    with sizes_of(file, "LaMa"):
        channels = shape_of(generator, INPUT_KEY, 4)[1]
    if channels != 4:
        raise ValueError(
            f"'{file}' holds a LaMa generator with {channels} input channels. Load LaMa needs one with 4: a masked "
            "picture and its mask, such as big-lama.pt."
        )
    return dequantized(generator, file)


class LaMa(Managed):
    """A generator under ComfyUI's memory management.

    Args:
        weights: Of the generator, as from generator_weights. They are kept in the widest of their types; the network
            computes in float32.
        file: The name to use in messages.
        pyramid: The scales of the refinement.
    """

    def __init__(self, weights: dict[str, Tensor], file: str, pyramid: Pyramid = PYRAMID) -> None:
        self.pyramid = pyramid
        offload_device, dtype = model_management.unet_offload_device(), widest(weights)
        with sizes_of(file, "LaMa"):
            config = Config.of(weights)
        self.generator = Generator(config, comfy.ops.manual_cast, offload_device, dtype)
        named = {f"model.{key}": value for key, value in weights.items()}
        super().__init__(self.generator, named, file, "LaMa", NEEDED, unused=BESIDE)

    def fill(self, image: Tensor, mask: Tensor, area: str, context: int, refine_steps: int) -> Tensor:
        """Pictures with their masked pixels filled.

        Args:
            image: (B, H, W, C), C = 1, 3 or 4.
            mask: (N, H, W). What it selects (masks.selected) is filled.
            area: One of AREAS: the input of one pass of the network.
            context: Pixels of surroundings around each hole in that input, where area is "each hole".
            refine_steps: Steps of the refinement at each scale; 0 turns it off.

        Returns:
            (max(B, N), H, W, C). Outside the mask, the bits of `image`.

        Raises:
            ValueError: Pictures and masks do not match (masks.pair), or a pixel outside the mask is not finite.
        """
        image, mask = pair(image, mask)
        hole = selected(mask)
        checks.finite(image, "image", unread=hole, where=" outside the mask")
        warn_of_nearly_all(hole, "LaMa Fill")
        jobs = [(i, box) for i, pixels in enumerate(hole) for box in _boxes(pixels, area, context)]
        if not jobs:
            return image
        pixels = max(box.width * box.height for _, box in jobs)
        self.load(self._memory(pixels, refine_steps))
        progress = Progress(sum(self._steps(box, refine_steps) for _, box in jobs))
        result = image.clone()
        for i, box in jobs:
            crop = (slice(i, i + 1), *box.slices)
            rgb = self._fill_crop(to_rgb(image[crop]), hole[crop], refine_steps, progress)
            result[crop] = put_rgb(image[crop], rgb.to(image.device), hole[crop])
        return result

    def _fill_crop(self, image: Tensor, hole: Tensor, refine_steps: int, progress: Callable[[], None]) -> Tensor:
        """The prediction for a crop, (1, H, W, 3), with its hole, (1, H, W): (1, H, W, 3) on the network's device."""
        x = image.movedim(-1, 1).to(self.device, torch.float32)
        m = hole[:, None].to(x)
        x = x.masked_fill(m > 0, 0)  # a product with 0 would keep NaN, and the refinement blurs what is in the hole
        if refine_steps and self.pyramid.scales(*x.shape[-2:]) > 1:
            y = refine(self.generator, x, m, refine_steps, progress, self.pyramid)
        else:
            y = predict(self.generator, x, m, progress)
        return y.movedim(1, -1)

    def _memory(self, pixels: int, refine_steps: int) -> int:
        """Bytes that the activations of one crop need; the refinement also copies the weights."""
        return pixels * REFINED_BYTES + self.patcher.model_size() if refine_steps else pixels * BYTES

    def _steps(self, box: Box, refine_steps: int) -> int:
        """The number of layers that run for one crop."""
        layers, finer = len(self.generator.model), self.pyramid.scales(box.height, box.width) - 1
        if not refine_steps:
            return layers
        return layers + finer * (self.generator.front + refine_steps * (layers - self.generator.front))


def load(path: str | Path) -> LaMa:
    """The LaMa in a file, or in several, of any form that read_state_dict knows.

    Raises:
        ValueError: The file cannot be read, or holds no LaMa.
    """
    path = Path(path)
    return LaMa(generator_weights(read_model(path), path.name), path.name)


def _boxes(hole: Tensor, area: str, context: int) -> list[Box]:
    """The crops of a picture with this hole, bool (H, W), that the network fills."""
    if area == "each hole":
        return hole_boxes(hole, context)
    return [Box(0, 0, hole.shape[1], hole.shape[0])] if hole.any() else []
