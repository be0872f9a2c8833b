"""Pictures far larger than the model knows."""

from comfy.model_patcher import ModelPatcher
from comfy.samplers import Sampler
from comfy_api.latest import io
from torch import Tensor

from ...model_patchers.comfyui.conditioning import Conditioning, Latent
from ...model_patchers.upscale.demofusion import LADDERS, Settings, demofusion


class DemoFusion(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoDemoFusion",
            display_name="DemoFusion Upscale",
            category="Pentimento/upscale",
            description="Samples a picture at the size that the model knows and then ever larger, drawing new detail "
            "while it keeps the composition (DemoFusion). For any model, sampler, ControlNet and mask.",
            search_aliases=["demofusion", "hires fix", "high resolution", "4k", "multidiffusion", "tiled upscale"],
            inputs=[
                io.Model.Input("model", tooltip="The diffusion model, after its LoRAs and other patches."),
                io.Conditioning.Input("positive", tooltip="What the picture shows."),
                io.Conditioning.Input("negative", tooltip="What it does not show."),
                io.Sampler.Input(
                    "sampler",
                    tooltip="Of all phases. Any but dpm_fast, dpm_adaptive, uni_pc, uni_pc_bh2 and ar_video.",
                ),
                io.Sigmas.Input("sigmas", tooltip="The schedule of every phase, with denoise 1."),
                io.Latent.Input(
                    "latent",
                    tooltip="Empty: the first phase draws a picture of its size, best the one that the model knows. A "
                    "picture's latent: it is the first phase. A noise mask keeps parts of it.",
                ),
                io.Float.Input(
                    "cfg",
                    default=7.5,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    round=0.01,
                    tooltip="How strictly to follow the prompts, in all phases.",
                ),
                io.Int.Input(
                    "noise_seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="Of the first phase's noise; each later phase has the next.",
                ),
                io.Float.Input(
                    "scale",
                    default=2.0,
                    min=1.0,
                    max=16.0,
                    step=0.01,
                    tooltip="Width and height of the result over the latent's; fractions are fine.",
                ),
                io.Combo.Input(
                    "phases",
                    options=list(LADDERS),
                    default="every multiple",
                    tooltip="The sizes on the way. every multiple: 2, 3, ... times, as the authors. doubling: 2, 4, "
                    "..., faster from 4 on. one: straight to the scale.",
                ),
                io.Int.Input(
                    "window",
                    default=1024,
                    min=64,
                    max=8192,
                    step=8,
                    tooltip="Width and height of a window in pixels: what the model was trained for, 1024 for SDXL.",
                ),
                io.Int.Input(
                    "overlap",
                    default=512,
                    min=0,
                    max=8184,
                    step=8,
                    tooltip="How many pixels neighbouring windows share at least. Half a window is the authors'; a "
                    "quarter saves 20 to 30 % of the time at 3 and 4 times, and nothing at 2.",
                ),
                io.Boolean.Input(
                    "jitter",
                    default=True,
                    tooltip="Moves inner windows at random, by up to a quarter of the overlap and anew at each step, "
                    "so that no border stays in one place.",
                    advanced=True,
                ),
                io.Float.Input(
                    "residual",
                    default=3.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="How soon a phase is free of the phase before: the larger, the sooner. Smaller keeps more "
                    "of the composition, and of the blur.",
                ),
                io.Float.Input(
                    "dilated",
                    default=1.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="How soon the views of the whole picture give way to windows: the larger, the sooner. "
                    "Smaller repeats things less, and may draw a grain.",
                    advanced=True,
                ),
                io.Float.Input(
                    "blur",
                    default=1.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="How soon the blur before the views fades: the larger, the sooner.",
                    advanced=True,
                ),
                io.Float.Input(
                    "sigma",
                    default=0.8,
                    min=0.01,
                    max=10.0,
                    step=0.01,
                    tooltip="Width of that blur at first, in latent pixels. 0.01 = none.",
                    advanced=True,
                ),
                io.Float.Input(
                    "skip_below",
                    default=0.01,
                    min=0.0,
                    max=0.5,
                    step=0.01,
                    tooltip="Windows or views that count less than this in a step are not computed. 0.05 saves 14 % of "
                    "the time, 0 is the authors' algorithm to the letter.",
                    advanced=True,
                ),
                io.Float.Input(
                    "start",
                    default=1.0,
                    min=0.01,
                    max=1.0,
                    step=0.01,
                    tooltip="The part of the steps that phases after the first do, like denoise. Less is faster and "
                    "changes less.",
                ),
            ],
            outputs=[
                io.Latent.Output(
                    display_name="latent",
                    tooltip="The last phase's, for a VAE; a large one is best decoded with Tiled VAE Decode, Seamless.",
                ),
                io.Latent.Output(
                    display_name="phase_latents",
                    is_output_list=True,
                    tooltip="Those of all phases, from the first to the last.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(
        cls, scale: float | None = None, window: int | None = None, overlap: int | None = None
    ) -> bool | str:
        given = {"scale": scale, "window": window, "overlap": overlap}
        if window is None or overlap is None:  # they come over links
            given = {"scale": scale}
        known = {name: value for name, value in given.items() if value is not None}
        return Settings(**known).problem() or True

    @classmethod
    def execute(
        cls,
        model: ModelPatcher,
        positive: Conditioning,
        negative: Conditioning,
        sampler: Sampler,
        sigmas: Tensor,
        latent: Latent,
        cfg: float,
        noise_seed: int,
        scale: float,
        phases: str,
        window: int,
        overlap: int,
        jitter: bool,
        residual: float,
        dilated: float,
        blur: float,
        sigma: float,
        skip_below: float,
        start: float,
    ) -> io.NodeOutput:
        settings = Settings(scale, phases, window, overlap, jitter, residual, dilated, blur, sigma, skip_below, start)
        found = demofusion(model, positive, negative, sampler, sigmas, latent, cfg, noise_seed, settings)
        return io.NodeOutput(found[-1], found)


NODES = [DemoFusion]
