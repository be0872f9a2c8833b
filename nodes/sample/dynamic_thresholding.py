"""High CFG scales without burned colours."""

from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io

from ...model_patchers.sample import dynamic_thresholding
from ...model_patchers.sample.dynamic_thresholding import AD, MEAN, MODES, STD, ZERO, Rule, Scale


def scale(name: str, default: float, tooltip: str) -> io.Float.Input:
    return io.Float.Input(name, default=default, min=0.0, max=100.0, step=0.5, round=0.01, tooltip=tooltip)


def fraction(name: str, tooltip: str) -> io.Float.Input:
    return io.Float.Input(name, default=1.0, min=0.0, max=1.0, step=0.01, round=0.0001, tooltip=tooltip)


def mode(name: str, tooltip: str) -> io.Combo.Input:
    return io.Combo.Input(name, options=list(MODES), default="Constant", tooltip=tooltip)


class DynamicThresholding(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoDynamicThresholding",
            display_name="Dynamic Thresholding",
            category="Pentimento/sample",
            description="Lets you sample with a high CFG scale without burned colours: each step's result gets the "
            "contrast that it would have at a lower scale (mimic_scale).",
            search_aliases=["dynthres", "cfg scale fix", "mimic cfg", "high cfg", "burned", "oversaturated"],
            inputs=[
                io.Model.Input("model", tooltip="Any diffusion model that is sampled with a CFG scale above 1."),
                scale(
                    "mimic_scale",
                    7.0,
                    "The CFG scale whose contrast the result has: a scale at which the model looks right. Set the "
                    "higher scale, such as 15, in the sampler. 40 or more steps look best.",
                ),
                fraction(
                    "threshold_percentile",
                    "How many of the values set the contrast. 1 = all, so that nothing is clipped. At 0.95 the 5 % of "
                    "the values that are furthest from the mean are clipped. Below 0.9 detail is lost. Only for AD.",
                ),
                mode(
                    "mimic_mode",
                    "How mimic_scale changes over the run. Down: from mimic_scale to mimic_scale_min. Up: from "
                    "mimic_scale_min to mimic_scale. Half Cosine modes go half of the way. Constant: no change.",
                ),
                mode(
                    "cfg_mode",
                    "How the sampler's CFG scale changes over the run. Down: from that scale to cfg_scale_min. Up: "
                    "from cfg_scale_min to that scale. Half Cosine modes go half of the way. Constant: no change.",
                ),
                scale(
                    "mimic_scale_min", 0.0, "The lowest mimicked scale of a mimic_mode other than Constant, such as 3."
                ),
                scale("cfg_scale_min", 0.0, "The lowest CFG scale of a cfg_mode other than Constant, such as 3."),
                io.Float.Input(
                    "sched_val",
                    default=1.0,
                    min=0.0,
                    max=100.0,
                    step=0.01,
                    tooltip="For Power modes the exponent: 4 changes late in the run, 0.25 early. For Repeating modes "
                    "and Sawtooth the number of repetitions. Other modes ignore the value.",
                ),
                io.Boolean.Input(
                    "separate_feature_channels",
                    default=True,
                    tooltip="On: each channel of the latent has its own contrast. Off: all channels of a picture have "
                    "one, which keeps more of the high scale's colours.",
                ),
                io.Combo.Input(
                    "scaling_startpoint",
                    options=[MEAN, ZERO],
                    default=MEAN,
                    tooltip="MEAN changes the contrast about the mean of each channel, so the overall colour stays. "
                    "ZERO changes the overall colour too.",
                ),
                io.Combo.Input(
                    "variability_measure",
                    options=[AD, STD],
                    default=AD,
                    tooltip="How contrast is measured. AD: by the values furthest from the mean. STD: by the standard "
                    "deviation, which single bright spots hardly change.",
                ),
                fraction(
                    "interpolate_phi",
                    "How much of the thresholded result is used: 1 = all, 0 = none, which is the high scale alone.",
                ),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="The model, for any sampler.")],
        )

    @classmethod
    def execute(
        cls,
        model: ModelPatcher,
        mimic_scale: float,
        threshold_percentile: float,
        mimic_mode: str,
        cfg_mode: str,
        mimic_scale_min: float,
        cfg_scale_min: float,
        sched_val: float,
        separate_feature_channels: bool,
        scaling_startpoint: str,
        variability_measure: str,
        interpolate_phi: float,
    ) -> io.NodeOutput:
        mimic = Scale(mimic_scale, mimic_scale_min, mimic_mode, sched_val)
        rule = Rule(
            threshold_percentile, separate_feature_channels, scaling_startpoint, variability_measure, interpolate_phi
        )
        return io.NodeOutput(dynamic_thresholding.patch(model, mimic, cfg_mode, cfg_scale_min, rule))


NODES = [DynamicThresholding]
