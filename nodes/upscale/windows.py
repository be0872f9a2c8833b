"""Diffusion of any size in windows."""

from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io

from ...model_patchers.upscale import windows
from .. import inputs


class Windows(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoWindows",
            display_name="Windowed Diffusion",
            category="Pentimento/upscale",
            description="Lets a model draw pictures larger than it was trained for, in windows of the model's own size "
            "that are fused at every step. Masks, ControlNets, inpainting and LoRAs work as usual, and one window's "
            "memory is enough.",
            search_aliases=[
                "tiled diffusion",
                "multidiffusion",
                "mixture of diffusers",
                "spotdiffusion",
                "tiled ksampler",
                "large picture",
                "ultimate sd upscale",
                "sd upscale",
                "upscale",
                "hires fix",
            ],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The diffusion model, after its LoRAs and other patches. Any model that makes pictures "
                    "works.",
                ),
                io.Combo.Input(
                    "method",
                    options=list(windows.METHODS),
                    default="gaussian",
                    tooltip="How windows are fused. gaussian: the middle of a window counts most (Mixture of "
                    "Diffusers). average: all of a window counts the same (MultiDiffusion). spot: the fewest windows, "
                    "side by side and moved at random at each step, without overlap (SpotDiffusion).",
                ),
                inputs.window(
                    1024,
                    "The width and height of a window in pixels: the size that the model was trained for. 512 for SD "
                    "1.5, 1024 for SDXL. For SD x4, 512 pixels of the large picture.",
                ),
                inputs.overlap(
                    256,
                    "The minimum number of pixels that neighbouring windows share. A larger overlap hides window "
                    "borders better and takes longer. The method spot ignores it.",
                ),
                io.Boolean.Input(
                    "jitter",
                    default=False,
                    tooltip="Moves windows at random at each step, by up to a quarter of the overlap, so that no seam "
                    "stays in one place. Windows at the picture's border stay there. The method spot ignores it and "
                    "always moves.",
                ),
                inputs.seed(
                    "seed",
                    "The seed of the random window positions, for jitter and the method spot. The sampler has a seed "
                    "of its own.",
                ),
                io.Int.Input(
                    "batch",
                    default=0,
                    min=0,
                    max=64,
                    tooltip="How many windows the model computes at once; 0 = as many as memory allows, up to 16. "
                    "Transformers such as Flux always compute one at a time.",
                ),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="The model in windows, for any sampler.")],
        )

    @classmethod
    def validate_inputs(
        cls, method: str | None = None, window: int | None = None, overlap: int | None = None
    ) -> bool | str:
        if None in (window, overlap) or method == "spot" or overlap < window:  # None comes over a link
            return True
        return windows.overlap_error(window, overlap)

    @classmethod
    def execute(
        cls, model: ModelPatcher, method: str, window: int, overlap: int, jitter: bool, seed: int, batch: int
    ) -> io.NodeOutput:
        patched = windows.apply(model, method, window=window, overlap=overlap, jitter=jitter, seed=seed, batch=batch)
        return io.NodeOutput(patched)


NODES = [Windows]
