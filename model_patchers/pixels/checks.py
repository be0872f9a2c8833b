"""What enters the pack from other nodes: its shape, its type of number, and whether its numbers are finite.

The rule of the whole pack for NaN and infinity: a value that is thrown away anyway, such as a pixel inside a hole or
under alpha 0, may be anything. A mask of NaN selects nothing. Everything else is refused, with the name of the input
and the number of pixels. Only a depth picture has its own rule, as its sky may be infinitely far: `sd2_depth`.
"""

from torch import Tensor

CHANNELS = (1, 3, 4)  # grey, RGB, RGBA
CAUSE = (
    "Such numbers come from a VAE or a model that overflows in half precision (choose fp32, or start ComfyUI with "
    "--fp32-vae), or from a division by 0. Check the node that makes this input."
)


def image(image: Tensor, name: str, whole: bool = True) -> Tensor:
    """Pictures as they enter a node: (B, H, W, C), C = 1, 3 or 4 -> the same in float32, itself if it is that already.

    Args:
        image: Of any type of decimal number. Values outside [0, 1] stay.
        name: Of the input, for messages.
        whole: False: the caller throws away a part of the values, and checks the rest by `finite`.

    Raises:
        ValueError: There is no picture, it has other channels, it holds whole numbers above 1, or a value is not
            finite.
    """
    if image.ndim != 4 or image.shape[-1] not in CHANNELS:
        came = f"{image.shape[-1]} channels" if image.ndim == 4 else f"the shape {tuple(image.shape)}"
        raise ValueError(
            f"{name} has {came}, but pictures are (batch, height, width, channels) with 1 channel (grey), 3 (RGB) or 4 "
            "(RGBA). Convert the picture to one of these."
        )
    image = _decimal(image, name, "pictures")
    if whole:
        finite(image, name)
    return image


def mask(mask: Tensor, name: str) -> Tensor:
    """Masks as they enter a node: (H, W), (B, H, W) or (B, 1, H, W) -> (B, H, W), float32 in [0, 1].

    Values outside [0, 1] are clamped, and NaN becomes 0.

    Raises:
        ValueError: There is no mask, the shape is another, or it holds whole numbers above 1.
    """
    if mask.ndim not in (2, 3) and (mask.ndim != 4 or mask.shape[1] != 1):
        raise ValueError(
            f"{name} has the shape {tuple(mask.shape)}, but masks are (batch, height, width). Convert it to a mask."
        )
    mask = _decimal(mask, name, "masks").reshape(-1, *mask.shape[-2:])
    low, high = mask.aminmax()
    return mask if low >= 0 and high <= 1 else mask.nan_to_num(0).clamp(0, 1)


def image_or_mask(source: Tensor, name: str) -> Tensor:
    """Pictures (B, H, W, C) or masks (B, H, W), from an input that takes both.

    Raises:
        ValueError: As `image` and `mask`.
    """
    channels_first = source.ndim == 4 and source.shape[1] == 1 and source.shape[-1] not in CHANNELS
    return mask(source, name) if source.ndim < 4 or channels_first else image(source, name)


def latent(samples: Tensor, name: str) -> Tensor:
    """The samples of a latent that a node reads: (B, ...) -> the same in float32.

    Raises:
        ValueError: There is no latent, it holds whole numbers above 1, or a value is not finite.
    """
    samples = _decimal(samples, name, "latents")
    finite(samples.movedim(1, -1), name)
    return samples


def finite(x: Tensor, name: str, unread: Tensor | None = None, where: str = "") -> bool:
    """Refuses NaN and infinity. Whether there is none at all, in thrown away values neither.

    Args:
        x: (B, H, W, C).
        name: Of the input, for messages.
        unread: bool (B, H, W), True where values are thrown away; they may be anything.
        where: The place of the other pixels, such as " outside the mask".

    Raises:
        ValueError: A value that is read is not finite.
    """
    if x.sum().isfinite():  # a tenth of the time of the count
        return True
    bad = ~x.isfinite().all(-1)
    if unread is not None:
        bad &= ~unread
    if not (count := int(bad.sum())):
        return False
    read = bad.numel() if unread is None else int((~unread).sum())
    number, *place = bad.nonzero()[0].tolist()
    raise ValueError(
        f"{name} has NaN or infinity in {count} of its {read} pixels{where}, first in picture {number + 1} at x = "
        f"{place[-1]}, y = {place[-2]}. {CAUSE}"
    )


def _decimal(x: Tensor, name: str, what: str) -> Tensor:
    """A batch in float32.

    Raises:
        ValueError: It is empty, or holds whole numbers above 1.
    """
    if not x.numel():
        raise ValueError(
            f"{name} is an empty batch: its shape is {tuple(x.shape)}. An earlier node left nothing over; connect at "
            f"least one of the {what}."
        )
    if not x.is_floating_point() and (most := int(x.max())) > 1:
        raise ValueError(
            f"{name} holds whole numbers up to {most}, but {what} in ComfyUI are decimal numbers, for pictures and "
            "masks from 0 to 1. Divide by 255 in the node that makes this input."
        )
    return x.float()
