"""Gain and offset between two pictures of one scene, as a camera's automatic exposure changes them."""

from typing import NamedTuple

import torch
from torch import Tensor

LIMITS = 0.8, 1.25  # of the gain
HELPS = 0.9  # gain and offset count if at most this part of the difference remains
TUKEY = 4.685 * 1.4826  # times the median of the differences


class Exposure(NamedTuple):
    """`gain * theirs + offset` is nearest to ours.

    Attributes:
        gain, offset: (3,).
        plain, difference: Medians over the points of the channels' largest difference, before and after.
    """

    gain: Tensor
    offset: Tensor
    plain: float
    difference: float

    @property
    def helps(self) -> bool:
        return self.difference < HELPS * self.plain

    def applied(self, colours: Tensor) -> Tensor:
        """Colours (N, 3) with gain and offset if they help."""
        return self.gain * colours + self.offset if self.helps else colours


def exposure(ours: Tensor, theirs: Tensor) -> Exposure:
    """Least squares per channel, again without what is far off, so that a thing in one picture alone does not count.

    Args:
        ours, theirs: (N, 3), colours of the same points in both pictures.
    """
    plain = (ours - theirs).abs().amax(1)
    weights, gain, offset = torch.ones(len(ours), 1).to(ours), torch.ones(3).to(ours), torch.zeros(3).to(ours)
    for _ in range(3):
        total = weights.sum()
        our_mean, their_mean = (weights * ours).sum(0) / total, (weights * theirs).sum(0) / total
        a, b = ours - our_mean, theirs - their_mean
        ridge = 1e-4 * total  # points of one colour tell no gain
        gain = (((weights * a * b).sum(0) + ridge) / ((weights * b * b).sum(0) + ridge)).clamp(*LIMITS)
        offset = our_mean - gain * their_mean
        difference = (ours - gain * theirs - offset).abs().amax(1)
        limit = TUKEY * difference.median().clamp_min(0.5 / 255)
        weights = (1 - (difference / limit) ** 2).clamp_min(0)[:, None] ** 2
    return Exposure(gain, offset, float(plain.median()), float(difference.median()))
