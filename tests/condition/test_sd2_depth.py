"""SD2 Depth Conditioning against diffusers' StableDiffusionDepth2ImgPipeline, and at the edges."""

import pytest
import torch
import torch.nn.functional as F
from diffusers import StableDiffusionDepth2ImgPipeline
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from kit import run, thin
from kit.assertions import frozen, relative_error
from kit.nodes import run_node
from kit.tensors import rand, randn
from pentimento.model_patchers.condition.sd2_depth import depth_channel
from pentimento.nodes.condition.sd2_depth import DepthConditioning

pytestmark = pytest.mark.usefixtures("one_thread")
SIZE = 4, 6  # of the latent
CFG = 7.5


class Pipeline(StableDiffusionDepth2ImgPipeline):
    """With the start of the run handed in."""

    def prepare_latents(self, image, timestep, *_):
        return self.scheduler.add_noise(self.start, self.noise, timestep)


@pytest.fixture(scope="module")
def model(precision):
    return thin.host_model("depth")


@pytest.fixture(scope="module")
def unet():
    unet = thin.diffusers_unet("depth")
    unet.register_to_config(sample_size=64)
    return unet


def picture(batch=1, height=50, width=70, channels=3):
    """A grey depth map, of another range in each picture of a batch."""
    grey = rand(batch, height, width, 1, seed=3) * torch.linspace(0.3, 1, batch)[:, None, None, None]
    return grey.expand(-1, -1, -1, channels)


def condition(depth, samples, invert=False):
    positive, negative = run.prompts()
    inputs = {"positive": positive, "negative": negative, "latent": {"samples": samples}, "depth": depth}
    return run_node(DepthConditioning, **inputs, invert=invert)


def reference(unet, depth, noise, start=None, strength=1.0, steps=run.STEPS):
    """diffusers' result, and the sigmas that it went through. `depth` is (B, H, W)."""
    pipeline = Pipeline(None, None, None, unet, run.scheduler(), None, None)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.start, pipeline.noise = torch.zeros_like(noise) if start is None else start, noise
    result = pipeline(
        image=torch.zeros(len(noise), 3, 8 * SIZE[0], 8 * SIZE[1]),
        depth_map=depth,
        strength=strength,
        num_inference_steps=steps,
        guidance_scale=CFG,
        output_type="latent",
        **run.embeds(*run.prompts(), len(noise)),
    ).images
    return result, pipeline.scheduler.sigmas[-round(steps * strength) - 1 :]


@pytest.mark.both_devices
@pytest.mark.in_half
@pytest.mark.parametrize("batch, maps", [(1, 1), (2, 2), (2, 1)])
def test_equal_to_diffusers(model, unet, precision, batch, maps):
    depth, noise = picture(maps), randn(batch, 4, *SIZE, seed=5)
    theirs, sigmas = reference(unet, depth[..., 0], noise)
    ours = run.sample(model, *condition(depth, torch.zeros_like(noise)), noise, sigmas, CFG)
    near = precision.tolerance(1e-4, theirs, lambda: reference(precision.lowered(unet), depth[..., 0], noise)[0])
    assert relative_error(ours, theirs) < near


@pytest.mark.both_devices
def test_from_a_picture_equal_to_diffusers(model, unet):
    """denoise 0.5: the last two of four steps, from a noised latent."""
    depth, noise, start = picture(), randn(1, 4, *SIZE, seed=5), randn(1, 4, *SIZE, seed=6)
    theirs, sigmas = reference(unet, depth[..., 0], noise, start, strength=0.5)
    latent = start / 0.18215
    ours = run.sample(model, *condition(depth, latent), noise, sigmas, CFG, latent=latent)
    assert relative_error(ours, theirs) < 1e-4


def test_distances_are_inverted(model, unet):
    depth, noise = picture(), randn(1, 4, *SIZE, seed=5)
    theirs, sigmas = reference(unet, -depth[..., 0], noise)
    ours = run.sample(model, *condition(depth, torch.zeros_like(noise), invert=True), noise, sigmas, CFG)
    assert relative_error(ours, theirs) < 1e-4


