from . import magic_wand, mask_boxes, pick_points, sam, sam_everything, tune_mask

NODES = [
    *pick_points.NODES,
    *sam.NODES,
    *sam_everything.NODES,
    *magic_wand.NODES,
    *tune_mask.NODES,
    *mask_boxes.NODES,
]
