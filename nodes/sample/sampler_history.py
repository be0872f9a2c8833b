"""The last steps of a run, and one picture of them."""

from comfy.samplers import CFGGuider, Sampler
from comfy_api.latest import io
from torch import Tensor

from ...model_patchers.comfyui.conditioning import Latent
from ...model_patchers.comfyui.results import home
from ...model_patchers.pixels import checks
from ...model_patchers.sample import sampler_history

ALIASES = ["anti-burn", "anti burn", "SamplerCustomAdvanced", "average last steps", "x0 history"]


class SamplerHistory(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoSamplerHistory",
            display_name="Sample with History",
            category="Pentimento/sample",
            description="Samples as SamplerCustomAdvanced does, and also gives what the model predicted in the last "
            "steps. Decode that batch and merge it with Merge History (Anti-Burn).",
            search_aliases=ALIASES,
            inputs=[
                io.Noise.Input("noise", tooltip="From RandomNoise."),
                io.Guider.Input("guider", tooltip="From CFGGuider, BasicGuider or another node with a guider."),
                io.Sampler.Input("sampler", tooltip="From KSamplerSelect or Sampler Options."),
                io.Sigmas.Input("sigmas", tooltip="From BasicScheduler or another scheduler."),
                io.Latent.Input("latent_image", tooltip="The latent to start from, of a picture or a video."),
                io.Int.Input(
                    "keep",
                    default=3,
                    min=1,
                    max=64,
                    tooltip="How many of the last predictions are returned. 2 to 4 smooths a little. A run of fewer "
                    "steps gives fewer.",
                ),
                io.Int.Input(
                    "skip",
                    default=0,
                    min=0,
                    max=24,
                    tooltip="How many of the very last predictions are left out. 1 or 2 avoids what the last steps "
                    "burn in. If no prediction is left over, the history is the result.",
                ),
            ],
            outputs=[
                io.Latent.Output(display_name="output"),
                io.Latent.Output(display_name="denoised_output"),
                io.Latent.Output(
                    display_name="history",
                    tooltip="The last predictions as a batch, oldest first: all pictures of a step, then those of the "
                    "next. They are kept in main memory while the model samples.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        noise: object,
        guider: CFGGuider,
        sampler: Sampler,
        sigmas: Tensor,
        latent_image: Latent,
        keep: int,
        skip: int,
    ) -> io.NodeOutput:
        samples = latent_image["samples"]
        if not samples.is_nested:
            latent_image = {**latent_image, "samples": checks.latent(samples, "latent_image")}
        latents = sampler_history.sample(noise, guider, sampler, sigmas, latent_image, keep, skip)
        return io.NodeOutput(*({**latent, "samples": home(latent["samples"])} for latent in latents))


class MergeHistory(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoMergeHistory",
            display_name="Merge History",
            category="Pentimento/sample",
            description="Merges pictures of one subject, such as the last steps of a run, into one. Single odd values "
            "disappear, and noise and burned detail become smoother.",
            search_aliases=[*ALIASES, "average images", "median stack", "mean of images"],
            inputs=[
                io.Image.Input("images", tooltip="A batch of equally large pictures, such as a decoded history."),
                io.Combo.Input(
                    "rule",
                    options=list(sampler_history.RULES),
                    default="mean and median",
                    tooltip="For each pixel: the mean, the median (ignores single odd values), or half of each, which "
                    "is Anti-Burn's rule.",
                ),
                io.Int.Input(
                    "batch_size",
                    default=1,
                    min=1,
                    max=4096,
                    optional=True,
                    tooltip="How many pictures were sampled at once: 1 merges all pictures into one, 4 merges every "
                    "fourth, into four pictures. For a video it is the number of its frames.",
                ),
            ],
            outputs=[io.Image.Output(display_name="image")],
        )

    @classmethod
    def execute(cls, images: Tensor, rule: str, batch_size: int = 1) -> io.NodeOutput:
        images = checks.image(images, "images")
        return io.NodeOutput(home(sampler_history.merge(images, rule, batch_size)))


NODES = [SamplerHistory, MergeHistory]
