"""Filling holes from the picture itself, without weights."""

from comfy import model_management
from comfy_api.latest import io
from torch import Tensor

from ...model_patchers.fill.fill_without_model import METHODS, fill


class FillWithoutModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoFillWithoutModel",
            display_name="Fill Without a Model",
            category="Pentimento/fill",
            description="Fills the masked part of a picture with pieces of the picture itself, or smoothly from the "
            "hole's rim. Needs no weights. The rest keeps every bit.",
            search_aliases=["patchmatch", "content-aware fill", "inpaint", "remove object", "erase", "harmonic"],
            inputs=[
                io.Image.Input("image", tooltip="Pictures of any size; grey and transparent ones too."),
                io.Mask.Input(
                    "mask",
                    tooltip="What to fill: everything above 0. One for all pictures or one for each. Let it cover the "
                    "object's soft edges and its shadow.",
                ),
                io.Combo.Input(
                    "method",
                    options=METHODS,
                    tooltip="patchmatch: continues the surroundings with pieces of them: grass, gravel, bricks, wood, "
                    "sky. harmonic: a smooth blend of the colours around the hole.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="Another number gives another patchmatch fill; the same number gives the same bits.",
                ),
            ],
            outputs=[io.Image.Output(display_name="image")],
        )

    @classmethod
    def execute(cls, image: Tensor, mask: Tensor, method: str, seed: int) -> io.NodeOutput:
        return io.NodeOutput(fill(image, mask, method, seed).to(model_management.intermediate_device()))


NODES = [FillWithoutModel]
