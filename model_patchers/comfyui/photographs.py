"""The photographs that the bundled workflows load. Load Image reads ComfyUI's input folder alone, so they go there."""

import logging
import os
import shutil
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "workflows" / "input"


def put(folder: Path) -> None:
    """Copies the photographs that `folder` lacks into it, and logs their names. A file that is there stays as it is.

    A folder that cannot be written to is no error: it is logged, and the workflows work with other pictures.
    """
    missing = [file for file in sorted(FOLDER.glob("*.png")) if not os.path.lexists(folder / file.name)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file in missing:
            _copy(file, folder / file.name)
    except OSError as error:
        logging.warning(
            "Pentimento: the photographs of its workflow templates could not be copied into '%s': %s. "
            "Copy them yourself from '%s', or choose pictures of your own in Load Image.",
            folder,
            error.strerror,
            FOLDER,
        )
    else:
        if missing:
            names = ", ".join(file.name for file in missing)
            logging.info("Pentimento: copied %s into '%s' for its workflow templates.", names, folder)


def _copy(file: Path, target: Path) -> None:
    """A process that is stopped in the middle leaves no half file under the target's name."""
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        shutil.copyfile(file, part)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
