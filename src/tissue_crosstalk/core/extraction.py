"""From a model input and a model to the tables of attention, a shard at a time."""

from __future__ import annotations

import functools
import logging
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import pyarrow as pa

from tissue_crosstalk.core import tables, terms
from tissue_crosstalk.core.devices import AUTO, check_device_name, choose_device, full_precision
from tissue_crosstalk.core.errors import ClusterError, ResultError
from tissue_crosstalk.core.files import Finished, Workspace, clear, digest
from tissue_crosstalk.core.fingerprints import fingerprint_of
from tissue_crosstalk.core.model_input import MODEL_INPUT_FILE, ModelInput
from tissue_crosstalk.core.provenance import package_versions
from tissue_crosstalk.core.shard_jobs import RunShards, ShardStore, run_here, run_missing
from tissue_crosstalk.core.spatial_order import shards
from tissue_crosstalk.core.tissue_file import open_tissue, source_of

if TYPE_CHECKING:
    from anndata import AnnData

    from tissue_crosstalk.core.attention import SenderMaps
    from tissue_crosstalk.core.model import CrosstalkModel
    from tissue_crosstalk.core.neighbors import Neighbors
    from tissue_crosstalk.core.network import CrossAttentionNetwork
    from tissue_crosstalk.core.tissue import PreparedTissue, TissueCells

logger = logging.getLogger(__name__)

TABLES = (terms.ATTENTION_PATTERNS, terms.NN_IDXS, terms.NN_DISTS, terms.SENDER_NORMS, terms.CELLS)
ATTENTION_FORMAT: Final = "attention 1"


def extract_tables(
    model_input: AnnData,
    model: CrosstalkModel,
    workspace: Workspace,
    *,
    cells_per_shard: int,
    device: str = "cpu",
    allow_tf32: bool = False,
    run: RunShards = run_here,
    progress: bool = True,
) -> tuple[Finished, ...]:
    """Compute the tables of attention of a tissue, and write them shard by shard.

    Parameters
    ----------
    model_input
        A prepared tissue with its neighbors (see :mod:`~tissue_crosstalk.core.model_input`). Opened by
        :func:`~tissue_crosstalk.core.tissue_file.open_tissue`, it is read by rows.
    model
        The model.
    workspace
        Folder of the tables. Shards that an earlier run made from the same model input, model and parameters are taken
        as they are.
    cells_per_shard
        Cells per shard at most; memory is bounded by a shard.
    device
        ``auto``, ``cpu``, ``cuda``, ``cuda:<number>`` or ``mps``.
    allow_tf32
        Whether a GPU may round the factors of its products to 11 bits, which is faster.
    run
        Does the shards, here or elsewhere.
    progress
        Whether to show a progress bar (only ever shown in a terminal).

    Returns
    -------
    tuple
        Folders of the tables, in the order of :data:`TABLES`.

    Raises
    ------
    ResultError
        If the model input was prepared for another model, a shard cannot be written, or another run is at work in the
        folder.
    ParameterError
        If `cells_per_shard` is below 1, or there is no such device.
    """
    check_device_name(device)
    opened = ModelInput(model_input)
    known = opened.cells
    _check_model(known, model)
    bounds = shards(known.n_cells, cells_per_shard)
    # Where others do the shards, this process need not have the device.
    kind = choose_device(device).type if run is run_here or device == AUTO else device.partition(":")[0]
    described = {"bounds": bounds, "device": kind, "allow_tf32": allow_tf32}
    workspace = Workspace(workspace.folder.resolve())  # others may work elsewhere
    with workspace.alone(), _lent(workspace, model_input, model) as (source, model_folder):
        store = ShardStore(
            workspace,
            TABLES,
            fingerprint_of(ATTENTION_FORMAT, described, source, model_folder),
            len(bounds),
            made_from={
                "tissue_sha256": opened.tissue_sha256,
                "model_sha256": digest(model_folder),
                "keys": asdict(known.keys),
                "parameters": {"cells_per_shard": cells_per_shard, "device": kind, "allow_tf32": allow_tf32},
                "versions": package_versions(),
            },
        )
        missing = list(store.missing())
        _tell(len(bounds), len(missing))
        job = ExtractionJob(store, source, model_folder, tuple(bounds), device, allow_tf32, uuid.uuid4().hex)
        # Of the process: where shards are done side by side here, none must set it back while others are at work.
        with full_precision(allow_tf32=allow_tf32):
            return run_missing(store, job, missing, run, description="extracting attention", progress=progress)


