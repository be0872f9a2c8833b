"""SD x4 Conditioning against diffusers' StableDiffusionUpscalePipeline, and at the edges."""

import weakref

import comfy.sd
import comfy_extras.nodes_sdupscale
import pytest
import torch
from comfy import model_management
from comfy.ldm.modules.diffusionmodules import model as kl
from comfy.ldm.modules.diffusionmodules.upscaling import ImageConcatWithNoiseAugmentation
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionUpscalePipeline
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from kit import run as sampled
from kit import thin
from kit.assertions import frozen, relative_error
from kit.nodes import run_node
from kit.tensors import rand, randn
from pentimento.model_patchers.condition.sd_x4 import alphas_cumprod, decode_memory, q_sample, with_decode_estimate
from pentimento.nodes.condition.sd_x4 import SDx4Conditioning

pytestmark = pytest.mark.usefixtures("one_thread")
CFG = 9.0
NOISE_SEED = 11
BETAS = {"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "scaled_linear"}


@pytest.fixture(scope="module")
def model(precision):
    return thin.host_model("x4")


@pytest.fixture(scope="module")
def pipeline():
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        norm_num_groups=8,
        scaling_factor=0.08333,
    )
    pipeline = StableDiffusionUpscalePipeline(
        vae, None, None, thin.diffusers_unet("x4"), DDPMScheduler(**BETAS), scheduler()
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def scheduler(steps=sampled.STEPS):
    return sampled.scheduler(steps, **BETAS, prediction_type="v_prediction")


def picture(batch=1, height=4, width=4, channels=3):
    return rand(batch, height, width, channels, seed=3)


def condition(image, noise_level=20, noise_seed=NOISE_SEED):
    positive, negative = sampled.prompts()
    settings = {"noise_level": noise_level, "noise_seed": noise_seed}
    *prompts, latent, vae = run_node(SDx4Conditioning, positive=positive, negative=negative, image=image, **settings)
    assert vae is None
    return *prompts, latent["samples"]


def start(image):
    batch, height, width, _ = image.shape
    return randn(batch, 4, height, width, seed=5)


def reference(pipeline, image, noise_level, steps=sampled.STEPS):
    return pipeline(
        image=image.movedim(-1, 1),
        noise_level=noise_level,
        num_inference_steps=steps,
        guidance_scale=CFG,
        latents=start(image),
        generator=torch.Generator().manual_seed(NOISE_SEED),
        output_type="latent",
        **sampled.embeds(*sampled.prompts(), len(image)),
    ).images


def lowered(pipeline, precision):
    half = StableDiffusionUpscalePipeline(**pipeline.components | {"unet": precision.lowered(pipeline.unet)})
    half.set_progress_bar_config(disable=True)
    return half


def run(model, image, *prompts, seed=7, steps=sampled.STEPS):
    return sampled.sample(model, *prompts, start(image), scheduler(steps).sigmas, CFG, seed=seed)


@pytest.mark.both_devices
@pytest.mark.in_half
@pytest.mark.parametrize("level, batch, size", [(0, 1, (4, 4)), (20, 1, (8, 8)), (20, 2, (4, 12)), (350, 1, (4, 8))])
def test_equal_to_diffusers(model, pipeline, precision, level, batch, size):
    """Also at 12, which halves to 3: nothing needs to be padded."""
    image = picture(batch, *size)
    positive, negative, latent = condition(image, level)
    assert latent.shape == (batch, 4, *size)
    assert not latent.any()
    theirs = reference(pipeline, image, level)
    near = precision.tolerance(1e-4, theirs, lambda: reference(lowered(pipeline, precision), image, level))
    assert relative_error(run(model, image, positive, negative), theirs) < near


def hosts(image, noise_augmentation):
    """The wiring with ComfyUI's own node."""
    node = comfy_extras.nodes_sdupscale.SD_4XUpscale_Conditioning
    return node.execute(image, *sampled.prompts(), 4.0, noise_augmentation).result[:2]


@pytest.mark.parametrize("level", [0, 20])
def test_the_hosts_default_is_far_off(model, pipeline, level):
    """It puts no noise on the picture, which the reference does at level 0 too."""
    image = picture()
    [default] = [
        entry.default
        for entry in comfy_extras.nodes_sdupscale.SD_4XUpscale_Conditioning.define_schema().inputs
        if entry.id == "noise_augmentation"
    ]
    ours = run(model, image, *hosts(image, default), steps=2)
    assert relative_error(ours, reference(pipeline, image, level, steps=2)) > 1e-2


@pytest.mark.in_half
def test_wrong_variants_are_far_off(model, pipeline, precision):
    image = picture()
    theirs = reference(pipeline, image, 20, steps=2)
    far = precision.tolerance(1e-2, theirs, lambda: reference(lowered(pipeline, precision), image, 20, steps=2))
    variants = {
        "ComfyUI's noise": hosts(image, 20 / 350),
        "other noise": condition(image, noise_seed=NOISE_SEED + 1)[:2],
        "another level": condition(image, 30)[:2],
        "a picture from 0 to 1": condition((image + 1) / 2)[:2],
    }
    if precision.dtype == torch.bfloat16:  # whose rounding is 0.15, and another noise is 0.1 to 0.2
        variants = {"a picture from 0 to 1": variants["a picture from 0 to 1"]}
    for name, prompts in variants.items():
        assert relative_error(run(model, image, *prompts, steps=2), theirs) > far, name


def test_the_noise_has_its_own_seed_and_leaves_the_global_state(model):
    image = picture()
    torch.manual_seed(1)
    rng = torch.get_rng_state()
    first = run(model, image, *condition(image)[:2], seed=1, steps=1)
    assert torch.equal(torch.get_rng_state(), rng)
    assert torch.equal(run(model, image, *condition(image)[:2], seed=2, steps=1), first)
    assert not torch.equal(run(model, image, *condition(image, noise_seed=2**64 - 1)[:2], steps=1), first)
    run(model, image, *hosts(image, 0.1), seed=1, steps=1)
    assert not torch.equal(torch.get_rng_state(), rng), "ComfyUI sets it: the check above can fail"


def test_the_schedule_is_the_hosts_and_diffusers():
    augmentation = ImageConcatWithNoiseAugmentation({"linear_start": 1e-4, "linear_end": 2e-2}, 350)
    assert (augmentation.alphas_cumprod - alphas_cumprod()).abs().max() < 1e-6
    assert (DDPMScheduler(**BETAS).alphas_cumprod - alphas_cumprod()).abs().max() < 1e-6
    x = randn(1, 3, 8, 8, seed=1)
    for level in (0, 20, 350):
        theirs, _ = augmentation(x, torch.tensor([level]), seed=4)
        noise = randn(*x.shape, seed=4)
        assert (q_sample(x, level, noise) - theirs).abs().max() < 1e-5
    noised = q_sample(torch.zeros(()), 0, torch.ones(()))
    assert float(noised) == pytest.approx(0.01, rel=1e-3), "level 0 has noise"


def test_the_level_is_a_whole_number_for_each_picture(model):
    """Also where the latent is repeated after the node, and both prompts in one batch."""
    calls = []

    def watch(apply, options):
        calls.append(options["c"])
        return apply(options["input"], options["timestep"], **options["c"])

    watched = model.clone()
    watched.set_model_unet_function_wrapper(watch)
    image, before = picture(), frozen(model)
    positive, negative, _ = condition(image, 123)
    noise = randn(3, 4, 4, 4, seed=5)
    sampled.sample(watched, positive, negative, noise, scheduler(2).sigmas, CFG)
    assert len(calls) == 2
    for c in calls:
        assert c["y"].tolist() == [123] * 6 and c["y"].dtype == torch.int64
        assert c["c_concat"].shape == (6, 3, 4, 4)
        assert (c["c_concat"] == c["c_concat"][:1]).all()
    assert frozen(model) == before


@pytest.mark.parametrize("channels", [1, 4])
def test_grey_and_transparent_pictures(model, channels):
    image = picture(channels=channels)
    rgb = image.expand(-1, -1, -1, 3) if channels == 1 else image[..., :3]
    ours, theirs = (run(model, image, *condition(one)[:2], steps=1) for one in (image, rgb))
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 5)])
def test_every_size(model, size):
    image = picture(1, *size)
    assert run(model, image, *condition(image)[:2], steps=1).isfinite().all()


