"""Pickles read as data: what unpickling would do is recorded, and nothing of it is done.

:func:`record` walks the operations of a pickle. A call becomes a record of what would have been called
(:class:`Call`); nothing is imported, called, or restored into an object.
"""

from __future__ import annotations

import pickletools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

MAX_OPERATIONS: Final = (
    750_000  # of the pickle, more than a second; a checkpoint of 60 000 genes has fewer than 300 000
)
MAX_KEY_LENGTH: Final = 1_000  # no key that is looked for is nearly as long
MAX_STORAGE_ITEMS: Final = 2**40  # arithmetic with sizes must stay cheap: integers of a pickle can have megabytes
MAX_SHOWN: Final = 60  # characters of a value in a message
TENSOR: Final = ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor_v3")
ARRAY: Final = "numpy.core.multiarray._reconstruct"
SCALAR: Final = "numpy.core.multiarray.scalar"
_NUMPY_CODE: Final = re.compile(r"b1|[iu][1248]|f[248]|[US][1-9]\d{0,2}")  # texts of a name's length


@dataclass(frozen=True, slots=True, eq=False)
class Global:
    """Something that the pickle refers to by name. It is never imported."""

    path: str


@dataclass(slots=True, eq=False)
class Call:
    """A call that unpickling would make. It is never made."""

    function: object
    arguments: tuple[object, ...] = ()
    state: object = None
    entries: dict[str, object] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Storage:
    """Raw numbers in the archive entry ``data/<key>``: `size` items (bytes where untyped) of the type `kind`."""

    kind: str
    key: str
    size: int


class Opaque:
    """A value of which nothing is needed (sets, extension codes, buffers, unknown references)."""

    __slots__ = ()


_OPAQUE: Final = Opaque()


def _global(module: str, name: str) -> Global:
    """Return the reference under its present name (Python 2 and numpy 1 had others)."""
    module = {"__builtin__": "builtins", "copy_reg": "copyreg"}.get(module, module)
    if module.startswith("numpy._core"):
        module = module.replace("numpy._core", "numpy.core", 1)
    return Global(f"{module}.{name}")


