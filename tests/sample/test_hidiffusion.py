"""HiDiffusion against its repository's patched UNet, in ComfyUI's UNet with the same weights."""

import comfy.model_detection
import comfy.supported_models
import comfy.utils
import numpy as np
import pytest
import torch

from kit import narrow
from kit.assertions import frozen, relative_error
from kit.golden import GOLDEN, maker
from pentimento.model_patchers.sample import hidiffusion, hidiffusion_unet
from pentimento.model_patchers.sample.hidiffusion import HiDiffusion

pytestmark = pytest.mark.usefixtures("one_thread")
make = maker("hidiffusion")

SHARED = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "context_dim": make.TEXT,
    "use_spatial_transformer": True,
    "legacy": False,
    "use_temporal_attention": False,
    "use_temporal_resblock": False,
    "dtype": torch.float32,
}
UNETS = {
    "sd15": SHARED
    | {
        "num_res_blocks": [2] * 4,
        "channel_mult": [1, 2, 2, 2],
        "transformer_depth": [1] * 6 + [0] * 2,
        "transformer_depth_output": [1] * 9 + [0] * 3,
        "transformer_depth_middle": 1,
        "use_linear_in_transformer": False,
        "num_heads": 2,
        "adm_in_channels": None,
    },
    "sdxl": SHARED
    | {
        "num_res_blocks": [2] * 3,
        "channel_mult": [1, 2, 2],
        "transformer_depth": [0, 0, 2, 2, 2, 2],
        "transformer_depth_output": [0, 0, 0, 2, 2, 2, 2, 2, 2],
        "transformer_depth_middle": 2,
        "use_linear_in_transformer": True,
        "num_head_channels": 32,
        "num_classes": "sequential",
        "adm_in_channels": make.VECTOR,
    },
}
KINDS = {"sd15": comfy.supported_models.SD15, "sdxl": comfy.supported_models.SDXL}


def unet(kind, precision):
    """A thin UNet with the golden weights, as ComfyUI's model."""
    config = KINDS[kind](UNETS[kind])
    config.unet_config = UNETS[kind]
    config.set_inference_dtype(precision.dtype, None)
    model = config.get_model({})
    shapes = {name: value.shape for name, value in model.diffusion_model.state_dict().items()}
    names = comfy.utils.unet_to_diffusers(UNETS[kind]).items()
    names = {theirs: ours for theirs, ours in names if ours in shapes and not theirs.startswith("add_embedding")}
    weights = make.weights({theirs: shapes[ours] for theirs, ours in names.items()})
    return narrow.patcher(config, {ours: weights[theirs] for theirs, ours in names.items()})


@pytest.fixture(scope="module")
def models(precision):
    return {kind: unet(kind, precision) for kind in UNETS}


def predicted(model, case, **changes):
    given = make.inputs(case)
    options = dict(model.model_options["transformer_options"])
    options["wrappers"] = model.wrappers
    options |= {"sample_sigmas": torch.linspace(10, 0, case.of + 1)}
    options |= {"sigmas": options["sample_sigmas"][[case.step] * case.batch]}
    control = None
    if case.control:
        down, middle = make.residuals(case)
        control = {"output": down, "middle": [middle]}
    return model.model.diffusion_model(given.x, given.t, given.text, given.y, control, options)


def settings(case):
    family = {"sd15": "sd", "sdxl": "sdxl"}[case.unet]
    return HiDiffusion(family, 512, case.raunet, case.windows, case.preset, make.SEED, case.inpainting)


@pytest.mark.parametrize("case", make.CASES, ids=lambda case: case.name)
def test_equals_the_repository(case, models):
    expected = torch.from_numpy(np.load(GOLDEN / "hidiffusion.npz")[case.name])
    model = models[case.unet]
    ours = predicted(hidiffusion.attach_to(model, settings(case)), case)
    print(case.name, relative_error(ours, expected), relative_error(predicted(model, case), expected))

