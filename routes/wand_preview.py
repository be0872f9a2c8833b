"""The live mask of Pick Points for Magic Wand: `POST /pentimento/wand/preview` answers picks with the wand's mask.

The request is JSON: {"image": {"filename", "subfolder", "type"}, "picks"} and, optional, the inputs "tolerance",
"contiguous" and "negative_coords" of the node (the latter instead of the negative points of the picks) and a name of
the asker, "client". The answer is a PNG of 1 bit and of the size of the picture, whose black is transparent, with the
share of the picture that is selected in the header X-Pentimento-Selected. Or it is {"error": a sentence}, as in
sam_preview.

No model is needed: the mask is that of the node's own function, and requests are answered while the queue works.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ..model_patchers.comfyui.points import Point, parse_points
from ..model_patchers.segment import magic_wand
from ..model_patchers.segment.pick_points import fit, parse_picks
from .live import LastPicture, Line, Turn, add_post, names, reading, text, to_png
from .picture import locate
from .refused import Refused

ROUTE = "/pentimento/wand/preview"
REGIONS = 64 << 20  # bytes of the regions that are kept, at most: a byte per pixel


@dataclass(frozen=True)
class Request:
    """A checked request: its picture exists.

    Attributes:
        picture: The name for ComfyUI's Load Image, such as "sub/name.png [temp]".
        picks: The text of Pick Points, not checked.
        negative: Points as Magic Wand reads them, not checked. None: those of the picks.
        client: A name of whoever asks, empty for none.
    """

    picture: str
    picks: str
    tolerance: float
    contiguous: bool
    negative: str | None = None
    client: str = ""


def read_request(body: bytes) -> Request:
    """The request in a body, checked. No file is opened.

    Raises:
        Refused: The body is malformed, or its picture does not exist or is not allowed.
    """
    with reading("image and picks"):
        fields = json.loads(body)
        image = names(fields["image"])
        picks, client = text(fields["picks"]), text(fields.get("client", ""))
        negative = None if fields.get("negative_coords") is None else text(fields["negative_coords"])
        tolerance, contiguous = fields.get("tolerance", 0.1), fields.get("contiguous", True)
        if type(tolerance) not in (int, float) or type(contiguous) is not bool:
            raise TypeError
    if not 0 <= tolerance <= 1:
        raise Refused(400, f"tolerance is {tolerance}; need a number from 0 to 1.")
    return Request(locate(*image), picks, tolerance, contiguous, negative, client)


def remember(memory: dict[tuple, Tensor], shown: Tensor, point: Point, tolerance: float, contiguous: bool) -> Tensor:
    """`magic_wand.region`, which keeps the last regions of a picture: one more point costs one more region."""
    key = int(point[0]), int(point[1]), tolerance, contiguous
    region = memory.pop(key, None)
    memory[key] = magic_wand.region(shown, point, tolerance, contiguous) if region is None else region
    while len(memory) > 1 and len(memory) * shown[..., 0].numel() > REGIONS:
        del memory[next(iter(memory))]
    return memory[key]


class Preview:
    """Answers requests."""

    def __init__(self) -> None:
        self.line = Line("pentimento-wand")
        self.last = LastPicture()

    async def answer(self, body: bytes, left: Callable[[], bool] = lambda: False) -> tuple[bytes, float]:
        """The mask as PNG, and the share of the picture that it selects.

        Args:
            left: Whether the client has gone.

        Raises:
            Refused: There is no mask.
        """
        request = read_request(body)
        turn = Turn(request.client, left)
        return await self.line.result(turn, partial(self.mask, request, turn))

    @torch.inference_mode()
    def mask(self, request: Request, turn: Turn) -> tuple[bytes, float]:
        """`answer`, in the thread that computes."""
        turn()
        picture = self.last.read(request.picture)
        height, width = picture.image.shape[1:3]
        try:
            picks = fit(parse_picks(request.picks), width, height)
            negative = picks.negative
            if request.negative is not None:
                negative = parse_points(request.negative, "negative_coords", width, height)
        except ValueError as error:
            raise Refused(400, str(error)) from error
        if not picks.positive:
            raise Refused(400, "There is no positive point.")
        how = request.tolerance, request.contiguous, turn, partial(remember, picture.memory)
        (mask,) = magic_wand.select(picture.image, picks.positive, negative, *how)
        return to_png(mask.cpu().numpy() > 0), mask.mean().item()


def add_route() -> None:
    """Adds the route to ComfyUI's server, if it runs."""
    add_post(ROUTE, "X-Pentimento-Selected", lambda server: Preview().answer)
