"""Editing a part of a picture at full resolution: cut it out, edit it, paste it back."""

from comfy_api.latest import io
from torch import Tensor

from nodes import MAX_RESOLUTION  # ComfyUI's

from ...model_patchers.comfyui.results import home
from ...model_patchers.edit import crop_to_mask, paste_back
from ...model_patchers.pixels import checks
from .. import sockets


class CropToMask(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        side = {"default": 1024, "min": 64, "max": MAX_RESOLUTION, "step": 8}
        return io.Schema(
            node_id="PentimentoCropToMask",
            display_name="Crop to Mask",
            category="Pentimento/edit",
            description="Cuts out the masked part with its surroundings, resized to the size that the model works at. "
            "Edit the crops, then connect the edited crops to Paste Back.",
            search_aliases=[
                "inpaint only masked",
                "crop and stitch",
                "padding_mask_crop",
                "mask crop",
                "detailer",
                "inpaint crop",
            ],
            inputs=[
                io.Image.Input(
                    "image", tooltip="The pictures to crop, of any size. Grey and transparent pictures work too."
                ),
                io.Mask.Input(
                    "mask",
                    tooltip="The part to edit: everything white or grey, soft edges included. Noise below 6 % of "
                    "white is ignored. One mask for all pictures, or one for each. All pictures "
                    "of a batch are cut alike, around all masks together, so that a video does not jitter.",
                ),
                io.Int.Input(
                    "width", **side, tooltip="The width of the crops in pixels: the size that the model works at."
                ),
                io.Int.Input(
                    "height", **side, tooltip="The height of the crops in pixels: the size that the model works at."
                ),
                io.Int.Input(
                    "padding",
                    default=32,
                    min=0,
                    max=MAX_RESOLUTION,
                    tooltip="How many pixels of the picture to include around the mask. These pixels give the model "
                    "context.",
                ),
                io.Combo.Input(
                    "regions",
                    options=crop_to_mask.REGIONS,
                    tooltip="one: a single crop around everything masked. each hole: one crop for each connected part "
                    "of the mask; parts whose crops would overlap share one.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The crops of the first picture, then of the next."),
                io.Mask.Output(display_name="mask", tooltip="The mask of each crop."),
                sockets.Crops.Output(
                    display_name="crops", tooltip="The pictures and where the crops lie in them, for Paste Back."
                ),
            ],
        )

    @classmethod
    def execute(cls, image: Tensor, mask: Tensor, width: int, height: int, padding: int, regions: str) -> io.NodeOutput:
        image = checks.image(image, "image")
        crops = crop_to_mask.crop(image, mask, width, height, padding, regions)
        at_home = {name: home(value) for name, value in crops._asdict().items() if isinstance(value, Tensor)}
        crops = crops._replace(**at_home)
        return io.NodeOutput(crops.crop, crops.crop_mask, crops)


class PasteBack(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoPasteBack",
            display_name="Paste Back",
            category="Pentimento/edit",
            description="Pastes edited crops back into the pictures that Crop to Mask took them from. Pixels outside "
            "the mask keep every bit.",
            search_aliases=[
                "stitch",
                "uncrop",
                "inpaint only masked",
                "crop and stitch",
                "paste",
                "composite",
                "inpaint stitch",
            ],
            inputs=[
                sockets.Crops.Input("crops", tooltip="The crops output of Crop to Mask."),
                io.Image.Input(
                    "image", tooltip="All edited crops, in the order and size in which Crop to Mask returned them."
                ),
                io.Int.Input(
                    "feather",
                    default=16,
                    min=0,
                    max=1024,
                    tooltip="The edit fades in over this many pixels of the picture, from the mask's edge inwards. The "
                    "fade is shorter where the mask is narrow. 0 = a hard edge.",
                ),
                io.Combo.Input(
                    "match_colour",
                    options=paste_back.MATCHES,
                    tooltip="off: leaves the colours alone. mean and spread: adjusts the colours of each crop so that "
                    "its unmasked part looks as before, for models and VAEs that change the tone of the whole crop.",
                ),
            ],
            outputs=[io.Image.Output(display_name="image")],
        )

    @classmethod
    def execute(cls, crops: crop_to_mask.Crops, image: Tensor, feather: int, match_colour: str) -> io.NodeOutput:
        image = checks.image(image, "image", whole=False)
        return io.NodeOutput(home(paste_back.paste(crops, image, feather, match_colour)))


NODES = [CropToMask, PasteBack]