def test_another_model_is_refused_before_sampling():
    image = picture()
    with pytest.raises(ValueError, match="SD x4 Conditioning works with the SD x4 Upscaler.*Stable Diffusion 2 "):
        run(thin.host_model("sd2"), image, *condition(image)[:2])


def test_another_latent_is_refused_before_sampling(model):
    positive, negative, _ = condition(picture())
    with pytest.raises(ValueError, match="latent of 4 x 4"):
        run(model, picture(1, 4, 5), positive, negative)


# ---- The memory that decoding takes


class Live(TorchDispatchMode):
    """The bytes of all tensors that operations made and that are alive, and the most there were."""

    def __init__(self):
        super().__init__()
        self.live = self.peak = 0
        self.seen = weakref.WeakSet()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage() not in self.seen:
                storage = tensor.untyped_storage()
                self.seen.add(storage)
                self.live += storage.nbytes()
                weakref.finalize(storage, self.free, storage.nbytes())
        self.peak = max(self.peak, self.live)
        return result

    def free(self, count):
        self.live -= count


def random_vae(levels=3, ch=32):
    """ComfyUI's VAE; three levels make it the x4 upscaler's. The encoder, which nothing looks at, has no weights."""
    config = {"ch_mult": [1, 2, 4, 4][:levels], "z_channels": 4, "out_ch": 3, "num_res_blocks": 2}
    decoder = kl.Decoder(ch=ch, in_channels=3, resolution=256, attn_resolutions=[], **config)
    weights = {f"decoder.{name}": torch.randn_like(weight) / 30 for name, weight in decoder.state_dict().items()}
    weights["post_quant_conv.weight"] = torch.eye(4)[..., None, None]
    weights["post_quant_conv.bias"] = torch.zeros(4)
    return comfy.sd.VAE(sd=weights, dtype=torch.float32)


