"""Models of others' making: none costs more than a moment, and whatever is in a file, it loads whole or is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hostile import HOSTILE, MOST_BYTES, MOST_SECONDS, archived, contents, measured, shapes_of

COSTLY = {
    name
    for name in HOSTILE
    if name.startswith(("deep", "many", "a long", "digits", "a float", "a wide", "100 MB", "operations", "a million"))
    or name.startswith(("safetensors: many", "safetensors: much", "safetensors: deep", "JSON: many", "JSON: deep"))
    or name.endswith(("long names", "overlapping entries", "million axes", "a wide text", "as many as are read"))
}
"""What takes seconds to make or to refuse."""

LOADS = {name for name in HOSTILE if name.endswith("as many as are read")} | {
    *("a wide text", "a long name", "a long line", "a long escape", "a long integer", "a float without end"),
}
"""What is of no use to a model, and within what is read: it costs little."""


def check(names: set[str], folder: Path) -> None:
    ordered = sorted(names)
    benign = archived(folder / "benign", contents(shapes_of()))
    paths = [HOSTILE[name](folder / str(number)) for number, name in enumerate(ordered)]
    first, *others = measured([benign, *paths])
    assert first["error"] == ""
    for name, path, found in zip(ordered, paths, others, strict=True):
        assert found["seconds"] < MOST_SECONDS, (name, found)
        assert found["grown"] < MOST_BYTES, (name, found)
        assert bool(found["error"]) == (name not in LOADS), (name, found)
        assert not found["error"] or str(path) in found["error"], (name, found)
        assert len(found["error"]) < 2000, (name, found)


def test_hostile_models(tmp_path: Path) -> None:
    check(HOSTILE.keys() - COSTLY, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_costly_hostile_models(part: int, tmp_path: Path) -> None:
    check(set(sorted(COSTLY)[part::4]), tmp_path)


def fuzzed(n_inputs: int, seed: int, keep: Path) -> dict[str, Any]:
    """Fuzz in another process: what is recorded of everything that Python does is for good."""
    script = Path(__file__).with_name("checkpoints.py")
    command = [sys.executable, script, "--inputs", str(n_inputs), "--seed", str(seed), "--keep", str(keep)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    outcome: dict[str, Any] = json.loads(done.stdout)
    assert not outcome["findings"], outcome
    assert outcome["loaded"] + outcome["refused"] == n_inputs
    return outcome


def test_a_short_fuzz(tmp_path: Path) -> None:
    outcome = fuzzed(150, 1, tmp_path)
    assert outcome["loaded"] > 1  # the fuzz reaches both
    assert outcome["messages"] > 20


@pytest.mark.slow
def test_a_longer_fuzz(tmp_path: Path) -> None:
    assert fuzzed(2000, 2, tmp_path)["messages"] > 60
