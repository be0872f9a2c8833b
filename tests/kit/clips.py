"""Clips whose motion is known: a window that moves over a photograph, and a thing that moves in front of it.

The truth does not come from the pack's own warps: SciPy's cubic spline reads every frame from the photograph.
Pixel centres have whole coordinates, (x, y).
"""

from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path

import av
import numpy as np
import torch
from comfy import model_management
from comfy.model_patcher import ModelPatcher
from PIL import Image
from scipy import ndimage
from torch import Tensor

from .paths import PACK

PHOTOGRAPHS = {
    "astronaut": PACK / "workflows" / "input" / "pentimento_astronaut.png",
    "coffee": PACK / "workflows" / "input" / "pentimento_coffee.png",
    "brick": PACK / "host" / "photographs" / "brick.png",
    "gravel": PACK / "host" / "photographs" / "gravel.png",
}
LAYERS = 1.2, 3.4  # pixels per frame, to the right, of what is far and what is near in `parallax`
MOTIONS = "still", "pan", "zoom", "turn", "perspective"


@dataclass(frozen=True)
class Clip:
    """What a camera saw, and the truth behind it.

    Attributes:
        frames: (n, H, W, 3), 8-bit values.
        mask: (n, H, W), 1 on the thing to remove.
        background: (n, H, W, 3), the frames without that thing and without any second one, 8-bit values.
        places: (n, 3, 3), homography from a frame's pixels to the photograph's.
        scenes: (n,), the number of the scene: only frames of one scene show the same photograph.
    """

    frames: Tensor
    mask: Tensor
    background: Tensor
    places: np.ndarray
    scenes: np.ndarray

    def __len__(self) -> int:
        return len(self.frames)

    def motion(self, t: int, s: int) -> np.ndarray:
        """The true homography (3, 3) from frame t's pixels to frame s's."""
        motion = np.linalg.inv(self.places[s]) @ self.places[t]
        return motion / motion[2, 2]

    def seen(self, grow: int = 1, reach: int | None = None) -> Tensor:
        """bool (n, H, W): pixels of the mask whose background another frame of the scene shows.

        Args:
            grow: Pixels from the mask and from the frame's border on which the other frame is not read.
            reach: Number of frames before and after that are looked at; None for all.
        """
        n, height, width = self.mask.shape
        disc = np.hypot(*np.mgrid[-grow : grow + 1, -grow : grow + 1]) <= grow
        shown = [
            ndimage.binary_erosion(mask == 0, disc, border_value=0) if grow else mask == 0 for mask in self.mask.numpy()
        ]
        seen = np.zeros((n, height, width), bool)
        for t in range(n):
            rows, columns = np.nonzero(self.mask[t].numpy())
            for s in range(n):
                if s == t or self.scenes[s] != self.scenes[t] or (reach is not None and abs(s - t) > reach):
                    continue
                x, y = _moved(self.motion(t, s), columns, rows)
                there = ndimage.map_coordinates(shown[s].astype(np.float32), (y, x), order=1, cval=0) > 0.999
                seen[t, rows[there], columns[there]] = True
        return torch.from_numpy(seen)


