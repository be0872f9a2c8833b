"""Small copies of picture files. Imports nothing but Pillow, and that late: `python3 host grid` runs without torch."""

import base64
import io

MODES = ("1", "L", "LA", "P", "RGB", "RGBA")  # Pillow would clip 16 bits


def data_url(content: bytes, side: int) -> str | None:
    """A small copy of a picture file as a data URL: JPEG, or PNG where it has transparent pixels.

    Args:
        content: Of the file.
        side: The longer side of the copy in pixels, at most.

    Returns:
        None where the file is no picture, is damaged or moves, or where Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError:
        return None
    try:
        with Image.open(io.BytesIO(content)) as image:
            if getattr(image, "n_frames", 1) > 1 or image.mode not in MODES:
                return None
            clear, profile = "A" in image.mode or "transparency" in image.info, image.info.get("icc_profile")
            small = image.convert("RGBA" if clear else "RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # what Pillow raises for a damaged picture
        return None
    small.thumbnail((side, side))
    buffer, form = io.BytesIO(), "png" if clear else "jpeg"
    small.save(buffer, form, quality=85, icc_profile=profile)
    return f"data:image/{form};base64,{base64.b64encode(buffer.getvalue()).decode()}"
