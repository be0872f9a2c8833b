"""Makes ostrack.npz by running OSTrack's own tracker on seeded random weights.

    python tests/golden/make_ostrack.py OSTRACK

with the checkout of github.com/botaoye/OSTrack (33b5e12, MIT), in an environment with timm 0.9, OpenCV 4, easydict and
yaml. Both sizes run with the real one's blocks, eliminations and head, and fewer channels. Weights and frames are made
anew in the tests. Of the crops every 4th pixel is kept.
"""

import json
import sys
import types
import zlib
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent
LENGTH, HEIGHT, WIDTH = 10, 120, 160  # of the clip
START = [70.0, 45.0, 30.0, 24.0]  # the first box: x, y, width, height
DIM, HEADS, CHANNELS = 128, 2, 32  # the real one has 768, 12 and 256
SIZES = {"256": (256, 128, 4.0), "384": (384, 192, 5.0)}  # search, template, factor of the search


def weights(shapes: dict[str, list[int]], search: int) -> dict[str, torch.Tensor]:
    """Random weights, each from its name alone. The sizes that they predict keep near that of the box."""
    values = {name: torch.from_numpy(_values(name, tuple(shape))) for name, shape in shapes.items()}
    values["box_head.conv5_size.bias"] += -1.1 if search == 256 else -1.4
    return values


def _values(name: str, shape: tuple[int, ...]) -> np.ndarray:
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, dtype=np.int64)
    noise = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape, dtype=np.float32)
    if name.endswith("running_var"):
        return np.exp(noise / 4)
    if len(shape) > 1 and "pos_embed" not in name and "token" not in name:
        return noise * np.float32((2 if "qkv" in name else 1.4) / np.sqrt(np.prod(shape[1:])))
    is_scale = len(shape) == 1 and name.endswith("weight")
    return noise / 4 + (1 if is_scale else 0)


def clip() -> np.ndarray:
    """uint8 (LENGTH, HEIGHT, WIDTH, 3): a texture that moves."""
    rng = np.random.default_rng(0)
    coarse, fine = rng.integers(0, 200, (24, 32, 3)), rng.integers(0, 56, (168, 224, 3))
    texture = (np.kron(coarse, np.ones((7, 7, 1), dtype=int)) + fine).astype(np.uint8)
    return np.stack([texture[2 * t : 2 * t + HEIGHT, 3 * t : 3 * t + WIDTH] for t in range(LENGTH)])


def settings(cfg, search: int, template: int, factor: float):
    """The settings of vitb_256_mae_ce_32x4_ep300 and vitb_384_mae_ce_32x4_ep300."""
    cfg.MODEL.PRETRAIN_FILE = ""
    cfg.MODEL.BACKBONE.TYPE = "vit_base_patch16_224_ce"
    cfg.MODEL.BACKBONE.CE_LOC, cfg.MODEL.BACKBONE.CE_KEEP_RATIO = [3, 6, 9], [0.7, 0.7, 0.7]
    cfg.MODEL.BACKBONE.CE_TEMPLATE_RANGE = "CTR_POINT"
    cfg.MODEL.HEAD.TYPE, cfg.MODEL.HEAD.NUM_CHANNELS = "CENTER", CHANNELS
    cfg.DATA.SEARCH.SIZE, cfg.DATA.TEMPLATE.SIZE, cfg.TEST.SEARCH_SIZE = search, template, search
    return types.SimpleNamespace(
        cfg=cfg,
        checkpoint="",
        debug=False,
        save_all_boxes=False,
        template_factor=2.0,
        template_size=template,
        search_factor=factor,
        search_size=search,
    )


def main(checkout: str) -> None:
    sys.path.insert(0, checkout)
    unused = {  # of its training and its display
        "tensorboardX": "SummaryWriter",
        "lib.train.data.loader": "LTRLoader",
        "lib.train.data.image_loader": "jpeg4py_loader opencv_loader jpeg4py_loader_w_failsafe default_image_loader",
        "lib.vis.visdom_cus": "Visdom",
        "lib.test.tracker.vis_utils": "gen_visualization",
    }
    for module, names in unused.items():
        sys.modules[module] = types.SimpleNamespace(**dict.fromkeys(names.split()))
    torch.Tensor.cuda = lambda self: self
    torch.nn.Module.cuda = lambda self: self
    import lib.models.ostrack.ostrack as model
    import lib.test.tracker.ostrack as tracker
    from lib.config.ostrack.config import cfg
    from lib.models.ostrack.vit_ce import VisionTransformerCE

    def thin(pretrained, **kwargs):
        return VisionTransformerCE(patch_size=16, embed_dim=DIM, depth=12, num_heads=HEADS, **kwargs)

    model.vit_base_patch16_224_ce = thin
    sample, crops = tracker.sample_target, []

    def kept(*args, **kwargs):
        result = sample(*args, **kwargs)
        crops.append(result[0][::4, ::4].copy())
        return result

    tracker.sample_target = kept
    out = {}
    for size, (search, template, factor) in SIZES.items():
        params = settings(cfg, search, template, factor)
        network = model.build_ostrack(cfg, training=False)
        shapes = {name: list(value.shape) for name, value in network.state_dict().items()}
        torch.load = lambda *args, **kwargs: {"net": weights(shapes, search)}  # noqa: B023
        ours = tracker.OSTrack(params, "")
        maps, run = [], ours.network.forward_head
        ours.network.forward_head = lambda *a: maps.append(run(*a)) or maps[-1]  # noqa: B023
        crops.clear()
        frames, boxes, scores = clip(), [START], []
        ours.initialize(frames[0], {"init_bbox": START})
        for frame in frames[1:]:
            boxes.append(ours.track(frame)["target_bbox"])
            scores.append(float((ours.output_window * maps[-1]["score_map"]).max()))
        out[f"{size} shapes"] = np.array(json.dumps(shapes))
        out[f"{size} boxes"], out[f"{size} scores"] = np.array(boxes), np.array(scores, dtype=np.float32)
        out[f"{size} template"], out[f"{size} search"] = crops[0], np.stack(crops[1::4])
        first = maps[0]
        for name in ("score_map", "size_map", "offset_map"):
            out[f"{size} {name}"] = first[name].detach().numpy()
    np.savez_compressed(HERE / "ostrack.npz", **out)


if __name__ == "__main__":
    main(sys.argv[1])
