"""A hole that moves over a clip: Fill from Other Frames against LaMa on each frame, both without a GPU."""

import _lama
import _pack
import torch

FRAMES, HEIGHT, WIDTH, SIDE = 12, 360, 640, 100


def run() -> dict:
    return _pack.compare(
        __file__,
        title=f"{FRAMES} frames of {WIDTH} x {HEIGHT}, a hole of {SIDE} x {SIDE}",
        peer="LaMa Fill on each frame",
        note="Motion is measured, too. LaMa has random weights and sees 128 pixels around the hole.",
        runs=1,
    )


def main(name: str) -> dict:
    images, mask = clip()
    _pack.load()
    if name == "peer":
        fill = _lama.ours("each hole")
    else:
        from pentimento.model_patchers.video.fill_from_frames import fill_images

        def fill(images: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return fill_images(images, mask, "auto", 60, 4)[0]

    with torch.inference_mode():
        fill(images[:2, :96, :96], mask[:2, :96, :96])  # threads and caches
        return _pack.measure(lambda: fill(images, mask))


def clip() -> tuple[torch.Tensor, torch.Tensor]:
    """Frames (n, H, W, 3) of a camera that pans over smooth noise, and a hole (n, H, W) that crosses them."""
    noise = torch.rand(1, 3, HEIGHT // 4, WIDTH // 2, generator=torch.Generator().manual_seed(0))
    scene = torch.nn.functional.interpolate(noise, scale_factor=4, mode="bicubic").clamp(0, 1)[0].movedim(0, -1)
    mask = torch.zeros(FRAMES, HEIGHT, WIDTH)
    for t in range(FRAMES):
        x = (WIDTH - SIDE) * t // (FRAMES - 1)
        mask[t, 130 : 130 + SIDE, x : x + SIDE] = 1
    return torch.stack([scene[:, 3 * t : 3 * t + WIDTH] for t in range(FRAMES)]), mask
