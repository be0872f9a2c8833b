"""Makes sam2.npz by running the authors' own code on seeded random weights and a small clip.

    python tests/golden/make_sam2.py SAM2

with the checkout of github.com/facebookresearch/sam2 (2b90b9f), Apache-2.0. The weights are made anew from the tensors'
names by make_sam.py, so that the file stays small. Of logits every 4th cell is kept. Hole filling needs an extension
that only compiles for CUDA: SciPy's labels of 8-connected components stand in for it.
"""

import importlib.util
import json
import sys
import tempfile
import types
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy import ndimage

HERE = Path(__file__).parent
FRAME, CHANNELS, WIDTH, BLOCKS, GLOBAL = 256, 128, 16, (1, 2, 3, 2), (4,)
FRAMES, HEIGHT, WIDTH_OF_CLIP = 12, 90, 120
SCORE_BIAS = "sam_mask_decoder.pred_obj_score_head.layers.2.bias"
STEP = 4  # of the logits that are kept

spec = importlib.util.spec_from_file_location("make_sam", HERE / "make_sam.py")
make_sam = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make_sam)


def weights(shapes: dict[str, list[int]], present: float) -> dict[str, torch.Tensor]:
    """The weights of the thin network: names and shapes are those of the authors' files.

    Args:
        present: Added to the object's score.
    """
    values = make_sam.weights(shapes)
    values[SCORE_BIAS] += present
    for name in values:
        if name.endswith("cross_attn_image.out_proj.weight"):
            values[name] *= 4  # so that the memory matters
    return values


def clip() -> np.ndarray:
    """uint8 (12, 90, 120, 3): blobs that move, so that neighbouring pixels and frames have to do with each other."""
    noise = np.random.default_rng(0).standard_normal((5, 40, 60, 3))
    smooth = ndimage.gaussian_filter(noise, (0, 3, 3, 0), mode="wrap")
    frames = []
    for i in range(FRAMES):
        layers = [np.roll(layer, (i * (j - 2), i * (j - 1)), (0, 1)) for j, layer in enumerate(smooth)]
        frames.append(np.sum(layers, axis=0).repeat(3, 0).repeat(2, 1)[:HEIGHT, :WIDTH_OF_CLIP])
    frames = np.stack(frames)
    return np.clip(128 + 70 * frames / frames.std(), 0, 255).astype(np.uint8)


def mask() -> np.ndarray:
    """bool (90, 120): two shapes, one of them with holes of 1 and of 200 pixels."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH_OF_CLIP]
    shape = (rows - 40) ** 2 / 900 + (columns - 45) ** 2 / 1600 < 1
    shape &= (rows - 36) ** 2 + (columns - 50) ** 2 > 64
    shape[60, 40] = False
    shape[70:85, 95:110] = True
    return shape


POINTS = {"points": [[70.5, 40.0], [20.0, 60.0]], "labels": [1, 0]}
CLICK = {"points": [[40.0, 30.0]], "labels": [1]}
BOX = {"box": [30.0, 20.0, 90.0, 70.0]}
THERE, SELDOM = 3.0, -0.05  # added to the score: the object is in every frame, in most
# {name: (version, {object: [(frame, kind, prompt)]}, area of holes, score)}; each is tracked forward, then in reverse.
SCENARIOS = {
    "mask": ("2.1", {1: [(0, "mask", {})]}, 0, THERE),
    "mask, 2.0": ("2.0", {1: [(0, "mask", {})]}, 0, THERE),
    "click": ("2.1", {1: [(4, "points", CLICK)]}, 0, THERE),
    "seldom there": ("2.1", {1: [(4, "points", CLICK)]}, 0, SELDOM),
    "two key frames": ("2.1", {1: [(2, "points", BOX), (8, "points", POINTS)]}, 0, THERE),
    "two key frames, 2.0": ("2.0", {1: [(2, "points", BOX), (8, "points", POINTS)]}, 0, THERE),
    "two objects": ("2.1", {1: [(3, "mask", {})], 2: [(3, "points", POINTS)]}, 0, THERE),
    "holes": ("2.1", {1: [(0, "mask", {})]}, 100, THERE),
}


def stand_in_modules() -> None:
    """For what the authors' code imports and this script does not need."""
    hydra, iopath, extension = types.ModuleType("hydra"), types.ModuleType("iopath"), types.ModuleType("sam2._C")
    hydra.initialize_config_module = lambda *args, **kwargs: None
    core, global_hydra = types.ModuleType("hydra.core"), types.ModuleType("hydra.core.global_hydra")
    global_hydra.GlobalHydra = types.SimpleNamespace(
        instance=lambda: types.SimpleNamespace(is_initialized=lambda: True)
    )
    common, file_io = types.ModuleType("iopath.common"), types.ModuleType("iopath.common.file_io")
    file_io.g_pathmgr = None
    extension.get_connected_componnets = connected_components
    sys.modules |= {"hydra": hydra, "hydra.core": core, "hydra.core.global_hydra": global_hydra}
    sys.modules |= {"iopath": iopath, "iopath.common": common, "iopath.common.file_io": file_io}
    import sam2

    sam2._C = sys.modules["sam2._C"] = extension


