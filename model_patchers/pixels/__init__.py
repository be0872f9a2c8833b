"""Pictures and masks, with nothing of ComfyUI. The words and shapes of the whole pack:

image    float (B, H, W, C) in [0, 1], C = 1 (grey), 3 (RGB) or 4 (RGBA)
picture  (H, W, C): one image of a batch
mask     float (B, H, W) in [0, 1], 1 = selected
hole     bool (H, W) or (B, H, W): the pixels whose mask is above 0
Box      half-open: holds the pixels x ... x + width - 1
sizes    a size as a pair is (height, width)

Pixels outside a hole keep every bit.
"""
