"""What stands behind a thing, followed from frame to frame by optical flow: for scenes with parallax.

The colour propagation of FGVC (Gao, Saraf, Huang, Kopf, "Flow-edge guided video completion", ECCV 2020), for all
pixels of a frame at once. The flow behind the thing is completed by Laplace's equation. A hidden pixel follows it
forwards and backwards until a frame shows it. Positions add up below the pixel, so each colour is read from an original
frame, once.

Three things differ from the original: a pixel whose flows there and back disagree is not followed; colours are read
from known pixels only, and so are never taken from what was filled; places are not read beyond the border.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from comfy import model_management
from comfy.model_patcher import ModelPatcher
from scipy import ndimage
from torch import Tensor

from ..comfyui.progress import ignore
from ..fill.harmonic import harmonic
from ..pixels import masks, warp
from ..pixels.exposure import exposure
from .motion import Motion, grown_known, selected_box

LONG, SHORT, STEP = 640, 128, 8  # pixels: the network's longer side at most, its sides at least, and their divisor
AROUND, GAP = 15, 21  # pixels round a hole without a trusted flow, and the side of the gaps between that are closed
SHARP = 0.1  # pixels: an error of the return that makes a place worth 1 / e
POINTS = 64  # across a frame: those that are compared for brightness
FEW = 30  # points that both frames must show
RING = 8  # pixels round a hole on which flow and the motion of the background are compared
CLEARLY = 0.9  # flow is used if at most this part of the difference there remains


@dataclass(frozen=True)
class Places:
    """Where a frame's hidden pixels are seen, in one direction of time.

    Attributes:
        x, y: float64 (N,), positions in the frame that shows them.
        source: int64 (N,), number of that frame; -1 where none shows the pixel.
        errors: float64 (2, N), largest horizontal and vertical error of the return on the way.
    """

    x: Tensor
    y: Tensor
    source: Tensor
    errors: Tensor


def untrusted(hole: np.ndarray) -> np.ndarray:
    """bool (H, W): the hole and what lies near it, where a measured flow may be that of the thing."""
    grown = ndimage.binary_dilation(hole, iterations=AROUND).astype(np.uint8)
    closed = ndimage.maximum_filter(grown, GAP, mode="constant", cval=0)
    closed = ndimage.minimum_filter(closed, GAP, mode="constant", cval=1)
    return ndimage.binary_fill_holes(closed)


def completed(flow: Tensor, hidden: Tensor) -> Tensor:
    """A flow (2, h, w) with Laplace's equation solved where it is not trusted, bool (h, w)."""
    return harmonic(flow.movedim(0, -1), hidden).movedim(-1, 0)


def read(flow: Tensor, x: Tensor, y: Tensor, size: tuple[int, int]) -> Tensor:
    """A flow (2, h, w) at points (N,) of a frame of `size`, in the frame's pixels: float64 (2, N)."""
    (height, width), (h, w) = size, flow.shape[-2:]
    x = ((x.double() + 0.5) * w / width - 0.5).clamp(0, w - 1)
    y = ((y.double() + 0.5) * h / height - 0.5).clamp(0, h - 1)
    return warp.bilinear(flow.double(), x, y) * torch.tensor([[width / w], [height / h]], dtype=torch.float64)


