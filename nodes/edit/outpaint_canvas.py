"""Room for more picture."""

from comfy import model_management
from comfy_api.latest import io
from torch import Tensor

from ...model_patchers.edit.outpaint_canvas import PREFILLS, Sides, outpaint_canvas

MAX_PIXELS = 16384  # the host's largest picture


class OutpaintCanvas(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoOutpaintCanvas",
            display_name="Outpaint Canvas",
            category="Pentimento/edit",
            description="Puts a picture on a larger canvas, fills the new area with a guess to paint over, and makes "
            "the maps that tell the sampler where to paint. The picture keeps every bit.",
            search_aliases=["outpaint", "pad image", "extend canvas", "expand image", "uncrop", "zoom out"],
            inputs=[
                io.Image.Input("image", tooltip="Pictures of any size; grey and transparent ones too."),
                *(
                    io.Int.Input(
                        side, default=0, min=0, max=MAX_PIXELS, step=8, tooltip=f"Pixels to add {where}. 0 = none."
                    )
                    for side, where in (
                        ("left", "on the left"),
                        ("top", "at the top"),
                        ("right", "on the right"),
                        ("bottom", "at the bottom"),
                    )
                ),
                io.Int.Input(
                    "overlap",
                    default=50,
                    min=0,
                    max=MAX_PIXELS,
                    tooltip="Pixels of the picture beside each new side that may be painted over, too: the seam lies "
                    "there.",
                ),
                io.Int.Input(
                    "blur",
                    default=250,
                    min=0,
                    max=MAX_PIXELS,
                    tooltip="How far change_map fades to either side of the seam, in pixels: OpenCV's GaussianBlur "
                    "with a kernel of twice this and one. 0 = a hard edge.",
                ),
                io.Float.Input(
                    "change",
                    default=0.804,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    tooltip="How much the new area may change, the value of change_map there. Less keeps more of the "
                    "prefill; 1 paints the new area from noise.",
                ),
                io.Combo.Input(
                    "prefill",
                    options=PREFILLS,
                    tooltip="What the new area holds. harmonic: the border's colours, ever smoother. patchmatch: "
                    "pieces of the picture; takes longer. edge: the border's pixels, stretched. grey: nothing.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="image"),
                io.Mask.Output(display_name="change_map", tooltip="For Differential Img2Img: 1 = change most."),
                io.Mask.Output(display_name="new_area", tooltip="For inpainting models: core's mask, 1 = new."),
            ],
        )

    @classmethod
    def execute(
        cls,
        image: Tensor,
        left: int,
        top: int,
        right: int,
        bottom: int,
        overlap: int,
        blur: int,
        change: float,
        prefill: str,
    ) -> io.NodeOutput:
        results = outpaint_canvas(image, Sides(left, top, right, bottom), overlap, blur, change, prefill)
        device = model_management.intermediate_device()
        return io.NodeOutput(*(result.to(device) for result in results))


NODES = [OutpaintCanvas]
