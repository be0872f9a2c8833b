"""The host's progress bar and the user's interrupt, as one callable."""

import comfy.utils
from comfy import model_management


class Progress:
    """Call it after every step of a long loop: it moves the node's bar and stops the run if the user asked to."""

    def __init__(self, total: int) -> None:
        self.bar = comfy.utils.ProgressBar(total)

    def __call__(self, steps: int = 1) -> None:
        model_management.throw_exception_if_processing_interrupted()
        self.bar.update(steps)
