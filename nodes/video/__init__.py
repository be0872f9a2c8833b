"""Nodes for clips: a batch of pictures, or a VIDEO that is read a few frames at a time."""

from . import ostrack, sttn

NODES = [*ostrack.NODES, *sttn.NODES]
