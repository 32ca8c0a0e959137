"""A real run on a disk that is full, or that must not be written: one clear line, and the next run ends as ever."""

from __future__ import annotations

import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from commands import Kedro
from tissue_crosstalk.study_lock import LOCKS

ADVICE = "Make room on that disk, and run it again: what is finished is kept, and what was there before is as it was."


def demo(kedro: Kedro, root: Path) -> subprocess.CompletedProcess[str]:
    return kedro.run("run", "--pipelines=demo", "--env=test", f"--params=root={root}")


def mount(folder: Path, *options: str) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(folder)]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A folder in which a small file system can be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if not mount(folder, "size=400k"):
        pytest.skip("only who may mount a file system can have one that is full")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def results(root: Path) -> dict[str, bytes]:
    files = (path for path in (root / "data").rglob("*") if path.is_file() and LOCKS.name not in path.parts)
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


@pytest.mark.slow
def test_a_disk_that_is_full(kedro: Kedro, disk: Path, tmp_path: Path) -> None:
    """At first MLflow's store does not fit, then the tissue, then the figures."""
    for size in ("400k", "1500k", "3m"):
        subprocess.run(["mount", "-o", f"remount,size={size}", str(disk)], check=True)
        failed = demo(kedro, disk)
        assert failed.returncode == 1
        last = failed.stderr.strip().splitlines()[-1]
        assert last.endswith(f"No space left on device. {ADVICE}")
        assert "Traceback" not in failed.stderr
    subprocess.run(["mount", "-o", "remount,size=100m", str(disk)], check=True)
    assert demo(kedro, disk).returncode == 0
    (tmp_path / "whole").mkdir()
    assert demo(kedro, tmp_path / "whole").returncode == 0
    assert results(disk) == results(tmp_path / "whole")
    with sqlite3.connect(disk / "mlflow.db") as store:
        statuses = [status for (status,) in store.execute("select status from runs order by start_time")]
    assert statuses[-1] == "FINISHED"
    assert "RUNNING" not in statuses


@pytest.mark.slow
def test_a_disk_that_must_not_be_written(kedro: Kedro, disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=100m", str(disk)], check=True)
    assert demo(kedro, disk).returncode == 0
    before = results(disk)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    failed = demo(kedro, disk)
    assert failed.returncode == 1
    assert "Read-only file system. Give yourself permission to write there" in failed.stderr.strip().splitlines()[-1]
    assert "Traceback" not in failed.stderr
    assert results(disk) == before
