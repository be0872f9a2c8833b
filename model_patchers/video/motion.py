"""The motion of a clip's background, without weights.

Each frame is aligned with the next one, hole left out of both: masked cross-correlation for the start, then ECC from
coarse to fine with more and more parameters. A model with more parameters is taken only where the residual falls and
the picture has enough edges to tell. A chain of these drifts, so a long pair is refined before it is used.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..comfyui.memory import give_back
from ..comfyui.progress import ignore
from ..pixels import images, masks, phase
from ..pixels.boxes import Box
from ..pixels.ecc import Fit, View, align
from .frames import Frames, Masks

MOTIONS = {"auto": 8, "still": 0, "pan": 2, "similarity": 4, "affine": 6, "perspective": 8}  # parameters at most
SMALL = 480  # pixels: the width at which motion is measured, at most
WINDOW = 1 << 25  # bytes of frames that are read at once, at most
MOST = 32  # frames that are read at once
COARSE = 24  # pixels: the shorter side of the coarsest level, at least
OVERLAP = 0.4  # share of the known pixels that a start must share
FALLS = 0.98  # a model with more parameters leaves at most this part of the residual
STILL_FALLS = 0.9  # the same for a shift after none: a camera on a tripod is copied to the bit
ROUNDING = 1e-4  # residual that no model can improve
CERTAIN = 0.25  # pixels: standard deviation of the corners that a model may have
ALIKE, CLOSE = 0.6, 0.03  # correlation below and residual above which two frames are of two scenes


@dataclass(frozen=True)
class Motion:
    """How the background moves through a clip.

    Attributes:
        height, width: Of the frames.
        scale: Pixels of a frame per pixel of the small pictures that are aligned.
        links: float64 (n - 1, 3, 3), homographies from the pixels of frame t to those of t + 1.
        parameters: int (n - 1,), of each link: 0, 2, 4, 6 or 8.
        scenes: int (n,), number of the scene of each frame. Nothing leads from one scene to another.
        holes: int (n, 4), box (x, y, width, height) of each frame's hole; no width for no hole.
    """

    height: int
    width: int
    scale: int
    links: np.ndarray
    parameters: np.ndarray
    scenes: np.ndarray
    holes: np.ndarray

    def __len__(self) -> int:
        return len(self.scenes)

    def between(self, t: int, s: int) -> np.ndarray:
        """The chained homography (3, 3) from frame t's pixels to frame s's, of one scene."""
        matrix = np.eye(3)
        for link in self.links[min(t, s) : max(t, s)]:
            matrix = link @ matrix
        matrix = matrix if t <= s else np.linalg.inv(matrix)
        return matrix / matrix[2, 2]

    def chains(self, t: int, reach: int) -> dict[int, np.ndarray]:
        """`between(t, s)` for all other frames s of t's scene up to `reach` away, the nearest first."""
        chains, matrices = {}, {1: np.eye(3), -1: np.eye(3)}
        for distance in range(1, reach + 1):
            for side in (-1, 1):
                s = t + side * distance
                if 0 <= s < len(self) and self.scenes[s] == self.scenes[t]:
                    link = self.links[s - 1] if side > 0 else np.linalg.inv(self.links[s])
                    matrix = link @ matrices[side]
                    chains[s] = matrices[side] = matrix / matrix[2, 2]
        return chains

    def kind(self, t: int, s: int) -> int:
        """Parameters of the motion between two frames."""
        return int(self.parameters[min(t, s) : max(t, s)].max(initial=0))


