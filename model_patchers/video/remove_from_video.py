"""Removes things from a clip of any length in bounded memory: a pass for the motion, one for what other frames show,
and for what no frame shows a fill of key frames that is spread from there."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import folder_paths
import numpy as np
import torch
from comfy_api.latest import Input
from torch import Tensor

from ..comfyui.progress import Progress, ignore
from ..fill import fill_without_model
from ..fill.lama import LaMa
from ..pixels.masks import selected
from .fill_from_frames import fill, key_frame, spread
from .frames import Frames, MaskBatch, Masks, of_video, second_reader
from .motion import Motion, estimate, windows
from .video_out import writing

RESTS = ["patchmatch", "harmonic", "lama"]
KEYS = 8  # key frames that are filled and spread; what they leave is filled in each frame by itself
COLOUR_BYTES, PIXEL_BYTES = 12, 13  # of three float32, and of those with a mark
CONTEXT = 128  # pixels round a hole that LaMa sees, as by default in LaMa Fill

Fill = Callable[[Tensor, Tensor], Tensor]  # picture (H, W, 3), hole bool (H, W) -> (H, W, 3)


def remove_from_video(
    video: Input.Video, rest: str, reach: int, grow: int, track: Any, mask: Tensor | None, lama: LaMa | None
) -> Input.Video:
    """The VIDEO without what the track or the mask marks; itself if they mark nothing.

    Args:
        rest: One of RESTS, for what no frame shows.
        reach, grow: As in `fill_from_frames.fill`.
        track: Of Track, or None.
        mask: (N, h, w), one for each frame or one for all; or None.

    Raises:
        ValueError: The inputs do not match, the video cannot be read, or there is no room for the result.
    """
    if (track is None) == (mask is None):
        both = "Both are connected: disconnect one." if mask is not None else "None is connected."
        raise ValueError(f"What to remove comes from track or from mask. {both}")
    if rest == "lama" and lama is None:
        raise ValueError("rest is lama, and no LaMa is connected. Connect Load LaMa to lama, or choose patchmatch.")
    frames = of_video(video)
    masks = MaskBatch(mask, frames) if track is None else _masks_of_track(track, frames)
    progress = Progress(4 * len(frames))
    motion = estimate(frames, masks, "auto", grow, progress)
    if not motion.holes[:, 2].any():
        return video
    with (
        writing(video, frames.height, frames.width) as writer,
        tempfile.TemporaryFile(dir=Path(folder_paths.get_temp_directory())) as file,
    ):
        for pictures in removed(frames, masks, motion, filler(rest, lama), file, reach, grow, progress):
            writer.write(pictures)
    return writer.video


def removed(
    frames: Frames,
    masks: Masks,
    motion: Motion,
    fill_picture: Fill,
    file: BinaryIO,
    reach: int = 60,
    grow: int = 4,
    progress: Callable[[int], None] = ignore,
) -> Iterator[Tensor]:
    """The frames (n, H, W, 3) without what the masks select, window by window; outside the masks their bits.

    Args:
        motion: Of these frames and masks.
        fill_picture: For what no frame shows.
        file: Empty, for the holes' pixels.
        progress: Called with 3 for each frame in all.
    """
    holes = Holes(frames, masks, file)
    for window, (pictures, left) in zip(
        windows(frames), fill(frames, masks, motion, reach, grow, progress, second_reader(frames)), strict=True
    ):
        holes.put(window, pictures, left)
    _fill_rest(holes, motion, fill_picture, lambda: progress(0))
    progress(len(frames))
    for window in windows(frames):
        yield holes[window]
        progress(window.stop - window.start)


def filler(rest: str, lama: LaMa | None) -> Fill:
    """The fill of single pictures by one of RESTS."""

    def fill_picture(picture: Tensor, hole: Tensor) -> Tensor:
        if rest == "lama":
            filled = lama.fill(picture[None], hole[None].float(), "each hole", CONTEXT, 0)
        else:
            filled = fill_without_model.fill(picture[None], hole[None].float(), rest, seed=0)
        return filled[0].detach().cpu()

    return fill_picture


class Holes:
    """A clip whose holes have other pixels, which are in a file: for each pixel of a hole its colour, and a mark.

    A result in 8-bit levels would be smaller, and each further step would round it again.

    Attributes:
        left: The marks as masks of the clip: what is not yet filled.
        counts: Number of marked pixels of each frame.
    """

    def __init__(self, frames: Frames, masks: Masks, file: BinaryIO) -> None:
        self.frames, self.masks, self.file = frames, masks, file
        self.height, self.width = frames.height, frames.width
        self.starts, self.counts = np.zeros(len(frames) + 1, np.int64), np.zeros(len(frames), np.int64)
        self.left = Marks(self)

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, window: slice) -> Tensor:
        pictures = self.frames[window].clone()
        for index, (hole, colours, _) in enumerate(self.stored(window)):
            pictures[index][hole] = colours
        return pictures

    def put(self, window: slice, pictures: Tensor, left: Tensor) -> None:
        """Stores frames; the first time in their order.

        Args:
            left: bool (n, H, W).
        """
        holes = selected(self.masks[window])
        for number, picture, rest, hole in zip(range(*window.indices(len(self))), pictures, left, holes, strict=True):
            self.starts[number + 1] = self.starts[number] + PIXEL_BYTES * int(hole.sum())
            self.counts[number] = int(rest.sum())
            self.file.seek(self.starts[number])
            self.file.write(picture[hole].cpu().numpy().tobytes())
            self.file.write(rest[hole].cpu().numpy().tobytes())

    def stored(self, window: slice) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Of each frame the hole, bool (H, W), and its pixels' colours (N, 3) and marks bool (N,)."""
        for number, hole in zip(range(*window.indices(len(self))), selected(self.masks[window]), strict=True):
            self.file.seek(self.starts[number])
            stored = bytearray(self.file.read(int(self.starts[number + 1] - self.starts[number])))
            pixels = len(stored) // PIXEL_BYTES
            if not pixels:
                yield hole, torch.empty(0, 3), torch.empty(0, dtype=torch.bool)
                continue
            colours = torch.frombuffer(stored, dtype=torch.float32, count=3 * pixels).reshape(pixels, 3)
            yield hole, colours, torch.frombuffer(stored, dtype=torch.bool, offset=COLOUR_BYTES * pixels)


