"""Read checkpoints of amici-st (``model.pt``) without running anything that they name.

A ``model.pt`` is a zip archive of a pickled dict and of raw tensors. A pickle is a program, and a checkpoint comes
from elsewhere, so Python's unpickler is not used at all:

1. :mod:`~tissue_crosstalk.core.pickle_records` records the pickle's operations; nothing is imported or called.
2. :class:`Item` then looks at the few values that are needed and says what is wrong with them, by key.
3. Tensors stay descriptions (:class:`_View`) until their sizes agree with each other and with the archive.

Files are limited before anything is allocated in proportion to what they declare.
"""

from __future__ import annotations

import io
import math
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from tissue_crosstalk.core.errors import CheckpointError, ParameterError, did_you_mean, listing
from tissue_crosstalk.core.model import TissueKeys
from tissue_crosstalk.core.network_settings import NetworkSettings
from tissue_crosstalk.core.pickle_records import (
    ARRAY,
    TENSOR,
    Call,
    Global,
    Storage,
    call_of,
    dtype_of,
    numpy_items,
    record,
    scalar_of,
    shorten,
    shown,
)

ZIP_MAGIC: Final = b"PK\x03\x04"
"""First bytes of every ``model.pt`` that torch 1.6 or later wrote."""

MAX_NEIGHBORS: Final = 1_000_000
MAX_PICKLE_BYTES: Final = 64 * 2**20  # the indices of some millions of cells are what makes it large
MAX_TENSORS: Final = 1_000  # a network has some 60
MAX_NAMES: Final = 250_000
MAX_NAME_LENGTH: Final = 1_000
MAX_DIRECTORY_BYTES: Final = 2**20  # of the archive; an entry takes some 100

# Torch stores tensors uncompressed. Archives that were zipped again are fine; what grows beyond this is a bomb.
MAX_EXPANSION: Final = 4
ALWAYS_ALLOWED_BYTES: Final = 64 * 2**20

_HINT: Final = "Copy the file again, or write it again with amici-st's own save()."
_MODEL_KWARGS: Final = "attr_dict/init_params_/kwargs/model_kwargs"

# What zipfile, zlib and pickletools raise on damaged input (Warning: where warnings are errors).
_DAMAGE: Final = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    ValueError,
    LookupError,
    EOFError,
    OSError,
    OverflowError,
    NotImplementedError,
    RuntimeError,
    AssertionError,
    Warning,
)

_DTYPES: Final = {
    "torch.FloatStorage": torch.float32,
    "torch.DoubleStorage": torch.float64,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.float32": torch.float32,
    "torch.float64": torch.float64,
    "torch.float16": torch.float16,
    "torch.bfloat16": torch.bfloat16,
}
_UNTYPED: Final = "torch.storage.UntypedStorage"
_PARAMETER: Final = "torch._utils._rebuild_parameter"
_MAPPINGS: Final = ("collections.OrderedDict", "collections.defaultdict", "builtins.dict")

# The scalar with this name is a leftover that no part of the method reads.
_IGNORED_TENSORS: Final = frozenset({"attention_layer.IGNORE"})

# Which axis of which tensor shows a size. The other tensors are then checked against all sizes together.
_SIZE_SHOWN_BY: Final = {
    "n_heads": ("attention_layer.W_Q", 1, 3),
    "n_head_size": ("attention_layer.W_Q", 0, 3),
    "n_query_dim": ("attention_layer.W_Q", 2, 3),
    "n_kv_dim": ("attention_layer.W_K", 2, 3),
    "n_label_embed": ("ct_embed.weight", 1, 2),
    "n_query_embed_hidden": ("query_embed.nn.0.weight", 0, 2),
    "n_nn_embed": ("kv_embed.nn.0.weight", 1, 2),
    "n_nn_embed_hidden": ("nn_embed.nn.0.weight", 0, 2),
    "n_pos_coef_mlp_hidden": ("pos_coef_mlp.nn.0.weight", 0, 2),
}


