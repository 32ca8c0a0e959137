"""Ligands of senders and receptors of receivers beside the genes that change, from the user's own table of pairs.

No table comes with the package, and none is downloaded. That a ligand and its receptor are both expressed does not show
that they act: the annotation says which known pairs could carry an interaction, and not which do.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from tissue_crosstalk.core import terms
from tissue_crosstalk.core.errors import TissueError, did_you_mean, listing
from tissue_crosstalk.core.interactions import with_changed_genes
from tissue_crosstalk.core.statistics import categorical

if TYPE_CHECKING:
    from scipy import sparse

    from tissue_crosstalk.core.tissue import PreparedTissue

LIGAND: Final = "ligand"
RECEPTOR: Final = "receptor"
MOST_BYTES: Final = 200 * 2**20
"""A table of pairs is a few megabytes; what is much larger is something else."""


def read_pairs(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read a table of ligands and receptors.

    Parameters
    ----------
    path
        A csv file with the columns ``ligand`` and ``receptor``, a gene each; others are ignored. A complex is a row for
        each of its genes.

    Returns
    -------
    pandas.DataFrame
        ``ligand``, ``receptor``: text, each pair once, in the order of the file.

    Raises
    ------
    TissueError
        If there is no such file, it is no csv, or lacks a column or a name.
    """
    place = Path(path)
    advice = "Give a csv file whose first line is ligand,receptor, with a pair of genes in each line below."
    try:
        if place.stat().st_size > MOST_BYTES:
            raise TissueError(f"{place}: a table of ligands and receptors of over 200 MB is something else. {advice}")
        table = pd.read_csv(place, dtype=str, keep_default_na=False, skipinitialspace=True)
    except TissueError:
        raise
    except FileNotFoundError as error:
        raise TissueError(f"{place}: there is no such table of ligands and receptors. Check the path.") from error
    except (OSError, ValueError) as error:  # pandas' own errors of parsing are ValueErrors
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TissueError(f"{place} cannot be read as a csv file: {reason}. {advice}") from error
    table.columns = [str(column).strip().removeprefix("\ufeff") for column in table.columns]
    for column in (LIGAND, RECEPTOR):
        if column not in table:
            raise TissueError(
                f"{place}: there is no column {column!r}.{did_you_mean(column, table.columns)} "
                f"The columns are {listing(list(table.columns))}. {advice}"
            )
    pairs = table[[LIGAND, RECEPTOR]].apply(lambda column: column.str.strip())
    empty = np.flatnonzero((pairs == "").any(axis=1))
    if len(empty):
        raise TissueError(f"{place}: line {int(empty[0]) + 2} lacks a ligand or a receptor. Give both, or delete it.")
    return pd.DataFrame(pairs).drop_duplicates(ignore_index=True)


def annotate_pairs(pairs: pd.DataFrame, tissue: PreparedTissue, interactions: pd.DataFrame) -> pd.DataFrame:
    """Tell which known pairs of ligand and receptor the types of each interaction express.

    Parameters
    ----------
    pairs
        ``ligand`` and ``receptor``: genes.
    tissue
        The cells with their log-normalised expression.
    interactions
        Table of :func:`~tissue_crosstalk.core.interactions.weigh_interactions`.

    Returns
    -------
    pandas.DataFrame
        One row per interaction with a changed gene (``n_genes`` or ``n_genes_lowered`` above 0) and pair of which both
        genes were measured: ``receiver``, ``sender``, ``ligand``, ``receptor``; of the ligand in the senders
        ``ligand_mean`` (log-normalised), ``ligand_share`` (of cells that express it) and ``ligand_specificity`` (its
        mean over the sum of its means in all types), of the receptor in the receivers the same; and ``score``, the
        geometric mean of the means, by which the rows of an interaction are in order. Pairs that either type does not
        express at all are left out.

    Raises
    ------
    TissueError
        If no pair's genes were both measured.
    """
    index = {gene: number for number, gene in enumerate(tissue.genes)}
    known = pairs[pairs[LIGAND].isin(index) & pairs[RECEPTOR].isin(index)]
    if len(pairs) and known.empty:
        names = [*pairs[LIGAND][:4], *pairs[RECEPTOR][:4]]
        folded = {gene.casefold() for gene in tissue.genes}
        only_case = any(name.casefold() in folded for name in pairs.to_numpy().ravel())
        hint = " They differ in case: genes of mice are written Cxcl12, of humans CXCL12." if only_case else ""
        raise TissueError(
            f"of {len(pairs)} pairs of ligand and receptor, none has both genes among the {len(tissue.genes)} that "
            f"were measured ({listing(tissue.genes, most=4)}). Got pairs such as {listing(names)}.{hint} Give a table "
            "of the species and kind of names of the tissue."
        )
    means, shares = _by_type(tissue.expression, tissue.labels, len(tissue.cell_types))
    total = means.sum(axis=0)
    specificity = np.divide(means, total, out=np.zeros_like(means), where=total > 0)
    changed = with_changed_genes(interactions)
    types = pd.Index(tissue.cell_types, dtype=object)
    receivers, senders = (
        types.get_indexer(pd.Index(changed[name], dtype=object)) for name in (terms.RECEIVER, terms.SENDER)
    )
    ligands, receptors = (known[column].map(index).to_numpy(dtype=np.int64) for column in (LIGAND, RECEPTOR))
    score = np.sqrt(means[senders][:, ligands] * means[receivers][:, receptors])  # (interaction, pair)
    of, pair = np.nonzero(score > 0)
    # By interaction, the best first; equal ones in the order of the user's table.
    order = np.lexsort((pair, -score[of, pair], of))
    of, pair = of[order], pair[order]
    receiver, sender, ligand, receptor = receivers[of], senders[of], ligands[pair], receptors[pair]
    return pd.DataFrame(
        {
            terms.RECEIVER: categorical(receiver, tissue.cell_types),
            terms.SENDER: categorical(sender, tissue.cell_types),
            LIGAND: categorical(ligand, tissue.genes),
            RECEPTOR: categorical(receptor, tissue.genes),
            "ligand_mean": means[sender, ligand],
            "ligand_share": shares[sender, ligand],
            "ligand_specificity": specificity[sender, ligand],
            "receptor_mean": means[receiver, receptor],
            "receptor_share": shares[receiver, receptor],
            "receptor_specificity": specificity[receiver, receptor],
            "score": score[of, pair],
        }
    )


def _by_type(
    expression: sparse.csr_matrix, labels: npt.NDArray[np.int16], n_types: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return mean expression and share of cells that express, (label, gene)."""
    from scipy import sparse

    n_cells = len(labels)
    member = sparse.csr_matrix(
        (np.ones(n_cells), (labels.astype(np.int64), np.arange(n_cells))), shape=(n_types, n_cells)
    )
    sizes = np.maximum(np.bincount(labels, minlength=n_types), 1)[:, None]
    means = np.asarray((member @ expression.astype(np.float64)).todense()) / sizes
    shares = np.asarray((member @ (expression > 0).astype(np.float64)).todense()) / sizes
    return means, shares
