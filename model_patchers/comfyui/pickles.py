"""Pickles, read as data.

A pickle is a program: it names functions, calls them and puts state into what they return. Python's own reader runs
it. `load` writes down what the program asks for: a `Name` for each function or class, a `Thing` for each call. Nothing
that a pickle names is looked up, imported or called, and there is no object whose attributes a pickle could set.
"""

import pickletools
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

MOST_STEPS = 5_000_000
# Names of Python itself through which a pickle reaches beyond its own objects: they run programs or code, or open files
# or connections. A pickle of weights needs none of them. All other names, Python's or not, are data.
_PACKAGES = """
    asyncio concurrent ctypes distutils ensurepip http idlelib importlib multiprocessing pip sqlite3 unittest urllib
    venv xmlrpc
"""
_MODULES = """
    _ctypes _pickle _posixsubprocess _thread bdb cProfile code codeop commands doctest ftplib imp linecache marshal mmap
    nt os pdb pickle pkgutil platform popen2 posix profile pty pydoc runpy shelve shutil smtplib socket socketserver
    subprocess sys tempfile threading timeit trace urllib2 webbrowser zipimport
"""
_BUILTINS = """
    __import__ apply breakpoint compile delattr eval exec execfile file globals input locals open print raw_input
    reload setattr vars
"""
ACTING_PACKAGES = frozenset(_PACKAGES.split())
ACTING_MODULES = frozenset(_MODULES.split()) | ACTING_PACKAGES
ACTING_NAMES = {
    "builtins": frozenset(_BUILTINS.split()),
    "__builtin__": frozenset(_BUILTINS.split()),
    "io": frozenset(("FileIO", "open", "open_code")),
    "_io": frozenset(("FileIO", "open", "open_code")),
    "types": frozenset(("CodeType", "FunctionType", "LambdaType")),
}


class RunsCodeError(Exception):
    """The pickle names a function that could do harm. Nothing was called."""


class DamagedError(Exception):
    """A file contradicts itself. The message is a sentence for users."""


class Source(Protocol):
    def read(self, size: int, /) -> bytes: ...
    def readline(self) -> bytes: ...


class Name(NamedTuple):
    """A function or class that a pickle names."""

    module: str
    name: str


class Stored(NamedTuple):
    """A reference to what is kept outside the pickle, as PyTorch keeps the storages of tensors."""

    reference: Any


class Pairs(list):
    """A dict as its (key, value) pairs: no key of a pickle is ever hashed."""

    __slots__ = ()


class Thing:
    """What a call would make.

    Attributes:
        maker: What is called: a Name, unless the pickle is forged.
        arguments: Of the call.
        entries: What was put in as into a dict.
        states: What was put in as attributes.
    """

    __slots__ = ("arguments", "entries", "maker", "states")

    def __init__(self, maker: Any, arguments: Any) -> None:
        self.maker, self.arguments = maker, arguments
        self.entries, self.states = Pairs(), []


def load(source: Source) -> tuple[Any, list[Stored]]:
    """Reads one pickle, up to its end.

    Args:
        source: Its `read` must not make room for more bytes than there are: a pickle can claim any number.

    Returns:
        The value: plain values, lists and tuples as they are, dicts as Pairs, sets as lists, all else as a Name, a
        Thing or a Stored. And every Stored of the pickle.

    Raises:
        RunsCodeError: It names a function that could do harm.
        DamagedError: It is no pickle, or has more than MOST_STEPS steps, which with 100 bytes each bound the memory.
        ValueError, LookupError, TypeError, AttributeError, OverflowError: It is no pickle either.
    """
    machine = _Machine()
    for count, (opcode, argument, _) in enumerate(pickletools.genops(source)):
        if count == MOST_STEPS:
            raise DamagedError(f"it holds a pickle of more than {MOST_STEPS:,} steps.")
        if opcode.name in PLAIN:
            machine.push(argument)
        else:
            STEPS[opcode.name](machine, argument)
    return machine.stack[-1], machine.stored


def could_do_harm(module: str, name: str) -> bool:
    """Whether a name is one of those above, also as an attribute of another module.

    It decides on the message alone: no name is ever looked up or called.
    """
    *owners, _ = name.split(".")
    return (
        name.partition(".")[0] in ACTING_NAMES.get(module, ())
        or module.partition(".")[0] in ACTING_PACKAGES
        or not ACTING_MODULES.isdisjoint((module, *owners))
    )