@pytest.mark.in_half
def test_wrong_variants_are_far_off(model, unet, precision):
    depth, noise = picture(2), randn(2, 4, *SIZE, seed=5)
    theirs, sigmas = reference(unet, depth[..., 0], noise, steps=2)
    far = precision.tolerance(
        1e-2, theirs, lambda: reference(precision.lowered(unet), depth[..., 0], noise, steps=2)[0]
    )
    d = depth[..., :1].movedim(-1, 1)
    low, high = d.amin((1, 2, 3), keepdim=True), d.amax((1, 2, 3), keepdim=True)
    small = F.interpolate(d, SIZE, mode="bicubic")
    ours = depth_channel(depth, *SIZE)
    variants = {
        "stretched before it is resized": F.interpolate(2 * (d - low) / (high - low) - 1, SIZE, mode="bicubic"),
        "stretched over the whole batch": 2 * (small - small.min()) / (small.max() - small.min()) - 1,
        "not stretched": 2 * small - 1,
        "from 0 to 1": (ours + 1) / 2,
        "upside down": -ours,
        "another filter": depth_channel(F.interpolate(d, SIZE, mode="area").movedim(1, -1), *SIZE),
    }
    if precision.dtype == torch.bfloat16:
        del variants["stretched before it is resized"]  # 0.04 off, where rounding is 0.07
    for name, channel in variants.items():
        prompts = [[[text, values | {"noise_concat": channel}]] for [[text, values]] in condition(depth, noise)]
        assert relative_error(run.sample(model, *prompts, noise, sigmas, CFG), theirs) > far, name


def test_the_host_alone_cannot_run_the_model(model):
    noise = randn(1, 4, *SIZE, seed=5)
    with pytest.raises(RuntimeError, match="5 channels, but got 9"):
        run.sample(model, *run.prompts(), noise, run.scheduler().sigmas, CFG)


def test_both_prompts_run_in_one_batch_and_the_model_stays_as_it_was(model):
    batches = []

    def count(apply, options):
        batches.append(len(options["input"]))
        return apply(options["input"], options["timestep"], **options["c"])

    noise, before = randn(1, 4, *SIZE, seed=5), frozen(model)
    counted = model.clone()
    counted.set_model_unet_function_wrapper(count)
    rng = torch.get_rng_state()
    run.sample(counted, *condition(picture(), noise), noise, run.scheduler().sigmas, CFG)
    assert batches == [2] * run.STEPS
    assert torch.equal(torch.get_rng_state(), rng)
    assert frozen(model) == before


def test_other_keys_of_the_prompts_stay():
    positive, negative = run.prompts()
    positive[0][1]["strength"] = 0.5
    latent = {"samples": torch.zeros(1, 4, *SIZE)}
    ours, _ = DepthConditioning.execute(positive * 2, negative, latent, picture(), False).result
    assert [values["strength"] for _, values in ours] == [0.5, 0.5]
    assert list(positive[0][1]) == ["strength"], "an input was written to"


@pytest.mark.parametrize("channels", [1, 4])
def test_grey_and_transparent_maps(channels):
    grey = picture(channels=1)
    depth = grey if channels == 1 else torch.cat((grey.expand(-1, -1, -1, 3), torch.rand(1, 50, 70, 1)), -1)
    assert (depth_channel(depth, *SIZE) - depth_channel(picture(), *SIZE)).abs().max() < 1e-5


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 5)])
def test_maps_and_latents_of_every_size(size):
    for ours in (depth_channel(picture(1, *size), 8, 12), depth_channel(picture(), *size)):
        assert ours.isfinite().all()
        assert (ours >= -1).all() and (ours <= 1).all()


