"""Objects followed through a clip by SAM 2, or moved between key frames without a model. Ravi et al. 2024, "SAM 2:
Segment Anything in Images and Videos".

A user marks each object on one or more key frames. SAM 2 then looks at one frame after the other, with the memory of
earlier ones. Objects do not know of each other, and each is followed from a key frame of its own. The original follows
all objects from the earliest key frame of any. So it looks for an object before the object's first key frame, with no
memory but that of later frames.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..arch.sam2_bank import Bank
from ..arch.sam2_decoder import Features
from ..arch.sam2_network import Answer, Network
from ..arch.sam_decoder import BOTTOM_RIGHT, NEGATIVE, POSITIVE, TOP_LEFT
from ..comfyui.boxes import boxes_per_picture, no_box
from ..comfyui.points import parse_points, read_points
from ..comfyui.progress import Progress
from ..pixels.boxes import Box
from ..pixels.masks import pair, selected
from ..segment.moved_mask import MovedMask
from .frames import Frames
from .sam2 import SAM2, fill_holes, passes, pixels

DIRECTIONS = ["both", "forward", "backward"]


@dataclass(frozen=True)
class KeyFrame:
    """What a user says about an object on a frame: points and a box, or a mask.

    Attributes:
        frame: Its number; a negative one counts from the end of the clip.
        object: Its number, from 1.
        positive, negative: JSON lists of points on the object and beside it, in pixels.
        boxes: A box in ComfyUI's forms, for the frame or one for each frame of the clip.
        mask: (N, h, w), for the frame or one for each frame of the clip.
    """

    frame: int
    object: int
    positive: str = ""
    negative: str = ""
    boxes: Any = None
    mask: Tensor | None = None

    @property
    def place(self) -> str:
        return f"the Key Frame of object {self.object} on frame {self.frame}"


KeyFrames = tuple[KeyFrame, ...]


def key_frames(key: KeyFrame, before: KeyFrames = ()) -> KeyFrames:
    """Key frames with one more, as far as it can be checked without the clip.

    Raises:
        ValueError: It has no prompt, a mask and another prompt, points that are none, or another key frame is for the
            same object and frame.
    """
    positive, negative = read_points(key.positive, "positive_coords"), read_points(key.negative, "negative_coords")
    pointed = bool(positive or negative) or not no_box(key.boxes)
    blank = key.mask is not None and not selected(key.mask).any()
    if blank and pointed:
        key = replace(key, mask=None)
    elif blank:
        raise ValueError(
            f"mask selects nothing, so object {key.object} has no prompt on frame {key.frame}. Paint the object, or "
            "connect points or a box instead."
        )
    elif key.mask is not None and pointed:
        raise ValueError(
            f"Object {key.object} has a mask and also points or a box on frame {key.frame}, and SAM 2 takes one or the "
            "other. Disconnect one. To correct a mask with clicks, give both to SAM Segment, and its mask to Key Frame."
        )
    elif key.mask is None and not positive and no_box(key.boxes):
        raise ValueError(
            f"Object {key.object} has no prompt on frame {key.frame}: positive_coords, bboxes and mask are empty. "
            "Click on the object in Pick Points, or connect a box or a mask. (Negative points alone say only where the "
            "object is not.) Where the boxes come from a detector, it detected nothing: lower its threshold."
        )
    if any((other.frame, other.object) == (key.frame, key.object) for other in before):
        raise ValueError(_twice(key.object, key.frame))
    return (*before, key)


def _twice(number: int, frame: int) -> str:
    return (
        f"Object {number} has two key frames on frame {frame}. Put all points into one Key Frame, or give the other "
        "another frame, or another number for another object."
    )


@dataclass(frozen=True)
class Prompt:
    """A key frame in SAM 2's square frame of S pixels: points, or a mask.

    Attributes:
        coords: (1, N, 2), a box as two points before the others.
        labels: (1, N).
        mask: float32 (1, 1, S, S) of 0 and 1.
    """

    coords: Tensor | None = None
    labels: Tensor | None = None
    mask: Tensor | None = None


def by_object(keys: KeyFrames, clip: Frames, read: Callable[[KeyFrame, int], Any]) -> dict[int, dict[int, Any]]:
    """What `read` makes of the key frames, of each object by the frames' numbers, both in rising order.

    Args:
        read: Called with a key frame and the number of its frame.

    Raises:
        ValueError: A key frame does not match the clip.
    """
    objects: dict[int, dict[int, Any]] = {}
    for key in keys:
        frame = key.frame + len(clip) if key.frame < 0 else key.frame
        if not 0 <= frame < len(clip):
            raise ValueError(
                f"Key Frame is for frame {key.frame} of object {key.object}, but the clip has {len(clip)} frames: 0 to "
                f"{len(clip) - 1}, or -1 to -{len(clip)} from the end. Change frame in Key Frame."
            )
        own = objects.setdefault(key.object, {})
        if frame in own:
            raise ValueError(_twice(key.object, frame))
        own[frame] = read(key, frame)
    return {number: dict(sorted(own.items())) for number, own in sorted(objects.items())}


def prompts(keys: KeyFrames, clip: Frames, side: int) -> dict[int, dict[int, Prompt]]:
    """The key frames as prompts in a square frame of `side` pixels, `by_object`."""
    return by_object(keys, clip, lambda key, frame: _prompt(key, frame, clip, side))


def _prompt(key: KeyFrame, frame: int, clip: Frames, side: int) -> Prompt:
    if key.mask is not None:
        mask = _drawn(key, frame, clip)[None, None].float().cpu()
        square = F.interpolate(mask, (side, side), mode="bilinear", antialias=True) >= 0.5
        if not square.any():
            raise ValueError(
                f"mask of {key.place} is too thin for SAM 2, which sees a frame as {side} x {side} pixels. Grow the "
                "mask with Tune Mask."
            )
        return Prompt(mask=square.float())
    boxes = _boxes(key, frame, clip)
    positive = parse_points(key.positive, f"positive_coords of {key.place}", clip.width, clip.height)
    negative = parse_points(key.negative, f"negative_coords of {key.place}", clip.width, clip.height)
    if not positive and not boxes:
        raise ValueError(f"bboxes of {key.place} has no box for this frame. Choose a frame that has one.")
    corners = [corner for box in boxes for corner in ((box.x, box.y), (box.x + box.width, box.y + box.height))]
    labels = [TOP_LEFT, BOTTOM_RIGHT][: len(corners)] + [POSITIVE] * len(positive) + [NEGATIVE] * len(negative)
    points = np.array([*corners, *positive, *negative]) / (clip.width, clip.height) * side
    return Prompt(torch.from_numpy(points.astype(np.float32))[None], torch.tensor([labels]))


def _boxes(key: KeyFrame, frame: int, clip: Frames) -> list[Box]:
    """One box or none."""
    boxes = boxes_per_picture(key.boxes, f"bboxes of {key.place}", len(clip), clip.width, clip.height, "the clip")[
        frame
    ]
    if len(boxes) > 1:
        raise ValueError(
            f"bboxes of {key.place} has {len(boxes)} boxes, and an object has one. Use one Key Frame for each object, "
            "chained by before, with object 1, 2 and so on."
        )
    return boxes


def _drawn(key: KeyFrame, frame: int, clip: Frames) -> Tensor:
    """bool (H, W): what the mask selects in the frame."""
    mask = key.mask
    if len(mask) not in (1, len(clip)):
        raise ValueError(
            f"mask of {key.place} is a batch of {len(mask)}, but the clip has {len(clip)} frames. Connect one mask for "
            "this frame, or one for each frame of the clip."
        )
    mask = mask[frame % len(mask)][None]
    if not selected(mask).any():
        raise ValueError(f"mask of {key.place} selects nothing there. Choose a frame whose mask shows the object.")
    blank = mask.new_zeros(1, 1, 1, 3).expand(1, clip.height, clip.width, 3)
    return selected(pair(blank, mask, ("the clip", f"mask of {key.place}"))[1])[0]


def move(clip: Frames, keys: KeyFrames, overlap: bool = True) -> "Track":
    """Objects that go straight from key frame to key frame, by their masks and boxes alone: `segment.moved_mask`.

    Args:
        overlap: As in Track.

    Raises:
        ValueError: The key frames do not match the clip, or have points.
    """

    def read(key: KeyFrame, frame: int) -> Tensor:
        if key.mask is not None:
            return _drawn(key, frame, clip)
        boxes, drawn = _boxes(key, frame, clip), torch.zeros(clip.height, clip.width, dtype=torch.bool)
        if read_points(key.positive, "positive_coords") or read_points(key.negative, "negative_coords") or not boxes:
            raise ValueError(
                f"{key.place[0].upper()}{key.place[1:]} needs a mask or a box, and has "
                f"{'points' if boxes or no_box(key.boxes) else 'no box for this frame'}. Paint a mask, draw a box in "
                "Pick Points, or follow the points with Track in Video and Load SAM 2."
            )
        drawn[boxes[0].whole.slices] = True
        return drawn

    objects = by_object(keys, clip, read)
    moved = {number: MovedMask(own, len(clip)) for number, own in objects.items()}
    return Track(clip.height, clip.width, moved, overlap)


@dataclass(frozen=True)
class Track:
    """Where objects are in a clip. Nothing changes it: masks are made anew whenever they are read.

    Attributes:
        height, width: Of the clip's frames.
        logits: {object: for each frame float32 (h, w) on the CPU, the object where it is above 0; None where the object
            is not in the frame or was not looked for}.
        overlap: Whether several objects may have a pixel. Otherwise only the one with the largest logit has it.
    """

    height: int
    width: int
    logits: dict[int, Sequence[Tensor | None]]
    overlap: bool = True

    def __len__(self) -> int:
        return len(next(iter(self.logits.values())))

    def mask(self, frame: int, objects: list[int]) -> Tensor:
        """float32 (H, W): the pixels of these objects in a frame, 1 or 0."""
        there = {number: each[frame] for number, each in self.logits.items() if each[frame] is not None}
        chosen = [number for number in objects if number in there]
        if not chosen:
            return torch.zeros(self.height, self.width)
        logits = torch.stack([there[number] for number in (chosen if self.overlap else there)])
        size = (self.height, self.width)
        logits = F.interpolate(logits[:, None], size, mode="bilinear", align_corners=False)[:, 0]
        if self.overlap:
            return (logits > 0).any(0).float()
        most, first = logits.max(0)
        is_chosen = torch.tensor([number in chosen for number in there])
        return (is_chosen[first] & (most > 0)).float()

    def masks(self, objects: str = "") -> "TrackMasks":
        """The masks of some objects joined, by their numbers such as "1, 3"; of all for "".

        Raises:
            ValueError: `read_objects` refuses the text, or there is no such object.
        """
        numbers = read_objects(objects) or list(self.logits)
        if missing := [str(number) for number in numbers if number not in self.logits]:
            raise ValueError(
                f"objects names object {missing[0]}, and the track has object {', '.join(map(str, self.logits))}: the "
                "numbers in object of the Key Frame nodes. Write one of these, or nothing for all."
            )
        return TrackMasks(self, numbers)

    def part(self, objects: str, start: int, length: int) -> Tensor:
        """The masks of `length` frames from `start` on, at most to the end of the clip; of all these for 0.

        Raises:
            ValueError: As `masks`, or the clip has no frame `start`.
        """
        if start >= len(self):
            raise ValueError(
                f"start is {start}, but the clip has {len(self)} frames: 0 to {len(self) - 1}. Choose one of these."
            )
        return self.masks(objects)[start : start + (length or len(self))]

    def present(self) -> str:
        """A line for each object with the frames that show it, such as "object 1: 0-4, 9"."""
        return "\n".join(
            f"object {number}: {_ranges([i for i, each in enumerate(frames) if each is not None]) or 'in no frame'}"
            for number, frames in self.logits.items()
        )


@dataclass(frozen=True)
class TrackMasks:
    """The masks of a clip (`frames.Masks`), made when they are read."""

    track: Track
    objects: list[int]

    def __len__(self) -> int:
        return len(self.track)

    def __getitem__(self, window: slice) -> Tensor:
        frames = range(*window.indices(len(self)))
        masks = torch.empty(len(frames), self.track.height, self.track.width)
        for mask, frame in zip(masks, frames, strict=True):
            mask.copy_(self.track.mask(frame, self.objects))
        return masks


def read_objects(text: str) -> list[int]:
    """The numbers in a text such as "1, 3"; [] for "".

    Raises:
        ValueError: It holds something else.
    """
    words = text.replace(",", " ").split()
    if not all(word.isdecimal() for word in words):
        raise ValueError(
            f"objects is {text[:80]!r}, and numbers of objects are needed, such as 1, 3. Write nothing for all objects."
        )
    return [int(word) for word in words]


def _ranges(numbers: list[int]) -> str:
    """[0, 1, 2, 5] -> "0-2, 5" """
    runs = [[i for _, i in run] for _, run in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0])]
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def follow(
    sam2: SAM2, clip: Frames, keys: KeyFrames, direction: str = "both", holes: int = 8, overlap: bool = True
) -> Track:
    """Follows the objects of key frames.

    Args:
        sam2: Need not be loaded.
        clip: Frames are read one by one, and backwards some at once.
        direction: One of DIRECTIONS, as `passes` says.
        holes: Area in cells of the mask (256 x 256) up to which holes are filled.
        overlap: As in Track.

    Raises:
        ValueError: The key frames do not match the clip.
    """
    network, objects = sam2.network, prompts(keys, clip, sam2.frame)
    orders = passes(objects, direction)
    frames = [
        [f for f in range(len(clip))[:: order.step] if any(order.looks(n, f, own) for n, own in objects.items())]
        for order in orders
    ]
    marked = sorted({frame for own in objects.values() for frame in own})
    sam2.load(network.ages + max(map(len, objects.values())) + 1)
    progress = Progress(len(marked) + sum(map(len, frames)))
    banks = {number: Bank(len(clip)) for number in objects}
    logits: dict[int, list[Tensor | None]] = {number: [None] * len(clip) for number in objects}
    for frame in marked:
        features = sam2.encode(clip[frame : frame + 1][0])
        for number, own in objects.items():
            if frame in own:
                logits[number][frame] = _mark(network, features, own[frame], frame, banks[number], holes)
        progress()
    for i, order in enumerate(orders):
        for frame, square in pixels(clip, frames[i], order.step, sam2.frame):
            features = network.encode(square.to(sam2.device))
            for number, own in objects.items():
                if order.looks(number, frame, own):
                    bank = banks[number]
                    logits[number][frame] = _look(network, features, frame, order.step, bank, holes)
                    later = [(other.starts[number] + other.step, other.step) for other in orders[i + 1 :]]
                    bank.keep(network, (frame + order.step, order.step), *later)
            progress()
    return Track(clip.height, clip.width, {number: tuple(own) for number, own in logits.items()}, overlap)


def _mark(network: Network, features: Features, prompt: Prompt, frame: int, bank: Bank, holes: int) -> Tensor | None:
    """Segments an object on a key frame, and remembers it. Its holes are filled before."""
    device = features.raw.device
    if prompt.mask is not None:
        answer = network.from_mask(features, prompt.mask.to(device))
    else:
        image = network.without_memory(features)
        answer = network.decode(image, features, prompt.coords.to(device), prompt.labels.to(device))
    logits = fill_holes(answer.logits, holes)
    seen = network.remember(features, logits, answer.present, prompted=True)
    bank.keys[frame] = seen.bfloat16(), answer.pointer
    return _stored(logits, answer)


def _look(network: Network, features: Features, frame: int, step: int, bank: Bank, holes: int) -> Tensor | None:
    """Looks for an object in a frame, and remembers it. Its holes are filled afterwards, as in the original."""
    answer = network.decode(network.attend(features, *bank.read(network, frame, step)), features)
    seen = network.remember(features, answer.logits, answer.present, prompted=False)
    bank.seen[frame], bank.pointers[frame] = seen.bfloat16(), answer.pointer
    return _stored(fill_holes(answer.logits, holes), answer)


def _stored(logits: Tensor, answer: Answer) -> Tensor | None:
    return logits[0, 0].cpu() if answer.present > 0 else None
