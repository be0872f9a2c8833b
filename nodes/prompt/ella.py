"""ELLA: long prompts for Stable Diffusion 1.5."""

from comfy.model_patcher import ModelPatcher
from comfy.sd import CLIP
from comfy_api.latest import io

from ...model_patchers.comfyui.folders import filenames, full_path
from ...model_patchers.prompt.ella import ELLA, apply, load
from ...model_patchers.prompt.ella_text import LENGTHS, encode

FOLDER = "ella"
ELLASocket = io.Custom("PENTIMENTO_ELLA")


class LoadELLA(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoLoadELLA",
            display_name="Load ELLA",
            category="Pentimento/prompt",
            description="Loads ELLA, the connector that lets Stable Diffusion 1.5 follow long prompts read by T5.",
            search_aliases=["ella", "tsc", "long prompt", "t5 for sd 1.5", "prompt following"],
            inputs=[
                io.Combo.Input(
                    "ella_name",
                    options=filenames(FOLDER),
                    tooltip="ELLA's file in models/ella: ella-sd1.5-tsc-t5xl.safetensors.",
                )
            ],
            outputs=[ELLASocket.Output(display_name="ella")],
        )

    @classmethod
    def execute(cls, ella_name: str) -> io.NodeOutput:
        return io.NodeOutput(load(full_path(ella_name, FOLDER)))


class ELLATextEncode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoELLATextEncode",
            display_name="ELLA Text Encode",
            category="Pentimento/prompt",
            description="Reads a long prompt with T5, and with CLIP too if you like, for a model with Apply ELLA. Use "
            "one for the positive and one for the negative prompt.",
            search_aliases=["ella", "t5", "long prompt", "text encode", "prompt"],
            inputs=[
                ELLASocket.Input("ella", tooltip="The connector, from Load ELLA."),
                io.Clip.Input("t5", tooltip="The text encoder from Load T5 for ELLA."),
                io.String.Input(
                    "text",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="What the picture shows, in sentences. Parentheses are no weights here.",
                ),
                io.Combo.Input(
                    "length",
                    options=list(LENGTHS),
                    tooltip="128 tokens: as ELLA was trained, some 90 words; what is longer is cut. flexible: as many "
                    "tokens as the text has.",
                ),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="The checkpoint's own text encoder. Its tokens follow ELLA's: for trigger words, weights "
                    "and embeddings, and for finetunes that need them. Connect it for both prompts or for none.",
                ),
                io.String.Input(
                    "clip_text",
                    multiline=True,
                    dynamic_prompts=True,
                    default="",
                    optional=True,
                    tooltip="What clip reads; empty = text. Weights as (word:1.2) and embedding:name work here.",
                ),
            ],
            outputs=[io.Conditioning.Output(display_name="conditioning")],
        )

    @classmethod
    def execute(
        cls, ella: ELLA, t5: CLIP, text: str, length: str, clip: CLIP | None = None, clip_text: str = ""
    ) -> io.NodeOutput:
        return io.NodeOutput(encode(ella, t5, text, length, clip, clip_text))


class ApplyELLA(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoApplyELLA",
            display_name="Apply ELLA",
            category="Pentimento/prompt",
            description="Has ELLA give the model its texts anew at each timestep, whatever the sampler and scheduler.",
            search_aliases=["ella", "long prompt", "ella apply"],
            inputs=[
                io.Model.Input("model", tooltip="Stable Diffusion 1.5, its inpainting model or a finetune."),
                ELLASocket.Input("ella", tooltip="The connector, from Load ELLA."),
            ],
            outputs=[io.Model.Output(display_name="model")],
        )

    @classmethod
    def execute(cls, model: ModelPatcher, ella: ELLA) -> io.NodeOutput:
        return io.NodeOutput(apply(model, ella))


NODES = [LoadELLA, ELLATextEncode, ApplyELLA]
