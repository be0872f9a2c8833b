"""Selecting by colour."""

from comfy_api.latest import io
from torch import Tensor

from ...model_patchers.comfyui.points import parse_points, read_points
from ...model_patchers.comfyui.progress import Progress
from ...model_patchers.comfyui.results import home
from ...model_patchers.pixels import checks
from ...model_patchers.segment import magic_wand
from .. import inputs

NO_POINT = (
    "positive_coords has no point. Click on the object in Pick Points. Where Pick Points is not connected, connect it, "
    'or write a JSON list in pixels such as [{"x": 120, "y": 80}].'
)


def need_point(positive_coords: str) -> None:
    if not read_points(positive_coords, "positive_coords"):
        raise ValueError(NO_POINT)


class MagicWand(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoMagicWand",
            display_name="Magic Wand",
            category="Pentimento/segment",
            description="Selects the regions that have the colour of the points, as the magic wand of a paint program "
            "does.",
            search_aliases=[
                "fuzzy select",
                "flood fill",
                "select by colour",
                "select by color",
                "color to mask",
                "mask",
            ],
            inputs=[
                io.Image.Input(
                    "image",
                    tooltip="The pictures to select in. Every picture of a batch uses the same points and its own "
                    "colours.",
                ),
                inputs.points(
                    "positive_coords",
                    (120, 80),
                    'Points whose colour to select: a JSON list in pixels such as [{"x": 120, "y": 80}]. Write the '
                    "list here, or connect a node that picks points.",
                ),
                io.Float.Input(
                    "tolerance",
                    default=0.1,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="How far red, green or blue may differ from the point's colour: 0 = that colour alone, "
                    "1 = everything. 0.1 allows 25 of 255 levels.",
                ),
                io.Boolean.Input(
                    "contiguous",
                    default=True,
                    tooltip="On: selects only the area connected to the point. Off: selects every pixel of that "
                    "colour.",
                ),
                inputs.points(
                    "negative_coords",
                    (300, 200),
                    "Points whose regions are removed from the mask: a JSON list in pixels such as "
                    '[{"x": 300, "y": 200}]. The same rule selects these regions. May be empty.',
                    optional=True,
                ),
            ],
            outputs=[io.Mask.Output(display_name="mask")],
        )

    @classmethod
    def validate_inputs(cls, positive_coords: str | None = None, negative_coords: str | None = None) -> bool | str:
        negative = inputs.valid(read_points, negative_coords, "negative_coords")
        return negative if negative is not True else inputs.valid(need_point, positive_coords)

    @classmethod
    def execute(
        cls, image: Tensor, positive_coords: str, tolerance: float, contiguous: bool, negative_coords: str = ""
    ) -> io.NodeOutput:
        image = checks.image(image, "image", whole=False)
        need_point(positive_coords)
        height, width = image.shape[1:3]
        positive = parse_points(positive_coords, "positive_coords", width, height)
        negative = parse_points(negative_coords, "negative_coords", width, height)
        progress = Progress(len(image) * (len(positive) + len(negative)))
        return io.NodeOutput(home(magic_wand.select(image, positive, negative, tolerance, contiguous, progress)))


NODES = [MagicWand]
