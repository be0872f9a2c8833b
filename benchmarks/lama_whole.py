"""LaMa Fill on the whole picture against spandrel's pass: the same computation, so neither time nor memory may be lost.

It shows that what the node adds (the host's memory management, casts, the interrupt after each layer, the padding)
costs nothing.
"""

import _lama
import _pack

SIDES = (512, 1024)


def run() -> list[dict]:
    return [_compare(side) for side in SIDES]


def _compare(side: int) -> dict:
    ours, peer = _pack.sides(__file__, ["ours", "spandrel"], side, side // 4, runs=5)
    return {
        "title": f"LaMa Fill, whole picture of {side} x {side}",
        "ours": ours,
        "peer": peer,
        "peer_name": "spandrel",
        "note": "the same network on the same pixels",
    }


if __name__ == "__main__":
    _lama.main("whole picture")
