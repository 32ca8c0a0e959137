"""What is tracked with a run and told in its report: study, commit, files and their hashes, warnings."""

from __future__ import annotations

import hashlib
import html
import logging
import re
import shutil
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kedro.io import DataCatalog

from sessions import PROJECT, run_project
from tissue_crosstalk.core.provenance import git_commit
from tissue_crosstalk.datasets import AnnDataDataset
from tissue_crosstalk.hooks import run_record
from tissue_crosstalk.hooks.run_record import _WarningList

LOGGERS = ("tissue_crosstalk", "py.warnings")


def tracked(root: Path) -> dict[str, Any]:
    """Return the one run that the store in a folder has."""
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{root}/mlflow.db")
    [run] = mlflow.search_runs(experiment_names=["tissue-crosstalk"]).to_dict("records")
    return {str(name): value for name, value in run.items()}


def sha256_of_folder(folder: Path) -> str:
    """Return the hash of names and hashes of its files, by name."""
    names = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    parts = [name.encode() + b"\0" + sha256_of_file(folder / name).encode() for name in names]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def sha256_of_file(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def chapter(page: str, title: str) -> str:
    """Return the text of one chapter of a report."""
    [found] = re.findall(rf"<h2 [^>]*>{title}</h2>(.*?)</section>", page, flags=re.DOTALL)
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<wbr>", "", found)))


def listening() -> list[logging.Handler]:
    found = [handler for name in LOGGERS for handler in logging.getLogger(name).handlers]
    return [handler for handler in found if isinstance(handler, _WarningList)]


# --- Tags of finished runs


@pytest.fixture(scope="module")
def reported(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the stage reporting alone, whose bins do not fit the tissue."""
    root = tmp_path_factory.mktemp("reported")
    before, after = (folder / "data/07_model_output" for folder in (demo, root))
    shutil.copytree(before / "demo", after / "known", ignore=shutil.ignore_patterns("flavor=*-weighted"))
    run_project(
        root,
        "reporting",
        study="known",
        tissue=str(demo / "data/01_raw/demo/simulated_tissue.h5ad"),
        model=str(demo / "data/06_models/demo/model"),
        reporting={"max_distance": 1e6, "bin_size": 1e6, "receivers": ["type A"]},
    )
    return root


@pytest.mark.parametrize(
    ("root_of", "study", "run_name"),
    [("demo", "demo", "demo"), pytest.param("reported", "known", "known reporting", marks=pytest.mark.slow)],
)
def test_a_run_is_tagged_with_what_it_came_from(
    request: pytest.FixtureRequest, demo: Path, root_of: str, study: str, run_name: str
) -> None:
    """The demo simulates its tissue and trains its model itself; the other run is given both."""
    run = tracked(request.getfixturevalue(root_of))
    assert run["status"] == "FINISHED"
    assert (run["tags.study"], run["tags.mlflow.runName"]) == (study, run_name)
    tissue, model = demo / "data/01_raw/demo/simulated_tissue.h5ad", demo / "data/06_models/demo/model"
    assert run["tags.tissue"] == tissue.resolve().as_posix()
    assert run["tags.model"] == model.resolve().as_posix()
    assert run["tags.tissue_sha256"] == sha256_of_file(tissue)
    assert run["tags.model_sha256"] == sha256_of_folder(model)


def test_a_run_is_tagged_with_the_commit(demo: Path) -> None:
    run = tracked(demo)
    if git_commit(PROJECT) is None:
        assert "tags.git_commit" not in run
    else:
        commit = run["tags.git_commit"].removesuffix("-dirty")
        found = subprocess.run(["git", "-C", str(PROJECT), "cat-file", "-t", commit], capture_output=True, check=True)
        assert (found.stdout.strip(), len(commit)) == (b"commit", 40)


@pytest.mark.slow
def test_the_report_says_what_the_run_came_from(reported: Path, demo: Path) -> None:
    page, run = (reported / "data/08_reporting/known/report.html").read_text(encoding="utf-8"), tracked(reported)
    assert "<title>Who talks to whom: known</title>" in page
    assert f"<dd>{run['tags.tissue_sha256']}</dd>" in chapter(page, "Data")
    assert "<dd>simulated_tissue.h5ad</dd>" in chapter(page, "Data")
    assert f"<dd>{run['tags.model_sha256']}</dd>" in chapter(page, "Model")
    assert "<dt>max_distance</dt><dd>1000000</dd>" in chapter(page, "Parameters")
    assert "<dt>receivers</dt><dd>type A</dd>" in chapter(page, "Parameters")
    assert (run.get("tags.git_commit") or "<dt>Python</dt>") in chapter(page, "Versions")


@pytest.mark.slow
def test_the_report_says_what_the_run_warned_of(reported: Path, demo: Path) -> None:
    told = chapter((reported / "data/08_reporting/known/report.html").read_text(encoding="utf-8"), "Warnings")
    words = "max_distance 1e+06 and bin_size 1e+06 do not fit the unit of the coordinates"
    assert told.count(words) == 1
    fitting = chapter((demo / "data/08_reporting/demo/report.html").read_text(encoding="utf-8"), "Warnings")
    assert "do not fit the unit" not in fitting


@pytest.mark.slow
def test_nothing_listens_after_a_run(reported: Path, demo: Path) -> None:
    assert listening() == []


def test_nothing_listens_after_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a run that began to listen, and then found none of its inputs."""
    during: list[list[logging.Handler]] = []
    listen = _WarningList.listen

    def noted(self: _WarningList) -> None:
        listen(self)
        during.append(listening())

    monkeypatch.setattr(_WarningList, "listen", noted)
    with pytest.raises(Exception, match="there is no parquet folder"):
        run_project(tmp_path, "flavoring", study="nothing")
    assert [len(handlers) for handlers in during] == [len(LOGGERS)]
    assert listening() == []
    assert tracked(tmp_path)["status"] == "FAILED"


# --- Warnings


@pytest.fixture
def heard() -> Iterator[_WarningList]:
    """A list that listens until the test is over."""
    heard = _WarningList()
    heard.listen()
    yield heard
    heard.stop()


def warned(path: str, words: str, kind: type[Warning] = UserWarning) -> None:
    """Log a warning of Python's as logging does, once it captures them."""
    message = warnings.formatwarning(words, kind, path, 12, "    warnings.warn(words)")
    logging.getLogger("py.warnings").warning("%s", message)


OWN = str(Path(run_record.__file__).parents[1] / "core" / "hubs.py")


def test_warnings_of_the_package_are_kept_once_in_their_order(heard: _WarningList) -> None:
    logger = logging.getLogger("tissue_crosstalk.core.stored_profiles")
    logger.warning("%s do not fit", "bins")
    logger.error("worse")
    warned(OWN, "few cells")
    logging.getLogger("tissue_crosstalk").warning("%s do not fit", "bins")
    warned(OWN, "few cells", RuntimeWarning)
    logger.info("no warning")
    assert heard.messages == ["bins do not fit", "worse", "few cells"]


def test_warnings_of_other_packages_are_not_kept(heard: _WarningList) -> None:
    logging.getLogger("anndata").warning("old format")
    logging.getLogger("tissue_crosstalk_of_others").warning("no part of the package")
    warned("/home/me/venv/lib/python3.11/site-packages/anndata/compat.py", "will be removed", FutureWarning)
    logging.getLogger("py.warnings").warning("no known form")
    assert heard.messages == []


def test_warnings_of_other_packages_are_not_kept_where_the_project_has_the_name_of_the_package(
    heard: _WarningList,
) -> None:
    warned("/home/me/tissue_crosstalk/.venv/lib/python3.11/site-packages/anndata/compat.py", "old", FutureWarning)
    assert heard.messages == []


def test_nothing_is_kept_after_the_end_and_all_is_forgotten_at_the_next_beginning(heard: _WarningList) -> None:
    logger = logging.getLogger("tissue_crosstalk.core")
    logger.warning("first run")
    heard.stop()
    logger.warning("between")
    warned(OWN, "between")
    assert heard.messages == ["first run"]
    heard.listen()
    heard.listen()  # the run before was interrupted
    logger.warning("second run")
    assert heard.messages == ["second run"]
    assert len(listening()) == len(LOGGERS)
    heard.stop()
    heard.stop()
    assert listening() == []


# --- Files that cannot be hashed, and names


def test_a_file_that_cannot_be_read_is_tagged_without_its_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow's run is closed all the same: the node that loads the tissue fails, not the hook."""

    def refused(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(run_record, "digest_of_tissue", refused)
    tissue = tmp_path / "tissue.h5ad"
    tissue.write_bytes(b"no tissue")
    with pytest.raises(Exception, match=r"tissue\.h5ad.* is not an h5ad file"):
        run_project(tmp_path, "training", study="mine", tissue=str(tissue))
    run = tracked(tmp_path)
    assert (run["status"], run["tags.study"], run["tags.mlflow.runName"]) == ("FAILED", "mine", "mine training")
    assert run["tags.tissue"] == tissue.resolve().as_posix()
    assert "tags.tissue_sha256" not in run


def test_remote_files_are_not_taken_for_those_here(tmp_path: Path) -> None:
    here = AnnDataDataset(filepath=str(tmp_path / "tissue.h5ad"))
    there = AnnDataDataset(filepath="memory://data/tissue.h5ad")
    assert run_record._files(["tissue"], DataCatalog({"tissue": here})) == {"tissue": tmp_path / "tissue.h5ad"}
    assert run_record._files(["tissue"], DataCatalog({"tissue": there})) == {}
    demo = DataCatalog({"demo.simulated_tissue": here, "demo.model_input": here})
    assert run_record._files(demo.keys(), demo) == {"tissue": tmp_path / "tissue.h5ad"}


def test_a_folder_that_is_neither_tissue_nor_model_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be a home, of which hashing all files takes hours."""
    (tmp_path / "a file").write_text("x")
    record = run_record.RunRecord()
    monkeypatch.setattr(run_record, "digest_of_tissue", lambda _: "read")
    assert record._digest(tmp_path) is None
    (tmp_path / "zarr.json").write_text("{}")
    assert record._digest(tmp_path) == "read"
