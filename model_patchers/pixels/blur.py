"""Gaussian blurs."""

import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor


def gaussian(x: Tensor, sigma: float, radius: int, border: str) -> Tensor:
    """x (..., H, W) blurred with the weights exp(-d^2 / (2 sigma^2)), |d| <= radius, divided by their sum.

    Args:
        x: Its dtype and device are those of the arithmetic.
        sigma: Standard deviation in pixels, above 0.
        radius: The reach of the kernel in pixels.
        border: Of F.pad: "constant" puts zeros outside, "reflect" mirrors the picture about its outermost pixels.
    """
    d = torch.arange(-radius, radius + 1, dtype=torch.float64)
    kernel = torch.exp(-(d**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).to(x)
    y = F.pad(x.reshape(-1, 1, *x.shape[-2:]), [radius] * 4, mode=border)
    return F.conv2d(F.conv2d(y, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1)).reshape(x.shape)


def opencv(values: Tensor, pixels: int) -> Tensor:
    """Values blurred as by OpenCV's GaussianBlur with a kernel of 2 `pixels` + 1.

    OpenCV takes the standard deviation from the size of the kernel: 0.3 (pixels - 1) + 0.8. The values are mirrored
    about the outermost pixels as often as the kernel needs (OpenCV's BORDER_REFLECT_101). The weights sum to 1 in
    float64, so flat areas keep their values exactly. (Up to a kernel of 9 OpenCV takes the weights from tables, which
    differ from these by 0.022 at most.)

    Args:
        values: (N,) or (H, W).
        pixels: Radius of the kernel; 0 changes nothing.

    Returns:
        New values of the same shape, dtype and device.
    """
    array = values.cpu().double().numpy()  # some devices have no float64
    return torch.from_numpy(ndimage.gaussian_filter(array, 0.3 * pixels + 0.5, mode="mirror", radius=pixels)).to(values)
