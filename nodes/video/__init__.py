"""Nodes for clips: a batch of pictures, or a VIDEO that is read a few frames at a time."""

from . import ostrack, sam2, sttn

NODES = [*sam2.NODES, *ostrack.NODES, *sttn.NODES]
