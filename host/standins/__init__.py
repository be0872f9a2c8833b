"""Stand-ins: files with the form, keys and shapes of the real ones and seeded random weights, as small as they load.

They show that the machinery works. What they compute means nothing. `models.json` names these functions.
"""

from .diffusion import (
    controlnet,
    depth_unet,
    ic_light,
    inpaint,
    ip2p,
    sd2_text_encoder,
    sd2_vae,
    sd15,
    sd15_vae,
    sdxl,
    unclip_l,
    unclip_statistics,
    x4,
)
from .ella import ella, flan_t5
from .esrgan import esrgan
from .face_landmarks import face_landmarks
from .gfpgan import gfpgan
from .lama import lama
from .lpips import alexnet, lpips
from .sam import sam
from .sam2 import sam2
from .video import ostrack, sttn

__all__ = [
    "alexnet",
    "controlnet",
    "depth_unet",
    "ella",
    "esrgan",
    "face_landmarks",
    "flan_t5",
    "gfpgan",
    "ic_light",
    "inpaint",
    "ip2p",
    "lama",
    "lpips",
    "ostrack",
    "sam",
    "sam2",
    "sd15",
    "sd15_vae",
    "sd2_text_encoder",
    "sd2_vae",
    "sdxl",
    "sttn",
    "unclip_l",
    "unclip_statistics",
    "x4",
]
