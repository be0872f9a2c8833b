"""Makes sam_mobile.npz and sam_hq.npz by running the authors' own code on seeded random weights.

    python tests/golden/make_sam.py MOBILESAM SAMHQ

with the checkouts of github.com/ChaoningZhang/MobileSAM (34bbbfd) and github.com/SysCV/sam-hq (fb181f8), both
Apache-2.0. The weights are made anew from the tensors' names in the tests, so that the files stay small. Of big results
every 8th cell is kept.
"""

import json
import sys
import types
import zlib
from functools import partial
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent
POINTS, LABELS, BOX = [[30.0, 40.0], [90.5, 20.0]], [1, 0], [20.0, 10.0, 100.0, 80.0]


def weights(shapes: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    """Random weights of a sane size for tensors of these names and shapes, each from its name alone."""
    return {name: torch.from_numpy(_values(name, tuple(shape))) for name, shape in shapes.items()}


def _values(name: str, shape: tuple[int, ...]) -> np.ndarray:
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, dtype=np.int64)
    noise = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape, dtype=np.float32)
    if name.endswith("running_var"):
        return np.exp(noise / 4)
    if "gaussian_matrix" in name:
        return noise
    if len(shape) > 1 and not any(part in name for part in ("pos", "embed.weight", "token", "attention_biases")):
        return noise / np.float32(np.sqrt(np.prod(shape[1:])))
    is_scale = len(shape) == 1 and name.endswith("weight")
    return noise / 4 + (1 if is_scale else 0)


def picture() -> np.ndarray:
    """uint8 (90, 120, 3)"""
    return np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)


def results(model: torch.nn.Module, predictor_class: type) -> dict[str, np.ndarray]:
    shapes = {name: list(value.shape) for name, value in model.state_dict().items()}
    model.load_state_dict(weights(shapes))
    model.eval()
    predictor = predictor_class(model)
    predictor.set_image(picture())
    out = {"shapes": np.array(json.dumps(shapes)), "embedding": predictor.features[0, :, ::8, ::8].detach().numpy()}
    prompts = {"click": {"point_coords": POINTS[:1], "point_labels": LABELS[:1]}, "box": {"box": BOX}}
    prompts["points"] = {"point_coords": POINTS, "point_labels": LABELS}
    for name, prompt in prompts.items():
        prompt = {key: np.array(value) for key, value in prompt.items()}
        for multimask in (True, False):
            masks, scores, low = predictor.predict(**prompt, multimask_output=multimask, return_logits=True)
            key = f"{name}_{'three' if multimask else 'one'}"
            out |= {f"{key}_low": low[:, ::8, ::8], f"{key}_scores": scores, f"{key}_full": masks[:, ::8, ::8]}
    return out


def mobile(checkout: str) -> None:
    # timm is imported for names that do nothing here.
    layers, registry = types.ModuleType("timm.models.layers"), types.ModuleType("timm.models.registry")
    layers.DropPath = torch.nn.Identity
    layers.to_2tuple = lambda size: (size, size)
    layers.trunc_normal_ = torch.nn.init.trunc_normal_
    registry.register_model = lambda function: function
    sys.modules |= {"timm": types.ModuleType("timm"), "timm.models": types.ModuleType("timm.models")}
    sys.modules |= {"timm.models.layers": layers, "timm.models.registry": registry}
    sys.path.insert(0, checkout)
    from mobile_sam import SamPredictor, sam_model_registry

    np.savez_compressed(HERE / "sam_mobile.npz", **results(sam_model_registry["vit_t"](), SamPredictor))


def hq(checkout: str) -> None:
    sys.path.insert(0, checkout)
    from segment_anything import SamPredictor
    from segment_anything.modeling import ImageEncoderViT, MaskDecoderHQ, PromptEncoder, Sam, TwoWayTransformer

    size, grid, width, channels = 512, 32, 64, 32
    encoder = ImageEncoderViT(
        img_size=size,
        embed_dim=width,
        depth=4,
        num_heads=2,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        global_attn_indexes=(1, 3),
        window_size=14,
        out_chans=channels,
    )
    decoder = MaskDecoderHQ(
        transformer=TwoWayTransformer(depth=2, embedding_dim=channels, mlp_dim=64, num_heads=8),
        transformer_dim=channels,
        iou_head_hidden_dim=32,
        vit_dim=width,
    )
    model = Sam(encoder, PromptEncoder(channels, (grid, grid), (size, size), 16), decoder)
    np.savez_compressed(HERE / "sam_hq.npz", **results(model, SamPredictor))


if __name__ == "__main__":
    mobile(sys.argv[1])
    hq(sys.argv[2])
