"""Makes ella.npz by running ELLA's own connector on seeded random weights.

    python tests/golden/make_ella.py ELLA

with the checkout of github.com/TencentQQGYLab/ELLA (3c228f1, Apache-2.0), in an environment with diffusers and
transformers. Weights and texts are made anew in the tests, so that the file holds outputs alone; of the connector at
its real size every 8th token and every 16th channel are kept.
"""

import json
import sys
import zlib
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent
TINY = {
    "time_channel": 20,
    "time_embed_dim": 56,
    "width": 48,
    "layers": 2,
    "heads": 4,
    "num_latents": 8,
    "input_dim": 32,
}
SIZES = {"tiny": (TINY, (1, 1, 1)), "full": ({}, (1, 8, 16))}  # its arguments, and the steps of the cells kept
TIMESTEPS, LENGTHS = (0.0, 1.0, 12.5, 499.0, 999.0), (1, 5, 128)


def weights(shapes: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    """Random weights of a sane size, each from its name alone; none is zero, as the modulations are before training."""
    return {name: torch.from_numpy(_values(name, shape)) for name, shape in shapes.items()}


def _values(name: str, shape: list[int]) -> np.ndarray:
    noise = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape, dtype=np.float32)
    return noise / np.float32(np.sqrt(2 * shape[-1])) if name.endswith("weight") else noise / 4


def text(batch: int, length: int, width: int) -> torch.Tensor:
    """T5's features, float32 (batch, length, width)."""
    seed = 1000 * batch + length
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((batch, length, width), dtype=np.float32))


def cases(size: str) -> dict[str, tuple[int, int, tuple[float, ...]]]:
    """{name: (batch, length, timesteps)}, with one timestep for all or one for each."""
    each = {f"3x{n}@each": (3, n, (0.0, 12.5, 999.0)) for n in LENGTHS}
    if size == "full":
        return each | {"1x5@1.0": (1, 5, (1.0,)), "1x128@499.0": (1, 128, (499.0,))}
    return each | {f"{b}x{n}@{t}": (b, n, (t,)) for t in TIMESTEPS for n in LENGTHS for b in (1, 3)}


def main(checkout: str) -> None:
    sys.path.insert(0, checkout)
    from model import ELLA

    found = {}
    for size, (arguments, steps) in SIZES.items():
        ella = ELLA(**arguments).eval()
        shapes = {name: list(value.shape) for name, value in ella.state_dict().items()}
        ella.load_state_dict(weights(shapes))
        found[f"{size} shapes"] = np.array(json.dumps(shapes))
        kept = tuple(slice(None, None, step) for step in steps)
        for name, (batch, length, t) in cases(size).items():
            with torch.inference_mode():
                out = ella(text(batch, length, shapes["connector.proj_in.weight"][1]), torch.tensor(t))
            found[f"{size} {name}"] = out[kept].numpy()
    np.savez_compressed(HERE / "ella.npz", **found)


if __name__ == "__main__":
    main(sys.argv[1])
