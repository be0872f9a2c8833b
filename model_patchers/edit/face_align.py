"""Faces aligned to the template of FFHQ: five points of a face mesh, and the similarity that takes them there.

The template and the border's colour are facexlib's. Umeyama, "Least-squares estimation of transformation parameters
between two point patterns", TPAMI 13, 1991, gives the similarity. facexlib leaves out points that its estimate takes
for mistakes; a mesh has none, and here all five points count.
"""

from typing import Any

import numpy as np
from torch import Tensor

SIDE = 512  # pixels of an aligned face
TEMPLATE = np.array(  # x and y of the eyes, the tip of the nose and the corners of the mouth; the picture's left first
    [
        (192.98138, 239.94708),
        (318.90277, 240.1936),
        (256.63416, 314.01935),
        (201.26117, 371.41043),
        (313.08905, 371.15118),
    ]
)
POINTS = (
    (33, 133),
    (362, 263),
    (1,),
    (61,),
    (291,),
)  # of MediaPipe's mesh, in that order; an eye by its corners
MESH = 468  # points of the mesh without irises, which may follow
SMALLEST = 5  # pixels between the eyes, as facexlib's scripts have it
SHAPE = 0.05  # by how much width / height of the picture and of the landmarks' may differ
NEEDED = "Connect the output face_landmarks of Detect Face Landmarks (MediaPipe)."


def five_points(mesh: np.ndarray) -> np.ndarray:
    """The points of the template in a face mesh: (N, 2) -> (5, 2). Eyes do not move with the gaze, as irises would."""
    return np.stack([mesh[list(numbers)].mean(0) for numbers in POINTS])


def similarity(points: np.ndarray, template: np.ndarray = TEMPLATE) -> np.ndarray:
    """The turn, scale and shift that takes points to the template with the least squares of the distances: (2, 3).

    Umeyama's eqs 40 - 42 in the plane without reflection. With points p and q as complex numbers about their means,
    the turn and the scale are the number sum(conj(p) q) / sum(|p|^2).

    Args:
        points, template: (N, 2). The points are not all the same.
    """
    p, q = (x[:, 0] + 1j * x[:, 1] for x in (points.astype(np.float64), template))
    centred = p - p.mean()
    turn = (centred.conj() * (q - q.mean())).sum() / (np.abs(centred) ** 2).sum()
    shift = q.mean() - turn * p.mean()
    return np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])


def inverse(matrix: np.ndarray) -> np.ndarray:
    """The similarity (2, 3) that undoes another."""
    return np.linalg.inv(np.vstack((matrix, [0, 0, 1])))[:2]


def faces(landmarks: Any, image: Tensor) -> list[list[np.ndarray]]:
    """The five points, (5, 2) in pixels, of each face of each picture.

    Args:
        landmarks: ComfyUI's FACE_LANDMARKS: {"frames": for each picture a list of faces with "landmarks_xy" (N, 2),
            "image_size": (H, W)}. Those of one picture count for all pictures.
        image: (B, H, W, C). It may be the landmarks' picture in another size.

    Raises:
        ValueError: There are no such landmarks, or they belong to other pictures.
    """
    frames, size = _checked(landmarks)
    count, height, width = image.shape[:3]
    if len(frames) not in (1, count):
        raise ValueError(
            f"landmarks have {len(frames)} pictures, but image is a batch of {count}. Detect the landmarks in these "
            "pictures, or in a single one for all of them."
        )
    if abs(np.log((width / height) / (size[1] / size[0]))) > SHAPE:
        raise ValueError(
            f"landmarks were detected in a picture of {size[1]} x {size[0]} pixels, but image is {width} x {height}, "
            "which is another shape. Detect the landmarks in this picture, or in the same one before it was resized "
            "without cropping."
        )
    scale = np.array([width / size[1], height / size[0]])
    points = [[(_points(face, number) + 0.5) * scale - 0.5 for face in frame] for number, frame in enumerate(frames, 1)]
    return points if len(points) == count else points * count


def _checked(landmarks: Any) -> tuple[list, tuple[int, int]]:
    try:
        frames, (height, width) = landmarks["frames"], landmarks["image_size"]
    except (TypeError, KeyError) as error:
        raise ValueError(f"landmarks are not those of a face mesh. {NEEDED}") from error
    return frames, (height, width)


def _points(face: dict, number: int) -> np.ndarray:
    mesh = np.asarray(face["landmarks_xy"], dtype=np.float64)
    if len(mesh) < MESH:
        raise ValueError(f"landmarks have a face of {len(mesh)} points, but a face mesh has {MESH} or 478. {NEEDED}")
    points = five_points(mesh)
    if not np.isfinite(points).all():
        raise ValueError(
            f"landmarks have NaN or infinity in a face of picture {number}. Check the model and the picture that the "
            "landmarks were detected with."
        )
    return points
