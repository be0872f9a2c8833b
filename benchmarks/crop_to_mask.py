"""Crop to Mask and Paste Back on 2048 x 2048 pixels, against the image processor of diffusers' inpainting pipelines."""

import importlib
import json
import subprocess
import sys

import _pack

SIDE, RADIUS, CROP, PADDING = 2048, 350, 1024, 32


def run() -> dict:
    """Both cut out and paste the same disc, each in its own process and on one thread."""
    ours, peer = _pack.sides(__file__, ["ours", "peer"], runs=1)
    error = json.loads(subprocess.run([sys.executable, __file__, "error"], check=True, stdout=subprocess.PIPE).stdout)
    return {
        "title": f"Crop to Mask and Paste Back, {SIDE} x {SIDE}, crop {CROP}",
        "ours": ours,
        "peer": peer,
        "peer_name": "diffusers' VaeImageProcessor",
        "note": "Ours in float32 and with a feathered seam, the peer from 8-bit picture to 8-bit picture, as is its "
        "way. What a crop that was all but left alone has lost on its way back, in steps of 255: "
        f"ours {error['ours']}, peer {error['peer']}.",
    }


def sides() -> dict:
    """Each side's picture and mask as it likes them, and what it does: picture, mask and edit to picture."""
    pack = _pack.load()
    import numpy as np
    import skimage.data
    import torch
    from diffusers.image_processor import VaeImageProcessor
    from PIL import Image

    torch.set_num_threads(1)  # as many as Pillow uses
    nodes = importlib.import_module(f"{pack.__name__}.nodes.edit.crop_to_mask")
    processor = VaeImageProcessor(do_normalize=False)
    photograph = Image.fromarray(np.tile(skimage.data.astronaut(), (SIDE // 512, SIDE // 512, 1)))
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE // 2
    disc = Image.fromarray(x**2 + y**2 < RADIUS**2).convert("L")

    def ours(image, mask, edit, feather=16):  # noqa: ANN001, ANN202
        crop, _, crops = nodes.CropToMask.execute(image, mask, CROP, CROP, PADDING, "one").result
        return nodes.PasteBack.execute(crops, edit(crop), feather, "off").result[0]

    def peer(image, mask, edit):  # noqa: ANN001, ANN202
        region = processor.get_crop_region(mask, CROP, CROP, PADDING)
        crop = processor.preprocess(image, CROP, CROP, "fill", region)
        return processor.apply_overlay(
            mask, image, processor.postprocess(edit(crop), do_denormalize=[False])[0], region
        )

    picture, mask = (torch.from_numpy(np.array(each))[None].float() / 255 for each in (photograph, disc))
    return {"ours": (ours, picture, mask), "peer": (peer, photograph, disc)}


def main(side: str) -> None:
    """Prints one side's time and memory, or how far each is off."""
    found = sides()
    import numpy as np

    if side == "error":
        (ours, picture, mask), (peer, photograph, disc) = found["ours"], found["peer"]
        before, inside = np.array(photograph).astype(float), np.array(disc) > 0
        after = {
            "ours": ours(picture, mask, lambda crop: crop + 1e-6, feather=0)[0].numpy() * 255,
            "peer": np.array(peer(photograph, disc, lambda crop: crop + 1e-6)),
        }
        errors = {name: np.abs(each - before)[inside] for name, each in after.items()}
        print(json.dumps({name: f"{each.mean():.2f} (at most {each.max():.0f})" for name, each in errors.items()}))
    else:
        work, picture, mask = found[side]
        work(picture, mask, lambda crop: crop)  # threads and caches
        print(_pack.measure(lambda: work(picture, mask, lambda crop: crop + 1e-3), repeat=5))


if __name__ == "__main__":
    main(sys.argv[1])
