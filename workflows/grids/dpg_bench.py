"""Brings the results of dpg_bench.yaml into the form that DPG-Bench's evaluation reads: a picture of 2 x 2 per prompt.

    python workflows/grids/dpg_bench.py FOLDER_OF_THE_RESULTS FOLDER_FOR_THE_PICTURES

It needs Pillow, which ComfyUI's Python has.
"""

import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

SHOWN = 20  # names in a message, at most
PACK = Path(__file__).resolve().parents[2]


def main(arguments: Sequence[str]) -> int:
    """Writes the pictures, and says which prompts lack some; the exit status."""
    if len(arguments) != 2:
        print("Name the folder of the grid's results, and a folder for the pictures.", file=sys.stderr)
        return 2
    dpg_bench = runpy.run_path(str(PACK / "model_patchers" / "score" / "dpg_bench.py"))
    try:
        written, lacking = dpg_bench["from_grid"](*arguments)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"Prompts with their four pictures in {arguments[1]}: {len(written)}.")
    if lacking:
        names = ", ".join(lacking[:SHOWN]) + (", ..." if len(lacking) > SHOWN else "")
        print(f"Prompts that lack pictures: {len(lacking)} ({names}). Run the grid again.", file=sys.stderr)
    return 1 if lacking else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
