"""Makes ecc.npz with OpenCV's findTransformECC: views of a photograph that are shifted, turned or tilted.

    python tests/golden/make_ecc.py

in an environment with opencv-python-headless 5.0.0.93 (Apache-2.0), SciPy and Pillow. `template` and `image2`,
`image6`, `image8` are uint8; a bright thing stands in the images. `known` is False there and at the border. `matrix2`
... are where the search ends with so many parameters, from no motion, with the mask `known` of the image.
"""

from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from scipy import ndimage

HEIGHT, WIDTH, BORDER = 120, 160, 10
folder = Path(__file__).parent
photograph = np.asarray(Image.open(folder.parents[1] / "workflows/input/pentimento_coffee.png").convert("L"))
centre = np.array([[1, 0, -WIDTH / 2], [0, 1, -HEIGHT / 2], [0, 0, 1.0]])
motions = {
    2: (cv2.MOTION_TRANSLATION, [[1, 0, 2.3], [0, 1, -1.6], [0, 0, 1]]),
    6: (cv2.MOTION_AFFINE, [[1.02, -0.03, 1.2], [0.02, 1.01, -0.7], [0, 0, 1]]),
    8: (cv2.MOTION_HOMOGRAPHY, [[1.02, -0.03, 0.4], [0.03, 1.02, 0.3], [1e-4, 5e-5, 1]]),
}


def view(motion: np.ndarray) -> np.ndarray:
    """What a camera sees that has moved by `motion`, about the middle of the view."""
    place = np.array([[1, 0, 300.0], [0, 1, 200], [0, 0, 1]]) @ np.linalg.inv(motion) @ centre
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    x, y, w = np.tensordot(place, np.stack((x, y, np.ones_like(x))), 1)
    levels = ndimage.map_coordinates(photograph.astype(np.float64), (y / w, x / w), order=3)
    return np.rint(levels).clip(0, 255).astype(np.uint8)


known = np.zeros((HEIGHT, WIDTH), bool)
known[BORDER:-BORDER, BORDER:-BORDER] = True
known[40:75, 90:130] = False
template = view(np.eye(3))
values = {"template": template, "known": known}
for parameters, (kind, motion) in motions.items():
    image = view(np.array(motion))
    image[45:70, 95:125] = 230
    matrix = np.eye(3, dtype=np.float32)[: 3 if parameters == 8 else 2]
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 1000, 1e-12)
    _, matrix = cv2.findTransformECC(template, image, matrix, kind, criteria, known.astype(np.uint8) * 255, 5)
    values[f"image{parameters}"] = image
    values[f"true{parameters}"] = np.linalg.inv(centre) @ np.array(motion) @ centre
    values[f"matrix{parameters}"] = np.vstack((matrix, [[0, 0, 1]]))[:3].astype(np.float64)
np.savez_compressed(folder / "ecc.npz", **values)
