"""Nodes for clips: a batch of pictures, or a VIDEO that is read a few frames at a time."""

from . import key_frame, sam2, track

NODES = [*sam2.NODES, *key_frame.NODES, *track.NODES]
