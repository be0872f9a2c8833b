"""Nodes for tones and colours: of finished pictures, and of latents while they are sampled."""

from . import latent_grade

NODES = [
    *latent_grade.NODES,
]
