"""Stored attention in several flavors, a shard at a time, without running the model."""

from __future__ import annotations

import functools
import threading
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from tissue_crosstalk.core import tables, terms
from tissue_crosstalk.core.errors import ResultError
from tissue_crosstalk.core.files import Finished, Workspace
from tissue_crosstalk.core.fingerprints import fingerprint_of
from tissue_crosstalk.core.flavors import check_flavors, weigh
from tissue_crosstalk.core.neighbors import renumber
from tissue_crosstalk.core.shard_jobs import RunShards, ShardStore, run_here, run_missing
from tissue_crosstalk.core.stored import shard_files

FLAVORED_ATTENTION: Final = "flavored_attention"
FLAVORS_FORMAT: Final = "flavors 1"

NORM_FILES_HELD = 16
"""Shards whose norms each process holds: those of the cells that send to a shard are of few others."""


def flavor_attention(
    attention_patterns: pads.Dataset,
    nn_idxs: pads.Dataset,
    sender_norms: pads.Dataset,
    cells: pads.Dataset,
    workspace: Workspace,
    flavors: Sequence[str],
    *,
    run: RunShards = run_here,
    progress: bool = True,
) -> Finished:
    """Re-weight stored attention patterns in several flavors, a shard at a time.

    Parameters
    ----------
    attention_patterns, nn_idxs, sender_norms, cells
        Folders that one extraction wrote.
    workspace
        Folder of the flavored attention. What an earlier run made from the same tables is taken as it is.
    flavors
        Names in :data:`flavors.FLAVORS`.
    run
        Does the shards, here or elsewhere.
    progress
        Whether to show a progress bar (only ever shown in a terminal).

    Returns
    -------
    Finished
        Folder with a partition ``flavor=<flavor>`` for each, which have the columns of the patterns.

    Raises
    ------
    ParameterError
        If a flavor is unknown.
    ResultError
        If the folders are not of one run, a shard cannot be written, or another run is at work in the folder.
    """
    check_flavors(flavors)
    files = {
        name: tuple(str(Path(file.path).resolve()) for file in shard_files(folder))
        for name, folder in (
            (terms.ATTENTION_PATTERNS, attention_patterns),
            (terms.NN_IDXS, nn_idxs),
            (terms.SENDER_NORMS, sender_norms),
            (terms.CELLS, cells),
        )
    }
    extraction = _one_run(files)
    store = ShardStore(
        Workspace(workspace.folder.resolve()),
        (FLAVORED_ATTENTION,),
        None if extraction is None else fingerprint_of(FLAVORS_FORMAT, {"extraction": extraction}),
        len(files[terms.ATTENTION_PATTERNS]),
        tuple(f"{terms.FLAVOR}={flavor}" for flavor in flavors),
        run=extraction,
        linked=(f"{terms.FLAVOR}={terms.VANILLA}",),
        made_from=tables.made_from(pq.read_schema(files[terms.ATTENTION_PATTERNS][0])),
    )
    with store.workspace.alone():
        missing = store.missing()
        wanted = tuple((number, tuple(part.partition("=")[2] for part in of)) for number, of in missing.items())
        job = FlavoringJob(store=store, **files, wanted=wanted, run_id=uuid.uuid4().hex)
        try:
            (finished,) = run_missing(store, job, list(missing), run, description="flavoring", progress=progress)
        finally:
            _opened.cache_clear()
    return finished


def _one_run(files: dict[str, tuple[str, ...]]) -> str | None:
    """Return the fingerprint that all files share."""
    counts = {name: len(of_table) for name, of_table in files.items()}
    if len(set(counts.values())) > 1 or 0 in counts.values():
        said = ", ".join(f"{name} has {count}" for name, count in counts.items())
        raise ResultError(
            f"the tables of one extraction have equally many shards, and some. {said[0].upper()}{said[1:]}: they are "
            "of different runs. Run the extraction again."
        )
    runs = {tables.run_of(pq.read_schema(file)) for of_table in files.values() for file in of_table}
    if len(runs) > 1:
        raise ResultError(
            f"the tables {', '.join(files)} do not belong together: they are of different runs. Run the extraction "
            "again."
        )
    return runs.pop()


