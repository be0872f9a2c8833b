"""A mask between key frames: at them, moved, resized, turned into another shape."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from pentimento.model_patchers.segment.moved_mask import MovedMask

SIZE = 60, 90


def disc(x, y, radius):
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    return torch.from_numpy(np.hypot(columns - x, rows - y) <= radius)


def moved(masks, n=9):
    return torch.stack([distances > 0 for distances in MovedMask(masks, n)])


def test_key_frames_are_as_they_were_drawn_and_hold_before_and_after(rng):
    first, last = torch.rand(*SIZE, generator=rng) > 0.7, torch.rand(*SIZE, generator=rng) > 0.4
    masks = moved({2: first, 6: last})
    assert all(mask.equal(first) for mask in masks[:3])
    assert all(mask.equal(last) for mask in masks[6:])


def test_a_moved_shape_moves_evenly():
    shape = disc(20, 20, 9) & ~disc(22, 18, 4)
    masks = moved({0: shape, 8: shape.roll((16, 32), (0, 1))})
    assert all(mask.equal(shape.roll((2 * t, 4 * t), (0, 1))) for t, mask in enumerate(masks))


def test_a_shape_that_grows_does_so_evenly():
    """Between discs of 6 and 18 pixels: discs of 9, 12 and 15, but for pixels on the border."""
    masks = moved({0: disc(45, 30, 6), 4: disc(45, 30, 18)}, 5)
    for mask, radius in zip(masks, (6, 9, 12, 15, 18), strict=True):
        assert not (mask & ~disc(45, 30, radius + 0.75)).any()
        assert not (disc(45, 30, radius - 0.75) & ~mask).any()


def test_distances_of_equal_boxes_are_mixed():
    """Raya and Udupa's own rule, with SciPy's distances on the whole picture."""
    square, cross = torch.zeros(2, *SIZE, dtype=torch.bool)
    square[20:41, 30:51], cross[28:33, 30:51], cross[20:41, 38:43] = True, True, True

    def signed(mask):
        inside, outside = (ndimage.distance_transform_edt(part) for part in (mask, ~mask))
        return np.where(mask, inside - 0.5, 0.5 - outside)

    reference = 0.75 * signed(square.numpy()) + 0.25 * signed(cross.numpy()) > 0
    (_, quarter, *_) = moved({0: square, 4: cross}, 5)
    assert np.array_equal(quarter.numpy(), reference)
    assert not np.array_equal(square.numpy(), reference)  # without mixing it jumps


@pytest.mark.parametrize("pixel", [(0, 0), (59, 89)])
def test_a_single_pixel_at_the_border_reaches_the_middle(pixel):
    point, centre = torch.zeros(2, *SIZE, dtype=torch.bool)
    point[pixel], centre[30, 45] = True, True
    masks = moved({0: point, 8: centre})
    assert masks.flatten(1).any(1).all()


def test_a_small_shape_counts_as_much_as_a_large_one():
    """Half-way from a square to a cross the shape is the same, whichever of the two is the larger one."""

    def square(half):
        mask = torch.zeros(SIZE, dtype=torch.bool)
        mask[30 - half : 30 + half, 45 - half : 45 + half] = True
        return mask

    def cross(half):
        arm, mask = half // 3, torch.zeros(SIZE, dtype=torch.bool)
        mask[30 - half : 30 + half, 45 - arm : 45 + arm] = mask[30 - arm : 30 + arm, 45 - half : 45 + half] = True
        return mask

    one, other = (moved(keys, 3)[1] for keys in ({0: square(6), 2: cross(24)}, {0: square(24), 2: cross(6)}))
    assert (one & other).sum() > 0.95 * (one | other).sum()
