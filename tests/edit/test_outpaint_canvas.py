"""Outpaint Canvas against core's pad node, OpenCV's and SciPy's blur, and NumPy's padding."""

import gc
import mmap

import numpy as np
import pytest
import torch
from comfy import model_management
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

import nodes
from kit import pictures
from kit.golden import GOLDEN
from kit.nodes import run_node
from kit.tensors import rand
from pentimento.model_patchers.edit.outpaint_canvas import PREFILLS, empty
from pentimento.model_patchers.fill.harmonic import harmonic
from pentimento.nodes.edit.outpaint_canvas import OutpaintCanvas
from pentimento.nodes.fill.fill_without_model import FillWithoutModel

pytestmark = pytest.mark.usefixtures("one_thread")
BLUR = np.load(GOLDEN / "blur.npz")
PREFILL = pytest.mark.parametrize("prefill", PREFILLS)
LENGTHS, SIDES = st.integers(1, 40), st.sampled_from((0, 0, 1, 5, 8, 24))
FOUR_SIDES = st.tuples(SIDES, SIDES, SIDES, SIDES)  # left, top, right, bottom
LIMITS = settings(max_examples=100)


def canvas(image, sides=(0, 0, 0, 0), overlap=50, blur=250, change=0.804, prefill="grey"):
    sizes = dict(zip(("left", "top", "right", "bottom"), sides, strict=True))
    return run_node(OutpaintCanvas, image=image, **sizes, overlap=overlap, blur=blur, change=change, prefill=prefill)


def core(image, sides, feathering):
    return nodes.ImagePadForOutpaint().expand_image(image, *sides, feathering)


def photograph(height=60, width=70):
    return pictures.photograph(height, width, top=100, left=60)


def inside(height, width, sides):
    """Where the picture lies on its canvas."""
    left, top, _, _ = sides
    return slice(top, top + height), slice(left, left + width)


