"""What SAM 2 remembers of an object from frame to frame. Ravi et al. 2024, "SAM 2: Segment Anything in Images and
Videos", section 4, "Memory bank".

Of all key frames and of the 6 frames before, their memory; and of up to 15 frames before, a pointer each, which
says what the object is.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from .sam2_network import KEY, Network

MOST_POINTERS = 16  # of the frames before, and one more: `max_obj_ptrs_in_encoder`


def before(frame: int, step: int, most: int) -> range:
    """The frames that were looked at before a frame, the nearest first: step 1 for forwards, -1 for backwards."""
    return range(frame - step, frame - step * (most + 1), -step)


@dataclass
class Bank:
    """What is remembered of one object in a clip.

    Attributes:
        frames: The number of frames in the clip.
        keys: {key frame: its memory (1, C', grid, grid), the pointer (1, C)}.
        seen: {other frame: its memory}.
        pointers: {other frame: the pointer}.
    """

    frames: int
    keys: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    seen: dict[int, Tensor] = field(default_factory=dict)
    pointers: dict[int, Tensor] = field(default_factory=dict)

    @property
    def most(self) -> int:
        return min(self.frames, MOST_POINTERS)

    def read(self, network: Network, frame: int, step: int) -> tuple[Tensor, Tensor, int]:
        """The arguments of `Network.attend` after the features, for a frame that is no key frame.

        In this order: all key frames, the frames before (the oldest first), the pointers of the key frames that are
        not after this frame, and those of the frames before (the nearest first).
        """
        tokens = [network.frame_tokens(memory, KEY) for memory, _ in self.keys.values()]
        for age, other in reversed(list(enumerate(before(frame, step, network.ages)))):
            if other in self.seen:
                tokens.append(network.frame_tokens(self.seen[other], age))
        pointers = self.pointers_of(frame, step)
        values = torch.cat(list(pointers.values()))
        distances = torch.tensor([(frame - other) * step / (self.most - 1) for other in pointers], device=values.device)
        tokens.append(network.pointer_tokens(values, distances))
        memory, places = (torch.cat(each, dim=1) for each in zip(*tokens, strict=True))
        return memory, places, tokens[-1][0].shape[1]

    def pointers_of(self, frame: int, step: int) -> dict[int, Tensor]:
        """{frame: pointer} of those that are read for a frame, in the order of `read`."""
        pointers = {key: pointer for key, (_, pointer) in self.keys.items() if (frame - key) * step >= 0}
        others = before(frame, step, self.most - 1)
        return pointers | {other: self.pointers[other] for other in others if other in self.pointers}

    def keep(self, network: Network, *next_frames: tuple[int, int]) -> None:
        """Forgets what none of these frames reads. Each is (frame, step), and stands for those that come after it."""
        for store, most in ((self.seen, network.ages), (self.pointers, self.most - 1)):
            read = {other for frame, step in next_frames for other in before(frame, step, most)}
            for frame in store.keys() - read:
                del store[frame]
