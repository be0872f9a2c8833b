"""The live mask of Pick Points: `POST /pentimento/sam/preview` of ComfyUI's server answers picks with SAM's mask.

The request is JSON: {"image": {"filename", "subfolder", "type"}, "sam_name", "picks"} and, optional, the inputs
"precision", "choice" and "refine_iterations" of the nodes, a name of the asker, "client", and "hover": true where the
mask is wanted only if it costs no more than a pass of the decoder. `image` names a picture as for /view, `picks` is the
text of Pick Points. The answer is a PNG of 1 bit and of the size of the picture, whose black is transparent, with the
score in the header X-Pentimento-Score. Or it is {"error": a sentence} with the status 400 (malformed request), 403 (a
path outside ComfyUI's folders), 404 (no such picture or model), 409 (the queue is not empty, or a hover came before the
picture was encoded; ask again later), 413 (too long), 429 (the client asked again before the answer) or 503 (too many
wait).

Each picture takes one pass of the encoder, and each request one pass of the decoder. The graph's Load SAM shares the
model and the embeddings. Requests run one at a time in a thread of their own. ComfyUI's queue goes first: while it
holds a prompt, no request starts, and a running one stops within a layer. A request also stops within a layer when its
client leaves or asks again.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from time import monotonic, sleep
from typing import Any

import torch
from comfy.model_management import (
    InterruptProcessingException,
    current_loaded_models,
    interrupt_current_processing,
)
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import CallbacksMP

from ..model_patchers.comfyui.folders import filenames, full_path
from ..model_patchers.segment.pick_points import fit, parse_picks
from ..model_patchers.segment.sam import PRECISIONS, SAM, identity, load
from ..model_patchers.segment.sam_prompts import CHOICES
from . import live
from .live import LastPicture, Line, add_post, names, reading, text, to_png
from .picture import locate
from .refused import Refused

ROUTE = "/pentimento/sam/preview"
PASSES = 20  # the most refine_iterations
UNLOAD_TIME = 10  # seconds that ComfyUI needs to unload a model, at most

BUSY = "The live mask waits until the queue is empty."
NOT_ENCODED = "The picture is not encoded yet."


@dataclass(frozen=True)
class Request:
    """A checked request: its picture and its model exist.

    Attributes:
        picture: The name for ComfyUI's Load Image, such as "sub/name.png [temp]".
        model: The path of the model.
        picks: The text of Pick Points, not checked.
        client: A name of whoever asks, empty for none. Of requests with one name only the newest is answered.
        hover: Whether the mask is wanted only where the picture is encoded already.
    """

    picture: str
    model: str
    precision: str
    picks: str
    choice: str
    refine_iterations: int
    client: str = ""
    hover: bool = False


def read_request(body: bytes) -> Request:
    """The request in a body, checked. No file is opened.

    Raises:
        Refused: The body is malformed, or its picture or model does not exist or is not allowed.
    """
    with reading("image, sam_name and picks"):
        fields = json.loads(body)
        image = names(fields["image"])
        sam_name, picks, client = text(fields["sam_name"]), text(fields["picks"]), text(fields.get("client", ""))
        precision, choice = text(fields.get("precision", "auto")), text(fields.get("choice", "auto"))
        passes, hover = fields.get("refine_iterations", 0), fields.get("hover", False)
        if type(passes) is not int or type(hover) is not bool:
            raise TypeError
    if precision not in PRECISIONS or choice not in CHOICES or not 0 <= passes <= PASSES:
        raise Refused(
            400,
            f"precision is {precision!r}, choice {choice!r} and refine_iterations {passes}; need one of "
            f"{list(PRECISIONS)}, one of {CHOICES} and 0 to {PASSES}.",
        )
    if sam_name not in filenames("sams"):
        raise Refused(404, f"There is no file {sam_name!r} in models/sams.")
    return Request(locate(*image), full_path(sam_name, "sams"), precision, picks, choice, passes, client, hover)


class Turn(live.Turn):
    """A request that waits or runs, and that gives way to ComfyUI's queue of prompts."""

    def __init__(self, queue: Any, client: str = "", left: Callable[[], bool] = lambda: False) -> None:
        super().__init__(client, left)
        self.queue = queue

    def __call__(self, steps: int = 1) -> None:
        """
        Raises:
            Refused: Nobody waits for the answer, or the queue holds a prompt, which goes first.
        """
        super().__call__(steps)
        if self.queue.get_tasks_remaining():
            raise Refused(409, BUSY)