def connected_components(masks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels of 8-connected components, (N, 1, H, W), and the area of each pixel's component."""
    labels, areas = np.zeros(masks.shape, np.int32), np.zeros(masks.shape, np.int32)
    for i, (each,) in enumerate(masks.numpy()):
        labels[i, 0], count = ndimage.label(each, np.ones((3, 3)))
        areas[i, 0] = np.bincount(labels[i, 0].ravel(), minlength=count + 1)[labels[i, 0]] * (labels[i, 0] > 0)
    return torch.from_numpy(labels), torch.from_numpy(areas)


def predictor(is_21: bool, fill_hole_area: int) -> torch.nn.Module:
    """The authors' predictor in the settings of sam2.1_hiera_t.yaml or sam2_hiera_t.yaml, and of
    build_sam2_video_predictor, but thin."""
    from sam2.modeling.backbones.hieradet import Hiera
    from sam2.modeling.backbones.image_encoder import FpnNeck, ImageEncoder
    from sam2.modeling.memory_attention import MemoryAttention, MemoryAttentionLayer
    from sam2.modeling.memory_encoder import CXBlock, Fuser, MaskDownSampler, MemoryEncoder
    from sam2.modeling.position_encoding import PositionEmbeddingSine
    from sam2.modeling.sam.transformer import RoPEAttention
    from sam2.sam2_video_predictor import SAM2VideoPredictor

    c, grid = CHANNELS, FRAME // 16
    trunk = Hiera(WIDTH, 1, stages=BLOCKS, global_att_blocks=GLOBAL, window_pos_embed_bkg_spatial_size=(7, 7))
    neck = FpnNeck(
        PositionEmbeddingSine(c, normalize=True, scale=None, temperature=10000),
        d_model=c,
        backbone_channel_list=trunk.channel_list,
        fpn_top_down_levels=[2, 3],
        fpn_interp_model="nearest",
    )
    rotary = {"rope_theta": 10000.0, "feat_sizes": [grid, grid], "embedding_dim": c, "num_heads": 1, "dropout": 0.1}
    layer = MemoryAttentionLayer(
        activation="relu",
        dim_feedforward=96,
        dropout=0.1,
        pos_enc_at_attn=False,
        self_attention=RoPEAttention(**rotary),
        d_model=c,
        pos_enc_at_cross_attn_keys=True,
        pos_enc_at_cross_attn_queries=False,
        cross_attention=RoPEAttention(**rotary, rope_k_repeat=True, kv_in_dim=64),
    )
    memory_encoder = MemoryEncoder(
        out_dim=64,
        mask_downsampler=MaskDownSampler(c, kernel_size=3, stride=2, padding=1),
        fuser=Fuser(CXBlock(c, kernel_size=7, padding=3), num_layers=2),
        position_encoding=PositionEmbeddingSine(64, normalize=True, scale=None, temperature=10000),
        in_dim=c,
    )
    return SAM2VideoPredictor(
        image_encoder=ImageEncoder(trunk, neck, scalp=1),
        memory_attention=MemoryAttention(c, pos_enc_at_input=True, layer=layer, num_layers=2),
        memory_encoder=memory_encoder,
        num_maskmem=7,
        image_size=FRAME,
        sigmoid_scale_for_mem_enc=20.0,
        sigmoid_bias_for_mem_enc=-10.0,
        use_mask_input_as_output_without_sam=True,
        directly_add_no_mem_embed=True,
        no_obj_embed_spatial=is_21,
        use_high_res_features_in_sam=True,
        multimask_output_in_sam=True,
        iou_prediction_use_sigmoid=True,
        use_obj_ptrs_in_encoder=True,
        add_tpos_enc_to_obj_ptrs=is_21,
        proj_tpos_enc_in_obj_ptrs=is_21,
        use_signed_tpos_enc_to_obj_ptrs=is_21,
        only_obj_ptrs_in_the_past_for_eval=True,
        pred_obj_scores=True,
        pred_obj_scores_mlp=True,
        fixed_no_obj_ptr=True,
        multimask_output_for_tracking=True,
        use_multimask_token_for_obj_ptr=True,
        multimask_min_pt_num=0,
        multimask_max_pt_num=1,
        use_mlp_for_obj_ptr_proj=True,
        sam_mask_decoder_extra_args={
            "dynamic_multimask_via_stability": True,
            "dynamic_multimask_stability_delta": 0.05,
            "dynamic_multimask_stability_thresh": 0.98,
        },
        binarize_mask_from_pts_for_mem_enc=True,
        fill_hole_area=fill_hole_area,
    ).eval()


def track(model: torch.nn.Module, folder: str, prompts: dict) -> dict[str, np.ndarray]:
    """What the predictor keeps of every frame, (objects, frames, ...)."""
    state = model.init_state(folder)
    for number, entries in prompts.items():
        for frame, kind, prompt in entries:
            if kind == "mask":
                model.add_new_mask(state, frame, number, mask())
            else:
                model.add_new_points_or_box(state, frame, number, **prompt)
    full = {}
    for reverse in (False, True):
        for frame, _, masks in model.propagate_in_video(state, reverse=reverse):
            full[frame] = (masks[:, 0] > 0).numpy()
    outputs = [
        each["cond_frame_outputs"] | each["non_cond_frame_outputs"] for each in state["output_dict_per_obj"].values()
    ]
    kept = {"logits": "pred_masks", "pointers": "obj_ptr", "present": "object_score_logits"}
    out = {
        name: np.stack([np.stack([each[i][key][0].numpy() for i in range(FRAMES)]) for each in outputs])
        for name, key in kept.items()
    }
    memory = np.stack([each[0]["maskmem_features"][0, :, ::STEP, ::STEP].float().numpy() for each in outputs])
    masks = np.packbits(np.stack([full[i] for i in range(FRAMES)], axis=1), axis=-1)
    return out | {"logits": out["logits"][:, :, 0, ::STEP, ::STEP], "memory of frame 0": memory, "masks": masks}


@torch.inference_mode()
def main(checkout: str) -> None:
    sys.path.insert(0, checkout)
    stand_in_modules()
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for i, frame in enumerate(clip()):
            Image.fromarray(frame).save(Path(folder) / f"{i}.jpg", format="PNG")  # without loss; read by its contents
        for name, (version, prompts, holes, present) in SCENARIOS.items():
            model = predictor(version == "2.1", holes)
            shapes = {key: list(value.shape) for key, value in model.state_dict().items()}
            model.load_state_dict(weights(shapes, present))
            results[f"shapes {version}"] = np.array(json.dumps(shapes))
            results |= {f"{name}: {key}": value for key, value in track(model, folder, prompts).items()}
    np.savez_compressed(HERE / "sam2.npz", **results)


if __name__ == "__main__":
    main(sys.argv[1])