@dataclass(frozen=True)
class FlavoringJob:
    """Weighs any shard of stored attention.

    Attributes
    ----------
    store
        Where its files go, and how they are known.
    attention_patterns, nn_idxs, sender_norms, cells
        Files of the tables, one of each per shard.
    wanted
        Which flavors of which shard are missing.
    run_id
        Of this run alone: the next one's files may have the same names.
    """

    store: ShardStore
    attention_patterns: tuple[str, ...]
    nn_idxs: tuple[str, ...]
    sender_norms: tuple[str, ...]
    cells: tuple[str, ...]
    wanted: tuple[tuple[int, tuple[str, ...]], ...]
    run_id: str

    def compute(self, number: int) -> Iterator[tuple[Path, pa.Table | Path]]:
        """Yield the files of a shard."""
        flavors = dict(self.wanted)[number]
        if terms.VANILLA in flavors:  # the patterns as they are
            yield self._path(terms.VANILLA, number), Path(self.attention_patterns[number])
        weighted = [flavor for flavor in flavors if flavor != terms.VANILLA]
        if not weighted:
            return
        attention_file, idx_file = self.attention_patterns[number], self.nn_idxs[number]
        attention = tables.read_table(attention_file, attention_file, tables.ATTENTION_COLUMNS)
        idx_table = tables.read_table(idx_file, idx_file, tables.NEIGHBOR_COLUMNS)
        one_head = attention.slice(0, len(attention) // tables.n_heads(attention))
        if not tables.same_order([one_head, idx_table]):
            raise ResultError(f"shard {number} of the tables holds different cells: they are of different runs.")
        patterns, nn_idx = tables.patterns_array(attention), tables.slots_array(idx_table)
        with _opening:
            stored_norms = _opened(self.run_id, self.sender_norms, self.cells)
        norms, rows = stored_norms.of_senders(nn_idx)
        others = attention.drop_columns(terms.neighbor_columns(nn_idx.shape[1]))
        for flavor in weighted:
            table = tables.with_slots(weigh(patterns, norms, rows, flavor), others)
            yield self._path(flavor, number), self.store.stamp(table, number)

    def _path(self, flavor: str, number: int) -> Path:
        return self.store.path(FLAVORED_ATTENTION, number, f"{terms.FLAVOR}={flavor}")


class _StoredNorms:
    """Norms of all senders, of which only those asked for are read: they lie in the files of nearby cells.

    Parameters
    ----------
    sender_norms, cells
        Files of the two tables.
    """

    def __init__(self, sender_norms: Sequence[str], cells: Sequence[str]) -> None:
        self._read = functools.lru_cache(NORM_FILES_HELD)(lambda file: _read_norms(sender_norms[file]))
        others = (terms.CELL_IDX, terms.LABEL, terms.SECTION, *terms.COORDINATES)
        read = [tables.read_table(file, file, (terms.POSITION,), but=others) for file in cells]
        positions = [table.column(terms.POSITION).to_numpy() for table in read]
        n_cells = sum(map(len, positions))
        self._starts = np.cumsum([0, *map(len, positions)])  # where each file begins, and where the last one ends
        self._row = np.full(n_cells + 1, terms.NO_NEIGHBOR, dtype=np.int32)  # by position; the last is a padded slot's
        for start, own in zip(self._starts, positions, strict=False):
            if len(own) and not 0 <= own.min() <= own.max() < n_cells:
                break
            self._row[own] = np.arange(start, start + len(own))
        if (self._row[:-1] < 0).any():
            raise ResultError(
                f"{terms.SENDER_NORMS} does not hold every cell of table {terms.CELLS!r}. Run the extraction again."
            )

    def of_senders(
        self, nn_idx: npt.NDArray[np.int32]
    ) -> tuple[dict[str, npt.NDArray[np.float32]], npt.NDArray[np.int32]]:
        """Return the norms of some senders, each (sender, head), and which of them is in each slot; −1 where padded."""
        if nn_idx.size and not terms.NO_NEIGHBOR <= nn_idx.min() <= nn_idx.max() < len(self._row) - 1:
            raise ResultError(
                f"table {terms.NN_IDXS!r} names cells that table {terms.CELLS!r} does not have. Run the extraction "
                "again."
            )
        senders, slots = renumber(self._row[nn_idx])
        if not len(senders):  # a shard of cells without neighbors
            return {name: np.zeros((1, values.shape[1]), np.float32) for name, values in self._read(0).items()}, slots
        norms: dict[str, npt.NDArray[np.float32]] = {}
        bounds = np.searchsorted(senders, self._starts)
        for file in np.flatnonzero(np.diff(bounds)):
            own = slice(bounds[file], bounds[file + 1])
            for name, values in self._read(int(file)).items():
                whole = norms.setdefault(name, np.empty((len(senders), values.shape[1]), dtype=np.float32))
                whole[own] = values[senders[own] - self._starts[file]]
        return norms, slots


def _read_norms(file: str) -> dict[str, npt.NDArray[np.float32]]:
    norms = tables.norms_arrays(tables.read_table(file, file, tables.NORM_COLUMNS))
    if any(np.isnan(values).any() for values in norms.values()):
        raise ResultError(f"{file} holds norms that are no numbers. Run the extraction again.")
    return norms


_opening = threading.Lock()


@functools.lru_cache(maxsize=1)
def _opened(
    run_id: str,  # noqa: ARG001 - tells the files of one run from those of the next, which have the same names
    sender_norms: tuple[str, ...],
    cells: tuple[str, ...],
) -> _StoredNorms:
    """Open the norms once per process and run."""
    return _StoredNorms(sender_norms, cells)
