"""The frames of a clip and their masks, read a few at a time, so that a clip need not fit into memory."""

import copy
import io
import zlib
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Protocol

import av
import numpy as np
import torch
from comfy import model_management
from comfy_api.latest import Input, InputImpl
from torch import Tensor

from ..pixels import masks

BYTES = "yuvj420p", "yuvj422p", "yuvj444p", "rgb24", "rgba", "pal8"  # formats that ComfyUI reads as 8-bit levels
ALIGNED = 32  # pixels: of another width FFmpeg's conversion reads what lies behind the row
EVERY = 4  # row of a frame counts in its sum


class Frames(Protocol):
    """Frames that are read in windows: `frames[a:b]` is float32 (n, H, W, 3), 0 ... 1."""

    height: int
    width: int

    def __len__(self) -> int: ...

    def __getitem__(self, window: slice) -> Tensor: ...


class Masks(Protocol):
    """One mask for each frame, made when it is read: `masks[a:b]` is float32 (n, H, W), 0 ... 1."""

    def __len__(self) -> int: ...

    def __getitem__(self, window: slice) -> Tensor: ...


class ImageFrames:
    """The pictures of an IMAGE batch (B, H, W, C) as frames: grey becomes RGB, alpha is left out."""

    def __init__(self, images: Tensor) -> None:
        self.images = images
        self.height, self.width = images.shape[1:3]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, window: slice) -> Tensor:
        images = self.images[window].float()
        return images.expand(*images.shape[:3], 3) if images.shape[-1] == 1 else images[..., :3]


class MaskBatch:
    """A MASK batch as masks of a clip: one mask for each frame, or one mask for all."""

    def __init__(self, mask: Tensor, frames: Frames) -> None:
        """Matches the masks with the frames, as `pixels.masks.pair` does.

        Raises:
            ValueError: There is neither one mask nor one for each frame, or the proportions differ.
        """
        if len(mask) not in (1, len(frames)):
            raise ValueError(
                f"mask is a batch of {len(mask)} but the clip has {len(frames)} frames. Connect one mask for all "
                "frames, or one for each."
            )
        blank = frames[:1]
        self.masks = masks.pair(blank.expand(len(mask), *blank.shape[1:]), mask)[1]
        self.frames = len(frames)

    def __len__(self) -> int:
        return self.frames

    def __getitem__(self, window: slice) -> Tensor:
        if len(self.masks) == self.frames:
            return self.masks[window]
        return self.masks.expand(len(range(*window.indices(self.frames))), -1, -1)


def of_video(video: Input.Video) -> Frames:
    """The frames of a VIDEO: those of a file are decoded when they are read, and Create Video holds pictures.

    Raises:
        ValueError: As `VideoFrames`, or Create Video holds no picture.
    """
    if isinstance(video, InputImpl.VideoFromFile) and hasattr(video, "get_active_trim_window"):
        frames = VideoFrames(video)
        if frames.stored == video.get_dimensions():
            return frames
        # A newer ComfyUI crops a VIDEO while it decodes, and does not say where. So it decodes all the frames itself.
    images = video.get_components().images
    if not len(images):
        raise ValueError("video has no frames. Connect a video that has at least one.")
    return ImageFrames(images)


def second_reader(frames: Frames) -> Frames:
    """The same frames, to be read at two places at once: a VIDEO would decode anew at each change of place."""
    return frames.again() if isinstance(frames, VideoFrames) else frames


@dataclass(frozen=True)
class Entry:
    """What is known of one frame: its time in the stream's units, and a sum of its pixels."""

    time: int | None
    sum: int


