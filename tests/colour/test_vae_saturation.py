"""VAE Saturation against CD Tuner's own weights, and a VAE of such weights."""

import copy

import numpy as np
import pytest
import torch
from comfy import model_management

from kit import golden, vae
from kit.assertions import frozen, relative_error
from kit.nodes import run_node
from kit.tensors import rand, randn
from pentimento.model_patchers.colour.vae_saturation import scales
from pentimento.nodes.colour.vae_saturation import VAESaturation
from pentimento.nodes.upscale.tiled_vae import TiledVAEDecode

pytestmark = pytest.mark.usefixtures("one_thread")
MAKER = golden.maker("cdtuner")
GOLDEN = np.load(golden.GOLDEN / "cdtuner.npz")
DECODER = "first_stage_model.decoder."
SETTINGS = {"saturation_1": MAKER.VAE["sat"], "saturation_2": MAKER.VAE["sat2"]}


@pytest.fixture(scope="module", params=["sd", "flux"])
def plain(request, precision):
    return vae.thin(request.param, precision.dtype)


def saturated(vae, **inputs):
    return run_node(VAESaturation, vae=vae, **inputs)[0]


def by_hand(plain, factors):
    """A VAE of its own with these factors on the decoder's weights."""
    model_management.unload_all_models()
    changed = copy.deepcopy(plain.first_stage_model)
    weights = dict(changed.decoder.named_parameters())
    with torch.no_grad():
        for name, factor in factors.items():
            weights[name].mul_(factor)
    own = copy.copy(plain)
    own.first_stage_model, own.patcher = (
        changed,
        type(plain.patcher)(changed, plain.patcher.load_device, plain.patcher.offload_device),
    )
    return own


def test_weights_are_scaled_as_by_the_extension():
    factors = scales(**SETTINGS)
    names = {name.removeprefix(f"before_{DECODER}") for name in GOLDEN.files if name.startswith(f"before_{DECODER}")}
    for name in names:
        before, after = (GOLDEN[f"{when}_{DECODER}{name}"] for when in ("before", "after"))
        assert relative_error(before * factors.get(name, 1), after) < 1e-6
        if name in factors:
            assert relative_error(before, after) > 1e-2
            assert relative_error(before * scales(*list(SETTINGS.values())[::-1])[name], after) > 1e-2
    assert factors.keys() < names


@pytest.mark.both_devices
@pytest.mark.in_half
def test_decodes_as_a_vae_of_such_weights(plain, precision):
    z = randn(2, plain.latent_channels, 9, 7)
    image = rand(1, 64, 48, 3)
    before, encoded = frozen(plain.first_stage_model), plain.encode(image)
    patched, reference = saturated(plain, **SETTINGS), by_hand(plain, scales(**SETTINGS))
    theirs = reference.decode(z)
    tolerance = 0.05 if precision.is_half else 1e-4
    assert relative_error(patched.decode(z), theirs) < tolerance
    assert relative_error(run_node(TiledVAEDecode, latent={"samples": z}, vae=patched)[0], theirs) < max(
        tolerance, 1e-3
    )
    assert torch.equal(patched.encode(image), encoded)
    model_management.unload_all_models()
    assert frozen(plain.first_stage_model) == before
    if not precision.is_half:
        assert relative_error(plain.decode(z), theirs) > 5e-3
        biased = scales(**SETTINGS)
        biased |= {name.replace("weight", "bias"): factor for name, factor in biased.items()}
        assert relative_error(by_hand(plain, biased).decode(z), theirs) > 5e-4


def test_two_nodes_multiply():
    plain, z = vae.thin("sd"), randn(1, 4, 8, 8)
    factors = {name: factor**2 for name, factor in scales(**SETTINGS).items()}
    twice = saturated(saturated(plain, **SETTINGS), **SETTINGS).decode(z)
    assert relative_error(twice, by_hand(plain, factors).decode(z)) < 1e-4


def test_nothing_set_changes_no_bit():
    plain, z = vae.thin("sd"), randn(1, 4, 8, 8)
    assert torch.equal(saturated(plain).decode(z), plain.decode(z))


def test_other_vaes_are_refused_by_name():
    with pytest.raises(ValueError, match="VAE Saturation got in vae a TAESD without 'decoder.conv_in.weight'.*Connect"):
        saturated(vae.tiny(), saturation_1=1.0)
    with pytest.raises(ValueError, match=r"VAE Saturation got in vae a AutoencoderKL without 'decoder.up.3.upsample"):
        saturated(vae.thin("x4"), saturation_1=1.0)
