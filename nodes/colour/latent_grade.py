"""Grades of pictures while they are sampled."""

from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io

from ...model_patchers.colour import latent_grade, vectorscope
from .. import inputs

BY_RULE = "by the rule calibrated 1 is half of the way from black to white"


def slider(name: str, bound: float, tooltip: str) -> io.Float.Input:
    """A setting from -bound to bound, 0 by default."""
    return io.Float.Input(name, default=0.0, min=-bound, max=bound, step=0.01, tooltip=tooltip)


class LatentGrade(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoLatentGrade",
            display_name="Latent Grade",
            category="Pentimento/colour",
            description="Changes brightness, contrast and colours of a picture while it is sampled, so that the model "
            "draws light and materials that fit. Works with any sampler and nearly any model; also the settings of "
            "VectorscopeCC.",
            search_aliases=[
                "vectorscope",
                "vectorscopecc",
                "color correction",
                "colour grading",
                "color grading",
                "brightness",
                "contrast",
                "saturation",
                "temperature",
                "offset noise",
            ],
            inputs=[
                io.Model.Input(
                    "model", tooltip="The diffusion model, after its LoRAs: any model of pictures or videos."
                ),
                slider("brightness", 5.0, f"Lighter above 0, darker below; {BY_RULE}. Try 0.2."),
                slider("contrast", 5.0, "More contrast above 0, less below. Calibrated: 0.2 is 20 % more."),
                slider("red", 4.0, f"More red above 0, more cyan below; {BY_RULE}. Try 0.1."),
                slider("green", 4.0, f"More green above 0, more magenta below; {BY_RULE}. Try 0.1."),
                slider("blue", 4.0, f"More blue above 0, more yellow below; {BY_RULE}. Try 0.1."),
                slider(
                    "temperature",
                    4.0,
                    "Warmer above 0, colder below: added to red and taken from blue. Try 0.1 by the rule calibrated.",
                ),
                io.Float.Input(
                    "saturation",
                    default=1.0,
                    min=0.0,
                    max=2.0,
                    step=0.01,
                    tooltip="1 changes nothing, more makes colours stronger, less makes them greyer.",
                ),
                io.Combo.Input(
                    "rule",
                    options=list(latent_grade.RULES),
                    default="calibrated",
                    tooltip="calibrated: settings are measured in the colours of ComfyUI's preview and are as strong "
                    "for 10 steps as for 40, with any model that has a preview. vectorscope: the formulas and settings "
                    "of the extension VectorscopeCC, for SD 1, 2 and SDXL.",
                ),
                io.Combo.Input(
                    "schedule",
                    options=list(vectorscope.SCHEDULES),
                    default="flat",
                    tooltip="Which steps grade most. flat: all alike. cos and 1 - sin: the first ones, which set the "
                    "composition. sin and 1 - cos: the last ones, so that the composition stays.",
                ),
                io.Combo.Input(
                    "target",
                    options=list(vectorscope.TARGETS),
                    default="straight abs",
                    tooltip="What brightness and colours are multiplied by, by the rule vectorscope alone: the latent "
                    "itself (straight), the noisy one (cross), ones, or noise. abs: without its sign.",
                ),
                io.Combo.Input(
                    "edit",
                    options=list(latent_grade.EDITS),
                    default="denoised",
                    tooltip="What is changed, by the rule vectorscope alone. denoised: the prediction of the picture. "
                    "input: the noisy latent, which is stronger (the extension's Alt).",
                ),
                inputs.seed("seed", "The seed of the targets normal, uniform and multi-res. Nothing else uses it."),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="The model that grades, for any sampler.")],
        )

    @classmethod
    def execute(
        cls,
        model: ModelPatcher,
        brightness: float,
        contrast: float,
        red: float,
        green: float,
        blue: float,
        temperature: float,
        saturation: float,
        rule: str,
        schedule: str,
        target: str,
        edit: str,
        seed: int,
    ) -> io.NodeOutput:
        colours = red + temperature, green, blue - temperature
        grade = vectorscope.Grade(brightness, contrast, saturation, *colours)
        return io.NodeOutput(latent_grade.apply(model, grade, rule, schedule, target, edit, seed))


class GradeBrackets(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoGradeBrackets",
            display_name="Grade Brackets",
            category="Pentimento/colour",
            description="Makes of one model a list of models that draw the same picture in several exposures, from "
            "dark to light. Connect it to one sampler, which runs once for each, with one seed. Exposure Fusion then "
            "makes one picture with detail in shadows and lights.",
            search_aliases=["hdr", "high dynamic range", "exposure bracketing", "vectorscope hdr", "brackets"],
            inputs=[
                io.Model.Input("model", tooltip="The diffusion model, after its LoRAs and other patches."),
                io.Int.Input(
                    "count",
                    default=5,
                    min=3,
                    max=9,
                    step=2,
                    tooltip="The number of exposures, an odd one: the middle one is the picture as it is.",
                ),
                io.Float.Input(
                    "gap",
                    default=1.25,
                    min=0.0,
                    max=5.0,
                    step=0.05,
                    tooltip="The difference of brightness between neighbours. The script High Dynamic Range has 0.5 to "
                    "2.5.",
                ),
                io.Combo.Input(
                    "rule",
                    options=list(latent_grade.RULES)[::-1],
                    default="vectorscope",
                    optional=True,
                    tooltip="vectorscope: as the script High Dynamic Range of VectorscopeCC, for SD 1, 2 and SDXL. "
                    "calibrated: for any model that has a preview; a gap of 1 is then a twentieth of the way from "
                    "black to white.",
                ),
            ],
            outputs=[
                io.Model.Output(
                    display_name="models", is_output_list=True, tooltip="A list of models, the darkest first."
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, count: int | None = None) -> bool | str:
        return inputs.valid(latent_grade.check_count, count)

    @classmethod
    def execute(cls, model: ModelPatcher, count: int, gap: float, rule: str = "vectorscope") -> io.NodeOutput:
        return io.NodeOutput(latent_grade.brackets(model, count, gap, rule))


NODES = [LatentGrade, GradeBrackets]
