"""The tiled VAE against vae.decode and vae.encode of the whole picture, what it takes, and the edges."""

import copy
import weakref

import comfy.sd
import comfy.utils
import pytest
import torch
from comfy import model_management
from comfy.ldm.cascade.stage_a import StageA
from comfy.ldm.models.autoencoder import AutoencoderKL
from comfy.ldm.modules.diffusionmodules import model as kl
from comfy.ldm.modules.temporal_ae import VideoDecoder
from comfy.taesd.taesd import TAESD
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from kit.assertions import relative_error
from kit.memory import Live
from kit.nodes import run_node
from kit.tensors import rand, randn
from kit.vae import CONFIG, KINDS, fill, thin
from pentimento.model_patchers.upscale import tiled_layers, tiled_vae
from pentimento.model_patchers.upscale.tiled_layers import Moments, TiledLayers, attend, decoder_layers, encoder_layers
from pentimento.nodes.upscale.tiled_vae import TiledVAEDecode, TiledVAEEncode
from pentimento_host.standins.diffusion import taesd_shapes
from pentimento_host.standins.weights import drawn

pytestmark = pytest.mark.usefixtures("one_thread")
WORST, SHIFT = 1 / 255, 1e-4  # what is promised
ROUNDING = 1e-3  # what float32 leaves. ComfyUI's own: its group norm loses digits where a picture is big
ON_BOTH = pytest.param(264, 136, 128, 1, marks=pytest.mark.both_devices)


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def any_vae(kind, precision):
    return thin(kind, precision.dtype)


@pytest.fixture(scope="module")
def any_exact(kind, any_vae, precision):
    """The same in float32."""
    return thin(kind) if precision.is_half else any_vae


@pytest.fixture(scope="module")
def vae(precision):
    return thin("sd", precision.dtype)


@pytest.fixture(scope="module")
def exact(vae, precision):
    return thin("sd") if precision.is_half else vae


@pytest.fixture(scope="module")
def taesd():
    generator = torch.Generator().manual_seed(0)
    weights = {name: drawn(name, size, generator) for name, size in taesd_shapes()}
    return comfy.sd.VAE(sd=weights, dtype=torch.float32)


