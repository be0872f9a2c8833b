"""Stable Diffusion 2 depth: the depth map is concatenated to the latent as the denoiser's fifth channel."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..comfyui.conditioning import Conditioning, Needs, both, needs
from ..comfyui.kinds import fitting
from ..pixels.images import luma_sum

NODE = "SD2 Depth Conditioning"
FLAT = 1e-5  # of the largest depth: a constant picture has a smaller span after it is resized


def depth_channel(depth: Tensor, height: int, width: int, invert: bool = False) -> Tensor:
    """The depth for the denoiser: resized to the latent, then each picture stretched to -1 (far) ... 1 (near).

    `2 (d - min) / (max - min) - 1`, LatentDepth2ImageDiffusion.get_input and scripts/gradio/depth2img.py of Stability's
    stablediffusion. A picture of one depth becomes -1, as in training, where 0.001 is added to the span max - min.

    Args:
        depth: (B, H, W, C), C = 1, 3 or 4, in any unit; larger is nearer.
        height, width: Of the latent.
        invert: True: smaller is nearer, as in metric depth.

    Returns:
        (B, 1, height, width), float32.

    Raises:
        ValueError: A picture has no finite depth.
    """
    d = luma_sum(measured(depth, invert))[:, None]  # (B, 1, H, W)
    d = F.interpolate(d, (height, width), mode="bicubic", align_corners=False)
    low, high = d.amin((1, 2, 3), keepdim=True), d.amax((1, 2, 3), keepdim=True)
    span = high - low
    flat = span <= FLAT * d.abs().amax((1, 2, 3), keepdim=True)
    d = 2 * (d - low) / span.masked_fill(flat, 1) - 1
    return (-d if invert else d).masked_fill(flat, -1)


def measured(depth: Tensor, invert: bool) -> Tensor:
    """The depth, (B, H, W, C), with finite numbers only.

    Infinity becomes the largest finite depth of its picture, minus infinity the smallest. NaN, where nothing was
    measured, becomes the farthest, as the sky does in depth maps of cameras.

    Args:
        invert: As for `depth_channel`.

    Raises:
        ValueError: A picture has no finite depth.
    """
    if depth.sum().isfinite():
        return depth
    finite = depth.isfinite()
    if (blank := ~finite.flatten(1).any(1)).any():
        raise ValueError(
            f"{NODE}: depth has no finite number in picture {int(blank.int().argmax()) + 1}. Such a picture comes from "
            "a model that overflows in half precision: run the node that makes depth in fp32."
        )
    low = depth.masked_fill(~finite, torch.inf).amin((1, 2, 3), keepdim=True)
    high = depth.masked_fill(~finite, -torch.inf).amax((1, 2, 3), keepdim=True)
    return torch.where(depth.isnan(), high if invert else low, depth.clamp(low, high))


def condition(
    positive: Conditioning, negative: Conditioning, samples: Tensor, depth: Tensor, invert: bool = False
) -> tuple[Conditioning, Conditioning]:
    """Both prompts with the depth for the latent `samples`. Only the SD2 depth model takes them.

    Args:
        positive, negative: Conditionings.
        samples: (N, 4, h, w), the latent that will be denoised.
        depth: (B, H, W, C), B = 1 or N.
        invert: As in `depth_channel`.

    Raises:
        ValueError: The latent has another number of dimensions, or the numbers do not match.
    """
    if samples.ndim != 4:
        raise ValueError(
            f"{NODE}: latent has the shape {tuple(samples.shape)}, but the SD2 depth model denoises pictures: "
            "(batch, 4, height, width). Connect Empty Latent Image or VAE Encode."
        )
    if depth.shape[0] not in (1, samples.shape[0]):
        raise ValueError(
            f"{NODE}: depth is a batch of {depth.shape[0]} but latent is a batch of {samples.shape[0]}. "
            "Connect one depth picture for all, or one for each picture of the latent."
        )
    size = tuple(samples.shape[2:])
    prompts = both((positive, negative), {"noise_concat": depth_channel(depth, *size, invert)})
    wants = Needs(fitting(NODE), NODE, size, pictures=len(depth))
    return tuple(needs(prompt, wants) for prompt in prompts)
