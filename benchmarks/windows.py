"""Windowed Diffusion beside the bare network: what cutting and fusing windows adds to a step.

A network of one level of SD 1.5's kind, in windows of 256 x 256 pixels, with a mask, CFG and one window in a call; the
bare network is called as often on as many rows of the same size. Both by turns in one process and on one thread, the
medians of turns.
"""

import statistics
import time

import _pack

TURNS = 7
WIDTH = 160  # of the network: half of SD 1.5's, which makes what is added count for more
SIDE, WINDOW, OVERLAP = 60, 32, 4  # latent pixels: 4 windows


def run() -> dict:
    ours, peer = _pack.call(__file__)
    added = 100 * (ours["seconds"] / peer["seconds"] - 1)
    return {
        "title": "Windowed Diffusion: a step of 4 windows",
        "ours": ours,
        "peer": peer,
        "peer_name": "the bare network, 4 calls",
        "note": f"480 x 480 px in windows of 256, CFG, fp32: {added:+.1f} % for each window",
    }


def main() -> list[dict]:
    """Both sides' time."""
    _pack.load()
    import comfy.samplers
    import comfy.supported_models
    import torch
    from comfy import model_management, sampler_helpers
    from comfy.model_patcher import CoreModelPatcher

    from pentimento.model_patchers.upscale import windows

    torch.set_num_threads(1)
    device = model_management.get_torch_device()
    config = comfy.supported_models.SD15(
        {"in_channels": 4, "out_channels": 4, "model_channels": WIDTH, "num_res_blocks": [1], "channel_mult": [1]}
        | {"transformer_depth": [1], "transformer_depth_output": [1, 1], "transformer_depth_middle": 1}
        | {"use_spatial_transformer": True, "context_dim": 768, "legacy": False, "image_size": 32}
    )
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({})
    for parameter in model.parameters():
        parameter.detach().fill_(0.01)
    patcher = CoreModelPatcher(model, device, model_management.unet_offload_device())
    patched = windows.apply(patcher, "gaussian", 8 * WINDOW, 8 * OVERLAP, False, 0, 1)
    model_management.load_models_gpu([patched])
    patched.pre_run()

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 4, SIDE, SIDE, generator=generator).to(device)
    text = torch.randn(1, 77, 768, generator=generator).to(device)
    half = (torch.arange(SIDE) < SIDE // 2).float().expand(1, SIDE, SIDE)
    prompts = {"positive": [[text, {"mask": half + 0.1}]], "negative": [[text, {}]]}
    converted = {name: sampler_helpers.convert_cond(prompt) for name, prompt in prompts.items()}
    conds = list(comfy.samplers.process_conds(model, x, converted, device).values())
    options = {"transformer_options": {"wrappers": patched.wrappers}}
    sigma, rows = torch.tensor([5.0], device=device), x[..., :WINDOW, :WINDOW].repeat(2, 1, 1, 1)

    def ours() -> None:
        comfy.samplers.calc_cond_batch(model, conds, x, sigma, options)[0].cpu()

    def bare() -> None:
        for _ in range(4):
            model.apply_model(rows, sigma.repeat(2), c_crossattn=text.repeat(2, 1, 1)).cpu()

    times = {work: [] for work in (ours, bare)}
    with torch.inference_mode():
        for turn in range(TURNS + 1):
            for work, seconds in times.items():
                start = time.perf_counter()
                work()
                if turn:  # the first is for threads and caches
                    seconds.append(time.perf_counter() - start)
    return [{"seconds": statistics.median(seconds)} for seconds in times.values()]
