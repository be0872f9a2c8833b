"""Conditionings in windows: each window computes the cropped problem alone, and where the denoiser looks at each pixel
alone, all of them together compute what ComfyUI computes without windows.
"""

import comfy.controlnet
import comfy.sampler_helpers
import comfy.samplers
import pytest
import torch
from comfy import model_management
from comfy.patcher_extension import WrappersMP
from hypothesis import given, settings
from hypothesis import strategies as st

from kit import narrow
from kit.assertions import relative_error
from kit.tensors import rand, randn
from pentimento.model_patchers.comfyui.patching import Call
from pentimento.model_patchers.condition import instruct_pix2pix_step, sd_x4
from pentimento.model_patchers.upscale import tiles, windows

pytestmark = pytest.mark.usefixtures("one_thread")
SIZE = 8  # of the windows, in latent pixels
SIGMA = 2.5


@pytest.fixture(scope="module")
def models():
    """ComfyUI's models by kind, loaded once, as they are while sampling."""
    patchers = {}

    def ready(kind):
        if kind not in patchers:
            patchers[kind] = narrow.flux() if kind == "flux" else narrow.host_model(kind)
            model_management.load_models_gpu([patchers[kind]])
        patchers[kind].pre_run()
        return patchers[kind].model

    return ready


def text(seed, rows=1):
    return randn(rows, 7, narrow.WIDTH, seed=seed)


def as_sampled(model, conds, x, **values):
    """Conditionings as ComfyUI's sampler has them."""
    named = dict(zip(("positive", "negative"), map(comfy.sampler_helpers.convert_cond, conds), strict=True))
    return list(comfy.samplers.process_conds(model, x, named, x.device, seed=0, **values).values())


def whole(model, conds, x, options=None):
    """ComfyUI without windows."""
    sigma = x.new_full(x.shape[:1], SIGMA)
    return comfy.samplers.calc_cond_batch(model, conds, x, sigma, options or {"transformer_options": {}})


def fused(model, conds, x, plan, batch=0, options=None, cache=None):
    host, sigma, weight = comfy.samplers.calc_cond_batch, x.new_full(x.shape[:1], SIGMA), tiles.gaussian(*plan[0].size)
    options = options or {"transformer_options": {}}
    return windows.evaluate(Call(host, model, conds, x, sigma, options), plan, weight, batch, cache)


def grid(x, overlap=0, generator=None):
    return tiles.grid(*x.shape[-2:], (SIZE, SIZE), overlap, generator)


def close(ours, theirs, tolerance=2e-5):
    return all(torch.allclose(a, b, atol=tolerance, rtol=1e-5) for a, b in zip(ours, theirs, strict=True))


# The cropped problem


class Adapter(torch.nn.Module):
    """A T2I adapter for the narrow UNet."""

    unshuffle_amount = 8

    def forward(self, hint):
        cells = torch.nn.functional.pixel_unshuffle(hint, 8)
        weights = randn(narrow.WIDTH, cells.shape[1], 1, 1, seed=6).to(cells) / cells.shape[1] ** 0.5
        return {"input": [torch.nn.functional.conv2d(cells, weights)]}


def controlled(network):
    """Prompts with a ControlNet: its hint has half the picture's pixels, and is made twice as large."""

    def conds(x, cut, rows):
        hint = rand(rows, 3, 4 * x.shape[-2], 4 * x.shape[-1], seed=7)
        control = network().set_cond_hint(cut(hint.repeat_interleave(2, -1).repeat_interleave(2, -2), 8), 0.9)
        model_management.load_models_gpu(control.get_models())
        return [[[text(seed), {"control": control}]] for seed in (1, 2)], {}

    return conds


def regional(x, cut, rows):
    mask = rand(rows, *x.shape[-2:], seed=3)
    regions = [[text(1), {"mask": cut(mask)}], [text(2), {"mask": cut(1 - mask), "strength": 0.5}]]
    return [regions, [[text(3, rows), {}]]], {}


def inpainted(x, cut, rows):
    mask = (rand(1, 1, *x.shape[-2:], seed=3) > 0.5).to(x)
    return [[[text(1), {}]], [[text(2), {}]]], {"denoise_mask": cut(mask), "latent_image": cut(x)}


