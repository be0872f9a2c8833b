"""ELLA's connector beside the UNet evaluation that it serves: its share of a step.

Both prompts of 128 tokens go through the connector in one call per step; the denoiser is SD 1.5 at its real size, at
512 x 512, with the positive and the negative in one batch. Random weights: they take as long as real ones.
"""

import json

import _pack

SD15 = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 2, 4, 4],
    "num_heads": 8,
    "use_spatial_transformer": True,
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    "transformer_depth_middle": 1,
    "context_dim": 768,
    "legacy": False,
}


def run() -> dict:
    return _pack.compare(
        __file__,
        title="ELLA's connector beside SD 1.5's step, 512 x 512, CFG",
        peer="the UNet",
        note="fp32, two texts of 128 tokens; no peer: a step takes both",
        runs=1,
    )


def main(side: str) -> dict:
    _pack.load()
    import numpy
    import torch
    from comfy import model_management

    from pentimento.model_patchers.prompt.ella import ELLA

    device = model_management.get_torch_device()
    generator = torch.Generator().manual_seed(0)
    if side == "ours":
        golden = numpy.load(_pack.PACK / "tests" / "golden" / "ella.npz")
        shapes = json.loads(str(golden["full shapes"]))
        weights = {name: 0.02 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
        connector = ELLA(weights, "random")
        connector.load()
        text, t = torch.randn(2, 128, 2048, generator=generator), torch.tensor([499, 499])

        def work() -> None:
            connector(text, t).cpu()
    else:
        import comfy.ops
        from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

        unet = UNetModel(**SD15, dtype=torch.float32, device=device, operations=comfy.ops.disable_weight_init).eval()
        for parameter in unet.parameters():
            parameter.detach().fill_(0.01)
        x, t = torch.randn(2, 4, 64, 64, generator=generator), torch.tensor([499.0, 499.0])
        context = torch.randn(2, 64, 768, generator=generator)

        def work() -> None:
            unet(x.to(device), t.to(device), context.to(device)).cpu()

    with torch.inference_mode():
        work()  # threads and caches
        return _pack.measure(work, repeat=3)
