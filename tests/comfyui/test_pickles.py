"""Pickles as data: what they hold, and that nothing happens when they are read."""

import collections
import contextlib
import datetime
import decimal
import enum
import fractions
import functools
import importlib
import io
import ipaddress
import operator
import pathlib
import pickle
import random
import re
import tracemalloc
import types
import uuid

import pytest

from kit.forged import pickled
from pentimento.model_patchers.comfyui import checkpoints, pickles
from pentimento.model_patchers.comfyui.pickles import DamagedError, Name, Pairs, RunsCodeError, Thing, could_do_harm

NAMES = [
    *sorted(checkpoints.TENSORS | checkpoints.PARAMETERS),
    checkpoints.SUBCLASS,
    checkpoints.ORDERED_DICT,
    *(Name("torch", kind) for kind in checkpoints.DTYPES | checkpoints.NEW_DTYPES),
]
REFUSALS = (DamagedError, ValueError, LookupError, TypeError, AttributeError, OverflowError)


def load(content):
    return pickles.load(io.BytesIO(content))[0]


def as_python(value):
    if type(value) is Pairs:
        return {as_python(key): as_python(item) for key, item in value}
    return type(value)(map(as_python, value)) if type(value) in (list, tuple) else value


class Level(enum.Enum):
    HIGH = 1


PLAIN = {
    "numbers": [0, 1, -1, 255, 70000, -(2**31), 2**63, -(2**90), 1.5, float("inf"), True, False, None],
    "texts": ["", "a", "\u4e2d\n'", "x" * 300, "y" * 70000],
    "tuples": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)],
    ("a", "tuple"): {"deep": [{"deeper": {}}] * 3},
    4: list(range(2000)),
}
HARMLESS = [
    types.SimpleNamespace(a=1),
    uuid.UUID(int=5),
    decimal.Decimal("1.5"),
    random.Random(1),
    functools.partial(max, 1),
    fractions.Fraction(1, 3),
    ipaddress.ip_address("10.0.0.1"),
    collections.defaultdict(list, a=[1]),
    collections.Counter("abca"),
    collections.deque([1], 3),
    pathlib.PurePosixPath("/a"),
    datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc),
    datetime.timedelta(3),
    re.compile("a+"),
    operator.itemgetter(1),
    io.BytesIO(b"a"),
    range(3),
    slice(1),
    {1, 2},
    frozenset("ab"),
    1j,
    Level.HIGH,
    ValueError("a"),
    getattr,
    dict,
]
HARMFUL = [
    ("os", "system"),
    ("posix", "system"),
    ("nt", "system"),
    ("subprocess", "Popen"),
    ("builtins", "eval"),
    ("builtins", "exec"),
    ("__builtin__", "execfile"),
    ("builtins", "open"),
    ("builtins", "open.__call__"),
    ("io", "open"),
    ("importlib", "import_module"),
    ("importlib.util", "spec_from_file_location"),
    ("runpy", "run_path"),
    ("shutil", "rmtree"),
    ("socket", "socket"),
    ("urllib.request", "urlopen"),
    ("pickle", "loads"),
    ("types", "FunctionType"),
    ("code", "InteractiveInterpreter"),
    ("torch.serialization", "os.system"),
    ("multiprocessing.util", "subprocess.Popen"),
]


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_are_those_of_pythons_own_reader(protocol):
    assert as_python(load(pickle.dumps(PLAIN, protocol))) == PLAIN


def test_bytes_are_those_of_pythons_own_reader():
    value = [b"", b"z" * 300, bytearray(b"w")]
    assert load(pickle.dumps(value, 5)) == value


@pytest.mark.parametrize("protocol", range(2, 6))
@pytest.mark.parametrize("value", HARMLESS, ids=lambda value: type(value).__name__)
def test_harmless_classes_are_data(value, protocol):
    load(pickle.dumps(value, protocol))


@pytest.mark.parametrize(("module", "name"), HARMFUL)
def test_harmful_names_are_told(module, name):
    text = f"c{module}\n{name}\n."
    with pytest.raises(RunsCodeError, match=re.escape(f"{module}.{name}")):
        load(text.encode())


@pytest.mark.parametrize("name", ["code.models.Config", "trace_net.Trace", "os_utils.system", "data.test.eval", "a.os"])
def test_a_framework_may_have_such_names(name):
    assert not could_do_harm(*name.rsplit(".", 1))


def test_calls_and_states_are_written_down():
    thing = load(pickle.dumps(types.SimpleNamespace(a=[1])))
    assert isinstance(thing, Thing) and thing.maker == ("types", "SimpleNamespace")
    assert as_python(thing.states[0]) == {"a": [1]}
    ordered = load(pickle.dumps(collections.OrderedDict(a=1)))
    assert ordered.maker == checkpoints.ORDERED_DICT and ordered.entries == [("a", 1)]