class _Machine:
    """The stack, the marks and the memo that the steps of a pickle work on."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # the stacks below each mark
        self.memo: dict[int, Any] = {}
        self.stored: list[Stored] = []

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def mark(self) -> None:
        self.below.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.below.pop()
        return items

    def last(self, count: int) -> list[Any]:
        items = [self.stack.pop() for _ in range(count)]
        return items[::-1]

    def name(self, module: str, name: str) -> None:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise DamagedError("it names a function by something that is no name.")
        if could_do_harm(module, name):
            raise RunsCodeError(f"{module}.{name}")
        self.push(Name(module, name))

    def make(self, maker: Any, arguments: Any) -> None:
        self.push(Thing(maker, arguments))

    def build(self) -> None:
        state = self.stack.pop()
        self.stack[-1].states.append(state)  # of a Thing alone: nothing else has states

    def store(self, reference: Any) -> None:
        self.stored.append(Stored(reference))
        self.push(self.stored[-1])

    def extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is list:
            target.extend(items)
        elif not isinstance(target, Thing):
            raise DamagedError("it appends to something that is no list.")

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        pairs = target.entries if isinstance(target, Thing) else target
        if type(pairs) is not Pairs:
            raise DamagedError("it sets keys of something that is no dict.")
        pairs.extend(zip(items[::2], items[1::2], strict=True))

    def make_dict(self) -> None:
        items = self.since_mark()
        self.push(Pairs())
        self.set_items(items)

    def inst(self, names: str) -> None:
        arguments = tuple(self.since_mark())
        self.name(*names.split(" ", 1))
        self.make(self.stack.pop(), arguments)

    def obj(self) -> None:
        maker, *arguments = self.since_mark()
        self.make(maker, tuple(arguments))

    def put(self, place: int) -> None:
        self.memo[place] = self.stack[-1]


def _ignore(machine: _Machine, argument: Any) -> None: ...


_PLAIN = """
    INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE
    SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8
"""
PLAIN = frozenset(_PLAIN.split())  # opcodes whose argument is the value
# All others. Those that are missing, EXT1 ... and NEXT_BUFFER, refer to what no file holds.
STEPS: dict[str, Callable[[_Machine, Any], Any]] = {
    "PROTO": _ignore,
    "FRAME": _ignore,
    "STOP": _ignore,
    "READONLY_BUFFER": _ignore,
    "NONE": lambda m, _: m.push(None),
    "NEWTRUE": lambda m, _: m.push(True),
    "NEWFALSE": lambda m, _: m.push(False),
    "EMPTY_LIST": lambda m, _: m.push([]),
    "EMPTY_SET": lambda m, _: m.push([]),
    "EMPTY_DICT": lambda m, _: m.push(Pairs()),
    "EMPTY_TUPLE": lambda m, _: m.push(()),
    "TUPLE1": lambda m, _: m.push(tuple(m.last(1))),
    "TUPLE2": lambda m, _: m.push(tuple(m.last(2))),
    "TUPLE3": lambda m, _: m.push(tuple(m.last(3))),
    "MARK": lambda m, _: m.mark(),
    "TUPLE": lambda m, _: m.push(tuple(m.since_mark())),
    "LIST": lambda m, _: m.push(m.since_mark()),
    "FROZENSET": lambda m, _: m.push(m.since_mark()),
    "DICT": lambda m, _: m.make_dict(),
    "APPEND": lambda m, _: m.extend(m.last(1)),
    "APPENDS": lambda m, _: m.extend(m.since_mark()),
    "ADDITEMS": lambda m, _: m.extend(m.since_mark()),
    "SETITEM": lambda m, _: m.set_items(m.last(2)),
    "SETITEMS": lambda m, _: m.set_items(m.since_mark()),
    "POP": lambda m, _: m.stack.pop() if m.stack else m.since_mark(),
    "POP_MARK": lambda m, _: m.since_mark(),
    "DUP": lambda m, _: m.push(m.stack[-1]),
    "MEMOIZE": lambda m, _: m.put(len(m.memo)),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _Machine.put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda m, place: m.push(m.memo[place])),
    "GLOBAL": lambda m, names: m.name(*names.split(" ", 1)),
    "STACK_GLOBAL": lambda m, _: m.name(*m.last(2)),
    "REDUCE": lambda m, _: m.make(*m.last(2)),
    "NEWOBJ": lambda m, _: m.make(*m.last(2)),
    "NEWOBJ_EX": lambda m, _: m.make(*m.last(3)[:2]),
    "INST": _Machine.inst,
    "OBJ": lambda m, _: m.obj(),
    "BUILD": lambda m, _: m.build(),
    "PERSID": _Machine.store,
    "BINPERSID": lambda m, _: m.store(m.stack.pop()),
}