@pytest.mark.parametrize("invert", [False, True])
@pytest.mark.parametrize("value", [0.0, 0.3, 1.0, 1e4])
def test_a_flat_map_is_far_everywhere(invert, value):
    """Also in a batch with one that is not, and where resampling leaves rounding errors."""
    depth = torch.cat((torch.full((1, 50, 70, 3), value), picture()))
    flat, other = depth_channel(depth, *SIZE, invert)
    assert (flat == -1).all()
    assert torch.equal(other[None], depth_channel(picture(), *SIZE, invert))


@settings(max_examples=20)
@given(
    st.integers(2, 40), st.integers(2, 40), st.integers(1, 24), st.integers(1, 24), st.floats(0.01, 100), st.booleans()
)
def test_the_range_and_the_units_do_not_matter(height, width, h, w, unit, invert):
    """Rounding of the depths, of up to 6 units, counts by the span that is left of them in the latent's size."""
    depth = picture(1, height, width)
    resized = torch.nn.functional.interpolate(depth[..., :1].movedim(-1, 1), (h, w), mode="bicubic")
    span = float(resized.max() - resized.min())
    assume(span > 1e-4)  # flat maps have a test of their own
    ours = depth_channel(depth, h, w, invert)
    assert (depth_channel(unit * depth + 5 * unit, h, w, invert) - ours).abs().max() < 2e-5 / span
    assert float(ours.min()) == -1 and float(ours.max()) == 1


@pytest.mark.parametrize("invert", [False, True])
def test_infinity_is_the_end_of_the_finite_depths_and_nothing_measured_is_far(invert):
    """In the second of two pictures, whose own range counts."""
    rest = picture(2)[1, 12:]
    ends = {-torch.inf: rest.amin(), torch.inf: rest.amax(), torch.nan: rest.amax() if invert else rest.amin()}
    for value, end in ends.items():
        depth, expected = picture(2).clone(), picture(2).clone()
        depth[1, :12], expected[1, :12] = value, end
        channel = depth_channel(depth, 6, 8, invert)
        assert torch.equal(channel, depth_channel(expected, 6, 8, invert))
        assert (channel[1, 0, 0] < -0.9).all() == (end == rest.amax() if invert else end == rest.amin())


def test_depth_without_a_finite_number_is_refused():
    depth = picture(3).clone()
    depth[1] = torch.nan
    with pytest.raises(ValueError, match="depth has no finite number in picture 2"):
        depth_channel(depth, 6, 8)


def test_near_is_white():
    """A ramp towards the viewer at the bottom."""
    ramp = torch.linspace(0, 1, 64)[None, :, None, None].expand(1, 64, 64, 3)
    ours = depth_channel(ramp, 8, 8)[0, 0]
    assert (ours.diff(dim=0) > 0).all()
    assert torch.equal(depth_channel(ramp, 8, 8, invert=True)[0, 0], -ours)


def test_another_number_of_maps_is_refused():
    with pytest.raises(ValueError, match="depth is a batch of 3 but latent is a batch of 2"):
        condition(picture(3), torch.zeros(2, 4, *SIZE))
    with pytest.raises(ValueError, match="depth is a batch of 2 but latent is a batch of 1"):
        condition(picture(2), torch.zeros(1, 4, *SIZE))


def test_a_latent_of_a_video_is_refused():
    with pytest.raises(ValueError, match=r"latent has the shape \(1, 16, 3, 4, 6\)"):
        condition(picture(), torch.zeros(1, 16, 3, 4, 6))


def test_another_model_is_refused_before_sampling():
    noise = randn(1, 4, *SIZE, seed=5)
    with pytest.raises(ValueError, match="SD2 Depth Conditioning works with SD 2 Depth.*Stable Diffusion 2 "):
        run.sample(thin.host_model("sd2"), *condition(picture(), noise), noise, run.scheduler().sigmas, CFG)


def test_another_latent_is_refused_before_sampling(model):
    noise = randn(1, 4, 5, 6, seed=5)
    with pytest.raises(ValueError, match="latent of 6 x 4"):
        run.sample(model, *condition(picture(), torch.zeros(1, 4, *SIZE)), noise, run.scheduler().sigmas, CFG)
