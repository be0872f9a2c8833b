"""SAM 2 and 2.1: an object followed through a clip. Ravi et al. 2024, "SAM 2: Segment Anything in Images and Videos"
(github.com/facebookresearch/sam2, Apache-2.0).

The parts of one step. Tensors are float32 and on the network's device unless said otherwise. Which frames are
remembered, in which order and for which object, is the caller's:

    features = network.encode(pixels)                               # once for each frame, whatever is followed
    image = network.without_memory(features)                        # on a key frame, or
    image = network.attend(features, memory, places, pointers)      # on any other frame
    answer = network.decode(image, features, coords, labels)        # points and boxes; none on a tracked frame
    answer = network.from_mask(features, mask)                      # or the mask that a user gave
    memory = network.remember(features, answer.logits, answer.present, prompted)

S is the side of the frame in pixels (1024), grid = S / 16 (64), C = 256 channels, C' = 64 channels of the memory. The
letter P counts objects: all P objects share the frame, whose features have B = 1.
"""

from dataclasses import dataclass

import comfy.ops
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import sam2_hiera, sam_decoder
from .sam2_decoder import Features, SAM2MaskDecoder, choose
from .sam2_memory import MemoryAttention, MemoryEncoder, sine_line, sine_map
from .sam_decoder import NOTHING, Perceptron, PromptEncoder, Prompts
from .shapes import count, shape_of

FRAME = 1024
SURE = 10.0  # the logit of 1 in a mask that a user gave, and in the memory; 0 has -SURE
ABSENT = -1024.0  # every logit of an object that is not in the frame
KEY = -1  # the index of a key frame among the temporal positions; that of a tracked frame is its distance - 1


@dataclass(frozen=True)
class Answer:
    """P objects in a frame.

    Attributes:
        logits: (P, 1, 4 grid, 4 grid). A mask is where they are above 0.
        score: The expected intersection over union, (P,), 0 ... 1.
        pointer: What the object is, (P, C).
        present: The logit that the object is in the frame, (P, 1). Where it is 0 or less, logits are ABSENT.
    """

    logits: Tensor
    score: Tensor
    pointer: Tensor
    present: Tensor


