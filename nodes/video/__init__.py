"""Nodes for clips: a batch of pictures, or a VIDEO that is read a few frames at a time."""

from . import key_frame, remove_from_video, sam2, track

NODES = [*sam2.NODES, *key_frame.NODES, *track.NODES, *remove_from_video.NODES]
