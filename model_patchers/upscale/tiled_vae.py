"""Decodes and encodes pictures of any size by a VAE in tiles, with the results of the whole picture."""

import itertools
from collections.abc import Callable

import torch
from comfy import model_management
from comfy.ldm.models.autoencoder import AutoencodingEngine
from comfy.ldm.modules.diffusionmodules.model import Decoder, Encoder
from comfy.sd import VAE
from comfy.taesd.taesd import TAESD
from torch import Tensor, nn
from torch.nn import functional

from ..comfyui.progress import Progress, Shares
from ..pixels.images import to_rgb
from .tiled_layers import TiledLayers, cut, decoder_layers, encoder_layers, spans

DECODE, ENCODE = "Tiled VAE Decode, Seamless", "Tiled VAE Encode, Seamless"
TINY_REACH = 19  # latent pixels: TAESD's convolutions reach 145 pixels, in the encoder and in the decoder
STEPS = 1000  # of the progress bar for one picture
RAM = torch.device("cpu")
PARTS = {  # of a VAE's model, by which node computes with them
    DECODE: ("decoder", "post_quant_conv", "taesd_decoder"),
    ENCODE: ("encoder", "quant_conv", "taesd_encoder"),
}
METHODS = {"forward", "_conv_forward", "decode", "encode"}  # of layers, models and VAEs, which other nodes replace
WRAPPED = "circular"  # the padding mode of convolutions for seamless textures