STATES = {
    "BUILD with attributes": b"}U\x0b__defaults__K\x01sb.",
    "BUILD with slots": b"N}U\x0b__defaults__K\x01s\x86b.",
    "SETITEM": b"U\x01aK\x01s.",
    "SETITEMS": b"(U\x01aK\x01u.",
    "APPEND": b"K\x01a.",
    "APPENDS": b"(K\x01e.",
    "ADDITEMS": b"(K\x01\x90.",
}


def state_of_the_process(name):
    """Whatever a pickle could change: the attributes of what it names, and our own modules'."""
    target = getattr(importlib.import_module(name.module), name.name, None)
    ours = [sorted((key, repr(value)) for key, value in vars(module).items()) for module in (pickles, checkpoints)]
    return repr(getattr(target, "__dict__", None)), getattr(target, "__defaults__", None), ours


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("name", NAMES, ids=".".join)
def test_no_pickle_changes_what_it_names(name, state):
    before = state_of_the_process(name)
    with pytest.raises(REFUSALS):
        load(f"c{name.module}\n{name.name}\n".encode() + STATES[state])
    assert state_of_the_process(name) == before


NESTED = 100_000
CLAIMS = {
    "a text of 2^40 bytes": b"\x8d" + (1 << 40).to_bytes(8, "little") + b"abc.",
    "bytes of 2^40": b"\x8e" + (1 << 40).to_bytes(8, "little") + b"abc.",
    "bytes of 2^63": b"\x8e" + (1 << 63).to_bytes(8, "little") + b"abc.",
    "a bytearray of 2^40": b"\x96" + (1 << 40).to_bytes(8, "little") + b"abc.",
    "a text of 2^31": b"X\xff\xff\xff\x7fabc.",
    "a whole number of 2^31 bytes": b"\x8b\xff\xff\xff\x7fabc.",
    "a whole number of many digits": b"L" + b"9" * 100_000 + b"L\n.",
    "a frame of 2^60 bytes": b"\x80\x04\x95" + (1 << 60).to_bytes(8, "little") + b"N",
    "an empty stack": b"0.",
    "a mark that is missing": b"e.",
    "a memo that is missing": b"h\x05.",
    "an extension": b"\x82\x01.",
    "a buffer": b"\x97.",
    "no end": b"NNNN",
    "an odd number of items": b"}(NNNu.",
    "a name that is none": b"NN\x93.",
    "nothing": b"",
    "a place in the memo of 2^32": b"Nr\xff\xff\xff\xff0h\x00.",
}
BOMBS = {
    "nested lists": b"]" * NESTED + b"a" * (NESTED - 1) + b".",
    "nested tuples": b"N" + b"\x85" * NESTED + b".",
    "a nested tuple as a key": b"}N" + b"\x85" * NESTED + b"Ns.",
    "a nested tuple in a set": b"\x8f(N" + b"\x85" * NESTED + b"\x90.",
    "a nested tuple that is called": b"N" + b"\x85" * NESTED + b")R.",
    "doubled tuples": b"N" + b"2\x86" * 1000 + b".",
    "calls of calls": b"N" + b")R" * NESTED + b".",
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_claim_takes_no_memory(claim):
    with peak_below(1 << 20), pytest.raises(REFUSALS):
        load(CLAIMS[claim])


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_small_pickle_is_read_in_a_moment(bomb):
    """pickle.loads ends Python itself on some of them, and PyTorch's reader walks 2^1000 tuples."""
    with contextlib.suppress(DamagedError):
        assert checkpoints.tensors(load(BOMBS[bomb]), None, 1 << 20) == {}


def test_a_hundred_levels_are_deep_enough():
    deep = functools.reduce(lambda value, _: [value], range(checkpoints.MOST_LEVELS), [])
    assert checkpoints.tensors(deep, None, 1 << 20) == {}
    with pytest.raises(DamagedError, match="nests more than 100 levels deep"):
        checkpoints.tensors([deep], None, 1 << 20)


def test_steps_are_counted(monkeypatch):
    monkeypatch.setattr(pickles, "MOST_STEPS", 1000)
    assert load(b"N" * 999 + b".") is None
    with pytest.raises(DamagedError, match="more than 1,000 steps"):
        load(b"N" * 1000 + b".")


class peak_below:
    """Fails where Python takes more memory at once."""

    def __init__(self, limit):
        self.limit = limit

    def __enter__(self):
        tracemalloc.start()

    def __exit__(self, kind, error, trace):
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < self.limit


def test_forged_pickles_are_pickles():
    assert as_python(load(pickled({"a": [1]}))) == {"a": [1]}
