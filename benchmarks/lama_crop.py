"""LaMa Fill on a big picture with one small hole, against the whole-picture pass that every other node runs.

The network's cost grows with the picture; the hole's surroundings are what it fills from. So LaMa Fill runs on the
hole with 128 pixels around it, and this measures what that saves on 2048 x 2048 pixels with a hole of 200 x 200.
"""

import _lama
import _pack

SIDE, HOLE = 2048, 200


def run() -> dict:
    ours, peer = _pack.sides(__file__, ["ours", "spandrel"], SIDE, HOLE)
    return {
        "title": f"LaMa Fill, {SIDE} x {SIDE} with one {HOLE} px hole",
        "ours": ours,
        "peer": peer,
        "peer_name": "spandrel, whole picture",
        "note": "each hole, context 128",
    }


if __name__ == "__main__":
    _lama.main("each hole")