def measured(shape, dtype, attention, monkeypatch, ch=128, free=None):
    """The live peak of decoding with ComfyUI's network, which is built and run without numbers."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with FakeTensorMode(), torch.no_grad():
            config = {"ch_mult": [1, 2, 4], "z_channels": 4, "in_channels": 3, "out_ch": 3, "num_res_blocks": 2}
            decoder = kl.Decoder(ch=ch, resolution=256, attn_resolutions=[], **config)
            decoder.mid.attn_1.optimized_attention = attention
            latent = torch.empty(shape)
            with Live() as memory:
                if free is not None:
                    monkeypatch.setattr(model_management, "get_free_memory", lambda device: free - memory.live)
                pixels = decoder(latent)
    finally:
        torch.set_default_dtype(default)
    assert pixels.shape == (1, 3, 4 * shape[2], 4 * shape[3]) and pixels.dtype == dtype
    return memory.peak


@pytest.fixture(scope="module")
def x4_vae():
    return random_vae()


@pytest.mark.parametrize("ch", [128, 32])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("size", [(128, 128), (512, 512), (125, 77)])
def test_the_estimate_is_near_the_peak_and_the_hosts_is_not(x4_vae, size, dtype, ch, monkeypatch):
    """With PyTorch's attention, which ComfyUI takes on NVIDIA and Intel."""
    shape = (1, 4, *size)
    peak = measured(shape, dtype, kl.pytorch_attention, monkeypatch, ch)
    assert 1 / 1.1 < decode_memory(shape, dtype, ch) / peak < 1.5
    assert x4_vae.memory_used_decode(shape, dtype) > 4 * peak


@pytest.mark.parametrize("size", [(128, 128), (512, 512), (125, 77), (127, 127)])
def test_split_attention_fits_into_the_estimate(size, monkeypatch):
    """On CPU, AMD and Apple. Where that much is free, it keeps to it, and where n is odd it takes its whole matrix."""
    shape = (1, 4, *size)
    estimate = decode_memory(shape, torch.float32, split=True)
    peak = measured(shape, torch.float32, kl.normal_attention, monkeypatch, free=estimate)
    assert 1 / 1.1 < estimate / peak < 1.5
    if size == (127, 127):
        assert decode_memory(shape, torch.float32) < peak / 2, "without the matrix"


def through_the_node(vae):
    return SDx4Conditioning.execute(*sampled.prompts(), picture(), 20, 0, vae).result[3]


def test_the_vae_is_told_and_the_given_one_stays(x4_vae):
    before, shape = dict(vars(x4_vae)), (1, 4, 16, 16)
    told = through_the_node(x4_vae)
    assert vars(x4_vae) == before
    changed = {name for name, value in vars(told).items() if value is not before[name]}
    assert changed == {"memory_used_decode"} and vars(told).keys() == before.keys()
    split = x4_vae.first_stage_model.decoder.mid.attn_1.optimized_attention is kl.normal_attention
    for dtype in (torch.bfloat16, torch.float32):
        assert told.memory_used_decode(shape, dtype) == decode_memory(shape, dtype, 32, split)
        assert through_the_node(told).memory_used_decode(shape, dtype) == told.memory_used_decode(shape, dtype)
    latent = randn(1, 4, 4, 6, seed=2)
    pixels = told.decode(latent)
    assert pixels.shape == (1, 16, 24, 3) and pixels.isfinite().all()
    assert torch.equal(pixels, x4_vae.decode(latent))


def test_amd_keeps_the_hosts_factor(x4_vae, monkeypatch):
    shape = (1, 4, 16, 16)
    nvidia = with_decode_estimate(x4_vae).memory_used_decode(shape, torch.float32)
    monkeypatch.setattr(model_management, "is_amd", lambda: True)
    assert with_decode_estimate(x4_vae).memory_used_decode(shape, torch.float32) == pytest.approx(2.73 * nvidia)


def test_another_vae_is_refused(x4_vae):
    with pytest.raises(ValueError, match="SD x4 Conditioning got in vae a AutoencoderKL that makes 8 x 8 .* 4 x 4"):
        through_the_node(random_vae(levels=4))
    taesd = comfy.sd.VAE(sd={"taesd_decoder.1.weight": torch.zeros(64, 4, 3, 3)})
    with pytest.raises(ValueError, match="TAESD that makes 8 x 8 .*x4-upscaler-ema"):
        through_the_node(taesd)
    with pytest.raises(RuntimeError, match="VAE is invalid"):
        through_the_node(comfy.sd.VAE(sd={}))
