"""Fill Without a Model as a node: what goes in, what comes out, and what stays as it was."""

import gc

import folder_paths
import numpy as np
import pytest
import skimage.data
import torch
from comfy import model_management
from PIL import Image
from scipy import ndimage

import nodes
from kit.nodes import run_node
from kit.pictures import box_mask
from pentimento.model_patchers.fill.fill_without_model import METHODS
from pentimento.model_patchers.fill.harmonic import harmonic
from pentimento.model_patchers.fill.patchmatch import patchmatch
from pentimento.model_patchers.pixels.masks import selected
from pentimento.nodes.fill.fill_without_model import FillWithoutModel

pytestmark = pytest.mark.usefixtures("one_thread")
METHOD = pytest.mark.parametrize("method", METHODS)


def fill(image, mask, method="patchmatch", seed=0):
    return run_node(FillWithoutModel, image=image, mask=mask, method=method, seed=seed)[0]


def gravel(height=160, width=200, channels=3):
    """(1, H, W, C), every channel another part of the photograph."""
    parts = [torch.from_numpy(skimage.data.gravel()[30 * c :, 40 * c :][:height, :width]) for c in range(channels)]
    return torch.stack(parts, -1)[None].float() / 255


@METHOD
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_outside_the_mask_every_bit_stays(method, channels):
    image, mask = gravel(channels=channels), box_mask(160, 200, (50, 40, 40, 30), (0, 130, 25, 30))
    filled = fill(image, mask, method)
    hole = mask > 0
    assert filled.shape == image.shape
    assert torch.equal(filled[~hole], image[~hole])
    assert torch.equal(filled[..., 3:], image[..., 3:]), "the alpha channel"
    changed = (filled != image)[..., :3].any(-1)
    assert changed[hole].float().mean() > 0.9


@METHOD
def test_a_faint_stroke_is_filled_like_a_strong_one_and_fainter_noise_is_not(method):
    image, mask = gravel(), box_mask(160, 200, (50, 40, 40, 30))
    assert torch.equal(fill(image, mask * 0.1, method), fill(image, mask, method))
    assert torch.equal(fill(image, mask * 0.05, method), image)


def saved(folder):
    """The same picture with the same hole in many files: {name: the file's picture is grey}."""
    colours = Image.fromarray(skimage.data.astronaut()[40:104, 60:156])
    alpha = Image.fromarray(np.uint8(255 * (hole_of_files() == 0)))
    grey = colours.convert("L")
    for picture in (colours, grey):
        picture.putalpha(alpha)
    colours.save(folder / "plain.png")
    colours.save(folder / "lossless.webp", lossless=True, exact=True)
    grey.save(folder / "grey.png")
    grey.save(folder / "grey.webp", lossless=True, exact=True)
    return {"plain.png": False, "lossless.webp": False, "grey.png": True, "grey.webp": True}


def hole_of_files():
    """An ellipse, 1 in (64, 96)."""
    y, x = np.ogrid[:64, :96]
    return np.float32(((y - 30) / 11) ** 2 + ((x - 43) / 13) ** 2 < 1)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Load Image's folder."""
    monkeypatch.setattr(folder_paths, "input_directory", str(tmp_path))
    return tmp_path


def test_every_form_of_a_file_fills_the_same_pixels(folder):
    """Load Image gives their opaque pixels 5e-5 (lossless WebP) or 1/257 (LA PNG): 6144 pixels are above 0."""
    hole, hazy = torch.from_numpy(hole_of_files())[None] > 0, 0
    for name, is_grey in saved(folder).items():
        image, mask = nodes.LoadImage().load_image(name)
        hazy += bool((mask > 0).all())
        assert torch.equal(selected(mask), hole), name
        filled = fill(image, mask, "harmonic")
        assert torch.equal(filled[~hole], image[~hole]), name
        assert torch.equal(filled, fill(image, hole.float(), "harmonic")), name
        assert is_grey or (filled != image).any(-1)[hole].float().mean() > 0.9
    assert hazy, "a threshold of 0 would take whole pictures"


