"""Runs that are killed leave nothing that is not whole, and the next run ends as if nobody had killed any."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("interruptions.py")


@pytest.mark.slow
def test_a_killed_run_leaves_whole_files_and_the_next_one_ends_as_if_there_had_been_none() -> None:
    """A few kills of each stage; the script takes as many as wanted."""
    command = [sys.executable, str(SCRIPT), "--kills", "2", "--seed", "3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    summary = [line for line in done.stdout.splitlines() if "trials" in line]
    assert len(summary) == 5
    assert all("2 trials" in line and "0 wrong" in line for line in summary)
