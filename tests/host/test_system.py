"""What the tool asks of the system, by this system's calls and by Windows'. Windows itself is for CI."""

import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path, PureWindowsPath

import pytest

from kit import windows
from kit.paths import PACK
from pentimento_host import child, environment, server, system


@pytest.fixture(params=["this system", "windows"])
def either(request, monkeypatch):
    """Both ways of each call, one after the other."""
    if request.param == "windows":
        windows.pretend(monkeypatch)
    return request.param


@pytest.fixture
def as_windows(monkeypatch):
    windows.pretend(monkeypatch)


@pytest.mark.parametrize(
    ("first", "second", "free"), [(False, False, False), (True, False, False), (False, True, False), (True, True, True)]
)
def test_a_lock_is_shared_with_shared_locks_alone(either, tmp_path, first, second, free):
    path = tmp_path / "lock"
    with system.opened(path) as one, system.opened(path) as other:
        assert system.try_lock(one, shared=first)
        assert system.try_lock(other, shared=second) == free
        system.unlock(one)
        if not free:
            assert system.try_lock(other, shared=second)
        system.unlock(other)


def test_who_finds_a_file_locked_waits(either, tmp_path, capsys):
    path, order = tmp_path / "lock", []

    def second():
        with environment.locked(path):
            order.append("second")

    thread = threading.Thread(target=second)
    with environment.locked(path):
        thread.start()
        while "Waiting for another run" not in capsys.readouterr().out:
            time.sleep(0.01)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_a_locked_file_is_written_moved_and_deleted_by_its_holder(either, tmp_path):
    path = tmp_path / "part"
    path.write_bytes(b"a")
    with environment.locked(path) as file:
        file.write(b"b")
        file.flush()
        path.rename(tmp_path / "whole")
    assert (tmp_path / "whole").read_bytes() == b"ab"


@pytest.fixture
def host(tmp_path):
    (tmp_path / "ComfyUI").mkdir()
    return environment.Host(tmp_path, tmp_path / "ComfyUI", Path(sys.executable), own=True)


def test_the_pack_is_linked_once_and_in_place_of_another_clone(either, host, tmp_path, monkeypatch):
    link = host.link
    link.parent.mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").touch()
    system.link(tmp_path / "other", link)
    environment._link_pack(host)
    assert system.is_link(link) and link.resolve() == PACK
    assert (tmp_path / "other" / "mine.txt").exists()
    monkeypatch.setattr(system, "link", None)
    environment._link_pack(host)
    with environment.in_use(host), environment.in_use(host):
        assert link.resolve() == PACK


def test_a_link_to_nowhere_is_replaced(either, tmp_path):
    (tmp_path / "old").mkdir()
    system.link(tmp_path / "old", tmp_path / "link")
    (tmp_path / "old").rmdir()
    system.link(PACK, tmp_path / "link")
    assert (tmp_path / "link").resolve() == PACK


def test_a_folder_in_the_place_of_the_link_stays(either, host):
    (host.link / "notes").mkdir(parents=True)
    with pytest.raises(environment.HostError, match="is in the way"):
        environment._link_pack(host)
    assert (host.link / "notes").exists()


def test_a_pack_that_cannot_be_linked_is_a_sentence(as_windows, host, monkeypatch):
    monkeypatch.setattr(environment, "PACK", PureWindowsPath("//server/share/pentimento").as_posix())
    with pytest.raises(environment.HostError, match="cannot be made a link to //server.*Put both on disks of this"):
        environment._link_pack(host)


def test_programs_lie_where_windows_has_them(as_windows, tmp_path, monkeypatch):
    monkeypatch.setenv("PENTIMENTO_HOST", str(tmp_path))
    host = environment.locate(None)
    assert host.python == tmp_path / "venv" / "Scripts" / "python.exe"
    assert environment._uv(host) == tmp_path / "tools" / "bin" / "uv.exe"


@pytest.mark.parametrize("place", ["venv/Scripts/python.exe", ".venv/bin/python", "../python_embeded/python.exe"])
def test_the_python_of_a_users_comfyui_is_found(tmp_path, place):
    checkout = tmp_path / "portable" / "ComfyUI"
    (checkout / "comfy").mkdir(parents=True)
    (checkout / "main.py").touch()
    python = checkout / place
    python.parent.mkdir(parents=True)
    python.touch()
    assert environment.locate(str(checkout)).python.resolve() == python.resolve()


def test_chrome_and_edge_are_found_on_windows(as_windows, tmp_path, monkeypatch):
    monkeypatch.delenv("CHROMIUM", raising=False)
    for name in ("ProgramFiles", "ProgramFiles(x86)", "LocalAppData"):
        monkeypatch.setenv(name, name)
    assert system.browser() == r"ProgramFiles\Google\Chrome\Application\chrome.exe"
    monkeypatch.setattr(Path, "exists", lambda path: path.name.endswith("msedge.exe"))
    assert system.browser() == r"ProgramFiles(x86)\Microsoft\Edge\Application\msedge.exe"
    monkeypatch.setenv("CHROMIUM", "another")
    assert system.browser() == "another"


def test_the_processor_has_a_name(as_windows):
    assert system.processor() == "A processor with 8 cores"


def test_a_parent_that_has_ended_is_noticed(as_windows):
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as parent:
        waiting = threading.Thread(target=system.wait_for_end, args=[parent.pid])
        waiting.start()
        assert waiting.is_alive()
        parent.communicate(b"\n")
        waiting.join(60)
        assert not waiting.is_alive()
    system.wait_for_end(parent.pid)  # long ago: at once


def test_the_gpu_may_be_forbidden(host, tmp_path, monkeypatch):
    monkeypatch.setattr(server, "has_accelerator", lambda: True)
    assert "--cpu" not in server.command(host, 1, tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert server.has_accelerator()
    monkeypatch.setenv("PENTIMENTO_CPU", "1")
    assert "--cpu" in server.command(host, 1, tmp_path)


def test_the_main_thread_is_ended_as_by_ctrl_c(either, monkeypatch):
    """On Windows a blocked call of the main thread ends only where it waits for Ctrl-C's event, as sleep does there."""
    before = signal.getsignal(system.END)
    try:
        signal.signal(system.END, signal.SIG_IGN)
        system.let_end()
        with pytest.raises(KeyboardInterrupt):
            threading.Timer(0.2, system.end).start()
            for _ in range(600):
                time.sleep(0.1)
    finally:
        signal.signal(system.END, before)


def test_a_portable_comfyui_keeps_its_path(tmp_path, monkeypatch):
    """Its Python puts no folder of a program on the path, whose first entry is its own library."""
    (tmp_path / "program.py").write_text("import sys; first = sys.path[0]")
    seen = {}
    real = runpy.run_path

    def run_path(path, **keywords):
        result = real(path, **keywords)
        seen.update(result)
        return {"let_end": lambda: None, "wait_for_end": None, "end": None} if path.endswith("system.py") else result

    monkeypatch.setattr(child.runpy, "run_path", run_path)
    monkeypatch.setattr(child, "threading", type("Quiet", (), {"Thread": lambda **keywords: Quiet()}))
    for first, expected in (("library.zip", "library.zip"), (str(child.HERE), str(tmp_path))):
        monkeypatch.setattr(sys, "path", [first, *sys.path])
        monkeypatch.setattr(sys, "argv", list(sys.argv))
        child._main(str(os.getpid()), str(tmp_path / "program.py"))
        assert seen["first"] == expected


class Quiet:
    """A thread that does not start."""

    def start(self):
        pass
