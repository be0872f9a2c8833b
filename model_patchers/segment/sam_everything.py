"""Everything in a picture: SAM asked at every point of a grid, and its good answers kept once each. Kirillov et al.
2023, "Segment Anything", section 5 and appendix B (github.com/facebookresearch/segment-anything, Apache-2.0).

SAM gives thousands of answers, and most are dropped. So an answer is enlarged to the picture only if SAM trusts it,
only where there is something of it, and what is kept is bits inside its box.
"""

import colorsys
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import ceil, inf

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..arch.sam_decoder import NOTHING, POSITIVE, Prompts
from ..comfyui.progress import Progress
from ..pixels.boxes import Box
from ..pixels.images import to_levels, to_rgb
from ..pixels.regions import EIGHT, small_regions
from .sam import SAM, Embedding
from .sam_frame import frame_size

BATCH = 64  # points asked at once
OVERLAP = 512 / 1500  # of neighbouring crops, in the picture's shorter side
OFFSET = 1.0  # how far a stable mask's threshold may move, in logits
NEAR = 20  # pixels from a crop's edge at which a mask counts as cut off
DUPLICATE = 0.7  # overlap of boxes, intersection over union, above which two masks are one
GOLDEN = 0.618034  # of the circle of hues from one colour to the next: neighbours differ and none repeats


@dataclass(frozen=True)
class Settings:
    """What is asked and what is kept.

    Attributes:
        points_per_side: The grid is points_per_side x points_per_side points, in the picture and in every crop.
        pred_iou_thresh: Masks are kept whose score, SAM's guess of its overlap with the true mask, is above. 0: all.
        stability_score_thresh: Masks are kept whose stability is at least this.
        crop_layers: Layer n asks again in 2^n x 2^n overlapping crops.
        min_area: Holes and detached pieces of fewer pixels are mended.
    """

    points_per_side: int = 32
    pred_iou_thresh: float = 0.88
    stability_score_thresh: float = 0.95
    crop_layers: int = 0
    min_area: int = 0


# Where to ask


def point_grid(n: int) -> np.ndarray:
    """The middles of n x n equal cells, row by row: x and y in [0, 1], (n * n, 2)."""
    middles = (np.arange(n) + 0.5) / n
    return np.stack((np.tile(middles, n), np.repeat(middles, n)), axis=-1)


def crop_boxes(height: int, width: int, layers: int) -> list[Box]:
    """The picture, then 2 x 2 crops, 4 x 4 crops, ... that overlap, column by column."""
    boxes = [Box(0, 0, width, height)]
    for n in (2**layer for layer in range(1, layers + 1)):
        overlap = int(OVERLAP * min(height, width) * 2 / n)
        w, h = (ceil((overlap * (n - 1) + side) / n) for side in (width, height))
        corners = product(range(0, n * (w - overlap), w - overlap), range(0, n * (h - overlap), h - overlap))
        # Of a picture with fewer pixels than crops, the last crops would hold nothing.
        boxes += [Box(x, y, min(w, width - x), min(h, height - y)) for x, y in corners if x < width and y < height]
    return boxes


def point_prompts(points: np.ndarray, height: int, width: int, frame: int) -> Prompts:
    """A prompt for each point (P, 2), which is in [0, 1] of a height x width picture."""
    rows, columns = frame_size(height, width, frame)
    coords = torch.from_numpy((points * (columns, rows)).astype(np.float32))
    labels = torch.tensor([[POSITIVE, NOTHING]]).expand(len(points), -1)
    return Prompts(F.pad(coords[:, None], (0, 0, 0, 1)), labels)


# What an answer is


