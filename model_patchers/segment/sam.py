"""SAM: pictures segmented by points, boxes and masks. Kirillov et al. 2023, "Segment Anything"
(github.com/facebookresearch/segment-anything, Apache-2.0); MobileSAM, Zhang et al. 2023; SAM-HQ, Ke et al. 2023.

A large image encoder makes the embedding of a picture once. A small prompt encoder and a small mask decoder answer each
prompt from the embedding. Embeddings are cached, so another click costs only a pass of the decoder.
"""

import hashlib
import logging
import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock
from weakref import WeakValueDictionary

import comfy.ops
import numpy as np
import torch
from comfy import model_management
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import CallbacksMP
from torch import Tensor, nn

from ..arch import sam_decoder, sam_vit, tiny_vit
from ..arch.sam_decoder import MaskDecoder, PromptEncoder, Prompts
from ..arch.sam_hq import HQMaskDecoder
from ..comfyui.describe import below, describe, sam_relative
from ..comfyui.fit import sizes_of
from ..comfyui.managed import Managed
from ..comfyui.model_files import dequantized, read_model, versions
from ..comfyui.points import Point
from ..comfyui.progress import Progress, ignore
from ..pixels.boxes import Box
from ..pixels.images import to_levels
from ..pixels.masks import pair, selected
from .sam_frame import mask_logits, postprocess, preprocess
from .sam_prompts import answer, nearest, prompt_tokens, split_prompts

