"""Two pictures compared in the graph."""

from comfy_api.latest import io
from torch import Tensor

from ...model_patchers.comfyui.progress import Progress
from ...model_patchers.comfyui.temp import save_pictures
from ...model_patchers.pixels import checks


class Compare(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoCompare",
            display_name="Compare",
            category="Pentimento/edit",
            description="Shows two pictures in the node: behind a slider, side by side, in turn, or their difference.",
            search_aliases=["before and after", "compare images", "image compare", "slider", "diff", "difference"],
            is_output_node=True,
            inputs=[
                io.Image.Input(
                    "image_a",
                    tooltip="The first picture, such as the photograph before the change. The buttons below the "
                    "pictures step through a batch.",
                ),
                io.Image.Input(
                    "image_b",
                    optional=True,
                    tooltip="The second picture, such as the result. It may have another size: both pictures fill the "
                    "same area. Without it, the node shows image_a alone.",
                ),
            ],
            outputs=[],
        )

    @classmethod
    def execute(cls, image_a: Tensor, image_b: Tensor | None = None) -> io.NodeOutput:
        image_a = checks.image(image_a, "image_a")
        image_b = image_a[:0] if image_b is None else checks.image(image_b, "image_b")
        progress = Progress(len(image_a) + len(image_b))
        # the names by which ComfyUI's own Compare Images hands its pictures to the front end
        shown = {"a_images": save_pictures(image_a, progress), "b_images": save_pictures(image_b, progress)}
        return io.NodeOutput(ui=shown)


NODES = [Compare]
