"""Nodes for tones and colours: of finished pictures, and of latents while they are sampled."""

from . import detail_tuner, latent_grade, vae_saturation

NODES = [
    *latent_grade.NODES,
    *detail_tuner.NODES,
    *vae_saturation.NODES,
]