PRECISIONS = {"auto": None, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
KEEP = 256 * 2**20  # bytes of embeddings: of 64 pictures, with SAM-HQ of 21

NEEDED = (
    "Load SAM needs SAM, MobileSAM or SAM-HQ as their authors published them: sam_vit_b_01ec64.pth, "
    "sam_vit_l_0b3195.pth, sam_vit_h_4b8939.pth, mobile_sam.pt, or SAM-HQ's such as sam_hq_vit_b.pth."
)
NO_PROMPT = (
    "There is nothing to segment by: positive_coords, bboxes and mask_prompt are empty. Click on the object in Pick "
    "Points, or connect a box or a mask. (Negative points alone say only where the object is not.)"
)
MARK = "mask_decoder.iou_token.weight"  # a key of every SAM, below any prefix
UNUSED = r"pixel_|image_encoder\.(norm_head|head)\.|.*attention_bias_idxs$"  # in published files, but never read


@dataclass(frozen=True)
class Embedding:
    """The embedding of one picture, on the intermediate device.

    Attributes:
        features: float32 (1, C, grid, grid).
        detail: More features for the decoder of SAM-HQ, (1, C / 8, 4 * grid, 4 * grid).
        height, width: Of the picture.
    """

    features: Tensor
    detail: Tensor | None
    height: int
    width: int

    @property
    def nbytes(self) -> int:
        return self.features.nbytes + (0 if self.detail is None else self.detail.nbytes)


class EmbeddingCache:
    """The embeddings used last, in at most `limit` bytes, by keys of their pictures' content."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.embeddings: OrderedDict[bytes, Embedding] = OrderedDict()

    @property
    def nbytes(self) -> int:
        return sum(embedding.nbytes for embedding in self.embeddings.values())

    def get(self, key: bytes) -> Embedding | None:
        if embedding := self.embeddings.get(key):
            self.embeddings.move_to_end(key)
        return embedding

    def put(self, key: bytes, embedding: Embedding) -> None:
        self.embeddings[key] = embedding
        while self.nbytes > self.limit:
            self.embeddings.popitem(last=False)

    def on_detach(self, patcher: ModelPatcher, unpatch_all: bool) -> None:
        """Drops all embeddings when ComfyUI unloads the model. (To load it, ComfyUI detaches it without unpatching.)"""
        if unpatch_all:
            self.embeddings.clear()


def content_key(levels: np.ndarray) -> bytes:
    """A hash of the size and the levels of a picture, uint8 (H, W, 3)."""
    return hashlib.blake2b(np.ascontiguousarray(levels), digest_size=16, person=b"%dx%d" % levels.shape[:2]).digest()


class Network(nn.Module):
    """Image encoder, prompt encoder and mask decoder, with the names of the published state dicts.

    Args:
        weights: Of a whole SAM, as from sam_weights. They determine the shapes.
        device: Of the parameters.
        dtype: Of the image encoder; the other parts are float32.

    Raises:
        ValueError: A tensor that tells a size is missing, or has an impossible shape.
    """

    def __init__(self, weights: dict[str, Tensor], device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        ops = comfy.ops.manual_cast
        encoder = {k.removeprefix("image_encoder."): v for k, v in weights.items() if k.startswith("image_encoder.")}
        arch = tiny_vit if "patch_embed.seq.0.c.weight" in encoder else sam_vit
        self.image_encoder = arch.ImageEncoder(arch.Config.of(encoder), ops, device, dtype)
        frame, grid, early = self.image_encoder.frame, self.image_encoder.grid, self.image_encoder.early_width
        config = sam_decoder.Config.of(weights)
        self.prompt_encoder = PromptEncoder(config, grid, frame, ops, device, torch.float32)
        if "mask_decoder.hf_token.weight" in weights:
            self.mask_decoder = HQMaskDecoder(config, early, ops, device, torch.float32)
        else:
            self.mask_decoder = MaskDecoder(config, ops, device, torch.float32)


class SAM(Managed):
    """A SAM under ComfyUI's memory management, with the embeddings of the pictures it encoded last.

    The embeddings are dropped when ComfyUI unloads the model. The graph and the live mask use a SAM from two threads:
    only one of them loads it or computes with it at a time.

    Args:
        weights: As from sam_weights.
        file: The name to use in messages.
        precision: One of PRECISIONS, for the image encoder.
        keep: Bytes of embeddings to keep, at most.
    """

    def __init__(self, weights: dict[str, Tensor], file: str, precision: str = "auto", keep: int = KEEP) -> None:
        device, offload_device = model_management.get_torch_device(), model_management.unet_offload_device()
        self.dtype = PRECISIONS[precision] or (
            torch.bfloat16 if model_management.should_use_bf16(device) else torch.float32
        )
        with sizes_of(file, "SAM"):
            network = Network(weights, offload_device, self.dtype)
        super().__init__(network, weights, file, "SAM", NEEDED, UNUSED)
        encoder = self.network.image_encoder
        self.frame, self.grid, self.steps = encoder.frame, encoder.grid, encoder.steps
        if self.dtype == torch.float16 and encoder.early_width >= 1280:
            logging.warning(
                "'%s' is a ViT-H, which gives garbage in fp16 (segment-anything#540). Choose bf16 or fp32.", file
            )
        self.lock = Lock()
        self.cache = EmbeddingCache(keep)
        self.patcher.add_callback(CallbacksMP.ON_DETACH, self.cache.on_detach)

    def load(self, prompts: int = 1) -> None:
        """Has ComfyUI load the model, with memory for so many prompts in one pass; needed by `embed` and `decode`."""
        with self.lock:
            super().load(max(self._encoder_memory(), prompts * self._prompt_memory()))

    def _prompt_memory(self) -> int:
        """Bytes that the decoder needs for a prompt. Measured peak: five tensors as large as the embedding at once."""
        channels = self.network.mask_decoder.iou_token.weight.shape[1]
        return 5 * 4 * self.grid**2 * channels

    def _encoder_memory(self) -> int:
        """Bytes that the encoder needs besides its weights: a piece of the attention bias, its copy in the form that
        the GPU's kernel needs, and the widest activations. Measured with ViT-B on a CPU: 290 MB."""
        activations = 16 * self.grid**2 * self.network.image_encoder.early_width
        return self.dtype.itemsize * (2 * sam_vit.BIG_PIECE + activations)

    def embed(self, levels: np.ndarray, progress: Callable[[int], None] = ignore) -> Embedding:
        """The embedding of a picture, from the cache if it is there.

        Args:
            levels: uint8 (H, W, 3), as from to_levels.
            progress: Called with numbers of steps, which add up to `steps`.
        """
        key = content_key(levels)
        with self.lock:
            if embedding := self.cache.get(key):
                progress(self.steps)
                return embedding
            embedding = self._encode(levels, progress)
            self.cache.put(key, embedding)
            return embedding

    def knows(self, picture: Tensor) -> bool:
        """Whether the embedding of a picture (H, W, C) is in the cache."""
        return content_key(to_levels(picture)) in self.cache.embeddings

    def _encode(self, levels: np.ndarray, progress: Callable[[int], None]) -> Embedding:
        x = preprocess(levels, self.frame).to(self.device, self.dtype)
        features, early = self.network.image_encoder(x, progress)
        features = features.float()
        detail = self.network.mask_decoder.detail(features, early.float())
        home = model_management.intermediate_device()
        return Embedding(features.to(home), None if detail is None else detail.to(home), *levels.shape[:2])

    def decode(self, embedding: Embedding, prompts: Prompts) -> tuple[Tensor, Tensor]:
        """Logits (P, masks, 4 * grid, 4 * grid) and scores (P, masks) for P prompts on one picture."""
        device, network = self.device, self.network
        mask = None if prompts.mask is None else prompts.mask.to(device)
        detail = None if embedding.detail is None else embedding.detail.to(device)
        with self.lock:
            tokens, dense = network.prompt_encoder(Prompts(prompts.coords.to(device), prompts.labels.to(device), mask))
            positions = network.prompt_encoder.positions(tokens)
            return network.mask_decoder(embedding.features.to(device), detail, positions, tokens, dense)

    def segment(
        self,
        image: Tensor,
        positive: list[Point],
        negative: list[Point],
        boxes: list[list[Box]],
        mask: Tensor | None,
        choice: str,
        refine_iterations: int,
    ) -> tuple[Tensor, list[float]]:
        """Masks of the objects that the prompts point at, and their scores.

        Args:
            image: (B, H, W, C), C = 1, 3 or 4.
            positive, negative: Points in pixels, for every picture.
            boxes: The boxes of each picture; one list serves every picture.
            mask: A mask prompt, (N, h, w), as `pair` takes it; a blank mask is no prompt.
            choice: One of CHOICES.
            refine_iterations: The number of times that a mask is fed back as the mask prompt of another pass.

        Returns:
            Masks, float32 (M, H, W) with M = max(B, N), for the choice "all" (3 M, H, W) with the three masks of a
            picture in a row. For "previous", a picture's mask is chosen by that of the last picture before it that has
            a prompt, and the first one's by its score. A score for each mask: the network's estimate of the
            intersection over union with the true mask. Several prompts on a picture give the union of their masks and
            the lowest of their scores. A picture without a prompt gets an empty mask and the score 0.

        Raises:
            ValueError: No picture has a prompt, or the mask does not match the pictures.
        """
        if mask is not None:
            image, mask = pair(image, mask, ("image", "mask_prompt"))
        boxes = boxes * len(image) if len(boxes) == 1 else boxes
        mask_prompts = [None] * len(image) if mask is None else mask
        prompts = [
            self.prompts(image, positive, negative, picture_boxes, mask_prompt)
            for picture_boxes, mask_prompt in zip(boxes, mask_prompts, strict=True)
        ]
        if not any(prompts):
            raise ValueError(NO_PROMPT)
        self.load()
        passes = 1 + refine_iterations
        progress = Progress(sum(self.steps + len(entry) * passes for entry in prompts if entry))
        masks, scores, previous = [], [], None
        for picture, picture_prompts in zip(image, prompts, strict=True):
            picture_masks, picture_scores = self.segment_one(
                picture, picture_prompts, choice, refine_iterations, progress, previous
            )
            if choice == "previous" and picture_prompts:
                previous = picture_masks[0] > 0
            masks.append(picture_masks)
            scores += picture_scores.tolist()
        return torch.cat(masks), scores

    def prompts(
        self, image: Tensor, positive: list[Point], negative: list[Point], boxes: list[Box], mask: Tensor | None
    ) -> list[Prompts]:
        """The prompts of one picture of a batch (B, H, W, C): no prompt, one, or one for each of several boxes."""
        height, width = image.shape[1:3]
        logits = mask_logits(mask, self.frame, 4 * self.grid) if mask is not None and selected(mask).any() else None
        return [
            Prompts(*prompt_tokens(points, negative, box, height, width, self.frame), logits)
            for points, box in split_prompts(positive, boxes)
            if points or box or logits is not None
        ]

    def segment_one(
        self,
        picture: Tensor,
        prompts: list[Prompts],
        choice: str,
        refine_iterations: int,
        progress: Callable[[int], None],
        previous: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The masks of a picture (H, W, C), (k, H, W) with k = 3 for the choice "all", else 1, and their scores, (k,).

        Args:
            progress: Called with numbers of steps.
            previous: The mask of the picture before, bool (H, W), which is to be chosen by.
        """
        size = picture.shape[:2]
        count = 3 if choice == "all" else 1
        if not prompts:
            return torch.zeros(count, *size, device=self.device), torch.zeros(count)
        embedding = self.embed(to_levels(picture), progress)
        union = torch.zeros(count, *size, dtype=torch.bool, device=self.device)
        scores = []

        def masks(logits: Tensor) -> Tensor:
            return postprocess(logits[None], *size, self.frame)[0] > 0

        rule = choice if previous is None else lambda logits: nearest(masks(logits), previous)
        for prompt in prompts:
            logits, prompt_scores = answer(partial(self.decode, embedding), prompt, rule, refine_iterations)
            union |= masks(logits)
            scores.append(prompt_scores)
            progress(1 + refine_iterations)
        return union.float(), torch.stack(scores).amin(0)


def sam_weights(weights: dict[str, Tensor], file: str) -> dict[str, Tensor]:
    """The tensors of a SAM, without the prefix that a trainer or converter put before their names.

    Args:
        weights: Of a file, as from read_model.
        file: The name to use in messages.

    Raises:
        ValueError: The weights are those of another network.
    """
    weights = below(weights, MARK) or weights
    known = "image_encoder.patch_embed.seq.0.c.weight", "image_encoder.blocks.0.attn.rel_pos_h"
    if MARK in weights and any(key in weights for key in known):
        return dequantized(weights, file)
    other = any(re.match(r"(.*\.)?image_encoder\.", key) for key in weights)
    kind = sam_relative(weights) or ("a relative of SAM with another image encoder" if other else describe(weights))
    raise ValueError(f"'{file}' holds {kind}. {NEEDED}")


# The SAMs in use, by their file as it was and their precision, so that Load SAM and the live mask share one. ComfyUI
# has no place for this: its list of loaded models drops a SAM that it unloads, which the graph still holds, and its
# cache of outputs is the executor's own. The dictionary keeps nothing alive.
_in_use: WeakValueDictionary[tuple, SAM] = WeakValueDictionary()
_loading = Lock()


def identity(path: str | Path, precision: str) -> tuple:
    """What makes two calls of `load` return the same SAM. A replaced file is another one."""
    return str(path), versions(path), precision


def load(path: str | Path, precision: str = "auto") -> SAM:
    """The SAM in a file, or in several, of any form that read_state_dict knows. Its tensors tell the kind of SAM.

    While a SAM is in use, every call with its file and precision returns that SAM.

    Raises:
        ValueError: The file cannot be read, or holds no SAM.
    """
    path = Path(path)
    with _loading:
        key = identity(path, precision)
        if (sam := _in_use.get(key)) is None:
            sam = _in_use[key] = SAM(sam_weights(read_model(path), path.name), path.name, precision)
        return sam
