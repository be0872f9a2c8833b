"""Nodes that change how a model samples: guidance, symmetry, noise, sizes beyond the training's."""

from . import hidiffusion

NODES = [*hidiffusion.NODES]
