"""Hundreds of damaged model files through every loader: each is loaded or refused by name, and nothing else happens."""

import ctypes
import os
import pickle
import sys
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch
from torch import nn

from kit import mutants, ostrack, sam, sttn, thin
from kit.forged import rewritten
from pentimento.model_patchers.comfyui.describe import describe
from pentimento.model_patchers.comfyui.weights import read_state_dict
from pentimento.model_patchers.condition import diffusers_unet, ic_light, unclip
from pentimento.model_patchers.fill import lama
from pentimento.model_patchers.prompt import ella, ella_t5
from pentimento.model_patchers.segment import sam as sams
from pentimento.model_patchers.video import ostrack as ostracks
from pentimento.model_patchers.video import sttn as sttns
from pentimento_host import standins

ROOM = 1 << 30  # bytes that a loader may take, many times what these files need
M_PERTURB = -6  # glibc: fills memory that is handed out


class Canary:
    """Runs when a pickle is loaded as Python would."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return exec, (f"open({str(self.path)!r}, 'w').close()",)


@pytest.fixture
def canary(tmp_path):
    path = tmp_path / "canary"
    yield Canary(path)
    assert not path.exists()


@contextmanager
def little_memory():
    """An allocation beyond ROOM fails, where the system can say so."""
    if sys.platform != "linux":
        yield
        return
    import resource

    limits = resource.getrlimit(resource.RLIMIT_AS)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (now + ROOM, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def fill_memory(byte):
    """Has the allocator fill what it hands out. 0: no longer."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(M_PERTURB, byte)


def outcome(load, path):
    """What was loaded, or None if it was refused as it should be."""
    try:
        with little_memory():
            return load(path)
    except ValueError as error:
        assert path.name in str(error) and "not enough memory" not in str(error), f"not named: {error}"
        return None


def check(load, path, damages):
    """How many were loaded and how many refused, with a sentence for each that ended otherwise."""
    counts, problems = [0, 0], []
    for number, (kind, write) in enumerate(damages):
        write(path)
        try:
            counts[outcome(load, path) is None] += 1
        except Exception as error:
            problems.append(f"{number} ({kind}): {type(error).__name__}: {str(error)[:300]}")
    assert not problems, "\n".join(problems)
    return counts


def in_bytes(content, seed, count, *ways):
    """(kind of damage, what writes the file) of damaged copies."""
    for kind, changed in islice(mutants.endless(content, seed, *mutants.BYTES, *ways), count):
        yield kind, lambda path, changed=changed: path.write_bytes(changed)


def in_tensors(weights, seed, count):
    for kind, changed in islice(mutants.tensors(weights, seed), count):
        yield kind, lambda path, changed=changed: safetensors.torch.save_file(changed, path)


def small():
    weights = {"a.weight": torch.arange(60.0).reshape(6, 10), "a.bias": torch.arange(4).half(), "n": torch.tensor(7)}
    return weights | {"t": weights["a.weight"].T, "b": nn.Parameter(torch.ones(3))}


def write_checkpoint(path, extra, **options):
    content = {"state_dict": small(), "epoch": 3, "set": {1}, "of": SimpleNamespace(a=1), "extra": extra}
    torch.save(content, path, **options)


def write_legacy(path, extra):
    write_checkpoint(path, extra, _use_new_zipfile_serialization=False)


def write_pickle(path, extra):
    path.write_bytes(pickle.dumps(extra))


def write_safetensors(path, extra):
    weights = {name: value.contiguous() for name, value in small().items()}
    safetensors.torch.save_file(weights, path, {"format": "pt"})


def write_packed(path, extra):
    write_checkpoint(path, extra)
    rewritten(path, lambda name, data: data, 8)


def write_torchscript(path, extra):
    torch.jit.trace(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), torch.zeros(1, 3)).save(str(path))


