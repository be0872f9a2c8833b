"""Editing a part of a picture at full resolution: cut it out, edit it, paste it back."""

from comfy import model_management
from comfy_api.latest import io
from torch import Tensor

from ...model_patchers.edit.crop_to_mask import REGIONS, Crops, crop
from ...model_patchers.edit.paste_back import MATCHES, paste

LARGEST = 16384  # side of a picture, as elsewhere in the host
CropsSocket = io.Custom("PENTIMENTO_CROPS")


class CropToMask(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        side = {"default": 1024, "min": 64, "max": LARGEST, "step": 8}
        return io.Schema(
            node_id="PentimentoCropToMask",
            display_name="Crop to Mask",
            category="Pentimento/edit",
            description="Cuts out what is masked with some of its surroundings, at the size that a model works at. "
            "Edit the crops, then connect them to Paste Back.",
            search_aliases=["inpaint only masked", "crop and stitch", "padding_mask_crop", "mask crop", "detailer"],
            inputs=[
                io.Image.Input("image", tooltip="Pictures of any size; grey and transparent ones too."),
                io.Mask.Input(
                    "mask",
                    tooltip="What to edit: everything above 0. One for all pictures or one for each. All pictures of a "
                    "batch are cut alike, around all masks together, so that a video does not jitter.",
                ),
                io.Int.Input("width", **side, tooltip="Of the crops: the size that the model works at."),
                io.Int.Input("height", **side, tooltip="Of the crops: the size that the model works at."),
                io.Int.Input(
                    "padding",
                    default=32,
                    min=0,
                    max=LARGEST,
                    tooltip="How many pixels of the picture to take along around the mask. The model goes by them.",
                ),
                io.Combo.Input(
                    "regions",
                    options=REGIONS,
                    tooltip="one: a single crop around everything masked. each hole: one for each part of the mask; "
                    "parts whose crops would overlap share one.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The crops, those of the first picture first."),
                io.Mask.Output(display_name="mask", tooltip="The mask of each crop."),
                CropsSocket.Output(display_name="crops", tooltip="For Paste Back: where the crops came from."),
            ],
        )

    @classmethod
    def execute(cls, image: Tensor, mask: Tensor, width: int, height: int, padding: int, regions: str) -> io.NodeOutput:
        crops = crop(image, mask, width, height, padding, regions)
        device = model_management.intermediate_device()
        return io.NodeOutput(crops.crop.to(device), crops.crop_mask.to(device), crops)


class PasteBack(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoPasteBack",
            display_name="Paste Back",
            category="Pentimento/edit",
            description="Puts edited crops back into the pictures that Crop to Mask took them from. Outside the mask "
            "every bit stays.",
            search_aliases=["stitch", "uncrop", "inpaint only masked", "crop and stitch", "paste", "composite"],
            inputs=[
                CropsSocket.Input("crops", tooltip="From Crop to Mask."),
                io.Image.Input("image", tooltip="The edited crops: all of them, in the order and size they came in."),
                io.Int.Input(
                    "feather",
                    default=16,
                    min=0,
                    max=1024,
                    tooltip="How many pixels of the picture the new fades in over, from the mask's edge inwards; fewer "
                    "where the mask is narrow. 0 = a hard edge.",
                ),
                io.Combo.Input(
                    "match_colour",
                    options=MATCHES,
                    tooltip="mean and spread: shifts the colours of a crop so that its unmasked part looks as before. "
                    "For models and VAEs that change the tone of the whole crop.",
                ),
            ],
            outputs=[io.Image.Output(display_name="image")],
        )

    @classmethod
    def execute(cls, crops: Crops, image: Tensor, feather: int, match_colour: str) -> io.NodeOutput:
        return io.NodeOutput(paste(crops, image, feather, match_colour).to(model_management.intermediate_device()))


NODES = [CropToMask, PasteBack]
