"""Nodes that change how a model samples: guidance, symmetry, noise, sizes beyond the training's."""

from . import dynamic_thresholding

NODES = [*dynamic_thresholding.NODES]
