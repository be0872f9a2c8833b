"""Main memory, beside what ComfyUI manages."""

import ctypes
import sys


def give_back() -> None:
    """Returns memory that was freed to the system. Called between the parts of a long clip.

    The C library of Linux keeps freed blocks below 32 MB, and cannot reuse them well between others that stay, so a
    process that goes through many frames of full size would grow to several times of what it holds.
    """
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)
