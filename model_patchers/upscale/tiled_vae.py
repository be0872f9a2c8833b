"""A VAE on pictures of any size, in memory that the tile bounds: the untiled result, without seams or other colours."""

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
from .tiled_layers import TiledLayers, decoder_layers, encoder_layers, spans

DECODE, ENCODE = "Tiled VAE Decode, Seamless", "Tiled VAE Encode, Seamless"
TINY_REACH = 19  # latent pixels: TAESD's convolutions reach 145 pixels, in both directions
STEPS = 1000  # of the progress bar for one picture
RAM = torch.device("cpu")


def decode(latent: Tensor, vae: VAE, tile: int) -> Tensor:
    """What vae.decode gives, up to rounding, with `tile` instead of the picture on the VAE's device.

    Args:
        latent: (B, C, h, w), or (B, C, T, h, w), of which the host decodes the first frame.
        vae: An image VAE as `check` describes.
        tile: Pixels; a picture with no longer side is decoded by vae.decode itself.

    Returns:
        (B, H, W, 3) in [0, 1] on the VAE's output device.

    Raises:
        ValueError: Another kind of VAE, or latents of another.
    """
    check(vae, DECODE)
    z = latent[:, :, 0] if latent.ndim == 5 else latent
    if z.ndim != 4 or z.shape[1] != vae.latent_channels:
        raise ValueError(
            f"{DECODE} got in latent a tensor of the shape {tuple(latent.shape)}, and this VAE needs (batch, "
            f"{vae.latent_channels}, height, width). Connect the VAE that belongs to the latent's model."
        )
    factor = vae.spacial_compression_decode()
    if factor * max(z.shape[2:]) <= tile:
        return vae.decode(z)
    if isinstance(vae.first_stage_model, TAESD):
        return _tiny(z.movedim(1, -1), lambda x: vae.decode(x.movedim(-1, 1)), tile // factor, (1, factor))
    return _decode(z, vae, tile // factor)


def encode(image: Tensor, vae: VAE, tile: int) -> Tensor:
    """What vae.encode gives, up to rounding, with `tile` instead of the picture on the VAE's device.

    Args:
        image: (B, H, W, C) in [0, 1], C = 1, 3 or 4; alpha is dropped. Sides are cropped as by vae.encode.
        vae: An image VAE as `check` describes.
        tile: Pixels; a picture with no longer side is encoded by vae.encode itself.

    Returns:
        (B, C, h, w) on the VAE's output device.

    Raises:
        ValueError: Another kind of VAE, or a picture that is smaller than one latent pixel.
    """
    check(vae, ENCODE)
    factor = vae.spacial_compression_encode()
    if min(image.shape[1:3]) < factor:
        raise ValueError(
            f"{ENCODE} got in image {image.shape[2]} x {image.shape[1]} pixels, and a latent pixel of this VAE takes "
            f"{factor} x {factor}. Enlarge the picture first."
        )
    pixels = vae.vae_encode_crop_pixels(to_rgb(image))
    if max(pixels.shape[1:3]) <= tile:
        return vae.encode(pixels)
    if isinstance(vae.first_stage_model, TAESD):
        return _tiny(pixels, lambda x: vae.encode(x).movedim(1, -1), tile // factor, (factor, 1)).movedim(-1, 1)
    return _encode(pixels, vae, tile)


def check(vae: VAE, node: str) -> None:
    """Refuses what is neither a KL autoencoder of pictures nor made of convolutions alone, as TAESD is.

    Told by the modules: the host's own 2-D Encoder and Decoder, with or without quant_conv: Stable Diffusion 1, 2, XL,
    3, x4, Flux, Flux 2 and their relatives.
    """
    vae.throw_exception_if_invalid()
    model = vae.first_stage_model
    if isinstance(model, TAESD):
        if not any(isinstance(part, nn.GroupNorm) for part in model.modules()):
            return
        name = "TAESD with group norms"
    elif isinstance(model, AutoencodingEngine):
        if type(model.decoder) is Decoder and type(model.encoder) is Encoder:
            if isinstance(model.decoder.conv_in, nn.Conv2d):
                return
            name = f"{type(model).__name__} of videos, with 3-D convolutions"
        else:
            name = f"{type(model).__name__} with a {type(model.decoder).__module__}.{type(model.decoder).__name__}"
    else:
        name = f"{type(model).__module__}.{type(model).__name__}"
    core = "VAE Decode (Tiled)" if node == DECODE else "VAE Encode (Tiled)"
    raise ValueError(
        f"{node} got in vae a {name}, and knows the KL autoencoders of pictures (Stable Diffusion, Flux and their "
        f"relatives) and TAESD. Use ComfyUI's {core} for this one."
    )


def _decode(z: Tensor, vae: VAE, tile: int) -> Tensor:
    """A KL autoencoder's: (B, C, h, w) -> (B, H, W, 3). `tile` in latent pixels."""
    model, ratio = vae.first_stage_model, vae.spacial_compression_decode()
    steps = [model.post_quant_conv] if hasattr(model, "post_quant_conv") else []
    steps += decoder_layers(model.decoder)
    rows, columns = (-(-side // tile) for side in z.shape[2:])
    pictures = torch.empty(len(z), 3, *(ratio * side for side in z.shape[2:]), dtype=vae.vae_output_dtype())
    pictures = pictures.to(vae.output_device)
    with model_management.cuda_device_context(vae.device):
        _load(vae, vae.memory_used_decode((1, z.shape[1], tile, tile), vae.vae_dtype))
        layers = TiledLayers(rows, columns, vae.device, Shares(Progress(STEPS * len(z)), STEPS))
        for one, picture in zip(z, pictures, strict=True):
            out = layers.run(steps, _unpacked(model, one.to(RAM, vae.vae_dtype)))
            picture.copy_(out.tanh() if model.decoder.tanh_out else out)
            vae.process_output(picture)
    return pictures.movedim(1, -1)


def _encode(pixels: Tensor, vae: VAE, tile: int) -> Tensor:
    """A KL autoencoder's: (B, H, W, 3) -> (B, C, h, w). `tile` in pixels."""
    model = vae.first_stage_model
    steps = encoder_layers(model.encoder)
    steps += [model.quant_conv] if hasattr(model, "quant_conv") else []
    rows, columns = (-(-side // tile) for side in pixels.shape[1:3])
    found = []
    with model_management.cuda_device_context(vae.device):
        _load(vae, vae.memory_used_encode((1, 3, tile, tile), vae.vae_dtype))
        layers = TiledLayers(rows, columns, vae.device, Shares(Progress(STEPS * len(pixels)), STEPS))
        for one in pixels.movedim(-1, 1):
            out = layers.run(steps, vae.process_input(one).to(RAM, vae.vae_dtype))
            z, _ = model.regularization(out[None])
            found.append(_packed(model, z).to(vae.output_device, vae.vae_output_dtype()))
    return torch.cat(found)


def _load(vae: VAE, memory: float) -> None:
    """As in vae.decode and vae.encode, with the memory that a picture of the tile's size takes."""
    model_management.load_models_gpu([vae.patcher], memory_required=memory, force_full_load=vae.disable_offload)


def _unpacked(model: AutoencodingEngine, z: Tensor) -> Tensor:
    """Flux 2's latents: each pixel stands for 2 x 2 of the decoder's, normed by known statistics. (C, h, w)."""
    if getattr(model, "bn", None) is None:
        return z
    mean, variance = _statistics(model, z)
    return functional.pixel_shuffle(z * (variance + model.bn_eps).sqrt()[:, None, None] + mean[:, None, None], 2)


def _packed(model: AutoencodingEngine, z: Tensor) -> Tensor:
    """The way back: (1, C, h, w)."""
    if getattr(model, "bn", None) is None:
        return z
    return functional.batch_norm(functional.pixel_unshuffle(z, 2), *_statistics(model, z), eps=model.bn_eps)


def _statistics(model: AutoencodingEngine, like: Tensor) -> list[Tensor]:
    known = (model.bn.running_mean, model.bn.running_var)
    return [model_management.cast_to(part, like.dtype, like.device) for part in known]


def _tiny(x: Tensor, run: Callable[[Tensor], Tensor], tile: int, ratio: tuple[int, int]) -> Tensor:
    """TAESD's: each tile by the host with all the latent pixels that it depends on, of which the tile is kept.

    Args:
        x: (B, H, W, C) of pixels, or latents likewise.
        run: vae.encode or vae.decode, of one such picture: (1, h, w, C) -> (1, h', w', C').
        tile: Latent pixels.
        ratio: Positions to a latent pixel in x and in the result.
    """
    into, out_of = ratio
    height, width = (side // into for side in x.shape[1:3])
    rows, columns = (spans(side, -(-side // tile)) for side in (height, width))
    progress = Progress(len(x) * len(rows) * len(columns))
    out = None
    for i in range(len(x)):
        for (y0, y1), (x0, x1) in itertools.product(rows, columns):
            top, left = max(0, y0 - TINY_REACH), max(0, x0 - TINY_REACH)
            bottom, right = min(height, y1 + TINY_REACH), min(width, x1 + TINY_REACH)
            part = run(x[i : i + 1, into * top : into * bottom, into * left : into * right])[0]
            if out is None:
                out = part.new_empty(len(x), out_of * height, out_of * width, part.shape[-1])
            own = part[out_of * (y0 - top) : out_of * (y1 - top), out_of * (x0 - left) : out_of * (x1 - left)]
            out[i, out_of * y0 : out_of * y1, out_of * x0 : out_of * x1] = own
            progress()
    return out
