"""Tissues, tables and training checkpoints that are damaged in any way are refused in our own words."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


def fuzzed(n_inputs: int, seed: int, keep: Path) -> None:
    script = Path(__file__).with_name("files.py")
    command = [sys.executable, script, "--inputs", str(n_inputs), "--seed", str(seed), "--keep", str(keep)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    for kind, outcome in json.loads(done.stdout).items():
        assert not outcome["findings"], (kind, outcome)
        assert outcome["refused"] > 0, kind
        assert outcome["refused"] + outcome.get("loaded", 0) == n_inputs, kind


@pytest.mark.slow
def test_files_of_all_kinds(tmp_path: Path) -> None:
    fuzzed(100, 3, tmp_path)