def inpaint_model(x, cut, rows):
    mask, latent = (rand(rows, 1, *x.shape[-2:], seed=3) > 0.5).float(), randn(rows, *x.shape[1:], seed=4)
    values = {"concat_mask": cut(mask), "concat_latent_image": cut(latent)}
    return [[[text(seed), values]] for seed in (1, 2)], {}


def edited(x, cut, rows):
    values = {"concat_latent_image": cut(randn(rows, *x.shape[1:], seed=4))}
    return [[[text(1), values]], [[text(2), {}]]], {}


def upscaled(x, cut, rows):
    noised = cut(randn(rows, 3, *x.shape[-2:], seed=4))
    return [[[text(seed), {"model_conds": {"noised": noised}}]] for seed in (1, 2)], {}


FEATURES = {
    "regional masks": ("sd15", regional),
    "ControlNet": ("sd15", controlled(narrow.controlnet)),
    "T2I adapter": ("sd15", controlled(lambda: comfy.controlnet.T2IAdapter(Adapter(), 3, 8, "nearest-exact"))),
    "inpaint mask": ("inpaint", inpainted),
    "inpainting model": ("inpaint", inpaint_model),
    "InstructPix2Pix": ("ip2p", edited),
    "x4": ("x4", upscaled),
}


def problem(feature, model, x, cut, rows=1):
    conds, values = FEATURES[feature][1](x, cut, rows)
    conds = as_sampled(model, conds, cut(x), **values)
    for cond in (cond for some in conds for cond in some):
        if "noised" in cond["model_conds"]:
            noised = cond["model_conds"].pop("noised")
            cond["model_conds"] |= sd_x4.model_inputs(noised, 20, cond, None, x.device)
    return conds


def crop(window):
    """By slices, and not by what is tested."""
    (top, left), (h, w) = window.origin, window.size

    def cut(tensor, scale=1):
        return tensor[..., scale * top : scale * (top + h), scale * left : scale * (left + w)]

    return cut


def squeezed(tensor, scale=1):
    """A fault: all of a mask, picture or hint in each window."""
    as_picture = tensor if tensor.ndim == 4 else tensor[:, None]
    return torch.nn.functional.interpolate(as_picture, (SIZE * scale, SIZE * scale)).view(
        *tensor.shape[:-2], SIZE * scale, SIZE * scale
    )


@pytest.mark.both_devices
@pytest.mark.parametrize("feature", FEATURES)
def test_a_window_computes_the_cropped_problem_alone(models, feature):
    """With masks, pictures and hints of their own for two samples, one and three windows in a call."""
    model = models(FEATURES[feature][0])
    x = randn(2, 4, SIZE, 3 * SIZE, seed=0).to(model_management.get_torch_device())
    conds = problem(feature, model, x, lambda tensor, scale=1: tensor, 2)
    alone, together = (fused(model, conds, x, grid(x), batch) for batch in (1, 3))
    assert close(alone, together, 1e-4)
    for cut in map(crop, grid(x)):
        expected = whole(model, problem(feature, model, x, cut, 2), cut(x))
        assert all(relative_error(cut(ours), theirs) < 1e-6 for ours, theirs in zip(alone, expected, strict=True))
        faulty = problem(
            feature, model, x, lambda tensor, scale=1, cut=cut: (cut if tensor is x else squeezed)(tensor, scale), 2
        )
        found = whole(model, faulty, cut(x))
        assert max(relative_error(cut(ours), theirs) for ours, theirs in zip(alone, found, strict=True)) > 1e-3, (
            "a fault passes"
        )


def test_each_sample_has_its_own_noise_level(models):
    model, host, weight = models("sd15"), comfy.samplers.calc_cond_batch, tiles.uniform(SIZE, SIZE)
    x, sigma = randn(2, 4, SIZE, 3 * SIZE, seed=0), torch.tensor([SIGMA, SIGMA / 5])
    conds, options = as_sampled(model, [[[text(1), {}]], []], x), {"transformer_options": {}}
    found = windows.evaluate(Call(host, model, conds, x, sigma, options), grid(x), weight, 3)[0]
    for row in (slice(0, 1), slice(1, 2)):
        alone = windows.evaluate(Call(host, model, conds, x[row], sigma[row], options), grid(x), weight, 1)[0]
        assert relative_error(found[row], alone) < 1e-5


