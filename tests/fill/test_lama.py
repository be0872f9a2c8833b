"""LaMa against spandrel's, on the same random weights; the refinement against the paper's algorithm stated again."""

import functools
import gc
import importlib
import itertools
import logging
import sys
import types
import weakref
from collections import OrderedDict

import comfy.ops
import comfy.utils
import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from comfy import model_management
from torch import nn

from kit.assertions import frozen
from kit.memory import held
from pentimento.model_patchers.arch.lama import Config, Generator
from pentimento.model_patchers.fill import lama, lama_refinement

pytestmark = pytest.mark.usefixtures("one_thread")
spandrel_lama = importlib.import_module("spandrel.architectures.LaMa.__arch.LaMa")
WHOLE, EACH = "whole picture", "each hole"


def randomise(module, seed=0):
    """Random weights that neither fade nor blow up on their way through, and statistics that matter."""
    rng = torch.Generator().manual_seed(seed)
    for name, value in module.state_dict().items():
        if name.endswith(("running_mean", "bias")):
            value.normal_(0, 0.1, generator=rng)
        elif name.endswith("running_var"):
            value.uniform_(0.5, 1.5, generator=rng)
        elif value.ndim == 1:
            value.uniform_(0.9, 1.1, generator=rng).mul_(0.2 if ".conv2.bn" in name else 1)
        elif value.ndim:
            value.normal_(0, (2 / value[0].numel()) ** 0.5, generator=rng)
    layers = getattr(module.model, "model", module.model)
    logits = layers[:-1].eval()(torch.rand(1, 4, 64, 64, generator=rng))
    layers[-2].weight.data /= logits.std()  # so that the sigmoid does not saturate
    return module.eval()


@pytest.fixture(scope="module")
def big(one_thread):
    """spandrel's net, as big as the real one, and ours with its weights."""
    reference = randomise(spandrel_lama.LaMa(in_nc=4, out_nc=3))
    return reference.model, ours(reference.model)


@pytest.fixture(scope="module")
def thin(one_thread):
    """A net for everything that does not depend on the size of the net."""
    reference = thin_net(2)
    return reference, ours(reference)


def thin_net(blocks, width=8, seed=0):
    with torch.inference_mode(False):
        return randomise(spandrel_lama.FFCResNetGenerator(4, 3, ngf=width, n_blocks=blocks), seed)


def ours(reference, **pyramid):
    """Ours with the weights of spandrel's, refined at scales with these settings."""
    weights = {f"generator.{key}": value.clone() for key, value in reference.state_dict().items()}
    return lama.LaMa(lama.generator_weights(weights, "test"), "test", lama_refinement.Pyramid(**pyramid))


