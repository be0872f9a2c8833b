"""SAM 2 and 2.1 from a file. Ravi et al. 2024, "SAM 2: Segment Anything in Images and Videos"
(github.com/facebookresearch/sam2, Apache-2.0).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from comfy import model_management
from PIL import Image
from torch import Tensor

from ..arch import sam2_hiera, sam2_network
from ..arch.sam2_decoder import Features
from ..comfyui.describe import FOLLOWER, below, describe, sam_relative
from ..comfyui.fit import sizes_of
from ..comfyui.managed import Managed
from ..comfyui.model_files import dequantized, read_model
from ..pixels.images import to_levels
from ..pixels.regions import EIGHT, small_regions
from ..segment.sam import PRECISIONS
from .frames import Frames

MEAN, SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's pictures, from 0 to 1
FILLED = 0.1  # the logit in a small hole that is filled
WINDOW = 16  # frames that a VIDEO decodes at once where it is read backwards

NEEDED = (
    "Load SAM 2 needs SAM 2 or 2.1 as its authors published it: sam2.1_hiera_tiny.pt, sam2.1_hiera_small.pt, "
    "sam2.1_hiera_base_plus.pt, sam2.1_hiera_large.pt, the same without .1, or one of them as .safetensors."
)
MARK, OTHER_MARK = "maskmem_tpos_enc", "memory_temporal_positional_encoding"  # in the authors' and transformers' files
UNUSED = r"no_mem_pos_enc$"  # in published files, but never read

# Names in the authors' files, and the network's own.
RENAMED = (
    (r"^sam_(mask_decoder|prompt_encoder)\.", r"\1."),
    (r"\.mlp\.layers\.0\.", ".mlp.lin1."),
    (r"\.mlp\.layers\.1\.", ".mlp.lin2."),
)
# Names in the files of Hugging Face's transformers, and the network's own. Each rule changes what the ones before left.
TRANSFORMERS = (
    (r"^no_memory_embedding$", "no_mem_embed"),
    (r"^no_memory_positional_encoding$", "no_mem_pos_enc"),
    (r"^memory_temporal_positional_encoding$", "maskmem_tpos_enc"),
    (r"^no_object_pointer$", "no_obj_ptr"),
    (r"^occlusion_spatial_embedding_parameter$", "no_obj_embed_spatial"),
    (r"^object_pointer_proj\.", "obj_ptr_proj."),
    (r"^temporal_positional_encoding_projection_layer\.", "obj_ptr_tpos_proj."),
    (
        r"^(shared_image_embedding|prompt_encoder\.shared_embedding)\.positional_embedding$",
        "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
    ),
    (r"^prompt_encoder\.mask_embed\.conv1\.", "prompt_encoder.mask_downscaling.0."),
    (r"^prompt_encoder\.mask_embed\.layer_norm1\.", "prompt_encoder.mask_downscaling.1."),
    (r"^prompt_encoder\.mask_embed\.conv2\.", "prompt_encoder.mask_downscaling.3."),
    (r"^prompt_encoder\.mask_embed\.layer_norm2\.", "prompt_encoder.mask_downscaling.4."),
    (r"^prompt_encoder\.mask_embed\.conv3\.", "prompt_encoder.mask_downscaling.6."),
    (r"^vision_encoder\.backbone\.patch_embed\.projection\.", "image_encoder.trunk.patch_embed.proj."),
    (r"^vision_encoder\.backbone\.", "image_encoder.trunk."),
    (r"^vision_encoder\.neck\.convs\.(\d+)\.", r"image_encoder.neck.convs.\1.conv."),
    (r"^mask_decoder\.upscale_conv1\.", "mask_decoder.output_upscaling.0."),
    (r"^mask_decoder\.upscale_layer_norm\.", "mask_decoder.output_upscaling.1."),
    (r"^mask_decoder\.upscale_conv2\.", "mask_decoder.output_upscaling.3."),
    (r"^memory_encoder\.feature_projection\.", "memory_encoder.pix_feat_proj."),
    (r"^memory_encoder\.projection\.", "memory_encoder.out_proj."),
    (r"^memory_encoder\.mask_downsampler\.final_conv\.", "memory_encoder.mask_downsampler.encoder.12."),
    (r"^memory_encoder\.memory_fuser\.", "memory_encoder.fuser."),
    (r"\.depthwise_conv\.", ".dwconv."),
    (r"\.pointwise_conv", ".pwconv"),
    (r"^(memory_encoder\.fuser\.layers\.\d+)\.scale$", r"\1.gamma"),
    (r"\.mlp\.proj_in\.", ".mlp.lin1."),
    (r"\.mlp\.proj_out\.", ".mlp.lin2."),
    (r"(_mlps\.\d+|_head|obj_ptr_proj)\.layers\.0\.", r"\1.layers.1."),
    (r"(_mlps\.\d+|_head|obj_ptr_proj)\.proj_in\.", r"\1.layers.0."),
    (r"(_mlps\.\d+|_head|obj_ptr_proj)\.proj_out\.", r"\1.layers.2."),
    (r"\.o_proj\.", ".out_proj."),
    (r"\.layer_norm", ".norm"),
)


class SAM2(Managed):
    """A SAM 2 under ComfyUI's memory management. `network` has the parts of one step of following an object.

    Args:
        weights: As from sam2_weights.
        file: The name to use in messages.
        precision: One of PRECISIONS, for the image encoder and the memory. The decoder computes in float32.
        config, frame: Of a network that was not published: the image encoder's shape, and the side of the frame.

    Attributes:
        frame: Side of the frame in pixels.
    """

    network: sam2_network.Network

    def __init__(
        self,
        weights: dict[str, Tensor],
        file: str,
        precision: str = "auto",
        config: sam2_hiera.Config | None = None,
        frame: int = sam2_network.FRAME,
    ) -> None:
        device, offload_device = model_management.get_torch_device(), model_management.unet_offload_device()
        dtype = PRECISIONS[precision] or (torch.bfloat16 if model_management.should_use_bf16(device) else torch.float32)
        with sizes_of(file, "SAM 2"):
            network = sam2_network.Network(weights, offload_device, dtype, config, frame)
        super().__init__(network, weights, file, "SAM 2", NEEDED, UNUSED)
        self.frame = frame

    def load(self, frames: int = 7) -> None:
        """Has ComfyUI load the model, with memory for a frame that attends to so many; needed before it is used."""
        super().load(max(self._encoder_memory(), self._attention_memory(frames)))

    def _encoder_memory(self) -> int:
        """Bytes for a frame besides the weights: a block of the first stage, and the finest embeddings in float32.
        Measured with tiny in fp32 on a CPU: 280 MB."""
        network = self.network
        width = network.image_encoder.trunk.pos_embed.shape[1]
        return (4 * network.grid) ** 2 * (8 * width * network.dtype.itemsize + 4 * network.channels)

    def _attention_memory(self, frames: int) -> int:
        """Bytes for the attention to the memory: keys and values, and their float32 forms while they are rotated."""
        network = self.network
        return frames * network.grid**2 * network.channels * (4 * network.dtype.itemsize + 12)

    def encode(self, picture: Tensor) -> Features:
        """The features of a frame (H, W, C) in [0, 1], on the device where the network computes."""
        pixels = preprocess(to_levels(picture), self.frame)
        return self.network.encode(pixels.to(self.device))


def preprocess(levels: np.ndarray, frame: int) -> Tensor:
    """The input of the image encoder: resized to a square by Pillow as in the original, normalised.

    Args:
        levels: uint8 (H, W, 3).
        frame: Side of the square.

    Returns:
        float32 (1, 3, frame, frame) on the CPU.
    """
    resized = Image.fromarray(levels).resize((frame, frame), Image.Resampling.BICUBIC)
    x = (torch.from_numpy(np.array(resized)).float() / 255 - torch.tensor(MEAN)) / torch.tensor(SPREAD)
    return x.movedim(-1, 0)[None]


def sam2_weights(weights: dict[str, Tensor], file: str) -> dict[str, Tensor]:
    """The tensors of a SAM 2 under the network's names.

    Args:
        weights: Of a file in the authors' or transformers' layout, as from read_model.
        file: The name to use in messages.

    Raises:
        ValueError: The weights are those of another network.
    """
    kind = sam_relative(weights)
    if kind == FOLLOWER:
        own, other = below(weights, MARK), below(weights, OTHER_MARK)
        if "image_encoder.trunk.pos_embed_window" in own:
            return _renamed(dequantized(own, file), RENAMED)
        if "vision_encoder.backbone.pos_embed_window" in other:
            return _one_by_one(_renamed(dequantized(other, file), TRANSFORMERS))
        kind = "a relative of SAM 2 with another image encoder, such as EfficientTAM"
    elif kind is None and any(f".{key}".endswith(".mask_decoder.iou_token.weight") for key in weights):
        kind = "SAM for single pictures, for Load SAM"
    raise ValueError(f"'{file}' holds {kind or describe(weights)}. {NEEDED}")


def _renamed(weights: dict[str, Tensor], rules: tuple[tuple[str, str], ...]) -> dict[str, Tensor]:
    def name(key: str) -> str:
        for pattern, replacement in rules:
            key = re.sub(pattern, replacement, key)
        return key

    return {name(key): value for key, value in weights.items()}


def _one_by_one(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """transformers keeps in one table what the authors keep in four, and numbers the mask's layers in threes."""
    result = {}
    for key, value in weights.items():
        if key == "prompt_encoder.point_embed.weight" and value.ndim == 2:
            result |= {f"prompt_encoder.point_embeddings.{i}.weight": row for i, row in enumerate(value.split(1))}
        elif match := re.fullmatch(r"(memory_encoder\.mask_downsampler)\.layers\.(\d+)\.(conv|norm)\.(\w+)", key):
            module, i, part, kind = match.groups()
            result[f"{module}.encoder.{3 * int(i) + (part == 'norm')}.{kind}"] = value
        else:
            result[key] = value
    return result


