"""The frames of a clip and their masks, read a few at a time, so that a clip need not fit into memory."""

from typing import Protocol

from torch import Tensor

from ..pixels import masks


class Frames(Protocol):
    """Frames that are read in windows: `frames[a:b]` is float32 (n, H, W, 3), 0 ... 1."""

    height: int
    width: int

    def __len__(self) -> int: ...

    def __getitem__(self, window: slice) -> Tensor: ...


class Masks(Protocol):
    """One mask for each frame, made when it is read: `masks[a:b]` is float32 (n, H, W), 0 ... 1."""

    def __len__(self) -> int: ...

    def __getitem__(self, window: slice) -> Tensor: ...


class ImageFrames:
    """The pictures of an IMAGE batch (B, H, W, C) as frames: grey becomes RGB, alpha is left out."""

    def __init__(self, images: Tensor) -> None:
        self.images = images
        self.height, self.width = images.shape[1:3]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, window: slice) -> Tensor:
        images = self.images[window].float()
        return images.expand(*images.shape[:3], 3) if images.shape[-1] == 1 else images[..., :3]


class MaskBatch:
    """A MASK batch as masks of a clip: one mask for each frame, or one mask for all."""

    def __init__(self, mask: Tensor, frames: Frames) -> None:
        """Matches the masks with the frames, as `pixels.masks.pair` does.

        Raises:
            ValueError: There is neither one mask nor one for each frame, or the proportions differ.
        """
        if len(mask) not in (1, len(frames)):
            raise ValueError(
                f"mask is a batch of {len(mask)} but the clip has {len(frames)} frames. Connect one mask for all "
                "frames, or one for each."
            )
        blank = frames[:1]
        self.masks = masks.pair(blank.expand(len(mask), *blank.shape[1:]), mask)[1]
        self.frames = len(frames)

    def __len__(self) -> int:
        return self.frames

    def __getitem__(self, window: slice) -> Tensor:
        if len(self.masks) == self.frames:
            return self.masks[window]
        return self.masks.expand(len(range(*window.indices(self.frames))), -1, -1)
