"""HiDiffusion beside the bare network: a step of a picture of twice the trained side, averaged over the run.

SD 1.5's network at a fifth of its width, 1024 x 1024 pixels, one row. Two fifths of the steps have RAU-Net and windows,
the others windows alone; each of the three kinds of call is timed by turns in one process and on one thread.
"""

import statistics
import time

import _pack

TURNS = 2
WIDTH = 64  # of the network: a fifth of SD 1.5's
SIDE = 128  # latent pixels
STEPS = 50


def run() -> dict:
    ours, peer = _pack.call(__file__)
    return {
        "title": "HiDiffusion: a step of SD 1.5 at 1024 x 1024",
        "ours": ours,
        "peer": peer,
        "peer_name": "the bare network",
        "note": "fp32, a fifth of the width, so attention counts for more. At the whole width: 1.7 x fewer operations.",
    }


def main() -> list[dict]:
    """Both sides' time."""
    _pack.load()
    import comfy.supported_models
    import torch
    from comfy import model_management
    from comfy.model_patcher import CoreModelPatcher

    from pentimento.model_patchers.sample import hidiffusion

    torch.set_num_threads(1)
    device = model_management.get_torch_device()
    config = comfy.supported_models.SD15(
        {"in_channels": 4, "out_channels": 4, "model_channels": WIDTH, "num_res_blocks": [2] * 4, "image_size": 32}
        | {"channel_mult": [1, 2, 4, 4], "transformer_depth": [1] * 6 + [0] * 2, "transformer_depth_middle": 1}
        | {"transformer_depth_output": [1] * 9 + [0] * 3, "use_spatial_transformer": True, "context_dim": 768}
        | {"legacy": False}
    )
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({})
    for parameter in model.parameters():
        parameter.detach().fill_(0.01)
    settings = hidiffusion.HiDiffusion("sd", 512, True, True, hidiffusion.AUTO, 0, False)
    patcher = CoreModelPatcher(model, device, model_management.unet_offload_device())
    patched = hidiffusion.attach_to(patcher, settings)
    model_management.load_models_gpu([patched])

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 4, SIDE, SIDE, generator=generator).to(device)
    text, sigmas = torch.randn(1, 77, 768, generator=generator).to(device), torch.linspace(10, 0, STEPS + 1)

    def call(wrappers: dict, step: int) -> None:
        options = {"wrappers": wrappers, "sample_sigmas": sigmas, "sigmas": sigmas[step : step + 1]}
        model.diffusion_model(x, torch.ones(1, device=device), text, transformer_options=options).cpu()

    calls = {"bare": ({}, 0), "first": (patched.wrappers, 0), "rest": (patched.wrappers, STEPS - 1)}
    times: dict[str, list[float]] = {name: [] for name in calls}
    with torch.inference_mode():
        for _ in range(TURNS):
            for name, arguments in calls.items():
                start = time.perf_counter()
                call(*arguments)
                times[name].append(time.perf_counter() - start)
    bare, first, rest = (statistics.median(seconds) for seconds in times.values())
    return [{"seconds": 0.4 * first + 0.6 * rest}, {"seconds": bare}]
