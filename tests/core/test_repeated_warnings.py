"""What was warned of when something was made is told again when it is used again."""

from __future__ import annotations

import logging
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
from naive import counts_adata

from tissue_crosstalk.core.files import Workspace
from tissue_crosstalk.core.model import TissueKeys
from tissue_crosstalk.core.model_input import store_model_input
from tissue_crosstalk.core.repeated_warnings import collected, tell
from tissue_crosstalk.core.tissue_file import open_tissue

LOGGER = logging.getLogger("tissue_crosstalk.test")


def warn_in_both_ways(*, divisor: int = 1) -> list[str]:
    with collected(LOGGER) as messages:
        logging.getLogger("tissue_crosstalk.test.inner").warning("by %s", "logging")
        LOGGER.info("not a warning")
        warnings.warn("by warnings", stacklevel=1)
        _ = 1 / divisor
    return messages


def test_warnings_of_both_kinds_are_collected_and_told_as_ever(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.warns(UserWarning, match="by warnings"):
        messages = warn_in_both_ways()
    assert messages == ["by logging", "by warnings"]
    assert "by logging" in caplog.text
    LOGGER.warning("afterwards")
    assert len(messages) == 2
    caplog.clear()
    tell(LOGGER, messages)
    assert [record.getMessage() for record in caplog.records] == messages


def test_what_other_threads_warn_of_is_not_collected() -> None:
    """MLflow loads parts of itself beside, and these warn: the same training would be stored with and without that."""
    other = threading.Thread(target=lambda: warnings.warn("by another", stacklevel=1))
    with pytest.warns(UserWarning, match="by") as told, collected(LOGGER) as messages:  # noqa: PT031 - both in one block
        other.start()
        other.join()
        warnings.warn("by this one", stacklevel=1)
    assert messages == ["by this one"]
    assert {str(one.message) for one in told} == {"by another", "by this one"}


def test_an_error_goes_through_and_what_was_warned_of_before_is_told() -> None:
    with pytest.warns(UserWarning, match="by warnings"), pytest.raises(ZeroDivisionError):
        warn_in_both_ways(divisor=0)


def test_a_model_input_that_is_used_again_says_what_it_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    adata = counts_adata()
    adata.X[3] = 0
    adata.obsm["spatial"] = np.floor(adata.obsm["spatial"] / 20)  # many at the same place
    adata.write_h5ad(tmp_path / "tissue.h5ad")
    workspace = Workspace(tmp_path / "input")

    def prepare() -> list[str]:
        caplog.clear()
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            finished = store_model_input(
                open_tissue(tmp_path / "tissue.h5ad"), workspace, TissueKeys(), log_normalised=False, n_neighbors=3
            )
        finished.move_to(workspace.place("model_input.h5ad"))
        told = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        return sorted([*told, *(str(one.message) for one in found)])

    at_first = prepare()
    assert len(at_first) >= 2
    assert any("no count at all" in message for message in at_first)
    assert any("lie exactly where another cell does" in message for message in at_first)
    assert prepare() == at_first
