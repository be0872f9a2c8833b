"""Nodes that change how a model samples: guidance, symmetry, noise, sizes beyond the training's."""

from . import dynamic_thresholding, hidiffusion, latent_mirror, sampler_history, sampler_options

NODES = [
    *dynamic_thresholding.NODES,
    *latent_mirror.NODES,
    *hidiffusion.NODES,
    *sampler_options.NODES,
    *sampler_history.NODES,
]
