"""Fill Without a Model on a 200 px hole in a megapixel, against scikit-image's biharmonic inpainting."""

import _pack

SIDE, HOLE = 1024, 200
NEAR = 16  # pixels around the hole that the peer is given: what lies further away, it does not look at


def run() -> dict:
    """Both fill the same hole in scikit-image's grass at twice its size."""
    sharp = _pack.call(__file__, "sharpness")
    return _pack.compare(
        __file__,
        title=f"Fill a {HOLE} px hole in grass, {SIDE} x {SIDE}",
        peer="scikit-image's inpaint_biharmonic",
        note="Mean difference of neighbours in the hole, as a share of that outside (1 is as sharp as the grass): "
        f"ours {sharp['ours']:.2f}, peer {sharp['peer']:.2f}.",
        runs=1,
    )


def sides() -> dict:
    """Each side's fill: picture (H, W, 3) and hole (H, W) to picture."""
    _pack.load()
    import torch
    from skimage.restoration import inpaint_biharmonic

    from pentimento.nodes.fill.fill_without_model import FillWithoutModel

    def ours(picture, hole):  # noqa: ANN001, ANN202
        return FillWithoutModel.execute(picture[None], hole[None].float(), "patchmatch", 0).result[0][0]

    def peer(picture, hole):  # noqa: ANN001, ANN202
        (top, bottom), (left, right) = (places.aminmax() for places in hole.nonzero().T)
        crop = slice(top - NEAR, bottom + 1 + NEAR), slice(left - NEAR, right + 1 + NEAR)
        filled = picture.clone()
        filled[crop] = torch.from_numpy(inpaint_biharmonic(picture[crop].numpy(), hole[crop].numpy(), channel_axis=-1))
        return filled

    return {"ours": ours, "peer": peer}


def main(side: str) -> dict:
    """One side's time and memory, or how sharp both are."""
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

        return {k: float(rough(f(picture, hole), hole) / rough(picture, ~hole)) for k, f in fills.items()}
    return _pack.measure(lambda: fills[side](picture, hole))
