"""Makes sttn.npz by running STTN's own network, and Inpaint-Anything's loop around it, on seeded random weights.

    python tests/golden/make_sttn.py INPAINT_ANYTHING

with the checkout of github.com/geekyutao/Inpaint-Anything (3879750, Apache-2.0), which holds the network of
github.com/researchmm/STTN (f39f62c, MIT) unchanged, in an environment with torchvision, OpenCV and imageio. The network
has the real one's patches and kinds of layers, fewer channels and two blocks. Weights and frames are made anew in the
tests. The loop's frames are kept inside the holes, and of its unrounded frames every 16th pixel.
"""

import json
import sys
import zlib
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent
LENGTH, HEIGHT, WIDTH = 23, 66, 110  # of the clip
CHANNELS = (4, 4, 8, 16)  # of the encoder's layers; the real one has 64, 64, 128 and 256
BLOCKS = 2
PATCHES = [(108, 60), (36, 20), (18, 10), (9, 5)]
SCALE, SHIFT = 3.0, (0, 5, 9)  # of the weights; frames of the net's test


def weights(shapes: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    """Random weights, each from its name alone. Queries and keys are large, so that the attention is not even."""
    return {name: torch.from_numpy(_values(name, tuple(shape))) for name, shape in shapes.items()}


def _values(name: str, shape: tuple[int, ...]) -> np.ndarray:
    noise = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape, dtype=np.float32)
    if len(shape) == 1:
        return noise / 8
    spread = SCALE if "query" in name or "key" in name else 0.7 if "transformer" in name else 1.2
    return noise * np.float32(spread / np.sqrt(np.prod(shape[1:])))


def clip() -> tuple[np.ndarray, np.ndarray]:
    """Frames, uint8 (LENGTH, HEIGHT, WIDTH, 3), of a texture that moves, and the masks of a thing, bool."""
    rng = np.random.default_rng(0)
    coarse, fine = rng.integers(0, 200, (20, 30, 3)), rng.integers(0, 56, (140, 210, 3))
    texture = (np.kron(coarse, np.ones((7, 7, 1), dtype=int)) + fine).astype(np.uint8)
    frames = np.stack([texture[t : t + HEIGHT, 2 * t : 2 * t + WIDTH] for t in range(LENGTH)])
    masks = np.zeros((LENGTH, HEIGHT, WIDTH), dtype=bool)
    for t in range(LENGTH):
        masks[t, 20 + t // 2 : 45, 30 + t : 60 + t] = True
    masks[12] = False
    frames[masks] = 255
    return frames, masks


def network(module):
    """The original's network with fewer channels: `module` is its model/sttn.py."""
    a, b, c, d = CHANNELS
    lrelu = lambda: torch.nn.LeakyReLU(0.2, inplace=True)  # noqa: E731
    conv = torch.nn.Conv2d
    net = module.InpaintGenerator(init_weights=False)
    net.transformer = torch.nn.Sequential(*(module.TransformerBlock(PATCHES, hidden=d) for _ in range(BLOCKS)))
    net.encoder = torch.nn.Sequential(
        *(conv(3, a, 3, 2, 1), lrelu(), conv(a, b, 3, 1, 1), lrelu()),
        *(conv(b, c, 3, 2, 1), lrelu(), conv(c, d, 3, 1, 1), lrelu()),
    )
    net.decoder = torch.nn.Sequential(
        *(module.deconv(d, c, 3, 1), lrelu(), conv(c, b, 3, 1, 1), lrelu()),
        *(module.deconv(b, a, 3, 1), lrelu(), conv(a, 3, 3, 1, 1)),
    )
    return net.eval()


def main(checkout: str) -> None:
    sys.path[:0] = [checkout, f"{checkout}/sttn"]
    import model.sttn as original
    import sttn_video_inpaint as seed
    from PIL import Image

    net = network(original)
    shapes = {name: list(value.shape) for name, value in net.state_dict().items()}
    net.load_state_dict(weights(shapes))
    frames, masks = clip()
    pictures = [Image.fromarray(frame) for frame in frames]
    holes = [Image.fromarray(np.uint8(mask) * 255) for mask in masks]
    out = {"shapes": np.array(json.dumps(shapes))}

    small = np.stack([np.array(pictures[t].resize((432, 240))) for t in SHIFT])
    small_holes = np.stack([np.array(holes[t].resize((432, 240), Image.NEAREST)) for t in SHIFT])
    x = torch.from_numpy(small).permute(0, 3, 1, 2).float() / 255 * 2 - 1
    m = torch.from_numpy(small_holes)[:, None].float() / 255
    with torch.inference_mode():
        features = net.encoder(x * (1 - m))
        mixed = net.infer(features, m)
        out["features"] = features[:, :, ::6, ::6].numpy()
        out["mixed"] = mixed[:, :, ::6, ::6].numpy()
        out["pictures"] = torch.tanh(net.decoder(mixed))[:, :, ::12, ::12].numpy()

    unrounded = []
    to_uint8 = np.uint8

    class Spy:  # the loop truncates `comp_frames[idx]` by np.uint8: the only floats that it gives to it
        def __getattr__(self, name):
            return getattr(np, name)

        @staticmethod
        def uint8(x):
            if isinstance(x, np.ndarray) and x.dtype.kind == "f":
                unrounded.append(x[::16, ::16].astype(np.float32))
            return to_uint8(x)

    seed.np = Spy()
    filled = seed.inpaint_video_with_builded_sttn(net, pictures, holes, device="cpu")
    filled = np.stack([np.array(frame) for frame in filled])
    assert np.array_equal(filled[~masks], frames[~masks]) and len(unrounded) == LENGTH
    out["unrounded"], out["filled"] = np.stack(unrounded), filled[masks]
    np.savez_compressed(HERE / "sttn.npz", **out)


if __name__ == "__main__":
    main(sys.argv[1])