def latent(vae, height, width, batch=1):
    """Of a picture of this size."""
    ratio = vae.spacial_compression_decode()
    rng = torch.Generator().manual_seed(height)
    return torch.randn(batch, vae.latent_channels, height // ratio, width // ratio, generator=rng)


def picture(height, width, batch=1, channels=3):
    return rand(batch, height, width, channels, seed=height)


def decode(z, vae, tile):
    return run_node(TiledVAEDecode, latent={"samples": z}, vae=vae, tile=tile)[0]


def encode(image, vae, tile):
    return run_node(TiledVAEEncode, image=image, vae=vae, tile=tile)[0]["samples"]


def errors(ours, whole):
    """The largest difference, and by how much the mean of a channel of a picture is off."""
    assert ours.shape == whole.shape and ours.dtype == whole.dtype and ours.device == whole.device
    difference = ours - whole
    return difference.abs().max().item(), difference.mean((1, 2)).abs().max().item()


def latent_errors(ours, whole):
    """In deviations of the whole picture's latent."""
    return [error / whole.std().item() for error in errors(ours.movedim(1, -1), whole.movedim(1, -1))]


@pytest.mark.in_half
@pytest.mark.parametrize("height, width, tile, batch", [ON_BOTH, (136, 208, 192, 2)])
def test_decoding_equals_the_whole_pictures(any_vae, any_exact, precision, height, width, tile, batch):
    z = latent(any_vae, height, width, batch)
    whole, ours = any_vae.decode(z), decode(z, any_vae, tile)
    assert whole.std() > 0.1, "a flat picture proves nothing"
    if precision.is_half:
        assert as_near_as(whole, ours, any_exact.decode(z), precision)
    else:
        worst, shift = errors(ours, whole)
        assert worst < ROUNDING / 20 < WORST and shift < SHIFT / 20


@pytest.mark.in_half
@pytest.mark.parametrize("height, width, tile, batch", [ON_BOTH, (141, 214, 192, 2)])
def test_encoding_equals_the_whole_pictures(any_vae, any_exact, precision, height, width, tile, batch):
    image = picture(height, width, batch)
    whole, ours = any_vae.encode(image), encode(image, any_vae, tile)
    if precision.is_half:
        assert as_near_as(whole, ours, any_exact.encode(image), precision)
    else:
        worst, shift = latent_errors(ours, whole)
        assert worst < ROUNDING < WORST and shift < SHIFT / 2


def as_near_as(whole, ours, exact, precision):
    """Whether tiles are as near to the result in float32 as the whole picture in the same precision is."""
    return relative_error(ours, exact) < precision.tolerance(0, exact, lambda: whole)


@pytest.mark.in_half
def test_statistics_of_tiles_and_the_hosts_tiles_fail_both(vae, exact, precision, monkeypatch):
    """The known wrong forms miss what is promised by far."""
    z, image = latent(vae, 256, 136), picture(256, 136)
    whole, encoded = vae.decode(z), vae.encode(image)
    pictures = [vae.decode_tiled(z, tile_x=16, tile_y=16, overlap=4)]
    latents = [vae.encode_tiled(image, tile_x=128, tile_y=128, overlap=32)]
    monkeypatch.setattr(tiled_layers, "group_norm", lambda x, norm, moments: norm(x))
    pictures.append(decode(z, vae, 128))
    latents.append(encode(image, vae, 128))
    if precision.is_half:
        true_picture, true_latent = exact.decode(z), exact.encode(image)
        assert not any(as_near_as(whole, wrong, true_picture, precision) for wrong in pictures)
        assert not any(as_near_as(encoded, wrong, true_latent, precision) for wrong in latents)
    else:
        for worst, shift in (*(errors(x, whole) for x in pictures), *(latent_errors(x, encoded) for x in latents)):
            assert worst > 10 * WORST and shift > 2 * SHIFT


def test_the_network_in_float64_gives_the_same(vae):
    """What is left to vae.encode is not ours."""
    z, image = latent(vae, 136, 192), picture(136, 192)
    exact = copy.deepcopy(vae.first_stage_model).double()
    pixels = exact.decode(z.double()).add(1).div(2).clamp(0, 1).movedim(1, -1).float()
    assert errors(decode(z, vae, 128), pixels)[0] < 1e-5
    encoded = exact.encode(2 * image.movedim(-1, 1).double() - 1).float()
    assert latent_errors(encode(image, vae, 128), encoded)[0] < 1e-5


def test_there_is_no_seam(vae):
    """Across the tiles' borders a flat latent changes as it does in the whole picture."""
    z = torch.full((1, 4, 32, 32), 0.7)
    whole, ours = vae.decode(z), decode(z, vae, 128)
    for axis, side in ((1, 256), (2, 256)):
        borders = torch.tensor([end for _, end in tiled_layers.spans(side, side // 128)][:-1])
        jumps = [image.index_select(axis, borders) - image.index_select(axis, borders - 1) for image in (ours, whole)]
        assert (jumps[0] - jumps[1]).abs().max() < 1e-5


def test_attention_in_other_levels_and_a_final_tanh():
    """Which configurations of ComfyUI's classes have, though no known VAE."""
    vae = thin("sd")
    config = CONFIG | {"z_channels": 4, "ch_mult": (1, 2), "attn_resolutions": [256, 128]}
    z, image = randn(1, 4, 18, 14, seed=0), torch.rand(3, 36, 28)
    decoder, encoder = fill(kl.Decoder(**config, tanh_out=True)), fill(kl.Encoder(**config))
    layers = TiledLayers(3, 2, torch.device("cpu"), lambda share: None)
    assert (layers.run(decoder_layers(decoder), z[0]).tanh() - decoder(z)[0]).abs().max() < ROUNDING
    assert (layers.run(encoder_layers(encoder), image) - encoder(image[None])[0]).abs().max() < ROUNDING
    vae.first_stage_model.decoder.tanh_out = True
    z = latent(vae, 256, 128)
    assert errors(decode(z, vae, 128), vae.decode(z))[0] < ROUNDING


def test_bfloat16_is_as_near_to_float32_as_the_whole_picture_is():
    """Rounding is all that there is between them; it is the same, in other places."""
    exact, rounded = thin("sd"), thin("sd")
    rounded.first_stage_model.to(torch.bfloat16)
    rounded.vae_dtype = torch.bfloat16
    z = latent(exact, 256, 192).bfloat16().float()
    truth, whole, ours = exact.decode(z), rounded.decode(z), decode(z, rounded, 128)
    assert errors(ours, truth)[0] < 1.3 * errors(whole, truth)[0]
    assert errors(ours, whole)[1] < WORST / 10
    image = picture(256, 192)
    truth, whole, ours = exact.encode(image), rounded.encode(image), encode(image, rounded, 128)
    assert latent_errors(ours, truth)[0] < 1.5 * latent_errors(whole, truth)[0]


def peaks(network, height, width, dtype, tile=512):
    """Of a network of the real size on a graphics card, both without numbers: bytes in RAM, and on the card."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    config = CONFIG | {"ch": 128, "z_channels": 4, "ch_mult": (1, 2, 4, 4)}
    try:
        with torch.inference_mode(False), FakeTensorMode(), torch.no_grad():
            with torch.device("cuda"):
                net = network(**config)
            layers = decoder_layers(net) if network is kl.Decoder else encoder_layers(net)
            x = torch.empty(4, height // 8, width // 8) if network is kl.Decoder else torch.empty(3, height, width)
            with Live() as memory:
                TiledLayers(height // tile, width // tile, torch.device("cuda"), lambda share: None).run(layers, x)
    finally:
        torch.set_default_dtype(default)
    return memory.peak["cpu"], memory.peak["cuda"]


@pytest.mark.parametrize("network, ram, device", [(kl.Decoder, 384, 650), (kl.Encoder, 259, 390)])
def test_the_tile_bounds_the_memory(network, ram, device):
    """The help page's figures. On the device it is the tile that counts, and in RAM the picture."""
    small, large = (peaks(network, 1024, width, torch.bfloat16) for width in (512, 1024))
    assert large[1] < 1.02 * small[1]
    assert small[1] < device * 2 * 512 * 512
    assert large[0] == pytest.approx(ram * 2 * 1024 * 1024, rel=0.01)


def test_the_host_is_asked_for_a_tiles_memory(vae, monkeypatch):
    asked = []
    load = model_management.load_models_gpu
    monkeypatch.setattr(
        model_management,
        "load_models_gpu",
        lambda models, memory_required, **kwargs: asked.append(memory_required) or load(models, memory_required),
    )
    decode(latent(vae, 136, 128), vae, 128)
    encode(picture(136, 128), vae, 128)
    shape = (1, 4, 16, 16)
    assert asked == [
        vae.memory_used_decode(shape, torch.float32),
        vae.memory_used_encode((1, 3, 128, 128), torch.float32),
    ]


@settings(max_examples=40)
@given(st.integers(2, 20), st.integers(2, 20), st.integers(1, 4), st.integers(1, 4), st.sampled_from([1, 2, 0.5]))
def test_each_layer_sees_its_neighbours(height, width, rows, columns, scale):
    """Odd sizes as well, of which ComfyUI's VAEs have none."""
    layer = {
        1: torch.nn.Conv2d(3, 3, 3, padding=1),
        2: kl.Upsample(3, True),
        0.5: kl.Downsample(3, True),
    }[scale]
    for weight in layer.parameters():
        weight.data.copy_(randn(*weight.shape, seed=0))
    x = randn(3, height, width, seed=1)
    with torch.inference_mode():
        whole = layer(x[None])[0]
        layers = TiledLayers(
            min(rows, whole.shape[1]), min(columns, whole.shape[2]), torch.device("cpu"), lambda share: None
        )
        swept = layers.over_tiles(x, torch.full_like(whole, torch.nan), layer, lambda part: None, scale)
    assert (swept.x - whole).abs().max() < 1e-5
    variance, mean = torch.var_mean(whole.double(), (1, 2), correction=0)
    found_mean, found = swept.moments.of_groups(3)
    assert (found_mean - mean).abs().max() < 1e-5 and (found - variance).abs().max() < 1e-5 * (1 + variance.max())


def test_moments_are_those_of_the_whole():
    """Where tiles differ much and lie far from zero, too."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(1, 8, 30, 40, generator=rng) * torch.rand(8, 1, 1, generator=rng) + 100
    x[..., :13] += 50
    moments = Moments(8)
    for tile in (x[..., :13], x[..., :1, 13:], x[..., 1:, 13:]):
        moments.add(tile)
    variance, mean = torch.var_mean(x.double().unflatten(1, (2, 4)), (0, 2, 3, 4), correction=0)
    found_mean, found = moments.of_groups(2)
    assert torch.allclose(found_mean.double(), mean.repeat_interleave(4), rtol=1e-6)
    assert torch.allclose(found.double(), variance.repeat_interleave(4), rtol=1e-6)


@pytest.mark.parametrize("chunk", [1, 7, 30, 31, 64])
def test_attention_in_portions_is_all_of_it(chunk):
    rng = torch.Generator().manual_seed(0)
    q, k, v = (4 * torch.randn(8, 31, generator=rng) for _ in range(3))
    whole = torch.nn.functional.scaled_dot_product_attention(*(part.t()[None].double() for part in (q, k, v)))
    shares = []
    attend(q, k, v, chunk, torch.device("cpu"), shares.append)
    assert (q.t() - whole[0]).abs().max() < 1e-5
    assert sum(shares) == pytest.approx(1)


@pytest.mark.parametrize("kind", ["kl", "taesd"])
def test_a_picture_within_one_tile_is_the_hosts(vae, taesd, kind):
    vae = vae if kind == "kl" else taesd
    z, image = latent(vae, 128, 64), picture(133, 70)
    assert torch.equal(decode(z, vae, 128), vae.decode(z))
    assert torch.equal(encode(image, vae, 128), vae.encode(image))


def test_taesds_tiles_are_the_whole_pictures(taesd, monkeypatch):
    """And not without the latent pixels around them."""
    z, image = latent(taesd, 64, 264, batch=2), picture(66, 264, batch=2)
    whole, encoded = taesd.decode(z), taesd.encode(image)
    assert errors(decode(z, taesd, 128), whole)[0] < 1e-5
    assert latent_errors(encode(image, taesd, 128), encoded)[0] < 1e-5
    monkeypatch.setattr(tiled_vae, "TINY_REACH", 2)
    assert errors(decode(z, taesd, 128), whole)[0] > 1e-4
    assert latent_errors(encode(image, taesd, 128), encoded)[0] > 1e-4


def test_other_pictures_and_latents(vae):
    """One frame of five dimensions, alpha, and grey."""
    z, image = latent(vae, 136, 128), picture(144, 128, channels=4)
    assert torch.equal(decode(z[:, :, None], vae, 128), decode(z, vae, 128))
    assert torch.equal(encode(image, vae, 128), encode(image[..., :3], vae, 128))
    grey = image[..., :1]
    assert torch.equal(encode(grey, vae, 128), encode(grey.repeat(1, 1, 1, 3), vae, 128))


def test_nothing_is_written_to_and_the_bar_is_filled(vae, bars):
    before = copy.deepcopy(vae.first_stage_model.state_dict())
    state = torch.get_rng_state()
    decode(latent(vae, 136, 128, batch=2), vae, 128)
    encode(picture(136, 128), vae, 128)
    assert all(bar.values == sorted(bar.values) for bar in bars)
    assert [bar.values[-1] for bar in bars] == [bar.total for bar in bars] == [2 * tiled_vae.STEPS, tiled_vae.STEPS]
    assert torch.equal(torch.get_rng_state(), state)
    for name, weight in vae.first_stage_model.state_dict().items():
        assert torch.equal(weight, before[name])


def test_an_interrupt_stops_it_and_leaves_nothing(vae, monkeypatch):
    z = latent(vae, 136, 192)
    first, calls, forward = decode(z, vae, 128), [], kl.Upsample.forward

    def stop(self, x):
        output = forward(self, x)
        calls.append(weakref.ref(output))
        if len(calls) == 2:
            model_management.interrupt_current_processing()
        return output

    try:
        with monkeypatch.context() as patch, pytest.raises(model_management.InterruptProcessingException):
            patch.setattr(kl.Upsample, "forward", stop)
            decode(z, vae, 128)
    finally:
        model_management.interrupt_current_processing(False)
    assert len(calls) == 2 and all(call() is None for call in calls)
    assert torch.equal(decode(z, vae, 128), first)


# VAEs that other nodes have changed


def padded(vae, mode, *parts):
    """A copy with convolutions that pad so, as nodes for seamless textures make it."""
    changed = copy.copy(vae)
    changed.first_stage_model = copy.deepcopy(vae.first_stage_model)
    changed.patcher = vae.patcher.clone()
    changed.patcher.model = changed.first_stage_model
    for part in parts or [changed.first_stage_model]:
        module = changed.first_stage_model.get_submodule(part) if isinstance(part, str) else part
        for layer in module.modules():
            if isinstance(layer, torch.nn.Conv2d):
                layer.padding_mode = mode
    return changed


@pytest.mark.parametrize("kind, height, width", [("kl", 264, 136), ("kl", 136, 64), ("taesd", 136, 64)])
def test_a_vae_that_wraps_around_equals_the_whole_pictures(vae, taesd, kind, height, width):
    """In several rows and columns, and with one side within a tile."""
    plain = vae if kind == "kl" else taesd
    seamless = padded(plain, "circular")
    z, image = latent(seamless, height, width), picture(height, width)
    whole, encoded = seamless.decode(z), seamless.encode(image)
    assert errors(decode(z, seamless, 128), whole)[0] < ROUNDING / 20
    assert latent_errors(encode(image, seamless, 128), encoded)[0] < ROUNDING
    assert errors(plain.decode(z), whole)[0] > 10 * WORST


def test_a_decoder_that_wraps_around_alone(vae):
    seamless = padded(vae, "circular", "decoder")
    z, image = latent(vae, 136, 192), picture(136, 192)
    assert errors(decode(z, seamless, 128), seamless.decode(z))[0] < ROUNDING / 20
    assert torch.equal(encode(image, seamless, 128), encode(image, vae, 128))


def asymmetric(layer):
    """Wraps around from left to right alone, as in ComfyUI-seamless-tiling."""

    def conv_forward(self, x, weight, bias):
        working = torch.nn.functional.pad(x, (1, 1, 0, 0), mode="circular")
        return torch.nn.functional.conv2d(torch.nn.functional.pad(working, (0, 0, 1, 1)), weight, bias)

    layer._conv_forward = conv_forward.__get__(layer)


class Wrapped(torch.nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)


CHANGES = {
    "another _conv_forward": (
        lambda decoder: asymmetric(decoder.conv_in),
        "'_conv_forward' of its 'decoder.conv_in' is another function",
    ),
    "another forward": (
        lambda decoder: setattr(decoder.mid.block_1, "forward", lambda x, *_: x),
        "'forward' of its 'decoder.mid.block_1' is another function",
    ),
    "a hook": (
        lambda decoder: decoder.conv_out.register_forward_hook(lambda layer, args, out: out),
        "its 'decoder.conv_out' has a hook",
    ),
    "a hook before": (
        lambda decoder: decoder.mid.block_2.register_forward_pre_hook(lambda layer, args: args),
        "its 'decoder.mid.block_2' has a hook",
    ),
    "a layer around a layer": (
        lambda decoder: setattr(decoder, "conv_out", Wrapped(decoder.conv_out)),
        "its 'decoder.conv_out' is a .*Wrapped",
    ),
    "one of the convolutions": (
        lambda decoder: setattr(decoder.conv_in, "padding_mode", "circular"),
        "its convolutions pad by circular and zeros",
    ),
}


@pytest.mark.parametrize("change, words", CHANGES.values(), ids=CHANGES)
def test_a_vae_that_another_node_has_changed_is_refused_by_name(vae, change, words):
    changed = padded(vae, "zeros")
    change(changed.first_stage_model.decoder)
    with pytest.raises(
        ValueError, match=f"Tiled VAE Decode, Seamless .* another node has changed: {words}.*VAE Decode or"
    ):
        decode(latent(vae, 136, 128), changed, 128)
    image = picture(136, 128)
    assert torch.equal(encode(image, changed, 128), encode(image, vae, 128)), "the encoder is as it was"


def test_other_changes_of_a_vae(vae, taesd):
    z, image = latent(vae, 136, 128), picture(136, 128)
    for mode in ("reflect", "replicate"):
        for plain in (vae, taesd):
            with pytest.raises(ValueError, match=f"changed: its convolutions pad by {mode}"):
                encode(image, padded(plain, mode), 128)
    patched = padded(vae, "zeros")
    patched.patcher.add_object_patch("decoder.conv_in.forward", lambda x: x)
    replaced = padded(vae, "zeros")
    replaced.decode = lambda z: z
    restored = padded(vae, "zeros")
    conv = restored.first_stage_model.decoder.conv_in
    conv._conv_forward = torch.nn.Conv2d._conv_forward.__get__(conv)  # as ComfyUI-seamless-tiling takes it back
    for changed, words in ((patched, "'decoder.conv_in.forward' is patched"), (replaced, "'decode' of its 'VAE'")):
        with pytest.raises(ValueError, match=f"changed: {words}"):
            decode(z, changed, 128)
    assert torch.equal(decode(z, restored, 128), decode(z, vae, 128))


def test_patches_of_a_vaes_weights(vae):
    """A LoRA of a VAE: ComfyUI adds it as it loads the VAE."""
    patched = padded(vae, "zeros")
    weights = {"decoder.conv_in.weight": ("diff", (0.05 * torch.ones(128, 4, 3, 3),))}
    assert patched.patcher.add_patches(weights)
    z = latent(vae, 136, 128)
    ours, whole = tiled_vae.decode(z, patched, 128), patched.decode(z)
    assert errors(ours, whole)[0] < ROUNDING / 20 and errors(ours, vae.decode(z))[0] > WORST


def other(vae, model):
    told = copy.copy(vae)
    told.first_stage_model = model
    return told


def test_other_vaes_are_refused_by_name(vae, taesd):
    with torch.device("meta"):
        config = CONFIG | {"z_channels": 4, "ch_mult": (1, 2), "double_z": True}
        video = copy.copy(vae.first_stage_model)
        video._modules = dict(video._modules, decoder=VideoDecoder(**config, video_kernel_size=[3, 1, 1], alpha=0.0))
        volume = AutoencoderKL(ddconfig=config | {"conv3d": True, "time_compress": 2}, embed_dim=4)
        normed = TAESD()
        normed.taesd_decoder.append(torch.nn.GroupNorm(1, 3))
        cascade = StageA()
    for model, words in (
        (video, "temporal_ae.VideoDecoder"),
        (volume, "AutoencoderKL of videos, with 3-D convolutions"),
        (normed, "TAESD with group norms"),
        (cascade, "stage_a.StageA"),
    ):
        with pytest.raises(
            ValueError, match=rf"Tiled VAE Decode, Seamless got in vae a .*{words}.*VAE Decode \(Tiled\)"
        ):
            decode(latent(vae, 64, 64), other(vae, model), 128)
        with pytest.raises(
            ValueError, match=rf"Tiled VAE Encode, Seamless got in vae a .*{words}.*VAE Encode \(Tiled\)"
        ):
            encode(picture(64, 64), other(vae, model), 128)


def test_wrong_inputs_are_told(vae):
    with pytest.raises(ValueError, match=r"got in latent one of the shape \(1, 16, 8, 8\).*\(batch, 4, height"):
        decode(torch.zeros(1, 16, 8, 8), vae, 128)
    with pytest.raises(ValueError, match="got in latent one of the shape"):
        decode(torch.zeros(1, 4, 8), vae, 128)
    with pytest.raises(ValueError, match="got in image 200 x 7 pixels.*takes 8 x 8"):
        encode(picture(7, 200), vae, 128)
    with pytest.raises(RuntimeError, match="VAE is invalid"):
        decode(latent(vae, 64, 64), other(vae, None), 128)
