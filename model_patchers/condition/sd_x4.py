"""Stable Diffusion's x4 upscaler: the small picture, with noise of a chosen level, is concatenated to the latent."""

import copy
from functools import partial

import torch
from comfy import model_management
from comfy.conds import CONDNoiseShape, CONDRegular
from comfy.ldm.modules.diffusionmodules.model import Decoder, normal_attention
from comfy.ldm.modules.diffusionmodules.util import make_beta_schedule
from comfy.model_patcher import ModelPatcher
from comfy.sd import VAE
from torch import Tensor

from ..comfyui.conditioning import Conditioning, Needs, feed, needs
from ..comfyui.kinds import X4_PIXELS, fitting
from ..comfyui.schedule import seeded
from ..pixels.images import to_rgb

NODE = "SD x4 Conditioning"
MAX_LEVEL = 350  # max_noise_level in x4-upscaling.yaml, of the schedule's 1000 levels
WORKSPACE = 1.2  # factor for the convolutions' workspace and the allocator's rounding
AMD = 2.73  # ComfyUI's VAE_KL_MEM_RATIO: the factor on AMD cards


def alphas_cumprod() -> Tensor:
    """abar of the noise on the small picture, (1000,) float64: LDM's "linear" schedule, which is linear in sqrt(beta).

    From 1e-4 to 2e-2, as in configs/stable-diffusion/x4-upscaling.yaml and ldm's make_beta_schedule.
    """
    return torch.cumprod(1 - make_beta_schedule("linear", 1000, 1e-4, 2e-2), 0)


def q_sample(x: Tensor, level: int, noise: Tensor) -> Tensor:
    """`sqrt(abar_t) x + sqrt(1 - abar_t) noise`, Ho et al. 2020, eq. 4. Level 0 has noise of spread 0.01."""
    abar = float(alphas_cumprod()[level])
    return abar**0.5 * x + (1 - abar) ** 0.5 * noise


def condition(
    positive: Conditioning, negative: Conditioning, image: Tensor, noise_level: int, noise_seed: int
) -> tuple[Conditioning, Conditioning, Tensor]:
    """Both prompts with the noised picture and its level, and the empty latent to denoise.

    The latent has the picture's size, and the decoded picture four times that. ComfyUI's network takes every size, so
    nothing is padded or cropped.

    Args:
        positive, negative: Conditionings.
        image: (B, H, W, C) in [0, 1], C = 1, 3 or 4; an alpha channel is dropped.
        noise_level: 0 ... MAX_LEVEL.
        noise_seed: Of the noise on the picture. The sampler's seed does not matter for it.

    Returns:
        Both conditionings, and zeros (B, 4, H, W).
    """
    x = 2 * to_rgb(image).movedim(-1, 1).float() - 1  # (B, 3, H, W)
    noise = seeded(noise_seed, x.shape).to(x.device)
    inputs = partial(model_inputs, q_sample(x, noise_level, noise), noise_level)
    wants = Needs(fitting(NODE), NODE, tuple(x.shape[2:]), pictures=len(x))
    positive, negative = (feed(needs(prompt, wants), inputs) for prompt in (positive, negative))
    return positive, negative, x.new_zeros(len(x), 4, *x.shape[2:])


def model_inputs(
    noised: Tensor, level: int, condition: dict, model: ModelPatcher, device: torch.device
) -> dict[str, CONDRegular]:
    """The denoiser's inputs beside latent and text: the noised picture (B, 3, H, W) and its level. See `feed`."""
    y = torch.tensor([level], device=device)
    return {"c_concat": CONDNoiseShape(noised.to(device)), "y": CONDRegular(y)}


def decode_memory(
    shape: tuple[int, ...], dtype: torch.dtype, ch: int = 128, split: bool = False, workspace: float = WORKSPACE
) -> float:
    """Bytes that decoding one latent takes beside the weights.

    ComfyUI's own estimate for KL VAEs counts 64 pixels for each pixel of the latent; this VAE has 16.

    The peak is in the first block at full size, which goes from 2 ch channels to ch. For each pixel of the result, the
    block's input (2 ch), the normed input (2 ch) and the first convolution's result (ch) are alive. ComfyUI's loop also
    holds the input of the upsampling: 4 ch channels on a sixteenth of the pixels (ch / 4). Together: 5.25 ch.

    The attention at the latent's size, of n pixels, needs less if it is computed without its n x n matrix (PyTorch,
    xformers). ComfyUI's split attention holds rows of the matrix twice, before and after scaling, beside six tensors of
    4 ch channels: the latent, its normed form, q, k, v and the result. It divides the rows into 2, 4, ... 128 equal
    parts to fit the free memory, if n is divisible by that number. The estimate is for the most parts.

    Args:
        shape: (B, 4, h, w) of the latent. B is ignored: ComfyUI divides the free memory by this estimate.
        dtype: Of the VAE.
        ch: The decoder's channels at full size.
        split: The VAE uses ComfyUI's split attention (CPU, AMD, Apple).
        workspace: A factor for memory that is not in tensors.
    """
    n = shape[-2] * shape[-1]
    elements = 5.25 * ch * X4_PIXELS**2 * n
    if split:
        parts = min(n & -n, 128)  # n & -n: the largest power of two that divides n
        elements = max(elements, 2 * n * n / parts + 6 * 4 * ch * n)
    return elements * dtype.itemsize * workspace


def with_decode_estimate(vae: VAE) -> VAE:
    """A copy of the VAE with `decode_memory` in place of ComfyUI's estimate.

    Raises:
        ValueError: The VAE is not the x4 upscaler's.
    """
    vae.throw_exception_if_invalid()
    decoder = getattr(vae.first_stage_model, "decoder", None)
    factor = vae.spacial_compression_decode()
    if not isinstance(decoder, Decoder) or factor != X4_PIXELS:
        raise ValueError(
            f"{NODE} got in vae a {type(vae.first_stage_model).__name__} that makes {factor} x {factor} pixels of a "
            f"latent pixel, and needs the x4 upscaler's own VAE, an AutoencoderKL that makes {X4_PIXELS} x {X4_PIXELS}."
            " Connect the VAE that comes with x4-upscaler-ema.safetensors, or leave vae empty."
        )
    copied = copy.copy(vae)
    copied.memory_used_decode = partial(
        decode_memory,
        ch=decoder.ch,
        split=decoder.mid.attn_1.optimized_attention is normal_attention,
        workspace=WORKSPACE * AMD if model_management.is_amd() else WORKSPACE,
    )
    return copied