def windows(frames: Frames) -> Iterator[slice]:
    """Parts of a clip that are read at once. Nothing depends on their size."""
    step = max(1, min(MOST, WINDOW // (12 * frames.height * frames.width)))
    for start in range(0, len(frames), step):
        yield slice(start, min(start + step, len(frames)))
        give_back()


def estimate(
    frames: Frames, masks: Masks, motion: str = "auto", grow: int = 4, progress: Callable[[int], None] = ignore
) -> Motion:
    """The motion of the background, in one pass over the clip.

    Args:
        motion: A key of MOTIONS. "auto" takes more parameters only where they help; the others take all they name.
        grow: Pixels round the hole that do not count.
        progress: Called once per frame.
    """
    n, scale = len(frames), -(-frames.width // SMALL)
    links, parameters = np.tile(np.eye(3), (max(n - 1, 0), 1, 1)), np.zeros(max(n - 1, 0), int)
    scenes, holes, last = np.zeros(n, int), np.zeros((n, 4), int), None
    for window in windows(frames):
        for t, (picture, mask) in enumerate(zip(frames[window], masks[window], strict=True), window.start):
            hole = selected_box(mask)
            holes[t] = hole
            view = Small(picture, grown_known(mask, hole, grow), scale)
            if last is not None:
                fit, kind = link(last, view, motion)
                scenes[t] = scenes[t - 1] + is_cut(fit)
                links[t - 1], parameters[t - 1] = upscaled(fit.matrix, scale), kind
            last = view
            progress(1)
    return Motion(frames.height, frames.width, scale, links, parameters, scenes, holes)


def selected_box(mask: Tensor) -> Box:
    """The box of what a mask (H, W) selects."""
    hole = masks.selected(mask)
    rows, columns = hole.any(1).nonzero().flatten(), hole.any(0).nonzero().flatten()
    if not len(rows):
        return Box(0, 0, 0, 0)
    top, left = int(rows[0]), int(columns[0])
    return Box(left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top)


def grown_known(mask: Tensor, box: Box, grow: int) -> Tensor:
    """bool (H, W): the pixels outside the hole grown by a disc."""
    known = torch.ones(mask.shape, dtype=torch.bool, device=mask.device)
    if box.width:
        rows, columns = box.expand(grow, mask.shape).slices
        known[rows, columns] = ~masks.grow(masks.selected(mask)[rows, columns], grow)
    return known


class Small:
    """A frame at the width of the alignment: its luma and known pixels, from which the levels are made when needed."""

    def __init__(self, picture: Tensor, known: Tensor, scale: int) -> None:
        luma = images.luma(picture).masked_fill(~known, 0)
        self.known = _shrunk(known.float(), scale) > 0.999
        self.luma = _shrunk(luma, scale).masked_fill(~self.known, 0)

    def levels(self) -> list[View]:
        """From fine to coarse, each half as large."""
        luma, known, levels = self.luma, self.known, []
        while True:
            levels.append(View.of(luma, known))
            if min(luma.shape) < 2 * COARSE:
                return levels
            luma, known = _shrunk(luma, 2), _shrunk(known.float(), 2) > 0.999


def _shrunk(plane: Tensor, scale: int) -> Tensor:
    """Means of scale x scale pixels. A rest at the right and lower border is left out."""
    return F.avg_pool2d(plane[None, None], scale)[0, 0] if scale > 1 and min(plane.shape) >= scale else plane


def upscaled(matrix: np.ndarray, scale: int) -> np.ndarray:
    """A homography between small pictures as one between pictures `scale` times as large."""
    to_large = np.array([[scale, 0, (scale - 1) / 2], [0, scale, (scale - 1) / 2], [0, 0, 1]])
    matrix = to_large @ matrix @ np.linalg.inv(to_large)
    return matrix / matrix[2, 2]


def downscaled(matrix: np.ndarray, scale: int) -> np.ndarray:
    """`upscaled` undone."""
    return upscaled(matrix, 1 / scale)


def link(template: Small, image: Small, motion: str) -> tuple[Fit | None, int]:
    """The motion from one frame to the next and its number of parameters."""
    a, b = template.levels(), image.levels()
    best, kind = align(a[0], b[0], np.eye(3), 0), 0
    for parameters in [p for p in (2, 6, 8) if p < MOTIONS[motion]] + [MOTIONS[motion]]:
        if not parameters:
            continue
        fit = _from_coarse(a, b, None if parameters == 2 else best, parameters)
        if fit is None:
            break
        falls = best is None or fit.residual < best.residual * (FALLS if kind else STILL_FALLS) - ROUNDING * (not kind)
        sure = fit.uncertainty < CERTAIN and falls
        if sure or motion != "auto":
            best, kind = fit, parameters
        elif kind or parameters > 2:
            break
    return best or Fit(np.eye(3), 1.0, 0.0, 0.0), kind


def _from_coarse(a: list[View], b: list[View], start: Fit | None, parameters: int) -> Fit | None:
    """ECC over the levels: all of them from the start of `phase.shift`, or the finer half from an earlier fit."""
    if start is None:
        planes = [level.planes.cpu().numpy() for level in (a[-1], b[-1])]
        known = [plane[3] > 0.5 for plane in planes]
        if not all(part.any() for part in known):
            return None
        x, y = phase.shift(planes[0][0], planes[1][0], *known, OVERLAP)
        matrix, depth = np.array([[1.0, 0, x], [0, 1, y], [0, 0, 1]]), len(a)
        matrix = upscaled(matrix, 2 ** (depth - 1))
    else:
        matrix, depth = start.matrix, min(2, len(a))
    fit = None
    for level in reversed(range(depth)):
        finer = align(a[level], b[level], downscaled(matrix, 2**level), parameters)
        if finer is not None:
            matrix, fit = upscaled(finer.matrix, 2**level), finer
        elif level == 0:
            return None
    return fit


def is_cut(fit: Fit) -> bool:
    """Whether two frames show two scenes."""
    return fit.correlation < ALIKE and fit.residual > CLOSE


def refined(template: Small, image: Small, chain: np.ndarray, kind: int, scale: int) -> np.ndarray | None:
    """The motion of a pair, from the chain of the links between: (3, 3). None where the two are not alike.

    Args:
        kind: Parameters. 0 returns the chain.
    """
    if not kind:
        return chain
    a, b = View.of(template.luma, template.known), View.of(image.luma, image.known)
    start = downscaled(chain, scale)
    before, fit = align(a, b, start, 0), align(a, b, start, kind, steps=12)
    if fit is not None and fit.uncertainty < CERTAIN and (before is None or fit.residual <= before.residual):
        before, chain = fit, upscaled(fit.matrix, scale)
    return None if before is not None and is_cut(before) else chain
