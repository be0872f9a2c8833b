"""LaMa Fill on a big picture with one small hole, against the whole-picture pass that every other node runs.

The network's cost grows with the picture; the hole's surroundings are what it fills from. So LaMa Fill runs on the
hole with 128 pixels around it, and this measures what that saves on 2048 x 2048 pixels with a hole of 200 x 200.
"""

import _lama
import _pack

SIDE, HOLE = 2048, 200


def run() -> dict:
    return _pack.compare(
        _lama.__file__,
        title=f"LaMa Fill, {SIDE} x {SIDE} with one {HOLE} px hole",
        peer="spandrel, whole picture",
        note="each hole, context 128",
        arguments=("each hole", SIDE, HOLE),
    )
