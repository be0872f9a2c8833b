"""Nodes for clips: a batch of pictures, or a VIDEO that is read a few frames at a time."""

from . import key_frame, ostrack, sam2, sttn, track

NODES = [*sam2.NODES, *key_frame.NODES, *track.NODES, *ostrack.NODES, *sttn.NODES]
