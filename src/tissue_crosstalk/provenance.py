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
HUB_SELECTION: Final = "hub_selection"
RECORDS: Final = (HUB_SELECTION, "hub_niches")
"""JSON files that say what they were made from."""

MODEL_INPUT: Final = "model_input"
FLAVORED_ATTENTION: Final = "flavored_attention"

_MADE_BY: Final = {
    "extraction": "attention of this study was extracted",
    "flavoring": "flavored attention of this study was made",
    "hubs": "hubs of this study were found",
}
"""By block of parameters, what is made with it."""

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


def reading_of(value: object, name: str) -> dict[str, Any]:
    """Return by which parameters of ``tissue_reading`` stored attention, or a model input, was made, if it says so.

    Parameters
    ----------
    value
        The dataset's value.
    name
        Its name, without a namespace: tissues may hold what a model input holds.
    """
    if name == MODEL_INPUT:
        from tissue_crosstalk.core.model_input import read_by

        try:
            return read_by(value)
        except (LookupError, AttributeError, TypeError):  # another AnnData, of which the stage that reads it tells
            return {}
    keys = said_of(value).get("keys")
    if not isinstance(keys, dict):
        return {}
    from tissue_crosstalk.core.tables import n_neighbors

    found = n_neighbors(value.schema.names)  # type: ignore[attr-defined]  # only a folder of tables says its keys
    return keys | ({"n_neighbors": found} if found else {})


def check_reading(made: Mapping[str, Any], reading: Mapping[str, Any], name: str, again: str = "attention") -> None:
    """Raise where a user asks for another reading of the tissue than that by which results at hand were made.

    Parameters
    ----------
    made
        What the result says of itself.
    reading
        Block ``tissue_reading``; what is None or False there is not asked for.
    name
        The result's name, without a namespace.
    again
        The pipeline that makes it.

    Raises
    ------
    ResultError
        If a parameter differs: the stages that go on with the result would take no notice of it.
    """
    for field, was in made.items():
        wanted, known = reading.get(field), terms.UNSET if was is None else was
        if wanted is not None and wanted is not False and str(wanted) != str(known):
            what = "model input of this study was prepared" if name == MODEL_INPUT else _MADE_BY["extraction"]
            raise ResultError(_differs(field, wanted, known, what, again))


def made_with(value: object, name: str) -> dict[str, Any]:
    """Return with which other parameters stored attention, or hubs, were made, by full name.

    Parameters
    ----------
    value
        The dataset's value.
    name
        Its name, without a namespace.
    """
    if name == HUB_SELECTION:
        of_hubs = value.get("parameters") if isinstance(value, dict) else None
        return {f"hubs.{field}": known for field, known in of_hubs.items()} if isinstance(of_hubs, dict) else {}
    said = said_of(value)
    of_extraction = said.get("parameters") if "keys" in said else None
    known = dict(of_extraction) if isinstance(of_extraction, dict) else {}
    known.pop("device", None)  # one computes the same as another
    known = {f"extraction.{field}": value for field, value in known.items()}
    if name == FLAVORED_ATTENTION:
        from tissue_crosstalk.core.stored import stored_flavors

        known["flavoring.flavors"] = stored_flavors(value)
    return known


def check_asked(made: Mapping[str, Any], asked: Mapping[str, Any], again: str | None = None) -> None:
    """Raise where a user asks for other parameters than those with which results at hand were made.

    Parameters
    ----------
    made
        Those of the results, by full name, such as ``hubs.n_clusters``.
    asked
        The run-time parameters, likewise.
    again
        The pipeline that makes the results; None: the stage whose parameter it is.

    Raises
    ------
    ResultError
        If one differs.
    """
    for name in sorted(made.keys() & asked.keys()):
        block, was, wanted = name.partition(".")[0], made[name], asked[name]
        if _unordered(was) != _unordered(wanted):
            raise ResultError(_differs(name, wanted, was, _MADE_BY[block], again or block))


def _differs(name: str, wanted: object, was: object, what: str, again: str) -> str:
    set_to = f"{name}={_as_typed(wanted)}"
    return (
        f"{set_to}, but the {what} with {name}={_as_typed(was)}. Leave {name} out to go on with what is there, or "
        f"make it again with kedro run --pipelines={again} --params={set_to}, or take another study."
    )


def _unordered(value: object) -> object:
    """Return a value to compare: flavors are the same in any order."""
    return sorted(map(str, value)) if isinstance(value, list | tuple) else _as_json(value)


def _as_typed(value: object) -> str:
    """Return a value as the command line has it."""
    if isinstance(value, list | tuple):
        return "+".join(map(str, value))
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def check_model(attention: Mapping[str, Any], model: CrosstalkModel) -> None:
    """Raise where stored attention says that it was extracted by another model.

    Raises
    ------
    ResultError
        If the models differ. Nothing is known where another version of this project wrote the attention.
    """
    ours, sha256, theirs = (
        package_versions()["tissue-crosstalk"],
        attention.get("model_sha256"),
        attention.get("versions"),
    )
    if sha256 is None or not isinstance(theirs, dict) or theirs.get("tissue-crosstalk") != ours:
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
