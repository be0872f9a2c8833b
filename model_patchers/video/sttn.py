"""STTN Fill: holes of a clip filled from all frames by a transformer. Zeng et al. 2020, "Learning Joint
Spatial-Temporal Transformations for Video Inpainting" (github.com/researchmm/STTN, MIT).

The loop over the clip is that of Inpaint-Anything's Remove Anything Video (sttn_video_inpaint.py, Apache-2.0): windows
of frames and references from the whole clip, at 432 x 240. Of two results for a frame the mean counts, so the first of
three counts a quarter and the last a half. Here, features are kept for the window and the references alone, and a part
of the picture can be filled at its own resolution.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import comfy.ops
import numpy as np
import torch
from comfy import model_management
from PIL import Image
from torch import Tensor

from ..arch import sttn as arch
from ..comfyui.describe import below, describe
from ..comfyui.fit import sizes_of
from ..comfyui.managed import Managed
from ..comfyui.model_files import dequantized, read_model, widest
from ..comfyui.progress import Progress
from ..pixels.boxes import Box
from ..pixels.images import to_levels
from ..pixels.masks import selected
from ..pixels.regions import around
from .frames import Frames, Masks

AREAS = ["each hole", "whole picture"]
SIZE = arch.WIDTH, arch.HEIGHT  # as Pillow takes it
# Bytes of activations: of each frame that attends, and of the scores, the encoder and the decoder
FRAME_BYTES, ROOM = 80e6, 700e6
WINDOW = 32  # masks that are read at a time
NEEDED = "Load STTN needs STTN as its authors published it: sttn.pth."
LATER = "ss.embedding.weight"  # FuseFormer's and its successors' overlapping patches


@dataclass(frozen=True)
class Filled:
    """One frame with its hole filled.

    Attributes:
        number: Of the frame.
        box: The part of the frame that the network saw.
        colours: float32 (h, w, 3) of that part, 0 ... 1. Only those inside the hole are meaningful.
        hole: bool (h, w) of that part. There is no hole outside it.
    """

    number: int
    box: Box
    colours: Tensor
    hole: Tensor


@dataclass(frozen=True)
class Small:
    """One frame at the network's size, on the CPU.

    Attributes:
        levels: uint8 (240, 432, 3).
        hole: bool (240, 432).
    """

    levels: np.ndarray
    hole: np.ndarray


def small(picture: Tensor, hole: Tensor) -> Small:
    """A part of a frame (h, w, C) and its hole, bool (h, w), resized as the reference does: bicubic and nearest."""
    levels = Image.fromarray(to_levels(picture)).resize(SIZE, Image.Resampling.BICUBIC)
    mask = Image.fromarray(hole.cpu().numpy().astype(np.uint8)).resize(SIZE, Image.Resampling.NEAREST)
    return Small(np.array(levels), np.array(mask) > 0)


def large(levels: np.ndarray, height: int, width: int) -> Tensor:
    """A result (240, 432, 3) in 0 ... 255 at the size of a part: (height, width, 3) in 0 ... 1.

    The reference cuts off the digits behind the point, then resizes whole levels by Pillow's bicubic filter.
    """
    resized = Image.fromarray(levels.astype(np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(resized)).float() / 255


def windows(frames: int, stride: int, reference_every: int) -> Iterator[tuple[range, list[int]]]:
    """The numbers of the frames that are filled together, and of the frames that are looked at beside them."""
    for middle in range(0, frames, stride):
        near = range(max(0, middle - stride), min(frames, middle + stride + 1))
        yield near, [number for number in range(0, frames, reference_every) if number not in near]


def holes(masks: Masks, window: slice) -> Tensor:
    """The holes of some frames: bool (n, H, W)."""
    return selected(masks[window])


def survey(masks: Masks) -> tuple[Tensor, list[bool]]:
    """The holes of all frames together, bool (H, W), and which of the frames have a hole."""
    unions, present = [], []
    for start in range(0, len(masks), WINDOW):
        hole = holes(masks, slice(start, start + WINDOW))
        unions = [torch.stack([*unions, *hole]).any(0)]
        present += hole.flatten(1).any(1).tolist()
    return unions[0], present


def part(union: Tensor, area: str) -> Box:
    """The part of every frame that the network sees.

    For "each hole" it is one box for the whole clip, so that nothing shakes: twice as wide and as high as the box
    around all holes, 432 x 240 at least, in these proportions, moved into the picture and cut to it.

    Args:
        union: The holes of all frames together, bool (H, W); there must be one.
        area: One of AREAS.
    """
    height, width = union.shape
    if area == "whole picture":
        return Box(0, 0, width, height)
    box = around(union)
    scale = max(1, 2 * box.width / arch.WIDTH, 2 * box.height / arch.HEIGHT)
    sides = ((box.x, box.width, scale * arch.WIDTH, width), (box.y, box.height, scale * arch.HEIGHT, height))
    (x, w), (y, h) = (placed(*side) for side in sides)
    return Box(x, y, w, h)


def placed(start: int, length: int, side: float, whole: int) -> tuple[int, int]:
    """(start, length) of a line of `side` pixels about another's middle, moved into 0 ... `whole` and cut to it."""
    side = min(ceil(side), whole)
    middle = start + length / 2
    return min(max(round(middle - side / 2), 0), whole - side), side