@dataclass(frozen=True, slots=True)
class _View:
    """A tensor as the pickle describes it: a strided view of a storage, in items of `dtype`."""

    storage: str
    dtype: torch.dtype
    storage_size: int
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Item:
    """A value of an untrusted file, under the key by which messages name it.

    The methods return the value as the type that they are named for, or raise :class:`CheckpointError`.

    Parameters
    ----------
    file
        The file it came from.
    key
        Path of keys within the file, joined by ``/``; empty for the whole.
    value
        As JSON or a record give it.
    hint
        What the user can do where something is wrong.
    """

    file: Path
    key: str
    value: object
    hint: str

    def wrong(self, expected: str) -> CheckpointError:
        """Return the error that this is not what was `expected`."""
        what = repr(self.key) if self.key else "the whole"
        return CheckpointError(f"{self.file}: {what} must be {expected}. Got {shown(self.value)} instead. {self.hint}")

    def mapping(self) -> dict[str, object]:
        """Return the entries of a dict."""
        if type(self.value) is dict:
            return self.value
        call = call_of(self.value, *_MAPPINGS)
        if call is None:
            raise self.wrong("a dict")
        return call.entries or {}

    def __getitem__(self, name: str) -> Item:
        """Return an entry of a dict, which must be there."""
        entries = self.mapping()
        if name not in entries:
            known = [shorten(key) for key in islice(entries, 100)]
            holds = listing(known) or "nothing"
            raise CheckpointError(
                f"{self.file}: {self._below(name)!r} is missing; there is {holds}."
                f"{did_you_mean(name, known)} {self.hint}"
            )
        return self._entry(name, entries[name])

    def get(self, name: str) -> Item | None:
        """Return an entry of a dict, or None where it is absent or None."""
        value = self.mapping().get(name)
        return None if value is None else self._entry(name, value)

    def _entry(self, name: str, value: object) -> Item:
        return Item(self.file, self._below(name), value, self.hint)

    def _below(self, name: str) -> str:
        return f"{self.key}/{name}" if self.key else name

    def text(self) -> str:
        """Return a text that UTF-8 can hold, no longer than a name."""
        value = scalar_of(self.value)
        if not isinstance(value, str):
            raise self.wrong("a text")
        if len(value) > MAX_NAME_LENGTH:
            raise self.wrong(f"a text of at most {MAX_NAME_LENGTH} characters")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise self.wrong("a text without broken characters") from None
        return str(value)

    def integer(self, least: int, most: int) -> int:
        """Return an integer between `least` and `most`."""
        value = scalar_of(self.value)
        if isinstance(value, np.integer):
            value = int(value)
        if type(value) is not int or not least <= value <= most:
            raise self.wrong(f"an integer from {least} to {most}")
        return value

    def number(self) -> float:
        """Return a finite number."""
        value = scalar_of(self.value)
        if isinstance(value, np.integer | np.floating):
            value = value.item()
        if (type(value) is int and value.bit_length() <= 64) or (type(value) is float and math.isfinite(value)):
            return float(value)
        raise self.wrong("a finite number")

    def flag(self) -> bool:
        """Return true or false."""
        if type(self.value) is not bool:
            raise self.wrong("true or false")
        return self.value

    def items(self, per: str, count: int) -> Iterator[Item]:
        """Yield the items of a list or of an array with one axis: one per thing named, `count` in all."""
        values = self.value if type(self.value) is list else self._array(per, count)
        self._check_count(per, count, len(values))
        return (Item(self.file, f"{self.key}[{i}]", value, self.hint) for i, value in enumerate(values))

    def _check_count(self, per: str, count: int, found: int) -> None:
        if found != count:
            raise CheckpointError(
                f"{self.file}: {self.key!r} must hold one name per {per}, {count} in all. "
                f"Got {found} instead. {self.hint}"
            )
        if count > MAX_NAMES:
            raise CheckpointError(
                f"{self.file}: {self.key!r} must hold at most {MAX_NAMES} names, one per {per}. "
                f"Got {found} instead. {self.hint}"
            )

    def _array(self, per: str, wanted: int) -> list[object]:
        expected = "a list or an array with one axis"
        match call_of(self.value, ARRAY):
            case Call(state=(_, (int() as count,), dtype, _, data)):
                found = dtype_of(dtype)
                if found is None:
                    raise self.wrong(f"{expected}, of objects, texts or numbers")
                self._check_count(per, wanted, count)  # each item takes more memory than it does in the file
                items = numpy_items(found, data, count)
                if items is None:
                    raise self.wrong(f"{expected} whose data fit its declared length of {shown(count)}")
                return items
        raise self.wrong(expected)

    def names(self, count: int, per: str, *, numbers: bool = False) -> tuple[str, ...]:
        """Return names, each of which occurs once.

        Parameters
        ----------
        count
            How many there must be.
        per
            What there is one name for.
        numbers
            Whether a name may be a number, which then becomes text.
        """
        found = []
        for item in self.items(per, count):
            value = scalar_of(item.value)
            is_number = isinstance(value, int | float | np.number | np.bool_)
            if numbers and is_number and not (isinstance(value, int) and value.bit_length() > 64):
                found.append(str(value))
            else:
                found.append(item.text())
        repeated = [shorten(name) for name, times in Counter(found).items() if times > 1]
        if repeated:
            raise CheckpointError(
                f"{self.file}: the names in {self.key!r} must differ from each other. Repeated: {listing(repeated)}. "
                f"What is matched by name cannot be told apart. Rename them in the tissue and train again."
            )
        return tuple(found)

    def tensor(self) -> _View:
        """Return the description of a floating-point tensor, a view that stays within its storage."""
        value = self.value
        match call_of(value, _PARAMETER):
            case Call(arguments=(inner, *_)):
                value = inner
        match call_of(value, *TENSOR):
            case Call(arguments=(Storage() as storage, int() as offset, tuple() as shape, tuple() as stride, *rest)):
                pass
            case _:
                raise self.wrong("a tensor")
        # A storage without a type is followed by the tensor's own, after requires_grad and the hooks.
        kind = storage.kind
        if kind == _UNTYPED and len(rest) > 2 and type(rest[2]) is Global:
            kind = rest[2].path
        dtype = _DTYPES.get(kind)
        if dtype is None:
            raise CheckpointError(
                f"{self.file}: tensor {self.key!r} must hold floating-point numbers (32, 64 or 16 bits). "
                f"Got {shorten(kind)!r} instead. {self.hint}"
            )
        size = storage.size // dtype.itemsize if storage.kind == _UNTYPED else storage.size
        axes = [*shape, *stride]
        is_view = type(offset) is int and len(shape) == len(stride) <= 8  # to torch, true and false are no integers
        if not is_view or not all(type(n) is int and 0 <= n <= size for n in axes):
            raise self.wrong(f"a tensor whose shape fits its storage of {shown(size)} numbers")
        view = _View(storage.key, dtype, size, offset, tuple(map(int, shape)), tuple(map(int, stride)))
        numel = math.prod(view.shape)
        last = offset + sum((n - 1) * step for n, step in zip(view.shape, view.stride, strict=True))
        # Views that repeat their numbers (stride 0) could be of any size, whatever the file's.
        if offset < 0 or not 0 < numel <= size or last >= size:
            raise CheckpointError(
                f"{self.file}: tensor {self.key!r} of shape {view.shape} must lie within its storage of {size} "
                f"numbers, and hold some. {self.hint}"
            )
        return view


