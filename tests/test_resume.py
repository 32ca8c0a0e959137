"""An interrupted training of a real run goes on in the next one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from sessions import run_project
from tissue_crosstalk.core.training_checkpoint import TrainingCheckpoint


def models(root: Path) -> Path:
    return root / "data" / "06_models" / "awkward"


def statuses(root: Path) -> list[str]:
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{root}/mlflow.db")
    runs = mlflow.search_runs(experiment_names=["tissue-crosstalk"], order_by=["attribute.start_time ASC"])
    return list(runs["status"])


@pytest.mark.slow
def test_an_interrupted_run_goes_on_and_ends_as_an_uninterrupted_one(
    tmp_path: Path, awkward_keys: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, interrupted = tmp_path / "whole", tmp_path / "interrupted"
    run_project(whole, "training", **awkward_keys)
    assert sorted(entry.name for entry in models(whole).iterdir()) == ["model", "training_history.parquet"]

    write = TrainingCheckpoint.write

    def stop(checkpoint: TrainingCheckpoint, *args: Any) -> None:
        write(checkpoint, *args)
        if len(args[3].history) == 2:
            raise RuntimeError("the power went off")

    monkeypatch.setattr(TrainingCheckpoint, "write", stop)
    with pytest.raises(RuntimeError, match="the power went off"):
        run_project(interrupted, "training", **awkward_keys)
    assert [entry.name for entry in models(interrupted).iterdir()] == ["training_checkpoint.safetensors"]
    monkeypatch.undo()

    epochs = []

    def count(checkpoint: TrainingCheckpoint, *args: Any) -> None:
        write(checkpoint, *args)
        epochs.append(len(args[3].history))

    monkeypatch.setattr(TrainingCheckpoint, "write", count)
    run_project(interrupted, "training", **awkward_keys)
    assert epochs == [3]  # the first two were not trained again
    # What is saved deletes the checkpoint, and equals what an uninterrupted run saves.
    assert sorted(entry.name for entry in models(interrupted).iterdir()) == ["model", "training_history.parquet"]
    for file in ("model.safetensors", "model.json"):
        assert (models(interrupted) / "model" / file).read_bytes() == (models(whole) / "model" / file).read_bytes()
    histories = [pd.read_parquet(models(root) / "training_history.parquet") for root in (whole, interrupted)]
    pd.testing.assert_frame_equal(*histories, check_exact=True)
    assert len(histories[0]) == 3
    assert statuses(interrupted) == ["FAILED", "FINISHED"]
