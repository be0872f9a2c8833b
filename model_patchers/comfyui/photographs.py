"""The photographs and the clip that the bundled workflows load. Load Image and Load Video read ComfyUI's input folder
alone, so they go there."""

import logging
import os
import shutil
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "workflows" / "input"
CLIP = "pentimento_clip.mp4"  # made here: a video in the repository would be larger than all the photographs
FRAMES, WIDTH, HEIGHT, RADIUS = 24, 320, 240, 26  # of the clip, and of the ball in it


def put(folder: Path) -> None:
    """Puts the photographs and the clip that `folder` lacks into it, and logs their names. A file that is there stays.

    A folder that cannot be written to is no error: it is logged, and the workflows work with other pictures.
    """
    files = sorted([*FOLDER.glob("*.png"), FOLDER / CLIP])
    missing = [file for file in files if not os.path.lexists(folder / file.name)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file in missing:
            _put(file, folder / file.name)
    except OSError as error:
        logging.warning(
            "Pentimento: the photographs of its workflow templates could not be copied into '%s': %s. "
            "Copy them yourself from '%s', or choose pictures of your own in Load Image.",
            folder,
            error.strerror,
            FOLDER,
        )
    else:
        if missing:
            names = ", ".join(file.name for file in missing)
            logging.info("Pentimento: copied %s into '%s' for its workflow templates.", names, folder)


def _put(file: Path, target: Path) -> None:
    """A process that is stopped in the middle leaves no half file under the target's name."""
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        if file.name == CLIP:
            _write_clip(part)
        else:
            shutil.copyfile(file, part)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _write_clip(path: Path) -> None:
    """A camera pans over the coffee cup in sub-pixel steps, and a ball hovers before it. It takes 0.3 s."""
    import av
    from PIL import Image, ImageDraw

    photograph = Image.open(FOLDER / "pentimento_coffee.png").convert("RGB")
    with av.open(str(path), mode="w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=12, options={"crf": "16"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(FRAMES):
            time = number / (FRAMES - 1)
            x, y = 90 + 150.3 * time, 70 + 18.7 * time
            corner = (1, 0, x, 0, 1, y)
            frame = photograph.transform((WIDTH, HEIGHT), Image.Transform.AFFINE, corner, Image.Resampling.BICUBIC)
            ball = Image.new("L", (4 * WIDTH, 4 * HEIGHT))  # four times as large, for a soft edge
            middle = 4 * (WIDTH / 2 + 8 * time - 4), 4 * (HEIGHT / 2 - 6 * time + 3)
            ImageDraw.Draw(ball).circle(middle, 4 * RADIUS, fill=255)
            frame.paste((225, 25, 170), mask=ball.resize((WIDTH, HEIGHT), Image.Resampling.BOX))
            container.mux(stream.encode(av.VideoFrame.from_image(frame)))
        container.mux(stream.encode(None))
