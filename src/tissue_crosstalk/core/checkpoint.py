"""Models on disk: our own folders, and those of amici-st.

A model folder holds ``model.safetensors`` (the weights) and ``model.json`` (what gives them a meaning). Neither can
hold code. Folders of amici-st (``model.pt``) are only read (see :mod:`tissue_crosstalk.core.amici_checkpoint`).
Whatever the format, the same checks stand between a file and a network.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final, NoReturn

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.overrides import TorchFunctionMode

from tissue_crosstalk import __version__
from tissue_crosstalk.core.amici_checkpoint import (
    MAX_NEIGHBORS,
    ZIP_MAGIC,
    Item,
    open_amici_checkpoint,
)
from tissue_crosstalk.core.errors import CheckpointError, ParameterError, did_you_mean, listing
from tissue_crosstalk.core.files import whole_folder
from tissue_crosstalk.core.model import CrosstalkModel, Origin, Preprocessing, TissueKeys
from tissue_crosstalk.core.network import CrossAttentionNetwork
from tissue_crosstalk.core.network_settings import NetworkSettings
from tissue_crosstalk.core.pickle_records import shorten

WEIGHTS_FILE: Final = "model.safetensors"
DESCRIPTION_FILE: Final = "model.json"
AMICI_FILE: Final = "model.pt"

FORMAT: Final = "tissue-crosstalk model"
FORMAT_VERSION: Final = 1

_KEYS: Final = (
    "format",
    "format_version",
    "package_version",
    "origin",
    "network",
    "keys",
    "n_neighbors",
    "preprocessing",
    "cell_types",
    "genes",
)

MAX_AXIS: Final = 2**24  # of any size of a network: products of two stay far from an overflow
MAX_DESCRIPTION_BYTES: Final = 8 * 2**20  # of 250 000 genes; parsed, lists and the like take 25 times as much
MAX_HEADER_BYTES: Final = 2**20  # of the weights; a network has some 60 tensors, of 100 bytes each

_EXPECTED: Final = (
    f"a folder with {WEIGHTS_FILE!r} and {DESCRIPTION_FILE!r} (tissue-crosstalk) or with {AMICI_FILE!r} (amici-st)"
)
_LOAD_HINT: Final = "Copy the folder again, or train the model again."
_SAVE_HINT: Final = "Nothing was saved."
_PROFILES: Final = "ct_profiles"  # (label, gene), the tensor against which names are counted


@dataclass(frozen=True)
class _Description:
    """All of a model but its weights."""

    settings: NetworkSettings
    genes: tuple[str, ...]
    cell_types: tuple[str, ...]
    keys: TissueKeys
    n_neighbors: int
    preprocessing: Preprocessing
    origin: Origin


def load_model(path: str | os.PathLike[str]) -> CrosstalkModel:
    """Load a model that this package or amici-st wrote.

    Parameters
    ----------
    path
        The model's folder, or one of the files in it. Which format it is of is told by what is there.

    Returns
    -------
    CrosstalkModel
        With its network in evaluation mode, on the CPU, without gradients.

    Raises
    ------
    CheckpointError
        If there is no model at `path`, or it is incomplete, damaged, or contradicts itself.

    Examples
    --------
    >>> from tissue_crosstalk import load_model, save_model
    >>> save_model(model, tmp_path / "model")
    >>> load_model(tmp_path / "model").genes == model.genes
    True
    """
    place = Path(path)
    try:
        amici_file = _amici_file(place)
        return _load_own(place if place.is_dir() else place.parent) if amici_file is None else _load_amici(amici_file)
    except OSError as error:
        raise CheckpointError(
            f"{place}: the model cannot be read: {error}. Check the path and its permissions."
        ) from error


def save_model(model: CrosstalkModel, path: str | os.PathLike[str]) -> None:
    """Save a model as a folder, whole or not at all.

    Parameters
    ----------
    model
        A model of either origin. Its tissue, where it has one, is not saved.
    path
        The folder. One that :func:`save_model` wrote before is replaced, after the new one is complete; an empty one
        is filled; nothing else is ever overwritten.

    Raises
    ------
    CheckpointError
        If something else is at `path`, the folder cannot be written, or the model would not load again.

    Examples
    --------
    >>> from tissue_crosstalk import save_model
    >>> save_model(model, tmp_path / "model")
    >>> sorted(file.name for file in (tmp_path / "model").iterdir())
    ['model.json', 'model.safetensors']
    """
    folder = Path(os.path.realpath(path))  # behind a symbolic link, what it points to is replaced
    text, tensors = _checked(model, folder)
    with _disk_errors(folder):
        _refuse_to_overwrite(folder)
        with whole_folder(folder) as complete:
            (complete / DESCRIPTION_FILE).write_text(text, encoding="utf-8")
            save_file(tensors, complete / WEIGHTS_FILE)
            # safetensors makes files that only their owner can read.
            shutil.copymode(complete / DESCRIPTION_FILE, complete / WEIGHTS_FILE)
            for name in (DESCRIPTION_FILE, WEIGHTS_FILE):
                _flush(complete / name)
            _refuse_to_overwrite(folder)  # again: writing takes time, and what came meanwhile is not ours to replace


def _amici_file(place: Path) -> Path | None:
    """Return the ``model.pt`` that `place` is or holds, or None where it is or holds a model of ours."""
    if place.is_dir():
        found = {name for name in (WEIGHTS_FILE, DESCRIPTION_FILE, AMICI_FILE) if (place / name).is_file()}
        if found == {AMICI_FILE}:
            return place / AMICI_FILE
        if found == {WEIGHTS_FILE, DESCRIPTION_FILE}:
            return None
        if AMICI_FILE in found:
            raise CheckpointError(
                f"{place}: a model must be {_EXPECTED}. Got {listing(sorted(found))} instead, which is both. "
                "Pass the path of the file that you mean."
            )
        came = listing(sorted(entry.name for entry in place.iterdir())) or "an empty folder"
        raise CheckpointError(f"{place}: a model must be {_EXPECTED}. Got {came} instead. Check the path.")
    if not place.exists():
        siblings = [entry.name for entry in place.parent.iterdir()] if place.parent.is_dir() else []
        raise CheckpointError(
            f"{place}: a model must be {_EXPECTED}. Got a path where nothing exists instead."
            f"{did_you_mean(place.name, siblings)} Check the path."
        )
    if place.is_file():
        if place.name in (WEIGHTS_FILE, DESCRIPTION_FILE):
            return None
        with place.open("rb") as stream:
            if place.name == AMICI_FILE or stream.read(len(ZIP_MAGIC)) == ZIP_MAGIC:
                return place
    raise CheckpointError(f"{place}: a model must be {_EXPECTED}. Got something else instead. Check the path.")


def _load_amici(file: Path) -> CrosstalkModel:
    with open_amici_checkpoint(file) as checkpoint:
        description = _Description(
            settings=checkpoint.settings,
            genes=checkpoint.genes,
            cell_types=checkpoint.cell_types,
            keys=checkpoint.keys,
            n_neighbors=checkpoint.n_neighbors,
            preprocessing=Preprocessing(log_normalised=True),  # amici-st takes expression as it is
            origin="amici-st",
        )
        return _assembled(file, description, checkpoint.shapes, checkpoint.read)


def _load_own(folder: Path) -> CrosstalkModel:
    description_file, weights_file = folder / DESCRIPTION_FILE, folder / WEIGHTS_FILE
    for file in (description_file, weights_file):
        if not file.is_file():
            raise CheckpointError(f"{folder}: a model must be {_EXPECTED}. There is no {file.name!r}. {_LOAD_HINT}")
    described = Item(description_file, "", _json(description_file), _LOAD_HINT)
    with _safetensors_errors(weights_file):
        _check_header(weights_file)
    with _safetensors_errors(weights_file), safe_open(weights_file, framework="pt") as weights:
        shapes = {}
        for name in weights.keys():  # noqa: SIM118  # not a mapping
            tensor = weights.get_slice(name)
            if tensor.get_dtype() != "F32":
                raise CheckpointError(
                    f"{weights_file}: tensor {shorten(name)!r} must be of dtype 'F32'. "
                    f"Got {tensor.get_dtype()!r} instead. {_LOAD_HINT}"
                )
            shapes[name] = tuple(tensor.get_shape())
        # Copies, since the file is only mapped: it may be replaced or cut while the model lives.
        return _assembled(
            weights_file, _read_description(described, shapes), shapes, lambda name: weights.get_tensor(name).clone()
        )


def _check_header(file: Path) -> None:
    """Refuse weights whose header says things twice, or is longer than that of any network.

    Of two entries of a name, safetensors takes the last; and it reads 100 MB of header into many times that.
    """
    with file.open("rb") as stream:
        start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if length > MAX_HEADER_BYTES:
            raise CheckpointError(
                f"{file}: the header of the weights must be of at most {MAX_HEADER_BYTES} bytes. It declares {length}: "
                f"the file is damaged, or is something else. {_LOAD_HINT}"
            )
        header = stream.read(length)
    try:
        _parsed(header)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{file}: the weights cannot be read: the file is truncated or damaged: its header is no JSON "
            f"({shorten(str(error))}). {_LOAD_HINT}"
        ) from error


def _parsed(content: bytes) -> object:
    """Return the value of JSON. Refused are numbers that JSON does not know (NaN), and keys that are there twice."""

    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is no JSON number")

    def only_once(pairs: list[tuple[str, object]]) -> dict[str, object]:
        entries = dict(pairs)
        if len(entries) < len(pairs):
            repeated = [shorten(key) for key, times in Counter(key for key, _ in pairs).items() if times > 1]
            raise ValueError(f"there twice: {listing(repeated, most=2)}")
        return entries

    return json.loads(content, parse_constant=refuse, object_pairs_hook=only_once)


def _json(file: Path) -> object:
    """Return what a JSON file holds."""
    with file.open("rb") as stream:
        content = stream.read(MAX_DESCRIPTION_BYTES + 1)
    if len(content) > MAX_DESCRIPTION_BYTES:
        raise CheckpointError(
            f"{file}: a description must be at most {MAX_DESCRIPTION_BYTES} bytes. Got more. {_LOAD_HINT}"
        )
    try:
        return _parsed(content)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{file}: the file must be JSON, as save_model writes it. It cannot be parsed "
            f"({shorten(str(error))}). {_LOAD_HINT}"
        ) from error


def _read_description(root: Item, shapes: Mapping[str, tuple[int, ...]]) -> _Description:
    """Check and return what ``model.json`` says of weights of these shapes."""
    if root["format"].value != FORMAT:
        raise root["format"].wrong(repr(FORMAT))
    version = root["format_version"]
    if version.integer(1, 10**6) != FORMAT_VERSION:
        raise CheckpointError(
            f"{root.file}: 'format_version' must be {FORMAT_VERSION}. Got {version.value} instead: a newer "
            f"tissue-crosstalk wrote this model. Upgrade the package (this is {__version__})."
        )
    _only(root, *_KEYS)
    profiles = shapes.get(_PROFILES, ())
    if len(profiles) != 2:
        raise CheckpointError(
            f"{root.file.with_name(WEIGHTS_FILE)}: tensor {_PROFILES!r} must be there and have 2 axes. "
            f"Got {profiles or 'none'} instead. {root.hint}"
        )
    root["package_version"].text()
    origin: Origin
    match root["origin"].text():
        case "tissue-crosstalk":
            origin = "tissue-crosstalk"
        case "amici-st":
            origin = "amici-st"
        case _:
            raise root["origin"].wrong("'tissue-crosstalk' or 'amici-st'")
    keys, preprocessing = root["keys"], root["preprocessing"]
    _only(keys, *(field.name for field in fields(TissueKeys)))
    _only(preprocessing, *(field.name for field in fields(Preprocessing)))
    target_sum = preprocessing.get("target_sum")
    if target_sum is not None and target_sum.number() <= 0:
        raise target_sum.wrong("a positive number or null")
    return _Description(
        settings=_read_settings(root["network"]),
        genes=root["genes"].names(profiles[1], f"column of tensor {_PROFILES!r}"),
        cell_types=root["cell_types"].names(profiles[0], f"row of tensor {_PROFILES!r}"),
        keys=TissueKeys(
            labels_key=keys["labels_key"].text(),
            coord_key=keys["coord_key"].text(),
            section_key=_optional_text(keys, "section_key"),
            radius_key=_optional_text(keys, "radius_key"),
            layer=_optional_text(keys, "layer"),
        ),
        n_neighbors=root["n_neighbors"].integer(1, MAX_NEIGHBORS),
        preprocessing=Preprocessing(
            log_normalised=preprocessing["log_normalised"].flag(),
            target_sum=None if target_sum is None else target_sum.number(),
        ),
        origin=origin,
    )


def _read_settings(network: Item) -> NetworkSettings:
    names = [field.name for field in fields(NetworkSettings)]
    _only(network, *names)
    given: dict[str, Any] = {
        name: network[name].integer(1, MAX_AXIS) if name.startswith("n_") else network[name].number() for name in names
    }
    try:
        return NetworkSettings(**given)
    except ParameterError as error:
        raise CheckpointError(f"{network.file}: in 'network', {error} {network.hint}") from error


def _only(item: Item, *known: str) -> None:
    """Refuse keys that mean nothing to this version: they are misspelt, or of another format."""
    unknown = [key for key in item.mapping() if key not in known]
    if unknown:
        where = f" in {item.key!r}" if item.key else ""
        raise CheckpointError(
            f"{item.file}: the keys{where} must be of {listing(known, most=20)}. "
            f"Got {listing(list(map(shorten, unknown)))} too.{did_you_mean(shorten(unknown[0]), known)} {item.hint}"
        )


def _optional_text(item: Item, name: str) -> str | None:
    return None if item[name].value is None else item[name].text()


def _assembled(
    file: Path,
    description: _Description,
    shapes: Mapping[str, tuple[int, ...]],
    read: Callable[[str], Tensor],
) -> CrosstalkModel:
    """Return the model, once its tensors fit the description and hold finite numbers.

    Parameters
    ----------
    file
        Where the tensors come from.
    description
        All but the tensors.
    shapes
        Shapes of the tensors that the file holds.
    read
        Reads one of them, float32.
    """
    network = _empty_network(file, description, _LOAD_HINT)
    _check_shapes(file, network, shapes)
    tensors = {name: read(name) for name in shapes}
    _check_finite(file, tensors, _LOAD_HINT)
    network.load_state_dict(tensors, strict=True, assign=True)
    network.requires_grad_(False).eval()
    return CrosstalkModel(
        network=network,
        genes=description.genes,
        cell_types=description.cell_types,
        keys=description.keys,
        n_neighbors=description.n_neighbors,
        preprocessing=description.preprocessing,
        origin=description.origin,
    )


class _NoInitialWeights(TorchFunctionMode):
    """Leave out the drawing of initial weights: without memory there is nothing to draw, yet it takes seconds."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        given = kwargs or {}
        # The initialisers of torch.nn hand themselves over with their arguments by name.
        if getattr(func, "__module__", None) == "torch.nn.init" and "tensor" in given:
            return given["tensor"]
        return func(*args, **given)


