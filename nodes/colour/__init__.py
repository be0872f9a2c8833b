"""Nodes for tones and colours: of finished pictures, and of latents while they are sampled."""

from . import detail_tuner, exposure_brackets, exposure_fusion, latent_grade, vae_saturation

NODES = [
    *exposure_brackets.NODES,
    *exposure_fusion.NODES,
    *latent_grade.NODES,
    *detail_tuner.NODES,
    *vae_saturation.NODES,
]
