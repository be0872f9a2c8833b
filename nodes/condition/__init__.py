from . import diffusers_unet, ic_light, inspect_model, instruct_pix2pix, sd2_depth, sd_x4, unclip

NODES = [
    *inspect_model.NODES,
    *diffusers_unet.NODES,
    *instruct_pix2pix.NODES,
    *unclip.NODES,
    *sd_x4.NODES,
    *sd2_depth.NODES,
    *ic_light.NODES,
]
