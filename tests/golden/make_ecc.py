"""Makes ecc.npz with OpenCV's findTransformECC: views of a photograph that are shifted, turned or tilted.

    python tests/golden/make_ecc.py

in an environment with opencv-python-headless 5.0.0.93 (Apache-2.0), SciPy and Pillow. `template` and `image2`,
`image6`, `image8` are uint8; a bright thing stands in the images. `known` is False there and at the border. `matrix2`
... are where the search ends with so many parameters, from no motion, with the mask `known` of the image.

`calm_*`: the same of a scene that fades to grey round the hole, with noise on the images. OpenCV multiplies derivatives
by the mask, which pulls its search towards the mask's border where there are edges; here there are none. The images are
MARGIN pixels larger than the template on each side, so that no border is in sight, and both are blurred beforehand.
"""

from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from scipy import ndimage

HEIGHT, WIDTH, BORDER, MARGIN = 120, 160, 10, 12
HOLE = 110, 60  # its centre in the template
GREY = 128
folder = Path(__file__).parent
photograph = np.asarray(Image.open(folder.parents[1] / "workflows/input/pentimento_coffee.png").convert("L"))
centre = np.array([[1, 0, -WIDTH / 2], [0, 1, -HEIGHT / 2], [0, 0, 1.0]])
motions = {
    2: (cv2.MOTION_TRANSLATION, [[1, 0, 2.3], [0, 1, -1.6], [0, 0, 1]]),
    6: (cv2.MOTION_AFFINE, [[1.02, -0.03, 1.2], [0.02, 1.01, -0.7], [0, 0, 1]]),
    8: (cv2.MOTION_HOMOGRAPHY, [[1.02, -0.03, 0.4], [0.03, 1.02, 0.3], [1e-4, 5e-5, 1]]),
}


def view(motion: np.ndarray, scene: np.ndarray = photograph, margin: int = 0, noise: float = 0) -> np.ndarray:
    """What a camera sees that has moved by `motion`, about the middle of the view."""
    place = np.array([[1, 0, 300.0], [0, 1, 200], [0, 0, 1]]) @ np.linalg.inv(motion) @ centre
    y, x = np.mgrid[-margin : HEIGHT + margin, -margin : WIDTH + margin]
    x, y, w = np.tensordot(place, np.stack((x, y, np.ones_like(x))), 1)
    levels = ndimage.map_coordinates(scene.astype(np.float64), (y / w, x / w), order=3)
    levels += np.random.default_rng(0).normal(0, noise, levels.shape)
    return np.rint(levels).clip(0, 255).astype(np.uint8)


def search(template: np.ndarray, image: np.ndarray, start: np.ndarray, parameters: int, mask: np.ndarray, blur: int):
    """The matrix (3, 3) where OpenCV's search ends."""
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 2000, 1e-14)
    start = start.astype(np.float32)[: 3 if parameters == 8 else 2]
    mask = mask.astype(np.uint8) * 255
    _, matrix = cv2.findTransformECC(template, image, start, motions[parameters][0], criteria, mask, blur)
    return np.vstack((matrix, [[0, 0, 1]]))[:3].astype(np.float64)


def distance(shape: tuple[int, int], x: float, y: float) -> np.ndarray:
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    return np.hypot(columns - x, rows - y)


known = np.zeros((HEIGHT, WIDTH), bool)
known[BORDER:-BORDER, BORDER:-BORDER] = True
known[40:75, 90:130] = False
template = view(np.eye(3))
fade = ((distance(photograph.shape, 300 + HOLE[0] - WIDTH / 2, 200 + HOLE[1] - HEIGHT / 2) - 26) / 8).clip(0, 1)
calm = GREY + (photograph - float(GREY)) * fade**2 * (3 - 2 * fade)
calm_template = view(np.eye(3), calm)
values = {"template": template, "known": known, "calm_template": calm_template, "calm_start": np.eye(3)}
values["calm_start"][:2, 2] = MARGIN
for parameters, (_, motion) in motions.items():
    image = view(np.array(motion))
    image[45:70, 95:125] = 230
    truth = np.linalg.inv(centre) @ np.array(motion) @ centre
    values[f"image{parameters}"] = image
    values[f"true{parameters}"] = truth
    values[f"matrix{parameters}"] = search(template, image, np.eye(3), parameters, known, 5)

    image = view(np.array(motion), calm, MARGIN, noise=4)
    x, y, w = values["calm_start"] @ truth @ [*HOLE, 1]
    away = distance(image.shape, x / w, y / w)
    image[away < 24] = GREY
    image[away < 10] = 230
    blurred = [cv2.GaussianBlur(picture.astype(np.float32), (5, 5), 1) for picture in (calm_template, image)]
    values[f"calm_image{parameters}"] = image
    values[f"calm_known{parameters}"] = away >= 14
    values[f"calm_matrix{parameters}"] = search(*blurred, values["calm_start"], parameters, away >= 14, 1)
np.savez_compressed(folder / "ecc.npz", **values)
