"""Pictures and masks, with nothing of ComfyUI. The words and shapes of the whole pack:

image    float (B, H, W, C) in [0, 1], C = 1 (grey), 3 (RGB) or 4 (RGBA)
picture  (H, W, C): one image of a batch
mask     float (B, H, W) in [0, 1], 1 = selected: it says where. A map of the same form says how much
hole     bool (H, W) or (B, H, W): the pixels that a mask selects, by masks.selected
Box      half-open: holds the pixels x ... x + width - 1
sizes    a size as a pair is (height, width)

Pixels outside a hole keep every bit.
"""
