"""Pictures of one, three and four channels; the model folders; progress."""

from pathlib import Path

import folder_paths
import numpy as np
import pytest
import torch
from comfy import model_management
from PIL import Image

from pentimento.model_patchers.comfyui import folders
from pentimento.model_patchers.comfyui.progress import Progress
from pentimento.model_patchers.pixels.images import put_rgb, to_rgb


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_to_rgb(channels, rng):
    image = torch.rand(2, 5, 6, channels, generator=rng)
    rgb = to_rgb(image)
    assert rgb.shape == (2, 5, 6, 3)
    for c in range(3):
        assert torch.equal(rgb[..., c], image[..., min(c, channels - 1)])


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_put_rgb_changes_the_hole_alone(channels, rng):
    image = torch.randn(2, 9, 7, channels, generator=rng)
    image[0, 0, 0] = float("nan")  # bits are kept, not values
    hole = torch.rand(2, 9, 7, generator=rng) > 0.5
    hole[0, 0, 0] = False
    before = image.clone()
    filled = put_rgb(image, torch.rand(2, 9, 7, 3, generator=rng, dtype=torch.float64), hole)
    assert filled.shape == image.shape and filled.dtype == image.dtype
    assert torch.equal(filled[~hole].view(torch.int32), before[~hole].view(torch.int32))
    assert (filled[hole][:, : min(channels, 3)] != before[hole][:, : min(channels, 3)]).all()
    assert torch.equal(filled[..., 3:].view(torch.int32), before[..., 3:].view(torch.int32)), "alpha is kept"
    assert torch.equal(image.view(torch.int32), before.view(torch.int32)), "the input was written to"


@pytest.mark.parametrize("channels", [3, 4])
def test_put_rgb_puts_the_colours_exactly(channels, rng):
    rgb = torch.rand(1, 4, 4, 3, generator=rng)
    filled = put_rgb(torch.zeros(1, 4, 4, channels), rgb, torch.ones(1, 4, 4, dtype=torch.bool))
    assert torch.equal(filled[..., :3], rgb)


def test_put_rgb_greys_as_pillow_does(rng):
    colours = torch.randint(0, 256, (1, 8, 8, 3), generator=rng)
    filled = put_rgb(torch.zeros(1, 8, 8, 1), colours / 255, torch.ones(1, 8, 8, dtype=torch.bool))
    grey = np.array(Image.fromarray(colours[0].to(torch.uint8).numpy()).convert("L"))
    assert np.abs(filled[0, ..., 0].numpy() * 255 - grey).max() <= 0.51


@pytest.fixture
def host_folders(monkeypatch, tmp_path):
    """ComfyUI's table of model folders without this pack's, and with its models in an empty place."""
    table = {k: v for k, v in folder_paths.folder_names_and_paths.items() if k not in folders.FOLDERS}
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", table)
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    monkeypatch.setattr(folder_paths, "models_dir", str(tmp_path / "models"))
    return tmp_path


def put(*files: Path):
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


def test_register_lists_model_files_only(host_folders):
    put(*(host_folders / "models" / "lama" / name for name in ("a.safetensors", "b.pt", "c.ckpt", "notes.txt")))
    folders.register()
    assert sorted(folders.filenames("lama")) == ["a.safetensors", "b.pt", "c.ckpt"]


def test_register_keeps_a_users_folder_and_cures_its_empty_set(host_folders):
    """extra_model_paths.yaml registers an unknown folder with no extensions, which ComfyUI reads as every file."""
    folder_paths.add_model_folder_path("inpaint", str(host_folders / "mine"))
    put(host_folders / "mine" / "big-lama.pt", host_folders / "mine" / "readme.md")
    assert "readme.md" in folder_paths.get_filename_list("inpaint")
    folder_paths.filename_list_cache.clear()
    folders.register()
    assert folders.filenames("inpaint") == ["big-lama.pt"]
    assert folder_paths.get_folder_paths("inpaint")[0] == str(host_folders / "mine"), "the user's folder comes first"


def test_register_keeps_another_packs_extensions(host_folders):
    folder_paths.folder_names_and_paths["inpaint"] = ([str(host_folders / "other")], {".patch"})
    put(host_folders / "other" / "fooocus.patch", host_folders / "models" / "inpaint" / "big-lama.pt")
    folders.register()
    folders.register()
    assert sorted(folders.filenames("inpaint")) == ["big-lama.pt", "fooocus.patch"]


def test_filenames_are_named_once_and_found_in_the_first_folder(host_folders):
    models = host_folders / "models"
    put(models / "inpaint" / "big-lama.pt", models / "lama" / "big-lama.pt", models / "lama" / "small.pt")
    folders.register()
    assert folders.filenames("inpaint", "lama") == ["big-lama.pt", "small.pt"]
    assert folders.full_path("big-lama.pt", "inpaint", "lama") == str(models / "inpaint" / "big-lama.pt")
    assert folders.full_path("small.pt", "inpaint", "lama") == str(models / "lama" / "small.pt")


def test_a_missing_file_says_where_it_belongs(host_folders):
    folders.register()
    with pytest.raises(FileNotFoundError, match="no file 'x.pt' in models/inpaint or models/lama. Put it there"):
        folders.full_path("x.pt", "inpaint", "lama")


def test_progress_moves_the_bar_and_hears_the_interrupt(bars, monkeypatch):
    progress = Progress(3)
    progress()
    progress(2)
    (bar,) = bars
    assert bar.values == [1, 3] and bar.total == 3
    monkeypatch.setattr(model_management, "interrupt_processing", True)
    with pytest.raises(model_management.InterruptProcessingException):
        progress()
    assert bar.values == [1, 3]
