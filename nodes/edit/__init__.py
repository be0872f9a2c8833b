from . import change_map, compare, crop_to_mask, detailer, differential_img2img, outpaint_canvas, restore_face

NODES = [
    *crop_to_mask.NODES,
    *change_map.NODES,
    *differential_img2img.NODES,
    *detailer.NODES,
    *restore_face.NODES,
    *outpaint_canvas.NODES,
    *compare.NODES,
]
