"""SAM Segment Everything against segment-anything's generator: all that is done besides running the network.

Both get the same made-up answers in the network's place, since those of random weights are all alike: three nested
blobs around every point, of all sizes, two in five of them trusted. Making them up is not timed. The masks are equal
(tests/segment/test_sam_everything.py). segment-anything enlarges every answer to the picture before it looks at its
score.
"""

import time
from types import SimpleNamespace

import _pack
import numpy as np
import torch

FRAME, CELLS = 1024, 256
POINTS = 16  # per side: a quarter of the default, as segment-anything takes a minute for that
PICTURES = (683, 1024), (1365, 2048)  # height, width


def run() -> list[dict]:
    return [
        _pack.compare(
            __file__,
            title=f"SAM Segment Everything without the network, {width} x {height}, {POINTS} x {POINTS} points",
            peer="segment-anything 1.0",
            note="to binary masks in memory",
            arguments=(height, width),
        )
        for height, width in PICTURES
    ]


class Answers:
    """Logits and scores of the decoder's four masks for each point, and the seconds that it took to make them up."""

    def __init__(self) -> None:
        self.random, self.seconds = torch.Generator().manual_seed(0), 0.0
        middle = torch.arange(CELLS) * (FRAME / CELLS) + FRAME / CELLS / 2
        self.y, self.x = torch.meshgrid(middle, middle, indexing="ij")

    def __call__(self, coords: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(P, 2) in pixels of the frame -> (P, 4, CELLS, CELLS) and (P, 4)"""
        start = time.perf_counter()
        x, y = coords.float().T[..., None, None]
        distance = ((self.x - x) ** 2 + (self.y - y) ** 2).sqrt()
        radius = (8 * 50 ** torch.rand(len(coords), 4, generator=self.random)).sort(1).values  # 8 to 400 pixels
        logits = (radius[..., None, None] - distance[:, None]) * 0.7
        scores = 0.8 + 0.133 * torch.rand(len(coords), 4, generator=self.random)
        self.seconds += time.perf_counter() - start
        return logits, scores


def ours(picture: np.ndarray, points: int, answers: Answers) -> object:
    _pack.load()
    from pentimento.model_patchers.segment import sam_everything

    sam = SimpleNamespace(
        frame=FRAME,
        grid=CELLS // 4,
        device=torch.device("cpu"),
        embed=lambda levels, progress: None,
        decode=lambda embedding, prompts: answers(prompts.coords[:, 0]),
    )
    settings = sam_everything.Settings(points)

    def work() -> object:
        segments = sam_everything.segment_picture(sam, picture, settings, lambda steps: None)
        return sam_everything.masks_of(segments, *picture.shape[:2])

    return work


def theirs(picture: np.ndarray, points: int, answers: Answers) -> object:
    from segment_anything import SamAutomaticMaskGenerator, sam_model_registry

    with torch.device("meta"):
        model = sam_model_registry["vit_b"]()
    generator = SamAutomaticMaskGenerator(model, points_per_side=points)
    predictor = generator.predictor
    scale = FRAME / max(picture.shape)

    def set_image(picture: np.ndarray) -> None:
        predictor.original_size = picture.shape[:2]
        predictor.input_size = tuple(int(side * scale + 0.5) for side in picture.shape[:2])

    def predict_torch(coords: torch.Tensor, *args: object, **kwargs: object) -> tuple[torch.Tensor, ...]:
        logits, scores = (values[:, 1:] for values in answers(coords[:, 0]))  # those to an ambiguous prompt
        return model.postprocess_masks(logits, predictor.input_size, predictor.original_size), scores, logits

    predictor.set_image, predictor.predict_torch = set_image, predict_torch
    return lambda: generator.generate(picture)


def main(name: str, height: int, width: int) -> dict:
    answers, picture = Answers(), np.zeros((height, width, 3), dtype=np.uint8)
    side = ours if name == "ours" else theirs
    with torch.inference_mode():
        side(picture[:90, :120], 4, answers)()  # threads and caches
        work = side(picture, POINTS, answers)
        answers.seconds = 0.0
        figures = _pack.measure(work)
    return figures | {"seconds": figures["seconds"] - answers.seconds}
