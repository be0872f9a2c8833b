"""Stable unCLIP: variations of pictures, and mixtures of several."""

from comfy.clip_vision import ClipVisionModel
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io
from torch import Tensor

from ...model_patchers.comfyui import folders
from ...model_patchers.comfyui.conditioning import Conditioning
from ...model_patchers.condition import unclip
from ...model_patchers.pixels import checks
from .. import inputs

FOLDER = "unclip"


class UnCLIPEncode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoUnCLIPEncode",
            display_name=unclip.ENCODE,
            category="Pentimento/condition",
            description="Adds pictures to a prompt for Stable unCLIP, which makes variations of one picture and "
            "mixtures of several.",
            search_aliases=["unclip", "image variation", "reimagine", "mix images", "clip vision"],
            inputs=[
                io.Conditioning.Input(
                    "conditioning",
                    tooltip="The prompt, which may be empty. Pictures from an earlier unCLIP Encode stay with the "
                    "prompt.",
                ),
                io.ClipVision.Input(
                    "clip_vision", tooltip="The CLIP vision model of the unCLIP model, from unCLIPCheckpointLoader."
                ),
                io.Image.Input("image", tooltip="One picture, or a batch of several to mix."),
                io.String.Input(
                    "weights",
                    default="",
                    tooltip="How much each picture counts: one number for each, such as 1, 0.5. Empty: 1 for each.",
                ),
                io.Int.Input(
                    "noise_level",
                    default=0,
                    min=0,
                    max=unclip.MAX_LEVEL,
                    tooltip="The level of the noise on each picture's embedding. At 0 the result stays close to the "
                    "picture; at 999 nothing of the picture is left.",
                ),
                io.Int.Input(
                    "merge_noise_level",
                    default=50,
                    min=-1,
                    max=unclip.MAX_LEVEL,
                    tooltip="The level of the noise on the mean of several pictures, which helps them blend. -1 = no "
                    "noise. A single picture never gets this noise.",
                ),
                inputs.seed("noise_seed", "The seed of the noise on the pictures. The sampler has a seed of its own."),
                io.Combo.Input(
                    "crop",
                    options=unclip.CROPS,
                    default="center",
                    tooltip="center: CLIP sees the middle square of each picture. none: CLIP sees the whole picture, "
                    "squeezed into a square.",
                ),
            ],
            outputs=[io.Conditioning.Output(display_name="conditioning")],
        )

    @classmethod
    def validate_inputs(cls, weights: str | None = None) -> bool | str:
        return inputs.valid(unclip.read_weights, weights)

    @classmethod
    def execute(
        cls,
        conditioning: Conditioning,
        clip_vision: ClipVisionModel,
        image: Tensor,
        weights: str,
        noise_level: int,
        merge_noise_level: int,
        noise_seed: int,
        crop: str,
    ) -> io.NodeOutput:
        return io.NodeOutput(
            unclip.encode(
                conditioning,
                clip_vision,
                checks.image(image, "image"),
                weights=weights,
                noise_level=noise_level,
                merge_noise_level=merge_noise_level,
                noise_seed=noise_seed,
                crop=crop,
            )
        )


class UnCLIPStats(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoUnCLIPStats",
            display_name=unclip.STATS,
            category="Pentimento/condition",
            description="Gives a Stable unCLIP-L model the statistics of CLIP's embeddings. Without them the pictures "
            "get twice the noise. unCLIP-H needs no statistics.",
            search_aliases=["ViT-L-14_stats", "image_normalizer", "karlo", "unclip noise"],
            inputs=[
                io.Model.Input("model", tooltip="A Stable unCLIP-L model."),
                io.Combo.Input(
                    "stats_name",
                    options=folders.filenames(FOLDER),
                    tooltip="The file with the statistics, in models/unclip: ViT-L-14_stats.th, or the file from a "
                    "diffusers model's folder 'image_normalizer'.",
                ),
            ],
            outputs=[io.Model.Output(display_name="model")],
        )

    @classmethod
    def fingerprint_inputs(cls, model: None, stats_name: str | None) -> str:
        return folders.fingerprint(stats_name, FOLDER)

    @classmethod
    def execute(cls, model: ModelPatcher, stats_name: str) -> io.NodeOutput:
        return io.NodeOutput(unclip.with_statistics(model, folders.full_path(stats_name, FOLDER)))


NODES = [UnCLIPEncode, UnCLIPStats]
