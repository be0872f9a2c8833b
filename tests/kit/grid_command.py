"""The command `python3 host grid`, in this process and in another, and a small workflow that any ComfyUI runs."""

import contextlib
import io
import os
import subprocess
import sys
import time

from pentimento_host import cli
from pentimento_host import grid as command

from .grid import node
from .paths import PACK

SQUARES = {
    "1": node("EmptyImage", "Square", width=16, height=16, batch_size=1, color=1),
    "2": node("ImageAddNoise", "Noise", image=["1", 0], seed=1, strength=0.5),
    "3": node("SaveImage", "Result", images=["2", 0], filename_prefix="grid/squares"),
}


def arguments(action, server, *more, file="cats.yaml"):
    return [sys.executable, str(PACK / "host"), "grid", action, file, "--server", server, *more]


def start(action, server, *more, cwd, file="cats.yaml"):
    """The command, in this Python alone, so that a signal reaches it."""
    return subprocess.Popen(
        arguments(action, server, *more, file=file),
        cwd=cwd,
        env=os.environ | {cli.INSIDE: "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def call(action, server, *more, cwd, file="cats.yaml", comfyui=None):
    """(exit status, what it printed, its complaints), in this process."""
    outputs = io.StringIO(), io.StringIO()
    for stream in outputs:
        stream.reconfigure = lambda **options: None
    tool = ["--comfyui", str(comfyui)] if comfyui else []
    at = ["--server", server] if server else []
    options = cli._parser().parse_args([*tool, "grid", action, str(cwd / file), *at, *more])
    with contextlib.redirect_stdout(outputs[0]), contextlib.redirect_stderr(outputs[1]):
        status = command.command(options)
    return status, *(stream.getvalue() for stream in outputs)


def wait(condition, seconds=120):
    """Waits until something holds that does so soon."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "what was waited for never came"
        time.sleep(0.01)
