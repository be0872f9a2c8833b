"""What stands behind a thing, taken from the frames that show it.

A hole's pixels are looked up in other frames by the motion of the background, each by one cubic interpolation of the
original frame. Three frames vote where they differ, so that another moving thing does not print through.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..comfyui.progress import ignore
from ..pixels import checks, images, warp
from ..pixels import masks as pixel_masks
from ..pixels.boxes import Box
from ..pixels.exposure import Exposure, exposure
from . import flow
from .frames import Frames, ImageFrames, MaskBatch, Masks
from .motion import Motion, Small, estimate, grown_known, refined, windows

VOTES = 3  # frames that are asked for a pixel
DIFFER = 0.06  # of a channel: above it the votes' median counts, below it the nearest frame
DECAY = 0.985  # worth of a frame for each frame that it is farther away
OPINIONS = 6  # frames that are looked up for a second and third vote, at most
SAMPLE = 2000  # pixels of a hole on which frames are chosen
RING, RING_POINTS = 8, 4000  # pixels round a hole that tell gain and offset, and how many of them
FEW = 30  # pixels of the ring that a frame must show to be compared
DISAGREES = 0.08  # median difference in the ring above which a frame is not used
SLACK = 8  # pixels round the place where the chain looks, which the refined motion may need


@dataclass
class Source:
    """A frame as other frames look it up: the part of it that they need.

    Attributes:
        small: Of the whole frame.
        box: Of the part in the frame.
        levels: (h, w, 3) uint8 where that loses no bit, else float32.
        known: bool (h, w), False on the grown hole.
    """

    small: Small
    box: Box
    levels: Tensor
    known: Tensor

    def shows(self, x: Tensor, y: Tensor) -> Tensor:
        """bool (N,): whether all pixels round the points (N,) are known."""
        x, y = x - self.box.x, y - self.box.y
        height, width = self.known.shape
        inside = (x >= 0) & (y >= 0) & (x <= width - 1) & (y <= height - 1)
        left, top = x.floor().clamp(0, width - 1).long(), y.floor().clamp(0, height - 1).long()
        right, below = (left + (x > left)).clamp_max(width - 1), (top + (y > top)).clamp_max(height - 1)
        flat = self.known.flatten()
        return inside & torch.stack([flat[r * width + c] for r in (top, below) for c in (left, right)]).all(0)

    def colours(self, x: Tensor, y: Tensor) -> Tensor:
        """(N, 3)"""
        x, y = x - self.box.x, y - self.box.y
        left, top = max(int(x.min()) - 3, 0), max(int(y.min()) - 3, 0)
        part = self.levels[top : int(y.max()) + 5, left : int(x.max()) + 5]
        return warp.cubic(part.float() / 255 if part.dtype == torch.uint8 else part, x - left, y - top)


def fill(
    frames: Frames,
    masks: Masks,
    motion: Motion,
    reach: int = 60,
    grow: int = 4,
    progress: Callable[[int], None] = ignore,
    ahead: Frames | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Fills the holes of a clip, window by window.

    At most 2 `reach` + 1 frames are held, and of each only the part that others look up.

    Args:
        motion: Of these frames and masks.
        reach: Frames before and after that are looked at.
        grow: Pixels round a hole that are not taken as background: the soft edge of the thing. They keep their values.
        progress: Called once per frame.
        ahead: The same frames once more. They are read `reach` frames ahead of `frames`, so a video that decodes from
            front to back is opened twice. Default: `frames`.

    Yields:
        Pictures (n, H, W, 3), equal to the frames but for the pixels that were filled, and bool (n, H, W): pixels of
        the holes that no frame within reach shows. They keep their values.
    """
    reading = _sources(frames if ahead is None else ahead, masks, motion, reach, grow)
    sources: dict[int, Source | None] = {}
    for window in windows(frames):
        pictures, holes = frames[window].clone(), pixel_masks.selected(masks[window])
        left = torch.zeros(holes.shape, dtype=torch.bool, device=holes.device)
        for t, (picture, hole, rest) in enumerate(zip(pictures, holes, left, strict=True), window.start):
            while max(sources, default=-1) < min(t + reach, len(motion) - 1):
                number, source = next(reading)
                sources[number] = source
            sources = {number: source for number, source in sources.items() if number >= t - reach}
            if motion.holes[t][2]:
                _fill_frame(picture, hole, rest, t, sources, motion, reach, grow)
            progress(1)
        yield pictures, left


