"""The model folders of this pack. ComfyUI knows them, so that a user's extra_model_paths.yaml can add to them."""

from pathlib import Path

import folder_paths

from .model_files import versions

FOLDERS = ("sams", "sam2", "inpaint", "lama", "unclip", "ella", "sttn", "ostrack", "lpips")
TEXTS = {"wildcards": {".txt", ".yaml", ".yml", ".json"}}  # folders of texts, and the files in them


def register() -> None:
    """Adds models/<name> for each of FOLDERS and TEXTS, and has ComfyUI list their files alone.

    Model files may end in .th and .pth.tar too. A folder that the user's own configuration or another pack made first
    has an empty set of extensions, which ComfyUI reads as "every file".
    """
    for name in (*FOLDERS, *TEXTS):
        folder_paths.add_model_folder_path(name, str(Path(folder_paths.models_dir) / name))
        paths, extensions = folder_paths.folder_names_and_paths[name]
        models = folder_paths.supported_pt_extensions | {".th", ".tar"}  # ViT-L-14_stats.th, OSTrack_ep0300.pth.tar
        folder_paths.folder_names_and_paths[name] = (paths, set(extensions) | TEXTS.get(name, models))


def filenames(*names: str) -> list[str]:
    """Every model file of the named folders, without doubles, in ComfyUI's order."""
    return list(dict.fromkeys(file for name in names for file in folder_paths.get_filename_list(name)))


def full_path(file: str, *names: str) -> str:
    """The file's path in the first of the named folders that has it.

    Raises:
        FileNotFoundError: No folder has it.
    """
    for name in names:
        if path := folder_paths.get_full_path(name, file):
            return path
    raise FileNotFoundError(
        f"There is no file '{file}' in models/{' or models/'.join(names)}. "
        "Put it there, press R in the browser to reread the folders, and choose it again."
    )


def fingerprint(file: str | None, *names: str) -> str:
    """For a node's fingerprint_inputs: another text once a file of the model was replaced.

    Args:
        file: The name, as for full_path. None: it comes over a link, and ComfyUI does not know it yet.

    Returns:
        Times and sizes of the model's files; "" if one is missing, which the node itself reports.
    """
    if file is None:
        return ""
    try:
        return versions(full_path(file, *names))
    except (FileNotFoundError, ValueError):
        return ""
