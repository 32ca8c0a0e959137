"""What a result comes from: hashes that change with the files and nothing else, the commit, the versions."""

from __future__ import annotations

import hashlib
import platform
import shutil
import subprocess
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from tissue_crosstalk.core.files import digest
from tissue_crosstalk.core.provenance import PACKAGES, git_commit, package_versions

# --- Hashes


@pytest.mark.parametrize("content", [b"", b"who talks to whom", bytes(3_000_000)])
def test_the_digest_of_a_file_is_its_sha256(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "a.h5ad"
    file.write_bytes(content)
    assert digest(file) == hashlib.sha256(content).hexdigest()
    assert digest(file.rename(tmp_path / "b.h5ad")) == hashlib.sha256(content).hexdigest()


FILES = {"model.json": b"{}", "network.safetensors": b"weights", "deep/er/a": b"ab", "deep/b": b"c"}


def folder_of(path: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def test_the_digest_of_a_folder_is_of_its_files_in_the_order_of_their_names(tmp_path: Path) -> None:
    whole = b"".join(
        name.encode() + b"\0" + hashlib.sha256(FILES[name]).hexdigest().encode()
        for name in ("deep/b", "deep/er/a", "model.json", "network.safetensors")
    )
    assert digest(folder_of(tmp_path / "model", FILES)) == hashlib.sha256(whole).hexdigest()


def test_neither_order_nor_place_nor_time_change_the_digest_of_a_folder(tmp_path: Path) -> None:
    first = folder_of(tmp_path / "first", FILES)
    expected = digest(first)
    generator = np.random.default_rng(0)
    for number in range(3):
        names = generator.permutation(list(FILES))
        assert digest(folder_of(tmp_path / f"copy {number}", {str(name): FILES[name] for name in names})) == expected
    (first / "model.json").touch()
    assert digest(first.rename(tmp_path / "elsewhere")) == expected


def rename(folder: Path) -> None:
    (folder / "deep/b").rename(folder / "deep/bb")


def move_to_another_folder(folder: Path) -> None:
    (folder / "deep/b").rename(folder / "b")


def change(folder: Path) -> None:
    (folder / "deep/b").write_bytes(b"d")


def move_content(folder: Path) -> None:
    """The same bytes in the same order, the limit between two files moved."""
    (folder / "deep/b").write_bytes(b"ca")
    (folder / "deep/er/a").write_bytes(b"b")


def exchange(folder: Path) -> None:
    (folder / "deep/b").write_bytes(b"ab")
    (folder / "deep/er/a").write_bytes(b"c")


def add_an_empty_file(folder: Path) -> None:
    (folder / "empty").touch()


def remove(folder: Path) -> None:
    (folder / "deep/b").unlink()


@pytest.mark.parametrize(
    "alter", [rename, move_to_another_folder, change, move_content, exchange, add_an_empty_file, remove]
)
def test_every_change_of_a_folder_changes_its_digest(tmp_path: Path, alter: Callable[[Path], None]) -> None:
    folder = folder_of(tmp_path / "model", FILES)
    before = digest(folder)
    alter(folder)
    assert digest(folder) != before


def test_what_is_not_there_has_no_digest(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        digest(tmp_path / "missing")


# --- The commit


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is in no repository, whatever the environment says."""
    if shutil.which("git") is None:
        pytest.skip("there is no git")
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "no config"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    (tmp_path / "project").mkdir()
    return tmp_path / "project"


def git(folder: Path, *arguments: str) -> str:
    own = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    answer = subprocess.run(["git", "-C", str(folder), *own, *arguments], capture_output=True, text=True, check=True)
    return answer.stdout.strip()


def committed(project: Path) -> str:
    git(project, "init", "--quiet")
    (project / "code.py").write_text("one")
    git(project, "add", "code.py")
    git(project, "commit", "--quiet", "--message=One")
    return git(project, "rev-parse", "HEAD")


def test_the_commit_of_a_clean_project(project: Path) -> None:
    commit = committed(project)
    assert git_commit(project) == commit
    assert len(commit) == 40
    git(project, "tag", "--annotate", "v1", "--message=Tagged")
    (project / "data").mkdir()
    (project / "data" / "results").write_text("of a run")  # what git does not know is not the project's
    assert git_commit(project / "data") == commit


def test_the_commit_of_a_project_with_changes(project: Path) -> None:
    commit = committed(project)
    (project / "code.py").write_text("two")
    assert git_commit(project) == f"{commit}-dirty"
    git(project, "add", "code.py")
    assert git_commit(project) == f"{commit}-dirty"
    git(project, "commit", "--quiet", "--message=Two")
    assert git_commit(project) == git(project, "rev-parse", "HEAD") != commit


def test_a_project_without_a_commit_has_none(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert git_commit(project) is None
    git(project, "init", "--quiet")
    assert git_commit(project) is None
    committed(project)
    monkeypatch.setenv("PATH", "")
    assert git_commit(project) is None


# --- The versions


def test_versions_are_those_that_are_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = package_versions()
    assert list(versions) == ["Python", *PACKAGES]
    assert versions["Python"] == platform.python_version()
    assert versions["numpy"] == np.__version__
    assert versions["tissue-crosstalk"] == metadata.version("tissue-crosstalk")

    def not_installed(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", not_installed)
    assert package_versions()["tissue-crosstalk"] == "unknown"