def fill_images(
    image: Tensor,
    mask: Tensor,
    motion: str,
    reach: int,
    grow: int,
    progress: Callable[[int], None] = ignore,
    optical_flow: ModelPatcher | None = None,
) -> tuple[Tensor, Tensor, int, Motion]:
    """`estimate` and `fill` for an IMAGE batch.

    Args:
        image: (B, H, W, C), C = 1, 3 or 4. Values in the hole are not read; alpha does not change.
        mask: One for each picture, or one for all.
        motion: A key of `motion.MOTIONS`.
        progress: Called twice per frame, and once more per pair of frames with `optical_flow`.
        optical_flow: Fills by `flow.fill` what the motion of the background leaves; with "auto" also what moves
            otherwise.

    Returns:
        The pictures (B, H, W, C), what no frame shows (B, H, W), the key frame, and the motion.

    Raises:
        ValueError: The masks do not fit, or a value outside them is not finite.
    """
    frames = ImageFrames(image)
    masks = MaskBatch(mask, frames)
    hole = pixel_masks.selected(masks[:])
    checks.finite(image, "images", hole, " outside the mask")
    measured = estimate(frames, masks, motion, grow, progress)
    filled, left = image.clone(), torch.zeros(hole.shape, device=image.device)
    start = 0
    for pictures, rest in fill(frames, masks, measured, reach, grow, progress):
        window = slice(start, start + len(pictures))
        filled[window] = images.put_rgb(image[window], pictures, hole[window])
        left[window], start = rest.float(), window.stop
    if optical_flow is not None:
        flowing = optical_flow, frames[:], hole, left > 0, measured, motion == "auto", reach, grow, progress
        for t, picture, new in flow.fill(*flowing):
            filled[t] = images.put_rgb(filled[t, None], picture[None], new[None])[0]
            left[t, new] = 0
    return filled, left, key_frame(left.sum((1, 2)).tolist()), measured


def key_frame(left: list[float]) -> int:
    """The frame to edit as a picture: the one with the most pixels that no frame shows; 0 if there are none.

    Args:
        left: Their number in each frame.
    """
    return int(np.argmax(left))


