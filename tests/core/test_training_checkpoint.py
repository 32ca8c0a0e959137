"""Interrupted trainings: they end as they would have, and nobody's file is taken for one."""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from naive import TINY, random_tissue
from safetensors import safe_open
from safetensors.torch import save_file

from tissue_crosstalk.core.errors import TrainingError
from tissue_crosstalk.core.model import CrosstalkModel
from tissue_crosstalk.core.neighbors import Neighbors, find_neighbors
from tissue_crosstalk.core.tissue import PreparedTissue
from tissue_crosstalk.core.training import train_model
from tissue_crosstalk.core.training_checkpoint import TrainingCheckpoint
from tissue_crosstalk.core.training_settings import TrainingSettings

# Several batches, dropout, penalty ramp, a schedule and both kinds of held-out cells: all that an epoch draws or sets.
SETTINGS = TrainingSettings(
    max_epochs=4,
    batch_size=24,
    patch_size=4,
    learning_rate=0.01,
    learning_rate_schedule="cosine",
    validation_split="both",
    validation_fraction=0.2,
    attention_penalty_start=1,
    attention_penalty_end=3,
)


class InterruptionError(Exception):
    """What stops a training in these tests."""


@dataclass(frozen=True)
class Interrupting(TrainingCheckpoint):
    """Stops the training after some epochs were kept."""

    after: int = 1

    def write(self, *args: Any) -> None:
        super().write(*args)
        if len(args[3].history) == self.after:
            raise InterruptionError


def inputs(seed: int = 0) -> tuple[PreparedTissue, Neighbors]:
    tissue = random_tissue(seed, n_cells=80, n_sections=2)
    return tissue, find_neighbors(tissue, 4)


def trained(
    checkpoint: TrainingCheckpoint | None, settings: TrainingSettings = SETTINGS, *, seed: int = 1, tissue: int = 0
) -> tuple[CrosstalkModel, pd.DataFrame]:
    return train_model(*inputs(tissue), TINY, settings, seed=seed, progress=False, checkpoint=checkpoint)


@cache
def uninterrupted() -> tuple[CrosstalkModel, pd.DataFrame]:
    return trained(None)


def interrupt(path: Path, after: int, settings: TrainingSettings = SETTINGS, **given: int) -> None:
    with pytest.raises(InterruptionError):
        trained(Interrupting(path, after), settings, **given)


def assert_equal(one: tuple[CrosstalkModel, pd.DataFrame], other: tuple[CrosstalkModel, pd.DataFrame]) -> None:
    """To the bit."""
    pd.testing.assert_frame_equal(one[1], other[1], check_exact=True)
    weights, others = one[0].network.state_dict(), other[0].network.state_dict()
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[name], others[name]) for name in weights)


def metadata(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata())


@pytest.mark.parametrize("after", [1, 3, 4])
def test_a_resumed_training_ends_as_an_uninterrupted_one(tmp_path: Path, after: int) -> None:
    """Also where it was stopped after its last epoch, before its model was saved."""
    path = tmp_path / "folder" / "checkpoint.safetensors"
    interrupt(path, after)
    assert len(json.loads(metadata(path)["history"])) == after
    assert_equal(trained(TrainingCheckpoint(path)), uninterrupted())


