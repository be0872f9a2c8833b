"""Thin SAM 2s of transformers' own classes with seeded weights, and the pack's own with the same weights."""

import copy
import json
import re

import numpy as np
from transformers import Sam2VideoConfig, Sam2VideoModel

from pentimento.model_patchers.arch import sam2_hiera
from pentimento.model_patchers.video import sam2 as ours

from .golden import GOLDEN, maker

make_sam, make_sam2 = maker("sam"), maker("sam2")

FRAME, CHANNELS = 256, 128
CONFIG = sam2_hiera.Config(
    width=16, heads=1, blocks=(1, 2, 3, 2), global_blocks=(4,), windows=(8, 4, 14, 7), out_channels=CHANNELS
)
IN_HALF = ("vision_encoder", "memory_attention", "memory_encoder")  # of transformers' modules, those that may be
SCORE_BIAS = "mask_decoder.pred_obj_score_head.proj_out.bias"


def network(is_21=True):
    """Sam2VideoModel in CONFIG's shape with a frame of 256 pixels, its weights not yet set."""
    grid, width, c = FRAME // 16, CONFIG.width, CHANNELS
    trunk = {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": width,
        "num_attention_heads": CONFIG.heads,
        "image_size": [FRAME, FRAME],
        "blocks_per_stage": list(CONFIG.blocks),
        "embed_dim_per_stage": [width * 2**stage for stage in range(4)],
        "num_attention_heads_per_stage": [CONFIG.heads * 2**stage for stage in range(4)],
        "window_size_per_stage": list(CONFIG.windows),
        "global_attention_blocks": list(CONFIG.global_blocks),
    }
    vision = {
        "model_type": "sam2_vision_model",
        "backbone_config": trunk,
        "backbone_channel_list": [width * 2**stage for stage in (3, 2, 1, 0)],
        "backbone_feature_sizes": [[grid * scale] * 2 for scale in (4, 2, 1)],
        "fpn_hidden_size": c,
    }
    config = Sam2VideoConfig(
        vision_config=vision,
        prompt_encoder_config={"hidden_size": c, "image_size": FRAME, "patch_size": 16},
        mask_decoder_config={"hidden_size": c, "mlp_dim": 64, "iou_head_hidden_dim": 32},
        image_size=FRAME,
        memory_attention_hidden_size=c,
        memory_attention_feed_forward_hidden_size=96,
        memory_attention_num_layers=2,
        memory_attention_rope_feat_sizes=[grid, grid],
        memory_encoder_hidden_size=c,
        mask_downsampler_embed_dim=c,
        memory_fuser_embed_dim=c,
        memory_fuser_intermediate_dim=4 * c,
        enable_occlusion_spatial_embedding=is_21,
        enable_temporal_pos_encoding_for_object_pointers=is_21,
    )
    return Sam2VideoModel(config).eval()


def reference(is_21=True, present=3.0):
    """A `network` with weights that are the same on every machine, and `present` added to the object's score."""
    model = network(is_21)
    weights = make_sam.weights({name: list(value.shape) for name, value in model.state_dict().items()})
    shared = "prompt_encoder.shared_embedding.positional_embedding"
    weights[shared] = weights["shared_image_embedding.positional_embedding"]
    weights[SCORE_BIAS] += present
    model.load_state_dict(weights)
    return model


def load(weights, precision="fp32"):
    """The pack's own with the weights of a thin SAM 2, loaded."""
    weights = {name: value.clone() for name, value in weights.items()}
    sam2 = ours.SAM2(ours.sam2_weights(weights, "test.pt"), "test.pt", precision, CONFIG, FRAME)
    sam2.load()
    return sam2


def lowered(model, precision):
    """transformers' model with the parts in half precision that Load SAM 2 computes in it."""
    other = copy.copy(model)
    other._modules = model._modules | {name: precision.lowered(model._modules[name]) for name in IN_HALF}
    return other


def authors(model):
    """A network's weights under the names of the authors' files."""
    weights = ours.sam2_weights(dict(model.state_dict()), "test.pt")

    def name(key):
        key = re.sub(r"^(mask_decoder|prompt_encoder)\.", r"sam_\1.", key)
        return key.replace(".mlp.lin1.", ".mlp.layers.0.").replace(".mlp.lin2.", ".mlp.layers.1.")

    return {name(key): value for key, value in weights.items()}


def golden(name):
    """The network with the authors' weights of a scenario of make_sam2.py, and what their code made of it.

    Returns:
        A loaded SAM 2 and {key: array}, as `track` of make_sam2.py gives them.
    """
    version, _, _, present = make_sam2.SCENARIOS[name]
    with np.load(GOLDEN / "sam2.npz") as file:
        weights = make_sam2.weights(json.loads(str(file[f"shapes {version}"])), present)
        values = {key.removeprefix(f"{name}: "): file[key] for key in file.files if key.startswith(f"{name}: ")}
    return load(weights), values
