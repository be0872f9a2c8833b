"""Masks of everything in a picture: SAM is asked at every point of a grid, and each good mask is kept once. Kirillov et
al. 2023, "Segment Anything", section 5 and appendix B (github.com/facebookresearch/segment-anything, Apache-2.0).

SAM gives thousands of masks, and most are dropped. So a mask is enlarged to the picture only if its score is high, and
only near its pixels. It is stored as the bits inside its box.
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

BATCH = 64  # points in one pass of the decoder
OVERLAP = 512 / 1500  # of neighbouring crops, as a share of the picture's shorter side
OFFSET = 1.0  # logits by which the threshold moves in the test of stability
NEAR = 20  # a mask that ends within this many pixels of an edge of its crop is cut off
DUPLICATE = 0.7  # intersection over union of two boxes above which their masks are duplicates
GOLDEN = 0.618034  # step of hue from one colour to the next, in turns: neighbours differ and none repeats


@dataclass(frozen=True)
class Settings:
    """The points to ask at, and the masks to keep.

    Attributes:
        points_per_side: The picture and every crop get a grid of points_per_side x points_per_side points.
        pred_iou_thresh: The score of a mask, SAM's estimate of its intersection over union with the true mask, must be
            above this. 0 keeps all masks.
        stability_score_thresh: The stability of a mask must be at least this.
        crop_layers: Each layer n = 1 ... crop_layers asks again in 2^n x 2^n overlapping crops.
        min_area: Holes with fewer pixels are filled, detached pieces with fewer pixels removed. 0 turns it off.
    """

    points_per_side: int = 32
    pred_iou_thresh: float = 0.88
    stability_score_thresh: float = 0.95
    crop_layers: int = 0
    min_area: int = 0


def point_grid(n: int) -> np.ndarray:
    """The centres of n x n equal cells, row by row: x and y in [0, 1], (n * n, 2)."""
    middles = (np.arange(n) + 0.5) / n
    return np.stack((np.tile(middles, n), np.repeat(middles, n)), axis=-1)


def crop_boxes(height: int, width: int, layers: int) -> list[Box]:
    """The box of the picture, then those of 2 x 2 overlapping crops, of 4 x 4 ..., column by column."""
    boxes = [Box(0, 0, width, height)]
    for n in (2**layer for layer in range(1, layers + 1)):
        overlap = int(OVERLAP * min(height, width) * 2 / n)
        w, h = (ceil((overlap * (n - 1) + side) / n) for side in (width, height))
        corners = product(range(0, n * (w - overlap), w - overlap), range(0, n * (h - overlap), h - overlap))
        # In a picture with fewer pixels than crops, the last crops lie outside.
        boxes += [Box(x, y, min(w, width - x), min(h, height - y)) for x, y in corners if x < width and y < height]
    return boxes


def point_prompts(points: np.ndarray, height: int, width: int, frame: int) -> Prompts:
    """A prompt for each of the points (P, 2), in [0, 1] of a height x width picture."""
    rows, columns = frame_size(height, width, frame)
    coords = torch.from_numpy((points * (columns, rows)).astype(np.float32))
    labels = torch.tensor([[POSITIVE, NOTHING]]).expand(len(points), -1)
    return Prompts(F.pad(coords[:, None], (0, 0, 0, 1)), labels)


@dataclass(frozen=True)
class Segment:
    """A mask cropped to its box.

    Attributes:
        box: The smallest box that holds the mask.
        bits: The mask in the box, row by row, eight pixels in a byte.
        area: The number of pixels of the mask.
        score: SAM's estimate of the intersection over union with the true mask.
    """

    box: Box
    bits: np.ndarray
    area: int
    score: float

    @classmethod
    def of(cls, mask: np.ndarray, x: int, y: int, score: float) -> "Segment | None":
        """The segment of a mask, bool (H, W), whose top left corner is at (x, y); None if the mask is blank."""
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if not len(rows):
            return None
        inside = Box(columns[0].item(), rows[0].item(), np.ptp(columns).item() + 1, np.ptp(rows).item() + 1)
        mask = mask[inside.slices]
        box = inside._replace(x=inside.x + x, y=inside.y + y)
        return cls(box, np.packbits(mask), int(np.count_nonzero(mask)), score)

    @property
    def mask(self) -> np.ndarray:
        """The mask in the box, bool (box.height, box.width)."""
        size = self.box.height, self.box.width
        return np.unpackbits(self.bits, count=size[0] * size[1]).reshape(size).view(bool)

    @property
    def corners(self) -> tuple[int, int, int, int]:
        """x and y of the first and of the last pixels: left, top, right, bottom as segment-anything counts them."""
        return self.box.x, self.box.y, self.box.x + self.box.width - 1, self.box.y + self.box.height - 1

    def moved(self, x: int, y: int) -> "Segment":
        """The same mask, x pixels to the right and y pixels down."""
        return replace(self, box=self.box._replace(x=self.box.x + x, y=self.box.y + y))


def axis_weights(cells: int, frame: int, used: int, size: int) -> Tensor:
    """The matrix A of `sam_frame.postprocess` along one axis, (size, cells): the weight of each cell in each pixel.

    Args:
        cells: Side of the decoder's masks.
        frame: Side of the frame.
        used: Side of the picture in the frame.
        size: Side of the picture.
    """
    weights = F.interpolate(torch.eye(cells)[None], frame, mode="linear")[..., :used]
    return F.interpolate(weights, size, mode="linear")[0].T.contiguous()


class Axis:
    """One axis of the enlargement of a decoder's mask to a picture.

    Args:
        weights: From axis_weights, (size, cells).
        device: Of the masks.
    """

    def __init__(self, weights: Tensor, device: torch.device) -> None:
        used = weights.numpy() != 0
        self.first = used.argmax(1)  # (size,): the first cell with a weight in each pixel
        self.last = used.shape[1] - 1 - used[:, ::-1].argmax(1)
        self.weights = weights.to(device)

    def reach(self, cells: np.ndarray) -> tuple[slice, slice]:
        """The pixels in which any of cells[0] ... cells[-1] has a weight, and all cells with a weight in them."""
        start = np.searchsorted(self.last, cells[0]).item()
        stop = np.searchsorted(self.first, cells[-1], side="right").item()
        if start == stop:  # cells of the frame beyond the picture
            return slice(0, 0), slice(0, 0)
        return slice(start, stop), slice(self.first[start].item(), self.last[stop - 1].item() + 1)


class Enlarger:
    """Enlarges the decoder's logits as `sam_frame.postprocess` does, but only where they may be above -OFFSET.

    The enlargement of logits L is P = A_y L A_x^T, with one matrix for each axis. The weights of a pixel are not
    negative and their sum is 1, so a pixel whose cells are all at most -OFFSET is at most -OFFSET too. So only the box
    around the pixels with a higher cell is computed.

    Args:
        height, width: Of the picture.
        frame: Side of the frame.
        cells: Side of the decoder's masks.
        device: Of the logits.
    """

    def __init__(self, height: int, width: int, frame: int, cells: int, device: torch.device) -> None:
        rows, columns = frame_size(height, width, frame)
        self.y = Axis(axis_weights(cells, frame, rows, height), device)
        self.x = Axis(axis_weights(cells, frame, columns, width), device)

    def __call__(self, logits: Tensor) -> Iterator[tuple[Tensor, int, int]]:
        """For each of the logits (K, cells, cells): logits (h, w) of pixels, and x and y of their top left corner.

        All other pixels of the picture are at most -OFFSET.
        """
        above = logits > -OFFSET
        rows, columns = above.any(2).cpu().numpy(), above.any(1).cpu().numpy()  # (K, cells)
        for cell_logits, has_row, has_column in zip(logits, rows, columns, strict=True):
            if not has_row.any():
                yield cell_logits[:0, :0], 0, 0
                continue
            down, cells_down = self.y.reach(np.flatnonzero(has_row))
            across, cells_across = self.x.reach(np.flatnonzero(has_column))
            a_y, a_x = self.y.weights[down, cells_down], self.x.weights[across, cells_across]
            pixels = torch.linalg.multi_dot((a_y, cell_logits[cells_down, cells_across], a_x.T))
            yield pixels, across.start, down.start


def stability(logits: Tensor) -> float:
    """The intersection over union of the masks of the thresholds OFFSET and -OFFSET; 0 if both masks are blank."""
    outer = torch.count_nonzero(logits > -OFFSET).item()
    return torch.count_nonzero(logits > OFFSET).item() / outer if outer else 0.0


def cut_off(box: tuple[int, int, int, int], crop: Box, width: int, height: int) -> bool:
    """Whether a mask ends near an edge of its crop that is not near a border of the picture: another crop shows more.

    Args:
        box: Left, top, right and bottom of the mask in the picture.
        crop: The crop in the picture.
        width, height: Of the picture.
    """
    crop_edges = crop.x, crop.y, crop.x + crop.width, crop.y + crop.height
    sides = zip(box, crop_edges, (0, 0, width, height), strict=True)
    return any(abs(side - edge) <= NEAR < abs(side - border) for side, edge, border in sides)


def distinct(segments: Sequence[Segment], priority: Sequence[float]) -> list[Segment]:
    """The segments by falling priority, without those whose box overlaps that of an earlier one by over DUPLICATE."""
    from torchvision.ops import nms  # takes seconds to import

    if not segments:
        return []
    boxes = torch.tensor([segment.corners for segment in segments], dtype=torch.float32)
    return [segments[i] for i in nms(boxes, torch.tensor(priority, dtype=torch.float32), DUPLICATE).tolist()]


def mend(mask: np.ndarray, area: int) -> tuple[np.ndarray, bool]:
    """A mask, bool (H, W), with gaps of fewer than `area` pixels filled, and then pieces of fewer pixels removed.

    Pixels are connected by edges or corners. A gap may touch the border of the picture. If all pieces are small, the
    largest stays.

    Returns:
        The mask, and whether there was any small gap or piece.
    """
    gaps, small_gaps = small_regions(~mask, area - 1, EIGHT)
    mask = mask | small_gaps[gaps]
    pieces, small_pieces = small_regions(mask, area - 1, EIGHT)
    altered = small_gaps.any() or small_pieces.any()
    if small_pieces[1:].all() and len(small_pieces) > 1:
        largest = 1 + np.bincount(pieces.ravel())[1:].argmax()
        small_pieces[largest] = False
    return mask & ~small_pieces[pieces], bool(altered)


def mend_segment(segment: Segment, area: int, width: int, height: int) -> tuple[Segment, bool]:
    """`mend` for a segment of a width x height picture."""
    # A gap that goes on beyond this box has at least `area` pixels inside it, so the crop makes no gap small.
    around = segment.box.expand(area, (height, width))
    mask = np.zeros((around.height, around.width), dtype=bool)
    mask[segment.box._replace(x=segment.box.x - around.x, y=segment.box.y - around.y).slices] = segment.mask
    mask, altered = mend(mask, area)
    return Segment.of(mask, around.x, around.y, segment.score), altered


def segments_of(
    sam: SAM, embedding: Embedding, crop: Box, settings: Settings, progress: Callable[[int], None]
) -> Iterator[Segment]:
    """The masks to keep in one crop, or in the whole picture, in pixels of the crop.

    Args:
        embedding: Of the crop.
        progress: Called after every BATCH points.
    """
    points, device = point_grid(settings.points_per_side), sam.device
    enlarge = Enlarger(crop.height, crop.width, sam.frame, 4 * sam.grid, device)
    lowest_score = settings.pred_iou_thresh or -inf
    for batch in (points[i : i + BATCH] for i in range(0, len(points), BATCH)):
        logits, scores = sam.decode(embedding, point_prompts(batch, crop.height, crop.width, sam.frame))
        logits, scores = logits[:, 1:], scores[:, 1:]  # the three answers to an ambiguous prompt
        good = scores > lowest_score
        for (pixels, x, y), score in zip(enlarge(logits[good]), scores[good].tolist(), strict=True):
            if stability(pixels) >= settings.stability_score_thresh:
                segment = Segment.of((pixels > 0).cpu().numpy(), x, y, score)
                if segment:
                    yield segment
        progress(1)


def segment_picture(sam: SAM, levels: np.ndarray, settings: Settings, progress: Callable[[int], None]) -> list[Segment]:
    """The segments of everything in a picture, largest first.

    Args:
        sam: Loaded.
        levels: uint8 (H, W, 3).
        progress: Called with numbers of steps, 0 included, which add up to `steps`.
    """
    height, width = levels.shape[:2]
    crops = crop_boxes(height, width, settings.crop_layers)
    segments, priority = [], []
    for crop in crops:
        embedding = sam.embed(levels[crop.slices], progress)
        in_crop = segments_of(sam, embedding, crop, settings, progress)
        in_picture = (segment.moved(crop.x, crop.y) for segment in in_crop)
        whole = [segment for segment in in_picture if not cut_off(segment.corners, crop, width, height)]
        unique = distinct(whole, [segment.score for segment in whole])
        segments += unique
        priority += [1 / (crop.width * crop.height)] * len(unique)  # a smaller crop shows its objects larger
    if len(crops) > 1:
        segments = distinct(segments, priority)
    if settings.min_area:
        segments = _mend_all(segments, settings.min_area, width, height, progress)
    return sorted(segments, key=lambda segment: -segment.area)


def _mend_all(
    segments: list[Segment], area: int, width: int, height: int, progress: Callable[[int], None]
) -> list[Segment]:
    """The mended segments without duplicates; of duplicates, one that was not altered stays."""
    mended = []
    for segment in segments:
        progress(0)
        mended.append(mend_segment(segment, area, width, height))
    return distinct([segment for segment, _ in mended], [float(not altered) for _, altered in mended])


def steps(sam: SAM, height: int, width: int, settings: Settings) -> int:
    """The steps of the progress bar for one picture."""
    batches = ceil(settings.points_per_side**2 / BATCH)
    return len(crop_boxes(height, width, settings.crop_layers)) * (sam.steps + batches)


def segment_everything(
    sam: SAM, image: Tensor, settings: Settings
) -> tuple[Tensor, list[list[dict[str, int | float]]], Tensor]:
    """Masks of everything in pictures, their boxes, and previews.

    Args:
        image: (B, H, W, C), C = 1, 3 or 4.
        settings: The points to ask at, and the masks to keep.

    Returns:
        Masks, float32 (N, H, W), picture by picture, largest first; a single blank mask if there is none, because most
        nodes fail on an empty batch. A list for each picture of the boxes of its masks, with their scores. The pictures
        with their masks drawn on them, (B, H, W, 3).
    """
    height, width = image.shape[1:3]
    sam.load(BATCH)
    progress = Progress(len(image) * steps(sam, height, width, settings))
    per_picture = [segment_picture(sam, to_levels(picture), settings, progress) for picture in image]
    for number, segments in enumerate(per_picture, 1):
        if not segments:
            logging.warning(
                "SAM Segment Everything found nothing in picture %d. Lower pred_iou_thresh or stability_score_thresh.",
                number,
            )
    masks = masks_of([segment for segments in per_picture for segment in segments], height, width)
    boxes = [[segment.box._asdict() | {"score": segment.score} for segment in segments] for segments in per_picture]
    previews = [preview(picture, segments) for picture, segments in zip(image, per_picture, strict=True)]
    return masks, boxes, torch.stack(previews)


def masks_of(segments: list[Segment], height: int, width: int) -> Tensor:
    """The masks of N segments, float32 (N, height, width); a single blank mask for none."""
    # The system provides the zeros of np.zeros, which take no memory until they are written to.
    masks = np.zeros((max(len(segments), 1), height, width), dtype=np.float32)
    for mask, segment in zip(masks, segments, strict=False):
        mask[segment.box.slices] = segment.mask
    return torch.from_numpy(masks)


def preview(picture: Tensor, segments: list[Segment]) -> Tensor:
    """A picture with segments drawn on it in half transparent colours with opaque edges, the last on top.

    Args:
        picture: (H, W, C), C = 1, 3 or 4.
        segments: Largest first. The colour of the nth is always the same.

    Returns:
        (H, W, 3)
    """
    top = np.zeros(picture.shape[:2], dtype=np.int64)
    for number, segment in enumerate(segments, 1):
        top[segment.box.slices][segment.mask] = number
    edge = np.zeros_like(top, dtype=bool)
    for numbers, marks in ((top, edge), (top.T, edge.T)):  # marks is a view of edge
        differ = numbers[1:] != numbers[:-1]
        marks[1:] |= differ
        marks[:-1] |= differ
    colours = [(0.0, 0.0, 0.0), *(colorsys.hsv_to_rgb(i * GOLDEN % 1, 0.8, 1.0) for i in range(len(segments)))]
    labels, rgb = torch.from_numpy(top).to(picture.device), to_rgb(picture)
    drawn = torch.tensor(colours, dtype=rgb.dtype, device=rgb.device)[labels]
    strength = torch.from_numpy(np.where(edge, 1.0, 0.5)[..., None]).to(rgb)
    return torch.where((labels > 0)[..., None], rgb.lerp(drawn, strength), rgb)