def decode(latent: Tensor, vae: VAE, tile: int) -> Tensor:
    """The result of vae.decode, up to rounding, with the memory of a tile on the VAE's device.

    Args:
        latent: (B, C, h, w), or (B, C, T, h, w), of which the first frame is decoded, as in ComfyUI.
        vae: One that `check` accepts.
        tile: Longest side of a tile in pixels. A picture with no longer side is decoded by vae.decode itself.

    Returns:
        (B, H, W, 3) in [0, 1] on the VAE's output device.

    Raises:
        ValueError: As `check`, or the latent belongs to another VAE.
    """
    wrap = check(vae, DECODE)
    z = latent[:, :, 0] if latent.ndim == 5 else latent
    if z.ndim != 4 or z.shape[1] != vae.latent_channels:
        raise ValueError(
            f"{DECODE} got in latent one of the shape {tuple(latent.shape)}, but this VAE needs (batch, "
            f"{vae.latent_channels}, height, width). Connect the VAE that belongs to the latent's model."
        )
    factor = vae.spacial_compression_decode()
    if factor * max(z.shape[2:]) <= tile:
        return vae.decode(z)
    if isinstance(vae.first_stage_model, TAESD):
        return _tiny(z.movedim(1, -1), lambda x: vae.decode(x.movedim(-1, 1)), tile // factor, (1, factor), wrap)
    return _decode(z, vae, tile // factor, wrap)


def encode(image: Tensor, vae: VAE, tile: int) -> Tensor:
    """The result of vae.encode, up to rounding, with the memory of a tile on the VAE's device.

    Args:
        image: (B, H, W, C) in [0, 1], C = 1, 3 or 4; alpha is ignored. Sides are cropped as in vae.encode.
        vae: One that `check` accepts.
        tile: Longest side of a tile in pixels. A picture with no longer side is encoded by vae.encode itself.

    Returns:
        (B, C, h, w) on the VAE's output device.

    Raises:
        ValueError: As `check`, or a picture is smaller than one latent pixel.
    """
    wrap = check(vae, ENCODE)
    factor = vae.spacial_compression_encode()
    if min(image.shape[1:3]) < factor:
        raise ValueError(
            f"{ENCODE} got in image {image.shape[2]} x {image.shape[1]} pixels, but a latent pixel of this VAE takes "
            f"{factor} x {factor}. Enlarge the picture first."
        )
    pixels = vae.vae_encode_crop_pixels(to_rgb(image))
    if max(pixels.shape[1:3]) <= tile:
        return vae.encode(pixels)
    if isinstance(vae.first_stage_model, TAESD):
        latent = _tiny(pixels, lambda x: vae.encode(x).movedim(1, -1), tile // factor, (factor, 1), wrap)
        return latent.movedim(-1, 1)
    return _encode(pixels, vae, tile, wrap)


def check(vae: VAE, node: str) -> bool:
    """Accepts KL autoencoders of pictures, and TAESD without group norms.

    Their layers are as ComfyUI made them, but all convolutions may pad a picture with its other side.

    A KL autoencoder of pictures is made of ComfyUI's own 2-D Encoder and Decoder, with or without quant_conv: those of
    Stable Diffusion 1, 2, XL, 3, x4, Flux, Flux 2 and their relatives.

    Args:
        node: The node's display name.

    Returns:
        Whether the convolutions pad a picture with its other side.

    Raises:
        ValueError: Another kind of VAE, or one that another node has changed.
    """
    vae.throw_exception_if_invalid()
    core = "VAE Decode (Tiled)" if node == DECODE else "VAE Encode (Tiled)"
    if name := _unsupported(vae.first_stage_model):
        raise ValueError(
            f"{node} got in vae a {name}, but works with the KL autoencoders of pictures (Stable Diffusion, Flux and "
            f"their relatives) and TAESD only. Use ComfyUI's {core} for this VAE."
        )
    layers = [layer for layer in vae.first_stage_model.named_modules() if layer[0].split(".")[0] in PARTS[node]]
    paddings = {layer.padding_mode for _, layer in layers if isinstance(layer, nn.Conv2d) and any(layer.padding)}
    if change := _change(vae, layers, paddings):
        raise ValueError(
            f"{node} got in vae a VAE that another node has changed: {change}. Tiles of it would not equal the whole "
            f"picture. Connect the VAE as it was loaded, or use ComfyUI's {core.removesuffix(' (Tiled)')} or {core}."
        )
    return paddings == {WRAPPED}


def _change(vae: VAE, layers: list[tuple[str, nn.Module]], paddings: set[str]) -> str | None:
    """How the layers or the VAE differ from ComfyUI's own; None if nothing but the padding of all layers differs.

    Args:
        layers: (name, layer) of each.
        paddings: Of the layers that pad.
    """
    for name in vae.patcher.object_patches:
        return f"'{name}' is patched"
    for name, layer in [("VAE", vae), ("model", vae.first_stage_model), *layers]:
        for method in vars(layer).keys() & METHODS:
            if getattr(getattr(layer, method), "__func__", None) is not getattr(type(layer), method):
                return f"'{method}' of its '{name}' is another function"
    for name, layer in layers:
        if not type(layer).__module__.startswith(("torch.", "comfy.")):
            return f"its '{name}' is a {type(layer).__module__}.{type(layer).__name__}"
        if layer._forward_hooks or layer._forward_pre_hooks:
            return f"its '{name}' has a hook"
    if len(paddings) > 1 or not paddings <= {"zeros", WRAPPED}:
        return f"its convolutions pad by {' and '.join(sorted(paddings))}"
    return None


def _unsupported(model: nn.Module) -> str | None:
    """A name for a VAE that `check` refuses; None for others."""
    if isinstance(model, TAESD):
        normed = any(isinstance(layer, nn.GroupNorm) for layer in model.modules())
        return "TAESD with group norms" if normed else None
    if not isinstance(model, AutoencodingEngine):
        return f"{type(model).__module__}.{type(model).__name__}"
    if type(model.decoder) is not Decoder or type(model.encoder) is not Encoder:
        return f"{type(model).__name__} with a {type(model.decoder).__module__}.{type(model.decoder).__name__}"
    if not isinstance(model.decoder.conv_in, nn.Conv2d):
        return f"{type(model).__name__} of videos, with 3-D convolutions"
    return None


def _decode(z: Tensor, vae: VAE, tile: int, wrap: bool) -> Tensor:
    """Decodes by a KL autoencoder: (B, C, h, w) -> (B, H, W, 3). `tile` is in latent pixels."""
    model, ratio = vae.first_stage_model, vae.spacial_compression_decode()
    steps = [model.post_quant_conv] if hasattr(model, "post_quant_conv") else []
    steps += decoder_layers(model.decoder)
    rows, columns = (-(-side // tile) for side in z.shape[2:])
    pictures = torch.empty(len(z), 3, *(ratio * side for side in z.shape[2:]), dtype=vae.vae_output_dtype())
    pictures = pictures.to(vae.output_device)
    with model_management.cuda_device_context(vae.device):
        _load(vae, vae.memory_used_decode((1, z.shape[1], tile, tile), vae.vae_dtype))
        layers = TiledLayers(rows, columns, vae.device, Shares(Progress(STEPS * len(z)), STEPS), wrap)
        for z_i, picture in zip(z, pictures, strict=True):
            out = layers.run(steps, _unpacked(model, z_i.to(RAM, vae.vae_dtype)))
            picture.copy_(out.tanh() if model.decoder.tanh_out else out)
            vae.process_output(picture)
    return pictures.movedim(1, -1)


def _encode(pixels: Tensor, vae: VAE, tile: int, wrap: bool) -> Tensor:
    """Encodes by a KL autoencoder: (B, H, W, 3) -> (B, C, h, w). `tile` is in pixels."""
    model = vae.first_stage_model
    steps = encoder_layers(model.encoder)
    steps += [model.quant_conv] if hasattr(model, "quant_conv") else []
    rows, columns = (-(-side // tile) for side in pixels.shape[1:3])
    latents = []
    with model_management.cuda_device_context(vae.device):
        _load(vae, vae.memory_used_encode((1, 3, tile, tile), vae.vae_dtype))
        layers = TiledLayers(rows, columns, vae.device, Shares(Progress(STEPS * len(pixels)), STEPS), wrap)
        for picture in pixels.movedim(-1, 1):
            out = layers.run(steps, vae.process_input(picture).to(RAM, vae.vae_dtype))
            z, _ = model.regularization(out[None])
            latents.append(_packed(model, z).to(vae.output_device, vae.vae_output_dtype()))
    return torch.cat(latents)


def _load(vae: VAE, memory: float) -> None:
    """Loads the VAE as vae.decode and vae.encode do, with the memory for a picture of a tile's size."""
    model_management.load_models_gpu([vae.patcher], memory_required=memory, force_full_load=vae.disable_offload)


def _unpacked(model: AutoencodingEngine, z: Tensor) -> Tensor:
    """The decoder's input from a latent (C, h, w).

    A pixel of Flux 2's latents holds 2 x 2 pixels of the decoder's input, normalised by the VAE's own statistics.
    Latents of other VAEs are the decoder's input.
    """
    if getattr(model, "bn", None) is None:
        return z
    mean, variance = _statistics(model, z)
    return functional.pixel_shuffle(z * (variance + model.bn_eps).sqrt()[:, None, None] + mean[:, None, None], 2)


def _packed(model: AutoencodingEngine, z: Tensor) -> Tensor:
    """The latent from the encoder's output (1, C, h, w): the inverse of `_unpacked`."""
    if getattr(model, "bn", None) is None:
        return z
    return functional.batch_norm(functional.pixel_unshuffle(z, 2), *_statistics(model, z), eps=model.bn_eps)


def _statistics(model: AutoencodingEngine, like: Tensor) -> list[Tensor]:
    statistics = model.bn.running_mean, model.bn.running_var
    return [model_management.cast_to(statistic, like.dtype, like.device) for statistic in statistics]


def _tiny(x: Tensor, run: Callable[[Tensor], Tensor], tile: int, ratio: tuple[int, int], wrap: bool) -> Tensor:
    """Runs TAESD in tiles, each with all the latent pixels around it that it depends on, and crops the results.

    Args:
        x: (B, H, W, C), pixels or latents.
        run: vae.encode or vae.decode for one picture: (1, h, w, C) -> (1, h', w', C').
        tile: Longest side of a tile in latent pixels.
        ratio: Positions per latent pixel in x and in the result.
        wrap: Whether the convolutions pad a picture with its other side.
    """
    r_in, r_out = ratio
    height, width = (side // r_in for side in x.shape[1:3])
    rows, columns = (spans(side, -(-side // tile)) for side in (height, width))
    progress = Progress(len(x) * len(rows) * len(columns))
    out = None
    for i in range(len(x)):
        for (y0, y1), (x0, x1) in itertools.product(rows, columns):
            top, bottom, left, right = y0 - TINY_REACH, y1 + TINY_REACH, x0 - TINY_REACH, x1 + TINY_REACH
            if not wrap:
                top, bottom, left, right = max(0, top), min(height, bottom), max(0, left), min(width, right)
            around = (r_in * top, r_in * bottom), (r_in * left, r_in * right)
            result = run(cut(x[i : i + 1].movedim(-1, 1), *around).movedim(1, -1))[0]
            if out is None:
                out = result.new_empty(len(x), r_out * height, r_out * width, result.shape[-1])
            own = result[r_out * (y0 - top) : r_out * (y1 - top), r_out * (x0 - left) : r_out * (x1 - left)]
            out[i, r_out * y0 : r_out * y1, r_out * x0 : r_out * x1] = own
            progress()
    return out
