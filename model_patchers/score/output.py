"""How a node that scores hands its numbers to a grid: as a part of its output in ComfyUI's history."""

NAME = "pentimento_scores"
"""Of that part: a list of {name of a score: number}, one for each time that the node ran."""
