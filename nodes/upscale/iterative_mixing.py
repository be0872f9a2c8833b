"""A sampler that is held to the latent it began from."""

from comfy.samplers import Sampler
from comfy_api.latest import io

from ...model_patchers.comfyui.schedule import Interval
from ...model_patchers.upscale.iterative_mixing import iterative_mixing


class SkipResidual(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoSkipResidual",
            display_name="Iterative Mixing Sampler",
            category="Pentimento/upscale",
            description="Holds a sampler to the upscaled latent it begins from, firmly at first and less and less "
            "(DemoFusion's skip residual): full denoise draws new detail, and the composition stays.",
            search_aliases=[
                "iterative mixing",
                "skip residual",
                "demofusion",
                "hires fix",
                "upscale",
                "batch unsampler",
            ],
            inputs=[
                io.Sampler.Input(
                    "sampler",
                    tooltip="The sampler to hold, from KSamplerSelect and the like. Any but dpm_fast, dpm_adaptive, "
                    "uni_pc, uni_pc_bh2 and ar_video.",
                ),
                io.Float.Input(
                    "exponent",
                    default=3.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="The larger, the sooner the sampler is free. DemoFusion has 3: half free when 70 % of "
                    "the timesteps are left. 1 stays closer to the latent, 0 lets go only at end_percent.",
                ),
                io.Float.Input(
                    "start_percent",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    tooltip="The part of the timesteps after which the sampler is first held.",
                ),
                io.Float.Input(
                    "end_percent",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    tooltip="The part of the timesteps after which the sampler is free.",
                ),
            ],
            outputs=[
                io.Sampler.Output(
                    display_name="sampler",
                    tooltip="For SamplerCustom or SamplerCustomAdvanced, with the noise on and all of the schedule "
                    "(denoise 1).",
                )
            ],
        )

    @classmethod
    def execute(cls, sampler: Sampler, exponent: float, start_percent: float, end_percent: float) -> io.NodeOutput:
        return io.NodeOutput(iterative_mixing(sampler, exponent, Interval(start_percent, end_percent)))


NODES = [SkipResidual]
