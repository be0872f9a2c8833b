"""Linear layers by either library that a processor may prefer."""

import comfy.ops
import pytest
import torch

from kit.assertions import relative_error
from kit.sam import Reference, levels, load, reference
from kit.tensors import randn
from pentimento.model_patchers.arch import processor

pytestmark = pytest.mark.usefixtures("one_thread")

DESCRIPTIONS = {
    "processor\t: 0\nvendor_id\t: AuthenticAMD\nmodel name\t: AMD EPYC 7B13\n": True,
    "processor\t: 0\nvendor_id\t: GenuineIntel\nmodel name\t: Intel(R) Xeon(R) Platinum 8481C\n": False,
    "AMD64 Family 25 Model 33 Stepping 2, AuthenticAMD": True,
    "Intel64 Family 6 Model 183 Stepping 1, GenuineIntel": False,
    "processor\t: 0\nCPU implementer\t: 0x41\n": False,
    "": False,
}


@pytest.fixture(params=[True, False], ids=["oneDNN", "default"])
def way(request, monkeypatch):
    monkeypatch.setattr(processor, "prefers_onednn", lambda: request.param)
    return request.param


@pytest.mark.parametrize(("description", "amd"), DESCRIPTIONS.items())
def test_amds_processors_are_told_by_their_maker(description, amd):
    assert processor.is_amd(description) is amd


def filled_layer():
    layer = comfy.ops.manual_cast.Linear(12, 20)
    layer.load_state_dict({"weight": randn(20, 12, seed=1), "bias": randn(20, seed=2)})
    return layer


@pytest.mark.parametrize("shape", [(7, 12), (1, 9, 12), (2, 3, 5, 12), (1, 4, 1, 12)])
def test_both_ways_compute_the_layer(way, shape):
    layer, x = filled_layer(), randn(*shape)
    assert relative_error(processor.linear(layer, x), layer(x)) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_both_ways_cast_weights_to_the_inputs_type(way, dtype):
    layer, x = filled_layer(), randn(2, 5, 12)
    y = processor.linear(layer, x.to(dtype))
    assert y.dtype == dtype
    assert relative_error(y.float(), layer(x)) < 4 * torch.finfo(dtype).eps


def test_the_encoder_equals_segment_anything_both_ways(way):
    thin = reference()
    predictor, picture = Reference(thin), levels(90, 120)
    predictor.set_image(picture)
    assert relative_error(load(thin.state_dict()).embed(picture).features, predictor.features) < 1e-4
