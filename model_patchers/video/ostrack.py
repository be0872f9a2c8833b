"""Track Box: a box that follows an object, by OSTrack. Ye et al. 2022, "Joint Feature Learning and Relation Modeling
for Tracking: A One-Stream Framework" (github.com/botaoye/OSTrack, MIT).

The template is cut out once, at the first box. In each frame a larger crop about the last box is searched. The original
goes forward from the first frame; here it goes from any frame, both ways, by the same formulas.
"""

from math import ceil, pi, sqrt
from pathlib import Path
from typing import NamedTuple

import comfy.ops
import numpy as np
import torch
from comfy import model_management
from torch import Tensor

from ..arch import ostrack as arch
from ..comfyui.describe import below, describe
from ..comfyui.fit import sizes_of
from ..comfyui.managed import Managed
from ..comfyui.model_files import dequantized, read_model, widest
from ..comfyui.progress import Progress
from ..pixels.boxes import Box
from ..pixels.images import to_levels
from .frames import Frames

DIRECTIONS = ["both", "forward", "backward"]
TEMPLATE_FACTOR = 2.0  # side of the template, in sides of the box
SEARCH_FACTORS = {16: 4.0, 24: 5.0}  # {tokens on a side of the crop: its side, in sides of the box}
MARGIN = 10  # pixels of a box that stay in the picture, and its least side
MEAN, SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
MEMORY = 300e6  # bytes of activations of OSTrack-384
ONE = 2048  # 1 in OpenCV's fixed-point weights
NEEDED = "Load OSTrack needs OSTrack-256 or OSTrack-384 as its authors published it: OSTrack_ep0300.pth.tar."
UNUSED = r"backbone\.(pos_embed|cls_token)$"  # in published files, but never read
OTHER_KINDS = {  # keys of the authors' other experiments, and what to call them
    "box_head.conv1_tl.0.weight": "an OSTrack with a corner head",
    "box_head.layers.0.weight": "an OSTrack with an MLP as its head",
    "backbone.template_segment_pos_embed": "an OSTrack with segment positions",
}


class Place(NamedTuple):
    """A box in pixels, not rounded."""

    x: float
    y: float
    width: float
    height: float


class Step(NamedTuple):
    """Where the object is in a frame, and the response there: the score times the Hann window, 0 ... 1."""

    place: Place
    score: float


def sample(levels: np.ndarray, place: Place, factor: float, size: int) -> tuple[np.ndarray, float]:
    """The square about a box, resized: `sample_target` of the reference. What lies outside the picture is black.

    The reference pads one pixel too much at the right and at the bottom, so that a crop that reaches over these borders
    loses the picture's last column or row. The network was trained so.

    Args:
        levels: uint8 (H, W, 3).
        place: The box.
        factor: The side of the square, in sides of a square with the box's area.
        size: The side of the result.

    Returns:
        uint8 (size, size, 3), and the size of a pixel of the picture in it.
    """
    side = ceil(sqrt(place.width * place.height) * factor)
    crop = np.zeros((side, side, 3), dtype=np.uint8)
    cuts = []
    for start, length, whole in ((place.y, place.height, levels.shape[0]), (place.x, place.width, levels.shape[1])):
        first = round(start + 0.5 * length - 0.5 * side)
        before, after = max(0, -first), max(first + side - whole + 1, 0)
        cuts.append((slice(first + before, first + side - after), slice(before, side - after)))
    (rows, to_rows), (columns, to_columns) = cuts
    crop[to_rows, to_columns] = levels[rows, columns]
    return resize_levels(crop, size), size / side


def resize_levels(levels: np.ndarray, size: int) -> np.ndarray:
    """A square resized as by OpenCV's cv2.resize, bilinear on 8 bits: uint8 (n, n, 3) -> uint8 (size, size, 3).

    OpenCV computes with weights of 1/2048 and cuts off four bits in between; a float would round some levels otherwise.
    """
    n = len(levels)
    if n == size:
        return levels
    at = ((np.arange(size) + 0.5) * (1 / (size / n)) - 0.5).astype(np.float32)
    first = np.floor(at)
    down = at - first  # the share of the second row; beyond an edge both rows are the last one
    across = np.where((first < 0) | (first >= n - 1), np.float32(0), down)  # there the first column alone counts
    one, other = (np.clip(first.astype(np.int64) + i, 0, n - 1) for i in (0, 1))
    (a, b), (c, d) = ([np.rint(w * ONE).astype(np.int32)[:, None] for w in (1 - s, s)] for s in (across, down))
    x = levels.astype(np.int32)
    rows = (x[:, one] * a + x[:, other] * b) >> 4  # (n, size, 3)
    top, bottom = (rows[one] * c[..., None]) >> 16, (rows[other] * d[..., None]) >> 16
    return ((top + bottom + 2) >> 2).astype(np.uint8)


def hann(n: int) -> Tensor:
    """The window (n, n) that prefers places near the last box: 0.5 (1 - cos(2 pi k / (n + 1))), k = 1 ... n."""
    line = 0.5 * (1 - torch.cos(2 * pi / (n + 1) * torch.arange(1, n + 1).float()))
    return line[:, None] * line


