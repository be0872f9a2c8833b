"""What each node takes and gives: a folder for each category of the menu, a file for each feature."""

from . import condition, edit, fill, inputs, prompt, segment, upscale, video

AREAS = segment, fill, edit, condition, prompt, upscale, video
NODES = [inputs.complete(node) for area in AREAS for node in area.NODES]
