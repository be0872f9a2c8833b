"""PatchMatch fill: repeated textures come back, irregular ones keep their statistics, and scikit-image does worse."""

import math

import numpy as np
import pytest
import skimage.data
import torch
from scipy import ndimage
from skimage.metrics import peak_signal_noise_ratio
from skimage.restoration import inpaint_biharmonic

from kit.tensors import rand
from pentimento.model_patchers.fill import patchmatch as patchmatch_module
from pentimento.model_patchers.fill import patchmatch_field, patchmatch_planes
from pentimento.model_patchers.fill.harmonic import harmonic
from pentimento.model_patchers.fill.patchmatch import patchmatch
from pentimento.model_patchers.fill.patchmatch_field import VOTERS, Field, Scale, encode, texture
from pentimento.model_patchers.fill.patchmatch_offsets import lattice, likeness
from pentimento.model_patchers.fill.patchmatch_seams import heal

pytestmark = pytest.mark.usefixtures("one_thread")


def hole_in(picture, top, left, height, width):
    hole = torch.zeros(picture.shape[:2], dtype=torch.bool)
    hole[top : top + height, left : left + width] = True
    return hole


def photograph(name, tint=(1.0, 1.0, 1.0)):
    """A grey photograph in some colour."""
    grey = torch.from_numpy(getattr(skimage.data, name)()).float() / 255
    return grey[..., None] ** torch.tensor(tint)


def psnr(filled, picture, hole):
    with np.errstate(divide="ignore"):  # equal pictures: infinite
        return peak_signal_noise_ratio(picture[hole].numpy(), filled[hole].numpy(), data_range=1)


def noise_tile(y, x, period):
    tile = rand(*period, 3, seed=5)
    return tile[y % period[0], x % period[1]]


def waves(y, x, period):
    a = (2 + torch.sin(2 * math.pi * y / period[0]) + torch.sin(2 * math.pi * x / period[1])) / 4
    return torch.stack((a, 1 - a, a**2), -1)


def bricks(y, x, period):
    shift = y // period[0] % 2 * (period[1] // 2)
    mortar = ((y % period[0] < 2) | ((x + shift) % period[1] < 2)).float()
    return torch.stack((0.6 + 0.2 * mortar, 0.3 + 0.5 * mortar, 0.2 + 0.5 * mortar), -1)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("side", [30, 90])
@pytest.mark.parametrize(
    ("texture", "period"),
    [(noise_tile, (8, 8)), (noise_tile, (17, 24)), (waves, (16, 16)), (waves, (21, 11)), (bricks, (12, 28))],
)
def test_a_periodic_texture_comes_back(texture, period, side, seed):
    y, x = torch.meshgrid(torch.arange(280), torch.arange(300), indexing="ij")
    picture = texture(y, x, period)
    hole = hole_in(picture, 101, 93, side, side + 7)
    assert psnr(patchmatch(picture, hole, seed), picture, hole) > 30
    assert psnr(harmonic(picture, hole), picture, hole) < 25, "this would pass without looking at the texture"


