"""Alignment of two pictures by their enhanced correlation coefficient, which gain and offset do not change.

Evangelidis and Psarakis, "Parametric image alignment using enhanced correlation coefficient maximization", TPAMI 30,
2008: the forward additive algorithm, eqs 18 to 23. Tukey's weights take out what moves in another way.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from . import warp
from .blur import gaussian

BASES = {  # {number of parameters: the entries of the matrix (h11 ... h32) that each one moves}
    2: [{2: 1}, {5: 1}],
    4: [{0: 1, 4: 1}, {1: -1, 3: 1}, {2: 1}, {5: 1}],
    6: [{i: 1} for i in range(6)],
    8: [{i: 1} for i in range(8)],
}
TUKEY = 4.685 * 1.4826  # times the median of the absolute residuals
LEAST = 0.25 / 255  # median below which residuals are rounding alone
FEW = 100  # points that both pictures must show
CORRELATED = 10  # neighbouring pixels err alike: a point counts as this part of an independent one
WORST = 0.1  # residual at which one point's share ends
KERNEL = 2  # pixels that the blur before the alignment reaches


class View(NamedTuple):
    """A picture as the alignment reads it: (4, H, W), its blurred luma, both derivatives of it, and what is known."""

    planes: Tensor

    @classmethod
    def of(cls, luma: Tensor, known: Tensor) -> "View":
        """
        Args:
            luma: (H, W). Unknown pixels may have any finite value.
            known: bool (H, W).
        """
        smooth = gaussian(luma, 1.0, KERNEL, "reflect") if min(luma.shape) > KERNEL else luma
        padded = F.pad(smooth[None, None], (1, 1, 1, 1), mode="replicate")[0, 0]
        across, down = (padded[1:-1, 2:] - padded[1:-1, :-2]) / 2, (padded[2:, 1:-1] - padded[:-2, 1:-1]) / 2
        reach = 2 * KERNEL + 3  # of the blur and the derivatives
        unknown = F.max_pool2d((~known).float()[None, None], reach, 1, reach // 2)[0, 0]
        return cls(torch.stack((smooth, across, down, 1 - unknown)))

    def points(self, most: int = 60_000) -> tuple[Tensor, Tensor, Tensor]:
        """Coordinates x, y and luma of the known pixels, (N,) each. Of many, the steepest of each 2 x 2."""
        luma, across, down, known = self.planes
        chosen = known > 0.5
        if chosen.numel() > most:
            steep = torch.where(chosen, across**2 + down**2, -1)
            _, place = F.max_pool2d(steep[None, None], 2, return_indices=True)
            chosen = chosen & torch.zeros_like(chosen).flatten().index_fill(0, place.flatten(), True).view_as(chosen)
        y, x = chosen.nonzero(as_tuple=True)
        return x.float(), y.float(), luma[y, x]


@dataclass(frozen=True)
class Fit:
    """How well a matrix aligns two pictures.

    Attributes:
        matrix: float64 (3, 3), from the template's pixels to the image's.
        residual: Mean absolute difference after gain and offset; one point counts at most WORST.
        correlation: Of the points that Tukey's weights leave, -1 ... 1.
        uncertainty: Standard deviation of the corners, in pixels; 0 for a matrix that was not fitted.
    """

    matrix: np.ndarray
    residual: float
    correlation: float
    uncertainty: float


def align(
    template: View,
    image: View,
    start: np.ndarray,
    parameters: int,
    robust: bool = True,
    steps: int = 30,
    enough: float = 2e-3,
) -> Fit | None:
    """The motion from the template to the image that starts at `start`; None if they share too little.

    Args:
        start: float64 (3, 3).
        parameters: 0 measures `start`; 2 is a shift, 4 a similarity, 6 affine, 8 a homography.
        robust: With Tukey's weights.
        steps: At most.
        enough: Movement of the corners in pixels that ends the steps.
    """
    height, width = template.planes.shape[-2:]
    x, y, t = template.points()
    centre, unit = ((width - 1) / 2, (height - 1) / 2), max(width, height) / 2
    to_unit = np.array([[1, 0, -centre[0]], [0, 1, -centre[1]], [0, 0, unit]]) / unit
    from_unit = np.linalg.inv(to_unit)
    corners = to_unit @ np.array([[0, width - 1, 0, width - 1], [0, 0, height - 1, height - 1], [1, 1, 1, 1]])
    x, y = (x - centre[0]) / unit, (y - centre[1]) / unit
    matrix = to_unit @ start @ from_unit
    matrix /= matrix[2, 2]
    basis = _basis(parameters)
    weights, uncertainty, moved = torch.ones_like(t), 0.0, float("inf")
    for step in range(steps + 1):
        u, v = warp.move(matrix, x, y)
        i, ix, iy, known = warp.bilinear(image.planes, u * unit + centre[0], v * unit + centre[1])
        known = known > 0.999
        if known.sum() < FEW:
            return None
        w = weights * known
        residual = _residual(t, i, w)
        if robust:
            weights = _tukey(residual, known)
            w = weights * known
        total = w.sum()
        i, t0 = i - (w * i).sum() / total, t - (w * t).sum() / total  # zero mean
        if step == (steps if parameters else 0) or moved < enough:
            break
        gradient = _steepest(matrix, basis, x, y, u, v, ix * unit, iy * unit)  # (k, N)
        gradient = gradient - (gradient @ w)[:, None] / total
        weighted = gradient * w
        hessian, image_part, template_part = (
            part.cpu().double().numpy() for part in (weighted @ gradient.T, weighted @ i, weighted @ t0)
        )
        try:
            inverse = np.linalg.inv(hessian)
        except np.linalg.LinAlgError:  # a picture without any edge
            return None
        ii, ti = float((w * i * i).sum()), float((w * t0 * i).sum())
        denominator = ti - template_part @ inverse @ image_part
        if denominator <= 0:  # eq 23: the pictures are not alike here
            return None
        gain = (ii - image_part @ inverse @ image_part) / denominator
        change = basis.numpy() @ (inverse @ (gain * template_part - image_part))
        variance = float((w * (gain * t0 - i) ** 2).sum() / total)
        before = _project(matrix, corners)
        jacobian = _corner_jacobian(matrix, corners, basis.numpy())
        spread = np.einsum("nik,kl,nil->n", jacobian, inverse * variance * CORRELATED, jacobian)
        uncertainty = unit * float(np.sqrt(max(spread.max(), 0)))
        matrix = matrix + np.append(change, 0).reshape(3, 3)
        moved = unit * float(np.abs(_project(matrix, corners) - before).max())
        if not moved < max(width, height):  # it runs away
            return None
    loss = float(residual[known].abs().clamp_max(WORST).mean())
    scale = float((w * i * i).sum() * (w * t0 * t0).sum()) ** 0.5
    correlation = float((w * t0 * i).sum()) / scale if scale > 1e-9 * float(total) else 1.0
    matrix = from_unit @ matrix @ to_unit
    return Fit(matrix / matrix[2, 2] if parameters else start, loss, correlation, uncertainty)


def _basis(parameters: int) -> Tensor:
    basis = torch.zeros(8, parameters)
    for column, entries in enumerate(BASES.get(parameters, [])):
        for row, sign in entries.items():
            basis[row, column] = sign
    return basis


def _residual(t: Tensor, i: Tensor, w: Tensor) -> Tensor:
    """The template minus the image after the gain and the offset that bring them closest."""
    total = w.sum()
    t_mean, i_mean = (w * t).sum() / total, (w * i).sum() / total
    t, i = t - t_mean, i - i_mean
    gain = (w * t * i).sum() / (w * i * i).sum().clamp_min(1e-12)
    return t - gain * i


def _tukey(residual: Tensor, known: Tensor) -> Tensor:
    limit = TUKEY * residual[known].abs().median().clamp_min(LEAST)
    return (1 - (residual / limit) ** 2).clamp_min(0) ** 2


def _steepest(
    matrix: np.ndarray, basis: Tensor, x: Tensor, y: Tensor, u: Tensor, v: Tensor, ix: Tensor, iy: Tensor
) -> Tensor:
    """The image's derivatives with respect to the parameters: (k, N)."""
    w = matrix[2, 0] * x + matrix[2, 1] * y + 1
    ix, iy = ix / w, iy / w
    last = ix * u + iy * v
    entries = torch.stack((ix * x, ix * y, ix, iy * x, iy * y, iy, -last * x, -last * y))
    return basis.T.to(entries) @ entries


def _project(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    moved = matrix @ points
    return moved[:2] / moved[2]


def _corner_jacobian(matrix: np.ndarray, corners: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """Derivatives (4, 2, k) of the corners' positions with respect to the parameters."""
    (x, y, _), (u, v), w = corners, _project(matrix, corners), matrix[2] @ corners
    zero, one = np.zeros(4), np.ones(4)
    entries = np.array([[x, y, one, zero, zero, zero, -u * x, -u * y], [zero, zero, zero, x, y, one, -v * x, -v * y]])
    return (entries / w).transpose(2, 0, 1) @ basis
