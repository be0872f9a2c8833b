"""What each node takes and gives. One file per feature; each ends in NODES."""

from . import caption, ella, ella_t5, fill_without_model, lama, magic_wand, pick_points, sam, sam_everything, tune_mask

NODES = [
    *pick_points.NODES,
    *sam.NODES,
    *sam_everything.NODES,
    *magic_wand.NODES,
    *tune_mask.NODES,
    *lama.NODES,
    *fill_without_model.NODES,
    *ella.NODES,
    *ella_t5.NODES,
    *caption.NODES,
]