def test_a_picture_without_a_hole_keeps_every_bit_in_any_form(folder):
    colours = Image.fromarray(skimage.data.astronaut()[40:104, 60:156])
    colours.convert("CMYK").save(folder / "cmyk.jpg")
    colours.save(folder / "plain.jpg")
    colours.convert("LA").save(folder / "grey.png")
    for name in ("cmyk.jpg", "plain.jpg", "grey.png"):
        image, mask = nodes.LoadImage().load_image(name)
        assert torch.equal(fill(image, mask), image), name


def test_a_jpeg_mask_fills_the_hole_and_nothing_beyond_the_blocks_at_its_edge(folder):
    hole = hole_of_files()
    noise = np.random.default_rng(0).integers(0, 13, hole.shape) * (np.random.default_rng(1).random(hole.shape) < 0.01)
    Image.fromarray(np.uint8(np.maximum(255 * hole, noise))).save(folder / "mask.jpg", quality=95)
    (mask,) = nodes.LoadImageMask().load_image_mask("mask.jpg", "red")
    chosen = selected(mask)[0].numpy()
    blocks = hole.reshape(8, 8, 12, 8).max((1, 3)).repeat(8, 0).repeat(8, 1)
    near = ndimage.binary_dilation(blocks, np.ones((3, 3)), iterations=8)
    assert chosen[hole > 0].all()
    assert not chosen[~near].any()
    assert (mask[0].numpy() > 0)[~near].any(), "a threshold of 0 would fill the noise"


@METHOD
def test_a_grey_picture_is_filled_like_its_three_equal_channels(method):
    image, mask = gravel(channels=1), box_mask(160, 200, (50, 40, 40, 30))
    three = fill(image.expand(-1, -1, -1, 3), mask, method)
    assert (fill(image, mask, method) - three).abs().max() < 1e-5


@METHOD
@pytest.mark.parametrize("size", [(64, 64), (160, 200)])
def test_an_empty_mask_returns_the_picture(method, size):
    image = gravel()
    assert torch.equal(fill(image, torch.zeros(1, *size), method), image)


@METHOD
def test_a_full_mask_gives_mid_grey_and_is_told_in_the_log(method, caplog):
    assert (fill(gravel(), torch.ones(1, 160, 200), method) == 0.5).all()
    assert "Fill Without a Model: the mask selects up to 100 % of 1 of the 1 pictures" in caplog.text


@METHOD
def test_a_batch_is_its_pictures_one_by_one(method):
    image = torch.cat((gravel(60, 70), gravel(60, 70).flip(1)))
    masks = torch.cat((box_mask(60, 70, (30, 20, 9, 10)), box_mask(60, 70, (50, 40, 12, 9))))
    pairs = [(image, masks[:1], (0, 1), (0, 0)), (image[:1], masks, (0, 0), (0, 1)), (image, masks, (0, 1), (0, 1))]
    for pictures, holes, i, m in pairs:
        alone = [fill(image[a : a + 1], masks[b : b + 1], method) for a, b in zip(i, m, strict=True)]
        assert torch.equal(fill(pictures, holes, method), torch.cat(alone))


def test_another_number_of_masks_is_refused():
    with pytest.raises(ValueError, match="mask is a batch of 3 but image is a batch of 2"):
        fill(gravel().expand(2, -1, -1, -1), torch.ones(3, 160, 200))


def test_a_mask_of_another_size_is_resized_and_of_other_proportions_refused():
    image, mask = gravel(), box_mask(80, 100, (25, 20, 15, 10))
    assert torch.equal(fill(image, mask), fill(image, box_mask(160, 200, (50, 40, 30, 20))))
    with pytest.raises(ValueError, match="mask is 90 x 100 but image is 200 x 160"):
        fill(image, torch.ones(1, 100, 90))


