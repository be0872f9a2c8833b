"""Diffusion of any size in windows."""

from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io

from ...model_patchers.upscale.windows import METHODS, apply, overlap_error


class Windows(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoWindows",
            display_name="Windowed Diffusion",
            category="Pentimento/upscale",
            description="Lets a model draw pictures larger than it knows, in windows of its own size that are fused at "
            "every step. Masks, ControlNets, inpainting and LoRAs work as without it, and memory is that of a window.",
            search_aliases=[
                "tiled diffusion",
                "multidiffusion",
                "mixture of diffusers",
                "spotdiffusion",
                "tiled ksampler",
                "large picture",
            ],
            inputs=[
                io.Model.Input("model", tooltip="The diffusion model, of any kind that makes pictures."),
                io.Combo.Input(
                    "method",
                    options=list(METHODS),
                    default="gaussian",
                    tooltip="gaussian: the middle of a window counts most (Mixture of Diffusers). average: all of it "
                    "counts the same (MultiDiffusion). spot: windows side by side that roll at each step, fewest of "
                    "them (SpotDiffusion); it uses no overlap.",
                ),
                io.Int.Input(
                    "window",
                    default=1024,
                    min=64,
                    max=8192,
                    step=8,
                    tooltip="Width and height of a window in pixels: what the model was trained for. 512 for SD 1.5, "
                    "1024 for SDXL, 512 for SD x4, whose pixels are those of the result.",
                ),
                io.Int.Input(
                    "overlap",
                    default=256,
                    min=0,
                    max=8184,
                    step=8,
                    tooltip="How many pixels neighbouring windows share at least. More hides them better and takes "
                    "longer. Not for spot.",
                ),
                io.Boolean.Input(
                    "jitter",
                    default=False,
                    tooltip="Moves inner windows at random, by up to a quarter of the overlap and anew at each step, "
                    "so that no border stays in one place. spot moves anyway.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="Of the random positions, for jitter and spot. The sampler has its own seed.",
                ),
                io.Int.Input(
                    "batch",
                    default=0,
                    min=0,
                    max=64,
                    tooltip="How many windows are computed at once; 0 = as many as memory allows. Transformers such as "
                    "Flux take one at a time.",
                ),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="For any sampler.")],
        )

    @classmethod
    def validate_inputs(
        cls, method: str | None = None, window: int | None = None, overlap: int | None = None
    ) -> bool | str:
        known = window is not None and overlap is not None  # they do not come over links
        return overlap_error(window, overlap) if known and method != "spot" and overlap >= window else True

    @classmethod
    def execute(
        cls, model: ModelPatcher, method: str, window: int, overlap: int, jitter: bool, seed: int, batch: int
    ) -> io.NodeOutput:
        return io.NodeOutput(apply(model, method, window, overlap, jitter, seed, batch))


NODES = [Windows]
