"""Files and folders appear whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tissue_crosstalk.core import files
from tissue_crosstalk.core.errors import ParameterError
from tissue_crosstalk.core.files import restore_interrupted, whole_file, whole_folder


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


# --- What a process that was killed has left


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


HEX = "0" * 31 + "a"


def test_what_was_not_finished_is_deleted_and_what_was_not_replaced_comes_back(tmp_path: Path) -> None:
    (tmp_path / f".{HEX}.unfinished.png").write_text("half")
    (tmp_path / f".{HEX}.unfinished").write_text("half")
    (tmp_path / f".figures.{HEX}.unfinished").mkdir()
    (tmp_path / f".figures.{HEX}.unfinished" / "a.png").touch()
    (tmp_path / f".tables.{HEX}.old").mkdir()
    (tmp_path / f".tables.{HEX}.old" / "kept").touch()
    (tmp_path / f".model.{HEX}.old").mkdir()  # its successor is in place
    (tmp_path / "model").mkdir()
    kept = [".gitkeep", ".attention_patterns.unfinished", "mine.unfinished", f".{HEX[1:]}.unfinished", "model"]
    for name in kept[:-1]:
        (tmp_path / name).touch()
    restore_interrupted(tmp_path)
    assert names(tmp_path) == sorted([*kept, "tables"])
    assert names(tmp_path / "tables") == ["kept"]
    restore_interrupted(tmp_path / "not there")


def test_leftovers_that_are_links_are_deleted_but_not_what_they_lead_to(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "mine").touch()
    folder = tmp_path / "results"
    folder.mkdir()
    (folder / f".figures.{HEX}.unfinished").symlink_to(tmp_path / "elsewhere")
    restore_interrupted(folder)
    assert names(folder) == []
    assert names(tmp_path / "elsewhere") == ["mine"]


@pytest.mark.parametrize("at_once", [True, False])
def test_a_folder_takes_the_place_of_whatever_is_there(
    tmp_path: Path, at_once: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not at_once:
        monkeypatch.setattr(files, "_exchange", lambda *_: False)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "mine").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "old").touch()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    for name in ("folder", "link", "broken", "nothing"):
        with whole_folder(tmp_path / name) as unfinished:
            (unfinished / "new").touch()
        assert not (tmp_path / name).is_symlink()
        assert names(tmp_path / name) == ["new"]
    assert names(tmp_path / "elsewhere") == ["mine"]
    assert names(tmp_path) == ["broken", "elsewhere", "folder", "link", "nothing"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux can exchange two paths")
def test_folders_are_exchanged_in_one_step(tmp_path: Path) -> None:
    """There is no moment without the old or the new one: a reader that looks all the time never misses it."""
    target = tmp_path / "folder"
    with whole_folder(target):
        pass
    reader = subprocess.Popen(
        [sys.executable, "-c", f"import os\nwhile True: os.stat({str(target)!r})"], stderr=subprocess.DEVNULL
    )
    for _ in range(300):
        with whole_folder(target):
            pass
    assert reader.poll() is None
    reader.kill()
    reader.wait()


# --- No room, no permission


def written_in_a_child(code: str, *arguments: str) -> str:
    """Run code in a process of its own, and return what it says at last."""
    imports = "import sys, os, resource, signal\nfrom pathlib import Path\nfrom tissue_crosstalk.core.files import *\n"
    done = subprocess.run(
        [sys.executable, "-c", imports + code, *arguments], capture_output=True, text=True, check=False
    )
    return done.stderr.strip().splitlines()[-1]


# A file that cannot grow is to a program what a full disk is.
FULL = """
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
target = Path(sys.argv[1])
"""
WRITERS = {
    "python": "with whole_file(target) as file: file.write_bytes(bytes(10_000))",
    "folder": "with whole_folder(target) as folder: (folder / 'a').write_bytes(bytes(10_000))",
    "parquet": "import pandas, numpy\n"
    "with whole_file(target) as file: pandas.DataFrame({'a': numpy.random.rand(9_999)}).to_parquet(file)",
    "h5ad": "import anndata, numpy\n"
    "with whole_file(target) as file: anndata.AnnData(numpy.random.rand(99, 99)).write_h5ad(file)",
    "safetensors": "import numpy, safetensors.numpy\n"
    "with whole_file(target) as file: safetensors.numpy.save_file({'a': numpy.random.rand(9_999)}, file)",
    "png": "from matplotlib.figure import Figure\n"
    "with whole_file(target.with_suffix('.png')) as file: Figure(figsize=(30, 30)).savefig(file)",
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_full_disk_is_named_and_what_was_there_stays(tmp_path: Path, kind: str) -> None:
    target = tmp_path / ("result.png" if kind == "png" else "result")
    old = target / "old" if kind == "folder" else target
    old.parent.mkdir(exist_ok=True)
    old.write_text("old")
    said = written_in_a_child(FULL + WRITERS[kind], str(target))
    assert said.startswith(
        f"tissue_crosstalk.core.errors.OutputError: {target} cannot be written: File too large. Make"
    )
    assert said.endswith("what is finished is kept, and what was there before is as it was.")
    assert old.read_text() == "old"
    assert names(tmp_path) == [target.name]


@pytest.mark.skipif(not hasattr(os, "setuid") or os.getuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("kind", ["whole_file", "whole_folder"])
def test_a_folder_without_permission_is_named(kind: str) -> None:
    with tempfile.TemporaryDirectory() as folder:  # pytest's own folders are closed to others
        Path(folder).chmod(0o755)
        target = Path(folder) / "deep" / "result"
        said = written_in_a_child(f"os.setuid(65534)\nwith {kind}(Path(sys.argv[1])): pass", str(target))
        assert f"OutputError: {target} cannot be written: Permission denied. Give yourself permission" in said
        assert names(Path(folder)) == []


def test_errors_that_are_not_of_the_disk_stay_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), whole_file(tmp_path / "a"):
        _ = 1 / 0
    with pytest.raises(ParameterError, match=r"\[Errno 28\]"), whole_file(tmp_path / "a"):
        raise ParameterError("[Errno 28] is what the user wrote")