def _damaged(file: Path, what: str) -> str:
    return f"{file}: {what} cannot be read: the file is truncated or damaged, or not a checkpoint. {_HINT}"


@contextmanager
def _damage_named(file: Path, what: str) -> Iterator[None]:
    """Turn whatever reading raises into an error that names the file."""
    try:
        yield
    except CheckpointError:
        raise
    except _DAMAGE as error:
        raise CheckpointError(f"{_damaged(file, what)} ({type(error).__name__}: {shorten(str(error))})") from error


class _Stream(io.BufferedReader):
    """A file of which no more than `most` bytes are read at once: zipfile reads a directory of any size as a whole."""

    most: int | None = None

    def read(self, size: int | None = -1, /) -> bytes:
        """Return up to `size` bytes."""
        if size is not None and self.most is not None and size > self.most:
            raise ValueError(f"its directory declares {size} bytes, of {self.most} at most")
        return super().read(size)


class _Archive:
    """The entries of a ``model.pt``, each below one folder of any name.

    Parameters
    ----------
    file
        The archive.
    opened
        The same, open.
    """

    def __init__(self, file: Path, opened: zipfile.ZipFile) -> None:
        self._file, self._zip = file, opened
        entries = opened.infolist()
        roots = [entry.filename[: -len("data.pkl")] for entry in entries if entry.filename.endswith("/data.pkl")]
        if len(roots) != 1:
            raise CheckpointError(
                f"{file}: the archive must hold one entry 'data.pkl' in a folder, as torch.save writes it. "
                f"Got {len(roots)} among {len(entries)} entries instead. {_HINT}"
            )
        declared, on_disk = sum(entry.file_size for entry in entries), Path(file).stat().st_size
        if declared > max(ALWAYS_ALLOWED_BYTES, MAX_EXPANSION * on_disk):
            raise CheckpointError(
                f"{file}: the archive must not expand beyond {MAX_EXPANSION} times its size of {on_disk} bytes. "
                f"Its entries declare {declared} bytes: it is damaged, or made to exhaust the memory. {_HINT}"
            )
        self._root = roots[0]
        self._entries = {entry.filename: entry for entry in entries}
        if len(self._entries) != len(entries):
            raise CheckpointError(f"{file}: the archive must hold each entry once. Some are there twice. {_HINT}")
        byteorder = self.read("byteorder", 16) if f"{self._root}byteorder" in self._entries else b"little"
        if byteorder.strip() != b"little":
            raise CheckpointError(
                f"{file}: 'byteorder' must be 'little'. Got {shown(byteorder.decode('latin-1'))} instead. "
                "Write the checkpoint on a machine of the usual byte order (x86, ARM)."
            )

    def size(self, name: str) -> int | None:
        """Return the declared size of an entry in bytes; None where there is no such entry."""
        entry = self._entries.get(f"{self._root}{name}")
        return None if entry is None else entry.file_size

    def read(self, name: str, most: int) -> bytes:
        """Return an entry of at most `most` bytes."""
        entry = self._entries[f"{self._root}{name}"]
        if entry.file_size > most:
            raise CheckpointError(
                f"{self._file}: entry {name!r} must be at most {most} bytes. "
                f"Got {entry.file_size} bytes instead. {_HINT}"
            )
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others expand without a limit
            raise CheckpointError(
                f"{self._file}: entry {name!r} must be stored or deflated. "
                f"Got compression method {entry.compress_type} instead. {_HINT}"
            )
        with _damage_named(self._file, f"entry {name!r}"):
            content = self._zip.read(entry)  # checks the CRC; reads no more than the declared size
        if len(content) != entry.file_size:
            raise CheckpointError(
                f"{self._file}: entry {name!r} must hold the {entry.file_size} bytes that it declares. "
                f"Got {len(content)} bytes instead. {_HINT}"
            )
        return content


