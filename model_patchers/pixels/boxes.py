"""Rectangles in pixels."""

from typing import NamedTuple


class Box(NamedTuple):
    """A half-open rectangle with the fields of ComfyUI's BOUNDING_BOX."""

    x: int
    y: int
    width: int
    height: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """The rows and columns of the box, to index (..., H, W)."""
        return slice(self.y, self.y + self.height), slice(self.x, self.x + self.width)

    @property
    def whole(self) -> "Box":
        """The pixels of a box with fractions: from the pixel of its first edge up to that of its last, left out.

        Crop By Bounding Boxes of ComfyUI takes the same pixels of a box inside the picture. A box that lies inside one
        pixel has that pixel.
        """
        x, y = int(self.x), int(self.y)
        right, bottom = int(self.x + self.width), int(self.y + self.height)
        return Box(x, y, max(right - x, 1), max(bottom - y, 1))

    def expand(self, margin: int, size: tuple[int, int]) -> "Box":
        """Grown by `margin` on every side, and cut at the borders of a picture.

        Args:
            size: (height, width) of the picture.
        """
        x, y = max(self.x - margin, 0), max(self.y - margin, 0)
        right, bottom = min(self.x + self.width + margin, size[1]), min(self.y + self.height + margin, size[0])
        return Box(x, y, right - x, bottom - y)
