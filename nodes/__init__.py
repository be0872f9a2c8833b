"""What each node takes and gives. One file per feature; each ends in NODES."""

from . import (
    change_map,
    crop_to_mask,
    differential_img2img,
    fill_without_model,
    lama,
    magic_wand,
    outpaint_canvas,
    pick_points,
    sam,
    sam_everything,
    tune_mask,
)

NODES = [
    *pick_points.NODES,
    *sam.NODES,
    *sam_everything.NODES,
    *magic_wand.NODES,
    *tune_mask.NODES,
    *lama.NODES,
    *fill_without_model.NODES,
    *crop_to_mask.NODES,
    *change_map.NODES,
    *differential_img2img.NODES,
    *outpaint_canvas.NODES,
]
