"""Score Image against scikit-image and SciPy, and what the node gives where a score is missing."""

import folder_paths
import numpy as np
import pytest
import safetensors.torch
import torch
from comfy_execution.graph_utils import ExecutionBlocker
from scipy import ndimage
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from kit import lpips as thin
from kit.nodes import run_node
from kit.pictures import photograph
from pentimento.model_patchers.score import output, score_image
from pentimento.nodes.score.score_image import ScoreImage

pytestmark = pytest.mark.usefixtures("one_thread")
SIZES = [(64, 64), (11, 40), (97, 83)]
SETTINGS = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "channel_axis": -1}


def pair(size, b=1):
    """Parts of a photograph, and the same with noise."""
    image = photograph(*size, b=b)
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(1))
    return image, (image + 0.08 * noise).clamp(0, 1)


def ssim(image, reference, **settings):
    """scikit-image's."""
    one, other = (picture[0].double().numpy() for picture in (image, reference))
    return structural_similarity(one, other, **{"data_range": 1, **SETTINGS, **settings})


def laplacian(image, mode="mirror", scale=255):
    """The variance of SciPy's Laplacian."""
    grey = scale * (image[0].double().numpy() @ [0.299, 0.587, 0.114])
    return ndimage.laplace(grey, mode=mode).var()


def means(image, reference=None):
    return score_image.means(score_image.score(image, reference))


@pytest.mark.parametrize("size", SIZES)
def test_psnr_equals_scikit_image(size):
    image, reference = pair(size)
    expected = peak_signal_noise_ratio(reference.double().numpy(), image.double().numpy(), data_range=1)
    assert means(image, reference)["psnr"] == pytest.approx(expected, abs=1e-4)
    levels = peak_signal_noise_ratio(255 * reference.numpy(), 255 * image.numpy(), data_range=1)  # a mistaken range
    assert abs(levels - expected) > 10


@pytest.mark.parametrize("size", SIZES)
def test_ssim_equals_scikit_image(size):
    """And its mistaken ranges and windows are far from it."""
    image, reference = pair(size)
    ours = means(image, reference)["ssim"]
    assert ours == pytest.approx(ssim(image, reference), abs=2e-5)
    wrong = {
        "range of 255": ssim(image, reference, data_range=255),
        "range of 2": ssim(image, reference, data_range=2),
        "square window of 7": ssim(image, reference, gaussian_weights=False, win_size=7),
        "another sigma": ssim(image, reference, sigma=1.0),
    }
    assert not {name: value for name, value in wrong.items() if abs(value - ours) < 1e-3}


@pytest.mark.parametrize("size", SIZES)
def test_sharpness_equals_scipy(size):
    image, _ = pair(size)
    ours = means(image)["sharpness"]
    assert ours == pytest.approx(laplacian(image), rel=1e-4)
    wrong = {"borders of 0": laplacian(image, "constant"), "values of 0 to 1": laplacian(image, scale=1)}
    assert not {name: value for name, value in wrong.items() if abs(value / ours - 1) < 0.01}


def test_a_blurred_picture_is_less_sharp():
    image, _ = pair((64, 64))
    blurred = torch.from_numpy(ndimage.gaussian_filter(image.numpy(), (0, 1, 1, 0)))
    assert means(blurred)["sharpness"] < means(image)["sharpness"] / 10


def test_equal_pictures():
    image, _ = pair((40, 40))
    scores = means(image, image)
    assert (scores["psnr"], scores["ssim"]) == (100, pytest.approx(1, abs=1e-6))
    black = torch.zeros(1, 16, 16, 3)
    assert means(black, black) == {"psnr": 100, "ssim": pytest.approx(1, abs=1e-6), "sharpness": 0}


def test_a_batch_has_the_mean_of_its_pictures():
    image, reference = pair((40, 50), b=3)
    scores = score_image.score(image, reference)
    single = [means(image[i : i + 1], reference[i : i + 1]) for i in range(3)]
    assert scores == {name: [each[name] for each in single] for name in single[0]}
    assert score_image.means(scores)["psnr"] == pytest.approx(np.mean(scores["psnr"]))
    against_one = score_image.score(image, reference[:1])
    assert against_one["psnr"][0] == scores["psnr"][0] and against_one["psnr"][1] < scores["psnr"][1]


