"""What the live masks of Pick Points share: a line of requests in a thread of its own, the picture, and the answer."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from pathlib import Path
from threading import Lock, Timer
from typing import Any, TypeVar

import folder_paths
import numpy as np
from PIL import Image
from torch import Tensor

from .picture import read_picture
from .refused import Refused

LIMIT = 64 * 1024  # bytes of a request
WAITING = 8  # requests, the running one included, at most
IDLE = 60  # seconds for which the last picture is kept
FULL = f"{WAITING} live masks are being made already. Change a point to ask again."
OVER = "The live mask was given up: its client left or asked again."

Result = TypeVar("Result")
Answer = Callable[[bytes, Callable[[], bool]], Awaitable[tuple[bytes, float]]]  # body, has_left -> PNG, number


class Turn:
    """A request that waits or runs. Call it before each step of the work: it raises where the work is to end.

    Args:
        client: A name of whoever asks, empty for none. Of requests with one name only the newest is answered.
        left: Whether the client has gone.
    """

    def __init__(self, client: str = "", left: Callable[[], bool] = lambda: False) -> None:
        self.client, self.left = client, left
        self.replaced = False  # by a newer request of the client

    @property
    def over(self) -> bool:
        """Whether nobody waits for the answer."""
        return self.replaced or self.left()

    def __call__(self, steps: int = 1) -> None:
        """
        Raises:
            Refused: Nobody waits for the answer.
        """
        if self.over:
            raise Refused(429, OVER)


class Line:
    """Runs requests one at a time in a thread of its own.

    Attributes:
        turns: The requests that wait or run. Only the event loop's thread touches this list.
    """

    def __init__(self, name: str) -> None:
        self.turns: list[Turn] = []
        self.worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)

    async def result(self, turn: Turn, work: Callable[[], Result]) -> Result:
        """The result of the work of a turn.

        Raises:
            Refused: Too many requests wait, or the work was refused.
        """
        turn()
        for other in self.turns:
            other.replaced |= bool(turn.client) and other.client == turn.client
        if sum(not other.over for other in self.turns) >= WAITING:
            raise Refused(503, FULL)
        self.turns.append(turn)
        try:
            return await asyncio.get_running_loop().run_in_executor(self.worker, work)
        finally:
            self.turns.remove(turn)


@dataclass(frozen=True)
class Picture:
    """A picture of a request.

    Attributes:
        file: Its name for Load Image, time and size.
        image: (1, H, W, C) exactly as Load Image returns it. Nobody may write to it.
        memory: What is worth keeping as long as the picture.
    """

    file: tuple
    image: Tensor
    memory: dict = field(default_factory=dict)


class LastPicture:
    """The picture that was read last, for IDLE seconds: the pointer asks about one picture again and again."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.picture: Picture | None = None
        self.timer = Timer(IDLE, self.forget)

    def read(self, name: str) -> Picture:
        """The picture of this name for Load Image.

        Raises:
            Refused: The file cannot be read.
        """
        stat = Path(folder_paths.get_annotated_filepath(name)).stat()
        file = name, stat.st_mtime_ns, stat.st_size
        with self.lock:
            self.timer.cancel()
            if self.picture is None or self.picture.file != file:
                self.picture = None  # frees the memory of the old one first
                self.picture = Picture(file, read_picture(name))
            self.timer = Timer(IDLE, self.forget)
            self.timer.daemon = True
            self.timer.start()
            return self.picture

    def forget(self) -> None:
        with self.lock:
            self.picture = None


@contextmanager
def reading(needed: str) -> Iterator[None]:
    """Refuses the request where the block does not find what it reads in it.

    Args:
        needed: What a request holds at least.
    """
    try:
        yield
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise Refused(400, f"The request is not JSON with {needed}.") from error


def text(value: Any) -> str:
    """A text of a request.

    Raises:
        TypeError: It is none, or holds a zero byte.
    """
    if not isinstance(value, str) or "\0" in value:
        raise TypeError
    return value


def names(image: dict[str, str]) -> tuple[str, str, str]:
    """File name, subfolder and folder of a picture that a request names as for /view."""
    return text(image["filename"]), text(image.get("subfolder", "")), text(image.get("type", "output"))


def to_png(mask: np.ndarray) -> bytes:
    """A mask, bool (H, W), as PNG of 1 bit, whose black is transparent: a web page can use it as a mask too."""
    file = BytesIO()
    Image.fromarray(mask).save(file, "PNG", transparency=0)
    return file.getvalue()


def add_post(route: str, header: str, answer_of: Callable[[Any], Answer]) -> None:
    """Adds a route to ComfyUI's server, if it runs.

    Args:
        header: That of the number which comes with the mask.
        answer_of: From the server to the function that answers.
    """
    from aiohttp import web
    from server import PromptServer

    server = getattr(PromptServer, "instance", None)
    if server is None:  # ComfyUI's nodes are used without its server
        return
    answer = answer_of(server)

    @server.routes.post(route)
    async def post(request: web.Request) -> web.Response:
        try:
            png, number = await answer(await read_body(request), partial(has_left, request))
        except Refused as refused:
            return web.json_response({"error": str(refused)}, status=refused.status)
        return web.Response(body=png, content_type="image/png", headers={header: f"{number:.6f}"})


def has_left(request: Any) -> bool:
    """Whether the client of an aiohttp request has closed the connection."""
    return (transport := request.transport) is None or transport.is_closing()


async def read_body(request: Any, limit: int = LIMIT) -> bytes:
    """The body of an aiohttp request.

    Raises:
        Refused: The body is longer than the limit, beyond which it is not read.
    """
    body = bytearray()
    while len(body) <= limit and (chunk := await request.content.readany()):
        body += chunk
    if len(body) > limit:
        raise Refused(413, f"The request is longer than {limit} bytes.")
    return bytes(body)
