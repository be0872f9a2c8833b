"""Makes demofusion.npz by running diffusers' DemoFusion pipeline on a narrow SDXL with seeded random weights.

    python tests/golden/make_demofusion.py PIPELINE

with examples/community/pipeline_demofusion_sdxl.py of github.com/huggingface/diffusers (58eb52c, Apache-2.0), in the
tests' environment and with matplotlib, which that file imports and does not use here.

The pipeline runs as it is, but for its demand that the picture's side be a multiple of 1024 px:

- Its windows overlap by 3 latent pixels, of which its jitter is the quarter, rounded down to 0: so none is moved, and
  nothing is padded for it.
- The scheduler is a DPM-Solver of order 1, which is Euler's method (DDIM) on latents that keep their variance. With
  EulerDiscreteScheduler the pipeline goes wrong: it resets the scheduler's step before `step`, but not before
  `scale_model_input`, so that the dilated views are scaled by the next step's sigma and the first windows of a phase by
  the last one's, 0. This scheduler scales nothing.
- The noise of a phase comes from torch's global generator, which is seeded with NOISE_SEED + phase - 1 as the phase
  begins.
- The VAE's decoder keeps the latents that it is given, the only place where the pipeline shows those of a phase after
  they were renormalised.

"fp16 errors" and "bf16 errors" say how far phases 2 and 3 are from these where the UNet runs in half precision.
"""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent
WINDOW, STRIDE = 8, 5  # latent pixels
SIZE = (24, 18)  # of the last phase's latent: the third, after 8 x 6 and 16 x 12
PHASES, STEPS, CFG, NOISE_SEED = 3, 8, 7.5, 20
SIGMA = 0.8


def pipeline_class(path: str) -> type:
    spec = importlib.util.spec_from_file_location("pipeline_demofusion_sdxl", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.DemoFusionSDXLPipeline


def main(path: str) -> None:
    sys.path.insert(0, str(HERE.parent))
    import conftest  # noqa: F401  puts ComfyUI on sys.path

    from kit import narrow
    from kit.assertions import relative_error
    from kit.precision import HALVES, PRECISIONS, Precision
    from kit.second_device.half import SummedInFloat32

    unet = narrow.diffusers_sdxl(WINDOW)
    found = run(path, unet)
    phases = [f"phase {phase}" for phase in range(2, PHASES + 1)]
    for name in HALVES:
        with SummedInFloat32():
            half = run(path, Precision(PRECISIONS[name]).lowered(unet))
        found[f"{name} errors"] = np.array([relative_error(half[phase], found[phase]) for phase in phases])
    np.savez_compressed(HERE / "demofusion.npz", **found)


def run(path: str, unet: torch.nn.Module) -> dict[str, np.ndarray]:
    """The sigmas and the latents of all phases."""
    from diffusers import AutoencoderKL, DPMSolverMultistepScheduler
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    from kit import narrow
    from kit.tensors import randn

    vae = AutoencoderKL(
        block_out_channels=(8,) * 4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=8,
        scaling_factor=1.0,
    )
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    text = CLIPTextModelWithProjection(CLIPTextConfig(projection_dim=1280, vocab_size=8, **sizes))  # asked its width
    scheduler = DPMSolverMultistepScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        solver_order=1,
        timestep_spacing="leading",
        steps_offset=1,
    )
    scheduler.set_timesteps(STEPS)
    pipeline = pipeline_class(path)(vae, None, text, None, None, unet, scheduler, add_watermarker=False)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.check_inputs = lambda *args, **kwargs: None

    found = {"sigmas": scheduler.sigmas.numpy()}
    ended = []

    def decode(latents: torch.Tensor, return_dict: bool = False) -> list[torch.Tensor]:
        found[f"phase {len(ended)}"] = latents.numpy()
        return [torch.zeros(1, 3, 8, 8)]

    def callback(step: int, t: torch.Tensor, latents: torch.Tensor) -> None:
        if step == STEPS - 1:
            ended.append(step)
            torch.manual_seed(NOISE_SEED + len(ended))

    vae.decode = decode
    positive, negative = narrow.sdxl_prompts()
    pipeline(
        prompt_embeds=positive[0][0],
        pooled_prompt_embeds=positive[0][1]["pooled_output"],
        negative_prompt_embeds=negative[0][0],
        negative_pooled_prompt_embeds=negative[0][1]["pooled_output"],
        latents=randn(1, 4, *(side // PHASES for side in SIZE), seed=NOISE_SEED),
        height=8 * SIZE[0],
        width=8 * SIZE[1],
        num_inference_steps=STEPS,
        guidance_scale=CFG,
        stride=STRIDE,
        sigma=SIGMA,
        callback=callback,
        output_type="pt",
        multi_decoder=False,
    )
    return found


if __name__ == "__main__":
    main(sys.argv[1])
