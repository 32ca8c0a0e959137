"""Names what a study's run wrote, and how to look at it: ``python -m tissue_crosstalk.outputs <study>``."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

from tissue_crosstalk.core.errors import ParameterError, printable
from tissue_crosstalk.params import study_name

PROJECT_PATH = Path(__file__).resolve().parents[2]
DATA = "data"
KINDS = {
    "08_reporting": "the report, figures, tables and the annotated tissue",
    "07_model_output": "attention, neighbors and hubs (parquet)",
    "06_models": "the model and its training history",
    "05_model_input": "the prepared tissue",
    "01_raw": "the simulated tissue and what was planted in it",
}
REPORT = "report.html"


def describe_outputs(study: str, project: Path = PROJECT_PATH) -> str:
    """Return what lies under a study's name, one thing per line, and how to look at it.

    Raises
    ------
    ParameterError
        If no study can have that name.
    """
    study = study_name(study)
    lines = [f"Study {study!r} wrote:"]
    for folder, kind in KINDS.items():
        path = project / DATA / folder / study
        if path.is_dir():
            lines.append(f"  {path.relative_to(project)}/  {kind}")
            lines += [f"    {_described(entry)}" for entry in sorted(path.iterdir()) if not entry.name.startswith(".")]
    if len(lines) == 1:
        return f"There are no outputs of study {study!r} in {project / DATA}."
    reports = project / DATA / "08_reporting" / study
    lines += _recovery(reports / "recovery.parquet")
    lines += [
        "Look at it:",
        *([f"  report    open {DATA}/08_reporting/{study}/{REPORT}"] if (reports / REPORT).exists() else []),
        "  runs      make ui   (MLflow: parameters, losses, metrics, figures of every run)",
        "  pipeline  make viz  (Kedro-Viz)",
        f"  python    AttentionModule.load({f'{DATA}/07_model_output/{study}'!r})",
    ]
    return "\n".join(map(printable, lines))


def _described(entry: Path) -> str:
    if not entry.is_dir():
        return entry.name
    files = [file for file in entry.rglob("*") if file.is_file()]
    return f"{entry.name}/  ({len(files)} file{'' if len(files) == 1 else 's'})"


def _recovery(file: Path) -> list[str]:
    if not file.is_file():
        return []
    import pandas as pd

    from tissue_crosstalk.core.recovery import EDGES, GENES, NAME, RECEIVERS, RECEIVERS_OF_TYPE, WHAT

    try:
        table = pd.read_parquet(file, page_checksum_verification=True)
    except (OSError, ValueError) as error:
        return [f"  {file} cannot be read: {error}. It is damaged; run the pipeline that writes it again."]
    rows = {what: table[table[WHAT] == what] for what in (EDGES, RECEIVERS, RECEIVERS_OF_TYPE, GENES)}
    lines = ["How much the model found of what was planted (average precision; base rate: that of a random ranking):"]
    edges = rows[EDGES].iloc[0]
    lift = "" if math.isnan(edges["lift"]) else f"{edges['lift']:.0f} times the "
    lines.append(
        f"  {EDGES:20}{edges[NAME]} attention {_number(edges['average_precision'])}, "
        f"{lift}base rate {_number(edges['base_rate'], 3)}"
    )
    aucs = [
        f"{_number(row['roc_auc'])} among {row[NAME]}"
        for what in (RECEIVERS, RECEIVERS_OF_TYPE)
        for row in rows[what].to_dict("records")
    ]
    lines.append(f"  {RECEIVERS:20}ROC AUC {', '.join(aucs)}")
    genes = [f"{row[NAME]} {_number(row['average_precision'])}" for row in rows[GENES].to_dict("records")]
    rates = list(dict.fromkeys(_number(rate) for rate in rows[GENES]["base_rate"]))
    if genes:
        lines.append(f"  {GENES:20}{', '.join(genes)}; base rate {' or '.join(rates)}")
    return lines


def _number(value: float, digits: int = 2) -> str:
    return "undefined" if math.isnan(value) else f"{value:.{digits}f}"


def main() -> None:
    """Print the outputs of the study named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study")
    try:
        text = describe_outputs(parser.parse_args().study)
    except ParameterError as error:
        parser.error(str(error))
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
