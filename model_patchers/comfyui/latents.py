"""Latents of pictures, from a VAE that may belong to another model."""

from comfy.sd import VAE
from torch import Tensor


def encode_sd(vae: VAE, picture: Tensor, node: str, belonging: str) -> Tensor:
    """The VAE's mean, unscaled, as Stable Diffusion's models take it: (B, H, W, 3) -> (B, 4, H / 8, W / 8).

    Args:
        node: Its display name, for messages.
        belonging: Names the VAE to connect, for messages.

    Raises:
        ValueError: The VAE is of another family: its latents have other channels, or another size.
    """
    latent = vae.encode(picture)
    expected = (4, picture.shape[1] // 8, picture.shape[2] // 8)
    if tuple(latent.shape[1:]) != expected:
        raise ValueError(
            f"vae makes {tuple(latent.shape[1:])} of a picture of {picture.shape[2]} x {picture.shape[1]}, and {node} "
            f"needs a latent of {expected}: 4 channels, an eighth of the height and the width. Connect {belonging}."
        )
    return latent
