"""The live mask of Pick Points: `POST /pentimento/sam/preview` of the host's server answers picks with SAM's mask.

The request is JSON: {"image": {"filename", "subfolder", "type"}, "sam_name", "picks"} with, as in the nodes,
"precision", "choice" and "refine_iterations". `image` is a picture as /view takes it, `picks` the text of Pick Points.
The answer is a PNG, 1 bit, of the picture's size, whose black is transparent, with the score in X-Pentimento-Score;
or {"error": a sentence} and 400 (no such request), 403 (a path outside the host's folders), 404 (no such picture or
model), 409 (the queue is not empty; ask again when it is) or 413 (too long).

A mask costs one pass of the encoder for each picture and one of the decoder for each request, in a thread of its own,
one at a time. It gives way to the queue: it does not start, and it stops within a layer, when a prompt is there.
"""

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from os.path import isfile
from pathlib import Path, PurePath
from time import monotonic, sleep
from typing import Any

import folder_paths
import numpy as np
import torch
from comfy.model_management import current_loaded_models
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import CallbacksMP
from PIL import Image
from torch import Tensor

from ..model_patchers.comfyui.folders import filenames, full_path
from ..model_patchers.segment.pick_points import fit, parse_picks
from ..model_patchers.segment.sam import PRECISIONS, SAM, load
from ..model_patchers.segment.sam_prompts import CHOICES

ROUTE = "/pentimento/sam/preview"
LIMIT = 64 * 1024  # bytes of a request
PASSES = 20  # the most refine_iterations
UNLOADED = 10  # seconds in which the host is done with unloading a model


class Refused(Exception):
    """Why there is no mask.

    Attributes:
        status: The HTTP status.
    """

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


BUSY = "The live mask waits until the queue is empty."


@dataclass(frozen=True)
class Request:
    """A request that names things that exist.

    Attributes:
        picture: As the host's Load Image takes it, such as "sub/name.png [temp]".
        model: The model's path.
    """

    picture: str
    model: str
    precision: str
    picks: str
    choice: str
    refine_iterations: int


def read_request(body: bytes) -> Request:
    """A request's body, checked; no file is opened.

    Raises:
        Refused: It is malformed, or names something that is not there or not allowed.
    """
    try:
        found = json.loads(body)
        image = found["image"]
        names = [image["filename"], image.get("subfolder", ""), image.get("type", "output"), found["sam_name"]]
        names += [found["picks"], found.get("precision", "auto"), found.get("choice", "auto")]
        passes = found.get("refine_iterations", 0)
        if not all(isinstance(name, str) and "\0" not in name for name in names) or type(passes) is not int:
            raise TypeError
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise Refused(400, "The request is not JSON with image, sam_name and picks.") from error
    filename, subfolder, kind, sam_name, picks, precision, choice = names
    if precision not in PRECISIONS or choice not in CHOICES or not 0 <= passes <= PASSES:
        raise Refused(
            400,
            f"precision is {precision!r}, choice {choice!r} and refine_iterations {passes}; need one of "
            f"{list(PRECISIONS)}, one of {CHOICES} and 0 to {PASSES}.",
        )
    if sam_name not in filenames("sams"):
        raise Refused(404, f"There is no file {sam_name!r} in models/sams.")
    return Request(locate(filename, subfolder, kind), full_path(sam_name, "sams"), precision, picks, choice, passes)


def locate(filename: str, subfolder: str, kind: str) -> str:
    """The name for Load Image of a picture that the host's /view would serve.

    Raises:
        Refused: It lies elsewhere, or there is no such picture.
    """
    folder = folder_paths.get_directory_by_type(kind)
    path = PurePath(subfolder, filename)
    if folder is None or path.is_absolute() or path.drive or ".." in path.parts or filename != path.name:
        raise Refused(403, "image lies outside the input, output and temp folders, whose pictures ComfyUI serves.")
    if not (folder_paths.filter_files_content_types([filename], ["image"]) and isfile(Path(folder, path))):  # noqa: PTH113, any name will do
        raise Refused(404, f"There is no picture {filename!r} in ComfyUI's {kind} folder.")
    return f"{path} [{kind}]"


