"""What tables say of their origin, and whether they go together.

A table (DataFrame) says it in ``attrs["tissue_crosstalk"]``, which parquet files keep; a JSON file under
``provenance``; stored attention in the metadata of its schema (:mod:`~tissue_crosstalk.core.shard_jobs`).

================  =====================================================================================================
``run``           hash of all that the attention was made from
``study``         the study that it was made in
``tissue_sha256`` hash of the tissue's file
``model_sha256``  hash of the model's folder
``attention``     parameters by which the attention was extracted, and the keys by which the tissue was read
``parameters``    those of the table's own stage
``commit``        the project's, ``-dirty`` where files were changed
``versions``      of packages
================  =====================================================================================================
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tissue_crosstalk.core import terms
from tissue_crosstalk.core.errors import ResultError
from tissue_crosstalk.core.files import digest
from tissue_crosstalk.core.provenance import package_versions

if TYPE_CHECKING:
    from tissue_crosstalk.core.model import CrosstalkModel

PROVENANCE: Final = "provenance"
RECORDS: Final = ("hub_selection", "hub_niches")
"""JSON files that say what they were made from."""

_UNKNOWN: Final = {"run": None, "tissue_sha256": None, "model_sha256": None}


def description(
    run: Mapping[str, Any], parameters: Mapping[str, Any], attention: Mapping[str, Any], hashes: Mapping[str, str]
) -> dict[str, Any]:
    """Return what a table is to say of its origin, as JSON can hold it.

    Parameters
    ----------
    run
        Study, commit and versions.
    parameters
        Those of the table's stage.
    attention
        What the attention that it is made from says; nothing where there is none.
    hashes
        Of the files of this run, by kind (tissue, model); the attention knows better.
    """
    made = {name: attention.get(name) for name in _UNKNOWN}
    for kind in ("tissue", "model"):
        made[f"{kind}_sha256"] = made[f"{kind}_sha256"] or hashes.get(kind)
    return {
        **made,
        "study": run["study"],
        "attention": {name: attention[name] for name in ("parameters", "keys") if name in attention},
        "parameters": {name: _as_json(value) for name, value in parameters.items()},
        "commit": run["commit"],
        "versions": dict(run["versions"]),
    }


def can_say(data: object, name: str) -> bool:
    """Return whether what is saved under a dataset's name can say what it was made from."""
    return name in RECORDS if type(data) is dict else type(data).__name__ == "DataFrame"


def say(data: Any, described: Mapping[str, Any]) -> None:
    """Have a table say what it was made from."""
    if type(data) is dict:
        data[PROVENANCE] = dict(described)
    else:
        data.attrs[terms.PROVENANCE_KEY] = dict(described)


def said_of(value: object) -> dict[str, Any]:
    """Return what a table says of its origin, one in memory or one on disk; None of what it does not say."""
    schema = getattr(value, "schema", None)
    if schema is not None and hasattr(schema, "metadata"):
        from tissue_crosstalk.core.tables import made_from, run_of

        return {**_UNKNOWN, **made_from(schema), "run": run_of(schema)}
    if type(value) is dict:
        said = value.get(PROVENANCE)
    else:
        attrs = getattr(value, "attrs", None)
        said = attrs.get(terms.PROVENANCE_KEY) if isinstance(attrs, dict) else None
    return {**_UNKNOWN, **said} if isinstance(said, dict) else dict(_UNKNOWN)


def check_together(made: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise unless tables go together.

    Parameters
    ----------
    made
        By name, what each says of its origin.

    Raises
    ------
    ResultError
        If they are of different attention, or of hubs that were found with different parameters.
    """
    for what, of_tables in (
        ("hash of the attention", {name: str(said["run"])[:12] for name, said in made.items()}),
        ("parameters of the hubs", {name: of for name, said in made.items() if (of := _parameters_of_hubs(said))}),
    ):
        if len(set(of_tables.values())) > 1:
            raise ResultError(
                f"{', '.join(sorted(of_tables))} are of different runs and do not go together: their {what} differ "
                f"({'; '.join(dict.fromkeys(of_tables.values()))}). Run the earlier stages again, or the whole "
                "pipeline: what is right is kept."
            )


def check_keys(keys: Mapping[str, Any], reading: Mapping[str, Any]) -> None:
    """Raise where a user names other keys of the tissue than those by which the attention was extracted.

    Parameters
    ----------
    keys
        What the attention says of itself.
    reading
        Block ``tissue_reading``; what is None there is not asked for.

    Raises
    ------
    ResultError
        If a key differs: the stages after the extraction would go on with the old one.
    """
    for name, was in keys.items():
        wanted, known = reading.get(name), terms.UNSET if was is None else was
        if wanted is not None and str(wanted) != str(known):
            raise ResultError(
                f"{name}={wanted}, but the attention of this study was extracted with {name}={known}. Leave {name} "
                "out to go on with it, or extract it again with --pipelines=attention, or another study."
            )


def check_model(attention: Mapping[str, Any], model: CrosstalkModel) -> None:
    """Raise where stored attention says that it was extracted by another model.

    Raises
    ------
    ResultError
        If the models differ. Nothing is known where another version of this project wrote the attention.
    """
    ours, sha256 = package_versions()["tissue-crosstalk"], attention.get("model_sha256")
    if sha256 is None or attention.get("versions", {}).get("tissue-crosstalk") != ours:
        return
    now = _digest_of(model)
    if now != sha256:
        raise ResultError(
            f"the attention of this study was extracted by another model (SHA-256 {sha256[:12]}, now {now[:12]}): the "
            "model was trained again since, or is not the one that was named then. Extract it again with "
            "--pipelines=attention, or name that model with --params=model=<folder>."
        )


def _digest_of(model: CrosstalkModel) -> str:
    """Return the hash by which attention knows a model, whichever files it was loaded from."""
    from tissue_crosstalk.core.checkpoint import save_model

    with tempfile.TemporaryDirectory() as folder:
        save_model(model, Path(folder) / "model")
        return digest(Path(folder) / "model")


def _parameters_of_hubs(said: Mapping[str, Any]) -> str:
    """Return the parameters that a table says its hubs were found with, as text; empty where it has none."""
    given = said.get("parameters")
    if not isinstance(given, dict):
        return ""
    return ", ".join(f"{name}={value}" for name, value in sorted(given.items()) if "hubs" in name.split("."))


def _as_json(value: object) -> object:
    """Return a parameter as JSON can hold it."""
    if isinstance(value, list | tuple):
        return [_as_json(item) for item in value]
    return value if value is None or isinstance(value, str | int | float) else str(value)
