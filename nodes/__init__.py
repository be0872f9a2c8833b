"""What each node takes and gives: a folder for each category of the menu, a file for each feature."""

from . import condition, edit, fill, prompt, segment, upscale

NODES = [*segment.NODES, *fill.NODES, *edit.NODES, *condition.NODES, *prompt.NODES, *upscale.NODES]