class VideoFrames:
    """The frames of a VIDEO that is a file, decoded when they are read.

    They equal the images of ComfyUI's Get Video Components to the bit (`VideoFromFile.get_components_internal`): turned
    upright, without alpha, and those of Trim Video's window alone.

    At first all frames are decoded once and not converted, a small part of the work of anything that is done to them.
    So their number is the true one, which many containers do not say, and decoding can start at a key frame later on.
    Each frame that is read so is compared with the sum of its pixels. If it differs, as in streams without real key
    frames, decoding starts at the first frame from then on.

    Attributes:
        stored: (width, height) in the file, before a frame is turned upright.
    """

    def __init__(self, video: Input.Video) -> None:
        """
        Raises:
            ValueError: The file cannot be read, has no frames, or they change their size.
        """
        self._file = own_file(video)
        in_memory = isinstance(self._file, io.BytesIO)
        self._name = "video" if in_memory else f"video: the file '{Path(self._file).name}'"
        self._trim = video.get_active_trim_window()
        self._entries: list[Entry] = []
        self._keys: list[int] = []  # numbers of the key frames
        self._start()
        self.stored = self._stream.width, self._stream.height
        self._examine()
        self.height, self.width = self._converter.height, self._converter.width
        times = [entry.time for entry in self._entries]
        self._seeks = None not in times and all(a < b for a, b in zip(times, times[1:], strict=False))
        self._start()

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, window: slice) -> Tensor:
        numbers = range(*window.indices(len(self)))
        frames = torch.empty(len(numbers), self.height, self.width, 3)
        for frame, number in zip(frames, numbers, strict=True):
            frame.copy_(self._converter(self._frame(number)))
        return frames

    def again(self) -> "VideoFrames":
        """The same frames with a place of their own in the file, and without decoding all once more."""
        twin = copy.copy(self)
        twin._file = io.BytesIO(self._file.getvalue()) if isinstance(self._file, io.BytesIO) else self._file
        twin._start()
        return twin

    def _start(self) -> None:
        """Opens the file, so that the first frame of the window comes next."""
        self._container, self._stream = open_video(self._file, self._name)
        start, duration = self._trim
        first, end = (int(seconds / self._stream.time_base) for seconds in (start, start + duration))
        self._end = end if duration else None
        if first:
            self._container.seek(first, stream=self._stream)
        self._decoded, self._next, self._sought = self._decode(first), 0, False

    def _seek(self, key: int) -> None:
        """Goes to a key frame by its time."""
        time = self._entries[key].time
        self._container.seek(time, stream=self._stream)
        self._decoded, self._next, self._sought = self._decode(time), key, True

    def _decode(self, first: int) -> Iterator[av.VideoFrame]:
        """The frames of the window from a time on."""
        for packet in self._container.demux(self._stream):
            try:
                for frame in packet.decode():
                    if frame.pts is not None and frame.pts < first:
                        continue
                    if frame.pts is not None and self._end is not None and frame.pts >= self._end:
                        return
                    yield frame
            except av.error.InvalidDataError:  # ComfyUI leaves out what is damaged, too
                continue

    def _examine(self) -> None:
        """Decodes all frames once."""
        for number, frame in enumerate(self._decoded):
            model_management.throw_exception_if_processing_interrupted()
            if not number:
                self._converter = Converter(frame, self._stream.time_base)
            elif (frame.width, frame.height) != (size := self._converter.size):
                raise ValueError(
                    f"{self._name} changes its size: frame 0 is {size[0]} x {size[1]}, and frame {number} is "
                    f"{frame.width} x {frame.height}. Choose a part of one size with Trim Video."
                )
            if frame.key_frame:
                self._keys.append(number)
            self._entries.append(Entry(frame.pts, _sum(frame)))
        if not self._entries:
            part = " in the part that Trim Video leaves of it" if any(self._trim) else ""
            raise ValueError(f"{self._name} has no frames{part}. Connect a video that has at least one.")

    def _frame(self, number: int) -> av.VideoFrame:
        before = bisect_right(self._keys, number)
        key = self._keys[before - 1] if before else 0
        if self._seeks and key and not key <= self._next <= number:
            self._seek(key)
        elif number < self._next:
            self._start()
        frame = self._skip_to(number)
        if self._sought and (frame is None or Entry(frame.pts, _sum(frame)) != self._entries[number]):
            self._seeks = False
            self._start()
            frame = self._skip_to(number)
        if frame is None:
            raise ValueError(f"{self._name} has become shorter while it was read. Run again.")
        return frame

    def _skip_to(self, number: int) -> av.VideoFrame | None:
        for _ in range(self._next, number):
            next(self._decoded, None)
        self._next = number + 1
        return next(self._decoded, None)


