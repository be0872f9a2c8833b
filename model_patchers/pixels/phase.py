"""The shift between two pictures of which parts are masked.

Padfield, "Masked object registration in the Fourier domain", TIP 21, 2012: normalised cross-correlation over the
pixels that both show, for every whole shift at once.
"""

import numpy as np
from scipy import fft


def shift(
    reference: np.ndarray, moving: np.ndarray, reference_known: np.ndarray, moving_known: np.ndarray, overlap: float
) -> tuple[int, int]:
    """(x, y) by which a point of `reference` is displaced in `moving`, in whole pixels.

    Args:
        reference, moving: (H, W), of one size.
        reference_known, moving_known: bool (H, W), False on pixels that do not count.
        overlap: Share of the largest overlap of known pixels that a shift must have, 0 ... 1.
    """
    height, width = reference.shape
    size = [fft.next_fast_len(2 * side - 1, real=True) for side in (height, width)]

    def spectrum(x: np.ndarray) -> np.ndarray:
        return fft.rfft2(x, size)

    def correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:  # sum over p of a(p) b(p + shift)
        return fft.irfft2(np.conj(a) * b, size)

    m1, m2 = reference_known.astype(float), moving_known.astype(float)
    f1, f2 = reference * m1, moving * m2
    fm1, fm2, ff1, ff2 = (spectrum(x) for x in (m1, m2, f1, f2))
    count = np.maximum(np.rint(correlation(fm1, fm2)), np.finfo(float).eps)  # Padfield's eqs 11 to 17 from here on
    sum1, sum2 = correlation(ff1, fm2), correlation(fm1, ff2)
    variance1 = np.maximum(correlation(spectrum(f1 * f1), fm2) - sum1**2 / count, 0)
    variance2 = np.maximum(correlation(fm1, spectrum(f2 * f2)) - sum2**2 / count, 0)
    spread = np.sqrt(variance1 * variance2)
    tolerance = 1e3 * np.finfo(float).eps * np.abs(spread).max()
    numerator = correlation(ff1, ff2) - sum1 * sum2 / count
    likeness = np.divide(numerator, spread, out=np.zeros(numerator.shape), where=spread > tolerance).clip(-1, 1)
    likeness[count < overlap * count.max()] = 0
    y, x = np.unravel_index(likeness.argmax(), likeness.shape)
    return int(x if x < width else x - size[1]), int(y if y < height else y - size[0])
