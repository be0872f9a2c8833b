"""A SAM of the published layout with random weights, small enough to be made and run in a moment."""

from functools import partial

import torch
from safetensors.torch import save_file


def write(path, seed=0):
    """Writes a state dict made by segment-anything's own classes, of a frame of 256 pixels."""
    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

    torch.manual_seed(seed)
    norm, channels, grid = partial(torch.nn.LayerNorm, eps=1e-6), 32, 16
    encoder = ImageEncoderViT(
        256, 16, embed_dim=32, depth=2, num_heads=2, out_chans=channels, norm_layer=norm, use_rel_pos=True,
        window_size=7, global_attn_indexes=(1,),
    )  # fmt: skip
    sam = Sam(
        encoder,
        PromptEncoder(channels, (grid, grid), (256, 256), mask_in_chans=16),
        MaskDecoder(
            transformer_dim=channels,
            transformer=TwoWayTransformer(depth=2, embedding_dim=channels, num_heads=8, mlp_dim=64),
            iou_head_hidden_dim=32,
        ),
    )
    for name, weight in sam.named_parameters():
        if name.endswith(("pos_embed", "rel_pos_h", "rel_pos_w")):
            torch.nn.init.normal_(weight, std=0.2)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: weight.contiguous() for name, weight in sam.state_dict().items()}, path)