def load(path: str | Path, precision: str = "auto") -> SAM2:
    """The SAM 2 in a file of any form that read_state_dict knows. Its tensors tell its version and size.

    Raises:
        ValueError: The file cannot be read, or holds no SAM 2.
    """
    path = Path(path)
    return SAM2(sam2_weights(read_model(path), path.name), path.name, precision)


@dataclass(frozen=True)
class Pass:
    """One look at the clip: in steps of 1 for forwards or -1 for backwards, for each object after a frame `starts`."""

    step: int
    starts: dict[int, int]

    def looks(self, number: int, frame: int, keys: dict[int, Any]) -> bool:
        """Whether an object is looked for in a frame: not in its key frames, which are known."""
        return (frame - self.starts[number]) * self.step > 0 and frame not in keys


def passes(objects: dict[int, dict[int, Any]], direction: str) -> list[Pass]:
    """In which order frames are looked at.

    forward: from the first key frame of each object to the end of the clip. backward: from the last to the beginning.
    both: forward, then from the first key frame to the beginning.
    """
    first, last = ({number: end(own) for number, own in objects.items()} for end in (min, max))
    ways = {"forward": [(1, first)], "backward": [(-1, last)], "both": [(1, first), (-1, first)]}
    return [Pass(step, starts) for step, starts in ways[direction]]


def pixels(clip: Frames, frames: list[int], step: int, side: int) -> Iterator[tuple[int, Tensor]]:
    """Frames with their pixels for SAM 2. Backwards, several are read at once, since a video is decoded forwards."""
    window = WINDOW if step < 0 else 1
    for start in range(0, len(frames), window):
        part = frames[start : start + window]
        ready = {frame: preprocess(to_levels(clip[frame : frame + 1][0]), side) for frame in sorted(part)}
        for frame in part:
            yield frame, ready.pop(frame)


def fill_holes(logits: Tensor, area: int) -> Tensor:
    """Logits (1, 1, h, w) with holes of at most `area` cells filled: `fill_holes_in_mask_scores` of the original."""
    if not area:
        return logits
    labels, small = small_regions((logits[0, 0] <= 0).cpu().numpy(), area, EIGHT)
    return torch.where(torch.from_numpy(small[labels]).to(logits.device), FILLED, logits)