def spread(
    frames: Frames,
    left: Masks,
    motion: Motion,
    edited: Tensor,
    key: int,
    progress: Callable[[int], None] = ignore,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Carries the edited key frame into what the other frames still lack.

    Args:
        frames: As they come from `fill`.
        left: What each of them lacks.
        edited: (H, W, 3), the key frame without holes.
        key: Its number.
        progress: Called once per frame.

    Yields:
        As `fill`: pictures, and what they still lack. Frames of other scenes stay as they are.
    """
    height, width = edited.shape[:2]
    whole = torch.ones(height, width, dtype=torch.bool, device=edited.device)
    source = Source(Small(edited, whole, motion.scale), Box(0, 0, width, height), edited, whole)
    for window in windows(frames):
        pictures, rest = frames[window].clone(), pixel_masks.selected(left[window]).clone()
        for t, (picture, hole) in enumerate(zip(pictures, rest, strict=True), window.start):
            if t == key:
                picture[hole], hole[:] = edited[hole], False
            elif hole.any() and motion.scenes[t] == motion.scenes[key]:
                asker = Asker(picture, hole, ~hole, motion.scale)
                matrix = asker.refined(source, motion.between(t, key), motion.kind(t, key), motion.scale)
                if matrix is not None:
                    shown, colours = asker.look_up(source, matrix, picture)
                    asker.write(picture, hole, colours, shown)
            progress(1)
        yield pictures, rest


class Asker:
    """A frame with a hole, which looks pixels up in other frames.

    Attributes:
        x, y: float32 (N,), the pixels of the hole.
    """

    def __init__(self, picture: Tensor, hole: Tensor, known: Tensor, scale: int) -> None:
        """
        Args:
            picture: (H, W, 3).
            hole, known: bool (H, W); what lies between the two keeps its values, and nothing is compared with it.
        """
        self.rows, self.columns = hole.nonzero(as_tuple=True)
        self.x, self.y = self.columns.float(), self.rows.float()
        self.small = Small(picture, known, scale)
        top, left = int(self.rows.min()), int(self.columns.min())
        box = Box(left, top, int(self.columns.max()) + 1 - left, int(self.rows.max()) + 1 - top)
        around = box.expand(2 * RING, hole.shape)
        rows, columns = around.slices
        near = pixel_masks.grow(~known[rows, columns], RING) & known[rows, columns]
        y, x = near.nonzero(as_tuple=True)
        step = -(-len(x) // RING_POINTS) if len(x) else 1
        self.ring_x, self.ring_y = x[::step] + around.x, y[::step] + around.y

    def refined(self, source: Source, chain: np.ndarray, kind: int, scale: int) -> np.ndarray | None:
        return refined(self.small, source.small, chain, kind, scale)

    def look_up(
        self, source: Source, matrix: np.ndarray, picture: Tensor, chosen: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Which pixels the source shows, bool (N,), and the colours of those, (M, 3).

        Args:
            chosen: bool (N,), the pixels to look up. Default: all.
        """
        x, y = warp.move(matrix, self.x, self.y)
        shown = source.shows(x, y)
        if chosen is not None:
            shown &= chosen
        measured = self._exposed(source, matrix, picture)
        unlike = measured is not None and min(measured.plain, measured.difference) > DISAGREES
        if unlike or not shown.any():
            return torch.zeros_like(shown), picture.new_zeros(0, 3)
        colours = source.colours(x[shown], y[shown]).to(picture)
        return shown, (colours if measured is None else measured.applied(colours)).clamp(0, 1)

    def _exposed(self, source: Source, matrix: np.ndarray, picture: Tensor) -> Exposure | None:
        """What brings the source to the picture, measured in the ring; None where the ring shows too little of it."""
        x, y = warp.move(matrix, self.ring_x.float(), self.ring_y.float())
        shown = source.shows(x, y)
        if shown.sum() < FEW:
            return None
        return exposure(picture[self.ring_y[shown], self.ring_x[shown]], source.colours(x[shown], y[shown]).to(picture))

    def write(self, picture: Tensor, rest: Tensor, colours: Tensor, shown: Tensor) -> None:
        """Puts colours (M, 3) into the pixels `shown`, bool (N,), and takes them out of the rest."""
        rows, columns = self.rows[shown], self.columns[shown]
        picture[rows, columns], rest[rows, columns] = colours, False


def _fill_frame(
    picture: Tensor,
    hole: Tensor,
    rest: Tensor,
    t: int,
    sources: dict[int, Source | None],
    motion: Motion,
    reach: int,
    grow: int,
) -> None:
    """Fills one frame's hole in place, and marks in `rest` what is left."""
    rest.copy_(hole)
    chains = {s: chain for s, chain in motion.chains(t, reach).items() if sources[s] is not None}
    asker = Asker(picture, hole, grown_known(hole, Box(*motion.holes[t].tolist()), grow), motion.scale)
    votes = Votes(len(asker.x), picture)
    while chains:
        order = _choose(asker, sources, chains, votes.count, t)
        if not order:
            break
        for s in order:
            matrix = asker.refined(sources[s], chains.pop(s), motion.kind(t, s), motion.scale)
            if matrix is not None:
                votes.add(*asker.look_up(sources[s], matrix, picture, votes.count < VOTES), abs(s - t))
    asker.write(picture, rest, votes.result(), votes.count > 0)


def _choose(
    asker: Asker, sources: dict[int, Source | None], chains: dict[int, np.ndarray], count: Tensor, t: int
) -> list[int]:
    """The frames to look up next, the most useful first: near ones that show many pixels with few votes.

    They are chosen on some of the pixels that have no vote yet, or on some of all if none has any.

    Args:
        chains: Motions to the frames to choose from.
        count: (N,), votes of each pixel.
    """
    lacking = (count == 0).nonzero().flatten()
    sample = lacking[:: max(1, len(lacking) // SAMPLE)]
    x, y, counts = asker.x[sample], asker.y[sample], count[sample].clone()
    shown = {s: sources[s].shows(*warp.move(chain, x, y)) for s, chain in chains.items()}
    order = []
    while shown:
        worth = {
            s: float((seen & (counts == 0)).sum() + 0.3 * (seen & (counts < VOTES)).sum()) * DECAY ** abs(s - t)
            for s, seen in shown.items()
        }
        best = max(worth, key=worth.get)
        new = (shown[best] & (counts == 0)).any()
        if not worth[best] or (not new and len(order) >= OPINIONS):
            break
        counts += shown.pop(best)
        order.append(best)
    return order


class Votes:
    """Colours that up to VOTES frames give for each pixel of a hole."""

    def __init__(self, n: int, like: Tensor) -> None:
        self.colours = like.new_zeros(VOTES, n, 3)
        self.distance = like.new_full((VOTES, n), torch.inf)
        self.count = torch.zeros(n, dtype=torch.long, device=like.device)

    def add(self, shown: Tensor, colours: Tensor, distance: int) -> None:
        """The colours (M, 3) of a frame `distance` frames away for the pixels `shown`, bool (N,)."""
        slot, pixel = self.count[shown], shown.nonzero().flatten()
        self.colours[slot, pixel], self.distance[slot, pixel] = colours, float(distance)
        self.count += shown

    def result(self) -> Tensor:
        """(M, 3), for the pixels with a vote: the nearest frame's, or the median of three that differ."""
        with_votes = self.count > 0
        colours, distance = self.colours[:, with_votes], self.distance[:, with_votes]
        nearest = colours[distance.argmin(0), torch.arange(colours.shape[1], device=colours.device)]
        low, high = colours.aminmax(dim=0)
        differ = (self.count[with_votes] == VOTES) & ((high - low).amax(1) > DIFFER)
        return torch.where(differ[:, None], colours.median(0).values, nearest)


def _sources(
    frames: Frames, masks: Masks, motion: Motion, reach: int, grow: int
) -> Iterator[tuple[int, Source | None]]:
    """All frames in their order as sources; None for a frame that none looks up."""
    for window in windows(frames):
        for s, (picture, mask) in enumerate(zip(frames[window], masks[window], strict=True), window.start):
            box = _needed(motion, s, reach)
            if not box.width:
                yield s, None
                continue
            known = grown_known(mask, Box(*motion.holes[s].tolist()), grow)
            rows, columns = box.slices
            part = picture[rows, columns].nan_to_num(0)
            levels = (part * 255).round().clamp(0, 255).to(torch.uint8)
            lossless = torch.equal(levels.float() / 255, part)
            small = Small(picture, known, motion.scale)
            yield s, Source(small, box, levels if lossless else part.clone(), known[rows, columns].clone())


def _needed(motion: Motion, s: int, reach: int) -> Box:
    """The part of frame s that holds what is behind the holes of the frames within reach."""
    low, high = np.full(2, np.inf), np.full(2, -np.inf)
    for t, chain in motion.chains(s, reach).items():
        x, y, width, height = motion.holes[t]
        if not width:
            continue
        x0, y0, x1, y1 = x - 2 * RING, y - 2 * RING, x + width + 2 * RING, y + height + 2 * RING
        corners = np.linalg.inv(chain) @ np.array([[x0, x1, x0, x1], [y0, y0, y1, y1], [1, 1, 1, 1]])
        if (corners[2] <= 0).any():  # beyond the horizon
            continue
        places = corners[:2] / corners[2]
        low, high = np.minimum(low, places.min(1)), np.maximum(high, places.max(1))
    limit = (motion.width, motion.height)
    low = np.clip(low - SLACK, 0, limit).astype(int)
    high = np.clip(np.ceil(high) + SLACK, 0, limit).astype(int)
    width, height = high - low
    return Box(*low.tolist(), int(width), int(height)) if (high > low).all() else Box(0, 0, 0, 0)
