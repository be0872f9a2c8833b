"""The saturations of the extension sd-webui-cd-tuner (hako-mikan): scaled convolutions in a VAE's decoder.

With the sliders sat and sat2, the weights of FIRST are multiplied by 1 + 0.075 sat, and those of SECOND by 1 + 0.02
sat2.
"""

import copy

from comfy.sd import VAE

from .detail_tuner import scale

NODE = "VAE Saturation"
FIRST = ("up.1.upsample.conv", "up.0.block.0.nin_shortcut")
SECOND = ("up.3.upsample.conv", "up.2.upsample.conv", "up.1.block.0.nin_shortcut", "conv_in", "conv_out")


def scales(saturation_1: float, saturation_2: float) -> dict[str, float]:
    """{name of a weight in the decoder: its factor}."""
    first = {f"{name}.weight": 1 + 0.075 * saturation_1 for name in FIRST}
    return first | {f"{name}.weight": 1 + 0.02 * saturation_2 for name in SECOND}


def apply(vae: VAE, saturation_1: float, saturation_2: float) -> VAE:
    """A copy of the VAE whose decoder is scaled. The two share their weights until one is loaded.

    Raises:
        ValueError: The VAE is built otherwise than Stable Diffusion's.
    """
    vae.throw_exception_if_invalid()
    factors = {f"decoder.{name}": factor for name, factor in scales(saturation_1, saturation_2).items()}
    weights = vae.patcher.model.state_dict()
    if missing := factors.keys() - weights.keys():
        raise ValueError(
            f"{NODE} got in vae a {type(vae.first_stage_model).__name__} without '{min(missing)}', and scales the "
            f"decoder of Stable Diffusion 1, 2, XL, 3 or Flux. Connect one of their VAEs (not TAESD), or remove {NODE}."
        )
    scaled = copy.copy(vae)
    scaled.patcher = vae.patcher.clone()
    for key, factor in factors.items():
        scale(scaled.patcher, key, factor)
    return scaled
