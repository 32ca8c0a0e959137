"""Fuzz the readers of models: whatever a file holds, it loads as a whole model or is refused in our own words.

``python tests/fuzz/checkpoints.py --inputs 100000 --seed 0`` writes a line of JSON with what came of it, and keeps the
inputs that are findings (``--keep``). Inputs that reach new lines of the readers, or a new message, become seeds of
further ones. A finding is an error other than ours, one that does not name the file, a model that contradicts itself or
cannot be saved, too much time or memory, and anything run, imported, opened elsewhere or written meanwhile.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import faulthandler
import io
import json
import math
import pickle
import pickletools
import random
import re
import shutil
import struct
import sys
import tempfile
import time
import traceback
import warnings
import zlib
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import torch
from checkpoint_cases import GENES, GOLDEN, LABELS, amici_contents, small_model, small_network
from hostile import (
    MOST_BYTES,
    MOST_SECONDS,
    Raw,
    array,
    central,
    contents,
    ending,
    latin,
    local,
    ops,
    shapes_of,
    tensor,
)
from measure import forget_peak, peak_bytes

from tissue_crosstalk.core import amici_checkpoint, checkpoint, network, pickle_records
from tissue_crosstalk.core.checkpoint import load_model, save_model
from tissue_crosstalk.core.errors import CheckpointError
from tissue_crosstalk.core.model import CrosstalkModel

READERS = {module.__file__ for module in (amici_checkpoint, checkpoint, pickle_records)}
HANGS_AFTER = 120  # seconds that a hundred inputs may take until the process ends itself, which names the line
SAVED_EVERY = 50  # of the models that load, one is saved and loaded again

# What loading does in any case. Files are looked at one by one.
HARMLESS = {
    "sys.settrace",
    "builtins.id",
    "object.__getattr__",
    "object.__setattr__",
    "sys._getframe",
    "array.__new__",
    "mmap.__new__",
}
FILES = {"open", "os.listdir", "os.scandir"}


@dataclass(frozen=True)
class Files:
    """An input: the files of a model folder by name."""

    content: dict[str, bytes]


# --- seeds


STORAGES = {name: value.numpy().tobytes() for name, value in small_network().state_dict().items()}


def archive(pickled: bytes, storages: dict[str, bytes]) -> bytes:
    """Return a ``model.pt`` with right checksums (zipfile takes ten times as long)."""
    body, directory = bytearray(), bytearray()
    for name, content in {"data.pkl": pickled, **{f"data/{key}": value for key, value in storages.items()}}.items():
        path = b"model/" + name.encode(errors="replace")
        directory += central(path, len(content), len(content), zlib.crc32(content), len(body))
        body += local(path, content)
    return bytes(body + directory + ending(len(storages) + 1, len(directory), len(body)))


def pickles() -> list[bytes]:
    """Return pickles of the small network, of several makers; their storages are named as :data:`STORAGES`."""
    made = [contents(shapes_of())]
    made.append(
        contents(
            shapes_of(), genes=array(ops([*GENES]), len(GENES)), labels=array(latin(b"x\0\0\0y\0\0\0z\0\0\0"), 3, "U1")
        )
    )
    scalar = b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(X\2\0\0\0i8K\0K\1tR(K\3X\1\0\0\0<NNNtb"
    made.append(contents(shapes_of(), labels=[Raw(scalar + latin(struct.pack("<q", n)) + b"tR") for n in (1, 2, 3)]))
    values = amici_contents(small_network(), n_heads=2, pos_coef_offset=-1.0)
    values["model_state_dict"] = {name: Stored(name, value) for name, value in small_network().state_dict().items()}
    return made + [pickled_as_torch(values, protocol) for protocol in range(2, 6)]


@dataclass
class Stored:
    """A tensor whose numbers are in an archive's entry of its name."""

    name: str
    values: torch.Tensor

    def __reduce__(self) -> tuple[Any, ...]:
        shape, stride = tuple(self.values.shape), self.values.stride()
        storage = Storage(self.name, self.values.numel())
        return torch._utils._rebuild_tensor_v2, (storage, 0, shape, stride, False, OrderedDict())


