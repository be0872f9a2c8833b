"""Pictures and masks, with nothing of ComfyUI. Everywhere in the pack:

image    float (B, H, W, C) in [0, 1], C = 1 (grey), 3 (RGB) or 4 (RGBA)
picture  (H, W, C): one of an image
mask     float (B, H, W) in [0, 1], 1 = selected
hole     bool (H, W) or (B, H, W): a mask made bool, all above 0
Box      half-open: it holds the pixels x ... x + width - 1
sizes    (height, width), always in this order

Outside a hole, every bit of a picture stays as it is.
"""
