"""A sampler that is held to the latent it starts from."""

from comfy.samplers import Sampler
from comfy_api.latest import io

from ...model_patchers.comfyui.schedule import Interval
from ...model_patchers.upscale import iterative_mixing
from .. import inputs


class SkipResidual(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoSkipResidual",
            display_name="Iterative Mixing Sampler",
            category="Pentimento/upscale",
            description="Holds a sampler to the upscaled latent that it starts from, firmly at first and then less and "
            "less (DemoFusion's skip residual). Sampling at denoise 1 then adds new detail and keeps the composition.",
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
                    tooltip="The sampler to hold, from KSamplerSelect for example. dpm_fast, dpm_adaptive, uni_pc, "
                    "uni_pc_bh2 and ar_video are refused.",
                ),
                io.Float.Input(
                    "exponent",
                    default=3.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="How soon the sampler becomes free: the larger, the sooner. DemoFusion's value is 3, and "
                    "half of the hold is gone when 70 % of the timesteps are left. 1 stays closer to the latent; 0 "
                    "holds fully until end_percent.",
                ),
                inputs.percent(
                    "start_percent",
                    0.0,
                    "The fraction of the timesteps after which the sampler is held. Before that it samples freely.",
                ),
                inputs.percent(
                    "end_percent",
                    1.0,
                    "The fraction of the timesteps after which the sampler is no longer held and samples freely.",
                ),
            ],
            outputs=[
                io.Sampler.Output(
                    display_name="sampler",
                    tooltip="The held sampler, for SamplerCustom or SamplerCustomAdvanced. Turn noise on there and use "
                    "the whole schedule (denoise 1).",
                )
            ],
        )

    @classmethod
    def execute(cls, sampler: Sampler, exponent: float, start_percent: float, end_percent: float) -> io.NodeOutput:
        return io.NodeOutput(iterative_mixing.iterative_mixing(sampler, exponent, Interval(start_percent, end_percent)))


NODES = [SkipResidual]