@METHOD
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 5), (7, 7), (8, 40)])
def test_tiny_pictures(method, size):
    image, mask = gravel(*size), torch.zeros(1, *size)
    mask[:, size[0] // 2, size[1] // 2 :] = 1
    filled = fill(image, mask, method)
    assert torch.equal(filled[mask == 0], image[mask == 0])
    assert ((filled >= 0) & (filled <= 1)).all()
    assert torch.equal(filled, fill(image.masked_fill(mask[..., None] > 0, 0.5), mask, method)), "the hole is not read"


@METHOD
def test_a_long_picture(method):
    image = torch.cat([gravel(300, 400).flip(2 - i % 2) for i in range(10)], 2)
    mask = box_mask(300, 4000, (20, 100, 50, 40), (2000, 0, 12, 300), (3990, 280, 10, 20))
    filled = fill(image, mask, method)
    assert filled.shape == image.shape
    assert torch.equal(filled[mask == 0], image[mask == 0])
    assert filled[mask > 0].std() > 0.05


def test_each_hole_is_filled_from_its_own_surroundings():
    """What lies far away in a big picture has no say, and takes no time."""
    image = gravel(400, 430)
    mask = box_mask(400, 430, (220, 200, 20, 25))
    far = image.clone()
    far[:, :100] = 0
    far[:, :, 380:] = 1
    filled, hole = fill(image, mask), mask > 0
    assert torch.equal(fill(far, mask)[hole], filled[hole])
    crop = slice(200 - 64, 225 + 64), slice(220 - 64, 240 + 64)
    assert torch.equal(filled[0][crop], patchmatch(image[0][crop], hole[0][crop], 0))


def test_the_methods_are_what_they_are_called():
    image, mask = gravel(), box_mask(160, 200, (50, 40, 40, 30))
    hole = mask[0] > 0
    assert (fill(image, mask, "harmonic")[0] - harmonic(image[0], hole)).abs().max() < 1e-5
    # all of a picture this size is within reach of the hole in its middle
    image, mask = gravel(100, 90), box_mask(100, 90, (30, 35, 30, 30))
    assert torch.equal(fill(image, mask)[0], patchmatch(image[0], mask[0] > 0, 0))


def test_the_seed_decides_and_nothing_else():
    image, mask = gravel(), box_mask(160, 200, (50, 40, 50, 60))
    first = fill(image, mask, seed=2**64 - 1)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    assert torch.equal(fill(image, mask, seed=2**64 - 1), first)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(fill(image, mask, seed=1), first)


@METHOD
@pytest.mark.parametrize("channels", [1, 4])
def test_what_the_hole_covers_may_be_anything(method, channels):
    image, mask = gravel(80, 90, channels), torch.zeros(1, 80, 90)
    mask[:, 20:40, 30:60] = 1
    broken = image.masked_fill((mask > 0)[..., None] & (torch.arange(channels) < 3), torch.nan)
    assert torch.equal(fill(broken, mask, method), fill(image, mask, method))


@METHOD
def test_a_broken_pixel_beside_the_hole_is_refused(method):
    image, mask = gravel(80, 90), torch.zeros(1, 80, 90)
    mask[:, 20:40, 30:60] = 1
    image[0, 40, 30] = torch.inf
    with pytest.raises(ValueError, match="image has NaN or infinity in 1 of its 6600 pixels outside the mask"):
        fill(image, mask, method)


@METHOD
def test_the_bar_ends_at_its_total(method, bars):
    fill(gravel(), box_mask(160, 200, (10, 10, 40, 30), (170, 130, 20, 20)), method)
    assert [(bar.values[-1], bar.total) for bar in bars] == [(1600, 1600)]


@METHOD
def test_an_interrupted_fill_leaves_nothing_behind(method):
    image, mask = gravel(), box_mask(160, 200, (50, 40, 50, 60))
    expected = fill(image, mask, method)

    def tensors():
        gc.collect()
        return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())

    before, held = image.clone(), tensors()
    model_management.interrupt_current_processing()
    with pytest.raises(model_management.InterruptProcessingException):
        FillWithoutModel.execute(image, mask, method, 0)
    assert tensors() <= held + 1  # + before itself
    assert torch.equal(image, before)
    assert torch.equal(fill(image, mask, method), expected)
