"""The node that runs a workflow over axes of values."""

from . import grid

NODES = [*grid.NODES]
