"""Crop to Mask and Paste Back on 2048 x 2048 pixels, against the image processor of diffusers' inpainting pipelines."""

import _pack

SIDE, RADIUS, CROP, PADDING = 2048, 350, 1024, 32


def run() -> dict:
    """Both cut out and paste the same disc on one thread."""
    error = _pack.call(__file__, "error")
    return _pack.compare(
        __file__,
        title=f"Crop to Mask and Paste Back, {SIDE} x {SIDE}, crop {CROP}",
        peer="diffusers' VaeImageProcessor",
        note="Ours works in float32 and feathers the seam; the peer works from 8-bit picture to 8-bit picture. "
        "A crop edited by 1e-6 and pasted back differs from the picture, in steps of 255, by: "
        f"ours {error['ours']}, peer {error['peer']}.",
        runs=1,
    )


def sides() -> dict:
    """Each side's picture and mask as it likes them, and what it does: picture, mask and edit to picture."""
    _pack.load()
    import numpy as np
    import skimage.data
    import torch
    from diffusers.image_processor import VaeImageProcessor
    from PIL import Image

    from pentimento.nodes.edit.crop_to_mask import CropToMask, PasteBack

    torch.set_num_threads(1)  # as many as Pillow uses
    processor = VaeImageProcessor(do_normalize=False)
    photograph = Image.fromarray(np.tile(skimage.data.astronaut(), (SIDE // 512, SIDE // 512, 1)))
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE // 2
    disc = Image.fromarray(x**2 + y**2 < RADIUS**2).convert("L")

    def ours(image, mask, edit, feather=16):  # noqa: ANN001, ANN202
        crop, _, crops = CropToMask.execute(image, mask, CROP, CROP, PADDING, "one").result
        return PasteBack.execute(crops, edit(crop), feather, "off").result[0]

    def peer(image, mask, edit):  # noqa: ANN001, ANN202
        region = processor.get_crop_region(mask, CROP, CROP, PADDING)
        crop = processor.preprocess(image, CROP, CROP, "fill", region)
        return processor.apply_overlay(
            mask, image, processor.postprocess(edit(crop), do_denormalize=[False])[0], region
        )

    picture, mask = (torch.from_numpy(np.array(each))[None].float() / 255 for each in (photograph, disc))
    return {"ours": (ours, picture, mask), "peer": (peer, photograph, disc)}


def main(side: str) -> dict:
    """One side's time and memory, or how far each is off."""
    both = sides()
    import numpy as np

    if side == "error":
        (ours, picture, mask), (peer, photograph, disc) = both["ours"], both["peer"]
        before, inside = np.array(photograph).astype(float), np.array(disc) > 0
        after = {
            "ours": ours(picture, mask, lambda crop: crop + 1e-6, feather=0)[0].numpy() * 255,
            "peer": np.array(peer(photograph, disc, lambda crop: crop + 1e-6)),
        }
        errors = {name: np.abs(each - before)[inside] for name, each in after.items()}
        return {name: f"{each.mean():.2f} (at most {each.max():.0f})" for name, each in errors.items()}
    work, picture, mask = both[side]
    work(picture, mask, lambda crop: crop)  # threads and caches
    return _pack.measure(lambda: work(picture, mask, lambda crop: crop + 1e-3), repeat=5)
