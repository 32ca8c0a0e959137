"""Stored attention in several flavors, a shard at a time, without running the model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow.dataset as pads

from tissue_crosstalk.core import tables, terms
from tissue_crosstalk.core.errors import ResultError
from tissue_crosstalk.core.flavors import check_flavors, weigh
from tissue_crosstalk.core.stored import Cells, read_norms, read_shards, shard_files


def flavor_attention(
    attention_patterns: pads.Dataset,
    nn_idxs: pads.Dataset,
    sender_norms: pads.Dataset,
    cells: pads.Dataset,
    flavors: Sequence[str],
) -> Iterator[tables.Shard]:
    """Re-weight stored attention patterns in several flavors, a shard at a time.

    Parameters
    ----------
    attention_patterns, nn_idxs, sender_norms, cells
        Folders that one extraction wrote.
    flavors
        Names in :data:`flavors.FLAVORS`.

    Yields
    ------
    Shard
        By shard, then by flavor; in partitions ``flavor=<flavor>``.

    Raises
    ------
    ParameterError
        If a flavor is unknown.
    ResultError
        If the folders are not of one run.
    """
    check_flavors(flavors)
    known = Cells.read(cells)
    norms = read_norms(sender_norms, known)
    if not norms or any(np.isnan(norm).any() for norm in norms.values()):
        raise ResultError(
            f"{terms.SENDER_NORMS} does not hold every cell of table {terms.CELLS!r}. Run the extraction again."
        )
    n_files = len(shard_files(attention_patterns))
    for number, shard in enumerate(read_shards(attention_patterns, nn_idxs, known)):
        for place, flavor in enumerate(flavors):
            table = tables.patterns_table(
                weigh(shard.attention, norms, shard.nn_idx, flavor),
                known.labels[shard.receivers],
                known.cell_types,
                known.names[shard.receivers],
            )
            yield tables.Shard(
                index=number * len(flavors) + place,
                count=n_files * len(flavors),
                table=table,
                file=f"{terms.FLAVOR}={flavor}/{tables.shard_file(number)}",
            )
