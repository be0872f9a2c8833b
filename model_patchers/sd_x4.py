"""Stable Diffusion's x4 upscaler: the small picture, with noise of a known level, is concatenated to the latent."""

from functools import partial

import torch
from comfy import model_management
from comfy.conds import CONDNoiseShape, CONDRegular
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from .images import to_rgb
from .model_kinds import Conditioning
from .supply import supplying

NODE = "SD x4 Conditioning"
MAX_LEVEL = 350  # max_noise_level in x4-upscaling.yaml; the schedule has 1000


def alphas_cumprod() -> Tensor:
    """abar of the noise on the small picture: LDM's "linear" schedule from 1e-4 to 2e-2, which is linear in sqrt(beta).

    configs/stable-diffusion/x4-upscaling.yaml and ldm's make_beta_schedule. (1000,), float64.
    """
    return torch.cumprod(1 - torch.linspace(1e-4**0.5, 2e-2**0.5, 1000, dtype=torch.float64) ** 2, 0)


def q_sample(x: Tensor, level: int, noise: Tensor) -> Tensor:
    """`sqrt(abar_t) x + sqrt(1 - abar_t) noise`, Ho et al. 2020, eq. 4. Level 0 has a little noise too: 0.01."""
    abar = float(alphas_cumprod()[level])
    return abar**0.5 * x + (1 - abar) ** 0.5 * noise


def condition(
    positive: Conditioning, negative: Conditioning, image: Tensor, noise_level: int, noise_seed: int
) -> tuple[Conditioning, Conditioning, Tensor]:
    """Both prompts, each with the same noised picture and its level, and the empty latent to denoise.

    The latent has the picture's size, and the decoded picture four times that: the host's network takes every size, so
    nothing is padded and nothing has to be cut off.

    Args:
        positive, negative: Conditionings.
        image: (B, H, W, C) in [0, 1], C = 1, 3 or 4; an alpha channel is dropped.
        noise_level: 0 ... MAX_LEVEL.
        noise_seed: Of the noise on the picture; the sampler's seed has no say in it.

    Returns:
        Both conditionings, and zeros (B, 4, H, W).
    """
    x = 2 * to_rgb(image).movedim(-1, 1).float() - 1  # (B, 3, H, W)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(noise_seed)).to(x.device)
    given = partial(supply, q_sample(x, noise_level, noise), noise_level)
    terms = {"names": ("sd-x4",), "node": NODE, "size": tuple(x.shape[2:]), "pictures": len(x)}
    positive, negative = (supplying(prompt, given, **terms) for prompt in (positive, negative))
    return positive, negative, torch.zeros(len(x), 4, *x.shape[2:], device=model_management.intermediate_device())


def supply(
    noised: Tensor, level: int, condition: dict, model: ModelPatcher, device: torch.device
) -> dict[str, CONDRegular]:
    """What the denoiser sees beside latent and text: the noised picture (B, 3, H, W) and its level."""
    y = torch.tensor([level], device=device)
    return {"c_concat": CONDNoiseShape(noised.to(device)), "y": CONDRegular(y)}
