"""Filling holes from the picture itself, without weights."""

from comfy_api.latest import io
from torch import Tensor

from ...model_patchers.comfyui.results import home
from ...model_patchers.fill import fill_without_model
from ...model_patchers.pixels import checks
from .. import inputs


class FillWithoutModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoFillWithoutModel",
            display_name="Fill Without a Model",
            category="Pentimento/fill",
            description="Fills the masked part of a picture with pieces of the picture itself, or with a smooth blend "
            "of the colours around the hole. Needs no model. Pixels outside the mask keep every bit.",
            search_aliases=[
                "patchmatch",
                "content-aware fill",
                "inpaint",
                "remove object",
                "erase",
                "harmonic",
                "heal",
                "healing brush",
                "clone stamp",
            ],
            inputs=[
                io.Image.Input(
                    "image", tooltip="The pictures to fill, of any size. Grey and transparent pictures work too."
                ),
                io.Mask.Input(
                    "mask",
                    tooltip="The part to fill: everything white or grey, soft edges included. Noise below 6 % of "
                    "white is ignored. One mask for all pictures, or one for each. The mask should "
                    "cover the object's soft edges and its shadow.",
                ),
                io.Combo.Input(
                    "method",
                    options=fill_without_model.METHODS,
                    tooltip="patchmatch: continues the surroundings with pieces of the picture, such as grass, gravel, "
                    "bricks, wood, sky. harmonic: blends the colours around the hole smoothly.",
                ),
                inputs.seed(
                    "seed",
                    "The seed of patchmatch. Another seed gives another fill; the same seed gives the same fill. "
                    "harmonic ignores the seed.",
                ),
            ],
            outputs=[io.Image.Output(display_name="image")],
        )

    @classmethod
    def execute(cls, image: Tensor, mask: Tensor, method: str, seed: int) -> io.NodeOutput:
        image = checks.image(image, "image", whole=False)
        return io.NodeOutput(home(fill_without_model.fill(image, mask, method, seed)))


NODES = [FillWithoutModel]
