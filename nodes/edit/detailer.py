"""Faces, hands and other regions sampled anew at the model's own size."""

from typing import Any

from comfy.model_patcher import ModelPatcher
from comfy.samplers import CFGGuider, Sampler
from comfy.sd import CLIP, VAE
from comfy_api.latest import io
from comfy_execution.graph_utils import ExecutionBlocker
from torch import Tensor

from nodes import MAX_RESOLUTION  # ComfyUI's

from ...model_patchers.comfyui.conditioning import Conditioning
from ...model_patchers.comfyui.results import home
from ...model_patchers.edit import detailer, detailer_regions
from ...model_patchers.pixels import checks
from .. import inputs


class Detailer(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoDetailer",
            display_name="Detailer",
            category="Pentimento/edit",
            description="Cuts faces, hands or other regions out of a picture, samples each again at the size that the "
            "model knows, and pastes it back. Works with any detector that gives boxes, with masks, and with any "
            "guider and model.",
            search_aliases=[
                "adetailer",
                "after detailer",
                "FaceDetailer",
                "face detailer",
                "hand detailer",
                "fix faces",
                "inpaint only masked",
            ],
            inputs=[
                io.Image.Input(
                    "image", tooltip="The pictures to change, of any size. Grey and transparent pictures work too."
                ),
                io.Vae.Input("vae", tooltip="The VAE of the diffusion model."),
                io.Sampler.Input("sampler", tooltip="The sampler of all regions, from KSamplerSelect."),
                io.Sigmas.Input(
                    "sigmas",
                    tooltip="The noise schedule, from BasicScheduler. Its denoise says how much each region changes: "
                    "0.3 to 0.5 refines a face, 1 makes a new one. With denoise 0 the picture stays as it is.",
                ),
                inputs.seed(
                    "noise_seed",
                    "The seed of the first region's noise. Each further region, and each further picture, adds 1.",
                ),
                io.Guider.Input(
                    "guider",
                    optional=True,
                    tooltip="A model with its prompts, from CFG Guider, Basic Guider or another node. Connect either "
                    "the guider, or model, positive and negative.",
                ),
                io.Model.Input(
                    "model", optional=True, tooltip="The diffusion model, after its LoRAs and other patches."
                ),
                io.Conditioning.Input(
                    "positive", optional=True, tooltip="The conditioning that says what the regions show."
                ),
                io.Conditioning.Input(
                    "negative", optional=True, tooltip="The conditioning that says what the regions must not show."
                ),
                io.Float.Input(
                    "cfg",
                    default=7.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    round=0.01,
                    optional=True,
                    tooltip="How strictly the regions follow the prompts. A connected guider has its own.",
                ),
                inputs.boxes(
                    "bboxes",
                    "The regions as boxes: from ComfyUI's detectors or Pick Points. If a mask is connected too, only "
                    "what the mask selects in a box is changed.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="What to change. Without boxes, each connected part of the mask is a region. One mask for "
                    "all pictures, or one for each. Several masks for one picture are regions of their own.",
                ),
                io.Clip.Input("clip", optional=True, tooltip="The text encoder of the model, which prompts needs."),
                io.String.Input(
                    "prompts",
                    default="",
                    multiline=True,
                    optional=True,
                    placeholder="one prompt a line, or separated by [SEP]",
                    tooltip="A prompt for each region: one a line, or several lines separated by [SEP]. An empty "
                    "prompt uses the connected conditioning. The last prompt serves all further regions. [SKIP] leaves "
                    "a region as it is.",
                ),
                io.Int.Input(
                    "size",
                    default=1024,
                    min=64,
                    max=MAX_RESOLUTION,
                    step=8,
                    optional=True,
                    tooltip="The width and height of the crops in pixels: the size that the model was trained for, 512 "
                    "for SD 1.5, 1024 for SDXL. Smaller regions are enlarged to it, larger ones are shrunk.",
                ),
                io.Float.Input(
                    "padding",
                    default=0.5,
                    min=0.0,
                    max=8.0,
                    step=0.05,
                    optional=True,
                    tooltip="How much of the picture to show the model around a region, on each side: 0.5 is half of "
                    "the region's longer side.",
                ),
                io.Int.Input(
                    "feather",
                    default=16,
                    min=0,
                    max=1024,
                    optional=True,
                    tooltip="The edit fades in over this many pixels of the picture, from a region's edge inwards. 0 = "
                    "a hard edge.",
                ),
                io.Combo.Input(
                    "order",
                    options=list(detailer_regions.ORDERS),
                    default="as given",
                    optional=True,
                    tooltip="The order of the regions, for the prompts and the seeds. as given: as the detector gives "
                    "them; parts of a mask from top to bottom.",
                ),
                io.Int.Input(
                    "top",
                    default=0,
                    min=0,
                    max=256,
                    optional=True,
                    tooltip="Only so many of the largest regions of each picture are changed. 0 = all.",
                ),
                io.Int.Input(
                    "min_side",
                    default=16,
                    min=1,
                    max=MAX_RESOLUTION,
                    optional=True,
                    tooltip="Regions with a side shorter than this many pixels are left as they are.",
                ),
                io.String.Input(
                    "labels",
                    default="",
                    optional=True,
                    tooltip="Only boxes with one of these labels are changed, such as: face, hand. Empty = all boxes.",
                ),
                io.Combo.Input(
                    "batch",
                    options=detailer_regions.BATCHES,
                    default="pictures",
                    optional=True,
                    tooltip="What a batch of pictures is. pictures: each has regions of its own. video: regions are "
                    "followed from frame to frame; a region keeps its prompt, its noise and the size of its crop, and "
                    "a video model samples its frames together.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="image"),
                io.Image.Output(
                    display_name="crops",
                    is_output_list=True,
                    tooltip="The edited crops, one after another. Without any region, the nodes after it do not run.",
                ),
                io.Mask.Output(display_name="mask", tooltip="Where the pictures were changed, and how opaquely."),
            ],
        )

    @classmethod
    def execute(
        cls,
        image: Tensor,
        vae: VAE,
        sampler: Sampler,
        sigmas: Tensor,
        noise_seed: int,
        guider: CFGGuider | None = None,
        model: ModelPatcher | None = None,
        positive: Conditioning | None = None,
        negative: Conditioning | None = None,
        cfg: float = 7.0,
        bboxes: Any = None,
        mask: Tensor | None = None,
        clip: CLIP | None = None,
        prompts: str = "",
        size: int = 1024,
        padding: float = 0.5,
        feather: int = 16,
        order: str = "as given",
        top: int = 0,
        min_side: int = 16,
        labels: str = "",
        batch: str = "pictures",
    ) -> io.NodeOutput:
        guider = detailer.the_guider(guider, model, positive, negative, cfg)
        image, crops, mask = detailer.detail(
            checks.image(image, "image"),
            vae,
            sampler,
            sigmas,
            noise_seed,
            guider,
            detailer.the_prompts(prompts, clip, guider),
            bboxes,
            mask,
            detailer_regions.Choice(size, padding, order, top, min_side, labels, batch),
            feather,
        )
        return io.NodeOutput(home(image), [home(crop) for crop in crops] or [ExecutionBlocker(None)], home(mask))


NODES = [Detailer]