def sttn_weights(weights: dict[str, Tensor], file: str) -> dict[str, Tensor]:
    """The generator's tensors of a checkpoint, without the prefix before their names.

    Args:
        weights: Of a file, as from read_model.
        file: The name to use in messages.

    Raises:
        ValueError: The weights are those of another network.
    """
    network = below(weights, arch.MARK)
    if any(key.endswith(LATER) for key in weights):
        raise ValueError(
            f"'{file}' holds FuseFormer or one of its successors (E2FGVI, ProPainter), which are other networks. "
            f"{NEEDED}"
        )
    if not network:
        raise ValueError(f"'{file}' holds {describe(weights)}. {NEEDED}")
    return dequantized(network, file)


class STTN(Managed):
    """STTN under ComfyUI's memory management.

    Args:
        weights: Of the generator, as from sttn_weights. They are kept in the widest of their types; the network
            computes in float32.
        file: The name to use in messages.
    """

    def __init__(self, weights: dict[str, Tensor], file: str) -> None:
        with sizes_of(file, "STTN"):
            config = arch.Config.of(weights)
        network = arch.Network(config, comfy.ops.manual_cast, model_management.unet_offload_device(), widest(weights))
        super().__init__(network, weights, file, "STTN", NEEDED)

    def fill(
        self, frames: Frames, masks: Masks, area: str = AREAS[0], stride: int = 5, reference_every: int = 10
    ) -> Iterator[Filled]:
        """The frames that have a hole, with it filled, in order; each as soon as no later window changes it.

        Args:
            frames: The clip. It is read in order, and before that its references. Parts without a hole are not read.
            masks: One mask for each frame.
            area: One of AREAS.
            stride: Frames from window to window. A window has as many frames before and after its middle one.
            reference_every: Every how many frames of the clip one is looked at in all windows.
        """
        union, present = survey(masks)
        every = windows(len(frames), stride, reference_every)
        plan = [(near, references) for near, references in every if any(present[near.start : near.stop])]
        if not plan:
            return
        box, shared = part(union, area), range(0, len(frames), reference_every)
        encoded = {number for near, _ in plan for number in near}.union(shared)
        self.load(ROOM + FRAME_BYTES * max(len(near) + len(references) for near, references in plan))
        clip = _Clip(self, frames, masks, box, Progress(len(encoded) + len(plan) * len(self.network.transformer)))
        results: dict[int, np.ndarray] = {}
        for (near, references), done in zip(plan, [*(near.start for near, _ in plan[1:]), len(frames)], strict=True):
            clip.keep({*near, *shared})
            self._fill_window(clip, near, references, results)
            for number in sorted(number for number in results if number < done):
                result = results.pop(number)
                if present[number]:
                    yield Filled(number, box, large(result, box.height, box.width), clip.hole(number))

    def _fill_window(self, clip: "_Clip", near: range, references: list[int], results: dict[int, np.ndarray]) -> None:
        """Puts what the network makes of the frames of a window into `results`, (240, 432, 3) in 0 ... 255 each."""
        features = torch.cat([clip.features(number) for number in (*near, *references)])
        mixed = self.network.mix(features, clip.progress)[: len(near)]
        for number, feature in zip(near, mixed.split(1), strict=True):
            levels = (self.network.decode(feature)[0].movedim(0, -1) + 1) / 2 * 255
            frame = clip.small(number)
            result = np.where(frame.hole[..., None], levels.cpu().numpy(), frame.levels.astype(np.float32))
            results[number] = result if number not in results else results[number] * 0.5 + result * 0.5


class _Clip:
    """The frames of a clip as the network sees them, each encoded once and forgotten when it is not needed again."""

    def __init__(self, sttn: STTN, frames: Frames, masks: Masks, box: Box, progress: Progress) -> None:
        self.sttn, self.frames, self.masks, self.box, self.progress = sttn, frames, masks, box, progress
        self.known: dict[int, tuple[Small, Tensor]] = {}  # the frame and its features

    def keep(self, numbers: set[int]) -> None:
        """Encodes these frames and forgets all others."""
        self.known = {number: values for number, values in self.known.items() if number in numbers}
        for number in sorted(numbers - self.known.keys()):
            frame = small(self.frames[number : number + 1][0][self.box.slices], self.hole(number))
            x = torch.from_numpy(frame.levels).to(self.sttn.device).movedim(-1, 0)[None].float() / 255 * 2 - 1
            x = x * torch.from_numpy(~frame.hole).to(x)
            self.known[number] = frame, self.sttn.network.encode(x)
            self.progress()

    def features(self, number: int) -> Tensor:
        return self.known[number][1]

    def small(self, number: int) -> Small:
        return self.known[number][0]

    def hole(self, number: int) -> Tensor:
        """Of a frame, at the size of the part: bool (h, w)."""
        return holes(self.masks, slice(number, number + 1))[0][self.box.slices]


def load(path: str | Path) -> STTN:
    """The STTN in a file, of any form that read_state_dict knows.

    Raises:
        ValueError: The file cannot be read, or holds no STTN.
    """
    path = Path(path)
    return STTN(sttn_weights(read_model(path), path.name), path.name)
