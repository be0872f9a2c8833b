"""Masks and pictures in other nodes' patches, in windows: cut where that is possible, refused by name elsewhere."""

import math
from functools import partial

import comfy.hooks
import comfy.samplers
import pytest
import torch
from comfy.ldm.anima.lllite import AnimaLLLitePatch
from comfy.ldm.modules.diffusionmodules.openaimodel import Upsample
from comfy.ldm.supir.supir_patch import SUPIRPatch
from comfy.ldm.wan.model_multitalk import MultiTalkGetAttnMapPatch
from comfy.patcher_extension import WrappersMP
from comfy_extras.nodes_freelunch import FreeU_V2
from comfy_extras.nodes_hypertile import HyperTile
from comfy_extras.nodes_model_patch import (
    DiffSynthCnetPatch,
    UsoStyleProjectorPatch,
    WanUni3CCnetPatch,
    ZImageControlPatch,
)
from comfy_extras.nodes_nag import NAGuidance
from comfy_extras.nodes_pag import PerturbedAttentionGuidance
from comfy_extras.nodes_sag import SelfAttentionGuidance
from comfy_extras.nodes_tomesd import TomePatchModel

from kit import narrow
from kit.assertions import frozen, relative_error
from kit.run import sample
from kit.tensors import rand, randn
from pentimento.model_patchers.upscale import tiles, window_patches, windows
from pentimento.nodes.upscale.demofusion import DemoFusion
from pentimento.nodes.upscale.windows import Windows

pytestmark = pytest.mark.usefixtures("one_thread")
SIGMAS = torch.tensor([14.6146, 0.0])
SIZE = 8  # of a window, in latent pixels


@pytest.fixture(scope="module")
def base():
    return narrow.host_model("sd15")


@pytest.fixture(scope="module")
def prompts():
    return [[[randn(1, 7, narrow.WIDTH, seed=seed), {}]] for seed in (1, 2)]


def windowed(model, window=8 * SIZE, batch=0):
    return Windows.execute(model, "average", window, 0, False, 0, batch).result[0]


def run(model, prompts, latent=(1, 4, SIZE, 2 * SIZE)):
    return sample(model, *prompts, randn(*latent, seed=0), SIGMAS, 3.0)


# Masks of adapters


class Attn2Replace:
    """IP-Adapter's patch in its structure: callbacks, and the keywords of each."""

    def __init__(self, callback, **kwargs):
        self.callback, self.kwargs = [callback], [kwargs]

    def add(self, callback, **kwargs):
        self.callback.append(callback)
        self.kwargs.append(kwargs)
        for key, value in kwargs.items():
            setattr(self, key, value)

    def __call__(self, q, k, v, extra_options):
        out = q
        for callback, kwargs in zip(self.callback, self.kwargs, strict=True):
            out = out + callback(out, q, k, v, extra_options, **kwargs)
        return out


def masked(out, q, k, v, extra_options, weight, mask=None, **_):
    """What an adapter adds: its weight, at the places of its mask, resized to the layer."""
    if mask is None:
        return torch.full_like(q, weight)
    conds = len(extra_options["cond_or_uncond"])
    height, width = extra_options["original_shape"][-2:]
    assert q.shape[1] == height * width
    mask = torch.nn.functional.interpolate(mask[:, None], size=(height, width), mode="bilinear")[:, 0]
    rows = len(q) // conds
    mask = torch.cat((mask, mask[-1:].expand(max(0, rows - len(mask)), -1, -1)))[:rows].repeat(conds, 1, 1)
    return weight * mask.flatten(1)[..., None].expand_as(q)


def adapted(model, *adapters):
    """The model with adapters in all its layers of cross-attention."""
    model, (first, *others) = model.clone(), adapters
    for block, number in (("input", 1), ("middle", 0), ("output", 0), ("output", 1)):
        patch = Attn2Replace(masked, **first)
        for values in others:
            patch.add(masked, **values)
        model.set_model_attn2_replace(patch, block, number)
    return model