@dataclass(frozen=True)
class Segment:
    """A mask cut to its box.

    Attributes:
        box: The smallest that holds it.
        bits: It in the box, row by row, eight pixels in a byte.
        area: Its pixels.
        score: SAM's guess of its overlap with the true mask.
    """

    box: Box
    bits: np.ndarray
    area: int
    score: float

    @classmethod
    def of(cls, mask: np.ndarray, x: int, y: int, score: float) -> "Segment | None":
        """bool (H, W) whose top left corner lies at (x, y) -> its segment; None if it is blank."""
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if not len(rows):
            return None
        inside = Box(columns[0].item(), rows[0].item(), np.ptp(columns).item() + 1, np.ptp(rows).item() + 1)
        mask = mask[inside.slices]
        box = inside._replace(x=inside.x + x, y=inside.y + y)
        return cls(box, np.packbits(mask), int(np.count_nonzero(mask)), score)

    @property
    def mask(self) -> np.ndarray:
        """bool (box.height, box.width)"""
        size = self.box.height, self.box.width
        return np.unpackbits(self.bits, count=size[0] * size[1]).reshape(size).view(bool)

    @property
    def corners(self) -> tuple[int, int, int, int]:
        """The first and the last pixels' x and y, which are the box as segment-anything has it."""
        return self.box.x, self.box.y, self.box.x + self.box.width - 1, self.box.y + self.box.height - 1

    def moved(self, x: int, y: int) -> "Segment":
        return replace(self, box=self.box._replace(x=self.box.x + x, y=self.box.y + y))


def axis_weights(cells: int, frame: int, used: int, size: int) -> Tensor:
    """One axis of `sam.postprocess`, which is linear: how much of each cell is in each pixel, (size, cells)."""
    weights = F.interpolate(torch.eye(cells)[None], frame, mode="linear")[..., :used]
    return F.interpolate(weights, size, mode="linear")[0].T.contiguous()


class Axis:
    """One axis of enlarging a decoder's mask to a picture.

    Args:
        weights: From axis_weights.
        device: Where masks are enlarged.
    """

    def __init__(self, weights: Tensor, device: torch.device) -> None:
        used = weights.numpy() != 0
        self.first = used.argmax(1)  # cell in each pixel
        self.last = used.shape[1] - 1 - used[:, ::-1].argmax(1)
        self.weights = weights.to(device)

    def reach(self, cells: np.ndarray) -> tuple[slice, slice]:
        """The pixels that have anything of cells[0] ... cells[-1], and all the cells that those pixels have."""
        start = np.searchsorted(self.last, cells[0]).item()
        stop = np.searchsorted(self.first, cells[-1], side="right").item()
        if start == stop:  # cells of the frame beyond the picture
            return slice(0, 0), slice(0, 0)
        return slice(start, stop), slice(self.first[start].item(), self.last[stop - 1].item() + 1)


class Enlarger:
    """Makes masks of the decoder's logits, as `sam.postprocess` does, but only where they may be above -OFFSET.

    Args:
        height, width: The picture's.
        frame: The frame's side.
        cells: The side of the decoder's masks.
        device: Where the logits are.
    """

    def __init__(self, height: int, width: int, frame: int, cells: int, device: torch.device) -> None:
        rows, columns = frame_size(height, width, frame)
        self.y = Axis(axis_weights(cells, frame, rows, height), device)
        self.x = Axis(axis_weights(cells, frame, columns, width), device)

    def __call__(self, logits: Tensor) -> Iterator[tuple[Tensor, int, int]]:
        """For each of logits (K, cells, cells): logits (h, w) of pixels and the x and y of their top left corner.

        Every pixel elsewhere is at most -OFFSET.
        """
        warm = logits > -OFFSET
        rows, columns = warm.any(2).cpu().numpy(), warm.any(1).cpu().numpy()
        for one, y, x in zip(logits, map(np.flatnonzero, rows), map(np.flatnonzero, columns), strict=True):
            if not len(y):
                yield one[:0, :0], 0, 0
                continue
            (down, r), (across, c) = self.y.reach(y), self.x.reach(x)
            factors = self.y.weights[down, r], one[r, c], self.x.weights[across, c].T
            yield torch.linalg.multi_dot(factors), across.start, down.start


def stability(logits: Tensor) -> float:
    """How little a mask changes with its threshold: the overlap of those at OFFSET and -OFFSET; 0 if both are blank."""
    outer = torch.count_nonzero(logits > -OFFSET).item()
    return torch.count_nonzero(logits > OFFSET).item() / outer if outer else 0.0


# What is kept


