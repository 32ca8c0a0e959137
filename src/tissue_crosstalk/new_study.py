"""Give a study its configuration: conf/<name>/globals.yml, from a look at its tissue. Its expression is not read."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tissue_crosstalk.core import terms
from tissue_crosstalk.core.errors import CrosstalkError, ParameterError, listing, printable
from tissue_crosstalk.core.files import whole_folder
from tissue_crosstalk.params import user_study

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

TAKEN: Final = ("base", "local", "test", "paper", "dask", "demo")
"""Environments of the project's own."""

# Parts of names, lower case without what separates words, best first.
LABELS: Final = ("celltype", "annotation", "subclass", "class", "type", "cluster", "leiden", "louvain", "label", "kind")
NO_LABELS: Final = ("genotype", "phenotype")
COORDINATES: Final = ("spatial", "coord", "xy", "centroid", "position", "location")
SECTIONS: Final = ("section", "slide", "slice", "region", "fov", "sample", "mouse", "animal", "donor", "batch")
RADII: Final = ("radius", "radii")
EMBEDDINGS: Final = ("umap", "tsne", "pca", "diffmap", "draw", "scvi", "harmony", "phate", "mde", "lsi")
MOST_VALUES: Final = 100
"""Different values that a column of cell types or sections has at most."""


@dataclass(frozen=True)
class _Suggestion:
    """Which of a tissue's names a key is: `chosen` (None: it cannot be told), and all that it could be, best first."""

    chosen: str | None
    possible: Sequence[str]


def write_study(
    name: str, tissue: Path, project: Path, *, table: str | None = None, coordinate_system: str | None = None
) -> tuple[Path, str]:
    """Write the configuration of a study, whole or not at all.

    Parameters
    ----------
    name
        Of the study, and of its environment.
    tissue
        Its file, or the folder of its zarr store; relative to the working directory, or absolute.
    project
        Folder of the project.
    table, coordinate_system
        Of a SpatialData store, see :func:`~tissue_crosstalk.core.tissue_file.open_tissue`.

    Returns
    -------
    path
        The file.
    told
        What was found in the tissue, and how to go on.

    Raises
    ------
    ParameterError
        If the name is taken or cannot be one, or the path of the tissue cannot stand in a configuration.
    TissueError
        If the tissue cannot be read.
    """
    from tissue_crosstalk.core.tissue_file import open_tissue

    study = user_study(name)
    if study.casefold() in TAKEN:
        raise ParameterError(
            f"NAME must not be one of {', '.join(TAKEN)}: these are environments of the project. Got {study!r} "
            "instead. Choose another name."
        )
    folder = project / "conf" / study
    if folder.exists() or folder.is_symlink():
        raise ParameterError(
            f"{folder} is there already, and is left as it is. Choose another NAME, or edit {folder / 'globals.yml'}."
        )
    place = tissue.resolve()
    shown = place.relative_to(project.resolve()) if place.is_relative_to(project.resolve()) else place
    if "${" in str(shown):
        raise ParameterError(
            f"TISSUE must be a path without '${{', which a configuration replaces. Got {str(shown)!r}."
        )
    adata = open_tissue(place, table, coordinate_system)
    given = {"tissue": shown.as_posix(), "table": table, "coordinate_system": coordinate_system}
    found = _suggestions(adata)
    with whole_folder(folder) as unfinished:
        (unfinished / "globals.yml").write_text(_globals(study, given, adata, found), encoding="utf-8")
    return folder / "globals.yml", _told(study, folder / "globals.yml", adata, found)


def _suggestions(adata: AnnData) -> Mapping[str, _Suggestion]:
    """Return what each key seems to be, by name of the key."""
    columns = [str(name) for name in adata.obs.columns[~adata.obs.columns.duplicated(keep=False)]]
    few = [name for name in columns if _has_few_values(adata.obs[name])]
    places = [str(key) for key in adata.obsm if _has_places(adata.obsm[key]) and not _parts_in(str(key), EMBEDDINGS)]
    numbers = [name for name in columns if adata.obs[name].dtype.kind == "f"]
    sections = _ranked(few, SECTIONS)
    types = [name for name in few if not _parts_in(name, NO_LABELS)]
    return {
        "labels_key": _suggestion(_ranked(types, LABELS), few, terms.DEFAULT_LABELS_KEY),
        "coord_key": _suggestion(_ranked(places, COORDINATES), places, terms.SPATIAL),
        # Sections and radii change who is whose neighbor: they are for the user to say.
        "section_key": _Suggestion(None, sections),
        "radius_key": _Suggestion(None, _ranked(numbers, RADII)),
        "layer": _Suggestion(None, [str(name) for name in adata.layers]),
    }


def _suggestion(likely: Sequence[str], possible: Sequence[str], default: str) -> _Suggestion:
    if default in possible:
        return _Suggestion(default, possible)
    chosen = likely[0] if likely else possible[0] if len(possible) == 1 else None
    return _Suggestion(chosen, [*likely, *(name for name in possible if name not in likely)])


def _ranked(names: Sequence[str], parts: Sequence[str]) -> list[str]:
    """Return the names that have one of the parts in them, by the part."""
    with_part = [name for name in names if _parts_in(name, parts)]
    return sorted(with_part, key=lambda name: parts.index(_parts_in(name, parts)[0]))


