"""The alignment of faces against facexlib's, and the landmarks that it takes."""

import numpy as np
import pytest
import torch

from kit.faces import landmarks, mesh, placed
from kit.golden import GOLDEN, maker
from pentimento.model_patchers.edit import face_align, restore_face
from pentimento.model_patchers.edit.face_align import TEMPLATE, five_points, inverse, similarity


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "face_align.npz") as file:
        return dict(file)


def moved(matrix, points):
    return points @ matrix[:, :2].T + matrix[:, 2]


def distance(ours, theirs, points):
    """The largest, in pixels of the picture."""
    return np.abs(moved(ours, points) - moved(theirs, points)).max()


class TestAgainstFacexlib:
    def test_the_similarity_is_its_own_to_a_ten_thousandth_of_a_pixel(self, golden):
        whole = golden["whole"]
        assert whole.sum() > 50
        errors = [
            distance(inverse(similarity(points)), theirs, TEMPLATE)
            for points, theirs in zip(golden["points"][whole], golden["inverse"][whole], strict=True)
        ]
        assert max(errors) < 1e-4

    def test_where_it_leaves_out_points_ours_still_has_the_least_squares(self, golden):
        for points, theirs, whole in zip(golden["points"], golden["matrix"], golden["whole"], strict=True):
            ours, other = (np.square(moved(matrix, points) - TEMPLATE).sum() for matrix in (similarity(points), theirs))
            assert ours <= other + 1e-6
            assert whole or ours < other - 1

    @pytest.mark.parametrize(
        "wrong",
        [
            lambda points: similarity(points, 2 * TEMPLATE),  # the template at 1024
            lambda points: similarity(points, TEMPLATE[[1, 0, 2, 4, 3]]),  # the subject's left for the picture's
            lambda points: similarity(points[:3], TEMPLATE[:3]),  # without the mouth
            lambda points: similarity(points[::-1], TEMPLATE[::-1] + 0.5),  # half a pixel off
            lambda points: np.linalg.lstsq(np.c_[points, np.ones(5)], TEMPLATE, rcond=None)[0].T,  # affine: it shears
        ],
    )
    def test_wrong_variants_are_far_from_it(self, golden, wrong):
        whole = golden["whole"]
        errors = [
            distance(wrong(points), theirs, points)
            for points, theirs in zip(golden["points"][whole][1:], golden["matrix"][whole][1:], strict=True)
        ]
        assert max(errors) > 0.4

    def test_the_crop_at_whole_pixels_is_its_own_with_its_grey_around(self, golden):
        picture = torch.from_numpy(maker("face_align").picture()).float() / 255
        ours = restore_face.align(picture, similarity(golden["points"][0]))
        theirs = torch.from_numpy(golden["crop"]).float() / 255
        assert (theirs[0, 0] * 255).round().tolist() == [132, 133, 135]
        assert (ours - theirs).abs().max() < 1e-3
        assert (ours - theirs.flip(-1)).abs().max() > 0.1


class TestPoints:
    def test_an_eye_is_the_middle_of_its_corners_and_the_picture_s_left_comes_first(self):
        points = placed(300, 200)
        assert np.abs(five_points(mesh(points)) - points).max() < 1e-4
        assert points[0, 0] < points[1, 0] and points[3, 0] < points[4, 0]

    def test_a_mesh_without_irises_gives_the_same(self):
        points = placed(30, 20)
        assert np.array_equal(five_points(mesh(points, 468)), five_points(mesh(points, 478)))

    def test_the_inverse_undoes_a_similarity(self):
        matrix = similarity(placed(30, 20, 60, 40))
        assert np.abs(moved(inverse(matrix), moved(matrix, TEMPLATE)) - TEMPLATE).max() < 1e-9


class TestLandmarks:
    def faces(self, landmarks, *shape):
        return face_align.faces(landmarks, torch.zeros(*shape, 3))

    @pytest.mark.parametrize("factor", [0.5, 1, 4, 1.7])
    def test_of_the_picture_in_another_size_are_resized(self, factor):
        (((points,),)) = self.faces(
            landmarks((100, 150), [placed(60, 50)]), 1, round(100 * factor), round(150 * factor)
        )
        assert np.abs((points + 0.5) / factor - 0.5 - placed(60, 50)).max() < 1e-4

    def test_of_one_picture_count_for_a_batch(self):
        faces = self.faces(landmarks((40, 50), [placed(20, 20), placed(30, 20)]), 3, 40, 50)
        assert [len(frame) for frame in faces] == [2, 2, 2]

    def test_of_each_picture_belong_to_it(self):
        faces = self.faces(landmarks((40, 50), [], [placed(30, 20)]), 2, 40, 50)
        assert [len(frame) for frame in faces] == [0, 1]

    def test_of_another_number_of_pictures_are_refused(self):
        with pytest.raises(ValueError, match="landmarks have 2 pictures, but image is a batch of 3. Detect"):
            self.faces(landmarks((40, 50), [], []), 3, 40, 50)

    def test_of_another_shape_are_refused(self):
        with pytest.raises(ValueError, match="detected in a picture of 50 x 40 pixels, but image is 60 x 40, which"):
            self.faces(landmarks((40, 50), []), 1, 40, 60)

    @pytest.mark.parametrize("other", ["text", None, {"frames": []}, [1, 2]])
    def test_of_no_mesh_are_refused(self, other):
        with pytest.raises(ValueError, match="landmarks are not those of a face mesh. Connect the output"):
            self.faces(other, 1, 40, 50)

    def test_of_a_smaller_mesh_are_refused(self):
        few = {"frames": [[{"landmarks_xy": np.zeros((68, 2))}]], "image_size": (40, 50)}
        with pytest.raises(ValueError, match="landmarks have a face of 68 points, but a face mesh has 468 or 478."):
            self.faces(few, 1, 40, 50)

    def test_of_nan_are_refused_with_the_picture(self):
        broken = landmarks((40, 50), [], [placed(20, 20), placed(np.nan, 20)])
        with pytest.raises(ValueError, match="landmarks have NaN or infinity in a face of picture 2."):
            self.faces(broken, 2, 40, 50)