class _Recorder:
    """Walk the operations of a pickle and record values and would-be calls.

    Each operation does a bounded amount of work and values are never compared, hashed or copied, short text keys
    apart: a value may be a graph that repeats its parts, exponentially many when followed.
    """

    def __init__(self) -> None:
        self.stack: list[object] = []
        self.below: list[list[object]] = []
        self.memo: dict[object, object] = {}
        self.references: dict[str, Global] = {}

    def run(self, pickled: bytes) -> object:
        for number, (opcode, argument, _) in enumerate(pickletools.genops(pickled)):
            if number >= MAX_OPERATIONS:
                raise ValueError(f"it takes more than {MAX_OPERATIONS} operations to read")
            _OPERATIONS[opcode.name](self, argument)
        return self.stack.pop()

    def pop_marked(self) -> list[object]:
        items, self.stack = self.stack, self.below.pop()
        return items

    def nothing(self, _: object) -> None:
        pass

    def push(self, argument: object) -> None:
        self.stack.append(argument)

    def none(self, _: object) -> None:
        self.stack.append(None)

    def true(self, _: object) -> None:
        self.stack.append(True)

    def false(self, _: object) -> None:
        self.stack.append(False)

    def opaque(self, _: object) -> None:
        self.stack.append(_OPAQUE)

    def opaque_marked(self, _: object) -> None:
        self.pop_marked()
        self.stack.append(_OPAQUE)

    def mark(self, _: object) -> None:
        self.below.append(self.stack)
        self.stack = []

    def pop(self, _: object) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.pop_marked()

    def drop_marked(self, _: object) -> None:
        self.pop_marked()

    def dup(self, _: object) -> None:
        self.stack.append(self.stack[-1])

    def put(self, argument: object) -> None:
        self.memo[argument] = self.stack[-1]

    def memoize(self, _: object) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def get(self, argument: object) -> None:
        self.stack.append(self.memo[argument])

    def empty_list(self, _: object) -> None:
        self.stack.append([])

    def empty_dict(self, _: object) -> None:
        self.stack.append({})

    def empty_tuple(self, _: object) -> None:
        self.stack.append(())

    def list_(self, _: object) -> None:
        items = self.pop_marked()
        self.stack.append(items)

    def tuple_(self, _: object) -> None:
        items = self.pop_marked()
        self.stack.append(tuple(items))

    def tuple1(self, _: object) -> None:
        self.stack[-1] = (self.stack[-1],)

    def tuple2(self, _: object) -> None:
        self.stack[-2:] = [(self.stack[-2], self.stack[-1])]

    def tuple3(self, _: object) -> None:
        self.stack[-3:] = [(self.stack[-3], self.stack[-2], self.stack[-1])]

    def append(self, _: object) -> None:
        self.extend([self.stack.pop()])

    def appends(self, _: object) -> None:
        self.extend(self.pop_marked())

    def extend(self, items: list[object]) -> None:
        target = self.stack[-1]
        if type(target) is list:
            target.extend(items)

    def dict_(self, _: object) -> None:
        items = self.pop_marked()
        self.stack.append({})
        self.set_entries(items)

    def setitem(self, _: object) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.set_entries([key, value])

    def setitems(self, _: object) -> None:
        self.set_entries(self.pop_marked())

    def set_entries(self, flat: list[object]) -> None:
        target = self.stack[-1]
        if type(target) is dict:
            entries = target
        elif type(target) is Call:
            if target.entries is None:
                target.entries = {}
            entries = target.entries
        else:
            return
        for key, value in zip(flat[::2], flat[1::2], strict=True):
            # All keys that are needed are short texts. Hashing others (nested tuples) or comparing long ones could
            # take any amount of time.
            if type(key) is str and len(key) <= MAX_KEY_LENGTH:
                entries[key] = value

    def global_(self, argument: object) -> None:
        names = str(argument)
        if names not in self.references:
            module, _, name = names.partition(" ")
            self.references[names] = _global(module, name)
        self.stack.append(self.references[names])

    def stack_global(self, _: object) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        named = type(name) is str and type(module) is str and len(name) + len(module) <= MAX_KEY_LENGTH
        self.stack.append(_global(str(module), str(name)) if named else _OPAQUE)

    def call(self, _: object) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        self.stack.append(Call(function, arguments if type(arguments) is tuple else ()))

    def call_with_keywords(self, _: object) -> None:
        self.stack.pop()
        self.call(None)

    def call_marked(self, _: object) -> None:
        function, *arguments = self.pop_marked()
        self.stack.append(Call(function, tuple(arguments)))

    def call_named(self, argument: object) -> None:
        arguments = self.pop_marked()
        self.global_(argument)
        self.stack.append(Call(self.stack.pop(), tuple(arguments)))

    def build(self, _: object) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if type(target) is Call:
            target.state = state

    def persistent(self, _: object) -> None:
        """Push what torch refers to outside of the pickle: ("storage", type, key, device, size)."""
        match self.stack.pop():
            case ("storage", Global(path=kind), str() as key, _, int() as size) if (
                len(key) <= MAX_KEY_LENGTH and 0 <= size <= MAX_STORAGE_ITEMS
            ):
                self.stack.append(Storage(kind, key, size))
            case _:
                self.stack.append(_OPAQUE)


_Operation = Callable[[_Recorder, object], None]


def _operations() -> dict[str, _Operation]:
    """Return what to do for each operation that a pickle of any protocol can hold."""
    by_method: dict[_Operation, str] = {
        _Recorder.nothing: "PROTO FRAME STOP READONLY_BUFFER",
        _Recorder.push: (
            "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING BINBYTES "
            "SHORT_BINBYTES BINBYTES8 BYTEARRAY8 UNICODE SHORT_BINUNICODE BINUNICODE BINUNICODE8"
        ),
        _Recorder.none: "NONE",
        _Recorder.true: "NEWTRUE",
        _Recorder.false: "NEWFALSE",
        _Recorder.opaque: "EMPTY_SET EXT1 EXT2 EXT4 NEXT_BUFFER PERSID",
        _Recorder.opaque_marked: "FROZENSET",
        _Recorder.mark: "MARK",
        _Recorder.pop: "POP",
        _Recorder.drop_marked: "POP_MARK ADDITEMS",
        _Recorder.dup: "DUP",
        _Recorder.put: "PUT BINPUT LONG_BINPUT",
        _Recorder.memoize: "MEMOIZE",
        _Recorder.get: "GET BINGET LONG_BINGET",
        _Recorder.empty_list: "EMPTY_LIST",
        _Recorder.empty_dict: "EMPTY_DICT",
        _Recorder.empty_tuple: "EMPTY_TUPLE",
        _Recorder.list_: "LIST",
        _Recorder.tuple_: "TUPLE",
        _Recorder.tuple1: "TUPLE1",
        _Recorder.tuple2: "TUPLE2",
        _Recorder.tuple3: "TUPLE3",
        _Recorder.append: "APPEND",
        _Recorder.appends: "APPENDS",
        _Recorder.dict_: "DICT",
        _Recorder.setitem: "SETITEM",
        _Recorder.setitems: "SETITEMS",
        _Recorder.global_: "GLOBAL",
        _Recorder.stack_global: "STACK_GLOBAL",
        _Recorder.call: "REDUCE NEWOBJ",
        _Recorder.call_with_keywords: "NEWOBJ_EX",
        _Recorder.call_marked: "OBJ",
        _Recorder.call_named: "INST",
        _Recorder.build: "BUILD",
        _Recorder.persistent: "BINPERSID",
    }
    return {name: operation for operation, names in by_method.items() for name in names.split()}


