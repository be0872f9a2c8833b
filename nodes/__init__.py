"""What each node takes and gives. One file per feature; each ends in NODES."""

from . import (
    depth_conditioning,
    fill_without_model,
    ic_light,
    inspect_model,
    instruct_pix2pix,
    lama,
    load_concat_unet,
    magic_wand,
    pick_points,
    sam,
    sam_everything,
    sd_x4,
    tune_mask,
    unclip,
)

NODES = [
    *pick_points.NODES,
    *sam.NODES,
    *sam_everything.NODES,
    *magic_wand.NODES,
    *tune_mask.NODES,
    *lama.NODES,
    *fill_without_model.NODES,
    *inspect_model.NODES,
    *load_concat_unet.NODES,
    *instruct_pix2pix.NODES,
    *unclip.NODES,
    *sd_x4.NODES,
    *depth_conditioning.NODES,
    *ic_light.NODES,
]
