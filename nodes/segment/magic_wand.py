"""Selecting by colour."""

from comfy import model_management
from comfy_api.latest import io
from torch import Tensor

from ...model_patchers.comfyui.points import parse_points, read_points
from ...model_patchers.comfyui.progress import Progress
from ...model_patchers.segment.magic_wand import select

NO_POINT = (
    'positive_coords has no point. Pick one on the picture, or write JSON in pixels, such as [{"x": 120, "y": 80}].'
)


class MagicWand(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoMagicWand",
            display_name="Magic Wand",
            category="Pentimento/segment",
            description="Selects the regions that have the colour of the points, as the magic wand of a paint program.",
            search_aliases=["fuzzy select", "flood fill", "select by colour", "select by color", "color to mask"],
            inputs=[
                io.Image.Input("image", tooltip="The pictures to select in. Each is searched by its own colours."),
                io.String.Input(
                    "positive_coords",
                    default="",
                    placeholder='[{"x": 120, "y": 80}]',
                    tooltip='Points to select from: a JSON list in pixels such as [{"x": 120, "y": 80}], '
                    "written here or linked from a node that picks points.",
                ),
                io.Float.Input(
                    "tolerance",
                    default=0.1,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="How far red, green or blue may differ from the point's colour: 0 = that colour alone, "
                    "1 = everything. 0.1 is 26 of 255 levels.",
                ),
                io.Boolean.Input(
                    "contiguous",
                    default=True,
                    tooltip="On: only what hangs together with the point. Off: every pixel of that colour.",
                ),
                io.String.Input(
                    "negative_coords",
                    default="",
                    optional=True,
                    placeholder='[{"x": 300, "y": 200}]',
                    tooltip="Points whose regions, found by the same rule, are taken away again. May be empty.",
                ),
            ],
            outputs=[io.Mask.Output(display_name="mask")],
        )

    @classmethod
    def validate_inputs(cls, positive_coords: str | None = None, negative_coords: str | None = None) -> bool | str:
        try:  # None: it comes over a link and is not known yet
            read_points(negative_coords or "", "negative_coords")
            if positive_coords is not None and not read_points(positive_coords, "positive_coords"):
                return NO_POINT
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def execute(
        cls, image: Tensor, positive_coords: str, tolerance: float, contiguous: bool, negative_coords: str = ""
    ) -> io.NodeOutput:
        height, width = image.shape[1:3]
        positive = parse_points(positive_coords, "positive_coords", width, height)
        negative = parse_points(negative_coords, "negative_coords", width, height)
        if not positive:
            raise ValueError(NO_POINT)
        progress = Progress(len(image) * (len(positive) + len(negative)))
        mask = select(image, positive, negative, tolerance, contiguous, progress)
        return io.NodeOutput(mask.to(model_management.intermediate_device()))


NODES = [MagicWand]
