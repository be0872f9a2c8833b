"""Runs a Python program that ends when the process that started it ends, however that one ended.

`python child.py PARENT PROGRAM [argument ...]`: PROGRAM is a file, a folder with a __main__.py, or `-m` and a module.
Otherwise a server would outlive a demo that was killed, and hold its memory and its port. Standard library only.
"""

import os
import runpy
import signal
import sys
import threading
import time
from pathlib import Path

LOOK = 0.5  # seconds between two looks at the parent
GRACE = 20  # seconds to clean up in
END = signal.SIGUSR1  # in place of SIGINT, which shells have jobs in the background ignore


def command(python: Path, *program: str | Path) -> list[str]:
    """The command line of a program that ends with this process."""
    return [str(python), __file__, str(os.getpid()), *map(str, program)]


def _follow(parent: int) -> None:
    """Ends this process once it has another parent, as Ctrl-C would: so it stops what it started, too."""
    while os.getppid() == parent:
        time.sleep(LOOK)
    signal.pthread_kill(threading.main_thread().ident, END)
    time.sleep(GRACE)
    os._exit(130)


def _main(parent: str, program: str, *arguments: str) -> None:
    signal.signal(END, signal.default_int_handler)
    threading.Thread(target=_follow, args=[int(parent)], daemon=True).start()
    if program == "-m":
        sys.argv, sys.path[0] = list(arguments), str(Path.cwd())
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
        return
    sys.argv, sys.path[0] = [program, *arguments], str(Path(program).parent)
    if Path(program).is_dir():
        del sys.path[0]  # runpy adds the folder
    runpy.run_path(program, run_name="__main__")


if __name__ == "__main__":
    _main(*sys.argv[1:])