@dataclass
class Storage:
    name: str
    size: int


def pickled_as_torch(values: Any, protocol: int) -> bytes:
    """Return a pickle in which storages are named as torch does it."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            named = isinstance(value, Storage)
            return ("storage", torch.FloatStorage, value.name, "cpu", value.size) if named else None

    file = io.BytesIO()
    Pickler(file, protocol).dump(values)
    return file.getvalue()


@dataclass
class Corpus:
    """Inputs by kind, from which others are made."""

    pickles: list[bytes] = field(default_factory=pickles)
    archives: list[bytes] = field(default_factory=list)
    values: list[dict[str, Any]] = field(default_factory=list)
    descriptions: list[bytes] = field(default_factory=list)
    weights: list[bytes] = field(default_factory=list)

    @classmethod
    def start(cls, folder: Path) -> Corpus:
        save_model(small_model(), folder / "seed")
        corpus = cls()
        corpus.archives = [archive(corpus.pickles[0], STORAGES), (GOLDEN / "model.pt").read_bytes()]
        corpus.descriptions = [(folder / "seed" / "model.json").read_bytes()]
        corpus.weights = [(folder / "seed" / "model.safetensors").read_bytes()]
        corpus.values = [whole_value()]
        shutil.rmtree(folder / "seed")
        return corpus


# --- mutators

NUMBERS = (0, 1, 2, 3, 4, 5, 9, 16, 127, 128, 255, 256, 65_535, 2**31 - 1, -1, -2, -(2**31), 2**24, 1000)
TEXTS = (
    *(
        "",
        "x",
        "model_state_dict",
        "var_names",
        "attr_dict",
        "ct_profiles",
        "latin1",
        "storage",
        "O8",
        "U5",
        "i8",
        "S3",
    ),
    *(
        "n_heads",
        "kind",
        "FloatStorage",
        "\ud800",
        "é" * 30,
        "a" * 2000,
        "data/0",
        "NaN",
        "attention_layer.W_Q",
        "<",
        "|",
    ),
)
GLOBALS = (
    *("os system", "builtins eval", "builtins dict", "collections OrderedDict", "_codecs encode", "numpy dtype"),
    *("numpy.core.multiarray _reconstruct", "numpy._core.multiarray scalar", "torch._utils _rebuild_tensor_v2"),
    *("torch._utils _rebuild_parameter", "torch FloatStorage", "torch HalfStorage", "torch.storage UntypedStorage"),
    *("crosstalk_no_module nothing", "subprocess Popen", "torch float32"),
)


def broken_bytes(rng: random.Random, content: bytes) -> bytes:
    """Return bytes with some flipped, removed, repeated, cut off, or a number of several bytes put over them."""
    changed = bytearray(content or b"\x00")
    for _ in range(rng.choice([1, 1, 1, 2, 5, 20])):
        at = rng.randrange(len(changed))
        match rng.randrange(7):
            case 0:
                changed[at] = rng.randrange(256)
            case 1:
                changed[at] ^= 1 << rng.randrange(8)
            case 2:
                del changed[at : at + rng.randrange(1, 40)]
            case 3:
                changed[at:at] = changed[at : at + rng.randrange(1, 40)]
            case 4:
                changed[at] = rng.choice(b".0(tRbsua2\x81\x85\x86\x93Qc}])l{\"',:e-0")
            case 5:
                code = rng.choice(["<B", "<H", "<I", "<Q", ">I"])
                number = rng.choice(NUMBERS) & (256 ** struct.calcsize(code) - 1)
                changed[at : at + struct.calcsize(code)] = struct.pack(code, number)
            case 6:
                start = rng.randrange(len(changed))
                changed[at:at] = changed[start : start + rng.randrange(1, 400)]
        changed = changed or bytearray(b"\x00")
    if rng.random() < 0.05:
        del changed[rng.randrange(len(changed)) :]
    return bytes(changed)


def operations_of(pickled: bytes) -> list[bytes]:
    """Return the operations of a pickle one by one, as far as they can be read."""
    starts: list[int] = []
    with contextlib.suppress(Exception):  # what is read so far will do
        starts.extend(at for _, _, at in pickletools.genops(pickled) if at is not None)
    if not starts:
        return [pickled]
    return [pickled[start:end] for start, end in zip(starts, [*starts[1:], len(pickled)], strict=True)]


def any_operation(rng: random.Random) -> bytes:
    """Return one operation of any kind with an argument that it can have."""
    opcode = rng.choice(pickletools.opcodes)
    code = opcode.code.encode("latin-1")
    if opcode.arg is None:
        return code
    number, text = rng.choice(NUMBERS), rng.choice(TEXTS).encode("utf-8", "surrogatepass")
    name = opcode.arg.name
    match name:
        case "stringnl_noescape_pair":
            return code + rng.choice(GLOBALS).replace(" ", "\n").encode() + b"\n"
        case "stringnl" | "stringnl_noescape" | "unicodestringnl":
            return code + (b"'" + text[:50] + b"'" if name == "stringnl" else text[:50]) + b"\n"
        case "decimalnl_short":
            return code + str(number).encode() + b"\n"
        case "decimalnl_long":
            return code + str(number).encode() + b"0" * rng.choice([0, 30, 4400]) + b"L\n"
        case "floatnl":
            return code + rng.choice([b"1.5", b"nan", b"inf", b"1e999", b"x"]) + b"\n"
        case "float8":
            return code + struct.pack(">d", rng.choice([0.0, math.nan, math.inf, -1.5, 1e308]))
        case "uint1" | "uint2" | "uint4" | "uint8" | "int4":
            width = {"uint1": 1, "uint2": 2, "uint4": 4, "uint8": 8, "int4": 4}[name]
            return code + (number & (256**width - 1)).to_bytes(width, "little")
        case "long1" | "long4":
            digits = number.to_bytes(8, "little", signed=True) * rng.choice([1, 1, 20])
            return code + len(digits).to_bytes(1 if name == "long1" else 4, "little") + digits
    width = int(name[-1]) if name[-1].isdigit() else 4
    text = text[:200] if width == 1 else text
    return code + len(text).to_bytes(width, "little") + text


def broken_operations(rng: random.Random, corpus: Corpus) -> bytes:
    """Return a pickle in which operations are removed, repeated, exchanged, made up, or come from another one."""
    parts = operations_of(one_of(rng, corpus.pickles))
    for _ in range(rng.choice([1, 1, 2, 3, 8])):
        at = rng.randrange(len(parts))
        match rng.randrange(9):
            case 0:
                del parts[at : at + rng.choice([1, 1, 1, 2, 10])]
            case 1:
                parts[at:at] = parts[at : at + rng.choice([1, 1, 3, 20])]
            case 2:
                other = rng.randrange(len(parts))
                parts[at], parts[other] = parts[other], parts[at]
            case 3:
                parts.insert(at, any_operation(rng))
            case 4:
                parts[at] = any_operation(rng)
            case 5:
                others = operations_of(one_of(rng, corpus.pickles))
                start = rng.randrange(len(others))
                parts[at : at + rng.choice([0, 1, 5])] = others[start : start + rng.choice([1, 5, 40])]
            case 6:  # the argument only
                parts[at] = parts[at][:1] + broken_bytes(rng, parts[at][1:])
            case _:  # what is dropped again
                parts.insert(1, b"(" + b"".join(any_operation(rng) for _ in range(rng.choice([1, 3, 9]))) + b"1")
        parts = parts or [b"."]
    return b"".join(parts)


def whole_value() -> dict[str, Any]:
    """Return the settings of :func:`hostile.contents`, whose parts are exchanged one by one."""
    return {"shapes": dict(shapes_of()), "genes": list(GENES), "labels": list(LABELS), "tensors": {}, "storages": {}}


def any_tensor(rng: random.Random) -> Raw:
    name = rng.choice(list(STORAGES))
    shape = tuple(rng.choice([0, 1, 2, 3, 4, 5, 7, 9, -1, 2**31 - 1]) for _ in range(rng.choice([0, 1, 2, 2, 3, 9])))
    size = rng.choice([None, 0, 1, 15, len(STORAGES[name]) // 4, 2**31 - 1, -1])
    try:
        return tensor(name, shape, size=size, kind=rng.choice(["Float", "Float", "Half", "Double", "Int", "Untyped"]))
    except struct.error:  # a stride beyond 32 bits
        return tensor(name, shape[:1], size=size)


def any_array(rng: random.Random) -> Raw:
    code = rng.choice(["O8", "i8", "f4", "U3", "S2", "b1", "V8", "M8", "i1", "U0", "S9999"])
    count = rng.choice([0, 1, 3, 5, -1, 2**31 - 1])
    data = rng.choice(
        [ops([*LABELS]), ops([*GENES]), latin(bytes(24)), latin(b"\xff" * 12), latin(b""), b"N", ops([1, 2, 3])]
    )
    return array(data, count, code)


def any_value(rng: random.Random) -> Any:
    """Return a value of any kind that a pickle can hold."""
    return rng.choice(
        (
            lambda: None,
            lambda: rng.random() < 0.5,
            lambda: rng.choice(NUMBERS),
            lambda: rng.choice([0.0, math.nan, math.inf, -1.0, 1e300]),
            lambda: Raw(ops_of_text(rng.choice(TEXTS))),
            lambda: [],
            lambda: {},
            lambda: [rng.choice(NUMBERS) for _ in range(rng.choice([3, 5, 100]))],
            lambda: [rng.choice("abcdef") for _ in range(rng.choice([3, 5]))],
            lambda: any_tensor(rng),
            lambda: any_array(rng),
            lambda: Raw(any_operation(rng)),
            lambda: Raw(b"cos\nsystem\n" + ops("true") + b"\x85R"),
        )
    )()


def ops_of_text(text: str) -> bytes:
    encoded = text.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def broken_values(rng: random.Random, value: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a checkpoint with some of its values exchanged."""
    changed = copy.deepcopy(value)
    for _ in range(rng.choice([1, 1, 2, 4])):
        name = rng.choice(list(STORAGES))
        match rng.randrange(8):
            case 0:
                changed["genes"] = any_value(rng)
            case 1:
                changed["labels"] = any_value(rng)
            case 2:
                part = rng.choice(["genes", "labels"])
                if isinstance(changed[part], list) and changed[part]:
                    changed[part][rng.randrange(len(changed[part]))] = any_value(rng)
            case 3:
                changed["tensors"][rng.choice([name, "surplus", "attention_layer.IGNORE"])] = any_value(rng)
            case 4:
                changed["tensors"][name] = any_tensor(rng)
            case 5:
                numbers = bytearray(STORAGES[name])
                at = 4 * rng.randrange(len(numbers) // 4)
                numbers[at : at + 4] = struct.pack("<f", rng.choice([math.nan, math.inf, -math.inf, 1e-45, 3e38]))
                changed["storages"][name] = bytes(numbers)
            case 6:
                changed["storages"][name] = bytes(rng.choice([0, 1, 4, len(STORAGES[name]) + 4]))
            case 7:
                changed["shapes"].pop(name, None)
    return changed


JSON_VALUES = (
    *(None, True, 0, 1, -1, 2**24, 2**24 + 1, 2**63, 10**30, 1.5, 1e308, -0.0, "", "x", "\ud800", "a" * 2000, [], {}),
    *([[]], {"a": 1}, ["A"] * 5, ["a", "b", "c"], "tissue-crosstalk", "amici-st", [1, 2, 3], "text" * 10),
)


def broken_json(rng: random.Random, content: bytes) -> bytes:
    """Return JSON with values exchanged, removed or added; or, now and then, with broken bytes."""
    if rng.random() < 0.3:
        return broken_bytes(rng, content)
    try:
        root = json.loads(content)
    except (ValueError, RecursionError):
        return broken_bytes(rng, content)
    for _ in range(rng.choice([1, 1, 2, 4])):
        place = root
        while isinstance(place, dict | list) and place:
            key = rng.choice(list(place) if isinstance(place, dict) else range(len(place)))
            if not isinstance(place[key], dict | list) or rng.random() < 0.4:
                break
            place = place[key]
        if not isinstance(place, dict | list) or not place:
            continue
        match rng.randrange(4):
            case 0:
                place[key] = copy.deepcopy(rng.choice(JSON_VALUES))
            case 1:
                del place[key]
            case 2 if isinstance(place, dict):
                place[rng.choice(["format", "n_heads", "x", "__metadata__", "ct_profiles"])] = copy.deepcopy(
                    rng.choice(JSON_VALUES)
                )
            case 3 if isinstance(place[key], int | float):
                place[key] = rng.choice(NUMBERS)
    text = json.dumps(root)
    if rng.random() < 0.1:
        text = text.replace(
            rng.choice(["1", "0.5", "null", "{", "5"]), rng.choice(["NaN", "1e999", "9" * 30, '{"a":1,"a":2,']), 1
        )
    return text.encode()


def broken_weights(rng: random.Random, content: bytes) -> bytes:
    """Return safetensors with a changed header, or with broken bytes."""
    (length,) = struct.unpack("<Q", content[:8].ljust(8, b"\0"))
    if rng.random() < 0.3 or length > len(content):
        return broken_bytes(rng, content)
    if rng.random() < 0.2:
        return content[: 8 + length] + broken_bytes(rng, content[8 + length :])
    made = broken_json(rng, content[8 : 8 + length])
    if rng.random() < 0.2:
        made = made.replace(b"F32", rng.choice([b"F16", b"BF16", b"F64", b"I32", b"BOOL", b"F8_E4M3", b"XX"]), 1)
    declared = rng.choice([len(made)] * 9 + [2**63, 2**20, 0])
    return struct.pack("<Q", declared) + made + content[8 + length :]


def one_of(rng: random.Random, seeds: list[Any]) -> Any:
    """Return a seed: half of the time one of those that load, which are the first."""
    return rng.choice(seeds[:7] if rng.random() < 0.5 else seeds)


def made(rng: random.Random, corpus: Corpus) -> tuple[Files, Callable[[], None]]:
    """Return an input, and what makes a seed of it."""
    match rng.choices(range(6), (2, 3, 5, 4, 3, 3))[0]:
        case 0:
            content = broken_bytes(rng, one_of(rng, corpus.archives))
            return Files({"model.pt": content}), lambda: corpus.archives.append(content)
        case 1:
            content = broken_bytes(rng, one_of(rng, corpus.pickles))
            return Files({"model.pt": archive(content, STORAGES)}), lambda: corpus.pickles.append(content)
        case 2:
            content = broken_operations(rng, corpus)
            return Files({"model.pt": archive(content, STORAGES)}), lambda: corpus.pickles.append(content)
        case 3:
            value = broken_values(rng, one_of(rng, corpus.values))
            pickled = contents(
                value["shapes"],
                genes=value["genes"],
                labels=value["labels"],
                tensors={name: Raw(ops(given)) for name, given in value["tensors"].items()},
            )
            storages = STORAGES | value["storages"]
            return Files({"model.pt": archive(pickled, storages)}), lambda: corpus.values.append(value)
        case 4:
            content = broken_json(rng, one_of(rng, corpus.descriptions))
            files = {"model.json": content, "model.safetensors": corpus.weights[0]}
            return Files(files), lambda: corpus.descriptions.append(content)
        case _:
            content = broken_weights(rng, one_of(rng, corpus.weights))
            files = {"model.json": corpus.descriptions[0], "model.safetensors": content}
            return Files(files), lambda: corpus.weights.append(content)


# --- what must be so


class Watch:
    """Records what a file makes the process do while it is armed."""

    def __init__(self, folder: Path) -> None:
        self._folder, self.armed, self.seen = str(folder), False, []
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.armed or event in HARMLESS:
            return
        if event in FILES:
            path, *rest = arguments
            inside = isinstance(path, int) or str(path).startswith(self._folder)
            writes = event == "open" and any(letter in str(rest[0]) for letter in "wax+")
            if inside and not writes:
                return
        self.seen.append(f"{event} {arguments!r}"[:300])


class Lines:
    """Which lines of the readers were reached. Functions of which all were are no longer followed."""

    def __init__(self) -> None:
        self.missing: dict[CodeType, set[int]] = {}
        self.calls: Counter[CodeType] = Counter()
        self.found = 0

    def called(self, frame: FrameType, event: str, argument: Any) -> Any:
        code = frame.f_code
        if code.co_filename not in READERS:
            return None
        if code not in self.missing:
            self.missing[code] = {line for *_, line in code.co_lines() if line is not None} - {code.co_firstlineno}
        if not self.missing[code]:
            return None
        self.calls[code] += 1  # some lines are hardly ever reached: they are looked for now and then
        return self._reached if self.calls[code] < 500 or self.calls[code] % 16 == 0 else None

    def _reached(self, frame: FrameType, event: str, argument: Any) -> Any:
        missing = self.missing[frame.f_code]
        if frame.f_lineno in missing:
            missing.discard(frame.f_lineno)
            self.found += 1
        return self._reached


def contradiction(model: CrosstalkModel) -> str:
    """Return what is wrong with a model that was loaded; nothing where it is whole."""
    state = model.network.state_dict()
    if not all(bool(torch.isfinite(value).all()) and value.dtype == torch.float32 for value in state.values()):
        return "weights that are not finite"
    if state["ct_profiles"].shape != (len(model.cell_types), len(model.genes)):
        return "names that do not fit the profiles"
    names = (*model.genes, *model.cell_types, model.keys.labels_key, model.keys.coord_key)
    if not all(isinstance(name, str) for name in names) or len(set(model.genes)) < len(model.genes):
        return "names that are no texts, or are there twice"
    if len(set(model.cell_types)) < len(model.cell_types) or not 1 <= model.n_neighbors <= 10**6:
        return "cell types that are there twice, or no number of neighbors"
    empty = network.CrossAttentionNetwork(len(model.genes), len(model.cell_types), model.network.settings).state_dict()
    if {name: value.shape for name, value in empty.items()} != {name: value.shape for name, value in state.items()}:
        return "tensors that do not fit the settings"
    return ""


@dataclass
class Outcome:
    """What came of a fuzz."""

    inputs: int = 0
    loaded: int = 0
    refused: int = 0
    lines: int = 0
    messages: int = 0
    seeds: int = 0
    findings: int = 0
    slowest_seconds: float = 0.0
    most_bytes: int = 0
    kinds: Counter[str] = field(default_factory=Counter)


def kind_of(message: str) -> str:
    """Return a message without what differs from file to file."""
    return re.sub(r"'[^']*'|\d+|\(.*?\)", "", message)[:120]


def fuzz(n_inputs: int, seed: int, keep: Path | None) -> Outcome:
    """Make and load inputs; see the module."""
    rng, outcome, lines = random.Random(seed), Outcome(), Lines()
    messages: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "m"
        folder.mkdir()
        corpus = Corpus.start(Path(place))
        watch = Watch(folder)
        for encoding in (
            "raw_unicode_escape",
            "unicode_escape",
            "latin-1",
            "cp437",
            "ascii",
            "utf-32-le",
            "utf-32-be",
            "utf-16-le",
            "utf-16-be",
        ):
            "".encode(encoding)  # imported where it is first needed
        for content in (
            {"model.pt": corpus.archives[0]},
            {"model.pt": b"PK\x03\x04"},
            {"model.json": b"{", "model.safetensors": b""},
        ):
            attempt(folder, Files(content), watch, lines)  # what the first time imports
        watch.seen.clear()
        for number in range(n_inputs):
            if number % 100 == 0:
                forget_peak()  # which takes longer than to load a model
                faulthandler.dump_traceback_later(HANGS_AFTER, exit=True)
            files, make_seed = made(rng, corpus)
            reached = lines.found
            model, message, wrong, seconds, grown = attempt(folder, files, watch, lines)
            if model is not None:
                wrong = wrong or contradiction(model)
                if not wrong and outcome.loaded % SAVED_EVERY == 0:
                    wrong = saved_again(model, Path(place) / "saved")
            outcome.inputs += 1
            outcome.loaded += model is not None
            outcome.refused += bool(message)
            outcome.slowest_seconds = max(outcome.slowest_seconds, seconds)
            outcome.most_bytes = max(outcome.most_bytes, grown)
            kind = kind_of(message) if message else "loaded"
            if lines.found > reached or (message and not messages[kind]):
                make_seed()
                outcome.seeds += 1
            messages[kind] += 1
            if wrong:
                outcome.findings += 1
                outcome.kinds[wrong[-300:]] += 1
                if keep is not None and outcome.kinds[wrong[-300:]] == 1:
                    shutil.copytree(folder, keep / f"{seed}-{number}")
                    (keep / f"{seed}-{number}" / "why.txt").write_text(wrong)
    faulthandler.cancel_dump_traceback_later()
    outcome.lines, outcome.messages = lines.found, len(messages)
    return outcome


def attempt(
    folder: Path, files: Files, watch: Watch, lines: Lines
) -> tuple[CrosstalkModel | None, str, str, float, int]:
    """Load an input; return the model, the message, the finding, seconds, and bytes by which the memory grew."""
    for old in folder.iterdir():
        old.unlink()
    for name, content in files.content.items():
        (folder / name).write_bytes(content)
    model, message, wrong = None, "", ""
    before, start = peak_bytes(), time.perf_counter()
    watch.armed = True
    sys.settrace(lines.called)
    try:
        model = load_model(folder)
    except CheckpointError as error:
        message = str(error)
    except BaseException:  # whatever it is, it is a finding
        sys.settrace(None)
        watch.armed = False
        wrong = traceback.format_exc()
    finally:
        sys.settrace(None)
        watch.armed = False
    seconds, grown = time.perf_counter() - start, peak_bytes() - before
    if message and (str(folder) not in message or len(message) > 3000):
        wrong = f"a message that does not name the file, or is too long: {message[:300]}"
    if watch.seen:
        wrong += f"it made the process do: {watch.seen}"
        watch.seen.clear()
    if seconds > MOST_SECONDS or grown > MOST_BYTES:
        wrong = f"it took {seconds:.1f} s and {grown} bytes"
    if {file.name for file in folder.iterdir()} != set(files.content):
        wrong = "files were written"
    return model, message, wrong, seconds, grown


def saved_again(model: CrosstalkModel, folder: Path) -> str:
    try:
        save_model(model, folder)
        again = load_model(folder)
    except CheckpointError as error:
        return f"it loads but cannot be saved and loaded again: {error}"
    same = again.genes == model.genes and again.network.settings == model.network.settings
    return "" if same else "it is another model once it was saved"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for inputs that are findings")
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("error")  # as in the tests: a reader that warns of a file has not looked at it
    start = time.perf_counter()
    outcome = fuzz(given.inputs, given.seed, given.keep)
    sys.stdout.write(json.dumps({**vars(outcome), "seconds": round(time.perf_counter() - start, 1)}) + "\n")
    sys.exit(bool(outcome.findings))


if __name__ == "__main__":
    main()