def follow(
    hole: Tensor,
    there: Tensor,
    back: Tensor,
    number: int,
    next_hole: Tensor,
    places: Places | None,
    strict: bool = True,
) -> Places:
    """Where a frame's hidden pixels are seen from the next frame on, forwards or backwards.

    Args:
        hole, next_hole: bool (H, W), of the frame and the next one.
        there, back: (2, h, w), completed flows to the next frame and from there.
        number: Of the next frame.
        places: Of the next frame's hidden pixels, row by row. None: it has none to pass on.
        strict: Leave pixels out whose flows there and back do not return to them.
    """
    (height, width), (rows, columns) = hole.shape, hole.nonzero(as_tuple=True)
    flow = read(there, columns, rows, (height, width))
    x, y = columns + flow[0].float(), rows + flow[1].float()
    returned = read(back, x, y, (height, width))
    errors = torch.stack((x.double() + returned[0] - columns, y.double() + returned[1] - rows)).abs()
    nearest_x, nearest_y = x.round().long(), y.round().long()
    good = _inside(nearest_x, nearest_y, width, height)
    if strict:
        lengths = flow.square().sum(0) + returned.square().sum(0)
        good &= errors.square().sum(0) < 0.01 * lengths + 0.5  # Sundaram, Brox, Keutzer, ECCV 2010, eq 5
    nearest_x, nearest_y = nearest_x.clamp(0, width - 1), nearest_y.clamp(0, height - 1)
    hidden = next_hole[nearest_y, nearest_x]
    source = torch.where(good & ~hidden, number, -1)
    x, y = x.double(), y.double()
    if places is not None:
        index = torch.zeros(hole.shape, dtype=torch.long)
        index[next_hole] = torch.arange(len(places.x))
        index = index[nearest_y, nearest_x]
        far_x, far_y = places.x[index] + (x - nearest_x), places.y[index] + (y - nearest_y)
        passed = good & hidden & (places.source[index] >= 0)
        passed &= _inside(far_x.round(), far_y.round(), width, height)
        x, y = torch.where(passed, far_x, x), torch.where(passed, far_y, y)
        source = torch.where(passed, places.source[index], source)
        errors = torch.where(passed, torch.maximum(errors, places.errors[:, index]), errors)
    return Places(x, y, source, errors)


def _inside(x: Tensor, y: Tensor, width: int, height: int) -> Tensor:
    return (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)


def propagate(
    holes: Tensor,
    flows: list[tuple[Tensor, Tensor] | None],
    strict: bool = True,
    progress: Callable[[int], None] = ignore,
) -> list[list[Places | None]]:
    """The places of all frames' hidden pixels, [towards earlier frames, towards later frames]; None: nothing to follow.

    Args:
        holes: bool (n, H, W).
        flows: n - 1 pairs of completed flows (2, h, w), from frame t to t + 1 and back; None where nothing is followed.
        progress: Called with 0 before every frame.
    """
    n = len(holes)
    both: list[list[Places | None]] = [[None] * n, [None] * n]
    for places, step in zip(both, (-1, 1), strict=True):
        for t in range(n) if step < 0 else range(n - 1, -1, -1):
            progress(0)
            s = t + step
            pair = flows[min(t, s)] if 0 <= s < n else None
            if pair is not None and holes[t].any():
                there, back = pair if step > 0 else pair[::-1]
                places[t] = follow(holes[t], there, back, s, holes[s], places[s], strict)
    return both


def weights(errors: Tensor, found: Tensor) -> Tensor:
    """How much each of several places counts, (K, N), by their errors (K, 2, N): 0 where not found, bool (K, N)."""
    worth = (-errors.square().sum(1).sqrt() / SHARP).masked_fill(~found, -torch.inf)
    return torch.softmax(worth, 0).nan_to_num(0)


def colours(pictures: Tensor, known: Tensor, places: Places, found: Tensor) -> tuple[Tensor, Tensor]:
    """The colours (N, 3) at places, each read once from an original frame, and bool (N,): where that shows any.

    Args:
        pictures: (n, H, W, 3).
        known: bool (n, H, W). The bilinear mean is taken over known pixels.
        found: bool (N,), the places to read.
    """
    values, shown = pictures.new_zeros(len(found), 3), torch.zeros_like(found)
    for s in places.source[found].unique().tolist():
        at = found & (places.source == s)
        height, width = known.shape[1:]
        x, y = places.x[at].clamp(0, width - 1), places.y[at].clamp(0, height - 1)
        top, left = int(y.min()), int(x.min())
        part = slice(top, int(y.max()) + 2), slice(left, int(x.max()) + 2)
        here = known[s][part]
        planes = torch.where(here[..., None], pictures[s][part], 0).movedim(-1, 0)
        read_at = warp.bilinear(torch.cat((planes, here[None].to(planes))).double(), x - left, y - top)
        values[at] = (read_at[:3] / read_at[3].clamp_min(1e-3)).T.to(values)
        shown[at] = read_at[3] > 1e-3
    return values, shown