@dataclass(frozen=True)
class AmiciCheckpoint:
    """What an open checkpoint of amici-st says of its model.

    Attributes
    ----------
    file
        The ``model.pt``.
    shapes
        Shape of each tensor of the state dict.
    settings
        Sizes as the tensors show them; constants as the user set them, or their defaults.
    genes, cell_types
        Names in the order of the network's genes and labels.
    keys
        Keys of the tissue it was trained on.
    n_neighbors
        Neighbors per cell in training.
    read
        Reads the named tensor as float32, in memory of its own.
    """

    file: Path
    shapes: Mapping[str, tuple[int, ...]]
    settings: NetworkSettings
    genes: tuple[str, ...]
    cell_types: tuple[str, ...]
    keys: TissueKeys
    n_neighbors: int
    read: Callable[[str], Tensor]


@contextmanager
def open_amici_checkpoint(file: Path) -> Iterator[AmiciCheckpoint]:
    """Open a ``model.pt`` of amici-st. Nothing that it names is imported or run.

    Parameters
    ----------
    file
        The file itself.

    Yields
    ------
    AmiciCheckpoint
        Tensors can be read while the context lasts. Whether they are all there, and fit each other, is for the
        caller to check.

    Raises
    ------
    CheckpointError
        If the file is not such a checkpoint, is damaged, or declares sizes that contradict each other.
    """
    with _damage_named(file, "the archive"):
        with file.open("rb") as stream:
            start = stream.read(len(ZIP_MAGIC))
        if start != ZIP_MAGIC:
            raise CheckpointError(
                f"{file}: a checkpoint of amici-st must be a zip archive, as torch 1.6 or later writes it. "
                f"Got a file that starts with {start!r} instead. Save the model again with a newer torch, or check "
                "the path."
            )
        stream = _Stream(io.FileIO(file))
    with stream:
        with _damage_named(file, "the archive"):
            stream.most = MAX_DIRECTORY_BYTES
            opened = zipfile.ZipFile(stream)
            stream.most = None
            checkpoint = _interpret(file, _Archive(file, opened))
        yield checkpoint