PLANS = {
    "grid": lambda x: tiles.grid(*x.shape[-2:], (SIZE, SIZE), 3),
    "rolled": lambda x: tiles.rolled(*x.shape[-2:], (SIZE, SIZE), torch.Generator().manual_seed(1)),
    "dilated": lambda x: tiles.dilated(*x.shape[-2:], 2),
}


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("rows, count, batch", [(1, 1, 1), (2, 2, 3), (3, 2, 2), (2, 3, 1)])
def test_each_window_has_its_part_of_a_mask(plan, rows, count, batch):
    """For one window and several in a call, and one mask, a mask for each of the batch, too few and too many."""
    x, mask = randn(rows, 4, 13, 22, seed=0), rand(count, 26, 44, seed=1)
    patch, bare = Attn2Replace(masked, weight=1.0, mask=mask), Attn2Replace(masked, weight=1.0)
    options = {"transformer_options": {"patches_replace": {"attn2": {("input", 1): patch, ("middle", 0): bare}}}}
    before, masks, whole = (
        frozen(options),
        {},
        torch.nn.functional.interpolate(mask[:, None], (13, 22), mode="bilinear"),
    )
    each = torch.cat((whole, whole[-1:].expand(max(0, rows - count), -1, -1, -1)))[:rows]
    plan = PLANS[plan](x)
    for at in range(0, len(plan), batch):
        group = plan[at : at + batch]
        blocks = window_patches.cut_patches(options, group, (13, 22), rows, masks)["transformer_options"]
        ours = blocks["patches_replace"]["attn2"][("input", 1)].kwargs[0]["mask"]
        theirs = torch.cat([each[..., window.y.at[:, None], window.x.at] for window in group])[:, 0]
        assert torch.equal(ours.expand_as(theirs), theirs)
        assert blocks["patches_replace"]["attn2"][("middle", 0)].kwargs == bare.kwargs
    assert frozen(options) == before and masks.keys() == {mask}


@pytest.mark.parametrize("batch", [1, 2])
def test_a_masked_adapter_in_a_window_is_the_cropped_problem(base, prompts, batch):
    """Two adapters in one patch, of which one has a mask; the mask of the whole picture in each window is far off."""
    mask = torch.zeros(1, 8 * SIZE, 16 * SIZE)
    mask[..., 10 * SIZE :] = 1
    small = torch.nn.functional.interpolate(mask[None], (SIZE, 2 * SIZE), mode="bilinear")[0]
    bare = {"weight": 0.3}
    model = adapted(base, bare, {"weight": 2.0, "mask": mask})
    before = frozen(model)
    found, noise = run(windowed(model, batch=batch), prompts), randn(1, 4, SIZE, 2 * SIZE, seed=0)
    assert frozen(model) == before
    for part in (slice(0, SIZE), slice(SIZE, None)):
        cropped = adapted(base, bare, {"weight": 2.0, "mask": small[..., part]})
        expected = sample(cropped, *prompts, noise[..., part], SIGMAS, 3.0)
        assert relative_error(found[..., part], expected) < 1e-4
        squeezed = sample(model, *prompts, noise[..., part], SIGMAS, 3.0)
        assert relative_error(found[..., part], squeezed) > 1e-2


def test_the_masks_of_a_run_are_left_behind(base, prompts):
    model = windowed(adapted(base, {"weight": 2.0, "mask": rand(1, 16, 32, seed=1)}))
    (wrapper,) = model.get_wrappers(WrappersMP.CALC_COND_BATCH, windows.KEY)
    run(model, prompts)
    assert not wrapper.__self__.cache.masks


def test_options_without_an_adapter_stay_as_they_are():
    plan, options = tiles.grid(8, 16, (SIZE, SIZE), 0), {"transformer_options": {"patches_replace": {"attn1": {}}}}
    assert window_patches.cut_patches(options, plan, (8, 16), 1, {}) is options


# Pictures that are refused


def made(cls, **values):
    """A patch of ComfyUI without the network that it would call."""
    patch = object.__new__(cls)
    vars(patch).update({"encoded_image": torch.zeros(1), "prepared_render": None, "model_patch": None} | values)
    return patch


PICTURE, MASK = rand(1, 64, 128, 3, seed=1), rand(1, 64, 128, seed=2)


class Regions:
    def __init__(self, masks):
        self.masks = masks

    def __call__(self, q, k, v, extra_options):
        return q


def couple(masks):
    """As attention couples are made: a function around its masks."""

    def patch(q, k, v, extra_options):
        return q, k, masks

    return patch


HELD = {
    "Apply Qwen Image DiffSynth ControlNet holds 'image'": lambda model: model.set_model_double_block_patch(
        made(DiffSynthCnetPatch, image=PICTURE, mask=None)
    ),
    "Apply Z-Image Fun ControlNet holds 'inpaint_image'": lambda model: model.set_model_noise_refiner_patch(
        made(ZImageControlPatch, image=None, inpaint_image=PICTURE)
    ),
    "Apply Anima LLLite holds 'image'": lambda model: model.set_model_post_input_patch(
        made(AnimaLLLitePatch, image=PICTURE)
    ),
    "Apply Wan Uni3C ControlNet holds 'render_video'": lambda model: model.set_model_double_block_patch(
        made(WanUni3CCnetPatch, render_video=PICTURE)
    ),
    "Apply SUPIR Patch holds 'hint_latent'": lambda model: model.set_model_patch(
        (Upsample, made(SUPIRPatch, hint_latent=PICTURE).pre_upsample), "forward_timestep_embed_patch"
    ),
    "MultiTalkGetAttnMapPatch holds 'ref_target_masks'": lambda model: model.set_model_attn1_patch(
        MultiTalkGetAttnMapPatch(torch.ones(2, 128))
    ),
    "test_window_patches.Regions holds 'masks'": lambda model: model.set_model_attn2_replace(
        Regions([None, MASK]), "input", 1
    ),
    "test_window_patches.couple.<locals>.patch holds 'masks'": lambda model: model.set_model_attn2_patch(
        couple([MASK])
    ),
    "functools.partial holds 'attn_mask'": lambda model: model.set_model_attn2_output_patch(
        partial(couple([]), attn_mask=MASK)
    ),
}