ZIP = [mutants.archive] * 4 + [mutants.listing] * 2
FORMS = {  # what writes a file, ways to damage this form, and whether it can hold code
    "safetensors": (write_safetensors, [mutants.header] * 6, [False]),
    "zip": (write_checkpoint, ZIP, [False, True]),
    "zip that was packed again": (write_packed, ZIP, [False, True]),
    "legacy": (write_legacy, [mutants.legacy] * 6, [False, True]),
    "TorchScript": (write_torchscript, ZIP, [False]),
    "pickle": (write_pickle, [mutants.repickled], [True]),
}
CASES = [(form, harmful) for form, (_, _, kinds) in FORMS.items() for harmful in kinds]
PER_CASE = 60


@pytest.mark.parametrize(("form", "harmful"), CASES)
def test_every_form(tmp_path, canary, form, harmful):
    path = tmp_path / "w.bin"
    write, ways, _ = FORMS[form]
    write(path, canary if harmful else {"extra": [1, (2, 3)]})
    loaded, refused = check(loaded_alike, path, in_bytes(path.read_bytes(), 1 + harmful, PER_CASE, *ways))
    assert loaded + refused == PER_CASE and refused > PER_CASE // 3


def loaded_alike(path):
    """The same from memory that is full of one byte and of another: no tensor holds what was there before."""
    tensors = []
    for byte in (0x55, 0xAA):
        fill_memory(byte)
        try:
            tensors.append(read_state_dict(path))
        finally:
            fill_memory(0)
    assert [*map(bits, tensors[0].items())] == [*map(bits, tensors[1].items())]
    return tensors[0]


def bits(item):
    name, value = item
    return name, value.dtype, value.shape, value.contiguous().flatten().view(torch.uint8).numpy().tobytes()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Per loader: what loads a file, and its weights."""
    folder = tmp_path_factory.mktemp("files")
    standins.ella(folder / "ella.safetensors")
    standins.flan_t5(folder / "t5.safetensors")
    standins.lama(folder / "lama.pt")
    standins.unclip_statistics(folder / "stats.th")
    sam.write(folder / "sam.safetensors")
    describe(small())  # imports spandrel, which takes memory
    host = thin.host_model("sd15")
    unet = {name: value.half() for name, value in thin.weights("sd15").items()}
    offsets = {name: (value - value.mean()).half() for name, value in thin.weights("ip2p", seed=1).items()}
    return {
        "SAM": (sams.load, read_state_dict(folder / "sam.safetensors")),
        "LaMa": (lama.load, read_state_dict(folder / "lama.pt")),
        "STTN": (sttns.load, sttn.weights()),
        "OSTrack": (ostracks.load, ostrack.weights()),
        "ELLA": (ella.load, read_state_dict(folder / "ella.safetensors")),
        "T5": (lambda path: ella_t5.load(path, "fp32"), read_state_dict(folder / "t5.safetensors")),
        "UNet": (diffusers_unet.load, unet),
        "IC-Light": (lambda path: ic_light.patch(host, path), offsets),
        "unCLIP's statistics": (unclip.read_statistics, read_state_dict(folder / "stats.th")),
    }


PER_LOADER = {
    "SAM": 40,
    "LaMa": 30,
    "STTN": 20,
    "OSTrack": 16,
    "ELLA": 30,
    "T5": 30,
    "UNet": 16,
    "IC-Light": 16,
    "unCLIP's statistics": 40,
}
assert PER_CASE * len(CASES) + sum(PER_LOADER.values()) >= 700


@pytest.mark.parametrize("loader", PER_LOADER)
def test_every_loader_with_wrong_tensors(tmp_path, files, one_thread, loader):
    load, weights = files[loader]
    check(load, tmp_path / "w.safetensors", in_tensors(weights, 3, PER_LOADER[loader]))


@pytest.mark.parametrize("loader", PER_LOADER)
def test_every_loader_with_damaged_bytes(tmp_path, files, one_thread, loader):
    load, weights = files[loader]
    path = tmp_path / "w.safetensors"
    safetensors.torch.save_file(weights, path)
    check(load, path, in_bytes(path.read_bytes(), 4, 6, mutants.header))


@pytest.mark.parametrize("other", PER_LOADER)
def test_every_loader_with_the_file_of_another(tmp_path, files, one_thread, other):
    path = tmp_path / f"{other}.safetensors"
    safetensors.torch.save_file(files[other][1], path)
    taken = [loader for loader, (load, _) in files.items() if outcome(load, path) is not None]
    assert taken == [other]
