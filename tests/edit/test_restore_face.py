"""Restored faces: the networks of spandrel called by hand, the paste, and what users of such nodes reported."""

import logging

import comfy.utils
import numpy as np
import pytest
import torch
from comfy import model_management
from comfy_extras.nodes_upscale_model import UpscaleModelLoader
from scipy import ndimage
from spandrel.architectures.RestoreFormer import RestoreFormer
from torchvision.transforms.functional import normalize

from kit import faces
from kit.faces import Echo, face_model, landmarks, placed
from kit.nodes import run_node
from kit.pictures import photograph
from kit.tensors import rand
from pentimento.model_patchers.edit import face_align, restore_face
from pentimento.nodes.edit.restore_face import RestoreFace
from pentimento_host import standins

FACE = placed(70, 60, 90, 12)


def restored(image, network, *frames, **settings):
    """The node's results."""
    points = frames or ([FACE],)
    model = face_model(network) if isinstance(network, Echo) else network
    return run_node(RestoreFace, image=image, face_model=model, landmarks=landmarks((120, 150), *points), **settings)


def seen_points():
    """FACE as a mesh holds it, in float32."""
    return face_align.faces(landmarks((120, 150), [FACE]), photograph())[0][0]


def by_hand(picture, network, **options):
    """The aligned face through a network, as its authors call it: (512, 512, 3)."""
    face = restore_face.align(picture, face_align.similarity(seen_points()))
    x = (face.movedim(-1, 0)[None] - 0.5) / 0.5
    with torch.no_grad():
        y = network(x, **options)[0]
    return ((y.clamp(-1, 1) + 1) / 2)[0].movedim(0, -1)


@pytest.fixture(scope="module")
def codeformer():
    return face_model(faces.thin_codeformer())


@pytest.fixture(scope="module")
def gfpgan():
    return face_model(faces.thin_gfpgan())


class TestNetworks:
    def test_codeformer_takes_the_fidelity_in_its_own_order(self, codeformer):
        image = photograph()
        ours = {w: restored(image, codeformer, fidelity=w)[1][0] for w in (0.0, 0.5, 1.0)}
        theirs = by_hand(image[0], codeformer.model, weight=1.0)
        swallowed = by_hand(image[0], codeformer.model, w=1.0)  # the class ignores this name and takes 0.5

        assert (ours[1.0] - theirs).abs().max() < 1e-5
        assert (ours[0.5] - swallowed).abs().max() < 1e-5
        assert (theirs - swallowed).abs().max() > 1e-2
        assert (ours[0.0] - swallowed).abs().max() > 1e-2
        near, far = ((ours[w] - ours[0.0]).abs().mean() for w in (0.5, 1.0))
        assert near < far

    @pytest.mark.both_devices
    @pytest.mark.in_half
    def test_gfpgan_equals_a_call_by_hand(self, gfpgan):
        """In float32 where a device is good at half precision, too, as ComfyUI loads all such models."""
        image = photograph()
        ours = restored(image, gfpgan)[1][0]
        network = gfpgan.model.cpu()
        theirs = by_hand(image[0], network, randomize_noise=False)

        assert (ours.cpu() - theirs).abs().max() < 1e-5
        assert theirs.std() > 0.05
        wrong = {
            "BGR": by_hand(image[0].flip(-1), network, randomize_noise=False).flip(-1),
            "another noise at each call": by_hand(image[0], network),
            "spandrel's own call, which does not normalise": _descriptor_call(image[0], network),
            "the template at 1024": _of_double_template(image[0], network),
        }
        for name, other in wrong.items():
            assert (other - theirs).abs().max() > 1e-2, name

    def test_restoreformer_is_called_as_spandrel_calls_it(self):
        settings = {"n_embed": 16, "embed_dim": 32, "ch": 32, "ch_mult": (1,) * 6, "num_res_blocks": 1}
        model = face_model(
            faces.seeded(RestoreFormer(**settings, z_channels=32, attn_resolutions=(16,), resolution=512, head_size=2))
        )
        calls, image = [], photograph()
        model.model.register_forward_hook(lambda network, given, results: calls.append((given, results)))

        ours = restored(image, model)[1][0]

        ((((x,), (y, _)),)) = calls
        face = restore_face.align(image[0], face_align.similarity(seen_points())).movedim(-1, 0)[None]
        assert (x - normalize(face, [0.5] * 3, [0.5] * 3)).abs().max() < 1e-6
        assert (ours - ((y + 1) / 2).clamp(0, 1)[0].movedim(0, -1)).abs().max() < 1e-6
        assert ours.std() > 0.01

    def test_the_stand_in_goes_through_comfyuis_loader(self, tmp_path, monkeypatch):
        standins.gfpgan(tmp_path / "face.pth")
        monkeypatch.setattr("folder_paths.get_full_path_or_raise", lambda folder, name: str(tmp_path / name))
        (model,) = UpscaleModelLoader.execute("face.pth").result
        restore_face.check(model)

    def test_the_network_keeps_its_weights(self, gfpgan):
        before = {name: value.clone() for name, value in gfpgan.model.state_dict().items()}
        restored(photograph(), gfpgan)
        assert all(torch.equal(value, before[name]) for name, value in gfpgan.model.state_dict().items())

    @pytest.mark.parametrize("changes", [{"purpose": "SR", "scale": 4}, {"purpose": "Restoration"}])
    def test_a_model_that_is_none_for_faces_is_refused(self, changes):
        with pytest.raises(ValueError, match="face_model is GFPGAN, which is not made for faces. A face"):
            restored(photograph(), face_model(Echo(), **changes))

    def test_another_object_is_refused(self):
        with pytest.raises(ValueError, match="face_model is another model, which is not made for faces."):
            restore_face.check(object())


