"""Nodes for clips: a batch of pictures, or a VIDEO that is read a few frames at a time."""

from . import fill_from_frames, key_frame, ostrack, remove_from_video, sam2, sttn, track

NODES = [
    *fill_from_frames.NODES,
    *remove_from_video.NODES,
    *sam2.NODES,
    *key_frame.NODES,
    *track.NODES,
    *ostrack.NODES,
    *sttn.NODES,
]
