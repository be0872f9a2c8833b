"""Fill Without a Model on a 200 px hole in a megapixel, against scikit-image's biharmonic inpainting."""

import importlib
import json
import subprocess
import sys

import _pack

SIDE, HOLE = 1024, 200
NEAR = 16  # pixels around the hole that the peer is given: what lies further away, it does not look at


def run() -> dict:
    """Both fill the same hole in scikit-image's grass at twice its size, each in its own process."""
    ours, peer = _pack.sides(__file__, ["ours", "peer"], runs=1)
    sharp = json.loads(
        subprocess.run([sys.executable, __file__, "sharpness"], check=True, stdout=subprocess.PIPE).stdout
    )
    return {
        "title": f"Fill a {HOLE} px hole in grass, {SIDE} x {SIDE}",
        "ours": ours,
        "peer": peer,
        "peer_name": "scikit-image's inpaint_biharmonic",
        "note": "Mean difference of neighbours in the hole, as a share of that outside (1 is as sharp as the grass): "
        f"ours {sharp['ours']:.2f}, peer {sharp['peer']:.2f}.",
    }


def sides() -> dict:
    """Each side's fill: picture (H, W, 3) and hole (H, W) to picture."""
    pack = _pack.load()
    import torch
    from skimage.restoration import inpaint_biharmonic

    node = importlib.import_module(f"{pack.__name__}.nodes.fill.fill_without_model").FillWithoutModel

    def ours(picture, hole):  # noqa: ANN001, ANN202
        return node.execute(picture[None], hole[None].float(), "patchmatch", 0).result[0][0]

    def peer(picture, hole):  # noqa: ANN001, ANN202
        (top, bottom), (left, right) = (places.aminmax() for places in hole.nonzero().T)
        crop = slice(top - NEAR, bottom + 1 + NEAR), slice(left - NEAR, right + 1 + NEAR)
        filled = picture.clone()
        filled[crop] = torch.from_numpy(inpaint_biharmonic(picture[crop].numpy(), hole[crop].numpy(), channel_axis=-1))
        return filled

    return {"ours": ours, "peer": peer}


def main(side: str) -> None:
    """Prints one side's time and memory, or how sharp both are."""
    fills = sides()
    import skimage.data
    import torch

    grass = torch.from_numpy(skimage.data.grass()).float()[None, None] / 255
    picture = torch.nn.functional.interpolate(grass, (SIDE, SIDE), mode="bilinear")[0, 0, :, :, None].expand(-1, -1, 3)
    hole = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    hole[400 : 400 + HOLE, 380 : 380 + HOLE] = True
    if side == "sharpness":

        def rough(picture, hole):  # noqa: ANN001, ANN202
            steps = picture.diff(dim=0).abs()
            return steps[hole[1:] & hole[:-1]].mean()

        print(json.dumps({k: float(rough(f(picture, hole), hole) / rough(picture, ~hole)) for k, f in fills.items()}))
    else:
        print(_pack.measure(lambda: fills[side](picture, hole)))


if __name__ == "__main__":
    main(sys.argv[1])
