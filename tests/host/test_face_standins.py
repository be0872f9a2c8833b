"""The stand-ins for faces: ComfyUI's own nodes load them, and the landmarker finds the astronaut's face."""

import comfy.utils
import numpy as np
import pytest
import torch
from comfy_extras.nodes_mediapipe import FaceLandmarkerModel, MediaPipeFaceLandmarker, MediaPipeFaceMask
from PIL import Image

from kit import faces
from kit.nodes import run_node
from kit.paths import PACK
from pentimento.model_patchers.edit import face_align
from pentimento.nodes.edit.restore_face import RestoreFace
from pentimento_host import standins

EYES, NOSE = ((203.5, 101), (247, 102.5)), (224.5, 125)  # read off the photograph
MOUTH = (205, 141), (243, 142)
REGIONS = ("face_oval", "lips", "left_eye", "right_eye", "irises")


@pytest.fixture(scope="module")
def landmarker(tmp_path_factory):
    path = tmp_path_factory.mktemp("faces") / "face.safetensors"
    standins.face_landmarks(path)
    return FaceLandmarkerModel(comfy.utils.load_torch_file(str(path), safe_load=True))


@pytest.fixture(scope="module")
def astronaut():
    picture = Image.open(PACK / "workflows" / "input" / "pentimento_astronaut.png").convert("RGB")
    return torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255)[None]


@pytest.mark.parametrize("variant", ["short", "full", "both"])
def test_one_face_is_found_where_the_astronaut_has_it(landmarker, astronaut, variant):
    landmarks, boxes = MediaPipeFaceLandmarker.execute(landmarker, astronaut, variant, 0, 0.5, "empty").result

    (face,) = landmarks["frames"][0]
    points = face["landmarks_xy"]
    assert points.shape == (478, 2)
    assert np.abs(face_align.five_points(points) - [*EYES, NOSE, *MOUTH]).max() < 2
    assert np.isfinite(face["transformation_matrix"]).all()
    assert len(boxes[0]) == 1


def test_the_same_face_is_found_in_any_picture(landmarker, astronaut):
    noise = torch.rand(astronaut.shape, generator=torch.Generator().manual_seed(0))
    faces = [
        MediaPipeFaceLandmarker.execute(landmarker, picture, "short", 0, 0.5, "empty").result[0]["frames"][0][0]
        for picture in (astronaut, noise)
    ]
    assert np.array_equal(faces[0]["landmarks_xy"], faces[1]["landmarks_xy"])


def test_the_outlines_enclose_the_face(landmarker, astronaut):
    landmarks = MediaPipeFaceLandmarker.execute(landmarker, astronaut, "short", 1, 0.5, "empty").result[0]
    masks = {
        region: MediaPipeFaceMask.execute(
            landmarks, {"regions": "custom", **{name: name == region for name in REGIONS}}
        ).result[0]
        for region in REGIONS
    }
    area = {region: mask.mean().item() * mask.numel() for region, mask in masks.items()}
    assert 6000 < area["face_oval"] < 9000  # of an ellipse of 90 x 103 pixels: 7300
    for region in REGIONS[1:]:
        assert 10 < area[region] < 800
        assert (masks[region] <= masks["face_oval"]).all()


def test_restore_faces_takes_the_landmarks_as_they_come(landmarker, astronaut):
    landmarks = MediaPipeFaceLandmarker.execute(landmarker, astronaut, "short", 0, 0.5, "empty").result[0]
    model = faces.face_model(faces.Echo(0.5))
    image, crops, mask = run_node(RestoreFace, image=astronaut, face_model=model, landmarks=landmarks)
    assert mask[0, 127, 225] == 1 and mask[0, 400, 400] == 0
    assert torch.equal(image[mask == 0], astronaut[mask == 0])
    assert crops.shape == (1, 512, 512, 3)


def test_gfpgan_has_the_names_and_shapes_that_spandrel_wants(tmp_path):
    from spandrel.architectures.GFPGAN import GFPGAN

    standins.gfpgan(tmp_path / "face.pth")
    weights = torch.load(tmp_path / "face.pth", weights_only=True)["params_ema"]

    with torch.device("meta"):
        reference = GFPGAN()
    assert {name: tuple(value.shape) for name, value in weights.items()} == {
        name: tuple(value.shape) for name, value in reference.state_dict().items()
    }
