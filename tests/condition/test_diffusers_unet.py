"""UNets that diffusers builds and saves, loaded here: the same numbers, and every name where ComfyUI wants it."""

import logging

import comfy.model_base
import comfy.model_detection
import comfy.utils
import folder_paths
import pytest
import safetensors.torch
import torch
from comfy.model_patcher import ModelPatcher
from diffusers import UNet2DConditionModel

from kit import thin
from kit.assertions import relative_error
from pentimento.model_patchers.comfyui.kinds import identify
from pentimento.model_patchers.condition import diffusers_unet
from pentimento.model_patchers.condition.diffusers_unet import load, to_stability, unet_weights
from pentimento_host.standins import diffusion

pytestmark = pytest.mark.usefixtures("one_thread")
FILE = "diffusion_pytorch_model.safetensors"
SD15 = {"cross_attention_dim": 768, "attention_head_dim": 8}
SD2 = {"cross_attention_dim": 1024, "attention_head_dim": 5, "use_linear_projection": True}
X4 = {
    "in_channels": 7,
    "cross_attention_dim": 1024,
    "attention_head_dim": 8,
    "use_linear_projection": True,
    "num_class_embeds": 1000,
    "only_cross_attention": (True, True, True, False),
    "block_out_channels": (256,) * 4,
    "down_block_types": ("DownBlock2D",) + ("CrossAttnDownBlock2D",) * 3,
    "up_block_types": ("CrossAttnUpBlock2D",) * 3 + ("UpBlock2D",),
}
ONE = {
    "block_out_channels": (320,),
    "down_block_types": ("CrossAttnDownBlock2D",),
    "up_block_types": ("CrossAttnUpBlock2D",),
}
NO_MIDDLE = {"mid_block_type": None}
TWO = {
    "block_out_channels": (320, 320),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}
UNEQUAL = {
    "block_out_channels": (320, 320),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": (1, 2),
}
# kind -> diffusers' arguments, what ComfyUI takes it for
THIN = {
    "sd15": (SD15 | ONE, "sd15", "eps"),
    "ip2p": (SD15 | UNEQUAL | NO_MIDDLE | {"in_channels": 8}, "instruct-pix2pix", "eps"),
    "ic_light_fbc": (SD15 | ONE | NO_MIDDLE | {"in_channels": 12}, "ic-light", "eps"),
    "depth": (SD2 | TWO | NO_MIDDLE | {"in_channels": 5}, "sd2-depth", "eps"),
    "sd2_inpaint": (SD2 | ONE | NO_MIDDLE | {"in_channels": 9}, "sd2-inpaint", "eps"),
    "x4": (X4 | NO_MIDDLE, "sd-x4", "v"),
}


def unet(arguments):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return UNet2DConditionModel(**{"layers_per_block": 1} | arguments).eval()


@pytest.mark.both_devices
@pytest.mark.in_half
@pytest.mark.parametrize("kind", THIN)
def test_the_loaded_unet_computes_what_diffusers_does(kind, precision, tmp_path, rng, caplog):
    arguments, name, prediction = THIN[kind]
    theirs = unet(arguments)
    theirs.save_pretrained(tmp_path)

    with caplog.at_level(logging.WARNING):
        model = load(tmp_path / FILE)

    assert not caplog.messages  # ComfyUI names weights that are missing or left over
    identity = identify(model)
    assert (identity.name, identity.in_channels, identity.prediction) == (name, theirs.config.in_channels, prediction)
    x = torch.randn(2, theirs.config.in_channels, 8, 6, generator=rng)
    text = torch.randn(2, 77, theirs.config.cross_attention_dim, generator=rng)
    t, y = torch.tensor([3.0, 700.0]), torch.tensor([20, 350]) if kind == "x4" else None
    expected = theirs(x, t, text, class_labels=y).sample
    near = precision.tolerance(1e-5, expected, lambda: precision.lowered(theirs)(x, t, text, class_labels=y).sample)
    x, text = x.to(precision.dtype), text.to(precision.dtype)
    assert relative_error(model.model.diffusion_model(x, t, text, y=y), expected) < near
    (tmp_path / FILE).unlink()