def test_a_training_may_be_interrupted_again_and_again(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    for after in (1, 2, 3):
        interrupt(path, after)
    assert_equal(trained(TrainingCheckpoint(path)), uninterrupted())


@pytest.mark.slow
def test_patience_counts_on_over_an_interruption(tmp_path: Path) -> None:
    """The best epoch lies before it: its weights are those that come back."""
    settings = replace(SETTINGS, max_epochs=60, learning_rate=0.05, learning_rate_schedule="constant", patience=4)
    whole = trained(None, settings)
    best = int(whole[1]["validation_reconstruction"].idxmin())
    assert len(whole[1]) == best + 5 < 60
    path = tmp_path / "checkpoint.safetensors"
    interrupt(path, best + 3, settings)
    assert_equal(trained(TrainingCheckpoint(path), settings), whole)


def test_the_device_may_change_between() -> None:
    """Where the rest is computed is no matter of the training's identity; all else is."""
    from tissue_crosstalk.core.training_checkpoint import training_fingerprint

    tissue, neighbors = inputs()
    base = training_fingerprint(tissue, neighbors, TINY, SETTINGS, 1)
    assert base == training_fingerprint(*inputs(), TINY, replace(SETTINGS, device="cpu", patience=3), 1)
    others = [
        training_fingerprint(tissue, neighbors, TINY, SETTINGS, 2),
        training_fingerprint(tissue, neighbors, replace(TINY, n_heads=3), SETTINGS, 1),
        training_fingerprint(tissue, neighbors, TINY, replace(SETTINGS, value_l1_penalty=0.5), 1),
        training_fingerprint(tissue, neighbors, TINY, replace(SETTINGS, max_epochs=9), 1),
        training_fingerprint(tissue, Neighbors(neighbors.idx, neighbors.dist * 2), TINY, SETTINGS, 1),
        training_fingerprint(replace(tissue, expression=tissue.expression * 2), neighbors, TINY, SETTINGS, 1),
        training_fingerprint(replace(tissue, genes=tissue.genes[::-1]), neighbors, TINY, SETTINGS, 1),
    ]
    assert len({base, *others}) == 8


@pytest.mark.parametrize("other", [{"seed": 2}, {"tissue": 5}, {"settings": replace(SETTINGS, value_l1_penalty=0.5)}])
def test_the_checkpoint_of_another_training_is_set_aside(
    tmp_path: Path, other: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "checkpoint.safetensors"
    interrupt(path, 2, **other)
    kept = path.read_bytes()
    with caplog.at_level(logging.WARNING):
        assert_equal(trained(TrainingCheckpoint(path)), uninterrupted())
    assert f"{path} keeps an interrupted training of other data, settings, seed or version" in caplog.text
    assert (tmp_path / "checkpoint.previous.safetensors").read_bytes() == kept


def test_more_epochs_go_on_from_fewer(tmp_path: Path) -> None:
    """With a learning rate that does not depend on how many there are."""
    path = tmp_path / "checkpoint.safetensors"
    few = replace(SETTINGS, learning_rate_schedule="constant")
    trained(TrainingCheckpoint(path), few)
    more = replace(few, max_epochs=6, patience=30)
    assert_equal(trained(TrainingCheckpoint(path), more), trained(None, more))


def test_what_a_killed_process_left_is_cleared(tmp_path: Path) -> None:
    (tmp_path / ".0f.unfinished.safetensors").write_bytes(b"half")
    (tmp_path / "other.safetensors").write_bytes(b"whole")
    TrainingCheckpoint(tmp_path / "checkpoint.safetensors").clear()
    assert [file.name for file in tmp_path.iterdir()] == ["other.safetensors"]


def test_a_finished_training_leaves_its_checkpoint_until_it_is_cleared(tmp_path: Path) -> None:
    checkpoint = TrainingCheckpoint(tmp_path / "checkpoint.safetensors")
    trained(checkpoint)
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.safetensors"]
    checkpoint.clear()
    checkpoint.clear()
    assert list(tmp_path.iterdir()) == []


def damaged(path: Path, *, tensors: dict[str, torch.Tensor] | None = None, **changed: str) -> None:
    """Write the file again with tensors or metadata changed."""
    with safe_open(path, framework="pt") as file:
        kept = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
        described = dict(file.metadata())
    kept.update(tensors or {})
    save_file(kept, path, described | changed)


@pytest.mark.parametrize(
    "changed",
    [
        {"history": "[]"},
        {"history": '[{"epoch": 1}]'},
        {"history": '[{"epoch": NaN}]'},
        {"history": "{"},
        {"history": '[{"epoch": 0}]'},
        {"history": '[{"epoch": ' + "9" * 400 + "}]"},
        {"history": "[" * 100_000},
        {"reference": '{"untrained": NaN, "type_means": 1.0, "type_means_cells": 1.0}'},
        {"tensors": {"optimizer.0.step": torch.ones(2)}},
        {"tensors": {"optimizer.1.exp_avg_sq": torch.full((6, 4), -1.0)}},
        {"reference": "{}"},
        {"tensors": {"network.linear_head.weight": torch.zeros(2, 2)}},
        {"tensors": {"best.linear_head.weight": torch.full((6, 6), torch.nan)}},
        {"tensors": {"network.more": torch.zeros(1)}},
        {"tensors": {"optimizer.0.exp_avg": torch.zeros(3)}},
    ],
)
def test_a_damaged_checkpoint_is_passed_over(
    tmp_path: Path, changed: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "checkpoint.safetensors"
    interrupt(path, 2)
    damaged(path, **changed)
    with caplog.at_level(logging.WARNING):
        assert_equal(trained(TrainingCheckpoint(path)), uninterrupted())
    assert f"{path} is damaged (" in caplog.text


@pytest.mark.parametrize("content", [b"", b"my notes", b"\xff" * 64, None])
def test_a_file_that_is_none_is_left_alone(tmp_path: Path, content: bytes | None) -> None:
    """Whatever somebody keeps there, a model's weights, too: the error comes before the first epoch."""
    path = tmp_path / "checkpoint.safetensors"
    if content is None:
        save_file({"weight": torch.zeros(2)}, path)
        content = path.read_bytes()
    path.write_bytes(content)
    with pytest.raises(TrainingError, match="is not a training checkpoint .* and is left as it is"):
        trained(TrainingCheckpoint(path))
    assert path.read_bytes() == content


def test_a_folder_in_its_place_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="is not a training checkpoint"):
        trained(TrainingCheckpoint(tmp_path))


def test_a_checkpoint_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(TrainingError, match="the last epoch cannot be written: "):
        trained(TrainingCheckpoint(tmp_path / "file" / "checkpoint.safetensors"))


KILLED = """
import sys
from pathlib import Path
sys.path[:0] = [{tests!r}]
import torch
torch.set_num_threads(1)
import test_training_checkpoint as this
this.trained(this.TrainingCheckpoint(Path({path!r})), this.LONG)
"""
LONG = replace(SETTINGS, max_epochs=150, patience=150)


@pytest.mark.slow
def test_a_killed_training_is_resumed_to_the_same_bits(tmp_path: Path) -> None:
    """Killed for good, at whatever moment of an epoch or of writing it, and twice."""
    path = tmp_path / "checkpoint.safetensors"
    script = KILLED.format(tests=str(Path(__file__).parent), path=str(path))
    generator = np.random.default_rng(0)
    kept = []
    for _ in range(2):
        process = subprocess.Popen([sys.executable, "-c", script])
        before = path.stat().st_mtime_ns if path.exists() else None
        while process.poll() is None and (not path.exists() or path.stat().st_mtime_ns == before):
            time.sleep(0.005)
        time.sleep(generator.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        kept.append(len(json.loads(metadata(path)["history"])))
    assert 0 < kept[0] < kept[1] < 150
    assert_equal(trained(TrainingCheckpoint(path), LONG), trained(None, LONG))
