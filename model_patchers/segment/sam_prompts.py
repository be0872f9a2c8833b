"""SAM's prompts, and the choice among its masks."""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..arch.sam_decoder import BOTTOM_RIGHT, NEGATIVE, NOTHING, POSITIVE, TOP_LEFT, Prompts
from ..comfyui.points import Point
from ..pixels.boxes import Box
from .sam_frame import frame_size

CHOICES = ["auto", "best", "1", "2", "3", "all", "previous"]
NOTHING_DETECTED = (
    "bboxes has no box and positive_coords has no point, so there is nothing to segment by. Click on the object in "
    "Pick Points. Where the boxes come from a detector, it detected nothing: lower its threshold."
)


def split_prompts(positive: list[Point], boxes: list[Box]) -> list[tuple[list[Point], Box | None]]:
    """The prompts of one picture, each of positive points and a box; the union of their masks is its mask.

    The decoder takes one box at a time. Each of several boxes makes a prompt with the points inside it, and the points
    outside all boxes make one more.
    """
    if len(boxes) < 2:
        return [(positive, boxes[0] if boxes else None)]
    prompts = [([point for point in positive if _holds(box, point)], box) for box in boxes]
    outside = [point for point in positive if not any(_holds(box, point) for box in boxes)]
    return [*prompts, (outside, None)] if outside else prompts


def _holds(box: Box, point: Point) -> bool:
    return box.x <= point[0] <= box.x + box.width and box.y <= point[1] <= box.y + box.height


def prompt_tokens(
    positive: list[Point], negative: list[Point], box: Box | None, height: int, width: int, frame: int
) -> tuple[Tensor, Tensor]:
    """One prompt in pixels of the frame: coordinates (1, N, 2) and labels (1, N), in segment-anything's order.

    A token of the label NOTHING follows points without a box. A prompt of a mask alone has no tokens.
    """
    points, labels = [*positive, *negative], [POSITIVE] * len(positive) + [NEGATIVE] * len(negative)
    if box is not None:
        points += [(box.x, box.y), (box.x + box.width, box.y + box.height)]
        labels += [TOP_LEFT, BOTTOM_RIGHT]
    rows, columns = frame_size(height, width, frame)
    scale = np.array([columns / width, rows / height])
    coords = torch.from_numpy((np.array(points).reshape(-1, 2) * scale).astype(np.float32))
    if points and box is None:
        coords, labels = F.pad(coords, (0, 0, 0, 1)), [*labels, NOTHING]
    return coords[None], torch.tensor([labels], dtype=torch.long)


def choose(scores: Tensor, tokens: int, choice: str) -> Tensor:
    """The indices of the decoder's masks to return: (P, 1), for the choice "all" (P, 3).

    Args:
        scores: (P, masks). Mask 0 is the answer to an unambiguous prompt, the other three answer an ambiguous one.
        tokens: The number of tokens in a prompt, NOTHING included.
        choice: One of CHOICES. "auto" is `select_masks` of segment-anything's ONNX model: the best of the three for up
            to two tokens (a click, or a box), mask 0 for more. "best" is the best of the three. "all" is all three.
            "previous" is the best of the three where there is no previous picture.
    """
    if choice == "all":
        return torch.arange(1, scores.shape[1], device=scores.device).expand(len(scores), -1)
    if choice in ("1", "2", "3"):
        return scores.new_full((len(scores), 1), int(choice), dtype=torch.long)
    single = 1000 * (tokens - 2.5) if choice == "auto" else -torch.inf  # added to the score of mask 0, as there
    bonus = torch.tensor([single] + [0.0] * (scores.shape[1] - 1), device=scores.device)
    return (scores + bonus).argmax(1, keepdim=True)


def nearest(masks: Tensor, previous: Tensor) -> Tensor:
    """The index of the mask with the least mean squared difference to another: (1, 1).

    Remove Anything Video's rule for which of SAM's masks is the object of the picture before.

    Args:
        masks: bool (masks, H, W). Mask 0, the answer to an unambiguous prompt, does not count.
        previous: bool (H, W).
    """
    return 1 + (masks[1:] ^ previous).flatten(1).sum(1).argmin().view(1, 1)


def answer(
    decode: Callable[[Prompts], tuple[Tensor, Tensor]],
    prompt: Prompts,
    choice: str | Callable[[Tensor], Tensor],
    refine_iterations: int,
) -> tuple[Tensor, Tensor]:
    """The chosen masks of one prompt, each fed back `refine_iterations` times as the mask of the same prompt.

    Args:
        decode: P prompts -> logits (P, masks, h, w) and scores (P, masks).
        prompt: P = 1.
        choice: As for `choose`, in every pass; or what takes logits (masks, h, w) and gives the index, (1, 1).

    Returns:
        Logits (k, h, w) and scores (k,), k = 3 for the choice "all", else 1.
    """
    tokens = prompt.labels.shape[1]

    def chosen_of(logits: Tensor, scores: Tensor) -> Tensor:
        return choice(logits[0]) if callable(choice) else choose(scores, tokens, choice)

    logits, scores = decode(prompt)
    chosen = chosen_of(logits, scores)[0]  # (k,)
    logits, scores = logits[0], scores[0]
    logits, scores, k = logits[chosen], scores[chosen], len(chosen)
    rows = torch.arange(k, device=chosen.device)
    for _ in range(refine_iterations):
        coords, labels = prompt.coords.expand(k, -1, -1), prompt.labels.expand(k, -1)
        logits, scores = decode(Prompts(coords, labels, logits[:, None]))
        if choice != "all":
            chosen = chosen_of(logits, scores)[:, 0]
        logits, scores = logits[rows, chosen], scores[rows, chosen]
    return logits, scores
