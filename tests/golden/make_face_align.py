"""Makes face_align.npz with facexlib's FaceRestoreHelper: the alignment of faces to the FFHQ template.

    python tests/golden/make_face_align.py

in an environment with facexlib 0.3.0 (MIT), opencv-python-headless 5.0.0.93 (Apache-2.0), PyTorch and torchvision.

`points` (N, 5, 2) are eyes, nose and corners of the mouth. `matrix` (N, 2, 3) takes the picture to the 512 pixels of
the template. facexlib estimates it by least median of squares, which leaves out points that it takes for mistakes:
`whole` (N,) says where it left out none. `inverse` is the matrix that pastes back. `crop` is `picture()` aligned by
`points[0]`, which lie a whole number of pixels off the template.
"""

from pathlib import Path

import numpy as np

COUNT = 60
SHIFT = -150, -200  # of points[0]: beyond the picture's border
TEMPLATE = np.array([(192.98138, 239.94708), (318.90277, 240.1936), (256.63416, 314.01935), (201.26117, 371.41043)])
TEMPLATE = np.vstack((TEMPLATE, (313.08905, 371.15118)))


def picture() -> np.ndarray:
    """uint8 (180, 240, 3), RGB."""
    y, x = np.mgrid[:180, :240]
    return np.stack((x, 255 - y, (x // 8 + y // 8) % 2 * 200), -1).astype(np.uint8)


def points() -> np.ndarray:
    """Faces of 30 to 1000 pixels, turned by any angle, their points moved by up to a tenth of the eyes' distance.

    All but the first are multiples of 1 / 64: OpenCV takes float32, which holds them.
    """
    rng = np.random.default_rng(0)
    faces = [TEMPLATE + SHIFT]
    for i in range(1, COUNT):
        size, angle = 2 ** rng.uniform(-3, 2), rng.uniform(-np.pi, np.pi)
        turn = size * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        moved = TEMPLATE + rng.normal(0, 1, (5, 2)) * 12 * i / COUNT
        faces.append(np.rint(64 * ((moved - 256) @ turn.T + rng.uniform(0, 1000, 2))) / 64)
    return np.array(faces)


def main() -> None:
    import cv2
    from facexlib.utils import face_restoration_helper as facexlib

    facexlib.init_detection_model = facexlib.init_parsing_model = lambda *arguments, **keywords: None
    helper = facexlib.FaceRestoreHelper(upscale_factor=1, device="cpu")
    assert np.abs(helper.face_template - TEMPLATE).max() == 0
    faces = points()
    helper.read_image(picture()[..., ::-1].copy())
    helper.all_landmarks_5 = list(faces)
    helper.align_warp_face()
    helper.get_inverse_affine()
    inliers = [cv2.estimateAffinePartial2D(face, TEMPLATE, method=cv2.LMEDS)[1] for face in faces]
    np.savez_compressed(
        Path(__file__).parent / "face_align.npz",
        points=faces,
        matrix=helper.affine_matrices,
        inverse=helper.inverse_affine_matrices,
        whole=[bool(each.all()) for each in inliers],
        crop=helper.cropped_faces[0][..., ::-1],
    )


if __name__ == "__main__":
    main()
