"""Nodes of the stage ``training``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tissue_crosstalk.params import TissueParams, TrainingParams
from tissue_crosstalk.pipelines.metrics import Metric, history, metric_name

# Kedro evaluates the annotations of a node to find its typed parameters: heavy types are names without a value then.
if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from tissue_crosstalk.core.files import Finished, Workspace
    from tissue_crosstalk.core.model import CrosstalkModel
    from tissue_crosstalk.core.training_checkpoint import TrainingCheckpoint
else:
    AnnData = CrosstalkModel = Finished = TrainingCheckpoint = Workspace = Any
    pd = type("pd", (), {"DataFrame": Any})


def prepare_training_input(tissue: AnnData, reading: TissueParams, workspace: Workspace) -> Finished:
    """Check and normalise the tissue, and find the neighbors of every cell."""
    from tissue_crosstalk.core import terms
    from tissue_crosstalk.core.model_input import store_model_input
    from tissue_crosstalk.core.spatialdata_store import default_section_key

    return store_model_input(
        tissue,
        workspace,
        reading.keys(section_key=default_section_key(tissue)),
        log_normalised=reading.log_normalised,
        n_neighbors=reading.n_neighbors or terms.DEFAULT_N_NEIGHBORS,
        pad_neighbors=reading.pad_neighbors,
    )


def train(
    model_input: AnnData, params: TrainingParams, seed: int, checkpoint: TrainingCheckpoint, workspace: Workspace
) -> tuple[CrosstalkModel, pd.DataFrame]:
    """Train the cross-attention model until its validation stops improving; an interrupted training goes on."""
    from tissue_crosstalk.core.stored_training import train_stored_model

    return train_stored_model(model_input, params.network, params, workspace, seed=seed, checkpoint=checkpoint)


def measure_training(training_history: pd.DataFrame) -> dict[str, Metric]:
    """Return the losses of every epoch as metrics, with the epoch as their step."""
    epochs = training_history["epoch"]
    return {
        metric_name(str(column)): history(zip(epochs, training_history[column], strict=True))
        for column in training_history.columns.drop("epoch")
    }
