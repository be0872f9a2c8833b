"""What each node takes and gives. One file per feature; each ends in NODES."""

from . import fill_without_model, lama, magic_wand, tune_mask

NODES = [
    *magic_wand.NODES,
    *tune_mask.NODES,
    *lama.NODES,
    *fill_without_model.NODES,
]
