"""CD Tuner's sliders for the UNet."""

from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io

from ...model_patchers.colour import detail_tuner


def slider(name: str, bound: float, tooltip: str) -> io.Float.Input:
    """A setting from -bound to bound, 0 by default."""
    return io.Float.Input(name, default=0.0, min=-bound, max=bound, step=0.1, tooltip=tooltip)


class DetailTuner(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoDetailTuner",
            display_name="Detail Tuner",
            category="Pentimento/colour",
            description="CD Tuner's sliders for Stable Diffusion 1, 2 and SDXL: more or less detail and contrast by a "
            "few weights of the network, and a shift of the colours once, near the end of the sampling.",
            search_aliases=["cd tuner", "cd-tuner", "detail", "add detail", "detail tweaker", "color", "flat"],
            inputs=[
                io.Model.Input("model", tooltip="A model of SD 1, SD 2 or SDXL, after its LoRAs."),
                slider(
                    "detail_1",
                    10.0,
                    "CD Tuner's d1: more detail above 0, smoother below. It scales the network's first convolution. "
                    "Try -5 to 5.",
                ),
                slider(
                    "detail_2",
                    10.0,
                    "CD Tuner's d2: more detail above 0, smoother below. It scales the network's last normalisation. "
                    "Try -5 to 5.",
                ),
                slider(
                    "contrast_1",
                    20.0,
                    "CD Tuner's con1: a shift of the network's answer in the first channel of the latent, which is "
                    "close to lightness, in all steps.",
                ),
                slider("contrast_2", 20.0, "CD Tuner's con2: moves the latent's first channel once, near the end."),
                slider("brightness", 20.0, "CD Tuner's bri: lighter above 0, darker below, once, near the end."),
                slider("colour_1", 20.0, "CD Tuner's col1: more red above 0, more cyan below."),
                slider("colour_2", 20.0, "CD Tuner's col2: more green above 0, more magenta below."),
                slider("colour_3", 20.0, "CD Tuner's col3: more blue above 0, more yellow below."),
                io.Int.Input(
                    "steps_before_end",
                    default=1,
                    min=0,
                    max=1000,
                    tooltip="How many steps before the last one contrast_2, brightness and the colours act. 0 is the "
                    "last step, 1 the one before it.",
                ),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="The tuned model, for any sampler.")],
        )

    @classmethod
    def execute(
        cls,
        model: ModelPatcher,
        detail_1: float,
        detail_2: float,
        contrast_1: float,
        contrast_2: float,
        brightness: float,
        colour_1: float,
        colour_2: float,
        colour_3: float,
        steps_before_end: int,
    ) -> io.NodeOutput:
        offsets = detail_tuner.Offsets(contrast_2, brightness, colour_1, colour_2, colour_3)
        return io.NodeOutput(detail_tuner.apply(model, detail_1, detail_2, contrast_1, offsets, steps_before_end))


NODES = [DetailTuner]
