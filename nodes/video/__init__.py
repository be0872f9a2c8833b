"""Nodes for clips: a batch of pictures, or a VIDEO that is read a few frames at a time."""

from . import remove_from_video

NODES = [*remove_from_video.NODES]
