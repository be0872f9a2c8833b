"""A VIDEO that is written frame by frame: a lossless temporary file with the sound and the rate of another VIDEO."""

import errno
import itertools
import secrets
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import folder_paths
import numpy as np
from av.container import InputContainer
from comfy_api.latest import Input, InputImpl, Types
from torch import Tensor

from ..pixels.images import to_levels
from .frames import open_video, own_file

# {bits: FFmpeg's codec, pixels, options}. ComfyUI decodes PNG's rgb24 to the levels themselves, and takes FFV1's RGB to
# decimals by a way of FFmpeg's that loses up to a level of 8 bits.
FORMATS = {
    8: ("png", "rgb24", {"compression_level": "1", "pred": "paeth"}),
    10: ("ffv1", "gbrp10le", {"level": "3", "slices": "4"}),
    12: ("ffv1", "gbrp12le", {"level": "3", "slices": "4"}),
    16: ("ffv1", "gbrp16le", {"level": "3", "slices": "4"}),
}
NO_ROOM = errno.ENOSPC, errno.EDQUOT, errno.EFBIG
LAYOUTS = "mono", "stereo", "2.1", "4.0", "5.0", "5.1", "6.1", "7.1"  # FFmpeg's, for 1 ... 8 channels in no known order


class LosslessVideo(InputImpl.VideoFromFile):
    """A temporary file in a codec that no player shows. Save Video encodes it anew, and never copies its stream."""

    def save_to(
        self,
        path: Any,
        format: Types.VideoContainer = Types.VideoContainer.AUTO,
        codec: Types.VideoCodec = Types.VideoCodec.AUTO,
        *args: Any,
        **options: Any,
    ) -> None:
        """As any VIDEO's."""
        codec = Types.VideoCodec.H264 if codec == Types.VideoCodec.AUTO else codec
        super().save_to(path, format, codec, *args, **options)


class TemporaryFile(str):
    """The path of a file that goes away with the last VIDEO that reads it, as it may be gigabytes.

    ComfyUI keeps a node's result until the node runs again or leaves the graph.
    """

    def __init__(self, path: str) -> None:
        weakref.finalize(self, _remove, Path(path))


@dataclass(frozen=True)
class Sound:
    """Sound that is read piece by piece.

    Attributes:
        rate: Samples in a second.
        layout: FFmpeg's name of the channels' arrangement.
        pieces: (channels, samples) in float32.
    """

    rate: int
    layout: str
    pieces: Iterator[np.ndarray]


def bit_depth(video: Input.Video) -> int:
    """Bits of a channel of the video's file, or 8 where the video is made of pictures."""
    if hasattr(video, "get_bit_depth"):
        return video.get_bit_depth()
    if not isinstance(video, InputImpl.VideoFromFile):  # from here on for ComfyUI 0.24, which has no get_bit_depth
        return 8
    container, stream = open_video(own_file(video), "video")
    with container:
        return max(component.bits for component in stream.format.components)


class Writer:
    """Writes frames; `write` takes the next ones. Made by `writing`.

    Attributes:
        video: The VIDEO, once all is written.
    """

    video: LosslessVideo

    def __init__(self, path: Path, like: Input.Video, height: int, width: int) -> None:
        self.path, self.rate, self.number = path, Fraction(like.get_frame_rate()), 0
        depth = bit_depth(like)
        self.bits = next((bits for bits in FORMATS if bits >= depth), max(FORMATS))
        self.container = av.open(str(path), mode="w")
        codec, self.form, options = FORMATS[self.bits]
        self.pictures = self.container.add_stream(codec, rate=self.rate, options=options)
        self.pictures.height, self.pictures.width, self.pictures.pix_fmt = height, width, self.form
        self.pictures.codec_context.time_base = 1 / self.rate
        self.sound = sound_of(like)
        if self.sound:
            self.samples = 0
            self.track = self.container.add_stream("pcm_f32le", rate=self.sound.rate, layout=self.sound.layout)

    def write(self, frames: Tensor) -> None:
        """
        Args:
            frames: (n, H, W, 3), 0 ... 1.
        """
        for picture in frames:
            frame = self._coded(picture)
            frame.pts, frame.time_base = self.number, 1 / self.rate
            self.container.mux(self.pictures.encode(frame))
            self.number += 1
            self._write_sound(until=self.number / self.rate)

    def finish(self) -> None:
        """Writes what is left of the sound, and closes the file."""
        self._write_sound(until=None)
        self.container.mux(self.pictures.encode(None))
        self.container.close()
        self.video = LosslessVideo(TemporaryFile(str(self.path)))

    def abandon(self) -> None:
        """Closes the file and removes it."""
        with suppress(OSError):  # what FFmpeg cannot write at the end either
            self.container.close()
        _remove(self.path)

    def _coded(self, picture: Tensor) -> av.VideoFrame:
        if self.bits == 8:
            return av.VideoFrame.from_ndarray(to_levels(picture), self.form)
        levels = (picture.cpu() * (2**self.bits - 1)).round().clamp(0, 2**self.bits - 1)
        return av.VideoFrame.from_ndarray(levels.numpy().astype(np.uint16), self.form)

    def _write_sound(self, until: Fraction | None) -> None:
        """Up to a time in seconds, so that FFmpeg need not hold sound that waits for pictures; None for all."""
        while self.sound and (until is None or self.samples / self.sound.rate < until):
            piece = next(self.sound.pieces, None)
            if piece is None:
                self.container.mux(self.track.encode(None))
                self.sound = None
                return
            packed = np.ascontiguousarray(piece.T).reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(packed, "flt", self.sound.layout)
            frame.sample_rate, frame.pts, frame.time_base = self.sound.rate, self.samples, Fraction(1, self.sound.rate)
            self.container.mux(self.track.encode(frame))
            self.samples += piece.shape[1]