def clip(place: Place, height: int, width: int) -> Place:
    """A box that has at least MARGIN pixels in the picture: `clip_box` of the reference."""
    x, right = min(max(0, place.x), width - MARGIN), min(max(MARGIN, place.x + place.width), width)
    y, bottom = min(max(0, place.y), height - MARGIN), min(max(MARGIN, place.y + place.height), height)
    return Place(x, y, max(MARGIN, right - x), max(MARGIN, bottom - y))


def ostrack_weights(weights: dict[str, Tensor], file: str) -> dict[str, Tensor]:
    """The tracker's tensors of a checkpoint, without the prefix before their names.

    Args:
        weights: Of a file, as from read_model.
        file: The name to use in messages.

    Raises:
        ValueError: The weights are those of another network.
    """
    network = below(weights, arch.MARK)
    if not network:
        raise ValueError(f"'{file}' holds {describe(weights)}. {NEEDED}")
    if kind := next((kind for key, kind in OTHER_KINDS.items() if key in network), None):
        raise ValueError(f"'{file}' holds {kind}, which is another network. {NEEDED}")
    return dequantized(network, file)


class OSTrack(Managed):
    """OSTrack under ComfyUI's memory management.

    Args:
        weights: As from ostrack_weights. They are kept in the widest of their types; the network computes in float32.
        file: The name to use in messages.

    Raises:
        ValueError: The weights are incomplete, or those of an OSTrack of another size.
    """

    def __init__(self, weights: dict[str, Tensor], file: str) -> None:
        with sizes_of(file, "OSTrack"):
            config = arch.Config.of(weights)
        if config.search not in SEARCH_FACTORS:
            raise ValueError(
                f"'{file}' holds an OSTrack that searches {arch.PATCH * config.search} pixels, and how far it looks is "
                f"not known. {NEEDED}"
            )
        self.factor = SEARCH_FACTORS[config.search]
        network = arch.Network(config, comfy.ops.manual_cast, model_management.unet_offload_device(), widest(weights))
        super().__init__(network, weights, file, "OSTrack", NEEDED, UNUSED)

    def follow(self, frames: Frames, box: Box, frame: int, direction: str) -> list[Step | None]:
        """Where an object is in each frame.

        Args:
            frames: The clip. It is read from `frame` to its end, and from there to its start.
            box: About the object.
            frame: The number of the frame that the box belongs to.
            direction: One of DIRECTIONS.

        Returns:
            One step for each frame: `box` with the score 1 for its own, None for frames in the other direction.
        """
        ways = {"forward": range(frame + 1, len(frames)), "backward": range(frame - 1, -1, -1)}
        ways = [numbers for name, numbers in ways.items() if direction in ("both", name)]
        start = Place(*map(float, box))
        steps: list[Step | None] = [None] * len(frames)
        steps[frame] = Step(start, 1.0)
        self.load(MEMORY)
        progress = Progress(sum(map(len, ways)))
        template = self._input(_levels(frames, frame), start, TEMPLATE_FACTOR, self.network.template_size)[0]
        for numbers in ways:
            place = start
            for number in numbers:
                steps[number] = self._step(template, _levels(frames, number), place)
                place = steps[number].place
                progress()
        return steps

    def _input(self, levels: np.ndarray, place: Place, factor: float, size: int) -> tuple[Tensor, float]:
        """A crop as the network takes it, (1, 3, size, size), and the size of a pixel of the picture in it."""
        crop, scale = sample(levels, place, factor, size)
        x = torch.from_numpy(crop).to(self.device).float() / 255
        x = (x - x.new_tensor(MEAN)) / x.new_tensor(SPREAD)
        return x.movedim(-1, 0)[None], scale

    def _step(self, template: Tensor, levels: np.ndarray, last: Place) -> Step:
        """Where the object of the template is in a frame, uint8 (H, W, 3), after it was at `last`."""
        n = self.network.grid
        crop, scale = self._input(levels, last, self.factor, self.network.search_size)
        scores, sizes, offsets = (each[0].cpu() for each in self.network(template, crop))
        response = scores[0] * hann(n)
        y, x = divmod(int(response.argmax()), n)
        side = self.network.search_size / scale  # of the crop, in pixels of the picture
        (dx, dy), (w, h) = offsets[:, y, x].tolist(), (sizes[:, y, x] * side).tolist()
        cx = (x + dx) / n * side + last.x + 0.5 * last.width - 0.5 * side
        cy = (y + dy) / n * side + last.y + 0.5 * last.height - 0.5 * side
        return Step(clip(Place(cx - 0.5 * w, cy - 0.5 * h, w, h), *levels.shape[:2]), float(response[y, x]))


def _levels(frames: Frames, number: int) -> np.ndarray:
    return to_levels(frames[number : number + 1][0])


def load(path: str | Path) -> OSTrack:
    """The OSTrack in a file, of any form that read_state_dict knows.

    Raises:
        ValueError: The file cannot be read, or holds no OSTrack.
    """
    path = Path(path)
    return OSTrack(ostrack_weights(read_model(path), path.name), path.name)
