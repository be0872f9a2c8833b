"""Symmetric pictures."""

from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io

from ...model_patchers.sample import latent_mirror
from ...model_patchers.sample.latent_mirror import ALTERNATE, BLEND, DENOISED, INPUT, SYMMETRIES


def pan(name: str, tooltip: str) -> io.Float.Input:
    return io.Float.Input(name, default=0.0, min=-1.0, max=1.0, step=0.01, tooltip=tooltip)


class LatentMirror(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoLatentMirror",
            display_name="Latent Mirror",
            category="Pentimento/sample",
            description="Makes pictures symmetric while they are sampled: left and right alike, up and down, or as a "
            "rosette. With max_fraction 1 the symmetry is exact.",
            search_aliases=["latent mirroring", "symmetry", "kaleidoscope", "mandala", "mirror", "rosette", "dfaker"],
            inputs=[
                io.Model.Input("model", tooltip="Any diffusion model of pictures or videos."),
                io.Combo.Input(
                    "where",
                    options=[DENOISED, INPUT],
                    default=DENOISED,
                    tooltip="denoised: the model's prediction is made symmetric, exactly and without blur. input: what "
                    "the model sees is mirrored, as A1111's Latent Mirroring does.",
                ),
                io.Combo.Input(
                    "symmetry",
                    options=list(SYMMETRIES),
                    default="left-right",
                    tooltip="left-right, up-down: a mirror. both: two mirrors. half turn, quarter turn: a rosette of "
                    "two or four parts; quarter turn needs a square. channels: colours change places. none: only "
                    "pan_x and pan_y.",
                ),
                io.Combo.Input(
                    "mode",
                    options=[BLEND, ALTERNATE],
                    default=BLEND,
                    tooltip="blend: the mean of the picture and its mirror image, which makes it symmetric. alternate: "
                    "the mirror image alone at each step, which makes it only similar on both sides.",
                ),
                io.Float.Input(
                    "max_fraction",
                    default=0.25,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="The part of the steps in which the symmetry acts, from the start. 0.25: the composition "
                    "is symmetric and the details are free. 1: all is symmetric.",
                ),
                pan(
                    "pan_x",
                    "Moves the picture to the right at each of these steps, by this part of its width; negative values "
                    "move it to the left. What leaves the picture enters at the other side.",
                ),
                pan(
                    "pan_y",
                    "Moves the picture down at each of these steps, by this part of its height; negative values move "
                    "it up. What leaves the picture enters at the other side.",
                ),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="The model, for any sampler.")],
        )

    @classmethod
    def execute(
        cls,
        model: ModelPatcher,
        where: str,
        symmetry: str,
        mode: str,
        max_fraction: float,
        pan_x: float,
        pan_y: float,
    ) -> io.NodeOutput:
        return io.NodeOutput(latent_mirror.patch(model, where, symmetry, mode, max_fraction, pan_x, pan_y))


NODES = [LatentMirror]
