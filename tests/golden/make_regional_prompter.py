"""Makes regional_prompter.npz with the extension sd-webui-regional-prompter (hako-mikan, AGPL-3.0, commit be62345),
none of whose code is in this project.

    git clone https://github.com/hako-mikan/sd-webui-regional-prompter
    python tests/golden/make_regional_prompter.py sd-webui-regional-prompter

in an environment with torch, torchvision, einops, NumPy and Pillow. The web UI around the extension, and OpenCV, are
replaced by empty objects.

For each of `cases()`: the regions that the extension's own functions compute, in the order in which it calls them. The
entries of `cells` are (top, bottom, left, right), float64, in fractions of the picture. `maps` holds a map for each
case, in one row: the number of the region whose mask in the Latent mode is 1 there, from 1, and 0 where there is none.
`prompts` are those that the extension encodes, as JSON; `breaks` how many BREAKs it leaves inside regions. `colours`
are the first colours of its masks.
"""

import json
import random
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np

COUNT, COLOURS = 210, 40
WORDS = ["sky", "castle", "street", "stalls", "cat", "moon", "river", "snow", "red", "(old:1.2)", "girl", "night"]
NUMBERS = ["1", "2", "3", "1.5", "0.5", "0.7", "4", "1", ""]  # a missing number is 1


def cases() -> list[dict]:
    """Texts, ratios, the splitting and the picture's size."""
    draw = random.Random(19)
    return [_case(draw) for _ in range(COUNT)]


def _case(draw: random.Random) -> dict:
    words = [["BREAK"], ["ADDCOL"], ["ADDROW"], ["ADDCOL", "ADDROW"], ["ADDCOL", "ADDROW", "BREAK"]]
    between = draw.choice(words)
    regions = draw.randint(2, 7)
    text = draw.choice(["", " "]) + _prompt(draw)
    for _ in range(regions - 1):
        text += draw.choice([" {} ", "\n{}\n", " {}\n", ", {} "]).format(draw.choice(between)) + _prompt(draw)
    if draw.random() < 0.4:
        text = f"{_prompt(draw)} ADDBASE {text}"
    if draw.random() < 0.4:
        text = f"{_prompt(draw)} ADDCOMM\n{text}"
    if between == ["BREAK"]:  # as many numbers as regions
        lines = [1] * draw.randint(1, regions)
        for _ in range(regions - len(lines)):
            lines[draw.randrange(len(lines))] += 1
    else:  # of any form: too few and too many too
        lines = [draw.randint(1, 4) for _ in range(draw.randint(1, 4))]
    inner, outer = (",", ";") if (splitting := draw.choice(["columns", "rows"])) == "columns" else (";", ",")
    if len(lines) == 1:
        ratios = ",".join(draw.choice(NUMBERS) for _ in range(lines[0]))
    else:
        own = [draw.randint(0 if count == 1 else 1, 1) for count in lines]  # a line of one number has one cell
        sizes = [count + extra for count, extra in zip(lines, own, strict=True)]
        ratios = outer.join(inner.join(draw.choice(NUMBERS) for _ in range(size)) for size in sizes)
    height, width = draw.randint(24, 60), draw.randint(24, 60)
    return {"text": text, "ratios": ratios, "splitting": splitting, "height": height, "width": width}


def _prompt(draw: random.Random) -> str:
    return " ".join(draw.sample(WORDS, draw.randint(1, 3)))


def extension(folder: str) -> tuple:
    """Its modules for the page, the regions and the Latent mode, with empty objects in place of the web UI's."""
    web_ui = MagicMock()
    web_ui.launch_utils.git_tag = lambda: "v1.10.1"
    web_ui.scripts.Script, web_ui.devices.device = object, "cpu"
    gradio = MagicMock(__version__="4.0.0", Checkbox=type("Checkbox", (), {}))
    sys.modules |= {"gradio": gradio, "modules": web_ui, "launch": MagicMock(), "cv2": MagicMock()}
    names = "devices shared extra_networks sd_hijack script_callbacks launch_utils ui paths scripts processing"
    for name in (names + " prompt_parser").split():
        sys.modules[f"modules.{name}"] = getattr(web_ui, name)
    sys.path.insert(0, folder)
    from scripts import latent, regions, rp

    return rp, regions, latent


def computed(modules: tuple, text: str, ratios: str, splitting: str, height: int, width: int) -> dict:
    """What the extension makes of a case, without its boxes for a base and a common prompt."""
    rp, regions, latent = modules
    mode = {"columns": "Horizontal", "rows": "Vertical"}[splitting]
    script = SimpleNamespace(optbreak=False, debug=False, usecom=False, usencom=False, usebase=False, mode=mode)
    page = SimpleNamespace(prompt=text, negative_prompt="", all_prompts=[text], all_negative_prompts=[""])
    rp.keyconverter(ratios, mode, False, False, page)
    rp.bckeydealer(script, page)
    regions.matrixdealer(script, page, ratios, "0.2", mode)
    rp.keyreplacer(script, page)
    rp.commondealer(page, script.usecom, script.usencom, False)
    masks = latent.makefilters(1, height, width, script.aratios, mode, False, None, False)
    masks = np.concatenate([mask.numpy() for mask in masks])
    assert masks.sum(0).max() == 1
    cells, breaks = [], 0
    for line in script.aratios:
        for cell in line.cols:
            across = (line.st, line.ed, cell.st, cell.ed)
            cells.append(across if splitting == "columns" else (*across[2:], *across[:2]))
            breaks += cell.breaks
    numbered = (masks * np.arange(1, len(masks) + 1)[:, None, None]).sum(0).astype(np.uint8)
    return {"cells": cells, "map": numbered, "prompts": page.all_prompts[0].split("BREAK"), "breaks": breaks}


def main(folder: str) -> None:
    modules = extension(folder)
    results = [computed(modules, **case) for case in cases()]
    np.savez_compressed(
        Path(__file__).with_name("regional_prompter.npz"),
        counts=np.array([len(result["cells"]) for result in results]),
        cells=np.concatenate([result["cells"] for result in results]),
        maps=np.concatenate([result["map"].ravel() for result in results]),
        prompts=json.dumps([result["prompts"] for result in results]),
        breaks=np.array([result["breaks"] for result in results]),
        colours=modules[1].deterministic_colours(COLOURS),
    )


if __name__ == "__main__":
    main(sys.argv[1])
