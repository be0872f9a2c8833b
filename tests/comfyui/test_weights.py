"""Model files of every form, and files that are none."""

import io
import os
import pickle
import sys
import types
import zipfile
from collections import OrderedDict

import pytest
import safetensors.torch
import torch
from torch import nn

from pentimento.model_patchers.comfyui.describe import describe
from pentimento.model_patchers.comfyui.weights import read_state_dict


@pytest.fixture
def weights(rng):
    return OrderedDict(
        {"a.weight": torch.randn(3, 5, generator=rng), "a.bias": torch.randn(5, generator=rng), "n": torch.tensor(7)}
    )


def same(found, wanted):
    return found.keys() == wanted.keys() and all(
        torch.equal(found[k], wanted[k]) and found[k].dtype == wanted[k].dtype for k in wanted
    )


def under(prefix, weights):
    return {prefix + key: value for key, value in weights.items()}


@pytest.fixture
def framework(monkeypatch):
    """Classes of a training framework that is gone when the file is read. `seen` lists what ran of it."""
    seen = []
    module = types.ModuleType("some_framework.config")

    class Config(dict):
        def __setstate__(self, state):
            seen.append("setstate")
            self.__dict__.update(state)

        def __reduce__(self):
            return module.make, (1,), self.__dict__

    def make(number):
        seen.append("call")
        return Config()

    for name, item in {"Config": Config, "make": make}.items():
        item.__module__, item.__qualname__ = "some_framework.config", name
        setattr(module, name, item)
    monkeypatch.setitem(sys.modules, "some_framework", types.ModuleType("some_framework"))
    monkeypatch.setitem(sys.modules, "some_framework.config", module)
    yield module, seen
    assert not seen


def lightning(weights, module):
    """As PyTorch Lightning saves: hyper-parameters of the framework that refer to each other in a circle, a class as
    a key, the optimiser's state."""
    config = module.Config()
    child = module.Config()
    config.child, child.parent = child, config
    return {
        "epoch": 3,
        "callbacks": {module.Config: {"best": torch.tensor(0.5)}},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(2)}}}],
        "hyper_parameters": config,
        "state_dict": weights,
    }


