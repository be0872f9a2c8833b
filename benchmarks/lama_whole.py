"""LaMa Fill on the whole picture against spandrel's pass: the same computation, so neither time nor memory may be lost.

It shows that what the node adds (ComfyUI's memory management, casts, the interrupt after each layer, the padding)
costs nothing.
"""

import _lama
import _pack

SIDES = (512, 1024)


def run() -> list[dict]:
    return [
        _pack.compare(
            _lama.__file__,
            title=f"LaMa Fill, whole picture of {side} x {side}",
            peer="spandrel",
            note="the same network on the same pixels",
            arguments=("whole picture", side, side // 4),
            runs=5,
        )
        for side in SIDES
    ]
