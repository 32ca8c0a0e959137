"""A training that was interrupted, on disk, to go on from its last epoch.

One safetensors file: it holds tensors and JSON, so reading it runs nothing.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tissue_crosstalk import __version__
from tissue_crosstalk.core.errors import TrainingError, is_number
from tissue_crosstalk.core.files import whole_file

if TYPE_CHECKING:
    import torch

    from tissue_crosstalk.core.neighbors import Neighbors
    from tissue_crosstalk.core.network import CrossAttentionNetwork
    from tissue_crosstalk.core.network_settings import NetworkSettings
    from tissue_crosstalk.core.tissue import PreparedTissue
    from tissue_crosstalk.core.training_settings import TrainingSettings

logger = logging.getLogger(__name__)

FORMAT: Final = "tissue-crosstalk training 1"
RECORD: Final = frozenset(
    {
        "epoch",
        "train_loss",
        "train_reconstruction",
        "train_entropy",
        "train_value_l1",
        "validation_reconstruction",
        "validation_explained",
        "attention_penalty",
        "learning_rate",
    }
)
"""What an epoch leaves in the history."""
RECORD_OF_CELLS: Final = frozenset({"validation_cells_reconstruction", "validation_cells_explained"})
"""What it leaves beside that where both kinds of cells are held out."""

_NETWORK: Final = "network."
_BEST: Final = "best."
_OPTIMIZER: Final = "optimizer."


@dataclass(frozen=True)
class TrainingProgress:
    """What an interrupted training needs beside the network and the optimiser, which are restored in place.

    Attributes
    ----------
    history
        One record per finished epoch.
    best_weights
        Weights of the best epoch so far, by name.
    reference
        Validation before training, by name.
    """

    history: list[dict[str, float]]
    best_weights: dict[str, torch.Tensor]
    reference: dict[str, float]


@dataclass(frozen=True)
class TrainingCheckpoint:
    """The file that keeps a training's last epoch.

    Attributes
    ----------
    path
        Need not exist. Its folder is made when the first epoch is written.
    """

    path: Path

    def write(
        self,
        fingerprint: str,
        network: CrossAttentionNetwork,
        optimizer: torch.optim.Optimizer,
        progress: TrainingProgress,
    ) -> None:
        """Replace what the file keeps, whole or not at all.

        Raises
        ------
        TrainingError
            If the file cannot be written.
        """
        from safetensors.torch import save_file

        tensors = {_NETWORK + name: tensor for name, tensor in network.state_dict().items()}
        tensors |= {_BEST + name: tensor for name, tensor in progress.best_weights.items()}
        for number, state in optimizer.state_dict()["state"].items():
            tensors |= {f"{_OPTIMIZER}{number}.{name}": tensor for name, tensor in state.items()}
        metadata = {
            "format": FORMAT,
            "fingerprint": fingerprint,
            "history": json.dumps(progress.history),
            "reference": json.dumps(progress.reference),
        }
        try:
            with whole_file(self.path) as unfinished:
                # Copies on the CPU: safetensors refuses tensors that share memory.
                save_file(
                    {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}, unfinished, metadata
                )
                with unfinished.open("rb") as file:  # on disk before it takes the place of the epoch before
                    os.fsync(file.fileno())
        except Exception as error:  # safetensors has errors of its own for a full disk
            raise TrainingError(
                f"{self.path}: the last epoch cannot be written: {error}. Make room or give the folder write "
                "permission; training goes on from the epoch before."
            ) from error

    def read(
        self,
        fingerprint: str,
        network: CrossAttentionNetwork,
        optimizer: torch.optim.Optimizer,
        *,
        both: bool,
    ) -> TrainingProgress | None:
        """Restore network and optimiser from the file, and return the rest; None where there is nothing to go on from.

        A checkpoint of another training (data, settings, seed or version) is set aside; one whose content makes no
        sense is passed over. Either is warned of.

        Parameters
        ----------
        fingerprint
            From :func:`training_fingerprint`.
        network, optimizer
            To restore; left as they are where there is nothing to go on from.
        both
            Whether both kinds of cells are held out, so that an epoch's record tells of both.

        Raises
        ------
        TrainingError
            If the file is not a training checkpoint: it is somebody's, and must not be overwritten.
        """
        from safetensors import SafetensorError, safe_open

        if not self.path.exists():
            return None
        device = network.device
        try:
            with safe_open(self.path, framework="pt") as file:
                metadata = file.metadata() or {}
                # Copies: the tensors would stay mapped onto the file, which the next epoch replaces.
                tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118  # not a mapping
        except (SafetensorError, OSError) as error:
            raise TrainingError(self._not_ours(str(error))) from error
        if metadata.get("format") != FORMAT:
            raise TrainingError(self._not_ours(f"its format is {metadata.get('format')!r}"))
        if metadata.get("fingerprint") != fingerprint:
            logger.warning(
                "%s keeps an interrupted training of other data, settings, seed or version: it is set aside as %s, and "
                "training starts anew",
                self.path,
                self._aside.name,
            )
            self.path.replace(self._aside)
            return None
        try:
            history = _checked_history(json.loads(metadata["history"]), both=both)
            reference = _checked_reference(json.loads(metadata["reference"]), both=both)
            expected = network.state_dict()
            weights, best = (_part(tensors, prefix, expected) for prefix in (_NETWORK, _BEST))
            state = _optimizer_state(tensors, list(network.parameters()))
        except (ValueError, KeyError, TypeError, RuntimeError, OverflowError) as error:
            logger.warning("%s is damaged (%s): training starts anew, and takes its place", self.path, error)
            return None
        network.load_state_dict(weights)
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
        logger.info("training goes on after epoch %d, which %s kept", len(history) - 1, self.path)
        return TrainingProgress(history, {name: tensor.to(device) for name, tensor in best.items()}, reference)

    @property
    def _aside(self) -> Path:
        return self.path.with_name(f"{self.path.stem}.previous{self.path.suffix}")

    def _not_ours(self, found: str) -> str:
        return (
            f"{self.path} is not a training checkpoint ({found}), and is left as it is. Expected the file of an "
            "interrupted training, or none; name another file, or delete this one."
        )

    def clear(self) -> None:
        """Delete the file, if there is one."""
        self.path.unlink(missing_ok=True)
        # What a process that was killed while it wrote an epoch has left.
        for unfinished in self.path.parent.glob(f".*.unfinished{self.path.suffix}"):
            unfinished.unlink(missing_ok=True)


def training_fingerprint(
    tissue: PreparedTissue,
    neighbors: Neighbors,
    network_settings: NetworkSettings,
    settings: TrainingSettings,
    seed: int,
) -> str:
    """Return a hash of all that decides what an epoch comes to, but for the machine it runs on."""
    import torch

    described = {
        "package": __version__,
        "torch": torch.__version__,
        "seed": seed,
        "network": asdict(network_settings),
        "settings": {name: value for name, value in asdict(settings).items() if name not in _free(settings)},
        "genes": list(tissue.genes),
        "cell_types": list(tissue.cell_types),
    }
    digest = hashlib.blake2b(json.dumps(described, sort_keys=True).encode(), digest_size=16)
    x = tissue.expression
    for array in (x.data, x.indices, x.indptr, tissue.labels, tissue.coordinates, tissue.sections, *_arrays(neighbors)):
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).view(np.uint8).data)
    return digest.hexdigest()


def _free(settings: TrainingSettings) -> set[str]:
    """Return the settings that change no epoch, only where it is computed and how many there are."""
    return {"device", "patience"} | ({"max_epochs"} if settings.learning_rate_schedule == "constant" else set())


def _arrays(neighbors: Neighbors) -> tuple[np.ndarray, np.ndarray]:
    return neighbors.idx, neighbors.dist


def _checked_history(history: Any, *, both: bool) -> list[dict[str, float]]:
    expected = RECORD | RECORD_OF_CELLS if both else RECORD
    if not isinstance(history, list) or not history:
        raise ValueError("its history is no list of epochs")
    for epoch, record in enumerate(history):
        finite = isinstance(record, dict) and all(is_number(value) for value in record.values())
        if not finite or record.keys() != expected or record["epoch"] != epoch:
            raise ValueError(f"its history has no record of epoch {epoch}")
    return history


def _checked_reference(reference: Any, *, both: bool) -> dict[str, float]:
    expected = {"untrained", "type_means"} | ({"type_means_cells"} if both else set())
    if not isinstance(reference, dict) or reference.keys() != expected or not all(map(is_number, reference.values())):
        raise ValueError(f"its reference has no {' or '.join(sorted(expected))}")
    return {name: float(value) for name, value in reference.items()}


def _part(tensors: Mapping[str, Any], prefix: str, expected: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    import torch

    part = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    for name, tensor in expected.items():
        found = part.get(name)
        if found is None or found.shape != tensor.shape or found.dtype != tensor.dtype:
            raise ValueError(f"tensor {prefix}{name} is missing or of another shape")
        if not bool(torch.isfinite(found).all()):
            raise ValueError(f"tensor {prefix}{name} is not finite")
    if len(part) > len(expected):
        raise ValueError(f"there are more tensors under {prefix} than the network has")
    return part


def _optimizer_state(
    tensors: Mapping[str, torch.Tensor], parameters: Sequence[torch.Tensor]
) -> dict[int, dict[str, torch.Tensor]]:
    state = {}
    for number, parameter in enumerate(parameters):
        prefix = f"{_OPTIMIZER}{number}."
        step = tensors[prefix + "step"]
        if step.numel() != 1 or not float(step) >= 1:
            raise ValueError(f"tensor {prefix}step is no number of steps")
        expected = {"exp_avg": parameter, "exp_avg_sq": parameter, "step": step}
        state[number] = _part(tensors, prefix, expected)
        if float(state[number]["exp_avg_sq"].min()) < 0:
            raise ValueError(f"tensor {prefix}exp_avg_sq has negative squares")
    return state