def _descriptor_call(picture, network):
    face = restore_face.align(picture, face_align.similarity(seen_points())).movedim(-1, 0)[None]
    return network(face, randomize_noise=False)[0].clamp(0, 1)[0].movedim(0, -1).detach()


def _of_double_template(picture, network):
    face = restore_face.align(picture, face_align.similarity(seen_points(), 2 * face_align.TEMPLATE))
    with torch.no_grad():
        y = network((face.movedim(-1, 0)[None] - 0.5) / 0.5, randomize_noise=False)[0]
    return ((y.clamp(-1, 1) + 1) / 2)[0].movedim(0, -1)


class TestPaste:
    @pytest.mark.parametrize("size", [40, 90, 300, 900])
    @pytest.mark.parametrize("degrees", [0, 33, 180])
    def test_a_network_that_changes_nothing_leaves_all_but_a_resampling(self, size, degrees):
        image = ndimage.gaussian_filter(photograph().numpy(), (0, 2, 2, 0))
        image = torch.from_numpy(image)
        points = placed(70, 60, size, degrees)
        result, _, mask = restored(image, Echo(), [points])

        outside = mask == 0
        assert torch.equal(result[outside], image[outside])
        inside = (mask > 0.99)[0, 20:-20, 20:-20]
        error = (result - image)[0, 20:-20, 20:-20][inside].abs()
        assert error.numel()
        assert error.mean() < 0.004
        assert error.max() < 0.1

    def test_the_mask_is_a_soft_square_of_the_face(self):
        points = placed(75, 60, 63)  # the square ends half a pixel beyond the pixels 44 and 106
        soft, hard = (restored(photograph(), Echo(0.5), [points], feather=f)[2][0] for f in (64, 0))
        rows, columns = hard.nonzero().T
        assert (rows.min(), rows.max(), columns.min(), columns.max()) == (29, 91, 44, 106)
        assert set(hard.unique().tolist()) == {0, 1}
        assert torch.equal(soft > 0, hard > 0)
        t = ((31.5 - torch.arange(31, 22, -1)) * 512 / 63 / 64).clamp(max=1)
        assert torch.allclose(soft[60, 44:53], 3 * t**2 - 2 * t**3, atol=1e-3)
        assert torch.allclose(soft[60, 44:107], soft[60, 44:107].flip(0), atol=1e-3)

    def test_the_feather_blends(self):
        image = torch.full((1, 120, 150, 3), 0.25)
        result, _, mask = restored(image, Echo(0.5), [placed(75, 60, 64)], feather=64)
        assert torch.allclose(result, 0.25 + 0.25 * mask[..., None], atol=1e-4)  # 0.5 of -1 ... 1 is 0.25 of 0 ... 1

    def test_small_faces_are_shrunk_without_moire(self):
        """Stripes of one pixel in the restored face must become their mean, not stripes of another width."""
        stripes = torch.zeros(512, 512, 3)
        stripes[:, ::2] = 1
        picture, mask = torch.zeros(120, 150, 3), torch.zeros(120, 150)
        restore_face.paste(picture, mask, stripes, face_align.similarity(placed(75, 60, 71)), 0)
        assert (picture[mask > 0.99] - 0.5).abs().mean() < 0.02

    def test_large_faces_are_shrunk_without_moire(self):
        stripes = torch.zeros(2100, 2100, 3)
        stripes[:, ::2] = 1
        face = restore_face.align(stripes, face_align.similarity(placed(1050, 1050, 1500)))
        assert (face - 0.5).abs().max() < 0.05

    def test_hard_edges_do_not_overshoot(self):
        checks = (torch.arange(512)[:, None] // 16 + torch.arange(512) // 16) % 2
        picture, mask = torch.full((480, 600, 3), 0.5), torch.zeros(480, 600)
        face = checks[..., None].expand(-1, -1, 3).float()
        restore_face.paste(picture, mask, face, face_align.similarity(placed(300, 240, 900, 20)), 16)
        assert picture.amin() == 0 and picture.amax() == 1

    def test_faces_are_cut_from_the_picture_as_it_came(self):
        overlapping = [placed(60, 60, 90), placed(80, 60, 90)]
        image = photograph()
        _, two, _ = restored(image, Echo(0.5), overlapping)
        for points, face in zip(overlapping, two, strict=True):
            _, one, _ = restored(image, Echo(0.5), [points])
            assert torch.equal(one[0], face)

    def test_a_face_at_the_border_sees_grey_and_is_pasted(self):
        image = rand(1, 120, 150, 3)
        result, (face,), mask = restored(image, Echo(0.3), [placed(5, 10, 80)])
        assert (mask[0, 10, :20] > 0).all()
        assert (face[:10, :10] * 255 - torch.tensor([170.25, 171.25, 173.25])).abs().max() < 0.1
        assert torch.equal(result[mask == 0], image[mask == 0])

    def test_a_face_outside_the_picture_changes_nothing(self):
        image = rand(1, 120, 150, 3)
        result, crops, mask = restored(image, Echo(0.3), [placed(-500, 60, 80)])
        assert torch.equal(result, image)
        assert len(crops) == 1 and not mask.any()

    def test_an_enlarged_picture_takes_the_small_ones_landmarks(self):
        image = photograph()
        large = comfy.utils.common_upscale(image.movedim(-1, 1), 600, 480, "bilinear", "disabled").movedim(1, -1)
        _, small_face, _ = restored(image, Echo())
        _, large_face, mask = restored(large, Echo())
        assert mask.shape == (1, 480, 600)
        assert (small_face - large_face).abs().mean() < 0.01


class TestKindsOfPictures:
    def test_grey_ones_stay_grey(self):
        image = photograph().mean(-1, keepdim=True)
        result, crops, mask = restored(image, Echo(0.5))
        assert result.shape == image.shape and crops.shape == (1, 512, 512, 3)
        assert torch.equal(result[mask == 0], image[mask == 0])
        assert (result[mask > 0.99] > image[mask > 0.99] + 0.05).float().mean() > 0.9

    def test_transparent_ones_keep_their_alpha(self):
        image = torch.cat((photograph(), rand(1, 120, 150, 1)), -1)
        result, _, mask = restored(image, Echo(0.5))
        assert torch.equal(result[..., 3], image[..., 3])
        assert not torch.equal(result[..., :3], image[..., :3])

    def test_of_a_batch_each_has_its_own_faces(self):
        image = photograph(b=3)
        frames = [FACE], [], [placed(40, 60, 50), placed(100, 60, 60)]
        result, crops, mask = restored(image, Echo(0.5), *frames)
        assert len(crops) == 3
        assert torch.equal(result[1], image[1]) and not mask[1].any()
        for i in (0, 2):
            alone = restored(image[i : i + 1], Echo(0.5), frames[i])
            assert torch.equal(alone[0][0], result[i]) and torch.equal(alone[2][0], mask[i])

    def test_without_faces_they_come_back_and_nothing_is_loaded(self, monkeypatch):
        monkeypatch.setattr(model_management, "load_models_gpu", lambda *a, **k: pytest.fail("loaded"))
        image = rand(2, 120, 150, 4)
        result, crops, mask = restored(image, Echo(), [], [])
        assert torch.equal(result, image)
        assert crops.shape == (1, 512, 512, 3) and not crops.any()
        assert mask.shape == (2, 120, 150) and not mask.any()

    def test_tiny_faces_are_left_and_said(self, caplog):
        image = photograph()
        tiny, small = placed(75, 60, 19), placed(75, 60, 22)  # 4.7 and 5.4 pixels between the eyes
        with caplog.at_level(logging.INFO):
            result, _, mask = restored(image, Echo(0.5), [tiny])
        assert torch.equal(result, image)
        assert "1 faces are left as they are" in caplog.text
        assert restored(image, Echo(0.5), [small])[2].any()

    def test_profiles_are_restored(self):
        """From the side the eyes are near each other, and the nose lies beyond both."""
        profile = np.array([(70, 50), (76, 50), (92, 66), (72, 80), (80, 80.0)])
        _, _, mask = restored(photograph(), Echo(0.5), [profile])
        assert 5000 < (mask > 0).sum() < 17000

    def test_values_are_the_same_twice_and_for_any_order_of_faces(self, gfpgan):
        image, other = photograph(), placed(40, 40, 50)
        first = restored(image, gfpgan, [FACE, other])
        again = restored(image, gfpgan, [other, FACE])
        assert torch.equal(first[1].flip(0), again[1])

    def test_the_user_can_interrupt_between_faces(self, monkeypatch):
        network, calls = Echo(), iter([None])

        def interrupt():
            next(calls, None) or network.calls and _raise()

        monkeypatch.setattr(model_management, "throw_exception_if_processing_interrupted", interrupt)
        with pytest.raises(model_management.InterruptProcessingException):
            restored(photograph(), network, [FACE] * 5)
        assert len(network.calls) == 1


def _raise():
    raise model_management.InterruptProcessingException


def test_the_network_is_called_with_rgb_of_minus_one_to_one_and_its_fidelity():
    network = Echo()
    image = torch.tensor([1.0, 0.5, 0.0]).expand(1, 120, 150, 3)
    restored(image, network, [placed(75, 60, 30)], fidelity=0.7)
    ((x, weight, rest),) = network.calls
    assert x.shape == (1, 3, 512, 512)
    assert x[0, :, 256, 256].tolist() == pytest.approx([1, 0, -1], abs=1e-5)
    assert weight == 0.7 and not rest


def test_a_network_in_bfloat16_gets_bfloat16():
    network = Echo(0.5).bfloat16()
    image = photograph()
    result, _, mask = restored(image, network)
    assert network.calls[0][0].dtype == torch.bfloat16
    assert result.dtype == torch.float32
    assert torch.equal(result[mask == 0], image[mask == 0])
