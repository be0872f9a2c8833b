"""Nodes that score finished pictures."""

from . import score_image

NODES = [*score_image.NODES]
