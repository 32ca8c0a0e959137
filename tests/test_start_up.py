"""What the command line imports: nothing that is slow, unless it is needed."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from sessions import PROJECT

HEAVY = ("torch", "anndata", "distributed", "zarr", "sklearn", "matplotlib")


def imported(*command: str) -> set[str]:
    """Return the packages that a command imports, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", *command], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    return set(re.findall(r"\| +(\w+)$", done.stderr, re.MULTILINE))


def test_the_list_of_pipelines_needs_nothing_heavy() -> None:
    names = imported("kedro", "registry", "list")
    assert "kedro" in names
    assert not names & set(HEAVY)


def test_a_command_begins_without_warnings() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "kedro", "registry", "list"], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    assert "- attention" in done.stdout.splitlines()
    assert "arning" not in (done.stdout + done.stderr)


@pytest.mark.parametrize("module", ["tissue_crosstalk", "tissue_crosstalk.settings", "tissue_crosstalk.params"])
def test_importing_the_package_needs_nothing_heavy(module: str) -> None:
    code = f"import {module}, sys; print('heavy:', *(name for name in {HEAVY!r} if name in sys.modules), sep='')"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "heavy:"


@pytest.mark.parametrize(("given", "expected"), [(None, "1000"), ("5", "5")])
def test_threads_wait_at_rest_unless_the_user_wants_otherwise(given: str | None, expected: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    environment |= {} if given is None else {"GOMP_SPINCOUNT": given}
    code = "import tissue_crosstalk.settings, os, sys; print(os.environ['GOMP_SPINCOUNT'], 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split()[-2:] == [expected, "False"]  # OpenMP comes with torch, and reads it then
