"""The node that runs a workflow over axes of values."""

NODES = []
