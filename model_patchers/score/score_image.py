"""Scores of pictures, each against a reference or by itself.

All are for values from 0 to 1. SSIM is kornia's, that of Wang et al. 2004, "Image Quality Assessment: From Error
Visibility to Structural Similarity", with its Gaussian window of 11 pixels and sigma 1.5, over the places where the
window lies within the picture. Sharpness is the variance of the Laplacian of Pech-Pacheco et al.
2000, "Diatom Autofocusing in Brightfield Microscopy: A Comparative Study", in the usual scale of grey levels 0 to 255.
"""

from collections.abc import Callable, Iterator
from statistics import fmean

from torch import Tensor
from torch.nn import functional as F

from ..comfyui.progress import ignore
from ..pixels.images import luma, to_rgb
from .lpips import LPIPS

WINDOW = 11  # of SSIM, in pixels
MOST_PSNR = 100.0  # in dB; that of equal pictures would be infinite
LAPLACIAN = ((0.0, 1.0, 0.0), (1.0, -4.0, 1.0), (0.0, 1.0, 0.0))
WORDS = {"psnr": "PSNR {:.2f} dB", "ssim": "SSIM {:.4f}", "lpips": "LPIPS {:.4f}", "sharpness": "sharpness {:.1f}"}

Scores = dict[str, list[float]]
"""{name of the score: its value for each picture}; names as in WORDS."""


def psnr(image: Tensor, reference: Tensor) -> float:
    """10 log10(1 / MSE) in dB, 100 at most, of two pictures (H, W, C) in 0 ... 1."""
    return min(float(-10 * (image - reference).square().mean().log10()), MOST_PSNR)


def ssim(image: Tensor, reference: Tensor) -> float:
    """Equation 13 of Wang et al., the mean over places and channels, of two pictures (H, W, C) in 0 ... 1."""
    from kornia.metrics import ssim

    x, y = (picture.movedim(-1, 0)[None].contiguous() for picture in (image, reference))
    return float(ssim(x, y, WINDOW, max_val=1.0, eps=0.0, padding="valid").mean())


def sharpness(image: Tensor) -> float:
    """The variance of the Laplacian of the luma in 0 ... 255, with mirrored borders, of a picture (H, W, C)."""
    grey = F.pad(255 * luma(image)[None, None], (1, 1, 1, 1), mode="reflect")
    return float(F.conv2d(grey, grey.new_tensor(LAPLACIAN)[None, None]).var(correction=0))


def score(
    image: Tensor,
    reference: Tensor | None = None,
    network: LPIPS | None = None,
    progress: Callable[[int], None] = ignore,
) -> Scores:
    """The scores of pictures, one after the other.

    Args:
        image: (B, H, W, C). Colours are compared, clamped to 0 ... 1, and alpha is not read.
        reference: (1, H, W, C) for all pictures, or (B, H, W, C); without it sharpness alone has a score.
        network: Without it there is no LPIPS.
        progress: Called once for each picture.

    Raises:
        ValueError: The pictures are too small, or the reference has another size or count.
    """
    _check(image, reference)
    scores: Scores = {}
    for number in range(len(image)):
        picture = to_rgb(image[number : number + 1]).clamp(0, 1)
        other = None if reference is None else to_rgb(reference[number % len(reference)][None]).clamp(0, 1)
        for name, value in _scores(picture, other, network):
            scores.setdefault(name, []).append(value)
        progress(1)
    return scores


def _scores(image: Tensor, reference: Tensor | None, network: LPIPS | None) -> Iterator[tuple[str, float]]:
    if reference is not None:
        yield "psnr", psnr(image[0], reference[0])
        yield "ssim", ssim(image[0], reference[0])
        if network:
            yield "lpips", float(network.distance(image, reference))
    yield "sharpness", sharpness(image[0])


def _check(image: Tensor, reference: Tensor | None) -> None:
    height, width = image.shape[1:3]
    if min(height, width) < WINDOW:
        raise ValueError(f"image is {width} x {height} pixels, and scores need at least {WINDOW} x {WINDOW}.")
    if reference is None:
        return
    if reference.shape[1:3] != image.shape[1:3]:
        raise ValueError(
            f"image is {width} x {height} pixels and reference {reference.shape[2]} x {reference.shape[1]}. Scores "
            "compare pixel with pixel: give both one size, by Resize Image/Mask or a crop."
        )
    if len(reference) not in (1, len(image)):
        raise ValueError(
            f"image is a batch of {len(image)} and reference a batch of {len(reference)}. Connect one reference for "
            "all pictures, or one for each."
        )


def means(scores: Scores) -> dict[str, float]:
    """The mean of each score over the pictures."""
    return {name: fmean(values) for name, values in scores.items()}


def report(scores: Scores) -> str:
    """The scores in words: their means, and with several pictures a line for each."""
    names = [name for name in WORDS if name in scores]
    rows = [[scores[name][number] for name in names] for number in range(len(scores["sharpness"]))]
    lines = [", ".join(WORDS[name].format(value) for name, value in zip(names, row, strict=True)) for row in rows]
    if len(lines) == 1:
        return lines[0]
    mean = ", ".join(WORDS[name].format(value) for name, value in means(scores).items())
    return "\n".join([f"Mean: {mean}", *(f"{number}: {line}" for number, line in enumerate(lines, 1))])