def _parts_in(name: str, parts: Sequence[str]) -> list[str]:
    plain = "".join(character for character in name.casefold() if character.isalnum())
    return [part for part in parts if part in plain]


def _has_few_values(column: pd.Series[Any]) -> bool:
    """Return whether a column has a few different values that are no measurements, none of them missing."""
    if column.dtype.kind in "fcmM":
        return False
    try:
        return not column.isna().any() and 1 < column.nunique() <= min(MOST_VALUES, len(column) - 1)
    except TypeError:  # such as lists
        return False


def _has_places(values: Any) -> bool:
    """Return whether an entry of ``obsm`` has two or three axes of numbers."""
    shape = np.shape(values)
    kinds = {kind.kind for kind in getattr(values, "dtypes", [getattr(values, "dtype", np.dtype("O"))])}
    return len(shape) == 2 and shape[1] in (2, 3) and kinds <= set("iuf")


DEFAULTS: Final = {"labels_key": terms.DEFAULT_LABELS_KEY, "coord_key": terms.SPATIAL}
MEANINGS: Final = {
    "labels_key": "column of obs with the cell types",
    "coord_key": "key of obsm with the coordinates",
    "section_key": "column of obs with the section of each cell: no neighbor is of another one; without: one section",
    "radius_key": "column of obs with the cell radii, in units of the coordinates; without: none",
    "layer": "layer with the expression; without: X",
}


def _globals(study: str, given: Mapping[str, str | None], adata: AnnData, found: Mapping[str, _Suggestion]) -> str:
    lines = [
        f"# Study {study}: {shlex.join(['kedro', 'run', f'--env={study}'])}",
        "# What does not stand here, or is commented out, is as in conf/base. Parameters of the stages go into files",
        "# such as parameters_training.yml beside this one.",
        "",
        f"study: {_yaml(study)}",
        *(f"{name}: {_yaml(value)}" for name, value in given.items() if value is not None),
        "",
        f"# The tissue has {adata.n_obs} cells and {adata.n_vars} genes.",
    ]
    for key, meaning in MEANINGS.items():
        suggestion = found[key]
        among = f" Could be {listing(suggestion.possible)}." if suggestion.possible else ""
        lines.append(f"# {key}: {meaning}.{printable(among)}")
        default = DEFAULTS.get(key)
        is_set = suggestion.chosen not in (None, default)
        example = suggestion.chosen or (suggestion.possible[0] if suggestion.possible else default or "none")
        lines.append(f"{'' if is_set else '# '}{key}: {_yaml(example)}")
    lines += [
        "",
        "# log_normalised: true     # the expression is log-normalised already; false: it holds counts",
        f"# n_neighbors: {terms.DEFAULT_N_NEIGHBORS}         # neighbors per cell",
        "# seed: 42                # of everything random",
        "# save_svg: true          # an SVG beside every figure's PNG",
        "# reports: data/08_reporting   # folder of figures, tables and reports",
    ]
    return "\n".join(lines) + "\n"


def _yaml(text: str) -> str:
    """Return a text as one line of YAML that is read as this text, whatever it holds."""
    import yaml

    # Quoted, with escapes: names may look like numbers, or hold line feeds or what OmegaConf replaces.
    return yaml.safe_dump(text.replace("${", "\\${"), default_style='"', width=10**6, allow_unicode=False).strip()


def _told(study: str, path: Path, adata: AnnData, found: Mapping[str, _Suggestion]) -> str:
    lines = [f"{path} is written. The tissue has {adata.n_obs} cells and {adata.n_vars} genes."]
    for key in ("labels_key", "coord_key"):
        suggestion = found[key]
        others = [name for name in suggestion.possible if name != suggestion.chosen]
        also = f" Others could be it, too: {listing(others)}." if others else ""
        if suggestion.chosen is None:
            missing = f"It could be {listing(others)}" if others else "The tissue seems to have none"
            lines.append(f"{key} ({MEANINGS[key]}) cannot be told. {missing}: set it in that file before you run it.")
        elif suggestion.chosen != DEFAULTS[key]:
            lines.append(f"{key} ({MEANINGS[key]}) seems to be {suggestion.chosen!r}.{also}")
    if found["section_key"].possible:
        lines.append(
            f"If the tissue has several sections, set section_key there: {listing(found['section_key'].possible)}."
        )
    lines += ["Look it through, and run", f"  {shlex.join(['kedro', 'run', f'--env={study}'])}"]
    return printable("\n".join(lines))


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the configuration of the study named on the command line."""
    from tissue_crosstalk.resolvers import PROJECT_PATH

    parser = argparse.ArgumentParser(prog="python -m tissue_crosstalk.new_study", description=__doc__)
    parser.add_argument("name", help="of the study and its environment")
    parser.add_argument("tissue", type=Path, help="h5ad file, or folder of a zarr store")
    parser.add_argument("--table", help="of a SpatialData store: its table")
    parser.add_argument("--coordinate-system", help="of a SpatialData store: system of its regions")
    given = parser.parse_args(arguments)
    try:
        _, told = write_study(
            given.name, given.tissue, PROJECT_PATH, table=given.table, coordinate_system=given.coordinate_system
        )
    except CrosstalkError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        sys.exit(1)
    sys.stdout.write(told + "\n")


if __name__ == "__main__":
    main()