def reference_fill(net, image, mask, mode="symmetric"):
    """The official predictor: mask above 0, NumPy's padding to a multiple of 8, one pass, composite, crop."""
    height, width = image.shape[1:3]
    extra = [(0, max(16, -(-n // 8) * 8) - n) for n in (height, width)]
    x = torch.from_numpy(np.pad(image.numpy(), [(0, 0), *extra, (0, 0)], mode=mode)).movedim(-1, 1)
    m = torch.from_numpy(np.pad((mask > 0).float().numpy(), [(0, 0), *extra], mode=mode))[:, None]
    y = m * net(x * (1 - m), m) + (1 - m) * x
    return y.movedim(1, -1)[:, :height, :width]


def picture(rng, height, width, batch=1, channels=3):
    """Smooth colours with some grain."""
    coarse = torch.rand(batch, channels, -(-height // 16) + 1, -(-width // 16) + 1, generator=rng)
    smooth = F.interpolate(coarse, (height, width), mode="bilinear")
    return (smooth * 0.9 + 0.1 * torch.rand(smooth.shape, generator=rng)).movedim(1, -1)


def block_mask(height, width, rows, columns, batch=1):
    mask = torch.zeros(batch, height, width)
    mask[:, slice(*rows), slice(*columns)] = 1
    return mask


def worst(a, b, mask):
    return (a - b).abs()[mask > 0].max().item()


class TestParity:
    @pytest.mark.both_devices
    @pytest.mark.in_half
    @pytest.mark.parametrize("size", [(64, 64), (100, 77), (72, 131), (7, 5), (1, 1)])
    def test_whole_picture_equals_spandrel(self, big, rng, size):
        """In float32 where a device is good at half precision, too."""
        reference, model = big
        image = picture(rng, *size, batch=2)
        mask = (torch.rand(2, *size, generator=rng) > 0.6).float()
        mask[:, 0, 0] = 1
        out = model.fill(image, mask, WHOLE, 0, 0)
        assert worst(out, reference_fill(reference, image, mask), mask) <= 1e-5
        assert torch.equal(out[mask == 0], image[mask == 0])

    @pytest.mark.both_devices
    @pytest.mark.parametrize("blocks", [18, 9, 6, 1])
    @pytest.mark.parametrize("size", [(48, 48), (50, 39), (4000, 300)])
    def test_fewer_blocks(self, rng, blocks, size):
        if max(size) > 1000 and blocks > 1:
            size = (400, 30)
        reference = thin_net(blocks)
        image, mask = picture(rng, *size), block_mask(*size, (5, 20), (3, 25))
        out = ours(reference).fill(image, mask, WHOLE, 0, 0)
        assert worst(out, reference_fill(reference, image, mask), mask) <= 1e-5
        assert torch.equal(out[mask == 0], image[mask == 0])

    @pytest.mark.parametrize("value", [0.1, 0.3, 0.5, 1.0, 7.0])
    def test_hole_is_all_that_the_mask_selects(self, thin, rng, value):
        image, mask = picture(rng, 40, 40), block_mask(40, 40, (5, 20), (3, 25))
        assert torch.equal(thin[1].fill(image, mask * value, WHOLE, 0, 0), thin[1].fill(image, mask, WHOLE, 0, 0))

    @pytest.mark.both_devices
    def test_half_types_are_computed_in_float32(self, rng):
        """A file in half precision is the float32 net of its rounded weights."""
        image, mask = picture(rng, 50, 60), block_mask(50, 60, (10, 40), (10, 40))
        for dtype in (torch.float16, torch.bfloat16):
            reference = thin_net(6).to(dtype)
            model = ours(reference)
            out = model.fill(image, mask, WHOLE, 0, 0)
            assert next(model.generator.parameters()).dtype == dtype
            assert worst(out, reference_fill(reference.float(), image, mask), mask) <= 1e-5

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_transform_is_in_float32_in_a_half_net(self, rng, dtype):
        reference = thin_net(6)
        net = Generator(Config.of(reference.model.state_dict()), comfy.ops.disable_weight_init, dtype=dtype).eval()
        net.model.load_state_dict(reference.model.state_dict())
        x = torch.rand(1, 4, 64, 72, generator=rng)
        y = net(x.to(dtype))
        assert y.dtype == dtype
        assert (y.float() - reference.model(x)).abs().max() < 0.1


class TestWrongVariants:
    """What is done elsewhere must not pass for LaMa: each is further off than 100 times our tolerance."""

    @pytest.fixture
    def case(self, big, rng):
        image, mask = picture(rng, 100, 141), block_mask(100, 141, (30, 99), (40, 139))
        return big[0], image, mask, reference_fill(big[0], image, mask)

    def test_256_pixels_and_back(self, case):
        net, image, mask, wanted = case
        x = F.interpolate(image.movedim(-1, 1), (256, 256), mode="bilinear")
        m = F.interpolate(mask[:, None], (256, 256), mode="nearest-exact")
        y = F.interpolate(net(x * (1 - m), m), image.shape[1:3], mode="bilinear").movedim(1, -1)
        assert worst(y, wanted, mask) > 1e-3

    def test_reflect_padding(self, case):
        net, image, mask, wanted = case
        assert worst(reference_fill(net, image, mask, mode="reflect"), wanted, mask) > 1e-3

    def test_spectrum_not_interleaved(self, case):
        net, image, mask, wanted = case
        weights = net.state_dict()
        for name, value in weights.items():
            if ".fu." in name and value.ndim:
                order = torch.arange(len(value)).reshape(-1, 2).T.flatten()
                weights[name] = value[order][:, order] if value.ndim == 4 else value[order]
        model = lama.LaMa(lama.generator_weights(weights, "test"), "test")
        assert worst(model.fill(image, mask, WHOLE, 0, 0), wanted, mask) > 1e-3


class TestPadding:
    @pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 3), (7, 5), (17, 300)])
    @pytest.mark.parametrize("to", [(16, 304), (400, 304)])
    def test_equals_numpy(self, rng, size, to):
        to = max(to[0], size[0]), to[1]
        x = torch.rand(2, *size, generator=rng)
        wanted = np.pad(x.numpy(), [(0, 0), *((0, b - a) for a, b in zip(size, to, strict=True))], mode="symmetric")
        assert np.array_equal(lama.symmetric_pad(x, *to).numpy(), wanted)


# --- the forms that checkpoints come in -----------------------------------------------------------------------------


class Script(nn.Module):
    """Puts a net below the names of a converter."""

    def __init__(self, net, path):
        super().__init__()
        head, _, rest = path.partition(".")
        self.head = head
        self.add_module(head, Script(net, rest) if rest else net)

    def forward(self, image, mask):
        return getattr(self, self.head)(image, mask)


def torchscript(path):
    def save(net, file):
        example = torch.zeros(1, 3, 16, 16), torch.zeros(1, 1, 16, 16)
        with torch.inference_mode(False):
            torch.jit.trace(Script(net, path), example, check_trace=False).save(str(file))

    return save


def prefixed(net, prefix, counters=True):
    return OrderedDict(
        (prefix + key.removeprefix("model."), value.clone())
        for key, value in net.state_dict().items()
        if counters or not key.endswith("num_batches_tracked")
    )


def others():
    """What a training run leaves in the file beside the generator."""
    net = spandrel_lama.FFCResNetGenerator(4, 3, ngf=4, n_blocks=1)
    return {
        **{f"average_generator.{key}": value for key, value in net.state_dict().items()},
        "discriminator.model0.0.weight": torch.rand(4, 3, 4, 4),
        "loss_resnet_pl.impl.conv1.weight": torch.rand(4, 3, 7, 7),
        "test_evaluator.scores.lpips.model.lin0.model.1.weight": torch.rand(1, 4, 1, 1),
    }


def lightning(net, file):
    config = types.ModuleType("omegaconf.dictconfig")
    config.DictConfig = type("DictConfig", (), {"__module__": "omegaconf.dictconfig"})
    sys.modules |= {"omegaconf": types.ModuleType("omegaconf"), "omegaconf.dictconfig": config}
    hyper = config.DictConfig()
    hyper._parent = hyper
    content = {"epoch": 39, "state_dict": prefixed(net, "generator.model.") | others(), "hyper_parameters": hyper}
    torch.save(content, file)
    del sys.modules["omegaconf"], sys.modules["omegaconf.dictconfig"]


FORMS = {
    "sanster.pt": torchscript("generator"),
    "to_jit.pt": torchscript("model.generator"),
    "best.ckpt": lightning,
    "anyisalin.safetensors": lambda net, file: safetensors.torch.save_file(
        prefixed(net, "generator.model.") | others(), file
    ),
    "converted.safetensors": lambda net, file: safetensors.torch.save_file(
        prefixed(net, "generator.model.", counters=False), file
    ),
    "stripped.pth": lambda net, file: torch.save(prefixed(net, "model."), file),
    "chainner.pth": lambda net, file: torch.save(prefixed(net, "model.model."), file),
    "bare.safetensors": lambda net, file: safetensors.torch.save_file(prefixed(net, ""), file),
    "manga.ckpt": lambda net, file: torch.save({"gen_state_dict": prefixed(net, "model.")}, file),
    "old.pth": lambda net, file: torch.save(
        prefixed(net, "model.generator.model."), file, _use_new_zipfile_serialization=False
    ),
}


class TestForms:
    @pytest.mark.parametrize(("form", "blocks"), zip(FORMS, itertools.cycle((18, 9, 6)), strict=False))
    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    def test_form(self, tmp_path, rng, form, blocks):
        reference = thin_net(blocks, width=4, seed=blocks)
        FORMS[form](reference, tmp_path / form)
        model = lama.load(tmp_path / form)
        assert len(model.generator.model) == len(reference.model)
        image, mask = picture(rng, 24, 30), block_mask(24, 30, (5, 20), (3, 25))
        assert worst(model.fill(image, mask, WHOLE, 0, 0), reference_fill(reference, image, mask), mask) <= 1e-5

    def test_hyper_parameters_come_from_the_shapes(self, big):
        weights = big[0].model.state_dict()
        assert Config.of(weights) == Config(4, 3, 64, 3, 18, 384)
        other = spandrel_lama.FFCResNetGenerator(4, 3, ngf=8, n_downsampling=2, n_blocks=5)
        assert Config.of(other.model.state_dict()) == Config(4, 3, 8, 2, 5, 24)

    def test_stand_in(self, tmp_path, rng):
        from pentimento_host import standins

        standins.lama(tmp_path / "a.pt")
        standins.lama(tmp_path / "b.pt")
        keys = spandrel_lama.FFCResNetGenerator(4, 3, ngf=4).state_dict()
        script = torch.jit.load(str(tmp_path / "a.pt")).state_dict()
        assert {k: v.shape for k, v in script.items()} == {f"generator.{k}": v.shape for k, v in keys.items()}
        assert (tmp_path / "a.pt").stat().st_size < 2_000_000
        image, mask = picture(rng, 100, 100), block_mask(100, 100, (20, 80), (20, 80))
        a, b = (lama.load(tmp_path / name).fill(image, mask, WHOLE, 0, 0) for name in ("a.pt", "b.pt"))
        assert torch.equal(a, b)
        assert 0.05 < a[mask > 0].std() < 0.45


class TestRefusedFiles:
    def test_esrgan(self, tmp_path):
        from spandrel.architectures.ESRGAN import ESRGAN

        torch.save(ESRGAN(num_filters=8, num_blocks=1).state_dict(), tmp_path / "4x_upscale.pth")
        with pytest.raises(ValueError, match="'4x_upscale.pth' holds a network of type ESRGAN, but Load LaMa needs"):
            lama.load(tmp_path / "4x_upscale.pth")

    def test_mpe(self, tmp_path):
        content = {
            "gen_state_dict": prefixed(thin_net(1), "model."),
            "str_state_dict": {"rel_pos_emb.weight": torch.rand(128, 64), "alpha5": torch.tensor(0.0)},
        }
        torch.save(content, tmp_path / "inpainting_lama_mpe.ckpt")
        with pytest.raises(ValueError, match="'inpainting_lama_mpe.ckpt' holds LaMa-MPE.*position encodings"):
            lama.load(tmp_path / "inpainting_lama_mpe.ckpt")

    def test_other_input(self, tmp_path):
        net = spandrel_lama.FFCResNetGenerator(6, 3, ngf=4, n_blocks=1)
        torch.save(net.state_dict(), tmp_path / "edges.pth")
        with pytest.raises(ValueError, match="'edges.pth' holds a LaMa generator with 6 input channels.*one with 4"):
            lama.load(tmp_path / "edges.pth")

    def test_incomplete(self, tmp_path):
        weights = prefixed(thin_net(2), "model.")
        del weights["model.6.conv2.bn_g.running_var"]
        torch.save(weights, tmp_path / "half.pth")
        with pytest.raises(ValueError, match="'half.pth' is an incomplete LaMa.*6.conv2.bn_g.running_var"):
            lama.load(tmp_path / "half.pth")

    def test_text(self, tmp_path):
        (tmp_path / "notes.pt").write_text("no weights here")
        with pytest.raises(ValueError, match="'notes.pt' is no model file"):
            lama.load(tmp_path / "notes.pt")


class TestPictures:
    def test_rgba_keeps_alpha(self, thin, rng):
        image, mask = picture(rng, 40, 50, channels=4), block_mask(40, 50, (5, 20), (3, 25))
        out = thin[1].fill(image, mask, WHOLE, 0, 0)
        assert torch.equal(out[..., 3], image[..., 3])
        assert torch.equal(out[..., :3], thin[1].fill(image[..., :3], mask, WHOLE, 0, 0))

    def test_grey_is_filled_as_its_rgb(self, thin, rng):
        image, mask = picture(rng, 40, 50, channels=1), block_mask(40, 50, (5, 20), (3, 25))
        out = thin[1].fill(image, mask, WHOLE, 0, 0)
        rgb = thin[1].fill(image.repeat(1, 1, 1, 3), mask, WHOLE, 0, 0)
        assert out.shape == image.shape
        assert torch.equal(out[mask == 0], image[mask == 0])
        luma = rgb @ torch.tensor([0.299, 0.587, 0.114])
        assert worst(out[..., 0], luma, mask) < 1e-6

    @pytest.mark.parametrize("pictures, masks", [(3, 1), (1, 3), (3, 3)])
    def test_batches(self, thin, rng, pictures, masks):
        image = picture(rng, 40, 50, batch=pictures)
        mask = torch.zeros(masks, 40, 50)
        for i in range(masks):
            mask[i, 5 : 20 + i, 3 + 5 * i : 25 + 5 * i] = 1
        out = thin[1].fill(image, mask, WHOLE, 0, 0)
        assert len(out) == 3
        for i in range(3):
            one = thin[1].fill(image[i % pictures, None], mask[i % masks, None], WHOLE, 0, 0)
            assert torch.equal(out[i], one[0])

    def test_one_empty_mask_in_a_batch(self, thin, rng):
        image, mask = picture(rng, 40, 50, batch=2), block_mask(40, 50, (5, 20), (3, 25), batch=2)
        mask[1] = 0
        for area in (WHOLE, EACH):
            out = thin[1].fill(image, mask, area, 16, 0)
            assert torch.equal(out[1], image[1])
            assert not torch.equal(out[0], image[0])

    def test_number_mismatch(self, thin, rng):
        with pytest.raises(ValueError, match="mask is a batch of 2 but image is a batch of 3"):
            thin[1].fill(picture(rng, 40, 50, batch=3), torch.ones(2, 40, 50), WHOLE, 0, 0)

    def test_mask_of_another_size(self, thin, rng):
        image, mask = picture(rng, 40, 60), block_mask(40, 60, (10, 30), (10, 30))
        small = F.max_pool2d(mask, 2)
        assert torch.equal(thin[1].fill(image, small, WHOLE, 0, 0), thin[1].fill(image, mask, WHOLE, 0, 0))
        with pytest.raises(ValueError, match="mask is 40 x 60 but image is 60 x 40"):
            thin[1].fill(image, mask.mT, WHOLE, 0, 0)

    @pytest.mark.parametrize("shape", [(1, 40, 50), (1, 64, 64)])
    def test_empty_mask_returns_the_picture_and_loads_nothing(self, rng, shape):
        model = ours(thin_net(1))
        image = picture(rng, 40, 50)
        before = list(model_management.current_loaded_models)
        for area in (WHOLE, EACH):
            assert torch.equal(model.fill(image, torch.zeros(shape), area, 128, 15), image)
        assert model_management.current_loaded_models == before

    @pytest.mark.parametrize("area", [WHOLE, EACH])
    def test_full_mask(self, thin, rng, area, caplog):
        image = picture(rng, 40, 50)
        out = thin[1].fill(image, torch.ones(1, 40, 50), area, 128, 0)
        assert "LaMa Fill: the mask selects up to 100 % of 1 of the 1 pictures" in caplog.text
        assert worst(out, reference_fill(thin[0], image, torch.ones(1, 40, 50)), torch.ones(1, 40, 50)) <= 1e-5

    @pytest.mark.parametrize("area", [WHOLE, EACH])
    @pytest.mark.parametrize("size", [(1, 1), (7, 5), (4000, 300), (30, 400)])
    def test_sizes(self, thin, rng, size, area):
        image, mask = picture(rng, *size), torch.zeros(1, *size)
        mask[:, size[0] // 2, size[1] // 2 :] = 1
        out = thin[1].fill(image, mask, area, 16, 0)
        assert out.shape == image.shape and out.isfinite().all()
        assert torch.equal(out[mask == 0], image[mask == 0])
        assert not torch.equal(out, image)

    def test_inputs_are_left_alone(self, thin, rng):
        image, mask = picture(rng, 40, 50), block_mask(40, 50, (5, 20), (3, 25)) * 0.4
        copies = image.clone(), mask.clone()
        thin[1].fill(image, mask, EACH, 8, 0)
        assert torch.equal(image, copies[0]) and torch.equal(mask, copies[1])


class TestNotFinite:
    @pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
    @pytest.mark.parametrize("area", lama.AREAS)
    def test_what_the_hole_covers_may_be_anything(self, thin, rng, area, value):
        image, mask = picture(rng, 70, 90), block_mask(70, 90, (20, 50), (30, 60))
        _, model = thin
        broken = image.masked_fill((mask > 0)[..., None], value)
        assert torch.equal(model.fill(broken, mask, area, 16, 0), model.fill(image, mask, area, 16, 0))
        one = image.clone()
        one[0, 20, 30, 1] = value  # at the rim
        assert torch.equal(model.fill(one, mask, area, 16, 0), model.fill(image, mask, area, 16, 0))

    @pytest.mark.parametrize("budget", [1_800_000, 20_000])
    def test_in_the_refinement_too(self, refined, budget):
        """Which blurs and halves the picture, and above its budget resizes it, with what is in the hole."""
        model = small(refined.net, budget=budget)
        broken = refined.image.masked_fill((refined.mask > 0)[..., None], torch.nan)
        filled = [model.fill(image, refined.mask, WHOLE, 0, 2) for image in (broken, refined.image)]
        assert filled[0].isfinite().all() and torch.equal(*filled)

    @pytest.mark.parametrize("value", [torch.nan, torch.inf])
    def test_beside_the_hole_it_is_refused(self, thin, rng, value):
        image, mask = picture(rng, 70, 90, batch=2), block_mask(70, 90, (20, 50), (30, 60))
        image[1, 19, 30, 2] = value
        place = "in 1 of its 10800 pixels outside the mask, first in picture 2 at x = 30, y = 19"
        with pytest.raises(ValueError, match=f"image has NaN or infinity {place}"):
            thin[1].fill(image, mask, WHOLE, 0, 0)


class TestEachHole:
    def test_each_is_the_whole_pass_of_its_crop(self, thin, rng):
        image, mask = picture(rng, 200, 300), block_mask(200, 300, (10, 30), (20, 50))
        mask[:, 150:170, 250:290] = 1
        out = thin[1].fill(image, mask, EACH, 24, 0)
        for rows, columns in [((0, 54), (0, 74)), ((126, 194), (226, 300))]:
            crop = (slice(None), slice(*rows), slice(*columns))
            wanted = reference_fill(thin[0], image[crop], mask[crop])
            assert worst(out[crop], wanted, mask[crop]) <= 1e-5
        assert torch.equal(out[mask == 0], image[mask == 0])

    def test_nothing_outside_the_context_matters(self, thin, rng):
        image, mask = picture(rng, 200, 300), block_mask(200, 300, (10, 30), (20, 50))
        other = image.clone()
        other[:, 55:, 75:] = 0
        filled = [thin[1].fill(x, mask, EACH, 24, 0)[mask > 0] for x in (image, other)]
        assert torch.equal(*filled)
        filled = [thin[1].fill(x, mask, WHOLE, 24, 0)[mask > 0] for x in (image, other)]
        assert not torch.equal(*filled)

    def test_no_context(self, thin, rng):
        image, mask = picture(rng, 50, 60), block_mask(50, 60, (10, 30), (20, 50))
        assert not torch.equal(thin[1].fill(image, mask, EACH, 0, 0), image)


class TestHost:
    """ComfyUI's memory, interrupt and repeatability."""

    def test_same_bits_every_time(self, thin, rng):
        image, mask = picture(rng, 90, 80), block_mask(90, 80, (5, 60), (3, 55))
        a, b = (thin[1].fill(image, mask, EACH, 16, 0) for _ in range(2))
        assert torch.equal(a, b)

    def test_managed_and_unloaded(self, rng):
        model = ours(thin_net(1))
        model.fill(picture(rng, 40, 40), block_mask(40, 40, (5, 20), (3, 25)), WHOLE, 0, 0)
        loaded = [entry.model for entry in model_management.current_loaded_models]
        assert model.patcher in loaded
        model_management.unload_all_models()
        assert not model_management.current_loaded_models

    def test_memory_comes_back(self, rng):
        """After ComfyUI unloads and drops the net, its 205 MB are gone, every time."""
        image, mask = picture(rng, 40, 40), block_mask(40, 40, (5, 20), (3, 25))
        weights = spandrel_lama.FFCResNetGenerator(4, 3).state_dict()
        sizes = []
        for _ in range(4):
            model = lama.LaMa(lama.generator_weights(dict(weights), "test"), "test")
            model.fill(image, mask, WHOLE, 0, 0)
            alive = weakref.ref(model.generator)
            del model
            model_management.unload_all_models()
            gc.collect()
            assert alive() is None
            sizes.append(held())
        assert sizes[-1] - sizes[0] < 205e6  # three nets are 615 MB

    def test_many_runs_do_not_grow(self, thin, rng):
        image, mask = picture(rng, 160, 160), block_mask(160, 160, (25, 100), (3, 125))
        sizes = []
        for i in range(50):
            thin[1].fill(image, mask, EACH, 16, 0)
            if i in (9, 49):
                gc.collect()
                sizes.append(held())
        assert sizes[1] - sizes[0] < 8e6

    @pytest.mark.parametrize("refine_steps", [0, 4])
    def test_interrupt_leaves_nothing_behind(self, thin, rng, refine_steps, monkeypatch):
        model = ours(thin[0], min_side=32)
        image, mask = picture(rng, 90, 80), block_mask(90, 80, (5, 60), (3, 55))
        copies, weights = (image.clone(), mask.clone()), frozen(model.generator)
        wanted = model.fill(image, mask, WHOLE, 0, refine_steps)
        calls = []
        stop_at = 40 if refine_steps else 7

        def update(bar, steps):
            calls.append(steps)
            model_management.interrupt_current_processing(len(calls) == stop_at)

        monkeypatch.setattr(comfy.utils.ProgressBar, "update", update)
        with pytest.raises(model_management.InterruptProcessingException):
            model.fill(image, mask, WHOLE, 0, refine_steps)
        assert len(calls) == stop_at  # it stopped at once, in the middle of the net
        monkeypatch.undo()
        assert not model_management.processing_interrupted()
        assert torch.equal(image, copies[0]) and torch.equal(mask, copies[1])
        assert frozen(model.generator) == weights
        assert torch.equal(model.fill(image, mask, WHOLE, 0, refine_steps), wanted)

    @pytest.mark.parametrize("refine_steps", [0, 3])
    def test_bar_reaches_its_end(self, thin, rng, refine_steps, bars):
        mask = block_mask(200, 180, (5, 60), (3, 55))
        mask[:, 150:170, 120:170] = 1
        ours(thin[0], min_side=32).fill(picture(rng, 200, 180), mask, EACH, 16, refine_steps)
        (bar,) = bars
        assert bar.values[-1] == bar.total

    def test_nothing_is_logged_but_the_load(self, thin, rng, caplog):
        with caplog.at_level(logging.WARNING):
            thin[1].fill(picture(rng, 40, 40), block_mask(40, 40, (5, 20), (3, 25)), WHOLE, 0, 0)
        assert not caplog.records


# --- refinement -----------------------------------------------------------------------------------------------------

# cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (15, 15)): pixels in each row
ELLIPSE = torch.tensor([1, 9, 11, 13, 13, 15, 15, 15, 15, 15, 13, 13, 11, 9, 1])


def reference_refine(net, image, mask, steps, min_side, lr=0.002, erode=True, blur=True):
    """The reference algorithm on spandrel's net, with kornia's filters, as its authors describe it.

    image (1, 3, H, W), mask (1, 1, H, W) -> (1, 3, H, W). `lr`, `erode` and `blur` make it wrong on purpose.
    """
    from kornia.filters import gaussian_blur2d
    from kornia.morphology import erosion

    def down(x):
        if blur:
            x = gaussian_blur2d(x, (5, 5), (1.0, 1.0))
        return F.interpolate(x, (x.shape[2] // 2, x.shape[3] // 2), mode="bilinear", align_corners=False)

    front = next(i for i, layer in enumerate(net.model) if isinstance(layer, spandrel_lama.FFCResnetBlock))
    count = min(1 + round(max(0, np.log2(min(image.shape[2:]) / min_side))), 3)
    pyramid = [(image, mask)]
    for _ in range(count - 1):
        x, m = pyramid[0]
        pyramid.insert(0, (down(x), (down(m) >= 1e-8).to(m)))
    kernel = ((torch.arange(15) - 7).abs() * 2 + 1 <= ELLIPSE[:, None]).to(image)
    lower = None
    for image, mask in pyramid:
        h, w = image.shape[2:]
        pad = (0, -w % 8, 0, -h % 8)
        x, m = F.pad(image, pad, mode="reflect"), F.pad(mask, pad, mode="reflect")
        with torch.no_grad():
            z = [part.clone() for part in net.model[:front](torch.cat((x * (1 - m), m), 1))]
        if lower is not None:
            inner = F.interpolate(mask, (h // 2, w // 2), mode="bilinear", align_corners=False)
            inner = (inner >= 1 - 1e-8).to(inner)
            if erode:
                inner = erosion(inner, kernel)
            inner = inner.repeat(1, 3, 1, 1) >= 1e-8
            z = [part.requires_grad_() for part in z]
            adam = torch.optim.Adam(z, lr=lr)
        for i in range(steps if lower is not None else 1):
            y = net.model[front:](tuple(z))
            if lower is not None and i < steps - 1:
                known = m.repeat(1, 3, 1, 1) < 1e-8
                loss = (y[known] - x[known]).abs().mean() + (down(y[..., :h, :w])[inner] - lower[inner]).abs().mean()
                adam.zero_grad()
                loss.backward()
                adam.step()
        lower = (m * y + (1 - m) * x)[..., :h, :w].detach()
    return lower


@pytest.fixture(scope="module")
def refined(one_thread):
    """A hole wide enough for what the erosion leaves of it, at three scales, in odd sizes."""
    rng = torch.Generator().manual_seed(5)
    net = thin_net(3).requires_grad_(False)
    image = picture(rng, 163, 190)
    mask = block_mask(163, 190, (30, 135), (40, 150))
    args = net, image.movedim(-1, 1), mask[:, None]
    wanted = {steps: reference_refine(*args, steps, min_side=56) for steps in (1, 2)}
    return types.SimpleNamespace(net=net, image=image, mask=mask, args=args, wanted=wanted)


@pytest.fixture(scope="module")
def exact(one_thread):
    """The same in float64. Adam divides each gradient by its own size, so 15 steps in float32 enlarge the rounding of
    whichever processor it is to 1e-3 on some; in float64 to 1e-10.

    spandrel's Fourier unit asks for float32 by the method `float`, which stands for `double` here.
    """
    rng = torch.Generator().manual_seed(5)
    net = thin_net(3).requires_grad_(False).double()
    image, mask = picture(rng, 163, 190).double(), block_mask(163, 190, (30, 135), (40, 150)).double()
    args = net, image.movedim(-1, 1), mask[:, None]

    @functools.cache
    def reference(steps, **wrong):
        with torch.inference_mode(False), pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.Tensor, "float", torch.Tensor.double)
            copies = (a.clone() if torch.is_tensor(a) else a for a in args)
            return reference_refine(*copies, steps, min_side=56, **wrong)

    return types.SimpleNamespace(args=args, reference=reference)


def small(net, **pyramid):
    """Ours, which refines the small pictures of these tests at several scales."""
    return ours(net, min_side=56, **pyramid)


class TestRefinement:
    @pytest.mark.both_devices
    @pytest.mark.parametrize("steps", [1, 2])
    def test_equals_the_reference(self, refined, steps):
        out = small(refined.net).fill(refined.image, refined.mask, WHOLE, 0, steps)
        wanted = refined.wanted[steps].movedim(1, -1)
        assert worst(out, wanted, refined.mask) <= 1e-5
        assert torch.equal(out[refined.mask == 0], refined.image[refined.mask == 0])

    def test_fifteen_steps_equal_the_reference(self, exact):
        net, image, mask = exact.args
        generator = ours(net).generator.double()
        out = lama_refinement.refine(generator, image, mask, 15, pyramid=lama_refinement.Pyramid(min_side=56))
        assert (out - exact.reference(15)).abs().max() <= 1e-7

    @pytest.mark.parametrize("wrong", [{"lr": 0.0015}, {"erode": False}, {"blur": False}])
    def test_wrong_variants_are_told_apart(self, exact, wrong):
        """After four steps already; the references agree to 1e-7."""
        assert (exact.reference(4, **wrong) - exact.reference(4)).abs().max() > 1e-3

    def test_prediction_comes_closer_to_the_smaller_scale(self, refined):
        """What it is for."""
        net, image, mask = refined.args
        down = lama_refinement.pyramid_down
        lower = reference_refine(net, down(image), (down(mask) >= 1e-8).float(), 1, min_side=1000)
        inner = lama_refinement.inner_mask(mask).expand_as(lower)
        off = []
        for steps in (1, 5, 15):
            out = small(net, max_scales=2).fill(refined.image, refined.mask, WHOLE, 0, steps).movedim(-1, 1)
            off.append((down(out) - lower).abs()[inner].mean().item())
        assert off[0] > off[1] > off[2]

    def test_weights_stay_as_they_are(self, refined):
        model = small(refined.net)
        before = frozen(model.generator)
        model.fill(refined.image, refined.mask, WHOLE, 0, 3)
        assert frozen(model.generator) == before
        assert all(p.grad is None for p in model.generator.parameters())
        plain = small(refined.net).fill(refined.image, refined.mask, WHOLE, 0, 0)
        assert torch.equal(model.fill(refined.image, refined.mask, WHOLE, 0, 0), plain)

    def test_net_made_outside_inference_mode(self, refined):
        with torch.inference_mode(False):
            model = small(refined.net)
        out = model.fill(refined.image, refined.mask, WHOLE, 0, 2)
        assert not out.requires_grad
        assert torch.equal(out, small(refined.net).fill(refined.image, refined.mask, WHOLE, 0, 2))
        assert all(p.grad is None for p in model.generator.parameters())

    def test_same_bits_every_time(self, refined):
        a, b = (small(refined.net).fill(refined.image, refined.mask, WHOLE, 0, 4) for _ in range(2))
        assert torch.equal(a, b)

    def test_only_the_crop(self, refined):
        """Each hole is refined in its own surroundings."""
        image = F.pad(refined.image, (0, 0, 0, 200))
        mask = F.pad(refined.mask, (0, 200))
        out = small(refined.net).fill(image, mask, EACH, 30, 3)
        crop = (slice(None), slice(0, 163), slice(10, 180))
        alone = small(refined.net).fill(image[crop], mask[crop], WHOLE, 0, 3)
        assert torch.equal(out[crop], alone)

    def test_hole_at_the_border(self, refined):
        """The erosion does not eat into it from there."""
        mask = block_mask(163, 190, (0, 110), (70, 190))
        out = small(refined.net).fill(refined.image, mask, WHOLE, 0, 2)
        with torch.inference_mode(False):
            wanted = reference_refine(*refined.args[:2], mask[:, None].clone(), 2, min_side=56).movedim(1, -1)
        assert worst(out, wanted, mask) <= 1e-4

    def test_thin_hole(self, refined):
        """Nothing of it survives the erosion, so that only the picture around it counts."""
        mask = block_mask(163, 190, (60, 70), (20, 150))
        out = small(refined.net).fill(refined.image, mask, WHOLE, 0, 2)
        with torch.inference_mode(False):
            wanted = reference_refine(*refined.args[:2], mask[:, None].clone(), 2, min_side=56).movedim(1, -1)
        assert worst(out, wanted, mask) <= 1e-4

    def test_full_mask(self, refined):
        mask = torch.ones(1, 163, 190)
        assert small(refined.net).fill(refined.image, mask, WHOLE, 0, 3).isfinite().all()

    def test_half_types(self, refined):
        wanted = refined.wanted[2].movedim(1, -1)
        for dtype, tolerance in ((torch.float16, 0.02), (torch.bfloat16, 0.15)):
            weights = {key: value.to(dtype) for key, value in refined.net.state_dict().items() if value.ndim}
            pyramid = lama_refinement.Pyramid(min_side=56)
            model = lama.LaMa(lama.generator_weights(weights, "test"), "test", pyramid)
            out = model.fill(refined.image, refined.mask, WHOLE, 0, 2)
            assert worst(out, wanted, refined.mask) < tolerance

    def test_small_crop_is_filled_plainly(self, refined):
        model = ours(refined.net)
        plain, fine = (model.fill(refined.image, refined.mask, WHOLE, 0, n) for n in (0, 15))
        assert torch.equal(plain, fine)

    def test_above_the_budget(self, refined):
        """It is refined at the budget's size and comes back in its own."""
        out = small(refined.net, budget=120 * 140).fill(refined.image, refined.mask, WHOLE, 0, 2)
        x, m = refined.args[1:]
        ratio = (120 * 140 / (163 * 190)) ** 0.5
        size = int(163 * ratio), int(190 * ratio)
        shrunk = F.interpolate(x, size, mode="bilinear"), (F.interpolate(m, size, mode="bilinear") > 1e-8).float()
        with torch.inference_mode(False):
            wanted = reference_refine(refined.net, *(a.clone() for a in shrunk), 2, min_side=56)
        wanted = F.interpolate(wanted, (163, 190), mode="bilinear").movedim(1, -1)
        assert worst(out, wanted, refined.mask) < 1e-4
        assert torch.equal(out[refined.mask == 0], refined.image[refined.mask == 0])

    @pytest.mark.parametrize("side, count", [(1, 1), (79, 1), (80, 2), (158, 2), (159, 3), (2000, 3)])
    def test_number_of_scales(self, side, count):
        pyramid = lama_refinement.Pyramid(min_side=56)
        assert pyramid.scales(side, side) == count
        assert pyramid.scales(side, 2 * side) == count


class TestNodes:
    @pytest.fixture
    def file(self, tmp_path):
        FORMS["sanster.pt"](thin_net(2, width=4), tmp_path / "standin.pt")
        return "standin.pt"

    @pytest.mark.parametrize("folder", ["inpaint", "lama"])
    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    def test_load_and_fill(self, node_classes, file, tmp_path, monkeypatch, rng, folder):
        import folder_paths

        monkeypatch.setitem(folder_paths.folder_names_and_paths, folder, ([str(tmp_path)], {".pt"}))
        monkeypatch.setattr(folder_paths, "filename_list_cache", {})
        load, fill = node_classes["PentimentoLoadLaMa"], node_classes["PentimentoLaMaFill"]
        assert file in load.define_schema().inputs[0].options
        model = load.execute(file)[0]
        image, mask = picture(rng, 60, 70), block_mask(60, 70, (5, 20), (3, 25))
        out = fill.execute(model, image, mask, EACH, 16, 0)[0]
        assert torch.equal(out, model.fill(image, mask, EACH, 16, 0))

    def test_missing_file(self, node_classes):
        with pytest.raises(FileNotFoundError, match="no file 'gone.pt' in models/inpaint or models/lama"):
            node_classes["PentimentoLoadLaMa"].execute("gone.pt")

    def test_defaults(self, node_classes):
        inputs = {i.id: i for i in node_classes["PentimentoLaMaFill"].define_schema().inputs}
        assert list(inputs) == ["lama", "image", "mask", "area", "context", "refine_steps"]
        assert inputs["area"].options == [EACH, WHOLE]
        assert (inputs["context"].default, inputs["refine_steps"].default) == (128, 0)