def test_colours_alone_count():
    """Grey is that grey in RGB; alpha is not read; values beyond 0 and 1 are those that a file holds."""
    image, reference = pair((40, 50))
    expected = means(image, reference)
    alpha = torch.rand(1, 40, 50, 1)
    assert means(torch.cat((image, alpha), -1), reference) == expected
    beyond = torch.where(image < 0.02, -0.5, torch.where(image > 0.98, 1.5, image))
    inside = torch.where(image < 0.02, 0.0, torch.where(image > 0.98, 1.0, image))
    assert means(beyond, reference) == means(inside, reference)
    grey = image[..., :1]
    assert means(grey, reference) == means(grey.expand(-1, -1, -1, 3), reference)


@pytest.mark.parametrize(
    "image, reference, sentence",
    [
        ((1, 20, 30), (1, 30, 20), "image is 30 x 20 pixels and reference 20 x 30. .* give both one size"),
        ((3, 20, 20), (2, 20, 20), "image is a batch of 3 and reference a batch of 2. Connect one reference for all"),
        ((1, 20, 20), (2, 20, 20), "a batch of 1 and reference a batch of 2"),
        ((1, 10, 20), None, "image is 20 x 10 pixels, and scores need at least 11 x 11"),
    ],
)
def test_pictures_that_cannot_be_compared_are_said(image, reference, sentence):
    with pytest.raises(ValueError, match=sentence):
        score_image.score(torch.rand(*image, 3), None if reference is None else torch.rand(*reference, 3))


def test_the_report():
    image, reference = pair((40, 50), b=2)
    one, two = (score_image.report(score_image.score(image[i : i + 1], reference[i : i + 1])) for i in range(2))
    mean, *lines = score_image.report(score_image.score(image, reference)).splitlines()
    assert lines == [f"1: {one}", f"2: {two}"]
    assert mean.startswith("Mean: PSNR ") and "LPIPS" not in mean
    assert score_image.report(score_image.score(image[:1])).startswith("sharpness ")


class TestNode:
    @pytest.fixture
    def file(self, tmp_path, monkeypatch):
        """The name of a file of LPIPS."""
        monkeypatch.setitem(folder_paths.folder_names_and_paths, "lpips", ([str(tmp_path)], {".safetensors"}))
        safetensors.torch.save_file(thin.tensors("whole", "alex"), tmp_path / thin.FILE)
        return thin.FILE

    def test_gives_numbers_to_sockets_and_grids(self, file):
        image, reference = pair((40, 50), b=2)
        result = ScoreImage.execute(image, reference, file)
        psnr, ssim, lpips, sharpness, report = result.result
        scores = score_image.means(score_image.score(image, reference, thin.load("alex")))
        assert {"psnr": psnr, "ssim": ssim, "lpips": lpips, "sharpness": sharpness} == scores
        assert all(type(value) is float for value in scores.values())
        assert result.ui == {"text": [report], output.NAME: [scores]}

    def test_a_score_that_is_missing_stops_who_wants_it_with_a_sentence(self, file):
        """A number in its place would be taken for a score."""
        image, reference = pair((40, 50))
        for inputs, absent, to_do in (
            ({}, ("psnr", "ssim", "lpips"), "connect a reference"),
            ({"lpips_name": file}, ("psnr", "ssim", "lpips"), "connect a reference"),
            ({"reference": reference}, ("lpips",), "choose a file as lpips_name"),
        ):
            values = dict(zip(score_image.WORDS, run_node(ScoreImage, image=image, **inputs), strict=False))
            blocked = {name: value for name, value in values.items() if isinstance(value, ExecutionBlocker)}
            assert tuple(blocked) == absent
            assert all(f"no {name} here: {to_do}" in value.message for name, value in blocked.items())
            assert ScoreImage.execute(image, **inputs).ui[output.NAME][0].keys() == values.keys() - blocked.keys()

    def test_wrong_files_are_said(self, file):
        image, reference = pair((40, 50))
        with pytest.raises(FileNotFoundError, match="no file 'away.pth' in models/lpips"):
            ScoreImage.execute(image, reference, "away.pth")
        with pytest.raises(ValueError, match="NaN or infinity"):
            ScoreImage.execute(image, reference / 0)