class Brightness:
    """How bright frames are beside each other: points of one are followed to the other."""

    def __init__(self, pictures: Tensor, known: Tensor, flows: list[tuple[Tensor, Tensor] | None]) -> None:
        """
        Args:
            pictures, known, flows: As in `colours` and `propagate`.
        """
        self.pictures, self.known, self.flows = pictures, known, flows

    def matched(self, colours: Tensor, places: Places, found: Tensor, t: int) -> Tensor:
        """Colours (N, 3) from frames before t or from frames after t, each as bright as in frame t.

        Args:
            found: bool (N,), the places that were read.
        """
        wanted = places.source[found].unique().tolist()
        for s, x, y, ours in self._followed(t, wanted) if wanted else ():
            at = found & (places.source == s)
            planes = torch.cat((self.pictures[s].movedim(-1, 0), self.known[s][None].to(self.pictures)))
            theirs = warp.bilinear(planes, x, y)
            shown = theirs[3] > 0.999
            if shown.sum() >= FEW:
                colours[at] = exposure(ours[shown], theirs[:3, shown].T).applied(colours[at]).clamp(0, 1)
        return colours

    def _followed(self, t: int, wanted: list[int]) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
        """Of each wanted frame its number, and where it shows points of frame t that have the colours (N, 3)."""
        (_, height, width), side = self.known.shape, max(1, self.known.shape[2] // POINTS)
        rows, columns = (self.known[t, ::side, ::side].nonzero() * side).T
        x, y, ours = columns.double(), rows.double(), self.pictures[t, rows, columns]
        step = 1 if wanted[0] > t else -1
        for s in range(t + step, (wanted[-1] if step > 0 else wanted[0]) + step, step):
            flow = read(self.flows[min(s, s - step)][int(step < 0)], x, y, (height, width))
            x, y = x + flow[0], y + flow[1]
            inside = _inside(x, y, width, height)
            x, y, ours = x[inside], y[inside], ours[inside]
            if s in wanted:
                yield s, x, y, ours


def measure(
    network: ModelPatcher, pictures: Tensor, holes: Tensor, motion: Motion, progress: Callable[[int], None] = ignore
) -> list[tuple[Tensor, Tensor] | None]:
    """The completed flows of each pair of frames, as `propagate` takes them. None across a cut and without a hole.

    Args:
        network: ComfyUI's OPTICAL_FLOW: two pictures (B, 3, h, w) in [-1, 1] -> a list of flows (B, 2, h, w), the last
            of which is the best.
        pictures: (n, H, W, 3). They may be broken in the holes.
        holes: bool (n, H, W), on the CPU.
        progress: Called once per pair.
    """
    size = network_size(*holes.shape[1:])
    smaller = (masks.resize_selection(hole[None].float(), *size)[0] > 0 for hole in holes)
    hidden = [torch.from_numpy(untrusted(hole.numpy())) for hole in smaller]
    some = [bool(part.any()) for part in hidden]
    followed = [
        motion.scenes[t] == motion.scenes[t + 1]
        and any(some[t : t + 2])
        and not (hidden[t].all() or hidden[t + 1].all())
        for t in range(len(hidden) - 1)
    ]
    if any(followed):
        pixels = size[0] * size[1]
        model_management.load_models_gpu([network], memory_required=pixels**2 // 256 + 1024 * pixels)
    flows = []
    for t, follows in enumerate(followed):
        progress(1)
        if not follows:
            flows.append(None)
            continue
        pair = pictures[t : t + 2].movedim(-1, 1).to(network.load_device, torch.float32).nan_to_num(0).clamp(0, 1)
        pair = F.interpolate(pair, size, mode="bilinear", antialias=True) * 2 - 1
        with torch.no_grad():
            forward, backward = network.model(pair, pair.flip(0))[-1].float().cpu()
        flows.append((completed(forward, hidden[t]), completed(backward, hidden[t + 1])))
    return flows


def network_size(height: int, width: int) -> tuple[int, int]:
    """Height and width of the network's pictures, for frames of a size."""
    ratio = min(1, LONG / max(height, width))
    return tuple(max(SHORT, round(side * ratio / STEP) * STEP) for side in (height, width))


def explains(t: int, pictures: Tensor, known: Tensor, flows: list, motion: Motion) -> bool:
    """Whether flow takes what lies round the hole of frame t to its like in the frames beside it, and the motion of the
    background does not.

    Args:
        pictures, known: As in `colours`.
        flows: As in `propagate`.
    """
    (n, height, width), differences = known.shape, ([], [])
    rows, columns = (masks.grow(~known[t], RING) & known[t]).nonzero(as_tuple=True)
    for s in (t - 1, t + 1):
        pair = flows[min(t, s)] if 0 <= s < n else None
        if pair is None:
            continue
        flow = read(pair[int(s < t)], columns, rows, (height, width))
        ways = (columns + flow[0], rows + flow[1]), warp.move(motion.between(t, s), columns.double(), rows.double())
        inside = _inside(*ways[0], width, height) & _inside(*ways[1], width, height)
        places = [Places(x, y, torch.full_like(rows, s), flow) for x, y in ways]
        (ours, shown), (theirs, too) = (colours(pictures, known, place, inside) for place in places)
        both, here = shown & too, pictures[t, rows, columns]
        for all_of_them, values in zip(differences, (ours, theirs), strict=True):
            if both.any():
                values = exposure(here[both], values[both]).applied(values[both])
                all_of_them.append((values - here[both]).abs().amax(1))
    medians = [torch.cat(parts).median() for parts in differences if parts]
    return len(medians) > 0 and bool(medians[0] < CLEARLY * medians[1])


def fill(
    network: ModelPatcher,
    pictures: Tensor,
    holes: Tensor,
    left: Tensor,
    motion: Motion,
    everywhere: bool,
    reach: int,
    grow: int,
    progress: Callable[[int], None] = ignore,
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Fills what the motion of the background left, and what moves otherwise.

    Args:
        pictures: (n, H, W, 3), the original frames.
        holes, left: bool (n, H, W), and what is left of them.
        everywhere: Also fill what is not left, in frames where flow `explains` more than the motion of the background.
        reach, grow: As in `fill_from_frames.fill`.
        progress: Called once per pair of frames.

    Yields:
        For each frame with pixels that are filled: its number, a picture (H, W, 3), and bool (H, W), those pixels.
    """
    holes, left, originals = holes.cpu(), left.cpu(), pictures.cpu()
    known = torch.stack([grown_known(hole, selected_box(hole), grow) for hole in holes])
    flows = measure(network, pictures, ~known, motion, progress)
    both, brightness = propagate(~known, flows, progress=progress), Brightness(originals, known, flows)
    for t, ways in enumerate(zip(*both, strict=True)):
        progress(0)
        ways = [places for places in ways if places is not None]
        rows, columns = (~known[t]).nonzero(as_tuple=True)
        wanted = left[t, rows, columns]
        if everywhere and ways and explains(t, originals, known, flows, motion):
            wanted = holes[t, rows, columns]
        if not ways or not wanted.any():
            continue
        near = [wanted & (way.source >= 0) & ((way.source - t).abs() <= reach) for way in ways]
        values, shown = zip(*(colours(originals, known, *way) for way in zip(ways, near, strict=True)), strict=True)
        values = [brightness.matched(*way, t) for way in zip(values, ways, shown, strict=True)]
        shown = torch.stack(shown)
        worth = weights(torch.stack([way.errors for way in ways]), shown).to(originals)
        seen = shown.any(0)
        mixed = (worth[..., None] * torch.stack(values)).sum(0)
        filled, new = originals[t].clone(), torch.zeros_like(holes[t])
        filled[rows[seen], columns[seen]], new[rows[seen], columns[seen]] = mixed[seen], True
        yield t, filled.to(pictures), new.to(pictures.device)