def read_picture(name: str) -> Tensor:
    """The picture (1, H, W, C) just as Load Image gives it; of several in one file, the first.

    Raises:
        Refused: It cannot be read.
    """
    from nodes import LoadImage  # the host's

    try:
        return LoadImage().load_image(name)[0][:1]
    except Exception as error:  # whatever its decoders raise
        raise Refused(400, "The picture could not be read.") from error


class Preview:
    """Answers requests with one SAM, which it keeps until another is asked for or the host unloads it.

    Args:
        queue: The host's queue of prompts.
    """

    def __init__(self, queue: Any) -> None:
        self.queue = queue
        self.kept: tuple[tuple[str, str], SAM] | None = None
        self.worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="pentimento-preview")

    async def answer(self, body: bytes) -> tuple[bytes, float]:
        """The mask as PNG and its score.

        Raises:
            Refused: There is none; it says why.
        """
        request = read_request(body)
        self.give_way()
        return await asyncio.get_running_loop().run_in_executor(self.worker, self.mask, request)

    def give_way(self, steps: int = 1) -> None:
        """Called before each step of the work.

        Raises:
            Refused: A prompt is there.
        """
        if self.queue.get_tasks_remaining():
            raise Refused(409, BUSY)

    @torch.inference_mode()
    def mask(self, request: Request) -> tuple[bytes, float]:
        self.give_way()
        image = read_picture(request.picture)
        height, width = image.shape[1:3]
        try:
            picks = fit(parse_picks(request.picks), width, height)
            sam = self.model(request.model, request.precision)
        except ValueError as error:
            raise Refused(400, str(error)) from error
        prompts = sam.prompts(image, picks.positive, picks.negative, picks.boxes, None)
        if not prompts:
            raise Refused(400, "There is no positive point and no box.")
        with self.queue.mutex:  # no prompt may start while the host moves models about
            self.give_way()
            sam.load()
        choice = "best" if request.choice == "all" else request.choice
        (mask,), (score,) = sam.segment_one(image[0], prompts, choice, request.refine_iterations, self.give_way)
        return to_png(mask.cpu().numpy() > 0), float(score)

    def model(self, path: str, precision: str) -> SAM:
        if self.kept is None or self.kept[0] != (path, precision):
            self.kept = None  # never two
            sam = load(path, precision)
            sam.patcher.add_callback(CallbacksMP.ON_DETACH, self.let_go)
            self.kept = (path, precision), sam
        return self.kept[1]

    def let_go(self, patcher: ModelPatcher, unload: bool) -> None:
        """Called by the host while it unloads a model, which must not vanish before it is done.

        (And, with `unload` False, at the start of every load and at the model's end.)
        """
        if unload and self.kept and self.kept[1].patcher is patcher:
            self.worker.submit(self.drop, patcher)

    def drop(self, patcher: ModelPatcher) -> None:
        deadline = monotonic() + UNLOADED
        while monotonic() < deadline and any(loaded.model is patcher for loaded in current_loaded_models):
            sleep(0.01)
        self.kept = None


def to_png(mask: np.ndarray) -> bytes:
    """bool (H, W) -> PNG of 1 bit, whose black is transparent, so that it is a mask to a page as well."""
    file = BytesIO()
    Image.fromarray(mask).save(file, "PNG", transparency=0)
    return file.getvalue()


def add_route() -> None:
    """Adds the route to the host's server, where there is one."""
    from aiohttp import web
    from server import PromptServer

    server = getattr(PromptServer, "instance", None)
    if server is None:  # the host's nodes are used without its server
        return
    preview = Preview(server.prompt_queue)

    @server.routes.post(ROUTE)
    async def answer(request: web.Request) -> web.Response:
        try:
            png, score = await preview.answer(await read_body(request))
        except Refused as refused:
            return web.json_response({"error": str(refused)}, status=refused.status)
        return web.Response(body=png, content_type="image/png", headers={"X-Pentimento-Score": f"{score:.4f}"})


async def read_body(request: Any) -> bytes:
    """The body of an aiohttp request, read no further than LIMIT.

    Raises:
        Refused: It is longer.
    """
    body = b""
    while len(body) <= LIMIT and (chunk := await request.content.readany()):
        body += chunk
    if len(body) > LIMIT:
        raise Refused(413, f"The request is longer than {LIMIT} bytes.")
    return body