@pytest.mark.both_devices
def test_three_way_guidance_with_a_controlnet(models):
    """InstructPix2Pix's guider has ControlNets told other roles; its ControlNet is cut to windows all the same."""
    model, network = models("ip2p"), narrow.controlnet()
    model_management.load_models_gpu(network.get_models())
    x = randn(1, 4, SIZE, 3 * SIZE, seed=0).to(model_management.get_torch_device())
    hint, picture = rand(1, 3, 8 * SIZE, 24 * SIZE, seed=7), randn(1, 4, SIZE, 3 * SIZE, seed=4)

    def predicted(cut, wrappers):
        values = {"concat_latent_image": cut(picture), "control": network.copy().set_cond_hint(cut(hint, 8), 0.9)}
        image, full = as_sampled(model, [[[text(seed), values]] for seed in (1, 2)], cut(x))
        conds = [instruct_pix2pix_step.without_image(image), image, full]
        options = {"transformer_options": {"wrappers": {WrappersMP.CALC_COND_BATCH: {windows.KEY: wrappers}}}}
        sigma = x.new_full((1,), SIGMA)
        return instruct_pix2pix_step.calc_cond_batch(model, conds, cut(x), sigma, options)

    found = predicted(
        lambda tensor, scale=1: tensor, [windows.Windowed(windows.Plan("average", SIZE, 0, False, 0), 0).wrap]
    )
    for cut in map(crop, grid(x)):
        expected = predicted(cut, [])
        assert all(relative_error(cut(ours), theirs) < 1e-6 for ours, theirs in zip(found, expected, strict=True))


def test_three_way_guidance_resizes_a_hint_once_in_a_run(models):
    model, control = models("ip2p"), narrow.controlnet().set_cond_hint(rand(1, 3, 8 * SIZE, 16 * SIZE, seed=7), 0.9)
    model_management.load_models_gpu(control.get_models())
    x = randn(1, 4, SIZE, 2 * SIZE, seed=0)
    values = {"concat_latent_image": x, "control": control}
    image, full = as_sampled(model, [[[text(seed), values]] for seed in (1, 2)], x)
    windowed = windows.Windowed(windows.Plan("average", SIZE, 0, False, 0), 0)
    options = {"transformer_options": {"wrappers": {WrappersMP.CALC_COND_BATCH: {windows.KEY: [windowed.wrap]}}}}
    hints = []
    for sigma in (SIGMA, SIGMA / 2):
        conds = [instruct_pix2pix_step.without_image(image), image, full]
        instruct_pix2pix_step.calc_cond_batch(model, conds, x, torch.full((1,), sigma), options)
        hints.append([hint for parts in windowed.cache.hints.values() for hint in parts])
    assert len(hints[0]) == 1 and len(hints[1]) == 1 and hints[0][0] is hints[1][0]


def test_a_window_of_sdxl_is_told_where_it_was_cut_out(models):
    """crop_h and crop_w as ComfyUI makes them for the cropped picture; at the corner nothing changes, to the bit."""
    model = models("sdxl")
    x = randn(2, 4, 2 * SIZE, 2 * SIZE, seed=0)

    def conds(like, top, left):
        values = {"pooled_output": randn(1, 1280, seed=4), "width": 640, "height": 512, "crop_w": 16}
        moved = {"crop_h": 8 * top, "crop_w": 16 + 8 * left}
        return as_sampled(model, [[[text(seed), values | moved]] for seed in (1, 2)], like)

    found = fused(model, conds(x, 0, 0), x, grid(x), 1)
    assert close(found, fused(model, conds(x, 0, 0), x, grid(x), 4), 1e-4)
    for window in grid(x):
        cut = crop(window)
        expected = whole(model, conds(cut(x), *window.origin), cut(x))
        assert all(relative_error(cut(ours), theirs) < 1e-6 for ours, theirs in zip(found, expected, strict=True))
        untold = whole(model, conds(cut(x), 0, 0), cut(x))
        differs = relative_error(cut(found[0]), untold[0])
        assert differs > 1e-3 if any(window.origin) else torch.equal(cut(found[0]), untold[0])


