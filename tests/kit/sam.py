"""Thin SAMs of segment-anything's own classes with seeded weights, its predictor, and the nodes asked in short."""

import json
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from segment_anything import SamPredictor
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

from pentimento.model_patchers.segment import sam as ours
from pentimento.nodes.segment.sam import SAMSegment

from .golden import maker
from .nodes import run_node
from .tensors import rand

make_sam = maker("sam")


def network(size=256, width=64, depth=4, heads=2, channels=32, window=14):
    """A thin SAM of segment-anything's own classes: windows in blocks 0 and 2, global attention in 1 and 3."""
    grid = size // 16
    encoder = ImageEncoderViT(
        img_size=size,
        embed_dim=width,
        depth=depth,
        num_heads=heads,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        global_attn_indexes=(1, 3),
        window_size=window,
        out_chans=channels,
    )
    prompts = PromptEncoder(channels, (grid, grid), (size, size), 16)
    decoder = MaskDecoder(
        transformer=TwoWayTransformer(depth=2, embedding_dim=channels, mlp_dim=64, num_heads=8),
        transformer_dim=channels,
        iou_head_hidden_dim=32,
    )
    return Sam(encoder, prompts, decoder)


def reference(**sizes):
    """A `network` with weights that are the same on every machine."""
    return seeded(network(**sizes))


def seeded(model):
    weights = make_sam.weights({name: list(v.shape) for name, v in model.state_dict().items()})
    model.load_state_dict(weights, assign=True)
    return model.eval()


def load(weights, **kwargs):
    weights = {name: value.clone() for name, value in weights.items()}
    sam = ours.SAM(ours.sam_weights(weights, "test.pth"), "test.pth", **kwargs)
    sam.load()
    return sam


def levels(height, width, seed=0):
    """Blobs, so that neighbouring pixels have to do with each other."""
    noise = rand(1, 3, 7, 9, seed=seed)
    smooth = F.interpolate(noise, (height, width), mode="bicubic")[0].movedim(0, -1)
    return (smooth.clamp(0, 1) * 255).round().byte().numpy()


def image(*pictures):
    return torch.stack([torch.from_numpy(picture) for picture in pictures]).float() / 255


def text(*points):
    return json.dumps([{"x": x, "y": y} for x, y in points])


def segment(sam, image, *, choice="auto", refine=0, positive=(), negative=(), boxes=None, mask=None):
    prompts = {"positive_coords": text(*positive), "negative_coords": text(*negative)}
    settings = {"choice": choice, "refine_iterations": refine}
    return run_node(SAMSegment, sam=sam, image=image, **settings, **prompts, bboxes=boxes, mask_prompt=mask)


def box(x, y, width, height):
    return {"x": x, "y": y, "width": width, "height": height}


class Reference(SamPredictor):
    """segment-anything's predictor, asked in the pack's words."""

    def ask(self, positive=(), negative=(), box=None, mask=None, multimask=True):
        points = [*positive, *negative]
        corners = None if box is None else [box["x"], box["y"], box["x"] + box["width"], box["y"] + box["height"]]
        return self.predict(
            np.array(points, dtype=float) if points else None,
            np.array([1] * len(positive) + [0] * len(negative)) if points else None,
            None if corners is None else np.array(corners, dtype=float),
            mask,
            multimask,
            return_logits=True,
        )


def write(path):
    """A file that is made and run in a moment, whose masks are neither empty nor full."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sam = network(width=32, depth=2, window=7)
        for name, weight in sam.named_parameters():
            if name.endswith(("pos_embed", "rel_pos_h", "rel_pos_w")):
                torch.nn.init.normal_(weight, std=0.2)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: weight.contiguous() for name, weight in sam.state_dict().items()}, path)
