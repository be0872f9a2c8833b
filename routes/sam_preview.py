"""The live mask of Pick Points: `POST /pentimento/sam/preview` of ComfyUI's server answers picks with SAM's mask.

The request is JSON: {"image": {"filename", "subfolder", "type"}, "sam_name", "picks"} and, optional, the inputs
"precision", "choice" and "refine_iterations" of the nodes. `image` names a picture as for /view, `picks` is the text of
Pick Points. The answer is a PNG of 1 bit and of the size of the picture, whose black is transparent, with the score in
the header X-Pentimento-Score. Or it is {"error": a sentence} with the status 400 (malformed request), 403 (a path
outside ComfyUI's folders), 404 (no such picture or model), 409 (the queue is not empty; ask again later) or 413 (too
long).

Each picture takes one pass of the encoder, and each request one pass of the decoder. Requests run one at a time in a
thread of their own. The queue goes first: while it holds a prompt, no request starts, and a running one stops within a
layer.
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
UNLOAD_TIME = 10  # seconds that ComfyUI needs to unload a model, at most


class Refused(Exception):
    """A request gets no mask. The message says why.

    Attributes:
        status: The HTTP status of the answer.
    """

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


BUSY = "The live mask waits until the queue is empty."


@dataclass(frozen=True)
class Request:
    """A checked request: its picture and its model exist.

    Attributes:
        picture: The name for ComfyUI's Load Image, such as "sub/name.png [temp]".
        model: The path of the model.
        picks: The text of Pick Points, not checked.
    """

    picture: str
    model: str
    precision: str
    picks: str
    choice: str
    refine_iterations: int


def read_request(body: bytes) -> Request:
    """The request in a body, checked. No file is opened.

    Raises:
        Refused: The body is malformed, or its picture or model does not exist or is not allowed.
    """
    try:
        fields = json.loads(body)
        image = fields["image"]
        texts = [image["filename"], image.get("subfolder", ""), image.get("type", "output"), fields["sam_name"]]
        texts += [fields["picks"], fields.get("precision", "auto"), fields.get("choice", "auto")]
        passes = fields.get("refine_iterations", 0)
        if not all(isinstance(text, str) and "\0" not in text for text in texts) or type(passes) is not int:
            raise TypeError
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise Refused(400, "The request is not JSON with image, sam_name and picks.") from error
    filename, subfolder, folder_type, sam_name, picks, precision, choice = texts
    if precision not in PRECISIONS or choice not in CHOICES or not 0 <= passes <= PASSES:
        raise Refused(
            400,
            f"precision is {precision!r}, choice {choice!r} and refine_iterations {passes}; need one of "
            f"{list(PRECISIONS)}, one of {CHOICES} and 0 to {PASSES}.",
        )
    if sam_name not in filenames("sams"):
        raise Refused(404, f"There is no file {sam_name!r} in models/sams.")
    picture = locate(filename, subfolder, folder_type)
    return Request(picture, full_path(sam_name, "sams"), precision, picks, choice, passes)


def locate(filename: str, subfolder: str, folder_type: str) -> str:
    """The name for Load Image of a picture in one of the folders that ComfyUI's /view serves.

    Raises:
        Refused: The path leads elsewhere, or there is no such picture.
    """
    folder = folder_paths.get_directory_by_type(folder_type)
    path = PurePath(subfolder, filename)
    if folder is None or path.is_absolute() or path.drive or ".." in path.parts or filename != path.name:
        raise Refused(403, "image lies outside the input, output and temp folders, whose pictures ComfyUI serves.")
    if not (folder_paths.filter_files_content_types([filename], ["image"]) and isfile(Path(folder, path))):  # noqa: PTH113, any name will do
        raise Refused(404, f"There is no picture {filename!r} in ComfyUI's {folder_type} folder.")
    return f"{path} [{folder_type}]"


def read_picture(name: str) -> Tensor:
    """The picture (1, H, W, C) exactly as Load Image returns it, of several in a file the first.

    Raises:
        Refused: The file cannot be read.
    """
    from nodes import LoadImage  # ComfyUI's node: no library function reads every format that it reads

    try:
        return LoadImage().load_image(name)[0][:1]
    except Exception as error:  # decoders raise all kinds
        raise Refused(400, "The picture could not be read.") from error


class Preview:
    """Answers requests. It holds one SAM, until a request names another or ComfyUI unloads it.

    Args:
        queue: ComfyUI's queue of prompts.

    Attributes:
        loaded: The path and precision of the SAM, and the SAM.
    """

    def __init__(self, queue: Any) -> None:
        self.queue = queue
        self.loaded: tuple[tuple[str, str], SAM] | None = None
        self.worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="pentimento-preview")

    async def answer(self, body: bytes) -> tuple[bytes, float]:
        """The mask as PNG, and its score.

        Raises:
            Refused: There is no mask.
        """
        request = read_request(body)
        self.give_way()
        return await asyncio.get_running_loop().run_in_executor(self.worker, self.mask, request)

    def give_way(self, steps: int = 1) -> None:
        """Lets the queue go first: called before each step of the work.

        Raises:
            Refused: The queue holds a prompt.
        """
        if self.queue.get_tasks_remaining():
            raise Refused(409, BUSY)

    @torch.inference_mode()
    def mask(self, request: Request) -> tuple[bytes, float]:
        """The mask of a request as PNG, and its score.

        Raises:
            Refused: There is no mask.
        """
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
        with self.queue.mutex:  # no prompt may start while ComfyUI loads and unloads models
            self.give_way()
            sam.load()
        choice = "best" if request.choice == "all" else request.choice
        (mask,), (score,) = sam.segment_one(image[0], prompts, choice, request.refine_iterations, self.give_way)
        return to_png(mask.cpu().numpy() > 0), float(score)

    def model(self, path: str, precision: str) -> SAM:
        """The SAM of this file, loaded unless it is the one in memory."""
        if self.loaded is None or self.loaded[0] != (path, precision):
            self.loaded = None  # frees the memory of the old one first
            sam = load(path, precision)
            sam.patcher.add_callback(CallbacksMP.ON_DETACH, self.on_detach)
            self.loaded = (path, precision), sam
        return self.loaded[1]

    def on_detach(self, patcher: ModelPatcher, unpatch_all: bool) -> None:
        """Has the worker drop the SAM when ComfyUI unloads it.

        ComfyUI calls this while it still uses the model, so it must not be dropped here. At the start of every load and
        at the end of the model it calls this too, with `unpatch_all` False.
        """
        if unpatch_all and self.loaded and self.loaded[1].patcher is patcher:
            self.worker.submit(self.drop, patcher)

    def drop(self, patcher: ModelPatcher) -> None:
        """Drops the SAM as soon as ComfyUI has unloaded it."""
        deadline = monotonic() + UNLOAD_TIME
        while monotonic() < deadline and any(model.model is patcher for model in current_loaded_models):
            sleep(0.01)
        self.loaded = None


def to_png(mask: np.ndarray) -> bytes:
    """A mask, bool (H, W), as PNG of 1 bit, whose black is transparent: a web page can use it as a mask too."""
    file = BytesIO()
    Image.fromarray(mask).save(file, "PNG", transparency=0)
    return file.getvalue()


def add_route() -> None:
    """Adds the route to ComfyUI's server, if it runs."""
    from aiohttp import web
    from server import PromptServer

    server = getattr(PromptServer, "instance", None)
    if server is None:  # ComfyUI's nodes are used without its server
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
    """The body of an aiohttp request.

    Raises:
        Refused: The body is longer than LIMIT, beyond which it is not read.
    """
    body = b""
    while len(body) <= LIMIT and (chunk := await request.content.readany()):
        body += chunk
    if len(body) > LIMIT:
        raise Refused(413, f"The request is longer than {LIMIT} bytes.")
    return body