class Network(nn.Module):
    """SAM 2, with the names of the published state dicts without the prefix `sam_` and with `mlp.lin1` and `.lin2`.

    Args:
        weights: Of a whole SAM 2, under these names. They determine the shapes.
        device: Of the parameters.
        dtype: Of the image encoder, the memory encoder and the attention to the memory; other parts are float32.
        config: The image encoder's shape, by default that of the published size that the weights have.
        frame: S.

    Attributes:
        frame, grid: S, S / 16.
        channels, memory_channels: C, C'.
        ages: The number of frames that are remembered besides key frames (6).

    Raises:
        ValueError: A tensor that tells a size is missing, or has an impossible shape.
    """

    def __init__(
        self,
        weights: dict[str, Tensor],
        device: torch.device,
        dtype: torch.dtype,
        config: sam2_hiera.Config | None = None,
        frame: int = FRAME,
    ) -> None:
        super().__init__()
        ops = comfy.ops.manual_cast
        half, full = {"device": device, "dtype": dtype}, {"device": device, "dtype": torch.float32}
        encoder = {k.removeprefix("image_encoder."): v for k, v in weights.items() if k.startswith("image_encoder.")}
        config = config or sam2_hiera.Config.of(encoder)
        background = shape_of(encoder, "trunk.pos_embed", 4)[-1]
        decoder = sam_decoder.Config.of(weights)
        memories, _, _, memory_channels = shape_of(weights, "maskmem_tpos_enc", 4)
        hidden = shape_of(weights, "memory_attention.layers.0.linear1.weight", 2)[0]
        attentions = count(weights, r"memory_attention\.layers\.(\d+)\.norm1\.weight$")
        fusers = count(weights, r"memory_encoder\.fuser\.layers\.(\d+)\.gamma$")
        c = decoder.channels
        self.dtype, self.frame, self.grid = dtype, frame, frame // sam2_hiera.STRIDE
        self.channels, self.memory_channels, self.ages = c, memory_channels, memories - 1
        self.is_21 = "no_obj_embed_spatial" in weights or "obj_ptr_tpos_proj.weight" in weights

        self.image_encoder = sam2_hiera.ImageEncoder(config, background, ops, **half)
        self.memory_attention = MemoryAttention(c, memory_channels, attentions, hidden, ops, **half)
        self.memory_encoder = MemoryEncoder(c, memory_channels, fusers, ops, **half)
        self.prompt_encoder = PromptEncoder(decoder, self.grid, frame, ops, **full)
        self.mask_decoder = SAM2MaskDecoder(decoder, ops, **full)
        self.mask_downsample = ops.Conv2d(1, 1, 4, 4, **full)
        self.obj_ptr_proj = Perceptron([c] * 4, ops, **full)
        self.maskmem_tpos_enc = nn.Parameter(torch.empty(memories, 1, 1, memory_channels, **full))
        self.no_mem_embed = nn.Parameter(torch.empty(1, 1, c, **full))
        self.no_obj_ptr = nn.Parameter(torch.empty(1, c, **full))
        if self.is_21:
            self.no_obj_embed_spatial = nn.Parameter(torch.empty(1, memory_channels, **full))
            self.obj_ptr_tpos_proj = ops.Linear(c, memory_channels, **full)

    def encode(self, pixels: Tensor) -> Features:
        """The features of frames (B, 3, S, S), normalised as ImageNet's pictures; any floating-point type."""
        return self.mask_decoder.features(self.image_encoder(pixels.to(self.dtype)))

    def without_memory(self, features: Features) -> Tensor:
        """The embedding (B, C, grid, grid) of a frame that has nothing to remember, for `decode`."""
        return features.raw + _own(self.no_mem_embed, features.raw)[0, 0, :, None, None]

    def attend(self, features: Features, memory: Tensor, places: Tensor, pointer_tokens: int = 0) -> Tensor:
        """The embedding (B, C, grid, grid) of a frame after attention to the memory of an object, for `decode`.

        Args:
            features: Of the frame.
            memory: (B, M, C'): from `frame_tokens` the tokens of one or more frames, then from `pointer_tokens`
                those of the pointers. The order of the frames does not matter but for rounding.
            places: Their positions, (B, M, C').
            pointer_tokens: The number of tokens that are pointers'.
        """
        own = (x.to(self.dtype) for x in (features.raw, memory, places))
        return self.memory_attention(*own, pointer_tokens).float()

    def frame_tokens(self, memory: Tensor, index: int) -> tuple[Tensor, Tensor]:
        """The memory of a frame as tokens (B, grid * grid, C'), and their positions, float32 (1, grid * grid, C').

        Args:
            memory: From `remember`, (B, C', grid, grid), of any floating-point type, which the tokens keep.
            index: KEY for a key frame; for a tracked frame its distance in frames minus 1: 0 ... ages - 1.
        """
        places = sine_map(self.memory_channels, self.grid, memory.device).flatten(2).transpose(1, 2)
        return memory.flatten(2).transpose(1, 2), places + _own(self.maskmem_tpos_enc, places)[index]

    def pointer_tokens(self, pointers: Tensor, distances: Tensor) -> tuple[Tensor, Tensor]:
        """The pointers of N frames as C / C' tokens each, and their positions: (1, N * C / C', C') each.

        Args:
            pointers: (N, C), from answers about one object.
            distances: (N,), t / (n - 1) with t the distance to each frame, positive for frames that came before in the
                order of tracking, and n the number of pointers that are read at most. SAM 2.0 does not read them.
        """
        parts = self.channels // self.memory_channels
        tokens = pointers.reshape(1, -1, self.memory_channels)
        if not self.is_21:
            return tokens, torch.zeros_like(tokens)
        places = self.obj_ptr_tpos_proj(sine_line(distances, self.channels))
        return tokens, places.repeat_interleave(parts, dim=0)[None]

    def decode(
        self, image: Tensor, features: Features, coords: Tensor | None = None, labels: Tensor | None = None
    ) -> Answer:
        """The objects that the prompts point at; without prompts, those that the memory holds.

        Args:
            image: From `without_memory` or `attend`, (P or 1, C, grid, grid).
            features: Of the same frame, B = 1.
            coords: (P, N, 2), x and y in pixels of the frame (0 ... S), a box as two points before the clicks.
            labels: int (P, N): NEGATIVE, POSITIVE, TOP_LEFT, BOTTOM_RIGHT of sam_decoder.
        """
        if coords is None:
            coords, labels = image.new_zeros(len(image), 0, 2), image.new_zeros(len(image), 0, dtype=torch.long)
        ambiguous = coords.shape[1] <= 1
        blank = 1 if coords.shape[1] else 2  # SAM's token of no box, and one more in place of points
        coords, labels = F.pad(coords, (0, 0, 0, blank)), F.pad(labels, (0, blank), value=NOTHING)
        return self._answer(image, features, Prompts(coords, labels), ambiguous)

    def _answer(self, image: Tensor, features: Features, prompts: Prompts, ambiguous: bool) -> Answer:
        tokens, dense = self.prompt_encoder(prompts)
        masks = self.mask_decoder(image, features, self.prompt_encoder.positions(tokens), tokens, dense)
        logits, score, token = choose(masks, ambiguous)
        is_there = masks.present > 0
        pointer = torch.where(is_there, self.obj_ptr_proj(token), _own(self.no_obj_ptr, token))
        return Answer(torch.where(is_there[..., None, None], logits, ABSENT), score, pointer, masks.present)

    def from_mask(self, features: Features, mask: Tensor) -> Answer:
        """The objects in masks that a user gave: they are taken as they are, and the decoder only makes the pointers.

        Args:
            features: Of the frame, B = 1.
            mask: (P, 1, S, S) of 0 and 1.
        """
        mask = mask.float()
        logits = F.interpolate((2 * mask - 1) * SURE, scale_factor=0.25, mode="bilinear", antialias=True)
        coords = mask.new_zeros(len(mask), 2, 2)
        labels = torch.full((len(mask), 2), NOTHING, device=mask.device)
        prompts = Prompts(coords, labels, self.mask_downsample(mask))
        pointer = self._answer(features.raw, features, prompts, ambiguous=False).pointer
        is_there = mask.flatten(1).any(1, keepdim=True)
        pointer = torch.where(is_there, pointer, _own(self.no_obj_ptr, pointer))
        present = (2 * is_there.float() - 1) * SURE
        return Answer(logits, torch.ones_like(present[:, 0]), pointer, present)

    def remember(self, features: Features, logits: Tensor, present: Tensor, prompted: bool) -> Tensor:
        """The memory of objects in a frame, (P, C', grid, grid). The original stores it in bfloat16.

        Args:
            features: Of the frame, B = 1.
            logits: (P, 1, h, w), of an Answer.
            present: (P, 1), of an Answer.
            prompted: Whether the masks come from a user's points, boxes or mask. They then count as certain.
        """
        logits = F.interpolate(logits, (self.frame, self.frame), mode="bilinear", align_corners=False)
        share = (logits > 0).to(logits) if prompted else logits.sigmoid()
        image, mask = features.raw.to(self.dtype), ((2 * share - 1) * SURE).to(self.dtype)
        memory = self.memory_encoder(image, mask).float()
        if not self.is_21:
            return memory
        absent = _own(self.no_obj_embed_spatial, memory)[..., None, None]
        return torch.where((present > 0)[..., None, None], memory, memory + absent)


def _own(parameter: nn.Parameter, like: Tensor) -> Tensor:
    return comfy.ops.cast_to_input(parameter, like, copy=False)
