"""Exposures of one picture."""

from comfy_api.latest import io
from torch import Tensor

from ...model_patchers.colour import exposure_brackets
from ...model_patchers.comfyui.results import home
from ...model_patchers.pixels import checks


class ExposureBrackets(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoExposureBrackets",
            display_name="Exposure Brackets",
            category="Pentimento/colour",
            description="Makes darker and brighter exposures of one picture, as a camera's exposure bracketing does. "
            "Exposure Fusion joins them into a picture with visible shadows and highlights.",
            search_aliases=[
                "exposure bracketing",
                "aeb",
                "hdr",
                "ev",
                "stops",
                "tone mapping",
                "exposure compensation",
            ],
            inputs=[
                io.Image.Input(
                    "image",
                    tooltip="One picture, of any size, grey or transparent too. Values above 1, such as those of an "
                    "EXR file, show in the darker exposures.",
                ),
                io.Int.Input(
                    "count",
                    default=3,
                    min=exposure_brackets.FEWEST,
                    max=exposure_brackets.MOST,
                    tooltip="How many exposures to make. They lie evenly around the picture's own exposure. An odd "
                    "number has the picture itself in the middle.",
                ),
                io.Float.Input(
                    "stops",
                    default=1.0,
                    min=0.0,
                    max=8.0,
                    step=0.1,
                    tooltip="The difference between neighbouring exposures. One stop doubles the light. More stops "
                    "open deeper shadows, and show more noise and more of the steps of 8-bit pictures.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="images", tooltip="The exposures as a batch, the darkest first."),
            ],
        )

    @classmethod
    def execute(cls, image: Tensor, count: int, stops: float) -> io.NodeOutput:
        return io.NodeOutput(home(exposure_brackets.brackets(checks.image(image, "image"), count, stops)))


NODES = [ExposureBrackets]