@LIMITS
@given(LENGTHS, LENGTHS, FOUR_SIDES, st.integers(0, 20), st.sampled_from((1, 3)), st.integers(1, 2))
def test_without_prefill_it_is_core_pad_image_to_the_bit(height, width, sides, overlap, channels, batch):
    """As far as core's is right: where twice the overlap is less than the picture's height and width."""
    overlap = min(overlap, (min(height, width) - 1) // 2)
    image = rand(batch, height, width, channels)
    picture, _, new_area = canvas(image, sides, overlap)
    expected, mask = core(image, sides, overlap)
    assert torch.equal(picture, expected)
    assert torch.equal(new_area, mask)


def test_core_with_its_own_defaults():
    image, sides = photograph(200, 230), (0, 16, 64, 0)
    for ours, cores in zip(canvas(image, sides, 40)[::2], core(image, sides, 40), strict=True):
        assert torch.equal(ours, cores)


@settings(max_examples=40)
@given(LENGTHS, LENGTHS, FOUR_SIDES, st.integers(1, 60))
def test_where_core_drops_the_feather_it_is_that_of_each_side_on_a_larger_picture(height, width, sides, overlap):
    """Core's own numbers, from a picture so large that it keeps them, one side at a time; the strongest counts."""
    left, top, right, bottom = sides
    large = 2 * max(height, width, overlap) + 1
    expected = torch.zeros(height, width)
    for side, corner in enumerate(((0, 0), (0, 0), (0, -width), (-height, 0))):
        if sides[side]:
            alone = [8 * (i == side) for i in range(4)]
            mask = core(torch.zeros(1, large, large, 1), alone, overlap)[1][0][inside(large, large, alone)]
            expected = torch.maximum(expected, mask[corner[0] :, corner[1] :][:height, :width])
    expected = torch.nn.functional.pad(expected, (left, right, top, bottom), value=1)
    assert torch.equal(canvas(rand(1, height, width, 1), sides, overlap)[2][0], expected)


def test_core_drops_the_feather_and_this_does_not():
    image, sides = rand(1, 40, 100, 3), (0, 0, 8, 0)
    old, new = core(image, sides, 20)[1], canvas(image, sides, 20)[2]
    assert not old[..., :100].any()
    assert torch.equal(new[..., :80], torch.zeros(1, 40, 80))
    assert new[0, 0, 99] == pytest.approx((19 / 20) ** 2)


def map_by_hand(height, width, sides, overlap, blur, change):
    """The recipe in SciPy: what to keep, drawn and blurred in two dimensions."""
    left, top, right, bottom = sides
    keep = np.zeros((height + top + bottom, width + left + right))
    for y in range(height):
        for x in range(width):
            far = (not left or x >= overlap) and (not right or x < width - overlap)
            keep[top + y, left + x] = far and (not top or y >= overlap) and (not bottom or y < height - overlap)
    sigma = 0.3 * (((2 * blur + 1) - 1) * 0.5 - 1) + 0.8
    return change * (1 - ndimage.gaussian_filter(keep, sigma, mode="mirror", radius=blur))


@LIMITS
@given(LENGTHS, LENGTHS, FOUR_SIDES, st.integers(0, 30), st.integers(0, 70), st.floats(0, 1))
def test_the_change_map_is_the_recipe(height, width, sides, overlap, blur, change):
    """Also where the blur reaches further than the canvas, and the overlap further than the picture."""
    found = canvas(rand(1, height, width, 1), sides, overlap, blur, change)[1]
    assert found.dtype == torch.float32
    assert np.abs(found[0].numpy() - map_by_hand(height, width, sides, overlap, blur, change)).max() < 1e-6
    assert found.min() >= 0 and found.max() <= np.float32(change)


def test_the_change_map_is_that_of_opencv():
    """A corner: new on the left and below. With the usual third as sigma, or black borders, it would be far off."""
    expected = 1 - BLUR["corner_25"]
    found = canvas(rand(1, 70, 90, 3), (24, 0, 0, 32), 10, 25, 1.0)[1][0].numpy()
    assert np.abs(found - expected).max() < 1e-6
    keep = BLUR["mask_corner_25"] / 255
    third = ndimage.gaussian_filter(keep, 25 / 3, mode="mirror", radius=25)
    black = ndimage.gaussian_filter(keep, 8.0, mode="constant", radius=25)
    assert np.abs(1 - third - expected).max() > 0.01
    assert np.abs(1 - black - expected).max() > 0.5


def test_the_recipe_at_its_own_size():
    """OpenCV blurred bytes, so that its map is a level of 255 off at most; the defaults are the recipe's numbers."""
    expected = 1 - BLUR["recipe_250"] / 255.0
    found = canvas(rand(1, 1024, 768, 1), (0, 0, 256, 0))[1][0]
    assert np.abs(found.numpy() - expected).max() < 1 / 255
    assert (found == found[512]).all()
    assert found[0, 468] > 0 and found[0, 467] == 0, "250 px from the seam, which lies 50 px inside the picture"
    assert found[0, 967] < found[0, 968] == torch.tensor(0.804), "as in the recipe, it rises into the new area"


def test_far_from_the_seam_the_map_is_exactly_change_and_exactly_0():
    found = canvas(rand(1, 100, 300, 3), (200, 0, 0, 0), 10, 40, 0.3)[1]
    assert (found[..., :170] == torch.tensor(0.3)).all()
    assert (found[..., 250:] == 0).all()
    hard = canvas(rand(1, 100, 300, 3), (0, 7, 0, 0), 10, 0, 0.3)[1]
    assert (hard[:, :17] == torch.tensor(0.3)).all() and (hard[:, 17:] == 0).all()


@PREFILL
@pytest.mark.parametrize(
    ("channels", "sides"), [(1, (3, 5, 8, 9)), (3, (0, 0, 16, 0)), (4, (7, 0, 0, 2)), (4, (3, 5, 8, 9))]
)
def test_the_picture_keeps_every_bit_and_the_new_area_is_opaque(prefill, channels, sides):
    height, width = 19, 23
    image = rand(2, height, width, channels)
    picture, change_map, new_area = canvas(image, sides, 4, 6, 0.8, prefill)
    place = inside(height, width, sides)
    size = height + sides[1] + sides[3], width + sides[0] + sides[2]
    assert picture.shape == (2, *size, channels) and change_map.shape == new_area.shape == (1, *size)
    assert torch.equal(picture[:, place[0], place[1]], image)
    new = torch.ones(size, dtype=torch.bool)
    new[place] = False
    assert (new_area[0][new] == 1).all() and (new_area[0][~new] < 1).any()
    assert (picture[:, new][..., 3:] == 1).all()
    assert (picture >= 0).all() and (picture <= 1).all()


def test_grey_and_edge_are_numpy_padding():
    image, sides = rand(2, 9, 13, 3), (3, 5, 8, 0)
    padding = ((0, 0), (5, 0), (3, 8), (0, 0))
    assert np.array_equal(canvas(image, sides)[0], np.pad(image, padding, constant_values=0.5))
    assert np.array_equal(canvas(image, sides, prefill="edge")[0], np.pad(image, padding, mode="edge"))


@pytest.mark.parametrize("sides", [(12, 12, 12, 12), (0, 0, 0, 12), (8, 0, 4, 0)])
def test_harmonic_and_patchmatch_are_the_fills_of_these_names(sides):
    """As Fill Without a Model fills core's grey canvas; the harmonic one is that of the whole canvas at once."""
    image = photograph()
    grey, new_area = core(image, sides, 0)
    hole = new_area[0] > 0
    for prefill in ("harmonic", "patchmatch"):
        picture = canvas(image, sides, prefill=prefill)[0]
        assert torch.equal(picture, FillWithoutModel.execute(grey, new_area, prefill, 0).result[0])
        assert picture[0][hole].std() > 0.05
        if prefill == "harmonic":
            assert (picture[0] - harmonic(grey[0], hole)).abs().max() < 1e-5


def test_harmonic_lets_nothing_flow_across_the_canvas_border():
    """A plain picture goes on plain, and a single row or column of pixels goes on as it is."""
    assert (canvas(torch.full((1, 6, 9, 3), 0.7), (5, 3, 20, 9), prefill="harmonic")[0] - 0.7).abs().max() < 1e-5
    row = rand(1, 1, 40, 3)
    grown = canvas(row, (30, 0, 50, 0), prefill="harmonic")[0]
    assert (grown - canvas(row, (30, 0, 50, 0), prefill="edge")[0]).abs().max() < 1e-5


def test_the_seam_of_a_prefill_is_smooth_and_that_of_grey_is_not():
    image = photograph()
    steps = {}
    for prefill in PREFILLS:
        picture = canvas(image, (0, 0, 16, 0), prefill=prefill)[0]
        steps[prefill] = float((picture[:, :, 70] - picture[:, :, 69]).abs().mean())
    within = float(image.diff(dim=2).abs().mean())
    assert steps["edge"] == 0 and steps["harmonic"] < within
    assert steps["patchmatch"] < 2 * within < steps["grey"]


@PREFILL
def test_0_px_on_all_sides_changes_nothing(prefill):
    image = rand(2, 17, 11, 3)
    picture, change_map, new_area = canvas(image, prefill=prefill)
    assert torch.equal(picture, image)
    assert torch.equal(change_map, torch.zeros(1, 17, 11)) and torch.equal(new_area, torch.zeros(1, 17, 11))


@pytest.mark.parametrize("name", ["left", "top", "right", "bottom", "overlap", "blur"])
def test_negative_numbers_are_refused_in_a_sentence(name):
    """ComfyUI refuses them on the node itself; over a link they arrive as they are."""
    given = {"left": 8, "top": 0, "right": 0, "bottom": 0, "overlap": 4, "blur": 2} | {name: -8}
    with pytest.raises(
        ValueError, match=f"^{name} is -8 px but must be 0 or more. To make a picture smaller, crop it.$"
    ):
        OutpaintCanvas.execute(rand(1, 9, 9, 3), *given.values(), 0.804, "grey")
    widget = next(entry for entry in OutpaintCanvas.GET_SCHEMA().inputs if entry.id == name)
    assert widget.min == 0


@pytest.mark.parametrize("change", [-0.1, 1.5, float("nan")])
def test_a_change_out_of_range_is_refused_in_a_sentence(change):
    message = r"^change is .* but must be between 0 \(keep\) and 1 \(repaint from noise\)\.$"
    with pytest.raises(ValueError, match=message):
        OutpaintCanvas.execute(rand(1, 9, 9, 3), 8, 0, 0, 0, 4, 2, change, "grey")


def test_an_overlap_wider_than_the_picture():
    """All of it may change; core's mask goes on falling away from the new side."""
    _, change_map, new_area = canvas(rand(1, 10, 12, 3), (8, 0, 0, 0), 100, 9, 0.5)
    assert (change_map == 0.5).all()
    assert torch.equal(new_area[0, 3, 8:], torch.tensor([((100 - d) / 100) ** 2 for d in range(12)]))


@PREFILL
def test_a_batch_is_its_pictures_one_by_one(prefill):
    images, sides = torch.cat((photograph(24, 30), photograph(24, 30).flip(2))), (0, 8, 8, 0)
    batch = canvas(images, sides, 4, 6, 0.8, prefill)
    for image, picture in zip(images, batch[0], strict=True):
        alone = canvas(image[None], sides, 4, 6, 0.8, prefill)
        assert torch.equal(alone[0][0], picture)
        assert torch.equal(alone[1], batch[1]) and torch.equal(alone[2], batch[2]), "one map for the batch"


@pytest.mark.parametrize("prefill", ["harmonic", "edge", "grey"])
def test_four_times_to_the_right(prefill):
    """Progressive outpainting: what came before keeps its bits, and each map is about the new side alone."""
    image = photograph(18, 32)
    for _ in range(4):
        width = image.shape[2]
        grown, change_map, new_area = canvas(image, (0, 0, 8, 0), 6, 5, 0.8, prefill)
        assert torch.equal(grown[:, :, :width], image)
        assert not change_map[..., : width - 11].any() and not new_area[..., : width - 6].any()
        assert (change_map[..., width:] > 0.79).all() and (new_area[..., width:] == 1).all()
        image = grown
    assert image.shape == (1, 18, 64, 3)
    assert torch.equal(image[:, :, :32], photograph(18, 32))


@pytest.mark.parametrize("prefill", ["harmonic", "patchmatch"])
def test_the_same_bits_every_time_and_the_random_numbers_of_others_left_alone(prefill):
    first = canvas(photograph(), (8, 0, 16, 8), prefill=prefill)[0]
    torch.manual_seed(3)
    state = torch.get_rng_state()
    assert torch.equal(canvas(photograph(), (8, 0, 16, 8), prefill=prefill)[0], first)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("prefill", ["harmonic", "patchmatch"])
def test_a_fill_shows_its_progress_and_can_be_interrupted(prefill, bars):
    canvas(photograph(), (0, 0, 8, 0), prefill=prefill)
    assert [(bar.values[-1], bar.total) for bar in bars] == [(60 * 8, 60 * 8)]
    model_management.interrupt_current_processing()
    with pytest.raises(model_management.InterruptProcessingException):
        canvas(photograph(), (0, 0, 8, 0), prefill=prefill)


class NoHugePages(mmap.mmap):
    def madvise(self, *args):
        raise OSError("Invalid argument")


@pytest.mark.parametrize("system", ["huge pages", "kernel without", "no such call"])
def test_room_for_a_picture_is_memory_of_its_own(system, monkeypatch):
    if system == "kernel without":
        monkeypatch.setattr(mmap, "mmap", NoHugePages)
    elif system == "no such call":
        monkeypatch.delattr(mmap, "MADV_HUGEPAGE", raising=False)
    pictures = [empty(2, 7, 5, 3).fill_(value) for value in range(4)]
    gc.collect()
    for value, picture in enumerate(pictures):
        assert (picture == value).all()
        assert (picture.shape, picture.dtype, picture.is_contiguous()) == ((2, 7, 5, 3), torch.float32, True)
        assert torch.equal(picture.clone().mul_(2), picture + value)
