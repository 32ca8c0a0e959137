"""Where outputs go: what a link below a study's folder leads to is neither written nor deleted, whatever it is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from anndata import AnnData
from matplotlib.figure import Figure

from sessions import PROJECT, run_project
from tissue_crosstalk.core.extraction import TABLES, extract_tables
from tissue_crosstalk.core.files import Finished, Workspace, whole_file, whole_folder
from tissue_crosstalk.core.flavoring import FLAVORED_ATTENTION, flavor_attention
from tissue_crosstalk.core.model import CrosstalkModel, Preprocessing, TissueKeys
from tissue_crosstalk.core.model_input import store_model_input
from tissue_crosstalk.core.network import CrossAttentionNetwork
from tissue_crosstalk.core.network_settings import NetworkSettings
from tissue_crosstalk.core.tissue_file import open_tissue
from tissue_crosstalk.datasets import (
    AnnDataDataset,
    FigureDataset,
    FiguresDataset,
    HtmlDataset,
    JSONDataset,
    ModelDataset,
    ParquetDataset,
    ParquetShardsDataset,
    TrainingCheckpointDataset,
)

STUDY = "study"
PRECIOUS = "not of this study"


@dataclass(frozen=True)
class Places:
    """A study's folder, and one outside of it that holds what must stay."""

    study: Path
    outside: Path

    def link(self, name: str, *, folder: bool) -> Path:
        """Put a link to something outside in the place of an output, and return the link."""
        place = self.study / name
        place.parent.mkdir(parents=True, exist_ok=True)
        target = self.outside / name.replace("/", "_")
        if folder:
            target.mkdir()
            for kept in ("part-00000.parquet", "kept.txt", "model.json"):
                (target / kept).write_text(PRECIOUS)
        else:
            target.write_text(PRECIOUS)
        place.symlink_to(target)
        return place


@pytest.fixture
def places(tmp_path: Path) -> Places:
    made = Places(tmp_path / "data" / STUDY, tmp_path / "outside")
    made.study.mkdir(parents=True)
    made.outside.mkdir()
    return made


def contents(folder: Path) -> dict[str, bytes | None]:
    """Return all that lies in a folder: the bytes of files, None for folders."""
    return {
        entry.relative_to(folder).as_posix(): entry.read_bytes() if entry.is_file() else None
        for entry in sorted(folder.rglob("*"))
    }


def adata(n_cells: int = 24) -> AnnData:
    generator = np.random.default_rng(0)
    return AnnData(
        X=generator.poisson(3.0, (n_cells, 5)).astype(np.float32) + 1,
        obs=pd.DataFrame(
            {"cell_type": pd.Categorical(["ABC"[cell % 3] for cell in range(n_cells)])},
            index=[f"cell{cell}" for cell in range(n_cells)],
        ),
        var=pd.DataFrame(index=[f"gene{gene}" for gene in range(5)]),
        obsm={"spatial": generator.uniform(0, 40, (n_cells, 2))},
    )


# --- Files and folders


def write_file(path: Path) -> None:
    with whole_file(path) as unfinished:
        unfinished.write_text("new")


def write_folder(path: Path) -> None:
    with whole_folder(path) as unfinished:
        (unfinished / "new").touch()


def move_file(path: Path) -> None:
    unfinished = path.parent / ".made.unfinished"
    unfinished.write_text("new")
    Finished(unfinished).move_to(path)


def move_folder(path: Path) -> None:
    unfinished = path.parent / ".made.unfinished"
    unfinished.mkdir()
    (unfinished / "new").touch()
    Finished(unfinished).move_to(path)


WRITERS = {
    "whole_file": (write_file, False),
    "whole_folder": (write_folder, True),
    "a finished file": (move_file, False),
    "a finished folder": (move_folder, True),
}


@pytest.mark.parametrize("to", ["file", "folder", "nothing"])
@pytest.mark.parametrize("name", WRITERS)
def test_a_link_is_replaced_and_what_it_leads_to_stays(name: str, to: str, places: Places) -> None:
    write, is_folder = WRITERS[name]
    place = places.link("output", folder=to == "folder")
    if to == "nothing":
        (places.outside / "output").unlink()
    before = contents(places.outside)
    write(place)
    assert contents(places.outside) == before
    assert not place.is_symlink()
    assert place.is_dir() == is_folder
    assert [entry.name for entry in places.study.iterdir()] == ["output"]  # nothing hidden is left


@pytest.mark.parametrize("name", WRITERS)
def test_what_is_of_another_kind_is_refused_and_stays(name: str, places: Places) -> None:
    """A folder where a file belongs, or the other way round, is somebody's."""
    write, is_folder = WRITERS[name]
    place = places.study / "output"
    if is_folder:
        place.write_text(PRECIOUS)
    else:
        place.mkdir()
        (place / "kept.txt").write_text(PRECIOUS)
    before = contents(places.study)
    with pytest.raises(OSError, match=f"output cannot be written: it is a {'file' if is_folder else 'folder'}"):
        write(place)
    after = contents(places.study)
    assert {entry: after[entry] for entry in before} == before