_OPERATIONS: Final = _operations()


def shorten(name: str) -> str:
    """Return `name`, or its beginning where it is too long for a message."""
    return name if len(name) <= MAX_SHOWN else f"{name[:MAX_SHOWN]}…"


def shown(value: object) -> str:  # noqa: PLR0911 - one return per kind of value
    """Describe a value of an untrusted file in a few words, without following what it holds."""
    match value:
        case None | bool() | float():
            return repr(value)
        case int():
            return repr(value) if value.bit_length() <= 64 else f"an integer of {value.bit_length()} bits"
        case str():
            return repr(shorten(value))
        case list() | tuple() | dict():
            return f"a {type(value).__name__} of {len(value)}"
        case Global(path=path):
            return f"a reference to {shorten(path)!r}"
        case Call(function=Global(path=path)):
            known = {ARRAY: "a numpy array", SCALAR: "a numpy scalar"} | dict.fromkeys(TENSOR, "a tensor")
            return known.get(path, f"a call of {shorten(path)!r}, which is not run,")
        case _:
            return f"an object of type {type(value).__name__.strip('_')!r}"


def call_of(value: object, *paths: str) -> Call | None:
    """Return `value` where it is a call of one of the named functions or classes."""
    if type(value) is Call and type(value.function) is Global and value.function.path in paths:
        return value
    return None


def bytes_of(value: object, size: int) -> bytes | None:
    """Return `size` bytes, however a pickle of protocol 2 or later writes them; None where there are not just as many.

    What is of another size is not even copied: a pickle can refer to the same bytes as often as it likes.
    """
    if isinstance(value, bytes | bytearray):
        return bytes(value) if len(value) == size else None
    match call_of(value, "_codecs.encode", "builtins.bytes"):
        case Call(function=Global(path="_codecs.encode"), arguments=(str() as text, "latin1" | "latin-1")):
            if len(text) != size:
                return None
            try:
                return text.encode("latin-1")
            except UnicodeEncodeError:
                return None
        case Call(function=Global(path="builtins.bytes"), arguments=()):
            return b"" if size == 0 else None
    return None


def dtype_of(value: object) -> np.dtype[np.generic] | None:
    """Return the dtype of numbers, texts or objects that a pickled ``numpy.dtype`` stands for."""
    match call_of(value, "numpy.dtype"):
        case Call(arguments=(str() as code, *_), state=(_, "<" | ">" | "|" | "=" as order, *_)):
            if code in ("O8", "O4", "O"):
                return np.dtype(object)
            return np.dtype(f"{order}{code}") if _NUMPY_CODE.fullmatch(code) else None
    return None


def numpy_items(dtype: np.dtype[np.generic], data: object, count: int) -> list[object] | None:
    """Return `count` items of an array's pickled `data`; None where it does not hold just as many."""
    if dtype == np.dtype(object):
        return data if type(data) is list and len(data) == count else None
    raw = bytes_of(data, count * dtype.itemsize)
    if raw is None:
        return None
    try:
        return list(np.frombuffer(raw, dtype=dtype, count=count)) if count else []
    except ValueError:  # code points that no text can hold
        return None


def scalar_of(value: object) -> object:
    """Return a number or text for a pickled numpy scalar, and any other value as it is."""
    match call_of(value, SCALAR):
        case Call(arguments=(dtype, data)):
            found = dtype_of(dtype)
            items = None if found is None else numpy_items(found, data, 1)
            return value if items is None else items[0]
    return value


def record(pickled: bytes) -> object:
    """Return the value of a pickle, with :class:`Call` and :class:`Global` where it would call or import something.

    Raises
    ------
    ValueError, LookupError, EOFError, OSError, RuntimeError
        If the pickle is damaged or takes too many operations.
    """
    return _Recorder().run(pickled)
