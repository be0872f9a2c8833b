"""Gaussian blurs."""

import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor


def gaussian(x: Tensor, sigma: float, radius: int, border: str) -> Tensor:
    """Blurs by a Gaussian of 2 `radius` + 1 pixels whose weights sum to 1: (..., H, W), in the arithmetic of x.

    Args:
        sigma: Standard deviation in pixels, above 0.
        border: "constant" (zeros beyond the border) or "reflect" (mirrored about the outermost pixels), as F.pad.
    """
    d = torch.arange(-radius, radius + 1, dtype=torch.float64)
    kernel = torch.exp(-(d**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).to(x)
    y = F.pad(x.reshape(-1, 1, *x.shape[-2:]), [radius] * 4, mode=border)
    return F.conv2d(F.conv2d(y, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1)).reshape(x.shape)


def opencv(values: Tensor, pixels: int) -> Tensor:
    """Gaussian blur of masks, or of a line of one, as OpenCV's GaussianBlur does it with a kernel of 2 `pixels` + 1.

    The standard deviation is OpenCV's own for such a kernel, 0.3 (pixels - 1) + 0.8, and nothing further away than
    `pixels` counts. The picture is mirrored about its outermost pixels, as often as the kernel needs it (OpenCV's
    BORDER_REFLECT_101). The weights sum to 1 in float64: flat parts stay exactly as they are. (Up to a kernel of 9,
    OpenCV has weights ready-made, which differ from these by 0.022 at most.)

    Args:
        values: (N,) or (H, W).
        pixels: The kernel's radius; 0 changes nothing.

    Returns:
        New values of the same shape, dtype and device.
    """
    array = values.double().cpu().numpy()
    return torch.from_numpy(ndimage.gaussian_filter(array, 0.3 * pixels + 0.5, mode="mirror", radius=pixels)).to(values)
