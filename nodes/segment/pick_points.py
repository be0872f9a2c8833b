"""Picking points and boxes on a picture in the graph."""

from comfy_api.latest import io
from torch import Tensor

from ...model_patchers.comfyui.temp import save_picture
from ...model_patchers.pixels import checks
from ...model_patchers.segment import pick_points
from .. import inputs


class PickPoints(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoPickPoints",
            display_name="Pick Points",
            category="Pentimento/segment",
            description="Click points and drag boxes on the picture, to mark what to select and what to leave out.",
            search_aliases=[
                "points editor",
                "click to segment",
                "sam detector",
                "select object",
                "draw box",
                "bbox",
                "mask",
            ],
            is_output_node=True,  # so that it can be run alone, to see a picture that comes from another node
            inputs=[
                io.Image.Input(
                    "image", tooltip="The picture to pick points on. The node shows the first picture of a batch."
                ),
                io.String.Input(
                    "picks",
                    default="",
                    socketless=True,
                    extra_dict={"widgetType": "PENTIMENTO_PICKS"},
                    tooltip="The picked points and boxes as JSON, in pixels of the picture. Clicks and drags on the "
                    "picture in the node write this text.",
                ),
            ],
            outputs=[
                io.String.Output(display_name="positive_coords"),
                io.String.Output(display_name="negative_coords"),
                io.BoundingBox.Output(display_name="bboxes"),
            ],
        )

    @classmethod
    def validate_inputs(cls, picks: str) -> bool | str:
        return inputs.valid(pick_points.parse_picks, picks)

    @classmethod
    def execute(cls, image: Tensor, picks: str) -> io.NodeOutput:
        image = checks.image(image, "image")
        height, width = image.shape[1:3]
        fitted = pick_points.fit(pick_points.parse_picks(picks), width, height)
        picture = save_picture(image)
        return io.NodeOutput(*pick_points.prompts(fitted), ui={"pentimento_picture": [picture]})


NODES = [PickPoints]