class Marks:
    """What is left of the holes of a clip, as masks: bool (n, H, W)."""

    def __init__(self, holes: Holes) -> None:
        self.holes = holes

    def __len__(self) -> int:
        return len(self.holes)

    def __getitem__(self, window: slice) -> Tensor:
        marks = []
        for hole, _, mark in self.holes.stored(window):
            marks.append(torch.zeros_like(hole).masked_scatter(hole, mark))
        return torch.stack(marks)


def _fill_rest(holes: Holes, motion: Motion, fill_picture: Fill, progress: Callable[[], None]) -> None:
    """Fills what is left: the frame that lacks most, and from there the others; again until nothing is left."""
    for _ in range(KEYS):
        if not holes.counts.any():
            return
        key = key_frame(holes.counts)
        edited = _filled(holes, key, fill_picture)
        steps = spread(holes, holes.left, motion, edited, key, lambda steps: progress())
        for window, (pictures, left) in zip(windows(holes), steps, strict=True):
            if holes.counts[window].any():
                holes.put(window, pictures, left)
    for number in np.flatnonzero(holes.counts):
        picture = _filled(holes, int(number), fill_picture)
        holes.put(slice(number, number + 1), picture[None], torch.zeros(1, *picture.shape[:2], dtype=torch.bool))
        progress()


def _filled(holes: Holes, number: int, fill_picture: Fill) -> Tensor:
    window = slice(number, number + 1)
    return fill_picture(holes[window][0], holes.left[window][0])


def _masks_of_track(track: Any, frames: Frames) -> Masks:
    if (len(track), track.height, track.width) != (len(frames), frames.height, frames.width):
        raise ValueError(
            f"track is of a clip of {len(track)} frames of {track.width} x {track.height}, and video has {len(frames)} "
            f"of {frames.width} x {frames.height}. Connect Track in Video to the same video."
        )
    return track.masks()
