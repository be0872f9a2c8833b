"""Samplers with all their options."""

from comfy.samplers import SAMPLER_NAMES
from comfy_api.latest import io

from ...model_patchers.sample import sampler_options


def number(name: str, default: float, most: float, step: float, tooltip: str) -> io.Float.Input:
    return io.Float.Input(name, default=default, min=0.0, max=most, step=step, round=0.0001, tooltip=tooltip)


class SamplerOptions(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoSamplerOptions",
            display_name="Sampler Options",
            category="Pentimento/sample",
            description="Chooses a sampler with its noise options: s_churn, s_noise, eta, and A1111's ENSD. An option "
            "that the sampler does not have is refused.",
            search_aliases=["KSamplerSelect", "churn", "sigma churn", "eta", "ENSD", "31337", "eta noise seed delta"],
            inputs=[
                io.Combo.Input(
                    "sampler_name",
                    options=list(SAMPLER_NAMES),
                    tooltip="The sampler. With the other inputs at their defaults it samples as from KSamplerSelect; "
                    "only dpm_adaptive has eta 0 there.",
                ),
                number(
                    "s_churn",
                    0.0,
                    1000.0,
                    0.5,
                    "Noise added before each step, over the whole run: 0 = none, 5 to 40 add texture. euler, heun, "
                    "heunpp2, dpm_2 and ddim have s_churn.",
                ),
                number("s_tmin", 0.0, 1000.0, 0.01, "s_churn adds noise only at sigmas of at least this value."),
                number(
                    "s_tmax", 0.0, 1000.0, 0.01, "s_churn adds noise only at sigmas up to this value. 0 = no bound."
                ),
                number(
                    "s_noise",
                    1.0,
                    10.0,
                    0.001,
                    "The strength of the noise between the steps. 1.005 to 1.03 adds detail and grain, 0.95 to 0.99 "
                    "smooths. Has an effect with ancestral and SDE samplers, lcm, and wherever s_churn is above 0.",
                ),
                number(
                    "eta",
                    1.0,
                    10.0,
                    0.01,
                    "How much of each step is noise that is drawn anew: 1 = the usual amount, 0 = none. Ancestral and "
                    "SDE samplers have eta.",
                ),
                io.Int.Input(
                    "noise_seed_offset",
                    default=0,
                    min=-(2**31),
                    max=2**31 - 1,
                    tooltip="Added to the sampler's seed for the noise between the steps, so that the noise varies and "
                    "the start stays. 31337 = A1111's usual ENSD. 0 = ComfyUI's own noise.",
                ),
            ],
            outputs=[
                io.Sampler.Output(
                    display_name="sampler", tooltip="The sampler, for SamplerCustom or SamplerCustomAdvanced."
                )
            ],
        )

    @classmethod
    def execute(
        cls,
        sampler_name: str,
        s_churn: float,
        s_tmin: float,
        s_tmax: float,
        s_noise: float,
        eta: float,
        noise_seed_offset: int,
    ) -> io.NodeOutput:
        values = s_churn, s_tmin, s_tmax, s_noise, eta, noise_seed_offset
        options = dict(zip(sampler_options.NEUTRAL, values, strict=True))
        return io.NodeOutput(sampler_options.sampler(sampler_name, options))


NODES = [SamplerOptions]