def cut_off(box: tuple[int, int, int, int], crop: Box, width: int, height: int) -> bool:
    """Whether a mask ends near its crop's edge, and not near the picture's: another crop shows more of it.

    Args:
        box: Left, top, right and bottom in the picture.
        crop: The crop in the picture.
        width, height: The picture's.
    """
    crop_edges = crop.x, crop.y, crop.x + crop.width, crop.y + crop.height
    sides = zip(box, crop_edges, (0, 0, width, height), strict=True)
    return any(abs(side - edge) <= NEAR < abs(side - border) for side, edge, border in sides)


def distinct(segments: Sequence[Segment], priority: Sequence[float]) -> list[Segment]:
    """Of segments whose boxes overlap by more than DUPLICATE, the one of highest priority; all in that order."""
    from torchvision.ops import nms  # takes seconds to import

    if not segments:
        return []
    boxes = torch.tensor([segment.corners for segment in segments], dtype=torch.float32)
    return [segments[i] for i in nms(boxes, torch.tensor(priority, dtype=torch.float32), DUPLICATE).tolist()]


def mend(mask: np.ndarray, area: int) -> tuple[np.ndarray, bool]:
    """Fills what the mask leaves out, and then drops pieces of it, in fewer than `area` pixels that hang together.

    Pixels hang together by edges or corners, and a gap may be at the picture's border. If all pieces are small, the
    largest stays.

    Args:
        mask: bool (H, W)

    Returns:
        The mask, and whether there was anything small.
    """
    gaps, small_gaps = small_regions(~mask, area - 1, EIGHT)
    mask = mask | small_gaps[gaps]
    pieces, small_pieces = small_regions(mask, area - 1, EIGHT)
    found = small_gaps.any() or small_pieces.any()
    if small_pieces[1:].all() and len(small_pieces) > 1:
        small_pieces[1 + np.bincount(pieces.ravel())[1:].argmax()] = False
    return mask & ~small_pieces[pieces], bool(found)


def mend_segment(segment: Segment, area: int, width: int, height: int) -> tuple[Segment, bool]:
    """`mend` for a segment of a width x height picture."""
    # What goes on beyond this box is at least `area` wide inside it, so it is not small here either.
    around = segment.box.expand(area, width, height)
    mask = np.zeros((around.height, around.width), dtype=bool)
    mask[segment.box._replace(x=segment.box.x - around.x, y=segment.box.y - around.y).slices] = segment.mask
    mask, found = mend(mask, area)
    return Segment.of(mask, around.x, around.y, segment.score), found


# All of it


def segments_of(
    sam: SAM, embedding: Embedding, crop: Box, settings: Settings, progress: Callable[[int], None]
) -> Iterator[Segment]:
    """The good answers in the crop (or whole picture) of which this is the embedding, in its pixels.

    Args:
        progress: Called after every BATCH points.
    """
    points, device = point_grid(settings.points_per_side), sam.device
    enlarge = Enlarger(crop.height, crop.width, sam.frame, 4 * sam.grid, device)
    least = settings.pred_iou_thresh or -inf
    for batch in (points[i : i + BATCH] for i in range(0, len(points), BATCH)):
        logits, scores = sam.decode(embedding, point_prompts(batch, crop.height, crop.width, sam.frame))
        logits, scores = logits[:, 1:], scores[:, 1:]  # the three answers to an ambiguous prompt
        good = scores > least
        for (pixels, x, y), score in zip(enlarge(logits[good]), scores[good].tolist(), strict=True):
            if stability(pixels) >= settings.stability_score_thresh:
                segment = Segment.of((pixels > 0).cpu().numpy(), x, y, score)
                if segment:
                    yield segment
        progress(1)


def segment_picture(sam: SAM, levels: np.ndarray, settings: Settings, progress: Callable[[int], None]) -> list[Segment]:
    """Everything in a picture, largest first.

    Args:
        sam: Loaded.
        levels: uint8 (H, W, 3).
        progress: Called with numbers of steps done, which add up to `steps`; some are 0.
    """
    height, width = levels.shape[:2]
    crops = crop_boxes(height, width, settings.crop_layers)
    found, priority = [], []
    for crop in crops:
        embedding = sam.embed(levels[crop.slices], progress)
        answers = (s.moved(crop.x, crop.y) for s in segments_of(sam, embedding, crop, settings, progress))
        whole = [segment for segment in answers if not cut_off(segment.corners, crop, width, height)]
        kept = distinct(whole, [segment.score for segment in whole])
        found += kept
        priority += [1 / (crop.width * crop.height)] * len(kept)  # the smaller crop shows it larger
    if len(crops) > 1:
        found = distinct(found, priority)
    if settings.min_area:
        found = _mend_all(found, settings.min_area, width, height, progress)
    return sorted(found, key=lambda segment: -segment.area)