class Preview:
    """Answers requests. It holds one SAM, until a request names another or ComfyUI unloads it.

    Args:
        queue: ComfyUI's queue of prompts.

    Attributes:
        loaded: The identity of the SAM, and the SAM.
    """

    def __init__(self, queue: Any) -> None:
        self.queue = queue
        self.loaded: tuple[tuple, SAM] | None = None
        self.line = Line("pentimento-preview")
        self.last = LastPicture()

    async def answer(self, body: bytes, left: Callable[[], bool] = lambda: False) -> tuple[bytes, float]:
        """The mask as PNG, and its score.

        Args:
            left: Whether the client has gone.

        Raises:
            Refused: There is no mask.
        """
        request = read_request(body)
        turn = Turn(self.queue, request.client, left)
        return await self.line.result(turn, partial(self.mask, request, turn))

    def mask(self, request: Request, turn: Turn) -> tuple[bytes, float]:
        """The mask of a request as PNG, and its score.

        ComfyUI's layers raise on an interrupt in any thread, and clear it. An interrupt is meant for the prompt that
        runs: it is handed on. Without a prompt it means nothing here, and the work starts anew.

        Raises:
            Refused: There is no mask.
        """
        while True:
            try:
                return self.segment(request, turn)
            except InterruptProcessingException:
                with self.queue.mutex:
                    if self.queue.currently_running:
                        interrupt_current_processing()

    @torch.inference_mode()
    def segment(self, request: Request, turn: Turn) -> tuple[bytes, float]:
        """`mask`, which an interrupt stops."""
        turn()
        if request.hover and (self.loaded is None or self.loaded[0] != identity(request.model, request.precision)):
            raise Refused(409, NOT_ENCODED)
        image = self.last.read(request.picture).image
        height, width = image.shape[1:3]
        try:
            picks = fit(parse_picks(request.picks), width, height)
            sam = self.model(request.model, request.precision)
        except ValueError as error:
            raise Refused(400, str(error)) from error
        if request.hover and not sam.knows(image[0]):
            raise Refused(409, NOT_ENCODED)
        prompts = sam.prompts(image, picks.positive, picks.negative, picks.boxes, None)
        if not prompts:
            raise Refused(400, "There is no positive point and no box.")
        with self.queue.mutex:  # no prompt may start while ComfyUI loads and unloads models
            turn()
            sam.load()
        choice = "best" if request.choice == "all" else request.choice
        (mask,), (score,) = sam.segment_one(image[0], prompts, choice, request.refine_iterations, turn)
        return to_png(mask.cpu().numpy() > 0), float(score)

    def model(self, path: str, precision: str) -> SAM:
        """The SAM of this file: the one in memory, be it the graph's, or else loaded."""
        wanted = identity(path, precision)
        if self.loaded is None or self.loaded[0] != wanted:
            self.loaded = None  # frees the memory of the old one first
            sam = load(path, precision)
            if self.on_detach not in sam.patcher.get_all_callbacks(CallbacksMP.ON_DETACH):
                sam.patcher.add_callback(CallbacksMP.ON_DETACH, self.on_detach)
            self.loaded = wanted, sam
        return self.loaded[1]

    def on_detach(self, patcher: ModelPatcher, unpatch_all: bool) -> None:
        """Has the worker drop the SAM when ComfyUI unloads it.

        ComfyUI calls this while it still uses the model, so it must not be dropped here. At the start of every load and
        at the end of the model it calls this too, with `unpatch_all` False.
        """
        if unpatch_all and self.loaded and self.loaded[1].patcher is patcher:
            self.line.worker.submit(self.drop, patcher)

    def drop(self, patcher: ModelPatcher) -> None:
        """Drops the SAM as soon as ComfyUI has unloaded it."""
        deadline = monotonic() + UNLOAD_TIME
        while monotonic() < deadline and any(model.model is patcher for model in current_loaded_models):
            sleep(0.01)
        if self.loaded and self.loaded[1].patcher is patcher:
            self.loaded = None


def add_route() -> None:
    """Adds the route to ComfyUI's server, if it runs."""
    add_post(ROUTE, "X-Pentimento-Score", lambda server: Preview(server.prompt_queue).answer)
