"""A ComfyUI server with the pack in it, for as long as a `with` block lasts."""

import contextlib
import json
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from . import child, client
from .environment import Host, HostError, in_use

START_SECONDS = 300


def command(host: Host, port: int, scratch: Path) -> list[str]:
    """The command line of a server on 127.0.0.1 that writes to `scratch`, its input and its output folder only.

    The server ends with this process.
    """
    return [*_command(host, port), *_folders(host, scratch, host.output)]


def _command(host: Host, port: int) -> list[str]:
    arguments = child.command(host.python, host.comfyui / "main.py", "--listen", "127.0.0.1", "--port", str(port))
    arguments += ["--disable-auto-launch", "--disable-api-nodes", "--database-url", "sqlite:///:memory:"]
    return arguments if has_accelerator() else [*arguments, "--cpu"]


def _folders(host: Host, scratch: Path, output: Path) -> list[str]:
    """Arguments that name these folders. Makes them, since ComfyUI refuses to start without them."""
    for folder in (host.input, output, scratch / "user"):
        folder.mkdir(parents=True, exist_ok=True)
    arguments = ["--user-directory", str(scratch / "user"), "--temp-directory", str(scratch)]
    arguments += ["--input-directory", str(host.input), "--output-directory", str(output)]
    if not host.has_pack:
        arguments += ["--extra-model-paths-config", str(_extra_paths(host, scratch))]
    return arguments


def has_accelerator() -> bool:
    """Whether PyTorch finds a GPU, which $PENTIMENTO_CPU forbids. Without one ComfyUI starts only with `--cpu`."""
    if os.environ.get("PENTIMENTO_CPU"):
        return False
    import torch

    return torch.cuda.is_available() or torch.backends.mps.is_available() or torch.xpu.is_available()


@contextlib.contextmanager
def serve(host: Host, *options: str) -> Iterator[str]:
    """Starts a server with the pack on a free port and yields its address; stops it at the end.

    Its results go when it ends: who wants one fetches it.

    Args:
        options: Of ComfyUI's command line.

    Raises:
        HostError: It did not come up, or stopped by itself; the text holds the end of its log.
    """
    with in_use(host), tempfile.TemporaryDirectory(prefix="pentimento-", ignore_cleanup_errors=True) as name:
        scratch = Path(name)
        arguments = [*_folders(host, scratch, scratch / "output"), *options]
        with running(host, arguments, scratch / "server.log") as address:
            yield address


@contextlib.contextmanager
def running(host: Host, arguments: list[str], log: Path, environment: dict[str, str] | None = None) -> Iterator[str]:
    """The same for a server with these arguments, which finds the pack by them or has none."""
    port = _free_port()
    address = f"http://127.0.0.1:{port}"
    with log.open("w", encoding="utf-8") as out:
        process = subprocess.Popen(
            [*_command(host, port), *arguments],
            cwd=host.comfyui,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
        try:
            _wait(address, process, log)
            yield address
            if process.poll() is not None:
                raise HostError(
                    f"ComfyUI stopped by itself (exit status {process.returncode}). The end of its log:\n{_end(log)}"
                )
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(address: str, process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        if process.poll() is not None or time.monotonic() > deadline:
            raise HostError(f"ComfyUI did not start. The end of its log:\n{_end(log)}")
        with contextlib.suppress(client.RunError):
            client.get(address, "system_stats")  # past any proxy
            return
        time.sleep(0.2)


def _end(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")[-4000:]


def _extra_paths(host: Host, scratch: Path) -> Path:
    """A configuration that adds the pack and the stand-ins to a checkout without writing into it."""
    folders = {folder.name: f"models/{folder.name}" for folder in host.models.glob("*")}
    folders |= {"base_path": str(host.home), "custom_nodes": "custom_nodes"}
    path = scratch / "extra_model_paths.yaml"
    path.write_text(json.dumps({"pentimento": folders}), encoding="utf-8")  # JSON is YAML
    return path


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