def _empty_network(file: Path, description: _Description, hint: str) -> CrossAttentionNetwork:
    """Return a network that has shapes but no memory."""
    n_genes, n_labels = len(description.genes), len(description.cell_types)
    sizes = {name: size for name, size in asdict(description.settings).items() if name.startswith("n_")}
    for name, size in {"number of genes": n_genes, "number of cell types": n_labels, **sizes}.items():
        if not 1 <= size <= MAX_AXIS:
            raise CheckpointError(f"{file}: the {name} must be from 1 to {MAX_AXIS}. Got {size} instead. {hint}")
    try:
        with torch.device("meta"), _NoInitialWeights():
            return CrossAttentionNetwork(n_genes, n_labels, description.settings)
    except RuntimeError as error:  # of three sizes, the product can be beyond any memory
        raise CheckpointError(
            f"{file}: the sizes of the network must be those of its tensors. They are {sizes}, of which no tensor can "
            f"be ({shorten(str(error))}). {hint}"
        ) from error


def _check_shapes(file: Path, network: CrossAttentionNetwork, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise an error that names each tensor that is missing, unknown or of another shape."""
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    missing = [name for name in expected if name not in shapes]
    unknown = [shorten(name) for name in shapes if name not in expected]
    reshaped = [
        f"{name!r} must be {expected[name]}, came {shapes[name]}"
        for name in expected
        if name in shapes and shapes[name] != expected[name]
    ]
    found = []
    if missing:
        found.append(f"Missing: {listing(missing)}.")
    if unknown:
        found.append(f"Unknown: {listing(unknown)}.{did_you_mean(unknown[0], missing)}")
    if reshaped:
        found.append(f"Of another shape: {'; '.join(reshaped[:8])}{' and more' if len(reshaped) > 8 else ''}.")
    if found:
        raise CheckpointError(
            f"{file}: the tensors must be those of a network of {network.n_genes} genes, {network.n_labels} cell types "
            f"and {network.settings.n_heads} heads. {' '.join(found)} {_LOAD_HINT}"
        )


def _check_finite(file: Path, tensors: Mapping[str, Tensor], hint: str) -> None:
    broken = [name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]
    if broken:
        raise CheckpointError(
            f"{file}: all weights must be finite numbers. There are NaN or infinite ones in {listing(broken)}: the "
            f"training diverged, or the file is damaged. {hint}"
        )


def _checked(model: CrosstalkModel, folder: Path) -> tuple[str, dict[str, Tensor]]:
    """Return the text of the description and the weights, once they pass the checks that loading makes."""
    try:
        text = json.dumps(_described(model), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"{folder}: a model must hold plain texts and finite numbers besides its weights. Got one that JSON cannot "
            f"hold ({error}). {_SAVE_HINT}"
        ) from error
    if len(text.encode(errors="replace")) > MAX_DESCRIPTION_BYTES:
        raise CheckpointError(
            f"{folder}: what describes a model must take at most {MAX_DESCRIPTION_BYTES} bytes. The names of "
            f"{len(model.genes)} genes and {len(model.cell_types)} cell types take more. {_SAVE_HINT}"
        )
    tensors = {}
    for name, tensor in model.network.state_dict().items():
        if tensor.dtype != torch.float32:
            raise CheckpointError(
                f"{folder}: tensor {name!r} must be of dtype torch.float32. Got {tensor.dtype} instead. {_SAVE_HINT}"
            )
        tensors[name] = tensor.detach().cpu().contiguous()
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    _read_description(Item(folder / DESCRIPTION_FILE, "", json.loads(text), _SAVE_HINT), shapes)
    _check_finite(folder, tensors, _SAVE_HINT)
    return text, tensors


def _described(model: CrosstalkModel) -> dict[str, object]:
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "package_version": __version__,
        "origin": model.origin,
        "network": asdict(model.network.settings),
        "keys": asdict(model.keys),
        "n_neighbors": model.n_neighbors,
        "preprocessing": asdict(model.preprocessing),
        "cell_types": list(model.cell_types),
        "genes": list(model.genes),
    }


def _refuse_to_overwrite(folder: Path) -> None:
    """Raise unless nothing is lost when `folder` is replaced by a model."""
    if not os.path.lexists(folder):
        return
    if not folder.is_dir():
        came = "a file"
    else:
        names = sorted(entry.name for entry in folder.iterdir())
        if not names or (names == sorted((WEIGHTS_FILE, DESCRIPTION_FILE)) and _says_ours(folder / DESCRIPTION_FILE)):
            return
        came = f"a folder with {listing(names)}"
    raise CheckpointError(
        f"{folder}: only a folder that save_model wrote, and nothing was added to, is replaced. Got {came} instead. "
        "Nothing was saved or changed: choose another path, or move what is there."
    )


def _says_ours(file: Path) -> bool:
    try:
        described = _json(file)
    except CheckpointError:
        return False
    return isinstance(described, dict) and described.get("format") == FORMAT


def _flush(file: Path) -> None:
    """Wait until a file is on the disk, so that no crash leaves the folder in place but its files empty."""
    with file.open("rb+") as stream:
        os.fsync(stream.fileno())


@contextmanager
def _safetensors_errors(file: Path) -> Iterator[None]:
    """Turn what reading safetensors raises into an error that names the file."""
    try:
        yield
    except CheckpointError:
        raise
    except (SafetensorError, ValueError, RuntimeError, OSError) as error:
        raise CheckpointError(
            f"{file}: the weights cannot be read: the file is truncated or damaged "
            f"({shorten(str(error))}). {_LOAD_HINT}"
        ) from error


@contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    """Turn what writing raises into an error that names the folder."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{folder}: the model cannot be written: {error}. What was there before is unchanged. "
            "Check the path, its permissions and the space on the disk."
        ) from error