# --- Datasets


def shards(path: str, folder: Path) -> None:
    unfinished = folder / ".numbers.unfinished"
    unfinished.mkdir()
    pq.write_table(pa.table({"number": [1]}), unfinished / "part-00000.parquet")
    ParquetShardsDataset(filepath=path).save(Finished(unfinished))


def made_model() -> CrosstalkModel:
    network = CrossAttentionNetwork(5, 3, NetworkSettings(n_heads=1, n_head_size=2, n_nn_embed=4), seed=0)
    genes = tuple(f"gene{gene}" for gene in range(5))
    return CrosstalkModel(
        network.requires_grad_(False).eval(), genes, tuple("ABC"), TissueKeys(), 3, Preprocessing(log_normalised=False)
    )


def model(path: str, _folder: Path) -> None:
    ModelDataset(filepath=path).save(made_model())


SAVED: dict[str, tuple[str, bool, Callable[[str, Path], None]]] = {
    "AnnDataDataset": ("tissue.h5ad", False, lambda path, _: AnnDataDataset(filepath=path).save(adata())),
    "FigureDataset": ("figure.png", False, lambda path, _: FigureDataset(filepath=path).save(Figure(figsize=(1, 1)))),
    "FiguresDataset": (
        "figures",
        True,
        lambda path, _: FiguresDataset(filepath=path).save({"one": Figure(figsize=(1, 1))}),
    ),
    "HtmlDataset": ("report.html", False, lambda path, _: HtmlDataset(filepath=path).save("<p>")),
    "ModelDataset": ("model", True, model),
    "ParquetShardsDataset": ("numbers", True, shards),
}


@pytest.mark.parametrize("name", SAVED)
def test_datasets_replace_links(name: str, places: Places) -> None:
    file, is_folder, save = SAVED[name]
    place = places.link(file, folder=is_folder)
    before = contents(places.outside)
    save(str(place), places.study)
    assert contents(places.outside) == before
    assert not place.is_symlink()
    assert [entry.name for entry in places.study.iterdir()] == [file]


def test_an_svg_that_is_a_link_is_replaced(places: Places) -> None:
    vector = places.link("figure.svg", folder=False)
    before = contents(places.outside)
    FigureDataset(filepath=str(places.study / "figure.png"), svg=True).save(Figure(figsize=(1, 1)))
    assert contents(places.outside) == before
    assert "<svg" in vector.read_text()


def test_a_training_checkpoint_that_is_a_link_is_unlinked_alone(places: Places) -> None:
    place = places.link("training_checkpoint.safetensors", folder=False)
    places.link(".0.unfinished.safetensors", folder=False)
    before = contents(places.outside)
    TrainingCheckpointDataset(filepath=str(place)).confirm()
    assert contents(places.outside) == before
    assert not list(places.study.iterdir())


# --- What stages are working on


def run_stages(study: Path) -> None:
    """Prepare a tissue, extract its attention and weigh it."""
    workspace, tissue = Workspace(study), adata()
    prepared = store_model_input(tissue, workspace, TissueKeys(), log_normalised=False, n_neighbors=3)
    prepared.move_to(study / "model_input.h5ad")
    model_input = open_tissue(study / "model_input.h5ad")
    folders = extract_tables(model_input, made_model(), workspace, cells_per_shard=10, progress=False)
    for table, folder in zip(TABLES, folders, strict=True):
        ParquetShardsDataset(filepath=str(study / table)).save(folder)
    stored = [ParquetShardsDataset(filepath=str(study / name)).load() for name in
              ("attention_patterns", "nn_idxs", "sender_norms", "cells")]  # fmt: skip
    flavored = flavor_attention(*stored, workspace, ("vanilla", "info-weighted"), progress=False)
    ParquetShardsDataset(filepath=str(study / FLAVORED_ATTENTION)).save(flavored)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes | None]:
    """Return what the stages leave in a new folder."""
    folder = tmp_path_factory.mktemp("expected")
    run_stages(folder)
    return contents(folder)


WORK = {
    ".model_input.unfinished.h5ad": False,
    ".shuffled_expression.unfinished": True,
    ".lent_to_extraction.unfinished": True,
    ".attention_patterns.unfinished": True,
    ".cells.unfinished": True,
    ".flavored_attention.unfinished": True,
    ".flavored_attention.unfinished/flavor=vanilla": True,
    ".flavored_attention.unfinished/flavor=info-weighted": True,
    ".flavored_attention.unfinished/flavor=other": True,
    ".attention_patterns.unfinished/part-00001.parquet": False,
    "attention_patterns": True,
    "attention_patterns/part-00000.parquet": False,
    "flavored_attention": True,
    "flavored_attention/flavor=info-weighted": True,
    "flavored_attention/flavor=vanilla/part-00000.parquet": False,
    "model_input.h5ad": False,
}


