"""Model files of every form, and files that are none."""

import json
import os
import pickle
import random
import socket
import struct
import sys
import types
import uuid
import zipfile
from collections import OrderedDict, defaultdict
from decimal import Decimal
from functools import partial

import pytest
import safetensors.torch
import torch
from torch import nn

from kit.forged import pickled, rewritten, tensor, write_legacy, write_zip
from pentimento.model_patchers.comfyui.describe import describe
from pentimento.model_patchers.comfyui.weights import read_state_dict

DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.uint16,
    torch.uint32,
    torch.uint64,
    torch.bool,
    torch.complex64,
]
TEN = struct.pack("<10f", *range(10))  # a storage's bytes


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

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("zipped", [True, False])
    def test_every_type(self, tmp_path, dtype, zipped):
        values = torch.arange(12).reshape(3, 4).to(dtype)
        noted = torch.arange(6).to(dtype)
        noted.note = "an attribute"
        weights = {
            "a": values,
            "t": values.T,
            "row": values[1],
            "one": values[0, 0],
            "none": values[:0],
            "noted": noted,
        }
        if dtype.is_floating_point and dtype.itemsize > 1:
            weights["parameter"] = nn.Parameter(values.clone())
            weights["parameter"].note = "an attribute"
        torch.save(weights, tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
        tensors = read_state_dict(tmp_path / "w.pt")
        assert tensors.keys() == weights.keys()
        for name, value in tensors.items():
            assert value.dtype == dtype and value.stride() == weights[name].stride()
            assert value.tolist() == weights[name].tolist()
            assert not value.requires_grad and type(value) is torch.Tensor

    def test_one_storage_under_two_types(self, tmp_path):
        as_float, as_int = tensor("0", "FloatStorage"), tensor("0", "IntStorage")
        path = write_zip(tmp_path / "w.pt", {"a": as_float, "b": as_int, "c": as_float}, {"0": TEN})
        tensors, wanted = read_state_dict(path), torch.arange(10.0)
        assert same(tensors, {"a": wanted, "b": wanted.view(torch.int32), "c": wanted})
        assert tensors["a"].data_ptr() == tensors["b"].data_ptr()

    def test_tied_weights_share_memory(self, tmp_path):
        value = torch.arange(6.0)
        torch.save({"a": value, "b": value.reshape(2, 3)}, tmp_path / "w.pt")
        tensors = read_state_dict(tmp_path / "w.pt")
        assert tensors["a"].data_ptr() == tensors["b"].data_ptr()

    def test_an_archive_that_was_packed_again(self, tmp_path, weights):
        torch.save(weights, tmp_path / "w.pt")
        rewritten(tmp_path / "w.pt", lambda name, data: data, zipfile.ZIP_DEFLATED)
        assert same(read_state_dict(tmp_path / "w.pt"), weights)

    def test_an_archive_without_checksums(self, tmp_path, weights):
        torch.serialization.set_crc32_options(False)
        try:
            torch.save(weights, tmp_path / "w.pt")
        finally:
            torch.serialization.set_crc32_options(True)
        assert same(read_state_dict(tmp_path / "w.pt"), weights)

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_an_archive_of_a_big_endian_machine(self, tmp_path, dtype):
        values = torch.arange(6).to(dtype)
        torch.save({"a": values}, tmp_path / "w.pt")
        word = dtype.itemsize // (2 if dtype.is_complex else 1)

        def swapped(name, data):
            if name.endswith("byteorder"):
                return b"big"
            words = [data[at : at + word][::-1] for at in range(0, len(data), word)]
            return b"".join(words) if "/data/" in name else data

        rewritten(tmp_path / "w.pt", swapped)
        assert read_state_dict(tmp_path / "w.pt")["a"].tolist() == values.tolist()

    def test_an_ordered_dict_as_python_2_wrote_it(self, tmp_path):
        class Python2(OrderedDict):
            def __reduce__(self):
                return OrderedDict, ([["a", tensor("0")], ["b", {"c": tensor("0", size=(2,))}]],)

        path = write_zip(tmp_path / "w.pt", {"model": Python2()}, {"0": TEN})
        assert same(read_state_dict(path), {"model.a": torch.arange(10.0), "model.b.c": torch.arange(2.0)})

    @pytest.mark.parametrize("zipped", [True, False])
    def test_a_whole_network(self, tmp_path, zipped):
        network = nn.Sequential(nn.Linear(2, 3))
        torch.save(network, tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
        wanted = {f"_modules.0._parameters.{name}": value.detach() for name, value in network[0].named_parameters()}
        assert same(read_state_dict(tmp_path / "w.pt"), wanted)

    def test_storages_of_2017_that_are_parts_of_others(self, tmp_path):
        part = tensor("0", size=(3,))
        part.storage.reference += (("1", 4, 3),)
        path = write_legacy(tmp_path / "w.pt", {"a": part}, ["0"], struct.pack("<q", 10) + TEN)
        assert same(read_state_dict(path), {"a": torch.arange(4.0, 7.0)})

    def test_classes_of_python_in_a_checkpoint(self, tmp_path, weights):
        extras = {
            "namespace": types.SimpleNamespace(lr=0.1),
            "id": uuid.uuid4(),
            "decimal": Decimal("0.1"),
            "random": random.Random(0),
            "partial": partial(max, 1),
            "default": defaultdict(list),
            "path": tmp_path,
        }
        torch.save({"state_dict": weights, **extras}, tmp_path / "w.ckpt")
        assert same(read_state_dict(tmp_path / "w.ckpt"), under("state_dict.", weights))


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
        with pytest.raises(ValueError, match="'notes.pt' is no model file: it is a text file") as refusal:
            read_state_dict(tmp_path / "notes.pt")
        assert "diary" not in str(refusal.value)

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


FORGED = {
    "a short record": (tensor(), TEN[:-4], "a storage of 40 bytes has 36 bytes"),
    "a long record": (tensor(), TEN + b"abcd", "a storage of 40 bytes has 44 bytes"),
    "an empty record": (tensor(), b"", "a storage of 40 bytes has 0 bytes"),
    "no record": (tensor("1"), TEN, "lacks the (record 'data/1'|storage of a tensor)"),
    "a record outside": (tensor("../data.pkl"), TEN, "lacks the (record 'data/../data.pkl'|storage of a tensor)"),
    "a size": (tensor(size=(11,)), TEN, "outside its storage"),
    "an offset": (tensor(offset=1), TEN, "outside its storage"),
    "a stride": (tensor(size=(5,), stride=(3,)), TEN, "outside its storage"),
    "a negative size": (tensor(size=(-1,)), TEN, "whose sizes are no sizes"),
    "a negative stride": (tensor(size=(2,), stride=(-1,), offset=5), TEN, "whose sizes are no sizes"),
    "a negative offset": (tensor(size=(2,), offset=-1), TEN, "whose sizes are no sizes"),
    "a negative count": (tensor(count=-10, size=(1,)), TEN, "whose sizes are no sizes"),
    "a size that is a text": (tensor(size="10"), TEN, "whose sizes are no sizes"),
    "a size beyond numbers": (tensor(size=(1 << 70,), stride=(0,)), TEN, "whose sizes are no sizes"),
    "one number as 2^40": (tensor(size=(1 << 40,), stride=(0,)), TEN, "tensors of more than 16,"),
    "one number as 2^120": (tensor(size=(1 << 60, 1 << 60), stride=(0, 0)), TEN, "tensors of more than 16,"),
    "many of them": ([tensor(size=(1 << 20,), stride=(0,))] * 5, TEN, "tensors of more than 16,"),
    "many empty ones": ([tensor(size=(0,))] * 20_000, TEN, "tensors of more than 17,"),
    "many dimensions": (tensor(size=(1,) * 65, stride=(1,) * 65), TEN, "whose sizes are no sizes"),
    "more strides than sizes": (tensor(stride=(1, 1)), TEN, "contradict"),
    "a tensor as a storage": (tensor(size=(10,))._replace(storage=tensor()), TEN, "without a storage"),
    "a storage without a name": (tensor(["0"]), TEN, "a storage without a name"),
    "another kind of storage": (tensor(kind="float32"), TEN, "of a type that is unknown"),
}


class TestForged:
    """What PyTorch's own readers make tensors of, memory that nobody wrote included."""

    @pytest.mark.parametrize("case", FORGED)
    def test_zipped(self, tmp_path, case):
        claimed, record, reason = FORGED[case]
        write_zip(tmp_path / "w.pt", {"a": claimed}, {"0": record})
        with pytest.raises(ValueError, match=rf"'w.pt' \([\d,]+ bytes\) is damaged or incomplete: .*{reason}"):
            read_state_dict(tmp_path / "w.pt")

    @pytest.mark.parametrize(
        "case", [case for case in FORGED if case not in {"a short record", "a long record", "an empty record"}]
    )
    def test_legacy(self, tmp_path, case):
        claimed, record, reason = FORGED[case]
        write_legacy(tmp_path / "w.pt", {"a": claimed, "b": tensor()}, ["0"], struct.pack("<q", 10) + record)
        with pytest.raises(ValueError, match=rf"'w.pt' \([\d,]+ bytes\) is damaged or incomplete: .*{reason}"):
            read_state_dict(tmp_path / "w.pt")

    @pytest.mark.parametrize(
        ("keys", "data"),
        [
            ([], b""),
            (["0"], struct.pack("<q", 10) + TEN[:-1]),
            (["0"], struct.pack("<q", 9) + TEN),
            (["0"], struct.pack("<q", -1) + TEN),
            (["0"], struct.pack("<q", 1 << 62) + TEN),
            (["0"], b"abc"),
            (["1"], struct.pack("<q", 10) + TEN),
            ([["0"]], struct.pack("<q", 10) + TEN),
            (3, struct.pack("<q", 10) + TEN),
        ],
    )
    def test_legacy_lists_of_storages(self, tmp_path, keys, data):
        write_legacy(tmp_path / "w.pt", {"a": tensor()}, keys, data)
        with pytest.raises(ValueError, match="'w.pt'.*damaged or incomplete"):
            read_state_dict(tmp_path / "w.pt")

    def test_a_record_that_is_shorter_than_the_archive_says(self, tmp_path):
        path = write_zip(tmp_path / "w.pt", {"a": tensor(count=100)}, {"0": bytes(400)})
        content, end = path.read_bytes(), b"w/data/0"
        at = content.rindex(end) - 46  # of the record in the list at the archive's end
        size = at + 24  # the unpacked size; the packed size stands before it
        assert struct.unpack_from("<II", content, at + 20) == (400, 400)
        path.write_bytes(content[:size] + struct.pack("<I", 4000) + content[size + 4 :])
        with pytest.raises(ValueError, match="'w.pt'.*a record of 4,000 bytes has 400 bytes"):
            read_state_dict(path)

    def test_an_archive_that_unpacks_to_too_much(self, tmp_path):
        size = 64 << 20
        path = write_zip(tmp_path / "w.pt", {"a": tensor(count=size // 4)}, {"0": bytes(size)}, zipfile.ZIP_DEFLATED)
        assert path.stat().st_size < 1 << 17
        with pytest.raises(ValueError, match=r"'w.pt'.*it unpacks to 67,\d+,\d+ bytes, and .* to 17,\d+,\d+ at most"):
            read_state_dict(path)

    def test_a_record_that_unpacks_to_more_than_the_archive_says(self, tmp_path):
        size = 64 << 20
        path = write_zip(tmp_path / "w.pt", {"a": tensor()}, {"0": bytes(size)}, zipfile.ZIP_DEFLATED)
        content = path.read_bytes()
        path.write_bytes(content.replace(struct.pack("<I", size), struct.pack("<I", 40)))
        with pytest.raises(ValueError, match="'w.pt'.*Bad CRC-32"):
            read_state_dict(path)

    @pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
    def test_an_archive_that_is_packed_in_an_unusual_way(self, tmp_path, compression):
        path = write_zip(tmp_path / "w.pt", {"a": tensor()}, {"0": TEN}, compression)
        with pytest.raises(ValueError, match="'w.pt'.*its record 'data.pkl' is encrypted or packed in an unusual way"):
            read_state_dict(path)

    def test_names_that_would_fill_the_memory(self, tmp_path):
        value = {"x" * 10_000: {i: tensor() for i in range(2000)}}
        path = write_zip(tmp_path / "w.pt", value, {"0": TEN})
        with pytest.raises(ValueError, match="'w.pt'.*it describes tensors of more than 17,"):
            read_state_dict(path)

    def test_a_deep_nest(self, tmp_path):
        nested = b"]" * 100_000 + b"a" * 99_999 + b"."
        with pytest.raises(ValueError, match="'w.pt'.*it nests more than 100 levels deep"):
            read_state_dict(write_zip(tmp_path / "w.pt", nested, {}))

    def test_a_pickle_that_is_none_of_pytorchs(self, tmp_path):
        (tmp_path / "w.pt").write_bytes(pickled({"a": 1}))
        with pytest.raises(ValueError, match="'w.pt'.*it is a pickle, but none of PyTorch's"):
            read_state_dict(tmp_path / "w.pt")


def safetensors_bytes(header, data=TEN, size=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + data


def entry(dtype="F32", shape=(10,), offsets=(0, 40)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.mark.parametrize(
    "content",
    [
        safetensors_bytes({"a": entry()}, size=1 << 60),
        safetensors_bytes({"a": entry()}, size=(1 << 64) - 1),
        safetensors_bytes({"a": entry()}, size=10_000),
        safetensors_bytes({"a": entry(offsets=(0, 44))}),
        safetensors_bytes({"a": entry(offsets=(0, 36))}),
        safetensors_bytes({"a": entry(offsets=(40, 0))}),
        safetensors_bytes({"a": entry(offsets=(-4, 36))}),
        safetensors_bytes({"a": entry(), "b": entry()}),
        safetensors_bytes({"a": entry(shape=(9,))}),
        safetensors_bytes({"a": entry(shape=(1 << 62, 1 << 62))}),
        safetensors_bytes({"a": entry(dtype="F99")}),
        safetensors_bytes({"a": entry(dtype=7)}),
        safetensors_bytes({"a": 7}),
        safetensors_bytes({"__metadata__": 7, "a": entry()}),
        safetensors_bytes({"a": entry()}, TEN[:-1]),
        safetensors_bytes({"a": entry()}, TEN + b"more"),
        safetensors_bytes(b"{" + b"\xff" * 50),
        safetensors_bytes(b'{"a":' * 100_000),
    ],
)
def test_damaged_safetensors(tmp_path, content):
    (tmp_path / "w.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"'w.safetensors' \([\d,]+ bytes\) is damaged or incomplete: \w"):
        read_state_dict(tmp_path / "w.safetensors")


class TestNoModelFile:
    @pytest.mark.parametrize(
        ("start", "kind"),
        [
            (b"GGUF\3\0\0\0", "a GGUF file.* Choose the model's .safetensors"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "a Git LFS pointer.* 'git lfs pull'"),
            (b"<!DOCTYPE html>\n<html>", "a web page. Download the model file itself"),
            (b"\n <html>", "a web page"),
            (b"\x1f\x8b\x08\0", "a gzip archive. Unpack it"),
            (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive. Unpack it"),
            (b"a.txt" + bytes(252) + b"ustar\x0000", "a tar archive. Unpack it"),
            (b"\x89PNG\r\n\x1a\n", "a picture"),
            (b"RIFF\0\0\0\0WEBPVP8 ", "a picture"),
            (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
            (b"\x93NUMPY\1\0", "a NumPy array"),
            (bytes(5000), "empty where a model begins"),
            ("ein Geheimnis \u00fc".encode() * 60, "a text file"),
            (b"secret\x01\x02\xff", "of no known form"),
        ],
    )
    def test_says_what_it_is_and_quotes_nothing(self, tmp_path, start, kind):
        (tmp_path / "w.pt").write_bytes(start)
        with pytest.raises(ValueError, match=f"'w.pt' is no model file: it is {kind}") as refusal:
            read_state_dict(tmp_path / "w.pt")
        assert "secret" not in str(refusal.value) and "Geheimnis" not in str(refusal.value)

    def test_a_link_to_a_model(self, tmp_path, weights):
        safetensors.torch.save_file(weights, tmp_path / "w.safetensors")
        (tmp_path / "link.safetensors").symlink_to(tmp_path / "w.safetensors")
        assert same(read_state_dict(tmp_path / "link.safetensors"), weights)

    def test_a_link_to_a_secret(self, tmp_path):
        (tmp_path / "passwd").write_text("root:x:0:0")
        (tmp_path / "w.pt").symlink_to(tmp_path / "passwd")
        with pytest.raises(ValueError, match="'w.pt' is no model file: it is a text file") as refusal:
            read_state_dict(tmp_path / "w.pt")
        assert "root" not in str(refusal.value)

    @pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such files")
    @pytest.mark.parametrize("kind", ["pipe", "device", "socket", "folder", "link to a device"])
    def test_what_is_no_file_is_not_opened(self, tmp_path, monkeypatch, kind):
        monkeypatch.chdir(tmp_path)
        path = tmp_path / "w.pt"
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "socket":
            socket.socket(socket.AF_UNIX).bind("w.pt")
        elif kind == "folder":
            path.mkdir()
        elif kind == "link to a device":
            path.symlink_to("/dev/zero")
        else:
            path = "/dev/zero"
        with pytest.raises(ValueError, match="'(w.pt|zero)' is (a folder|a device, a pipe or a socket), no model file"):
            read_state_dict(path)

    def test_a_file_that_is_gone(self, tmp_path):
        (tmp_path / "link.pt").symlink_to(tmp_path / "nowhere")
        for name in ("gone.pt", "link.pt"):
            with pytest.raises(ValueError, match=f"'{name}' cannot be opened: No such file"):
                read_state_dict(tmp_path / name)

    def test_a_file_that_may_not_be_read(self, tmp_path, monkeypatch):
        """Root may read every file, so the error is raised by hand."""

        def refuse(path, *_):
            raise PermissionError(13, "Permission denied")

        (tmp_path / "w.pt").touch()
        monkeypatch.setattr("pathlib.Path.open", refuse)
        with pytest.raises(ValueError, match="'w.pt' cannot be opened: Permission denied. Let ComfyUI read it"):
            read_state_dict(tmp_path / "w.pt")


class TestDescribe:
    def test_names_what_spandrel_knows(self):
        from spandrel.architectures.ESRGAN import ESRGAN

        assert describe(ESRGAN(num_filters=8, num_blocks=1).state_dict()) == "a network of type ESRGAN"

    def test_else_a_key(self, weights):
        assert describe(weights) == "3 tensors such as 'a.weight', of no network that is known here"
