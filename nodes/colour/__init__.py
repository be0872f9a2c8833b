"""Nodes for tones and colours: of finished pictures, and of latents while they are sampled."""

from . import exposure_brackets, exposure_fusion

NODES = [
    *exposure_brackets.NODES,
    *exposure_fusion.NODES,
]