@contextmanager
def _lent(workspace: Workspace, model_input: AnnData, model: CrosstalkModel) -> Iterator[tuple[Path, Path]]:
    """Give the files that shards are computed from: the model input's own, where it has one, and the model's."""
    from tissue_crosstalk.core.checkpoint import save_model

    folder = workspace.unfinished("lent_to_extraction")
    clear(folder)
    folder.mkdir(parents=True)
    try:
        save_model(model, folder / "model")
        source = source_of(model_input)
        if source is None:
            source = folder / MODEL_INPUT_FILE
            model_input.write_h5ad(source)
        yield source.resolve(), folder / "model"
    finally:
        _opened.cache_clear()
        clear(folder)


def _tell(n_shards: int, n_missing: int) -> None:
    if n_missing < n_shards:
        logger.info(
            "%d of %d shards are there already, made from the same input, model and parameters: they are kept.",
            n_shards - n_missing,
            n_shards,
        )


def _check_model(cells: TissueCells, model: CrosstalkModel) -> None:
    if cells.genes != model.genes or cells.cell_types != model.cell_types:
        raise ResultError(
            f"the model input was prepared for another model: it has {len(cells.genes)} genes and "
            f"{len(cells.cell_types)} cell types, the model {len(model.genes)} and {len(model.cell_types)}, or their "
            "names differ. Run the pipeline 'attention', which prepares the tissue for the model."
        )


def model_input_of(model_input: AnnData, model: CrosstalkModel) -> tuple[PreparedTissue, Neighbors]:
    """Return the tissue, with its expression, and the neighbors of a model input.

    Raises
    ------
    ResultError
        If it was prepared for another model.
    """
    opened = ModelInput(model_input)
    _check_model(opened.cells, model)
    return opened.in_memory()


@dataclass(frozen=True)
class ExtractionJob:
    """Computes any shard from files.

    Attributes
    ----------
    store
        Where its files go, and how they are known.
    model_input, model
        Files of what it is computed from.
    bounds
        First row, and row after the last, of each shard.
    device, allow_tf32
        Where and how it is computed.
    run_id
        Of this run alone: the next one's files may have the same names.
    """

    store: ShardStore
    model_input: Path
    model: Path
    bounds: tuple[tuple[int, int], ...]
    device: str
    allow_tf32: bool
    run_id: str

    def compute(self, number: int) -> Iterator[tuple[Path, pa.Table | Path]]:
        """Yield the files of a shard."""
        from tissue_crosstalk.core.attention import attention_of_rows
        from tissue_crosstalk.core.torch_threads import in_own_threads

        with _turn:
            model_input, network, maps = _opened(self.run_id, self.model_input, self.model, self.device)
        start, stop = self.bounds[number]
        neighbors = model_input.neighbors(start, stop)
        receivers = np.arange(start, stop)
        # A GPU is for one shard at a time, which may need all its memory; another one is written meanwhile.
        by_turns = nullcontext() if network.device.type == "cpu" else _turn
        with in_own_threads(), by_turns, full_precision(allow_tf32=self.allow_tf32):
            labels = model_input.cells.labels
            shard = attention_of_rows(network, model_input.expression, neighbors, labels, receivers, maps)
        for name, table in tables.shard_tables(shard, model_input.cells, neighbors).items():
            yield self.store.path(name, number), self.store.stamp(table, number)


_turn = threading.Lock()


@functools.lru_cache(maxsize=1)
def _opened(
    run_id: str,  # noqa: ARG001 - tells the files of one run from those of the next, which have the same names
    model_input: Path,
    model: Path,
    device: str,
) -> tuple[ModelInput, CrossAttentionNetwork, SenderMaps]:
    """Open the files once per process and run, on whichever machine that is."""
    from tissue_crosstalk.core.attention import SenderMaps
    from tissue_crosstalk.core.checkpoint import load_model

    if not model_input.exists():
        raise ClusterError(
            f"{model_input}: this process does not see the model input. Workers need a file system in common with the "
            "run, with the same paths."
        )

    network = load_model(model).network.to(choose_device(device))
    return ModelInput(open_tissue(model_input)), network, SenderMaps.of(network)
