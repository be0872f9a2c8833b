"""Room for more picture."""

from comfy_api.latest import io
from torch import Tensor

from nodes import MAX_RESOLUTION  # ComfyUI's

from ...model_patchers.comfyui.results import home
from ...model_patchers.edit import outpaint_canvas
from ...model_patchers.pixels import checks


class OutpaintCanvas(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        sides = {"left": "on the left", "top": "at the top", "right": "on the right", "bottom": "at the bottom"}
        side = {"default": 0, "min": 0, "max": MAX_RESOLUTION, "step": 8}
        return io.Schema(
            node_id="PentimentoOutpaintCanvas",
            display_name="Outpaint Canvas",
            category="Pentimento/edit",
            description="Puts a picture on a larger canvas, fills the new area with a first guess, and makes the maps "
            "that tell the sampler where to paint. The picture keeps every bit.",
            search_aliases=["outpaint", "pad image", "extend canvas", "expand image", "uncrop", "zoom out"],
            inputs=[
                io.Image.Input(
                    "image", tooltip="The pictures to extend, of any size. Grey and transparent pictures work too."
                ),
                *(
                    io.Int.Input(name, **side, tooltip=f"How many pixels to add {where} of the picture.")
                    for name, where in sides.items()
                ),
                io.Int.Input(
                    "overlap",
                    default=50,
                    min=0,
                    max=MAX_RESOLUTION,
                    tooltip="The width in pixels of the strip of the picture beside each new side that may also be "
                    "painted over. The seam lies in this strip.",
                ),
                io.Int.Input(
                    "blur",
                    default=250,
                    min=0,
                    max=MAX_RESOLUTION,
                    tooltip="How far change_map fades to either side of the seam, in pixels. The blur is OpenCV's "
                    "GaussianBlur with a kernel of 2 x blur + 1. 0 = a hard edge.",
                ),
                io.Float.Input(
                    "change",
                    default=0.804,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    tooltip="How much the new area may change: the value of change_map in the new area. Lower values "
                    "keep more of the prefill; 1 paints the new area from noise.",
                ),
                io.Combo.Input(
                    "prefill",
                    options=outpaint_canvas.PREFILLS,
                    tooltip="What fills the new area before sampling. harmonic: the colours along the border, ever "
                    "smoother outwards. patchmatch: pieces of the picture; slow. edge: the border's pixels, stretched. "
                    "grey: mid grey.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="image"),
                io.Mask.Output(
                    display_name="change_map",
                    tooltip="How much each pixel may change, for Differential Img2Img. 1 = change most.",
                ),
                io.Mask.Output(
                    display_name="new_area", tooltip="The mask of the new area, for inpainting models. 1 = new."
                ),
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
        sides = outpaint_canvas.Sides(left, top, right, bottom)
        results = outpaint_canvas.outpaint_canvas(
            checks.image(image, "image"), sides, overlap=overlap, blur_by=blur, change=change, prefill=prefill
        )
        return io.NodeOutput(*map(home, results))


NODES = [OutpaintCanvas]
