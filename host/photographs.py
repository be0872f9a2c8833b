"""The photographs of the demo, and the holes that a person would paint on them."""

import runpy
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

from .environment import PACK, whole

_pack = runpy.run_path(str(PACK / "model_patchers" / "comfyui" / "photographs.py"))
CLIP = _pack["CLIP"]
WORKFLOWS, DEMO = _pack["FOLDER"], PACK / "host" / "photographs"
SQUARE = ((180, 180), (330, 180), (330, 330), (180, 330))


@dataclass(frozen=True)
class Photograph:
    """A picture of workflows/input or host/photographs.

    Attributes:
        file: Its path.
        credit: Who made it and why it may be used.
        hole: Polygons in pixels; they become the transparent part that Load Image gives out as a mask, in a file of
            its own.
    """

    file: Path
    credit: str
    hole: tuple[tuple[tuple[int, int], ...], ...] = ()


PHOTOGRAPHS = (
    Photograph(WORKFLOWS / "pentimento_astronaut.png", "Eileen Collins, NASA, public domain"),
    Photograph(
        DEMO / "rocket.jpg",
        "Falcon 9 with DSCOVR, SpaceX, public domain",
        hole=(((300, 120), (345, 120), (360, 372), (356, 405), (282, 405), (284, 360)),),
    ),
    Photograph(
        WORKFLOWS / "pentimento_camera.png",
        "Man with a camera, Lav Varshney, CC0",
        hole=(
            ((404, 108), (441, 108), (441, 193), (404, 193)),
            ((272, 302), (342, 296), (342, 316), (312, 326), (412, 511), (222, 511), (262, 395)),
        ),
    ),
    Photograph(DEMO / "gravel.png", "Gravel, CC0Textures, CC0", hole=(SQUARE,)),
    Photograph(DEMO / "grass.png", "Grass, linolafett, CC0", hole=(SQUARE,)),
    Photograph(DEMO / "brick.png", "Brick wall, CC0Textures, CC0", hole=(SQUARE,)),
    Photograph(
        WORKFLOWS / "pentimento_coffee.png",
        "Coffee cup, Rachel Michetti, CC0",
        hole=(
            (
                ((395, 60), (430, 60), (424, 130), (400, 235), (412, 300))
                + ((375, 335), (320, 320), (314, 245), (370, 220), (392, 160))
            ),
        ),
    ),
)


def _painted(name: str) -> dict[str, object]:
    """The changes to remove_without_models that take another photograph, and its painted hole for the wand's."""
    return {
        "Photograph.image": f"pentimento_{name}_painted.png",
        "Tune Mask.mask": ["1", 1],
        "Tune Mask.grow": 2,
        "Fill Without a Model.seed": 0,
    }


# Further runs of a workflow: {workflow: {title: {"<node title>.<input id>": value}}}
VARIATIONS: dict[str, dict[str, dict[str, object]]] = {
    "remove_without_models": {
        "a rocket from the sky": _painted("rocket"),
        "a tower and a tripod": _painted("camera"),
        "a hole in gravel": _painted("gravel"),
        "a hole in grass": _painted("grass"),
        "a hole in bricks": _painted("brick"),
    },
}


def put(folder: Path) -> None:
    """Has pentimento_<name>.png, and where there is a hole pentimento_<name>_painted.png, in the input folder.

    The pack's own function copies those that the workflows need; the others are written here.
    """
    _pack["put"](folder)
    for photograph in PHOTOGRAPHS:
        for painted, name in enumerate(_names(photograph)):
            if not (folder / name).exists():
                picture = Image.open(photograph.file).convert("RGB")
                with whole(folder / name) as part:
                    (_with_hole(picture, photograph) if painted else picture).save(part, "PNG")


def credit(name: str) -> list[str]:
    """The credit of a file that `put` wrote; nothing for another."""
    source = "pentimento_coffee.png" if name == CLIP else name
    return [f"Photograph: {photograph.credit}" for photograph in PHOTOGRAPHS if source in _names(photograph)]


def _names(photograph: Photograph) -> list[str]:
    stem = f"pentimento_{photograph.file.stem.removeprefix('pentimento_')}"
    return [f"{stem}.png"] + ([f"{stem}_painted.png"] if photograph.hole else [])


def _with_hole(picture: Image.Image, photograph: Photograph) -> Image.Image:
    alpha = Image.new("L", picture.size, 255)
    for polygon in photograph.hole:
        ImageDraw.Draw(alpha).polygon(polygon, fill=0)
    picture.putalpha(alpha)
    return picture
