"""Progress bars that also stop a run when the user interrupts it. Long functions take one as `progress`."""

from collections.abc import Callable

import comfy.utils
import latent_preview
from comfy import model_management
from comfy.model_patcher import ModelPatcher
from torch import Tensor
from torch.nn import functional as F


class Progress:
    """Call it after every step of a long loop: it moves the node's bar and raises if the user interrupted the run."""

    def __init__(self, total: int) -> None:
        self.bar = comfy.utils.ProgressBar(total)

    def __call__(self, steps: int = 1) -> None:
        model_management.throw_exception_if_processing_interrupted()
        self.bar.update(steps)


def ignore(steps: float = 1) -> None:
    """A `progress` for callers without a bar."""


class Shares:
    """Call it with a share of the work, such as 0.01: it moves a bar of whole steps by that share.

    Args:
        progress: The bar, which counts steps.
        steps: The bar's steps for all shares together, which add up to 1.
    """

    def __init__(self, progress: Callable[[int], None], steps: int) -> None:
        self.progress, self.steps, self.done = progress, steps, 0.0

    def __call__(self, share: float) -> None:
        before, self.done = self.done, self.done + share
        self.progress(round(self.steps * self.done) - round(self.steps * before))


class Preview:
    """A bar for several runs of a sampler, which moves by the work of each step, with previews.

    Args:
        model: The model that samples.
        total: The work of all runs.
        size: (H, W) of the largest latent to decode for a preview. Every step has a preview.
    """

    def __init__(self, model: ModelPatcher, total: int, size: tuple[int, int]) -> None:
        self.previewer = latent_preview.get_previewer(model.load_device, model.model.latent_format)
        self.bar, self.done, self.size = comfy.utils.ProgressBar(total), 0, size

    def run(self, work: list[int]) -> Callable[[int, Tensor, Tensor, int], None]:
        """A sampler's callback for the next run.

        Args:
            work: Of each step.
        """
        before = self.done
        self.done += sum(work)

        def report(step: int, x0: Tensor, x: Tensor, total_steps: int) -> None:
            model_management.throw_exception_if_processing_interrupted()
            self.bar.update_absolute(before + sum(work[: step + 1]), preview=self.picture(x0))

        return report

    def picture(self, x0: Tensor) -> tuple | None:
        """The first latent of a batch as a preview, in ComfyUI's form."""
        if self.previewer is None:
            return None
        latent = x0[:1]
        if latent.shape[-2:] != self.size:
            planes = F.interpolate(latent.reshape(-1, 1, *latent.shape[-2:]), size=self.size, mode="area")
            latent = planes.reshape(*latent.shape[:-2], *self.size)
        return self.previewer.decode_latent_to_preview_image("JPEG", latent)
