"""Nodes for clips: a batch of pictures, or a VIDEO that is read a few frames at a time."""

from . import sam2

NODES = [*sam2.NODES]