@pytest.mark.parametrize(
    ("name", "again"), [(name, False) for name in WORK] + [(name, True) for name in WORK if not name.startswith(".")]
)
def test_stages_do_not_follow_links(name: str, again: bool, places: Places, expected: dict[str, bytes]) -> None:
    """The folders end as they do without the link, and what it leads to stays as it was."""
    if again:
        run_stages(places.study)
        if (places.study / name).is_dir():
            shutil.rmtree(places.study / name)
        (places.study / name).unlink(missing_ok=True)
    places.link(name, folder=WORK[name])
    before = contents(places.outside)
    run_stages(places.study)
    assert contents(places.outside) == before
    assert not [entry for entry in places.study.rglob("*") if entry.is_symlink()]
    assert contents(places.study).keys() == expected.keys()


@pytest.mark.parametrize("name", [name for name, is_folder in WORK.items() if is_folder and name.startswith(".")])
def test_a_file_in_the_place_of_work_is_replaced(name: str, places: Places, expected: dict[str, bytes | None]) -> None:
    (places.study / name).parent.mkdir(exist_ok=True)
    (places.study / name).write_text("of a run that was killed")
    run_stages(places.study)
    assert contents(places.study).keys() == expected.keys()


def test_a_table_that_was_moved_and_linked_is_used_but_not_written(places: Places) -> None:
    """A user may put finished tables elsewhere: as long as they are right they are read; never are they written."""
    run_stages(places.study)
    moved = places.outside / "attention_patterns"
    (places.study / "attention_patterns").rename(moved)
    (places.study / "attention_patterns").symlink_to(moved)
    before = contents(places.outside)
    run_stages(places.study)
    assert contents(places.outside) == before
    (moved / "part-00001.parquet").unlink()  # now it is not right: the table is made again, in its place
    run_stages(places.study)
    assert "part-00001.parquet" not in contents(moved)
    assert not (places.study / "attention_patterns").is_symlink()


def test_the_folder_of_the_data_may_be_a_link(tmp_path: Path) -> None:
    """To another disk: that is above the study, and wanted."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "data").symlink_to(tmp_path / "disk")
    run_stages(tmp_path / "data" / STUDY)
    run_stages(tmp_path / "data" / STUDY)
    assert (tmp_path / "disk" / STUDY / "cells" / "part-00000.parquet").is_file()
    assert (tmp_path / "data").is_symlink()


# --- Whole runs


def outputs(root: Path) -> list[Path]:
    """Return all files and folders right below the folders of studies."""
    return sorted(entry for study in (root / "data").glob("0*/*") for entry in study.iterdir())


@pytest.mark.slow
def test_a_run_follows_no_link_of_any_output(demo: Path, tmp_path: Path) -> None:
    """Every output of a finished run becomes a link to a copy; another run writes none of the copies."""
    shutil.copytree(demo, tmp_path / "root")
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(demo / "data", elsewhere)
    for entry in outputs(tmp_path / "root"):
        copied = elsewhere / entry.relative_to(tmp_path / "root" / "data")
        for file in (copied, *copied.rglob("*")):
            if file.is_file():  # of another run, so that it would be written again
                file.write_bytes(PRECIOUS.encode())
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()
        entry.symlink_to(copied)
    before = contents(elsewhere)
    run_project(tmp_path / "root", "demo")
    assert contents(elsewhere) == before
    made = outputs(tmp_path / "root")
    assert [entry.name for entry in made] == [entry.name for entry in outputs(demo)]
    assert not [entry for entry in made if entry.is_symlink()]


def test_tables_and_json_of_a_run_replace_links(places: Places) -> None:
    """Kedro's own datasets would open what is in their place and write it."""
    table = places.link("hubs.parquet", folder=False)
    text = places.link("hub_selection.json", folder=False)
    before = contents(places.outside)
    ParquetDataset(filepath=str(table)).save(pd.DataFrame({"a": [1]}))
    JSONDataset(filepath=str(text)).save({"b": 2})
    assert contents(places.outside) == before
    assert not table.is_symlink()
    assert not text.is_symlink()
    assert pd.read_parquet(table)["a"].tolist() == [1]
    assert json.loads(text.read_text()) == {"b": 2}


def test_every_output_of_the_pipelines_is_of_a_dataset_that_replaces_links() -> None:
    from kedro.framework.session import KedroSession
    from kedro.framework.startup import bootstrap_project

    bootstrap_project(PROJECT)
    with KedroSession.create(PROJECT, env="test") as session:
        catalog = session.load_context().catalog
    kinds = {
        module.split(".")[0]
        for name in catalog
        if getattr(catalog.get(name), "_filepath", None) is not None
        for module in [
            next(kind.__module__ for kind in type(catalog.get(name)).__mro__ if "mlflow" not in kind.__module__)
        ]
    }
    assert kinds == {"tissue_crosstalk"}
