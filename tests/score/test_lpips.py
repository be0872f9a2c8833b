"""LPIPS against golden tensors of the authors' package, and the forms of its files."""

import pytest
import safetensors.torch
import torch

from kit import lpips as kit
from kit.assertions import relative_error
from pentimento.model_patchers.arch import lpips as arch
from pentimento.model_patchers.score import lpips

pytestmark = pytest.mark.usefixtures("one_thread")
NETS = {"alex": arch.ALEXNET, "vgg": arch.VGG16}
CASES = range(len(kit.make_lpips.CASES))


@pytest.fixture(scope="module")
def model(precision, one_thread):
    """LPIPS by AlexNet; always in float32, where a device is good at half precision, too."""
    return kit.load("alex")


@pytest.fixture(scope="module")
def networks(model):
    return {"alex": model, "vgg": kit.load("vgg")}


def off(model, case=0, net="alex", name=None):
    """How far our distances are from the authors'."""
    return relative_error(model.distance(*kit.pairs(case)), kit.golden()[name or f"{net}_{case}"][:, 0])


@pytest.mark.both_devices
@pytest.mark.in_half
def test_equals_the_authors_package(model):
    assert max(off(model, case) for case in CASES) <= 1e-5


def test_equals_the_authors_package_by_vgg(networks):
    assert max(off(networks["vgg"], case, "vgg") for case in CASES) <= 1e-5


class TestMistakes:
    """Each is far from the authors' distances."""

    def test_pictures_that_stay_in_0_to_1(self, model):
        wrong = model.distance(*((1 + image) / 2 for image in kit.pairs(0)))  # which becomes the picture as it was
        assert relative_error(wrong, kit.golden()["alex_unscaled"][:, 0]) <= 1e-5
        assert relative_error(wrong, kit.golden()["alex_0"][:, 0]) > 0.1

    def test_no_shift_and_scale(self, model, monkeypatch):
        monkeypatch.setattr(arch, "SHIFT", (0, 0, 0))
        monkeypatch.setattr(arch, "SCALE", (1, 1, 1))
        assert off(model) > 0.05

    def test_features_without_unit_length(self, model, monkeypatch):
        monkeypatch.setattr(arch, "unit", lambda features: features)
        assert off(model) > 0.1

    def test_taps_after_the_poolings(self, model, monkeypatch):
        monkeypatch.setattr(model.network, "_compared", {2, 5, 7, 9, 11})
        assert off(model) > 0.01

    def test_levels_of_255(self, model):
        wrong = model.distance(*(255 * image for image in kit.pairs(0)))
        assert relative_error(wrong, kit.golden()["alex_0"][:, 0]) > 0.1


def test_equal_pictures_have_no_distance(model):
    image, _ = kit.pairs(0)
    assert model.distance(image, image).tolist() == [0, 0]
    black = torch.zeros(1, 64, 64, 3)
    assert model.distance(black, black).tolist() == [0]


@pytest.mark.parametrize("net", NETS)
def test_the_smallest_picture(networks, net):
    model, least = networks[net], NETS[net].least
    image = torch.rand(1, least, least + 9, 3, generator=torch.Generator().manual_seed(0))
    assert float(model.distance(image, 1 - image)) > 0
    with pytest.raises(ValueError, match=f"needs at least {least} x {least}. Enlarge the picture, or set lpips_name"):
        model.distance(image[:, 1:], image[:, 1:])


class TestFiles:
    @pytest.fixture(scope="class")
    def file(self, tmp_path_factory):
        """Writes tensors, and gives the path."""
        folder = tmp_path_factory.mktemp("lpips")

        def write(name, weights):
            safetensors.torch.save_file({key: value.contiguous() for key, value in weights.items()}, folder / name)
            return folder / name

        return write

    @pytest.mark.parametrize("net", NETS)
    def test_two_files(self, file, net):
        """As the authors and torchvision publish them; torchvision's file holds a classifier, too."""
        classifier = {"classifier.1.weight": torch.rand(4, 4)}
        below = file("below.safetensors", kit.tensors("features", net) | classifier)
        model = lpips.load(file("lin.safetensors", kit.tensors("linear", net)), below)
        assert off(model, 1, net) <= 1e-5

    def test_one_file_of_other_names(self, file):
        """Below a prefix, with the linear layers twice, without dropout, and in half precision."""
        whole = kit.tensors("whole", "alex")
        names = {key: key.replace("model.1", "model.0") for key in whole}
        weights = {f"loss.perceptual_loss.{names[key]}": value.half() for key, value in whole.items()}
        weights |= {f"lins.{key[3:]}": value for key, value in kit.tensors("linear", "alex").items()}
        weights |= {"scaling_layer.shift": torch.zeros(1, 3, 1, 1)}
        assert off(lpips.load(file("one.safetensors", weights)), 1) <= 0.02

    def test_a_whole_file_needs_no_backbone(self, file):
        other = file("other.safetensors", kit.tensors("features", "vgg"))
        model = lpips.load(file("whole.safetensors", kit.tensors("whole", "alex")), other)
        assert off(model, 1) <= 1e-5

    @pytest.mark.parametrize(
        "weights, below, sentence",
        [
            (
                "linear alex",
                None,
                "alone, for AlexNet. Put alexnet-owt-7be5be79.pth into .* choose it as backbone_name",
            ),
            ("linear vgg", None, "for VGG-16. Put vgg16-397923af.pth into models/lpips"),
            ("features alex", None, "without the linear layers of LPIPS. Choose it as backbone_name, and alex.pth"),
            ("linear alex", "features vgg", "'below.pth' is not the AlexNet .* Choose alexnet-owt-7be5be79.pth"),
            ("linear vgg", "linear vgg", "'below.pth' is not the VGG-16"),
        ],
    )
    def test_parts_that_do_not_fit_are_said(self, weights, below, sentence):
        read = {name: kit.tensors(*name.split()) for name in (weights, below) if name}
        with pytest.raises(ValueError, match=sentence):
            lpips.lpips_weights(read[weights], "lin.pth", read.get(below), "below.pth")

    def test_other_networks_are_said(self):
        squeeze = {f"lin{i}.model.1.weight": torch.rand(1, 64, 1, 1) for i in range(7)}
        whole = squeeze | {"net.slice2.3.squeeze.weight": torch.rand(2, 2)}
        for weights in (squeeze, whole):
            with pytest.raises(
                ValueError, match="another network than AlexNet and VGG-16. LPIPS is alex.pth with alexn"
            ):
                lpips.lpips_weights(weights, "squeeze.pth")
        with pytest.raises(ValueError, match="'x.pth' holds 1 tensors such as 'a', .* LPIPS is alex.pth with"):
            lpips.lpips_weights({"a": torch.rand(2)}, "x.pth")

    def test_vgg_19_is_no_vgg_16(self):
        vgg19 = kit.tensors("features", "vgg") | {"features.30.weight": torch.rand(512, 512, 3, 3)}
        with pytest.raises(ValueError, match="'vgg19.pth' is not the VGG-16 of torchvision"):
            lpips.lpips_weights(kit.tensors("linear", "vgg"), "vgg.pth", vgg19, "vgg19.pth")
