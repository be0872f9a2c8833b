"""Exposure brackets of one picture: what a camera would have recorded with other exposure times.

The picture is decoded to linear light by sRGB's transfer function (IEC 61966-2-1), multiplied by 2^stops, and encoded.
"""

import torch
from torch import Tensor

FEWEST, MOST = 2, 9


def brackets(image: Tensor, count: int, stops: float) -> Tensor:
    """Exposures of a picture, the darkest first: (1, H, W, C) -> (count, H, W, C) in [0, 1].

    Args:
        image: Its values above 1 are light that the darker exposures show. An alpha channel stays.
        count: The exposures lie evenly around the picture's own, which is among them where the count is odd.
        stops: Between neighbours; each stop doubles the light.

    Raises:
        ValueError: There are several pictures.
    """
    if len(image) > 1:
        raise ValueError(
            f"image is a batch of {len(image)} pictures, but Exposure Brackets takes one. Choose one with Get Image "
            "from Batch."
        )
    exposures = image.expand(count, -1, -1, -1).contiguous()
    linear = decoded(image[0, ..., :3])
    for index, exposure in enumerate(exposures):
        if shift := stops * (index - (count - 1) / 2):
            exposure[..., :3] = encoded(linear * 2**shift)
    exposures[..., :3].clamp_(0, 1)
    return exposures


def decoded(encoded: Tensor) -> Tensor:
    """Linear light of sRGB values. Values below 0 become 0."""
    encoded = encoded.clamp(min=0)
    return torch.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)


def encoded(linear: Tensor) -> Tensor:
    """sRGB values of linear light, which is not below 0."""
    return torch.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
