"""What each node takes and gives: a folder for each category of the menu, a file for each feature."""

from . import colour, condition, edit, fill, grid, inputs, prompt, sample, score, segment, upscale, video

AREAS = segment, fill, edit, condition, prompt, sample, colour, upscale, video, grid, score
NODES = [inputs.complete(node) for area in AREAS for node in area.NODES]