def _interpret(file: Path, archive: _Archive) -> AmiciCheckpoint:
    """Read everything but the tensors' numbers."""
    pickled = archive.read("data.pkl", MAX_PICKLE_BYTES)
    with _damage_named(file, "entry 'data.pkl'"):
        root = Item(file, "", record(pickled), _HINT)

    state = root["model_state_dict"]
    views = {}
    if len(state.mapping()) > MAX_TENSORS:
        raise state.wrong(f"a dict of at most {MAX_TENSORS} tensors")
    for name in state.mapping():
        if name not in _IGNORED_TENSORS:
            views[name] = _stored(state[name], archive)
    shapes = {name: view.shape for name, view in views.items()}
    # A storage is read for each of its tensors, none of which is larger.
    taken = sum(max(4, view.dtype.itemsize) * view.storage_size for view in views.values())
    if taken > max(ALWAYS_ALLOWED_BYTES, MAX_EXPANSION * Path(file).stat().st_size):
        raise CheckpointError(
            f"{file}: the tensors must not share their storage so often that reading them takes {taken} bytes. {_HINT}"
        )

    attributes = root["attr_dict"]
    kwargs = attributes["init_params_"].get("kwargs")
    model_kwargs = None if kwargs is None else kwargs.get("model_kwargs")
    settings = _settings(file, shapes, model_kwargs)
    n_labels, n_genes = _axes(file, shapes, "ct_profiles", 2)
    setup, fields_ = attributes["registry_"]["setup_args"], attributes["registry_"]["field_registries"]
    radius_key, layer = setup.get("cell_radius_key"), setup.get("layer")
    labels = fields_["labels"]["state_registry"]["categorical_mapping"]

    def read(name: str) -> Tensor:
        view = views[name]
        raw = archive.read(f"data/{view.storage}", view.storage_size * view.dtype.itemsize)
        stored = torch.frombuffer(bytearray(raw), dtype=view.dtype)
        copy = torch.empty(view.shape, dtype=torch.float32)
        return copy.copy_(torch.as_strided(stored, view.shape, view.stride, view.offset))

    return AmiciCheckpoint(
        file=file,
        shapes=shapes,
        settings=settings,
        genes=root["var_names"].names(n_genes, "column of tensor 'ct_profiles'"),
        cell_types=labels.names(n_labels, "row of tensor 'ct_profiles'", numbers=True),
        keys=TissueKeys(
            labels_key=setup["labels_key"].text(),
            coord_key=setup["coord_obsm_key"].text(),
            radius_key=None if radius_key is None else radius_key.text(),
            layer=None if layer is None else layer.text(),
        ),
        n_neighbors=setup["n_neighbors"].integer(1, MAX_NEIGHBORS),
        read=read,
    )


def _stored(item: Item, archive: _Archive) -> _View:
    """Return the description of a tensor whose storage the archive holds, in just the declared size."""
    view = item.tensor()
    expected, found = view.storage_size * view.dtype.itemsize, archive.size(f"data/{view.storage}")
    if found != expected:
        came = "no such entry" if found is None else f"{found} bytes"
        raise CheckpointError(
            f"{item.file}: the storage of tensor {shorten(item.key)!r}, entry 'data/{shorten(view.storage)}', "
            f"must be of {expected} bytes. Got {came} instead. {item.hint}"
        )
    return view


def _axes(file: Path, shapes: Mapping[str, tuple[int, ...]], name: str, n_axes: int) -> tuple[int, ...]:
    """Return the shape of a tensor from which sizes are read."""
    if name not in shapes:
        known = [shorten(key) for key in islice(shapes, 100)]
        raise CheckpointError(
            f"{file}: tensor {name!r} is missing from 'model_state_dict', which holds {listing(known) or 'nothing'}."
            f"{did_you_mean(name, known)} {_HINT}"
        )
    if len(shapes[name]) != n_axes:
        raise CheckpointError(
            f"{file}: tensor {name!r} must have {n_axes} axes. Got shape {shapes[name]} instead. {_HINT}"
        )
    return shapes[name]


def _settings(file: Path, shapes: Mapping[str, tuple[int, ...]], model_kwargs: Item | None) -> NetworkSettings:
    """Return the sizes that the tensors show and the constants that the user set."""
    found: dict[str, float] = asdict(NetworkSettings())
    for name, (tensor, axis, n_axes) in _SIZE_SHOWN_BY.items():
        found[name] = _axes(file, shapes, tensor, n_axes)[axis]
    for field in fields(NetworkSettings):
        given = None if model_kwargs is None else model_kwargs.get(field.name)
        if given is None:
            continue
        if field.name not in _SIZE_SHOWN_BY:
            found[field.name] = given.number()
        elif given.number() != found[field.name]:
            tensor, axis, _ = _SIZE_SHOWN_BY[field.name]
            raise CheckpointError(
                f"{file}: '{_MODEL_KWARGS}/{field.name}' must be {found[field.name]}, the length of axis {axis} of "
                f"tensor {tensor!r}, whose shape is {shapes[tensor]}. Got {shown(given.value)} instead. {_HINT}"
            )
    try:
        return NetworkSettings(**found)  # type: ignore[arg-type]  # sizes are read off shapes, which are integers
    except ParameterError as error:
        raise CheckpointError(f"{file}: in '{_MODEL_KWARGS}', {error} {_HINT}") from error
