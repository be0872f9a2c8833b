"""The photographs of the demo, each with the hole that a person would paint on it."""

from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

from .environment import PACK

FOLDER = PACK / "host" / "photographs"


@dataclass(frozen=True)
class Photograph:
    """A picture of host/photographs.

    Attributes:
        file: Its name there.
        credit: Who made it and why it may be used.
        hole: Polygons in pixels; they become the transparent part that Load Image gives out as a mask.
    """

    file: str
    credit: str
    hole: tuple[tuple[tuple[int, int], ...], ...] = ()


PHOTOGRAPHS = (
    Photograph("astronaut.png", "Eileen Collins, NASA, public domain"),
    Photograph("rocket.jpg", "Falcon 9 with DSCOVR, SpaceX, public domain"),
    Photograph(
        "coffee.png",
        "Coffee cup, Rachel Michetti, CC0",
        hole=(((325, 250), (345, 232), (380, 225), (412, 235), (415, 290), (395, 325), (360, 332), (328, 300)),),
    ),
)

VARIATIONS: dict[str, dict[str, dict[str, object]]] = {}


def put(folder: Path) -> None:
    """Writes pentimento_<name>.png for every photograph into the host's input folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for photograph in PHOTOGRAPHS:
        path = folder / _name(photograph)
        if not path.exists():
            _with_hole(photograph).save(path)


def credit(name: str) -> list[str]:
    """The credit of a file that `put` wrote; nothing for another."""
    return [f"Photograph: {photograph.credit}" for photograph in PHOTOGRAPHS if _name(photograph) == name]


def _name(photograph: Photograph) -> str:
    return f"pentimento_{Path(photograph.file).stem}.png"


def _with_hole(photograph: Photograph) -> Image.Image:
    picture = Image.open(FOLDER / photograph.file).convert("RGB")
    alpha = Image.new("L", picture.size, 255)
    for polygon in photograph.hole:
        ImageDraw.Draw(alpha).polygon(polygon, fill=0)
    picture.putalpha(alpha)
    return picture