@pytest.mark.both_devices
def test_a_lora(models):
    """Weights are the whole model's, and so in each window."""
    models("sd15")
    patcher = narrow.host_model("sd15")
    weights = {"diffusion_model.out.2.weight": ("diff", (0.1 * randn(4, narrow.WIDTH, 3, 3, seed=3),))}
    x = randn(1, 4, SIZE, 2 * SIZE, seed=0).to(model_management.get_torch_device())
    results = []
    for patches in ({}, weights):
        patched = patcher.clone()
        patched.add_patches(patches)
        model_management.load_models_gpu([patched])
        patched.pre_run()
        conds = as_sampled(patched.model, [[[text(1), {}]], []], x)
        results.append(fused(patched.model, conds, x, grid(x))[0])
        for cut in map(crop, grid(x)):
            assert relative_error(cut(results[-1]), whole(patched.model, conds, cut(x))[0]) < 1e-5
    assert relative_error(*results) > 1e-2


# Denoisers that look at each pixel alone: in windows they make what they make without


def pixelwise(_, given):
    """A model_function_wrapper: a denoiser that sees what lies at a pixel, and the text of its row."""
    c, x = given["c"], given["input"]
    told = c["c_crossattn"].mean((1, 2)).view(-1, *[1] * (x.ndim - 1))
    out = x * told + told
    if "c_concat" in c:
        out = out + c["c_concat"].sum(1, keepdim=True)
    for control in (c.get("control") or {"middle": ()})["middle"]:
        out = out + control.view(len(control), 1, *[1] * (x.ndim - 4), *control.shape[-2:])
    return out


