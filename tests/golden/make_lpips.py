"""Makes lpips.npz with the authors' LPIPS 0.1: distances of pictures by AlexNet and VGG-16 of seeded random weights.

    python tests/golden/make_lpips.py

in an environment with lpips 0.1.4 and torchvision. lpips (BSD-2) is github.com/richzhang/PerceptualSimilarity.

Per backbone ("alex", "vgg") and case: `alex_0` is (B, 1 + taps), the distance of each pair and its parts at each tap.
`alex_unscaled` are those of case 0 with pictures in 0 ... 1 instead of -1 ... 1.
"""

from pathlib import Path

import numpy as np

CASES = ((2, 64, 64), (1, 35, 83), (1, 97, 64))  # pairs, height, width
ALEX = (  # names of torchvision's features: shapes of their weights
    {"0": (64, 3, 11, 11), "3": (192, 64, 5, 5), "6": (384, 192, 3, 3), "8": (256, 384, 3, 3), "10": (256, 256, 3, 3)}
)
WIDTHS = (3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
PLACES = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
VGG = {str(place): (WIDTHS[i + 1], WIDTHS[i], 3, 3) for i, place in enumerate(PLACES)}
SHAPES = {"alex": ALEX, "vgg": VGG}
CHANNELS = {"alex": (64, 192, 384, 256, 256), "vgg": (64, 128, 256, 512, 512)}
SLICES = {"alex": (0, 3, 6, 8, 10), "vgg": (0, 5, 10, 17, 24)}  # the first convolution of each of the authors' slices


def features(net: str) -> dict[str, np.ndarray]:
    """Weights of a backbone under torchvision's names, which keep the size of what passes through them."""
    rng = np.random.default_rng(1)
    weights = {}
    for place, shape in SHAPES[net].items():
        spread = (2 / np.prod(shape[1:])) ** 0.5
        weights[f"features.{place}.weight"] = spread * rng.standard_normal(shape, np.float32)
        weights[f"features.{place}.bias"] = 0.1 * rng.standard_normal(shape[0], np.float32)
    return weights


def linear(net: str) -> dict[str, np.ndarray]:
    """Linear layers under the names of the authors' files. Like theirs, they are not negative."""
    rng = np.random.default_rng(2)
    return {
        f"lin{number}.model.1.weight": rng.random((1, channels, 1, 1), np.float32)
        for number, channels in enumerate(CHANNELS[net])
    }


def whole(net: str) -> dict[str, np.ndarray]:
    """Both under the names of the authors' own state dict."""
    weights = linear(net)
    for name, value in features(net).items():
        _, place, part = name.split(".")
        number = sum(int(place) >= first for first in SLICES[net])
        weights[f"net.slice{number}.{place}.{part}"] = value
    return weights


def pairs(case: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures (B, H, W, 3) in 0 ... 1, and the same changed a little."""
    rng = np.random.default_rng(10 + case)
    b, h, w = CASES[case]
    coarse = rng.random((b, h // 8 + 1, w // 8 + 1, 3), np.float32)
    picture = np.kron(coarse, np.ones((1, 8, 8, 1), np.float32))[:, :h, :w]
    picture = (0.8 * picture + 0.2 * rng.random(picture.shape, np.float32)).astype(np.float32)
    return picture, (picture + 0.1 * rng.standard_normal(picture.shape, np.float32)).clip(0, 1).astype(np.float32)


def main() -> None:
    import lpips
    import torch

    results = {}
    for net in SHAPES:
        network = lpips.LPIPS(pretrained=False, net=net, pnet_rand=True, verbose=False)
        state = {name: torch.from_numpy(value) for name, value in whole(net).items()}
        missing, extra = network.load_state_dict(state, strict=False)
        assert not extra and all(name.startswith(("scaling_layer.", "lins.")) for name in missing), (missing, extra)

        def distances(case: int, normalize: bool = True, network: object = network) -> np.ndarray:
            with torch.no_grad():
                x, y = (torch.from_numpy(part).movedim(-1, 1) for part in pairs(case))
                total, parts = network(x, y, retPerLayer=True, normalize=normalize)
                return torch.cat([total, *parts], 1)[..., 0, 0].numpy()

        for case in range(len(CASES)):
            results[f"{net}_{case}"] = distances(case)
        results[f"{net}_unscaled"] = distances(0, normalize=False)
    np.savez_compressed(Path(__file__).with_name("lpips.npz"), **results)


if __name__ == "__main__":
    main()