def receding(slant, size=(300, 320), period=(24, 56), over=4):
    """A brick wall in perspective, (H, W, 3): `slant` is the change of depth from the middle to the longer border."""
    y, x = ((torch.arange(n * over) + 0.5) / over - n / 2 for n in size)
    depth = 1 - (slant[0] * x + slant[1] * y[:, None]) / (max(size) / 2)
    fine = bricks((y[:, None] / depth + 1000) // 2, (x / depth + 1000) // 2, (period[0] // 2, period[1] // 2))
    return torch.nn.functional.avg_pool2d(fine.movedim(-1, 0), over).movedim(0, -1).contiguous()


@pytest.mark.parametrize("slant", [(0, -0.2), (0.15, 0.1), (0.2, -0.2)])
def test_bricks_in_perspective_go_on_straight(slant):
    """As the surroundings go on in the picture, the fill reaches 16 to 21 dB."""
    picture = receding(slant)
    hole = hole_in(picture, 95, 100, 90, 105)
    steps = []
    filled = patchmatch(picture, hole, 0, steps.append)
    assert psnr(filled, picture, hole) > 25
    assert torch.equal(filled[~hole], picture[~hole])
    assert sum(steps) == hole.sum()


def test_the_view_of_a_plane_has_bricks_of_one_size():
    """And the picture of the view is the picture: the way there and back ends where it began."""
    slant = (0.15, 0.1)
    picture = receding(slant)
    hole = hole_in(picture, 95, 100, 90, 105)
    plane = patchmatch_planes.find(picture, hole)
    corner = torch.tensor([[x, y] for y in (20.0, 150.0, 270.0) for x in (20.0, 160.0, 300.0)])
    assert (plane.to_picture(plane.to_view(corner)) - corner).abs().max() < 1e-6
    depth = 1 - ((corner + 0.5 - torch.tensor([160, 150])) @ torch.tensor(slant)) / 160
    wall = (corner + 0.5 - torch.tensor([160, 150])) / depth[:, None]  # in pixels of the straight wall
    scale = (plane.to_view(corner)[1:] - plane.to_view(corner)[:1]) / (wall[1:] - wall[:1])
    finite = scale[(wall[1:] - wall[:1]).abs() > 50]
    assert finite.max() / finite.min() < 1.02


@pytest.mark.parametrize("name", ["grass", "gravel", "astronaut", "camera", "coffee"])
def test_there_is_no_plane_where_nothing_repeats(name):
    picture = torch.from_numpy(getattr(skimage.data, name)()).float() / 255
    picture = picture.reshape(*picture.shape[:2], -1).expand(-1, -1, 3)
    assert patchmatch_planes.find(picture, hole_in(picture, 150, 180, 130, 120)) is None


@pytest.mark.parametrize("box", [(0, 0, 40, 60), (120, 270, 60, 50)], ids=["corner", "side"])
def test_holes_on_a_plane_may_touch_the_border(box):
    picture = receding((-0.25, 0.1))
    hole = hole_in(picture, *box)
    assert patchmatch_planes.find(picture, hole) is not None
    filled = patchmatch(picture.masked_fill(hole[..., None], torch.nan), hole, 0)
    assert ((filled >= 0) & (filled <= 1)).all()
    assert torch.equal(filled[~hole], picture[~hole])


def test_the_offsets_of_a_lattice_are_periods():
    y, x = torch.meshgrid(torch.arange(150), torch.arange(170), indexing="ij")
    unknown = torch.zeros(150, 170, dtype=torch.bool)
    offsets = lattice(likeness(noise_tile(y, x, (17, 24)), unknown), unknown)
    assert len(offsets) > 20
    assert (offsets % torch.tensor([17, 24]) == 0).all()
    assert not (offsets == 0).all(1).any()
    grass, unknown = photograph("grass").expand(-1, -1, 3), torch.zeros(512, 512, dtype=torch.bool)
    assert len(lattice(likeness(grass, unknown), unknown)) == 0


def roughness(picture, hole):
    """Mean absolute differences of neighbours, both within the hole: what blur takes away."""
    inner = torch.from_numpy(ndimage.binary_erosion(hole.numpy()))
    steps = (picture[1:, 1:] - picture[:-1, 1:]).abs() + (picture[1:, 1:] - picture[1:, :-1]).abs()
    return steps[inner[1:, 1:]].mean()


@pytest.mark.parametrize("name", ["grass", "gravel"])
def test_an_irregular_texture_keeps_its_spread_and_sharpness(name):
    picture = photograph(name, tint=(1.5, 0.8, 2.2))[100:400, 100:400]
    hole = hole_in(picture, 100, 110, 100, 90)
    filled = patchmatch(picture, hole, 0)
    spread = filled[hole].std(0) / picture[~hole].std(0)
    assert ((spread > 0.8) & (spread < 1.2)).all()
    assert 0.85 < roughness(filled, hole) / roughness(picture, ~hole) < 1.15
    assert (filled[hole].mean(0) - picture[~hole].mean(0)).abs().max() < 0.03


@pytest.mark.parametrize("name", ["grass", "gravel", "brick"])
def test_nearer_to_the_texture_than_biharmonic_inpainting(name):
    picture = photograph(name)[150:300, 150:300].expand(-1, -1, 3)
    hole = hole_in(picture, 55, 55, 36, 36)
    biharmonic = inpaint_biharmonic(picture.numpy(), hole.numpy(), channel_axis=-1)
    ours = patchmatch(picture, hole, 0)

    def off(filled):
        """How far the differences of neighbours are from those outside, in powers of e."""
        return (roughness(filled, hole) / roughness(picture, ~hole)).log().abs()

    assert off(ours) < off(torch.from_numpy(biharmonic)) / 3


def test_two_colours_give_no_third(rng):
    blobs = ndimage.gaussian_filter(torch.rand(160, 160, generator=rng).numpy(), 4)
    black = torch.from_numpy(blobs > np.median(blobs))[..., None]
    colours = torch.tensor([[0.9, 0.2, 0.1], [0.1, 0.3, 0.8]])
    picture = torch.where(black, colours[0], colours[1])
    hole = hole_in(picture, 50, 40, 60, 70)
    filled = patchmatch(picture, hole, 0)[hole]
    assert (filled[:, None] - colours).abs().amax(-1).amin(-1).max() < 1e-3
    assert len(filled.round().unique(dim=0)) == 2, "both colours occur"


def test_a_sky_has_no_seam():
    y, x = torch.meshgrid(torch.linspace(0, 1, 200), torch.linspace(0, 1, 260), indexing="ij")
    sky = torch.stack((0.2 + 0.3 * y, 0.3 + 0.3 * y + 0.1 * x, 0.6 + 0.2 * y + 0.15 * x**2), -1)
    hole = hole_in(sky, 20, 100, 150, 40)
    filled = patchmatch(sky, hole, 0)
    assert (filled - sky).abs().max() < 0.02
    steps = torch.cat([(filled.diff(dim=d) - sky.diff(dim=d)).abs().flatten() for d in (0, 1)])
    assert steps.max() < 0.5 / 255, "no step between neighbours that eight bits could show"


def test_heal_spreads_a_faint_jump_and_keeps_a_strong_one():
    hole = hole_in(torch.zeros(40, 80), 0, 20, 40, 40)

    def seam(jump):
        """The hole holds a copy of the left side; the right side is brighter."""
        picture = torch.full((40, 80, 3), 0.4)
        picture[:, 60:] += jump
        pixel = torch.arange(40).repeat_interleave(40) * 80 + 3
        origin = torch.arange(hole.numel())
        origin[hole.flatten()] = pixel
        pasted = picture.flatten(0, 1)[origin].view(picture.shape)
        correction = heal(picture, hole, torch.zeros_like(hole), origin.view(hole.shape))
        steps = (pasted + correction).diff(dim=1)[..., 0]
        return steps.abs().max() / jump

    assert seam(0.02) < 0.1
    assert seam(0.5) > 0.95


def test_likeness_is_the_mean_squared_difference(rng):
    picture, known = torch.rand(9, 11, 3, generator=rng), torch.rand(9, 11, generator=rng) < 0.8
    table = likeness(picture, ~known)
    for dy in range(-9, 10):
        for dx in range(-11, 12):
            pairs = [
                (picture[y, x] - picture[y + dy, x + dx]).square().sum()
                for y, x in known.nonzero().tolist()
                if 0 <= y + dy < 9 and 0 <= x + dx < 11 and known[y + dy, x + dx]
            ]
            expected = sum(pairs) / len(pairs) if len(pairs) > 32 else math.inf
            assert float(table[dy, dx]) == pytest.approx(float(expected), abs=1e-5)


def scale_of(picture, hole):
    pixels = torch.cat((picture, texture(picture, hole, 2)), -1)
    absent = torch.zeros_like(hole)
    return Scale.build(pixels.masked_fill(hole[..., None], 0), hole, absent, torch.Generator().manual_seed(0), 1)


def test_specks_cost_what_they_cover():
    """Only the patches that touch them are encoded, not all that lies between."""
    picture = photograph("gravel")[:300, :320].expand(-1, -1, 3)
    hole = hole_in(picture, 20, 30, 2, 2) | hole_in(picture, 270, 280, 1, 3) | hole_in(picture, 30, 38, 1, 1)
    scale = scale_of(picture, hole)
    assert sum(part.box.width * part.box.height for part in scale.parts) < 0.01 * hole.numel()
    assert torch.cat([part.targets for part in scale.parts]).sort()[0].equal(torch.arange(len(scale.target)))
    pictures = torch.stack((scale.pixels, 1 - scale.pixels))
    whole = encode(pictures, scale.filters)[:, scale.target]
    assert torch.allclose(scale.encode_targets(pictures), whole, rtol=1e-4, atol=1e-4)


def test_the_starts_of_a_small_hole_are_one_batch_with_the_bits_of_one_after_another(monkeypatch):
    picture = photograph("gravel")[:200, :220].expand(-1, -1, 3)
    calls = []
    monkeypatch.setattr(patchmatch_field, "encode", lambda *args: calls.append(len(args[0])) or encode(*args))
    for hole in (hole_in(picture, 90, 80, 2, 2), hole_in(picture, 60, 50, 40, 30)):
        calls.clear()
        together = patchmatch(picture, hole, 3)
        batched, batch = len(calls), max(calls)
        assert batch > 1
        with monkeypatch.context() as context:
            context.setattr(patchmatch_module, "TOGETHER", 1)
            calls.clear()
            assert torch.equal(patchmatch(picture, hole, 3), together)
        assert max(calls) == 1
        assert len(calls) > 0.7 * batch * batched


def test_a_vote_is_the_weighted_mean_of_the_patches_over_each_pixel(rng):
    """In float64, patch by patch; and in several portions, as the hole has more pixels than vote at once."""
    picture = photograph("gravel")[:110, :120].expand(-1, -1, 3)
    hole = hole_in(picture, 30, 0, 50, 50)
    assert hole.sum() > VOTERS
    scale = scale_of(picture, hole)
    sources = scale.source.flatten().nonzero()[:, 0]
    match = sources[torch.randint(len(sources), (len(scale.target),), generator=rng)]
    field = Field(scale, torch.stack((match.flip(0), match)), torch.Generator())
    field.distance = torch.rand(2, len(match), generator=rng)
    match, distance = field.match[1], field.distance[1]
    known, typical = scale.pixels.flatten(0, 1).double(), torch.quantile(distance, 0.75)
    weight = scale.trust.double() * (torch.exp(-2.0 * distance / typical) + 1e-9)
    total, weights = torch.zeros_like(known), torch.zeros(len(known), dtype=torch.double)
    for dy in range(-3, 4):
        for dx in range(-3, 4):
            move = dy * 120 + dx
            total.index_add_(0, scale.target + move, weight[:, None] * known[match + move])
            weights.index_add_(0, scale.target + move, weight)
    expected = (total / weights[:, None])[hole.flatten()]
    field.vote()
    voted = field.pixels[1]
    assert (voted[hole] - expected).abs().max() < 1e-5
    assert torch.equal(voted[~hole], scale.pixels[~hole])


def test_same_seed_same_bits_and_the_global_generator_is_left_alone():
    picture = photograph("grass")[:200, :200].expand(-1, -1, 3)
    hole = hole_in(picture, 60, 70, 60, 50)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = patchmatch(picture, hole, 7)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(patchmatch(picture, hole, 7), first)
    assert not torch.equal(patchmatch(picture, hole, 8), first)


def test_reads_nothing_inside_and_changes_nothing_outside():
    picture = photograph("gravel")[:150, :170].expand(-1, -1, 3).contiguous()
    hole = hole_in(picture, 40, 60, 50, 40)
    before = picture.clone()
    filled = patchmatch(picture, hole, 0)
    assert torch.equal(picture, before)
    assert torch.equal(filled[~hole], picture[~hole])
    assert torch.equal(patchmatch(picture.masked_fill(hole[..., None], torch.nan), hole, 0), filled)


@pytest.mark.parametrize(
    "box",
    [(0, 0, 60, 60), (100, 0, 60, 160), (0, 70, 160, 90), (0, 0, 160, 130)],
    ids=["corner", "edge", "half", "most"],
)
def test_holes_at_the_border(box):
    picture = photograph("gravel")[:160, :160].expand(-1, -1, 3)
    hole = hole_in(picture, *box)
    filled = patchmatch(picture, hole, 0)
    assert ((filled >= 0) & (filled <= 1)).all()
    assert roughness(filled, hole) > 0.65 * roughness(picture, ~hole)


@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (6, 300), (20, 20)])
def test_without_a_whole_patch_it_is_the_harmonic_fill(rng, shape):
    picture = torch.rand(*shape, 3, generator=rng)
    hole = torch.zeros(shape, dtype=torch.bool)
    hole[shape[0] % 6 // 2 :: 6] = True
    assert torch.equal(patchmatch(picture, hole, 0), harmonic(picture, hole))


def test_one_whole_patch_is_enough(rng):
    picture = torch.rand(9, 30, 3, generator=rng)
    hole = hole_in(picture, 0, 7, 9, 23)
    assert not torch.equal(patchmatch(picture, hole, 0), harmonic(picture, hole))
    colours = {tuple(colour) for colour in picture[~hole].tolist()}
    assert len(colours) == 63


@pytest.mark.parametrize("side", [5, 60, 90])
def test_steps_add_up_to_the_pixels(side):
    picture = photograph("brick")[:220, :220].expand(-1, -1, 3)
    hole, steps = hole_in(picture, 60, 60, side, side), []
    patchmatch(picture, hole, 0, steps.append)
    assert sum(steps) == side**2
    assert min(steps) >= 0
    assert max(steps) <= 0.5 * side**2 + 1, "the bar moves along the way"