@pytest.mark.parametrize("words", HELD)
def test_what_cannot_be_cut_is_refused_before_sampling(base, prompts, words):
    model = base.clone()
    HELD[words](model)
    message = (
        f"{{}} computes the picture in windows, and (the patch .*)?{words} for the whole picture.*Remove that node"
    )
    with pytest.raises(ValueError, match=message.format("Windowed Diffusion")):
        run(windowed(model), prompts)
    euler = comfy.samplers.sampler_object("euler")
    values = DemoFusion.GET_SCHEMA().inputs
    defaults = {entry.id: entry.default for entry in values if getattr(entry, "default", None) is not None}
    latent = {"samples": torch.zeros(1, 4, SIZE, SIZE)}
    with pytest.raises(ValueError, match=message.format("DemoFusion Upscale")):
        DemoFusion.execute(model, *prompts, euler, SIGMAS, latent, **defaults)


def test_one_window_is_the_whole_picture(base, prompts):
    model = base.clone()
    model.set_model_attn2_patch(lambda q, k, v, extra_options, masks=MASK: (q, k, v))
    model.set_model_attn1_replace(lambda q, k, v, extra_options: Regions(MASK)(q, k, v, extra_options), "input", 1)
    model.set_model_attn2_replace(Regions(MASK), "input", 1)
    assert torch.equal(run(windowed(model, 16 * 8), prompts), run(model, prompts))


@pytest.mark.parametrize("patch", [Regions(MASK), Attn2Replace(masked, weight=1.0, mask=MASK)])
def test_a_hook_of_a_conditioning_is_refused(base, prompts, patch):
    """Also with an adapter: ComfyUI merges the hook's own patches with those that are cut."""
    hooks = comfy.hooks.HookGroup()
    hooks.add(comfy.hooks.TransformerOptionsHook({"patches_replace": {"attn2": {("input", 1): patch}}}))
    hooked = [comfy.hooks.set_hooks_for_conditioning(prompt, hooks) for prompt in prompts]
    with pytest.raises(ValueError, match=f"{type(patch).__name__} holds 'mask"):
        run(windowed(base), hooked)


def test_an_attention_mask_of_a_style_is_refused(base, prompts):
    """As Apply Style Model sets it with the strength_type attn_bias. A mask of text tokens alone passes."""
    ((text, _),) = prompts[0]
    styled = [[text, {"attention_mask": torch.ones(1, 135, 135), "attention_mask_img_shape": (16, 8)}]]
    with pytest.raises(ValueError, match="Windowed Diffusion .* attention mask of the whole picture.* to multiply"):
        run(windowed(base), [styled, prompts[1]])
    told = [[text, {"attention_mask": torch.ones(1, 7)}]]
    assert torch.equal(run(windowed(base), [told, prompts[1]]), run(windowed(base), prompts))


HARMLESS = {
    "FreeU": lambda model: FreeU_V2.execute(model, 1.3, 1.4, 0.9, 0.2).args[0],
    "ToMe": lambda model: TomePatchModel.execute(model, 0.3).args[0],
    "HyperTile": lambda model: HyperTile.execute(model, 256, 2, 0, False)[0],
    "PAG": lambda model: PerturbedAttentionGuidance.execute(model, 3.0).args[0],
    "SAG": lambda model: SelfAttentionGuidance.execute(model, 0.5, 2.0).args[0],
    "NAG": lambda model: NAGuidance.execute(model, 5.0, 0.5, 1.5).args[0],
}


@pytest.mark.parametrize("name", HARMLESS)
def test_patches_without_a_picture_pass(base, name):
    options = HARMLESS[name](base).model_options
    window_patches.refuse_whole_pictures(options, [{}], "Windowed Diffusion")


def test_tokens_and_networks_are_no_pictures():
    """USO's style is tokens of an encoder, and a mask of text tokens is as long as the text."""
    style = made(UsoStyleProjectorPatch, model_patch=None, encoded_image=torch.ones(3, 1, 29, 16))
    network = torch.nn.Linear(4, 4)
    network.mask = torch.ones(8, 8)
    held = [style, partial(couple([torch.ones(2, 77)])), Regions(network), Regions(math.pi), couple(None)]
    options = {"transformer_options": {"patches": {"post_input": held}, "optimized_attention_override": held[1]}}
    window_patches.refuse_whole_pictures(options, [], "Windowed Diffusion")
