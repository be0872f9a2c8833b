"""Stable unCLIP: variations of pictures, and mixtures of several."""

from typing import Any

from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io
from torch import Tensor

from ...model_patchers.comfyui.folders import filenames, full_path
from ...model_patchers.condition.unclip import CROPS, MAX_LEVEL, encode, read_weights, with_statistics


class UnCLIPEncode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoUnCLIPEncode",
            display_name="unCLIP Encode",
            category="Pentimento/condition",
            description="Adds pictures to a prompt for Stable unCLIP, which makes variations of one picture and "
            "mixtures of several.",
            search_aliases=["unclip", "image variation", "reimagine", "mix images", "clip vision"],
            inputs=[
                io.Conditioning.Input(
                    "conditioning", tooltip="The prompt, which may be empty. Pictures that it has already are kept."
                ),
                io.ClipVision.Input(
                    "clip_vision", tooltip="The CLIP vision model of the unCLIP model, from unCLIPCheckpointLoader."
                ),
                io.Image.Input("image", tooltip="One picture, or a batch of several to mix."),
                io.String.Input(
                    "weights",
                    default="",
                    tooltip="How much each picture counts, such as 1, 0.5: one number for each. Empty: all the same.",
                ),
                io.Int.Input(
                    "noise_level",
                    default=0,
                    min=0,
                    max=MAX_LEVEL,
                    tooltip="How far the result may go from the picture: 0 stays close, 999 forgets it.",
                ),
                io.Int.Input(
                    "merge_noise_level",
                    default=50,
                    min=-1,
                    max=MAX_LEVEL,
                    tooltip="The noise on the mean of several pictures, which helps them blend. -1: none. One picture "
                    "alone gets none.",
                ),
                io.Int.Input(
                    "noise_seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="Of the noise on the pictures. The sampler has its own seed.",
                ),
                io.Combo.Input(
                    "crop",
                    options=CROPS,
                    default="center",
                    tooltip="center: the middle square of each picture. none: all of it, squeezed into a square.",
                ),
            ],
            outputs=[io.Conditioning.Output(display_name="conditioning")],
        )

    @classmethod
    def validate_inputs(cls, weights: str | None = None) -> bool | str:
        try:
            read_weights(weights or "")  # None: it comes over a link and is not known yet
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def execute(
        cls,
        conditioning: list,
        clip_vision: Any,
        image: Tensor,
        weights: str,
        noise_level: int,
        merge_noise_level: int,
        noise_seed: int,
        crop: str,
    ) -> io.NodeOutput:
        return io.NodeOutput(
            encode(conditioning, clip_vision, image, weights, noise_level, merge_noise_level, noise_seed, crop)
        )


class UnCLIPStats(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoUnCLIPStats",
            display_name="unCLIP-L Statistics",
            category="Pentimento/condition",
            description="Tells a Stable unCLIP-L model the statistics of its pictures' embeddings, without which it "
            "gets twice the noise. unCLIP-H has none.",
            search_aliases=["ViT-L-14_stats", "image_normalizer", "karlo", "unclip noise"],
            inputs=[
                io.Model.Input("model", tooltip="Stable unCLIP-L."),
                io.Combo.Input(
                    "stats_name",
                    options=filenames("unclip"),
                    tooltip="ViT-L-14_stats.th, or the file of a diffusers image_normalizer, in models/unclip.",
                ),
            ],
            outputs=[io.Model.Output(display_name="model")],
        )

    @classmethod
    def execute(cls, model: ModelPatcher, stats_name: str) -> io.NodeOutput:
        return io.NodeOutput(with_statistics(model, full_path(stats_name, "unclip")))


NODES = [UnCLIPEncode, UnCLIPStats]
