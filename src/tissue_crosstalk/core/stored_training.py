"""The model of a study: trained, or taken as it is where this very training is finished already."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd
import pyarrow as pa

from tissue_crosstalk.core.devices import choose_device
from tissue_crosstalk.core.errors import CheckpointError
from tissue_crosstalk.core.model_input import from_anndata
from tissue_crosstalk.core.repeated_warnings import collected, tell

if TYPE_CHECKING:
    from anndata import AnnData

    from tissue_crosstalk.core.files import Workspace
    from tissue_crosstalk.core.model import CrosstalkModel
    from tissue_crosstalk.core.network_settings import NetworkSettings
    from tissue_crosstalk.core.training_checkpoint import TrainingCheckpoint
    from tissue_crosstalk.core.training_settings import TrainingSettings

logger = logging.getLogger(__name__)

MODEL_FOLDER: Final = "model"
HISTORY_FILE: Final = "training_history.parquet"
TRAINED_FROM: Final = "trained_from"
WEIGHTS: Final = "weights"
WARNED: Final = "warned"


def train_stored_model(
    model_input: AnnData,
    network_settings: NetworkSettings,
    settings: TrainingSettings,
    workspace: Workspace,
    *,
    seed: int,
    checkpoint: TrainingCheckpoint | None = None,
    progress: bool = True,
) -> tuple[CrosstalkModel, pd.DataFrame]:
    """Train a model of a model input, unless the study has it.

    Parameters
    ----------
    model_input
        See :mod:`~tissue_crosstalk.core.model_input`.
    network_settings, settings, seed, checkpoint, progress
        See :func:`~tissue_crosstalk.core.training.train_model`, also for what is returned and for the errors.
    workspace
        Folder of the study's model and of its history, which says in its ``attrs`` what the model was trained from, and
        the hash of its weights. Where all that is the same, nothing is trained.
    """
    from tissue_crosstalk.core import training
    from tissue_crosstalk.core.training_checkpoint import training_fingerprint

    tissue, neighbors = from_anndata(model_input)
    made = {
        "training": training_fingerprint(tissue, neighbors, network_settings, settings, seed),
        "tissue": [asdict(tissue.keys), asdict(tissue.preprocessing), tissue.section_names],
        "settings": {**asdict(settings), "device": choose_device(settings.device).type},
    }
    trained_from = hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()
    found = _found(workspace, trained_from)
    if found is not None:
        tell(logger, found[1].attrs.get(WARNED, []))
        logger.info(
            "%s was trained from this very input, with these settings and this seed, and is used again. Delete it to "
            "train anew.",
            workspace.place(MODEL_FOLDER),
        )
        return found
    with collected(training.logger) as warned:
        model, history = training.train_model(
            tissue, neighbors, network_settings, settings, seed=seed, checkpoint=checkpoint, progress=progress
        )
    history.attrs |= {TRAINED_FROM: trained_from, WEIGHTS: _weights_digest(model), WARNED: warned}
    return model, history


def _found(workspace: Workspace, trained_from: str) -> tuple[CrosstalkModel, pd.DataFrame] | None:
    """Return the study's model and history, where they are of this training and of each other."""
    from tissue_crosstalk.core.checkpoint import load_model

    try:
        history = pd.read_parquet(workspace.place(HISTORY_FILE), page_checksum_verification=True)
        if history.attrs.get(TRAINED_FROM) != trained_from:
            return None
        model = load_model(workspace.place(MODEL_FOLDER))
    except (OSError, ValueError, LookupError, TypeError, pa.ArrowException, CheckpointError):  # none, or damaged
        return None
    return (model, history) if history.attrs.get(WEIGHTS) == _weights_digest(model) else None


def _weights_digest(model: CrosstalkModel) -> str:
    whole = hashlib.sha256()
    for name, tensor in sorted(model.network.state_dict().items()):
        whole.update(f"{name} {tuple(tensor.shape)}".encode())
        whole.update(np.ascontiguousarray(tensor.cpu().numpy()).view(np.uint8).data)
    return whole.hexdigest()