PLANS = {
    "grid": lambda x: grid(x, 3),
    "jitter": lambda x: grid(x, 6, torch.Generator().manual_seed(0)),
    "rolled": lambda x: tiles.rolled(*x.shape[-2:], (SIZE, SIZE), torch.Generator().manual_seed(1)),
    "dilated": lambda x: tiles.dilated(*x.shape[-2:], 3),
}
REGIONS = {
    "mask": lambda h, w: {"mask": rand(1, 8 * h, 8 * w, seed=3), "mask_strength": 0.7},
    "masks": lambda h, w: {"mask": rand(2, h, w, seed=3).round()},
    "half": lambda h, w: {"mask": (torch.arange(w) < w // 2).float().expand(1, h, w)},
    "bounds": lambda h, w: {"mask": (torch.arange(w) < w // 3).float().expand(1, h, w), "set_area_to_bounds": True},
    "area": lambda h, w: {"area": (h // 2, w // 2, h // 3, w // 3), "strength": 0.6},
    "percentage": lambda h, w: {"area": ("percentage", 0.9, 0.6, 0.1, 0.2)},
    "area and mask": lambda h, w: {"area": (h - 2, w - 3, 2, 1), "mask": rand(1, h, w, seed=4)},
    "early": lambda h, w: {"end_percent": 0.1},
    "default": lambda h, w: {"default": True},
    "masked default": lambda h, w: {"default": True, "mask": (torch.arange(w) < w // 4).float().expand(1, h, w)},
}


@pytest.mark.parametrize("plan", PLANS)
@settings(max_examples=20)
@given(
    st.lists(st.sampled_from(list(REGIONS)), max_size=3),
    st.integers(9, 30),
    st.integers(9, 30),
    st.integers(1, 2),
    st.sampled_from([0, 1, 3, 16]),
)
def test_regions_weigh_as_without_windows(models, plan, regions, height, width, rows, batch):
    """Areas with their soft borders, masks, strengths, defaults and places that no text covers."""
    model = models("inpaint")
    x = randn(rows, 4, height, width, seed=0)
    positive = [[text(i, 1 + i % 2), REGIONS[name](height, width)] for i, name in enumerate(regions)]
    values = {"latent_image": randn(rows, 4, height, width, seed=8), "denoise_mask": rand(1, 1, height, width, seed=9)}
    conds = as_sampled(model, [positive, [[text(9), {}]]], x, **values)
    options = {"transformer_options": {}, "model_function_wrapper": pixelwise}
    expected = whole(model, conds, x, options)
    assert close(fused(model, conds, x, PLANS[plan](x), batch, options), expected)


@pytest.mark.parametrize("plan", PLANS)
def test_latents_with_a_time_axis(models, plan):
    model, x = models("sd15"), randn(2, 4, 3, 11, 21, seed=0)
    positive = [[text(1), {"area": (6, 9, 2, 5)}], [text(2), {"mask": rand(1, 11, 21, seed=3)}], [text(3), {}]]
    conds = as_sampled(model, [positive, []], x)
    options = {"transformer_options": {}, "model_function_wrapper": pixelwise}
    assert close(fused(model, conds, x, PLANS[plan](x), options=options), whole(model, conds, x, options))


class Showing(torch.nn.Module):
    """In place of a ControlNet's network: shows the hint, at the latent's size."""

    dtype = torch.float32

    def __init__(self, scale):
        super().__init__()
        self.scale = scale

    def forward(self, hint, **_):
        return {"middle": [hint[..., :: self.scale, :: self.scale].mean(1, keepdim=True)]}


class Squares:
    """In place of a VAE: its latent's pixels are the corners of the picture's squares."""

    def spacial_compression_encode(self):
        return 8

    def encode(self, pixels):
        return pixels.movedim(-1, 1)[..., ::8, ::8]


def showing(hint, strength=1.0, vae=None, **options):
    scale = 1 if vae else 8
    network = comfy.controlnet.ControlNet(Showing(scale), compression_ratio=scale, **options)
    return network.set_cond_hint(hint, strength, vae=vae)


@pytest.mark.both_devices
@pytest.mark.parametrize("vae", [None, Squares()])
@pytest.mark.parametrize("plan", ["grid", "jitter", "rolled"])
@settings(max_examples=10)
@given(st.integers(9, 24), st.integers(9, 24), st.integers(1, 3), st.integers(20, 200), st.booleans(), st.booleans())
def test_hints_lie_as_without_windows(models, plan, vae, height, width, hints, size, regional, masked):
    """Hints of any size, cut to the picture's proportions; one for all samples or one for each; in a chain; squeezed
    into an area, as ComfyUI has it; with a mask beside; encoded.
    """
    model, x = models("sd15"), randn(2, 4, height, width, seed=0)
    first = showing(rand(1, 3, 70, 90, seed=3), 0.5)
    control = showing(rand(hints, 3, size, 100, seed=4), vae=vae, concat_mask=masked).set_previous_controlnet(first)
    area = {"area": (height // 2, width - 3, 2, 1)} if regional else {}
    conds = as_sampled(model, [[[text(1), {"control": control, **area}], [text(2), {}]], [[text(3), {}]]], x)
    options = {"transformer_options": {}, "model_function_wrapper": pixelwise}
    expected = whole(model, conds, x, options)
    cache, before = windows.RunCache(), [vars(each).copy() for each in (control, first)]
    found = fused(model, conds, x, PLANS[plan](x), 2, options, cache)
    assert close(found, expected)
    assert [vars(each) for each in (control, first)] == before, "the user's ControlNets stay as they are"
    assert {each for each, _ in cache.hints} == {control, first}


def seen(model, conds, x, plan, batch=1):
    """What the denoiser is given, call by call."""
    calls = []

    def note(_, given):
        calls.append(given)
        return given["input"]

    options = {"transformer_options": {"mine": 1}, "model_function_wrapper": note}
    return fused(model, conds, x, plan, batch, options), calls


def test_what_has_no_weight_in_a_window_is_not_computed(models):
    model, x = models("sd15"), randn(1, 4, SIZE, 4 * SIZE, seed=0)
    left = (torch.arange(4 * SIZE) < SIZE).float().expand(1, SIZE, -1)
    positive = [[text(1), {"mask": left}], [text(2), {"area": (SIZE, SIZE, 0, 3 * SIZE)}], [text(3), {}]]
    conds = as_sampled(model, [positive, [[text(4), {}]]], x)
    conds[1] = [cond for cond in conds[1] if "area" not in cond]  # ComfyUI adds one for each area
    found, calls = seen(model, conds, x, grid(x))
    rows = sum(len(call["input"]) for call in calls)
    assert rows == 2 * 4 + 1 + 1, "two in each window, the regions in one"
    assert close(found, [x, x])
    assert sum(len(call["input"]) for call in seen(model, conds, x, grid(x), 16)[1]) == rows


def test_conditionings_have_the_same_names_at_each_step(models):
    """Caches tell by them what is what: other windows, or other conditionings, have other names."""
    model, x = models("sd15"), randn(1, 4, SIZE, 3 * SIZE, seed=0)
    conds = as_sampled(model, [[[text(1), {}]], [[text(2), {}]]], x)
    names = [
        [
            name
            for call in seen(model, conds, x, grid(x), batch)[1]
            for name in call["c"]["transformer_options"]["uuids"]
        ]
        for batch in (1, 1, 3)
    ]
    assert names[0] == names[1] and len(set(names[0])) == 6
    assert not set(names[0]) & set(names[2])


class Gligen:
    """In place of a GLIGEN: notes the boxes."""

    def __init__(self):
        self.model, self.noted = self, []

    def set_position(self, shape, positions, device):
        self.noted.append([(int(embed), *box) for embed, *box in positions])
        return lambda x, options: x


def test_boxes_of_gligen(models):
    """In the window's own coordinates and cut to it; those outside are left out."""
    model, x, gligen = models("sd15"), randn(1, 4, SIZE, 3 * SIZE, seed=0), Gligen()
    boxes = [(torch.tensor(0), 4, 10, 2, 4), (torch.tensor(1), 8, 3, 0, 21)]  # (.., height, width, top, left)
    conds = as_sampled(model, [[[text(1), {"gligen": ("position", gligen, boxes)}]], [[text(2), {}]]], x)
    seen(model, conds, x, grid(x), 3)
    assert gligen.noted == [[(0, 4, 4, 2, 4)]] * 2 + [[(0, 4, 6, 2, 0)]] * 2 + [[(1, 8, 3, 0, 5)]] * 2
    gligen.noted.clear()
    around = tiles.Line((torch.arange(SIZE) + 20) % 24, 1, SIZE)  # 20 ... 23, 0 ... 3
    height = tiles.Line(torch.arange(SIZE), 1, SIZE)
    seen(model, conds, x, [tiles.Window(height, around), *grid(x)])
    assert gligen.noted[0] == [(1, 8, 3, 0, 1)]


def test_a_transformer_counts_its_positions_from_where_the_window_lies(models):
    """One window in a call, whatever is asked; positions as in the whole picture, with the user's own scale."""
    model, x = models("flux"), randn(2, 16, 2 * SIZE, 3 * SIZE, seed=0)
    conds = as_sampled(model, [[[text(1), {"pooled_output": randn(1, 32, seed=2)}]], []], x)
    user = {"rope_options": {"scale_x": 0.5, "shift_y": 3.0}}

    def positions(part, options):
        return model.diffusion_model.process_img(part, transformer_options=options)[1][0]

    for options in ({}, user):
        calls = []

        def note(_, found, calls=calls):
            calls.append((found["input"], found["c"]["transformer_options"]))
            return found["input"]

        plan = grid(x, 4)
        fused(model, conds, x, plan, 4, {"transformer_options": options, "model_function_wrapper": note})
        everywhere = positions(x, options).view(SIZE, 3 * SIZE // 2, 3)
        assert len(calls) == len(plan) == 15
        for window, (part, moved) in zip(plan, calls, strict=True):
            top, left = (at // 2 for at in window.origin)
            expected = everywhere[top : top + SIZE // 2, left : left + SIZE // 2].reshape(-1, 3)
            assert torch.allclose(positions(part, moved), expected)
            assert any(window.origin) != torch.equal(positions(part, options), expected)
    assert user == {"rope_options": {"scale_x": 0.5, "shift_y": 3.0}}


def test_a_windowed_transformer_sees_the_picture_that_its_window_is_a_part_of(models):
    """Cut references too: they follow the latent and keep their place."""
    model, x = models("flux"), randn(1, 16, SIZE, 2 * SIZE, seed=0)
    reference = randn(1, 16, SIZE, 2 * SIZE, seed=1)
    values = {"pooled_output": randn(1, 32, seed=2), "reference_latents": [reference]}
    conds = as_sampled(model, [[[text(1), values]], []], x)
    _, calls = seen(model, conds, x, grid(x))
    references = [call["c"]["ref_latents"][0] for call in calls]
    cuts = [crop(window)(model.process_latent_in(reference)) for window in grid(x)]
    assert all(map(torch.equal, references, cuts))
