"""An interrupted training of a real run goes on in the next one."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import anndata
import pandas as pd
import pytest

from sessions import run_project
from tissue_crosstalk.core.training import Trainer
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


@pytest.mark.slow
def test_a_run_that_was_interrupted_after_its_training_does_not_train_again(
    tmp_path: Path, awkward_keys: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does it prepare the tissue or extract shards again; what it ends with is what it would have ended with."""
    whole, interrupted = tmp_path / "whole", tmp_path / "interrupted"
    given = {**awkward_keys, "extraction": {"cells_per_shard": 50}}
    run_project(whole, **given)

    def stop(*_: Any, **__: Any) -> None:
        raise RuntimeError("the power went off")

    with monkeypatch.context() as patch:
        patch.setattr("tissue_crosstalk.core.stored_hubs.find_stored_hubs", stop)
        with pytest.raises(RuntimeError, match="the power went off"):
            run_project(interrupted, **given)
    kept = [file for part in ("05_model_input", "07_model_output") for file in (interrupted / "data" / part).rglob("*")]
    before = {file: file.stat().st_mtime_ns for file in kept if file.is_file()}
    assert len(before) > 30
    with monkeypatch.context() as patch:
        patch.setattr("tissue_crosstalk.core.training.Trainer.run_epoch", stop)
        patch.setattr("tissue_crosstalk.core.model_input.prepare_cells", stop)
        patch.setattr("tissue_crosstalk.core.attention.compute_shard", stop)
        run_project(interrupted, **given)
    assert {file: file.stat().st_mtime_ns for file in before} == before
    for table in ("06_models/awkward/training_history.parquet", "07_model_output/awkward/hubs.parquet"):
        pd.testing.assert_frame_equal(
            pd.read_parquet(whole / "data" / table), pd.read_parquet(interrupted / "data" / table), check_exact=True
        )
    assert statuses(interrupted) == ["FAILED", "FINISHED"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, awkward_keys: dict[str, Any]) -> Path:
    """A finished training, which no test may change."""
    root = tmp_path_factory.mktemp("trained")
    run_project(root, "training", **awkward_keys)
    return root


@pytest.mark.slow
@pytest.mark.parametrize("change", ["seed", "epochs", "keys", "model", "history"])
def test_another_training_is_trained(
    change: str, trained: Path, tmp_path: Path, awkward_keys: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    given: dict[str, Any] = {}
    if change == "seed":
        given = {"seed": 7}
    elif change == "epochs":
        given = {"training": {"max_epochs": 2}}
    elif change == "keys":  # what the model says of its tissue is part of it
        adata = anndata.read_h5ad(awkward_keys["tissue"])
        adata.obs["other"] = adata.obs["kind"]
        adata.write_h5ad(tmp_path / "renamed.h5ad")
        given = {"tissue": str(tmp_path / "renamed.h5ad"), "labels_key": "other"}
    elif change == "model":
        file = models(tmp_path) / "model" / "model.safetensors"
        content = bytearray(file.read_bytes())
        content[-2] ^= 1  # a weight is not what was trained
        file.write_bytes(bytes(content))
    else:
        (models(tmp_path) / "training_history.parquet").unlink()
    epochs = []
    run_epoch = Trainer.run_epoch
    monkeypatch.setattr(Trainer, "run_epoch", lambda *args: epochs.append(args[1]) or run_epoch(*args))
    run_project(tmp_path, "training", **{**awkward_keys, **given})
    assert epochs == ([0, 1] if change == "epochs" else [0, 1, 2])
