"""Nodes for clips: a batch of pictures, or a VIDEO that is read a few frames at a time."""

from . import fill_from_frames

NODES = [*fill_from_frames.NODES]
