"""Pictures as ComfyUI's Load Image loads them: `GET /pentimento/picture` of ComfyUI's server, for Pick Points to show.

The query is that of ComfyUI's /view: filename, subfolder and type. The answer redirects to /view: to the file itself
where a browser shows the file as Load Image loads it, otherwise to a copy in the temp folder that is drawn from the
node's tensor. The two differ for photographs with the EXIF orientations 2, 4, 5 and 7 (browsers mirror them, and Load
Image only turns them), for animations (Load Image's first picture counts), and for files that browsers cannot show.
"""

import asyncio
from contextlib import suppress
from os.path import isfile
from pathlib import Path, PurePath
from urllib.parse import urlencode

import folder_paths
import torch
from PIL import ExifTags, Image
from torch import Tensor

from ..model_patchers.comfyui.temp import save_picture
from .refused import Refused

ROUTE = "/pentimento/picture"
BROWSERS = {"BMP", "GIF", "JPEG", "PNG", "WEBP"}  # what every browser shows, by Pillow's names


def locate(filename: str, subfolder: str, folder_type: str) -> str:
    """The name for Load Image of a picture in one of the folders that ComfyUI's /view serves.

    Raises:
        Refused: The path leads elsewhere, or there is no such picture.
    """
    folder = folder_paths.get_directory_by_type(folder_type)
    path = PurePath(subfolder, filename)
    if folder is None or path.anchor or ".." in path.parts or filename != path.name:  # an anchor: C: or a leading \\
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


def shown_as_loaded(path: str) -> bool:
    """Whether a browser shows a file as Load Image loads it: a still picture, neither turned nor mirrored."""
    try:
        with Image.open(path) as picture:
            still = picture.format in BROWSERS and not getattr(picture, "is_animated", False)
            return still and picture.getexif().get(ExifTags.Base.Orientation, 1) == 1
    except Exception:  # decoders raise all kinds, and Load Image reads more files than Pillow
        return False


@torch.inference_mode()
def shown(filename: str, subfolder: str, folder_type: str) -> dict[str, str]:
    """The reference of a picture for /view, which a browser shows as Load Image loads the named one.

    Raises:
        Refused: There is no such picture, or it cannot be read.
    """
    name = locate(filename, subfolder, folder_type)
    if shown_as_loaded(folder_paths.get_annotated_filepath(name)):
        return {"filename": filename, "subfolder": subfolder, "type": folder_type}
    return save_picture(read_picture(name))


def add_route() -> None:
    """Adds the route to ComfyUI's server, if it runs."""
    from aiohttp import web
    from server import PromptServer

    server = getattr(PromptServer, "instance", None)
    if server is None:  # ComfyUI's nodes are used without its server
        return

    @server.routes.get(ROUTE)
    async def answer(request: web.Request) -> web.Response:
        query = dict(request.query)
        names = query.get("filename", ""), query.get("subfolder", ""), query.get("type", "output")
        with suppress(Refused):  # /view says what is wrong, and finds the files that ComfyUI calls by a hash
            query |= await asyncio.to_thread(shown, *names)
        raise web.HTTPFound(f"../view?{urlencode(query)}")
