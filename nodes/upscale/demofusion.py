"""Pictures far larger than the model knows."""

from comfy.model_patcher import ModelPatcher
from comfy.samplers import Sampler
from comfy_api.latest import io
from torch import Tensor

from ...model_patchers.comfyui.conditioning import Conditioning, Latent
from ...model_patchers.comfyui.results import home
from ...model_patchers.upscale import demofusion
from .. import inputs

DEFAULT = demofusion.Settings()


class DemoFusion(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PentimentoDemoFusion",
            display_name="DemoFusion Upscale",
            category="Pentimento/upscale",
            description="Samples a picture at the size that the model knows and then at larger and larger sizes: each "
            "phase adds detail and keeps the composition (DemoFusion). Works with the usual models, samplers, "
            "ControlNets and masks.",
            search_aliases=["demofusion", "hires fix", "high resolution", "4k", "multidiffusion", "tiled upscale"],
            inputs=[
                io.Model.Input("model", tooltip="The diffusion model, after its LoRAs and other patches."),
                io.Conditioning.Input("positive", tooltip="The conditioning that says what the picture shows."),
                io.Conditioning.Input("negative", tooltip="The conditioning that says what the picture must not show."),
                io.Sampler.Input(
                    "sampler",
                    tooltip="The sampler of all phases. dpm_fast, dpm_adaptive, uni_pc, uni_pc_bh2 and ar_video are "
                    "refused.",
                ),
                io.Sigmas.Input("sigmas", tooltip="The noise schedule of all phases. Make it with denoise 1."),
                io.Latent.Input(
                    "latent",
                    tooltip="The latent of the first phase. An empty one is sampled; its size is best the one that the "
                    "model knows. A picture's latent is the first phase as it is. A noise mask keeps parts of it.",
                ),
                io.Float.Input(
                    "cfg",
                    default=7.5,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    round=0.01,
                    tooltip="How strictly the picture follows the prompts, in all phases.",
                ),
                inputs.seed(
                    "noise_seed", "The seed of the first phase's noise. Each later phase uses the next number."
                ),
                io.Float.Input(
                    "scale",
                    default=DEFAULT.scale,
                    min=1.0,
                    max=16.0,
                    step=0.01,
                    tooltip="How many times wider and higher the result is than the latent. Fractions work too.",
                ),
                io.Combo.Input(
                    "phases",
                    options=list(demofusion.LADDERS),
                    default=DEFAULT.phases,
                    tooltip="The sizes on the way to the result. every multiple: 2, 3, ... times, as the authors do. "
                    "doubling: 2, 4, ... times, faster for scales above 3. one: the final size at once.",
                ),
                inputs.window(
                    DEFAULT.window,
                    "The width and height of a window in pixels: the size that the model was trained for, 1024 for "
                    "SDXL.",
                ),
                inputs.overlap(
                    DEFAULT.overlap,
                    "The minimum number of pixels that neighbouring windows share. The authors use half a window. A "
                    "quarter saves 20 to 30 % of the time at 3 and 4 times, and nothing at 2 times.",
                ),
                io.Boolean.Input(
                    "jitter",
                    default=DEFAULT.jitter,
                    tooltip="Moves windows at random at each step, by up to a quarter of the overlap, so that no seam "
                    "stays in one place. Windows at the picture's border stay there.",
                    advanced=True,
                ),
                io.Float.Input(
                    "residual",
                    default=DEFAULT.residual,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="How soon each phase becomes free of the phase before: the larger, the sooner. Smaller "
                    "values keep more of the composition, and more blur.",
                ),
                io.Float.Input(
                    "dilated",
                    default=DEFAULT.dilated,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="How soon the dilated views of the whole picture give way to windows: the larger, the "
                    "sooner. Smaller values repeat objects less, and may add grain.",
                    advanced=True,
                ),
                io.Float.Input(
                    "blur",
                    default=DEFAULT.blur,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="How soon the blur of the dilated views fades: the larger, the sooner.",
                    advanced=True,
                ),
                io.Float.Input(
                    "sigma",
                    default=DEFAULT.sigma,
                    min=0.01,
                    max=10.0,
                    step=0.01,
                    tooltip="The width of the dilated views' blur at the start of a phase, in latent pixels. 0.01 = no "
                    "blur.",
                    advanced=True,
                ),
                io.Float.Input(
                    "skip_below",
                    default=DEFAULT.skip_below,
                    min=0.0,
                    max=0.5,
                    step=0.01,
                    tooltip="Windows or dilated views are not computed in steps where they weigh less than this. 0 is "
                    "the authors' exact algorithm; 0.05 saves 14 % of its time.",
                    advanced=True,
                ),
                io.Float.Input(
                    "start",
                    default=DEFAULT.start,
                    min=0.01,
                    max=1.0,
                    step=0.01,
                    tooltip="The fraction of the steps that each phase after the first runs, like denoise. A smaller "
                    "fraction is faster and changes less.",
                ),
            ],
            outputs=[
                io.Latent.Output(
                    display_name="latent",
                    tooltip="The last phase's latent. Decode a large one with Tiled VAE Decode, Seamless.",
                ),
                io.Latent.Output(
                    display_name="phase_latents",
                    is_output_list=True,
                    tooltip="The latents of all phases, from the first to the last.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(
        cls, scale: float | None = None, window: int | None = None, overlap: int | None = None
    ) -> bool | str:
        pair = {} if None in (window, overlap) else {"window": window, "overlap": overlap}  # None comes over a link
        known = pair if scale is None else {"scale": scale, **pair}
        return demofusion.Settings(**known).problem() or True

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
        settings = demofusion.Settings(
            scale=scale,
            phases=phases,
            window=window,
            overlap=overlap,
            jitter=jitter,
            residual=residual,
            dilated=dilated,
            blur=blur,
            sigma=sigma,
            skip_below=skip_below,
            start=start,
        )
        latents = demofusion.demofusion(
            model, positive, negative, sampler, sigmas, latent, cfg=cfg, noise_seed=noise_seed, settings=settings
        )
        latents = [{**each, "samples": home(each["samples"])} for each in latents]
        return io.NodeOutput(latents[-1], latents)


NODES = [DemoFusion]
