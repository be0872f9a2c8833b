"""What each node takes and gives. One file per feature; each ends in NODES."""

from . import fill_without_model, lama, magic_wand, pick_points, sam, tune_mask

NODES = [
    *pick_points.NODES,
    *sam.NODES,
    *magic_wand.NODES,
    *tune_mask.NODES,
    *lama.NODES,
    *fill_without_model.NODES,
]
