"""Files and folders appear whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from tissue_crosstalk.core import files
from tissue_crosstalk.core.files import whole_file, whole_folder


def interrupt(target: Path, *, folder: bool) -> None:
    with (whole_folder if folder else whole_file)(target) as unfinished:
        ((unfinished / "inner") if folder else unfinished).write_text("half")
        raise KeyboardInterrupt


@pytest.mark.parametrize("folder", [True, False])
def test_interrupted_writing_leaves_nothing(tmp_path: Path, folder: bool) -> None:
    with pytest.raises(KeyboardInterrupt):
        interrupt(tmp_path / "deep" / "new.txt", folder=folder)
    assert not list((tmp_path / "deep").iterdir())


def test_old_file_stays_until_the_new_one_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with whole_file(target) as unfinished:
        unfinished.write_text("new")
        assert unfinished.suffix == ".txt"
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    for name in ("first", "second"):
        with whole_folder(target) as unfinished:
            (unfinished / name).touch()
    assert [entry.name for entry in target.iterdir()] == ["second"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]


def test_old_folder_comes_back_where_the_swap_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "folder"
    target.mkdir()
    (target / "old").touch()
    rename = Path.rename

    def fail_for_the_new_one(self: Path, to: Path) -> Path:
        if self.name.endswith(".unfinished"):
            raise OSError("no space left on device")
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", fail_for_the_new_one)
    monkeypatch.setattr(files, "_exchange", lambda *_: False)  # as where the system cannot do it in one step
    with pytest.raises(OSError, match="no space left"), whole_folder(target) as unfinished:
        (unfinished / "new").touch()
    assert [entry.name for entry in target.iterdir()] == ["old"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]
