"""Picking points and boxes on a picture in the graph."""

from comfy_api.latest import io
from torch import Tensor

from ...model_patchers.comfyui.temp import save_picture
from ...model_patchers.segment.pick_points import fit, parse_picks, prompts


class PickPoints(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoPickPoints",
            display_name="Pick Points",
            category="Pentimento/segment",
            description="Click points and drag boxes on the picture: what to select, and what to leave out.",
            search_aliases=["points editor", "click to segment", "sam detector", "select object", "draw box", "bbox"],
            is_output_node=True,  # so that it can be run alone, to see a picture that comes from another node
            inputs=[
                io.Image.Input("image", tooltip="The picture to pick on. Of a batch the first is shown."),
                io.String.Input(
                    "picks",
                    default="",
                    socketless=True,
                    extra_dict={"widgetType": "PENTIMENTO_PICKS"},
                    tooltip="What was picked, as JSON in pixels of the picture it was picked on. Edited on the picture "
                    "in the node.",
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
        try:
            parse_picks(picks)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def execute(cls, image: Tensor, picks: str) -> io.NodeOutput:
        height, width = image.shape[1:3]
        fitted = fit(parse_picks(picks), width, height)
        return io.NodeOutput(*prompts(fitted), ui={"pentimento_picture": [save_picture(image)]})


NODES = [PickPoints]
