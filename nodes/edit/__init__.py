from . import change_map, compare, crop_to_mask, detailer, differential_img2img, outpaint_canvas

NODES = [
    *crop_to_mask.NODES,
    *change_map.NODES,
    *differential_img2img.NODES,
    *outpaint_canvas.NODES,
    *compare.NODES,
    *detailer.NODES,
]
