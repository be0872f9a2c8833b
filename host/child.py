"""Runs a Python program that ends when the process that started it ends, however that one ended.

`python child.py PARENT PROGRAM [argument ...]`: PROGRAM is a file, a folder with a __main__.py, or `-m` and a module.
Otherwise a server would outlive a demo that was killed, and hold its memory and its port. Standard library only.
"""

import os
import runpy
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

GRACE = 20  # seconds to clean up in
HERE = Path(__file__).resolve().parent


def command(python: Path, *program: str | Path) -> list[str]:
    """The command line of a program that ends with this process."""
    return [str(python), __file__, str(os.getpid()), *map(str, program)]


def _follow(wait_for_end: Callable[[int], None], end: Callable[[], None], parent: int) -> None:
    """Ends this process once its parent has ended, as Ctrl-C would: so it stops what it started, too."""
    wait_for_end(parent)
    end()
    time.sleep(GRACE)
    os._exit(130)


def _main(parent: str, program: str, *arguments: str) -> None:
    system = runpy.run_path(str(HERE / "system.py"))
    system["let_end"]()
    threading.Thread(target=_follow, args=[system["wait_for_end"], system["end"], int(parent)], daemon=True).start()
    if Path(sys.path[0]).resolve() == HERE:  # not in the Python of a portable ComfyUI, whose path is fixed
        del sys.path[0]
        if program == "-m":
            sys.path.insert(0, str(Path.cwd()))
        elif not Path(program).is_dir():  # runpy adds a folder
            sys.path.insert(0, str(Path(program).parent))
    if program == "-m":
        sys.argv = list(arguments)
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
        return
    sys.argv = [program, *arguments]
    runpy.run_path(program, run_name="__main__")


if __name__ == "__main__":
    _main(*sys.argv[1:])
