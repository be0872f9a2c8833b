"""Tiled VAE Decode on a thin KL VAE of random weights, against core's VAE Decode (Tiled) and the untiled picture."""

import logging
import tempfile
from pathlib import Path

import _pack

SIDE, TILE, OVERLAP, WIDTH = 768, 256, 64, 32  # pixels, and the channels at full size: a quarter of Stable Diffusion's


def run() -> dict:
    """Each decodes the same latent on one thread; their pictures are compared here."""
    import numpy

    with tempfile.TemporaryDirectory() as folder:
        ours, peer, whole = _pack.sides(__file__, ["ours", "peer", "whole"], folder, runs=1)
        pictures = {name: numpy.load(Path(folder, f"{name}.npy")) for name in ("ours", "peer", "whole")}
    worst = {name: abs(pictures[name] - pictures["whole"]).max() for name in ("ours", "peer")}
    shift = {
        name: abs((pictures[name] - pictures["whole"]).mean((0, 1, 2), dtype="float64")).max()
        for name in ("ours", "peer")
    }
    return {
        "title": f"Decode {SIDE} x {SIDE} px in tiles of {TILE}, KL VAE of {WIDTH} channels",
        "ours": ours,
        "peer": peer,
        "peer_name": "core's VAE Decode (Tiled)",
        "note": f"Largest difference to the untiled picture (0 to 1) and shift of a channel's mean: ours "
        f"{worst['ours']:.1e} and {shift['ours']:.0e}, peer {worst['peer']:.2f} and {shift['peer']:.1e}. "
        f"Untiled: {whole['seconds']:.1f} s, {whole['peak_mb']:.0f} MB.",
    }


def thin() -> object:
    """ComfyUI's VAE around a Stable Diffusion decoder with seeded random weights."""
    import comfy.sd
    import torch
    from comfy.ldm.modules.diffusionmodules.model import Decoder

    _pack.load_package("pentimento_host", _pack.PACK / "host")
    from pentimento_host.standins.weights import drawn

    generator = torch.Generator().manual_seed(0)
    decoder = Decoder(
        ch=WIDTH,
        out_ch=3,
        ch_mult=(1, 2, 4, 4),
        num_res_blocks=2,
        attn_resolutions=[],
        in_channels=3,
        resolution=256,
        z_channels=4,
    )
    weights = {f"decoder.{name}": drawn(name, weight.shape, generator) for name, weight in decoder.state_dict().items()}
    return comfy.sd.VAE(sd=weights, dtype=torch.float32)


def main(side: str, folder: str) -> dict:
    """One side's time and memory; its picture is written to the folder."""
    logging.disable()  # ComfyUI notes that there is no encoder
    _pack.load()
    import numpy
    import torch

    from pentimento.model_patchers.upscale import tiled_vae

    torch.set_num_threads(1)
    vae = thin()
    z = torch.randn(1, 4, SIDE // 8, SIDE // 8, generator=torch.Generator().manual_seed(1))
    cut = {"tile_x": TILE // 8, "tile_y": TILE // 8, "overlap": OVERLAP // 8}
    decode = {
        "ours": lambda: tiled_vae.decode(z, vae, TILE),
        "peer": lambda: vae.decode_tiled(z, **cut),
        "whole": lambda: vae.decode(z),
    }[side]
    with torch.inference_mode():
        vae.decode(z[..., :8, :8])
        pictures = []
        figures = _pack.measure(lambda: pictures.append(decode()))
    numpy.save(Path(folder, f"{side}.npy"), pictures[0].numpy())
    return figures