class Converter:
    """Turns decoded frames into pictures (H, W, 3) as ComfyUI does.

    Attributes:
        size: (width, height) of a frame as it is stored.
        height, width: Of the picture, which stands upright.
    """

    def __init__(self, frame: av.VideoFrame, time_base: Fraction) -> None:
        """
        Args:
            frame: The first, by which ComfyUI chooses the way for all.
        """
        self.size = frame.width, frame.height
        self.turns = int(frame.rotation // 90)
        self.width, self.height = self.size[::-1] if self.turns % 2 else self.size
        alpha = any(component.is_alpha for component in frame.format.components) or frame.format.name == "pal8"
        if frame.format.name in BYTES:
            self.format = "rgba" if alpha else "rgb24"
        else:
            self.format = "gbrapf32le" if alpha else "gbrpf32le"
        self.padded = None
        if frame.format.name not in BYTES and frame.width % ALIGNED:
            self.padded = _padding(frame, time_base)

    def __call__(self, frame: av.VideoFrame) -> Tensor:
        if self.padded:
            self.padded.push(frame)
            levels = self.padded.pull().to_ndarray(format=self.format)[: frame.height, : frame.width]
        else:
            levels = frame.to_ndarray(format=self.format)
        if self.turns:
            levels = np.rot90(levels, self.turns).copy()
        picture = torch.from_numpy(levels[..., :3])
        return picture.float() / 255 if picture.dtype == torch.uint8 else picture


def _padding(frame: av.VideoFrame, time_base: Fraction) -> av.filter.Graph:
    """ComfyUI's filter graph that repeats a frame's border up to multiples of ALIGNED."""
    width, height = (ALIGNED * -(-side // ALIGNED) for side in (frame.width, frame.height))
    right, bottom = width - frame.width, height - frame.height
    graph = av.filter.Graph()
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format.name, time_base=time_base)
    pad = graph.add("pad", f"{width}:{height}:0:0")
    fill = graph.add("fillborders", f"left=0:right={right}:top=0:bottom={bottom}:mode=smear")
    sink = graph.add("buffersink")
    source.link_to(pad)
    pad.link_to(fill)
    fill.link_to(sink)
    graph.configure()
    return graph


def own_file(video: Input.Video) -> str | io.BytesIO:
    """The path of a VIDEO's file, or the file in memory with a place of its own, as others may read it too."""
    file = video.get_stream_source()
    return io.BytesIO(file.getvalue()) if isinstance(file, io.BytesIO) else file


def open_video(file: str | io.BytesIO, name: str) -> tuple:
    """The container and its first video stream.

    Raises:
        ValueError: FFmpeg cannot read it, there is no video in it, or no decoder for the video.
    """
    if isinstance(file, io.BytesIO):
        file.seek(0)
    try:
        container = av.open(file)
    except av.error.FFmpegError as error:
        raise ValueError(
            f"{name} cannot be read ({error.strerror}): it is damaged, or no video. Connect another, or convert it to "
            "an .mp4 file with H.264."
        ) from error
    if not container.streams.video:
        raise ValueError(f"{name} has no pictures, sound at most. Connect a video with pictures.")
    stream = container.streams.video[0]
    if stream.codec_context is None:
        raise ValueError(
            f"{name} is in a codec that ComfyUI's FFmpeg cannot decode. Convert it to an .mp4 file with H.264."
        )
    return container, stream


def _sum(frame: av.VideoFrame) -> int:
    """A sum of the first plane's pixels, of some rows."""
    plane = frame.planes[0]
    if plane.line_size < 0:  # stored from the lowest row to the highest: PyAV's buffer starts at the wrong end
        return zlib.crc32(frame.to_ndarray(format="rgb24"))
    rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
    return zlib.crc32(np.ascontiguousarray(rows[::EVERY, : plane.width]))