def clip(
    photograph: str = "coffee",
    motion: str = "pan",
    frames: int = 24,
    height: int = 180,
    width: int = 240,
    seed: int = 0,
    side: int = 44,
    gain: float = 0.0,
    second: bool = False,
    cut: int | None = None,
    hovers: bool = False,
) -> Clip:
    """A clip of one photograph.

    Args:
        photograph: A key of PHOTOGRAPHS.
        motion: One of MOTIONS. "zoom" enlarges by 15 %, "turn" turns by 3.4 degrees and enlarges too, both while they
            pan a little; "perspective" tilts as well. All go on in sub-pixel steps.
        seed: Of the start, the direction and the steps' unevenness.
        side: Of the square of one colour that crosses the frames.
        gain: Brightness rises evenly from 1 - gain to 1 + gain, relative to the clip's middle.
        second: A disc of stripes, half as large, crosses the other way round, and no mask covers it.
        cut: Number of the first frame of another photograph.
        hovers: The square stays near the middle of the frames, so that a slow camera never shows all behind it.
    """
    rng = np.random.default_rng(seed)
    scenes = (np.arange(frames) >= (frames if cut is None else cut)).astype(int)
    names = photograph, next(name for name in PHOTOGRAPHS if name != photograph)
    places = _places(motion, frames, height, width, rng, [_spline(names[scene])[0].shape for scene in scenes])
    brightness = (1 + gain * np.linspace(-1, 1, frames)) / (1 + abs(gain))
    background = np.stack([_view(names[scenes[t]], places[t], height, width) * brightness[t] for t in range(frames)])
    seen, mask = background.copy(), np.zeros((frames, height, width), np.float32)
    across = rng.permutation([0.08, 0.92])
    if second:
        _put_disc(seen, side // 2, _path(seen, side // 2, across[::-1], rng))
    _put_square(seen, mask, side, _path(seen, side, 0.45 + 0.1 * across if hovers else across, rng))
    levels = [torch.from_numpy(np.rint(255 * x.clip(0, 1)).astype(np.float32) / 255) for x in (seen, background)]
    return Clip(levels[0], torch.from_numpy(mask), levels[1], places, scenes)


def parallax(frames: int = 6, height: int = 150, width: int = 160, horizon: int = 84, side: int = 20) -> Clip:
    """A camera that travels to the left: below `horizon` what is near moves by LAYERS[1], what is far by LAYERS[0].

    The square crosses what is near. `places` are those of what is far.
    """
    background, masks = np.zeros((frames, height, width, 3)), np.zeros((frames, height, width), np.float32)
    places = np.tile(np.eye(3), (2, frames, 1, 1))
    for layer, (name, speed) in enumerate(zip(("coffee", "gravel"), LAYERS, strict=True)):
        places[layer, :, :2, 2] = 40.3
        places[layer, :, 0, 2] -= speed * np.arange(frames)
        part = slice(horizon, None) if layer else slice(0, horizon)
        for frame, place in zip(background, places[layer], strict=True):
            frame[part] = _view(name, place, height, width)[part]
    seen, x = background.copy(), np.linspace(12, width - side - 12, frames).astype(int)
    _put_square(seen, masks, side, np.stack((x, np.full(frames, horizon + 24)), axis=1))
    levels = [torch.from_numpy(np.rint(255 * x.clip(0, 1)).astype(np.float32) / 255) for x in (seen, background)]
    return Clip(levels[0], torch.from_numpy(masks), levels[1], places[0], np.zeros(frames, int))


class TrueFlow(torch.nn.Module):
    """Stands in for an optical flow network: it knows the true flow of a clip of `parallax`, but not behind the square.

    Args:
        horizon: As in `parallax`.
    """

    def __init__(self, clip: Clip, horizon: int = 84) -> None:
        super().__init__()
        self.clip, self.horizon, self.calls = clip, horizon, []

    def forward(self, first: Tensor, second: Tensor) -> list[Tensor]:
        """Flows between pictures (B, 3, h, w) in [-1, 1], the last one of a list."""
        size = first.shape[-2:]
        self.calls.append(tuple(first.shape))
        frames = torch.nn.functional.interpolate(self.clip.frames.movedim(-1, 1), size, mode="bilinear", antialias=True)
        numbers = [(2 * frames - 1 - picture).abs().mean((1, 2, 3)).argmin() for picture in (*first, *second)]
        _, height, width = self.clip.mask.shape
        flow = torch.zeros(len(first), 2, height, width)
        for plane, t, s in zip(flow[:, 0], numbers[: len(first)], numbers[len(first) :], strict=True):
            plane[: self.horizon], plane[self.horizon :] = (speed * (s - t) for speed in LAYERS)
            plane[self.clip.mask[t] > 0] = 9.0
        flow = torch.nn.functional.interpolate(flow, size, mode="nearest")
        return [flow * 0, flow * torch.tensor([size[1] / width, size[0] / height])[:, None, None]]


class StillFlow(torch.nn.Module):
    """Stands in for an optical flow network: nothing moves."""

    def forward(self, first: Tensor, second: Tensor) -> list[Tensor]:
        return [torch.zeros_like(first[:, :2])]


def flow_model(network: torch.nn.Module) -> ModelPatcher:
    """A network as ComfyUI's Load Optical Flow Model gives it."""
    return ModelPatcher(network, model_management.get_torch_device(), model_management.unet_offload_device())


def write_video(
    path: Path,
    codec: str = "libx264",
    format: str = "yuv420p",
    frames: int = 30,
    height: int = 48,
    width: int = 64,
    rate: Fraction = Fraction(30000, 1001),
    options: dict[str, str] | None = None,
    rotation: int = 0,
    audio: np.ndarray | None = None,
) -> None:
    """A small file for tests of reading and writing.

    Args:
        codec, format: FFmpeg's names of the encoder and of the pixels.
        rotation: Degrees by which a player turns the frames.
        audio: (channels, samples) at 8000 Hz; mono or stereo.
    """
    levels = (clip(frames=frames, height=height, width=width, side=12).frames.numpy() * 255).round().astype(np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width, stream.pix_fmt = height, width, format
        if rotation:
            stream.set_display_rotation(rotation)
        if audio is not None:
            sound = container.add_stream("aac" if path.suffix == ".mp4" else "pcm_s16le", rate=8000)
            sound.layout = {1: "mono", 2: "stereo"}[len(audio)]
        for picture in levels:
            container.mux(stream.encode(_coded(picture, format)))
        container.mux(stream.encode(None))
        if audio is not None:
            frame = av.AudioFrame.from_ndarray(audio.astype(np.float32), "fltp", sound.layout.name)
            frame.sample_rate, frame.pts = 8000, 0
            container.mux(sound.encode(frame))
            container.mux(sound.encode(None))


def _coded(picture: np.ndarray, format: str) -> av.VideoFrame:
    if format == "pal8":
        grey = picture[..., 1] // 16
        return av.VideoFrame.from_ndarray(
            (grey, np.arange(256, dtype=np.uint32).view(np.uint8).reshape(256, 4)), "pal8"
        )
    if format == "rgba" or format.startswith("yuva"):
        picture = np.concatenate((picture, picture[..., :1]), axis=-1)
        return av.VideoFrame.from_ndarray(picture, "rgba").reformat(format=format)
    return av.VideoFrame.from_ndarray(picture, "rgb24").reformat(format=format)


def psnr(ours: Tensor, truth: Tensor, where: Tensor) -> float:
    """Decibels of the error in the pixels `where`, bool (n, H, W), of pictures (n, H, W, 3)."""
    return float(-10 * torch.log10((ours - truth)[where].double().square().mean()))


@cache
def _spline(photograph: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The coefficients of the cubic spline through a photograph's pixels, per channel (H, W)."""
    levels = np.asarray(Image.open(PHOTOGRAPHS[photograph]).convert("RGB"), np.float64) / 255
    return tuple(ndimage.spline_filter(channel, order=3, mode="mirror") for channel in np.moveaxis(levels, 2, 0))


def _moved(motion: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Where a homography takes points: (2, ...)."""
    moved = np.tensordot(motion, np.stack((x, y, np.ones_like(x))), 1)
    return moved[:2] / moved[2]


def _view(photograph: str, place: np.ndarray, height: int, width: int) -> np.ndarray:
    """One frame (H, W, 3) without anything in front."""
    y, x = np.mgrid[:height, :width].astype(np.float64)
    x, y = _moved(place, x, y)
    coefficients = _spline(photograph)
    channels = [ndimage.map_coordinates(c, (y, x), order=3, mode="mirror", prefilter=False) for c in coefficients]
    return np.stack(channels, axis=-1)


def _places(motion: str, n: int, height: int, width: int, rng: np.random.Generator, shapes: list) -> np.ndarray:
    """(n, 3, 3): the window goes across the photograph's middle."""
    time = np.linspace(-0.5, 0.5, n)
    if n > 2 and motion != "still":
        time[1:-1] += rng.uniform(-0.2, 0.2, n - 2) / n  # a hand's unevenness
    angle, side = rng.uniform(-0.5, 0.5), rng.choice((-1, 1))
    length = {"still": 0.0, "pan": 0.4}.get(motion, 0.12) * width
    places = []
    for t, (rows, columns) in zip(time, shapes, strict=True):
        turn = side * np.deg2rad(3.4) * t if motion in ("turn", "perspective") else 0.0
        scale = 1 - 0.15 * t if motion in ("zoom", "turn", "perspective") else 1.0
        cos, sin = scale * np.cos(turn), scale * np.sin(turn)
        tilt = (0.08 * side * t / width, 0.05 * t / width) if motion == "perspective" else (0.0, 0.0)
        centred = np.array([[1, 0, -(width - 1) / 2], [0, 1, -(height - 1) / 2], [0, 0, 1]])
        turned = np.array([[cos, -sin, 0], [sin, cos, 0], [*tilt, 1]])
        x = (columns - 1) / 2 + side * length * t * np.cos(angle)
        y = (rows - 1) / 2 + length * t * np.sin(angle)
        places.append(np.array([[1, 0, x], [0, 1, y], [0, 0, 1]]) @ turned @ centred)
    return np.stack(places)


def _path(frames: np.ndarray, side: int, across: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(n, 2), upper left corners (x, y) of a thing that stays inside the frames.

    Args:
        across: Where it starts and ends from left to right, 0 ... 1.
    """
    n, height, width = frames.shape[:3]
    (start, end), (top, bottom) = across, rng.uniform(0.25, 0.6, 2)
    time = np.linspace(0, 1, n)
    x, y = start + (end - start) * time, top + (bottom - top) * time
    return np.rint(np.stack((x * (width - side), y * (height - side)), axis=1)).astype(int)


def _put_square(frames: np.ndarray, mask: np.ndarray, side: int, path: np.ndarray) -> None:
    for t, (x, y) in enumerate(path):
        frames[t, y : y + side, x : x + side] = 0.9, 0.1, 0.75
        mask[t, y : y + side, x : x + side] = 1


def _put_disc(frames: np.ndarray, diameter: int, path: np.ndarray) -> None:
    row, column = np.mgrid[:diameter, :diameter] - (diameter - 1) / 2
    inside = np.hypot(row, column) <= diameter / 2
    stripes = np.where((row // 3 % 2 == 0)[..., None], [0.1, 0.8, 0.2], [0.95, 0.95, 0.3])
    for frame, (x, y) in zip(frames, path, strict=True):
        frame[y : y + diameter, x : x + diameter][inside] = stripes[inside]