SIZES = {"block_out_channels": (320, 640, 1280, 1280), "layers_per_block": 2}
DOWN, UP = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",), ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3
SDXL = {
    "block_out_channels": (320, 640, 1280),
    "layers_per_block": 2,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
UNCLIP = {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 2048}
FULL = {
    "sd15": SD15 | SIZES | {"down_block_types": DOWN, "up_block_types": UP},
    "depth": SD2 | SIZES | {"down_block_types": DOWN, "up_block_types": UP, "in_channels": 5},
    "unclip": SD2 | SIZES | {"down_block_types": DOWN, "up_block_types": UP} | UNCLIP,
    "x4": X4 | {"block_out_channels": (256, 512, 512, 1024), "layers_per_block": 2},
    "sdxl": SDXL,
}


@pytest.mark.parametrize("kind", FULL)
def test_names_and_shapes_of_the_real_models(kind):
    with torch.device("meta"):
        theirs = UNet2DConditionModel(**FULL[kind]).state_dict()
    renamed = to_stability(theirs)
    config = comfy.model_detection.model_config_from_unet(renamed, "")
    model = comfy.model_base.BaseModel(config, device=torch.device("meta"))

    wanted = {name: weight.shape for name, weight in model.diffusion_model.state_dict().items()}
    assert {name: weight.shape for name, weight in renamed.items()} == wanted

    hosts = comfy.utils.unet_to_diffusers(config.unet_config) | {"class_embedding.weight": "label_emb.weight"}
    assert dict(zip(theirs, renamed, strict=True)) == {name: hosts[name] for name in theirs}


@pytest.fixture(scope="module")
def small():
    """A UNet in diffusers' names: the smallest that ComfyUI knows."""
    return {
        name: tensor.half() for name, tensor in unet(SD15 | ONE | NO_MIDDLE | {"in_channels": 8}).state_dict().items()
    }


@pytest.fixture
def saved(tmp_path):
    def save(weights, name=FILE):
        path = tmp_path / name
        (safetensors.torch.save_file if name.endswith("safetensors") else torch.save)(weights, path)
        return path

    return save


def test_pickles_and_dtypes(saved, small):
    model = load(saved(small, "diffusion_pytorch_model.bin"))
    assert identify(model).name == "instruct-pix2pix"
    assert torch.equal(
        model.model.diffusion_model.input_blocks[0][0].weight.half(), small["conv_in.weight"].to(torch.float16)
    )


def test_files_of_stabilitys_format_load_too(saved):
    weights = {f"model.diffusion_model.{name}": w for name, w in thin.weights("depth").items()}
    model = load(saved(weights | {"first_stage_model.encoder.conv_in.weight": torch.zeros(1)}))
    assert identify(model).name == "sd2-depth"
    weight = model.model.diffusion_model.input_blocks[0][0].weight
    assert torch.equal(weight, weights["model.diffusion_model.input_blocks.0.0.weight"])


def test_a_prefix_is_no_obstacle(saved, small):
    assert identify(load(saved({f"unet.{name}": w for name, w in small.items()}))).name == "instruct-pix2pix"


def test_how_noise_levels_run_is_kept():
    """Load Diffusion Model takes CosXL for a model that predicts eps (Comfy-Org/ComfyUI issue 8256)."""
    names = [name for name, _ in diffusion.unet_shapes(diffusion.UNETS["sd15"])]
    weights = {f"model.diffusion_model.{name}": torch.ones(1) for name in names}
    found = unet_weights(weights | {"edm_vpred.sigma_max": torch.tensor(120.0), "denoiser.sigmas": torch.ones(1)}, "x")
    assert set(found) == {*names, "edm_vpred.sigma_max"}


def test_the_model_is_the_hosts_to_manage(saved, small):
    path = saved(small)
    model = load(path)
    loader, arguments = model.cached_patcher_init
    again = loader(*arguments, disable_dynamic=True)
    assert type(again) is ModelPatcher
    assert identify(again) == identify(model)


def test_the_node_finds_the_file(node_classes, saved, small, monkeypatch):
    path = saved(small)
    folders, suffixes = folder_paths.folder_names_and_paths["diffusion_models"]
    monkeypatch.setitem(
        folder_paths.folder_names_and_paths, "diffusion_models", ([*folders, str(path.parent)], suffixes)
    )
    node = node_classes["PentimentoLoadConcatUNet"]
    assert path.name in node.define_schema().inputs[0].options
    (model,) = node.execute(path.name).args
    assert identify(model).name == "instruct-pix2pix"
    with pytest.raises(FileNotFoundError, match="models/diffusion_models"):
        node.execute("missing.safetensors")


WRONG = {
    "lora": (["lora_unet_down_blocks_0.lora_up.weight"], "it is a LoRA. Put it in models/loras"),
    "controlnet": (
        ["conv_in.weight", "time_embedding.linear_1.weight", "controlnet_cond_embedding.conv_in.weight"],
        "it is a ControlNet. Put it in models/controlnet",
    ),
    "ldm controlnet": (
        ["control_model.input_blocks.0.0.weight", "control_model.time_embed.0.weight"],
        "it is a ControlNet",
    ),
    "vae": (["encoder.conv_in.weight", "decoder.conv_in.weight"], "it is a VAE. Put it in models/vae"),
    "another": (["double_blocks.0.img_attn.proj.weight"], "it is 1 tensors such as"),
}


@pytest.mark.parametrize("name", WRONG)
def test_other_files_are_named(saved, name):
    weights, message = WRONG[name]
    with pytest.raises(ValueError, match=f"^'{FILE}' holds no UNet: ") as error:
        load(saved({key: torch.ones(1) for key in weights}))
    assert message in str(error.value)


def test_ic_lights_offsets_are_no_unet(saved, small):
    offsets = {name: torch.zeros_like(weight) for name, weight in small.items()}
    with pytest.raises(ValueError, match="offsets .* Load Stable Diffusion 1.5, and add .* with the node IC-Light"):
        load(saved(offsets))


def test_a_part_of_a_unet_is_refused(saved, small):
    part = {name: weight for name, weight in small.items() if not name.startswith("up_blocks.0.attentions.1.proj_out")}
    with pytest.raises(ValueError, match=r"lacks 2 tensors such as 'output_blocks.1.1.proj_out.weight'"):
        load(saved(part))


def test_an_unknown_family_is_refused(saved, small):
    wide = small | {"conv_in.weight": torch.zeros(64, 4, 3, 3)}
    with pytest.raises(ValueError, match="of no family .*: 4 channels in and 64 in the first level"):
        load(saved(wide))


def test_empty_files(tmp_path, saved):
    (tmp_path / "empty.safetensors").touch()
    with pytest.raises(ValueError, match="'empty.safetensors' is no model file: it is empty"):
        load(tmp_path / "empty.safetensors")
    with pytest.raises(ValueError, match="holds no weights"):
        load(saved({}))


def test_a_pickle_that_runs_code_is_refused(tmp_path):
    class Harm:
        def __reduce__(self):
            return (print, ("harm",))

    torch.save({"conv_in.weight": Harm()}, tmp_path / "harm.bin")
    with pytest.raises(ValueError, match="would run code"):
        load(tmp_path / "harm.bin")


def test_names_of_other_modules_stay():
    assert list(to_stability({"conv_in.weight": 0, "encoder_hid_proj.weight": 0})) == [
        "input_blocks.0.0.weight",
        "encoder_hid_proj.weight",
    ]
    assert diffusers_unet.modules([]) == diffusers_unet.OUTSIDE
