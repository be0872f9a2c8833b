"""Inputs that several nodes have, and the check of inputs before a prompt runs."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

from comfy_api.latest import io

LARGEST_SEED = 0xFFFFFFFFFFFFFFFF
LACKING = {  # {type of a socket: what to do where a checkpoint has none}
    "MODEL": "The file has no diffusion model. Load one with Load Checkpoint or Load Diffusion Model.",
    "CLIP": "The checkpoint has no text encoder. Load one with Load CLIP, or a T5 with Load T5 for ELLA.",
    "VAE": "The checkpoint has no VAE. Load one with Load VAE.",
    "CLIP_VISION": "The checkpoint has no CLIP vision model. Load one with Load CLIP Vision.",
}


def seed(name: str, tooltip: str) -> io.Int.Input:
    """A seed, which the front end can change after each run."""
    return io.Int.Input(name, default=0, min=0, max=LARGEST_SEED, control_after_generate=True, tooltip=tooltip)


def percent(name: str, default: float, tooltip: str) -> io.Float.Input:
    """Where in the sampling a range begins or ends: 0 ... 1."""
    return io.Float.Input(name, default=default, min=0.0, max=1.0, step=0.001, tooltip=tooltip)


def points(name: str, example: tuple[int, int], tooltip: str, optional: bool = False) -> io.String.Input:
    """Points as JSON text. The example (x, y) stands in the empty widget."""
    x, y = example
    placeholder = f'[{{"x": {x}, "y": {y}}}]'
    return io.String.Input(name, default="", optional=optional, placeholder=placeholder, tooltip=tooltip)


def boxes(name: str, tooltip: str, optional: bool = True) -> io.BoundingBox.Input:
    """A socket for boxes. ComfyUI's class gives it a default box, which would count as one that was drawn."""
    socket = io.BoundingBox.Input(name, optional=optional, tooltip=tooltip, force_input=True)
    socket.default = None
    return socket


def window(default: int, tooltip: str) -> io.Int.Input:
    """Side of a window in pixels."""
    return io.Int.Input("window", default=default, min=64, max=8192, step=8, tooltip=tooltip)


def overlap(default: int, tooltip: str) -> io.Int.Input:
    """Pixels that windows share."""
    return io.Int.Input("overlap", default=default, min=0, max=8184, step=8, tooltip=tooltip)


def reach() -> io.Int.Input:
    """How far a clip is searched for what a thing hides."""
    return io.Int.Input(
        "reach",
        default=60,
        min=1,
        max=100_000,
        tooltip="How many frames before and after a frame are searched for its hidden pixels. More frames "
        "show more of the background, and need more memory.",
    )


def soft_edge() -> io.Int.Input:
    """Pixels round a mask that are no background."""
    return io.Int.Input(
        "grow",
        default=4,
        min=0,
        max=256,
        tooltip="Pixels around the mask that are not taken as background, because the soft edge of the "
        "thing lies there. These pixels are not changed.",
    )


def valid(check: Callable[..., object], *values: Any) -> bool | str:
    """For validate_inputs: True, or the sentence that `check(*values)` raises.

    Args:
        check: Raises ValueError. It is not called while a value is None, which comes over a link and is not yet known.
    """
    if any(value is None for value in values):
        return True
    try:
        check(*values)
    except ValueError as error:
        return str(error)
    return True


def complete(node: type[io.ComfyNode]) -> type[io.ComfyNode]:
    """The node, which from now on refuses sockets without a value.

    A loader gives None for what its file does not have, such as the VAE of a checkpoint without one, and ComfyUI passes
    it on as any other value. An optional socket may be empty, unless it is for a part of a checkpoint: without it, the
    picture would silently be another.
    """
    run = node.execute.__func__

    @functools.wraps(run)
    def execute(cls: type[io.ComfyNode], *args: Any, **values: Any) -> io.NodeOutput:
        arguments = inspect.signature(run).bind_partial(cls, *args, **values).arguments
        if empty := [name for name, value in arguments.items() if value is None]:
            schema = cls.GET_SCHEMA()
            for socket in schema.inputs:
                if socket.id in empty and (not socket.optional or socket.get_io_type() in LACKING):
                    what = LACKING.get(socket.get_io_type(), "Connect another output, or another node.")
                    what += f" Or disconnect {socket.id}." if socket.optional else ""
                    raise ValueError(
                        f"{schema.display_name}: {socket.id} is empty. The node that is connected to it gives nothing. "
                        f"{what}"
                    )
        return run(cls, *args, **values)

    node.execute = classmethod(execute)
    return node
