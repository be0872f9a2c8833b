"""Prompts for regions of a picture."""

from comfy.sd import CLIP
from comfy_api.latest import io
from torch import Tensor

from nodes import MAX_RESOLUTION  # ComfyUI's

from ...model_patchers.comfyui.progress import Progress
from ...model_patchers.comfyui.results import home
from ...model_patchers.prompt import regional_prompt
from .. import inputs


class RegionalPrompt(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        side = {"default": 1024, "min": 16, "max": MAX_RESOLUTION, "step": 8}
        return io.Schema(
            node_id="PentimentoRegionalPrompt",
            display_name="Regional Prompt",
            category="Pentimento/prompt",
            description="Gives each region of a picture its own prompt. One text has all prompts, divided by BREAK, "
            "ADDCOL or ADDROW as in A1111's Regional Prompter. Works with every model that ComfyUI's Conditioning (Set "
            "Mask) works with.",
            search_aliases=[
                "regional prompter",
                "hako-mikan",
                "latent couple",
                "BREAK",
                "ADDCOL",
                "ADDROW",
                "area prompt",
                "mask prompt",
                "divide ratio",
            ],
            inputs=[
                io.Clip.Input("clip", tooltip="The model's text encoder, as for CLIP Text Encode."),
                io.String.Input(
                    "text",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="The prompts of all regions, from left to right and from top to bottom. Between them "
                    "stands BREAK, ADDCOL (the next column) or ADDROW (the next row). At the beginning a prompt before "
                    "ADDCOMM is put before every other prompt, and a prompt before ADDBASE is for the whole picture. "
                    "Write these words in capitals.",
                ),
                io.Int.Input(
                    "width", **side, tooltip="Width of the picture in pixels. Ignored if masks are connected."
                ),
                io.Int.Input(
                    "height", **side, tooltip="Height of the picture in pixels. Ignored if masks are connected."
                ),
                io.String.Input(
                    "ratios",
                    default="1,1",
                    tooltip="How large the regions are. 1,2,1: three columns, the middle one twice as wide. "
                    "1,2,1,1;2,4,6: two rows; the first number of each is the row's height, the others are the widths "
                    "of its columns. Ignored if masks are connected.",
                ),
                io.Float.Input(
                    "base_ratio",
                    default=0.2,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="How much the prompt before ADDBASE counts in every region: 0.2 is 20 % this prompt and 80 "
                    "% the region's. Ignored if the text has no ADDBASE.",
                ),
                io.Mask.Input(
                    "masks",
                    optional=True,
                    tooltip="Regions of any shape, in place of the ratios: a batch with one mask for each prompt, in "
                    "their order. What no mask covers gets the prompt before ADDBASE, else that before ADDCOMM, else "
                    "that of the first region.",
                ),
                io.Combo.Input(
                    "splitting",
                    options=list(regional_prompt.SPLITTINGS),
                    default="columns",
                    optional=True,
                    tooltip="columns: ADDROW or ; divides the picture into rows, and ADDCOL or , each row into "
                    "columns. rows: ADDCOL or , divides the picture into columns, and ADDROW or ; each column into "
                    "rows; with BREAK the ratios 1,1 are one above the other. Ignored if masks are connected.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(display_name="conditioning"),
                io.Mask.Output(display_name="masks"),
                io.Image.Output(display_name="preview"),
            ],
        )

    @classmethod
    def validate_inputs(cls, text: str | None = None) -> bool | str:
        return inputs.valid(regional_prompt.parse, text)

    @classmethod
    def execute(
        cls,
        clip: CLIP,
        text: str,
        width: int,
        height: int,
        ratios: str,
        base_ratio: float,
        masks: Tensor | None = None,
        splitting: str = "columns",
    ) -> io.NodeOutput:
        if masks is None:
            regions = regional_prompt.of_cells(text, ratios, splitting, height, width)
        else:
            regions = regional_prompt.of_masks(text, masks)
        rest = None if regions.rest is None else home(regions.rest)
        regions = regions._replace(masks=home(regions.masks), rest=rest)
        progress = Progress(len(regions.masks) + 2)  # with the base and the rest
        conditioning = regional_prompt.conditioning(clip, regions, base_ratio, progress)
        return io.NodeOutput(conditioning, regions.masks, home(regional_prompt.preview(regions.masks)))


NODES = [RegionalPrompt]