@contextmanager
def writing(like: Input.Video, height: int, width: int) -> Iterator[Writer]:
    """A writer of frames of one size. Its file goes away if anything fails or the user interrupts.

    Args:
        like: Its sound, its frame rate and its bit depth are taken over; of Trim Video's window alone.

    Raises:
        ValueError: There is no room for the file.
    """
    folder = Path(folder_paths.get_temp_directory())
    folder.mkdir(parents=True, exist_ok=True)
    writer = Writer(folder / f"pentimento_{secrets.token_hex(8)}.mp4", like, height, width)
    try:
        yield writer
        writer.finish()
    except BaseException as error:
        writer.abandon()
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            raise ValueError(
                f"There is no room for the result in ComfyUI's temp folder '{folder}': it was full after "
                f"{writer.number} frames, and nothing of them is left. Make room, choose a shorter part with Trim "
                "Video, or start ComfyUI with --temp-directory and a folder on a larger disk."
            ) from error
        raise


def sound_of(video: Input.Video) -> Sound | None:
    """The sound of a VIDEO, as Get Video Components gives it; None if there is none."""
    if isinstance(video, InputImpl.VideoFromFile):
        return _sound_of_file(video)
    if not (audio := video.get_components().audio):
        return None
    waveform = audio["waveform"][0].float().cpu()  # (channels, samples)
    return Sound(
        int(audio["sample_rate"]),
        LAYOUTS[len(waveform) - 1],
        iter(piece.numpy() for piece in waveform.split(2**16, dim=1)),
    )


def _sound_of_file(video: Input.Video) -> Sound | None:
    container, pictures = open_video(own_file(video), "video")
    stream = next((each for each in reversed(container.streams.audio) if each.codec_context is not None), None)
    if stream is None:
        return None
    start, duration = video.get_active_trim_window()
    if start:
        container.seek(int(start / pictures.time_base), stream=pictures)
    frames = _decoded(container, stream)
    first = next(frames, None)
    if first is None:
        return None
    pieces = _cut(itertools.chain([first], frames), stream, start, duration)
    named = not first.layout.name.endswith("channels")
    return Sound(first.sample_rate, first.layout.name if named else LAYOUTS[first.layout.nb_channels - 1], pieces)


def _decoded(container: InputContainer, stream: av.AudioStream) -> Iterator[av.AudioFrame]:
    resampler = av.AudioResampler(format="fltp")
    for packet in container.demux(stream):
        for frame in packet.decode():
            yield from resampler.resample(frame)


def _cut(
    frames: Iterator[av.AudioFrame], stream: av.AudioStream, start: float, duration: float
) -> Iterator[np.ndarray]:
    """The samples of Trim Video's window, by the rule of `VideoFromFile.get_components_internal`."""
    started, left = False, int(duration * stream.sample_rate) if duration else None
    for frame in frames:
        if duration and frame.time > start + duration:
            return
        samples = frame.to_ndarray()
        if not started:
            skipped = max(0, int((start - frame.pts * stream.time_base) * stream.sample_rate))
            if skipped >= frame.samples:
                continue
            started, samples = True, samples[:, skipped:]
        if left is not None:
            samples = samples[:, :left]
            left -= samples.shape[1]
        if samples.shape[1]:
            yield samples


def _remove(path: Path) -> None:
    """A file that another program reads on Windows stays until ComfyUI clears its temp folder."""
    with suppress(OSError):
        path.unlink()
