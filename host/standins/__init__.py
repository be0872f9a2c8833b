"""Stand-ins: files with the form, keys and shapes of the real ones and seeded random weights, as small as they load.

They show that the machinery works. What they compute means nothing. `models.json` names these functions.
"""

from .diffusion import inpaint, sd15, sdxl
from .lama import lama
from .sam import sam

__all__ = ["inpaint", "lama", "sam", "sd15", "sdxl"]