def _mend_all(
    segments: list[Segment], area: int, width: int, height: int, progress: Callable[[int], None]
) -> list[Segment]:
    mended = []
    for segment in segments:
        progress(0)
        mended.append(mend_segment(segment, area, width, height))
    return distinct([segment for segment, _ in mended], [float(not altered) for _, altered in mended])


def steps(sam: SAM, height: int, width: int, settings: Settings) -> int:
    """Of the progress bar, for one picture."""
    batches = ceil(settings.points_per_side**2 / BATCH)
    return len(crop_boxes(height, width, settings.crop_layers)) * (sam.steps + batches)


def segment_everything(
    sam: SAM, image: Tensor, settings: Settings
) -> tuple[Tensor, list[list[dict[str, int | float]]], Tensor]:
    """Masks of everything in pictures.

    Args:
        image: (B, H, W, C), C = 1, 3 or 4.
        settings: What is asked and what is kept.

    Returns:
        float32 masks (N, H, W), each picture's in turn, largest first; a list for each picture of the boxes of its
        masks, with their scores; and the pictures with their masks drawn on them, (B, H, W, 3). Where no picture has
        anything, one blank mask: a batch of none is an error in most nodes.
    """
    height, width = image.shape[1:3]
    sam.load(BATCH)
    progress = Progress(len(image) * steps(sam, height, width, settings))
    found = [segment_picture(sam, to_levels(picture), settings, progress) for picture in image]
    for number, segments in enumerate(found, 1):
        if not segments:
            logging.warning(
                "SAM Segment Everything found nothing in picture %d. Lower pred_iou_thresh or stability_score_thresh.",
                number,
            )
    masks = masks_of([segment for segments in found for segment in segments], height, width)
    boxes = [[segment.box._asdict() | {"score": segment.score} for segment in segments] for segments in found]
    previews = [preview(picture, segments) for picture, segments in zip(image, found, strict=True)]
    return masks, boxes, torch.stack(previews)


def masks_of(segments: list[Segment], height: int, width: int) -> Tensor:
    """float32 (max(N, 1), height, width)"""
    # NumPy's zeros are the system's: they take no memory where nothing is written.
    masks = np.zeros((max(len(segments), 1), height, width), dtype=np.float32)
    for mask, segment in zip(masks, segments, strict=False):
        mask[segment.box.slices] = segment.mask
    return torch.from_numpy(masks)


def preview(picture: Tensor, segments: list[Segment]) -> Tensor:
    """The picture with segments drawn on it in half transparent colours, edges opaque, the last on top.

    Args:
        picture: (H, W, C), C = 1, 3 or 4.
        segments: Largest first. The nth always has the same colour.

    Returns:
        (H, W, 3)
    """
    top = np.zeros(picture.shape[:2], dtype=np.int64)
    for number, segment in enumerate(segments, 1):
        top[segment.box.slices][segment.mask] = number
    edge = np.zeros_like(top, dtype=bool)
    for a, b in (((..., slice(1, None)), (..., slice(-1))), (slice(1, None), slice(-1))):
        differ = top[a] != top[b]
        edge[a] |= differ
        edge[b] |= differ
    colours = [(0.0, 0.0, 0.0), *(colorsys.hsv_to_rgb(i * GOLDEN % 1, 0.8, 1.0) for i in range(len(segments)))]
    labels, rgb = torch.from_numpy(top).to(picture.device), to_rgb(picture)
    drawn = torch.tensor(colours, dtype=rgb.dtype, device=rgb.device)[labels]
    strength = torch.from_numpy(np.where(edge, 1.0, 0.5)[..., None]).to(rgb)
    return torch.where((labels > 0)[..., None], rgb.lerp(drawn, strength), rgb)