class Bomb:
    """Runs a command when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


class Evaluates(Bomb):
    def __reduce__(self):
        return eval, (f"open({str(self.marker)!r}, 'w').close()",)


class TestForms:
    def test_safetensors(self, tmp_path, weights):
        safetensors.torch.save_file(weights, tmp_path / "w.safetensors")
        assert same(read_state_dict(tmp_path / "w.safetensors"), weights)

    def test_form_is_told_from_the_bytes_not_the_name(self, tmp_path, weights):
        safetensors.torch.save_file(weights, tmp_path / "w.pt")
        torch.save(weights, tmp_path / "w.safetensors")
        assert same(read_state_dict(tmp_path / "w.pt"), weights)
        assert same(read_state_dict(tmp_path / "w.safetensors"), weights)

    @pytest.mark.parametrize("zipped", [True, False])
    def test_pickles(self, tmp_path, weights, zipped):
        torch.save({"params": weights}, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
        assert same(read_state_dict(tmp_path / "w.pth"), under("params.", weights))

    @pytest.mark.parametrize(
        "dtype", [torch.float64, torch.float16, torch.bfloat16, torch.int8, torch.uint8, torch.int32, torch.bool]
    )
    def test_training_checkpoint_keeps_types_and_strides(self, tmp_path, framework, dtype):
        values = torch.arange(24).reshape(4, 6).to(dtype)
        weights = {"t": values.T, "row": values[1], "empty": values[:0], "parameter": nn.Parameter(values, False)}
        torch.save(lightning(weights, framework[0]), tmp_path / "w.ckpt")
        found = read_state_dict(tmp_path / "w.ckpt")
        assert all(torch.equal(found[f"state_dict.{name}"], value) for name, value in weights.items())
        assert {value.dtype for key, value in found.items() if key.startswith("state_dict")} == {dtype}

    def test_training_checkpoint_without_its_framework(self, tmp_path, weights, framework, monkeypatch):
        torch.save(lightning(weights, framework[0]), tmp_path / "w.ckpt")
        with pytest.raises(pickle.UnpicklingError):  # PyTorch's own safe reader has no answer to it
            torch.load(tmp_path / "w.ckpt", weights_only=True)
        monkeypatch.delitem(sys.modules, "some_framework")
        monkeypatch.delitem(sys.modules, "some_framework.config")
        found = read_state_dict(tmp_path / "w.ckpt")
        assert same({k: v for k, v in found.items() if k.startswith("state_dict.")}, under("state_dict.", weights))
        assert "some_framework" not in sys.modules

    def test_known_framework_is_not_run_either(self, tmp_path, weights, framework):
        torch.save(lightning(weights, framework[0]), tmp_path / "w.ckpt")
        read_state_dict(tmp_path / "w.ckpt")  # the fixture looks at what ran

    @pytest.mark.parametrize("half", [False, True])
    def test_torchscript_as_its_own_reader(self, tmp_path, half):
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
                self.table = nn.Parameter(torch.arange(4.0))

            def forward(self, x):
                return self.body(x) * self.table[:, None, None]

        net = Net().eval()
        script = torch.jit.trace(net, torch.zeros(1, 3, 8, 8))
        (script.half() if half else script).save(str(tmp_path / "w.pt"))
        wanted = torch.jit.load(str(tmp_path / "w.pt")).state_dict()
        assert same(read_state_dict(tmp_path / "w.pt"), wanted)


class TestRefused:
    @pytest.mark.parametrize("bomb", [Bomb, Evaluates])
    @pytest.mark.parametrize("save", ["zip", "legacy", "pickle", "with weights", "torchscript"])
    def test_code_does_not_run(self, tmp_path, weights, bomb, save):
        path, marker = tmp_path / "evil.pt", tmp_path / "marker"
        content = {"state_dict": weights, "extra": bomb(marker)} if save == "with weights" else bomb(marker)
        if save == "pickle":
            path.write_bytes(pickle.dumps(content))
        else:
            torch.save(content, path, _use_new_zipfile_serialization=save != "legacy")
        if save == "torchscript":  # what makes an archive pass for TorchScript
            with zipfile.ZipFile(path, "a") as archive:
                folder = archive.namelist()[0].partition("/")[0]
                archive.writestr(f"{folder}/constants.pkl", pickle.dumps(()))
        with pytest.raises(ValueError, match=r"'evil.pt' is a pickle that would run code \(.*(system|eval)\)"):
            read_state_dict(path)
        assert not marker.exists()
        pickle.loads(pickle.dumps(content))  # it is a live one
        assert marker.exists()

    def test_text(self, tmp_path):
        (tmp_path / "notes.pt").write_text("Dear diary, today I renamed a text file to .pt.")
        with pytest.raises(ValueError, match="'notes.pt' is no model file: it begins with 'Dear diary"):
            read_state_dict(tmp_path / "notes.pt")

    def test_empty(self, tmp_path):
        (tmp_path / "w.safetensors").touch()
        with pytest.raises(ValueError, match=r"'w.safetensors' is no model file: it is empty \(0 bytes\)"):
            read_state_dict(tmp_path / "w.safetensors")

    @pytest.mark.parametrize("form", ["safetensors", "zip", "legacy", "lightning", "torchscript"])
    @pytest.mark.parametrize("share", [0.2, 0.6, 0.97])
    def test_truncated(self, tmp_path, framework, form, share):
        path = tmp_path / "w.bin"
        weights = {"a": torch.rand(40, 40), "b": torch.rand(40, 40)}
        if form == "safetensors":
            safetensors.torch.save_file(weights, path)
        elif form == "torchscript":
            torch.jit.trace(nn.Linear(40, 40), torch.zeros(1, 40)).save(str(path))
        else:
            content = lightning(weights, framework[0]) if form == "lightning" else weights
            torch.save(content, path, _use_new_zipfile_serialization=form != "legacy")
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
        with pytest.raises(ValueError, match=r"'w.bin' \([\d,]+ bytes\) is damaged or incomplete"):
            read_state_dict(path)

    def test_truncated_in_the_header(self, tmp_path, weights):
        path = tmp_path / "w.safetensors"
        safetensors.torch.save_file(weights, path)
        for size in (4, 12, 60):
            content = path.read_bytes()[:size]
            (tmp_path / "cut.safetensors").write_bytes(content)
            with pytest.raises(ValueError, match="'cut.safetensors'.*(damaged or incomplete|no model file)"):
                read_state_dict(tmp_path / "cut.safetensors")

    def test_damaged_storage(self, tmp_path, framework):
        path = tmp_path / "w.ckpt"
        torch.save(lightning({"a": torch.zeros(1000)}, framework[0]), path)
        content = bytearray(path.read_bytes())
        at = content.index(bytes(2000))
        content[at + 500] ^= 255
        path.write_bytes(content)
        with pytest.raises(ValueError, match="'w.ckpt'.*damaged or incomplete"):
            read_state_dict(path)

    def test_other_zip(self, tmp_path):
        with zipfile.ZipFile(tmp_path / "w.pt", "w") as archive:
            archive.writestr("readme.txt", "hello")
        with pytest.raises(ValueError, match="'w.pt'.*damaged or incomplete.*without PyTorch's data.pkl"):
            read_state_dict(tmp_path / "w.pt")

    @pytest.mark.parametrize("zipped", [True, False])
    def test_no_tensors(self, tmp_path, zipped):
        torch.save({"epoch": 3}, tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
        with pytest.raises(ValueError, match="'w.pt' holds no weights"):
            read_state_dict(tmp_path / "w.pt")

    def test_tensor_beyond_its_storage(self, tmp_path, framework):
        """A forged tensor that would read foreign memory."""
        path = tmp_path / "w.ckpt"
        torch.save(lightning({"a": torch.zeros(1000)}, framework[0]), path)
        forged = io.BytesIO()
        with zipfile.ZipFile(path) as archive, zipfile.ZipFile(forged, "w") as copy:
            for name in archive.namelist():
                data = archive.read(name)
                # 'a' is the only storage with 1000 elements; its file is cut to 10
                copy.writestr(name, data[:40] if len(data) == 4000 else data)
        path.write_bytes(forged.getvalue())
        with pytest.raises(ValueError, match="'w.ckpt'.*damaged or incomplete"):
            read_state_dict(path)


class TestDescribe:
    def test_names_what_spandrel_knows(self):
        from spandrel.architectures.ESRGAN import ESRGAN

        assert describe(ESRGAN(num_filters=8, num_blocks=1).state_dict()) == "a network of type ESRGAN"

    def test_else_a_key(self, weights):
        assert describe(weights) == "3 tensors such as 'a.weight', of no network that is known here"
